//! Samples from a file or folder that the user names.

use std::path::{Path, PathBuf};

use qcc_diag::{Diagnostic, codes};
use qcc_tensor::{MappedFile, Tensor};

use crate::input::list;
use crate::language::{CacheShape, role, token_input};
use crate::rows::{Given, windows};
use crate::samples::{Feed, Parts, source_name};
use crate::{DataError, ModelInput, ReadPb, Samples, npy, npz, sets, text};

/// Tokens of a sample where neither the user nor the file nor the model says how many.
pub const DEFAULT_SEQ_LEN: usize = 512;

/// How samples are read.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Samples that are used at most; `None` for all of them. Fewer give a warning.
    pub samples: Option<usize>,
    /// Tokens of a sample: longer rows are cut, text is divided into windows of that length.
    pub seq_len: Option<usize>,
    /// `tokenizer.json`, for text.
    pub tokenizer: Option<PathBuf>,
    /// Number of tokens that the model knows: larger ids are refused.
    pub vocab: Option<usize>,
    /// Heads and head size of the key and value cache, for models that leave them symbolic:
    /// see [`CacheShape`].
    pub cache: Option<CacheShape>,
    /// How an ONNX tensor is read, for folders of test data.
    pub read_pb: Option<ReadPb>,
}

/// Opens `.npy` or `.npz` arrays, a folder of ONNX test data sets, `.txt` or `.jsonl`.
///
/// `inputs` are those that each run of the model needs. The first axis of an array counts samples;
/// masks, positions and empty pasts are made when they are recognised and not given.
///
/// # Errors
/// QCC0401 when nothing can be read, QCC0402 when it does not fit the model: other names, shapes
/// or element types, and token ids outside of the vocabulary.
pub fn open(
    path: &Path,
    inputs: &[ModelInput],
    options: &OpenOptions,
) -> Result<Samples, DataError> {
    open_any(path, inputs, options).map_err(DataError::or_help)
}

fn open_any(
    path: &Path,
    inputs: &[ModelInput],
    options: &OpenOptions,
) -> Result<Samples, DataError> {
    let source = source_name(path);
    let it = Opener { source, inputs, options, tokens: token_input(inputs) };
    if it.seq_len() == Some(0) {
        return Err(it.mismatch("samples of 0 tokens were asked for"));
    }
    if path.is_dir() {
        return it.folder(path);
    }
    let kind = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
    match kind.to_ascii_lowercase().as_str() {
        "npy" => {
            let array = npy::read(it.map(path)?.bytes());
            let array = array.map_err(|text| DataError::unreadable(&it.source, text))?;
            it.arrays(vec![(String::new(), array)])
        }
        "npz" => {
            let arrays = npz::read(it.map(path)?.bytes());
            it.arrays(arrays.map_err(|text| DataError::unreadable(&it.source, text))?)
        }
        "txt" => it.text(path, text::Form::Plain),
        "jsonl" => it.text(path, text::Form::Lines),
        _ => {
            let what = "samples are .npy, .npz, .txt, .jsonl, or a folder of ONNX test data";
            Err(DataError::unreadable(&it.source, what))
        }
    }
}

/// Whether an array has no name of its own: that of an `.npy` file, or one that numpy calls so.
fn is_unnamed(name: &str) -> bool {
    matches!(name, "" | "arr_0")
}

struct Opener<'a> {
    source: String,
    inputs: &'a [ModelInput],
    options: &'a OpenOptions,
    tokens: Option<usize>,
}

