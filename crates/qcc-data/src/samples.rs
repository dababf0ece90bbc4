//! Samples that fit a model: what the user gave, run by run, with the inputs that follow from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qcc_diag::{Diagnostic, codes};
use qcc_pass::{SampleError, SampleSource};
use qcc_tensor::Tensor;

use crate::cast::cast;
use crate::input::Sizes;
use crate::language::{CacheShape, Role, make, role, token_input};
use crate::rows::{Given, cut};
use crate::{DataError, ModelInput, ReadPb, sets};

/// Where the given inputs of a run come from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// Rows of arrays.
    Arrays(Vec<Given>),
    /// Files of test data: one list for each run.
    Sets(Vec<Vec<PathBuf>>, ReadPb),
}

/// What [`Samples`] are made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// As the user named it.
    pub source: String,
    /// Inputs of the model.
    pub inputs: Vec<ModelInput>,
    /// Values that were given.
    pub feed: Feed,
    /// Runs that are used.
    pub runs: usize,
    /// Tokens that are kept of each row.
    pub seq_len: Option<usize>,
    /// Number of tokens that the model knows.
    pub vocab: Option<usize>,
    /// Sizes of the cache.
    pub cache: Option<CacheShape>,
    /// Warnings so far.
    pub warnings: Vec<Diagnostic>,
    /// Whether they are like what the model meets in use.
    pub is_text: bool,
}

/// Samples of a model. They are read when asked for; only text and compressed arrays are held in
/// memory.
#[derive(Debug)]
pub struct Samples {
    parts: Parts,
    tokens: Option<usize>,
    length: Option<usize>,
    blake3: String,
}

impl Samples {
    /// Reads all runs once: checks that they fit, hashes them, and finds those that repeat.
    pub(crate) fn new(parts: Parts) -> Result<Self, DataError> {
        let tokens = token_input(&parts.inputs);
        let mut samples = Self { parts, tokens, length: None, blake3: String::new() };
        let mut all = blake3::Hasher::new();
        let mut seen = BTreeMap::new();
        let mut repeats = Vec::new();
        for index in 0..samples.parts.runs {
            let given = samples.given(index)?;
            samples.complete(index, &given)?;
            let hash = samples.hash(&given);
            all.update(hash.as_bytes());
            if let Some(first) = seen.insert(*hash.as_bytes(), index) {
                repeats.push(format!("sample {index} repeats sample {first}"));
            }
            let length = tokens.and_then(|it| given.iter().find(|(input, _)| *input == it));
            let length = length.and_then(|(_, tensor)| tensor.dims().last().copied());
            samples.length = samples.length.max(length);
        }
        samples.blake3 = all.finalize().to_hex().to_string();
        if !repeats.is_empty() {
            let text = format!("{} of {} samples repeat", repeats.len(), samples.parts.runs);
            let warning = Diagnostic::warning(codes::QCC0403, text).at(&samples.parts.source);
            let named = repeats.into_iter().take(5);
            samples.parts.warnings.push(named.fold(warning, Diagnostic::with_note));
        }
        Ok(samples)
    }

    /// What the user should know about them: fewer than asked for, repeated, arrays left over.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.parts.warnings
    }

    /// BLAKE3 of the values given for the runs that are used, in hexadecimal digits. It does not
    /// depend on the kind of file.
    pub fn blake3(&self) -> &str {
        &self.blake3
    }

    /// As the user named them.
    pub fn source(&self) -> &str {
        &self.parts.source
    }

    /// Tokens of the longest sample; `None` when the model takes none.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// Index of the model input that takes token ids.
    pub fn tokens(&self) -> Option<usize> {
        self.tokens
    }

    /// The token ids of one run, `[batch, length]` or `[length]`.
    ///
    /// # Errors
    /// When the model takes none, and as [`SampleSource::batch`].
    pub fn ids(&self, index: usize) -> Result<Tensor, SampleError> {
        let mut given = self.checked(index)?;
        let at = given.iter().position(|(input, _)| Some(*input) == self.tokens);
        let at = at.ok_or_else(|| SampleError::Mismatch("the model takes no token ids".into()))?;
        Ok(given.swap_remove(at).1)
    }

    pub(crate) fn forget_warnings(&mut self) {
        self.parts.warnings.clear();
    }

    fn checked(&self, index: usize) -> Result<Vec<(usize, Tensor)>, SampleError> {
        if index >= self.parts.runs {
            return Err(SampleError::OutOfRange { index, len: self.parts.runs });
        }
        Ok(self.given(index)?)
    }

    /// Values that the user gave, by index of the input, of the types that the model takes.
    fn given(&self, index: usize) -> Result<Vec<(usize, Tensor)>, DataError> {
        let Parts { source, inputs, .. } = &self.parts;
        let raw = match &self.parts.feed {
            Feed::Arrays(arrays) => arrays
                .iter()
                .map(|it| Ok((it.input, it.run(index).map_err(|text| self.wrong(index, &text))?)))
                .collect::<Result<Vec<_>, DataError>>()?,
            Feed::Sets(files, read) => {
                let files = files.get(index).map(Vec::as_slice).unwrap_or_default();
                sets::read(source, files, inputs, *read)?
            }
        };
        raw.into_iter()
            .map(|(at, tensor)| {
                let Some(input) = inputs.get(at) else { return Ok((at, tensor)) };
                let fixed = self
                    .fixed(at, tensor)
                    .map_err(|text| self.wrong(index, &format!("input {input}: {text}")))?;
                Ok((at, fixed))
            })
            .collect()
    }

    /// One value of the type that the input takes, cut to the length asked for, and in range.
    fn fixed(&self, at: usize, tensor: Tensor) -> Result<Tensor, String> {
        let Some(input) = self.parts.inputs.get(at) else { return Ok(tensor) };
        let tensor = match input.dtype {
            Some(dtype) => cast(&tensor, dtype)?,
            None => tensor,
        };
        let is_tokens = self.tokens == Some(at);
        let tensor = match self.parts.seq_len {
            Some(length) if is_tokens || role(input).is_some_and(crate::Role::is_per_token) => {
                cut(&tensor, length)?
            }
            _ => tensor,
        };
        if is_tokens && tensor.is_empty() {
            return Err("there are no tokens".into());
        }
        if is_tokens {
            in_range(&tensor, self.parts.vocab)?;
        }
        Ok(tensor)
    }

    /// All inputs in the order of the model, made where they are not given.
    fn complete(&self, index: usize, given: &[(usize, Tensor)]) -> Result<Vec<Tensor>, DataError> {
        let Parts { inputs, cache, .. } = &self.parts;
        let find = |at: usize| given.iter().find(|it| it.0 == at).map(|it| &it.1);
        let shape = self.tokens.and_then(find).map(|ids| match ids.dims() {
            [batch, length, ..] => [*batch, *length],
            [length] => [1, *length],
            [] => [1, 1],
        });
        let mut sizes = Sizes::default();
        let mut all = Vec::with_capacity(inputs.len());
        for (at, input) in inputs.iter().enumerate() {
            let value = match (find(at), role(input), shape) {
                (Some(it), ..) => it.clone(),
                (None, Some(role), Some(shape)) => {
                    make(role, input, shape, *cache).map_err(|it| self.wrong(index, &it))?
                }
                _ => return Err(self.wrong(index, &format!("nothing is given for input {input}"))),
            };
            sizes.fit(input, &value).map_err(|it| self.wrong(index, &it))?;
            all.push(value);
        }
        Ok(all)
    }

    fn wrong(&self, index: usize, what: &str) -> DataError {
        DataError::mismatch(&self.parts.source, format!("sample {index}: {what}"))
            .note(format!("the model takes {}", crate::input::list(&self.parts.inputs)))
    }

    fn hash(&self, given: &[(usize, Tensor)]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (at, tensor) in given {
            let name = self.parts.inputs.get(*at).map_or("", |it| it.name.as_str());
            hasher.update(format!("{name}\0{}{:?}\0", tensor.dtype(), tensor.dims()).as_bytes());
            hasher.update(tensor.bytes());
        }
        hasher.finalize()
    }
}

impl SampleSource for Samples {
    fn len(&self) -> usize {
        self.parts.runs
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        let all = self.complete(index, &self.checked(index)?)?;
        Ok(self.parts.inputs.iter().map(|it| it.name.clone()).zip(all).collect())
    }

    fn counted(&self, index: usize) -> Result<Option<Tensor>, SampleError> {
        let is_mask =
            |at: usize| self.parts.inputs.get(at).is_some_and(|it| role(it) == Some(Role::Mask));
        let given = self.checked(index)?;
        let Some((_, mask)) = given.into_iter().find(|it| is_mask(it.0)) else { return Ok(None) };
        let dims = mask.dims().to_vec();
        let values: Vec<f32> = match mask.as_bools() {
            Ok(it) => it.iter().map(|it| f32::from(*it)).collect(),
            Err(_) => {
                mask.to_f32().map_err(|it| SampleError::Mismatch(it.to_string()))?.into_owned()
            }
        };
        let values: Vec<f32> =
            values.into_iter().map(|it| f32::from(u8::from(it != 0.0))).collect();
        if values.iter().all(|it| *it == 1.0) {
            return Ok(None);
        }
        Ok(Tensor::from_vec(dims, values).ok())
    }

    fn describe(&self) -> String {
        let (source, runs) = (&self.parts.source, self.parts.runs);
        match self.length {
            Some(length) => format!("{source}: {runs} samples of {length} tokens"),
            None => format!("{source}: {runs} samples"),
        }
    }

    fn digest(&self) -> Option<String> {
        Some(self.blake3.clone())
    }

    fn is_text(&self) -> bool {
        self.parts.is_text
    }
}

fn in_range(ids: &Tensor, vocab: Option<usize>) -> Result<(), String> {
    let limit = vocab.map_or(i64::MAX, |it| i64::try_from(it).unwrap_or(i64::MAX));
    let ids = ids.to_i64().map_err(|it| it.to_string())?;
    match ids.iter().position(|it| !(0..limit).contains(it)) {
        Some(at) if vocab.is_some() => {
            Err(format!("token {at} is {}, outside of the vocabulary of {limit}", ids[at]))
        }
        Some(at) => Err(format!("token {at} is {}, which is no token id", ids[at])),
        None => Ok(()),
    }
}

/// Name of a file as messages have it.
pub(crate) fn source_name(path: &Path) -> String {
    // The name alone: it goes into the metadata of the model, which must not depend on the machine.
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