impl Opener<'_> {
    fn map(&self, path: &Path) -> Result<MappedFile, DataError> {
        MappedFile::open(path, &self.source).map_err(|it| DataError::unreadable(&self.source, it))
    }

    /// Length that the model fixes.
    fn fixed_length(&self) -> Option<usize> {
        let input = self.inputs.get(self.tokens?)?;
        input.known(input.rank()?.checked_sub(1)?)
    }

    /// Tokens that are kept of a row.
    fn seq_len(&self) -> Option<usize> {
        match (self.options.seq_len, self.fixed_length()) {
            (Some(asked), Some(fixed)) => Some(asked.min(fixed)),
            (asked, fixed) => asked.or(fixed),
        }
    }

    fn mismatch(&self, what: &str) -> DataError {
        let note = format!("the model takes {}", list(self.inputs));
        DataError::mismatch(&self.source, what).note(note)
    }

    /// Samples from the rows of arrays, which are named after inputs; a single one needs no name.
    fn arrays(&self, arrays: Vec<(String, Tensor)>) -> Result<Samples, DataError> {
        let alone = arrays.len() == 1;
        let mut given: Vec<Given> = Vec::new();
        let mut extra = Vec::new();
        for (name, array) in arrays {
            let at = match self.inputs.iter().position(|it| it.name == name) {
                None if alone && is_unnamed(&name) => self.sole(&array)?,
                Some(at) => at,
                None => {
                    extra.push(format!("'{name}'"));
                    continue;
                }
            };
            given.push(self.rows(at, array)?);
        }
        given.sort_by_key(|it| it.input);
        self.need_all(&given, &extra)?;
        let mut warnings = Vec::new();
        if !extra.is_empty() {
            let text = format!("no input of the model is named {}", extra.join(", "));
            let note = format!("the model takes {}", list(self.inputs));
            let warning = Diagnostic::warning(codes::QCC0402, text).at(&self.source);
            warnings.push(warning.with_note(note).with_help("leave these arrays out"));
        }
        let runs = self.common_runs(&given)?;
        let per_run = given.iter().map(Given::per_run).max().unwrap_or(1);
        self.finish(Feed::Arrays(given), runs, per_run, warnings)
    }

    /// The input that a single array without a name is for: the token ids if it holds integers,
    /// else the only input that does not follow from them.
    fn sole(&self, array: &Tensor) -> Result<usize, DataError> {
        if let Some(tokens) = self.tokens.filter(|_| array.dtype().is_int()) {
            return Ok(tokens);
        }
        let mut open = (0..self.inputs.len()).filter(|&at| role(&self.inputs[at]).is_none());
        match (open.next(), open.next()) {
            (Some(at), None) if self.tokens != Some(at) => Ok(at),
            (Some(at), None) => {
                let (input, dtype) = (&self.inputs[at], array.dtype());
                Err(self.mismatch(&format!("input {input} takes token ids, not {dtype}")))
            }
            _ => {
                let what = "the model has several inputs, and the array has no name of one";
                let help = "give an .npz file with arrays named after the inputs";
                Err(self.mismatch(what).help(help))
            }
        }
    }

    fn rows(&self, at: usize, array: Tensor) -> Result<Given, DataError> {
        let Some(input) = self.inputs.get(at) else { return Err(self.mismatch("no such input")) };
        let is_tokens = self.tokens == Some(at);
        // Several rows in a run that is open to any number of them are more likely a mistake.
        if is_tokens
            && input.rank() == Some(2)
            && let [_, batch, _] = *array.dims()
            && batch != input.known(0).unwrap_or(1)
        {
            let what =
                format!("input {input} is given an array {}{:?}", array.dtype(), array.dims());
            return Err(self.mismatch(&what).help("give token ids as [samples, length]"));
        }
        let flat = is_tokens && array.rank() == 1 && array.dtype().is_int();
        let array = if flat {
            windows(&array, self.seq_len().unwrap_or(DEFAULT_SEQ_LEN))
        } else {
            Ok(array)
        };
        array.and_then(|it| Given::new(at, input, it)).map_err(|it| self.mismatch(&it))
    }

    /// Inputs that are not given must follow from the token ids.
    fn need_all(&self, given: &[Given], extra: &[String]) -> Result<(), DataError> {
        let is_given = |at: usize| given.iter().any(|it| it.input == at);
        let follow = self.tokens.is_some_and(is_given);
        let missing: Vec<ModelInput> = (0..self.inputs.len())
            .filter(|&at| !(is_given(at) || follow && role(&self.inputs[at]).is_some()))
            .map(|at| self.inputs[at].clone())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut error = self.mismatch(&format!("nothing is given for {}", list(&missing)));
        if !extra.is_empty() {
            error = error.note(format!("the file has {}", extra.join(", ")));
        }
        Err(error.help("give an .npz file with arrays named after the inputs"))
    }

    fn common_runs(&self, given: &[Given]) -> Result<usize, DataError> {
        let mut counts = given.iter().filter_map(|it| Some((it.input, it.runs()?)));
        let Some((first, runs)) = counts.next() else { return Ok(1) };
        match counts.find(|it| it.1 != runs) {
            Some((other, count)) => Err(self.mismatch(&format!(
                "there are samples for {runs} runs of input {} and {count} of input {}",
                self.inputs[first], self.inputs[other]
            ))),
            None => Ok(runs),
        }
    }

    fn folder(&self, path: &Path) -> Result<Samples, DataError> {
        let Some(read) = self.options.read_pb else {
            return Err(DataError::unreadable(&self.source, "folders are not supported here"));
        };
        let files = sets::find(path)?;
        let runs = files.len();
        self.finish(Feed::Sets(files, read), runs, 1, Vec::new())
    }

    fn text(&self, path: &Path, form: text::Form) -> Result<Samples, DataError> {
        let Some(at) = self.tokens else {
            return Err(self.mismatch("text is for models that take token ids"));
        };
        let length = self.seq_len().unwrap_or(DEFAULT_SEQ_LEN);
        let rows = self.inputs.get(at).and_then(|it| it.known(0)).unwrap_or(1);
        let enough = self.options.samples.map(|it| it.max(rows).saturating_mul(length));
        let tokenizer = self.options.tokenizer.as_deref();
        let ids = text::read(path, form, tokenizer, enough.unwrap_or(usize::MAX))?;
        let given = self.rows(at, Tensor::vector(ids))?;
        self.need_all(std::slice::from_ref(&given), &[])?;
        let (runs, per_run) = (self.common_runs(std::slice::from_ref(&given))?, given.per_run());
        self.finish(Feed::Arrays(vec![given]), runs, per_run, Vec::new())
    }

    /// A warning where samples have fewer tokens than were asked for.
    fn shorter(&self, feed: &Feed) -> Option<Diagnostic> {
        let (asked, Feed::Arrays(given)) = (self.options.seq_len?, feed) else { return None };
        let row = given.iter().find(|it| Some(it.input) == self.tokens)?.length();
        let (length, of) = match self.fixed_length() {
            Some(fixed) if fixed <= row => (fixed, "the model takes"),
            _ => (row, "samples have"),
        };
        (asked > length).then(|| {
            let text = format!("{asked} tokens of a sample were asked for, and {of} {length}");
            Diagnostic::warning(codes::QCC0403, text).at(&self.source)
        })
    }

    /// `per_run`: samples that one run of the model takes.
    fn finish(
        &self,
        feed: Feed,
        available: usize,
        per_run: usize,
        mut warnings: Vec<Diagnostic>,
    ) -> Result<Samples, DataError> {
        if available == 0 {
            let what = match per_run {
                0 | 1 => "there are no samples".to_owned(),
                _ => format!("a run takes {per_run} samples, and there are fewer"),
            };
            return Err(self.mismatch(&what));
        }
        let asked = self.options.samples.unwrap_or(usize::MAX);
        let runs = available.min((asked / per_run.max(1)).max(1));
        let there = available.saturating_mul(per_run);
        if self.options.samples.is_some_and(|it| it > there) {
            let text = format!("{asked} samples were asked for, and there are {there}");
            warnings.push(Diagnostic::warning(codes::QCC0403, text).at(&self.source));
        }
        warnings.extend(self.shorter(&feed));
        Samples::new(Parts {
            source: self.source.clone(),
            inputs: self.inputs.to_vec(),
            feed,
            runs,
            seq_len: self.seq_len(),
            vocab: self.options.vocab,
            cache: self.options.cache,
            warnings,
            is_text: true,
        })
    }
}
