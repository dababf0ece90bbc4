//! Samples without data: text that the model writes itself, else random tokens.
//!
//! They are made when a pass first asks for them, and kept for the run.

mod writer;

use std::fmt;
use std::sync::{Arc, OnceLock};

use qcc_data::{Samples, made_tokens};
use qcc_pass::{SampleError, SampleSource, Session, WorkingCopy};
use qcc_tensor::Tensor;

use crate::Model;
use writer::{Size, Writer};

/// How much text is written where nobody says otherwise.
const SIZE: Size = Size { rows: 32, length: 256, rounds: 4 };

/// How much text a model writes for itself; what is absent is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnTextSize {
    /// Number of samples.
    pub samples: Option<usize>,
    /// Tokens of each.
    pub length: Option<usize>,
}

/// What the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Its tokens.
    Tokens,
    /// How many there are, to find out what a run on them takes: random tokens stand in for them.
    Size,
}

/// Text that the model writes, or random tokens where it cannot.
pub(crate) struct OwnText {
    model: Model,
    session: Session,
    size: Size,
    need: Need,
    random: Arc<Samples>,
    made: OnceLock<Made>,
}

struct Made {
    samples: Arc<Samples>,
    /// Why they are random tokens.
    why_random: Option<String>,
}

impl OwnText {
    /// Nothing is written yet. `random` stands in where nothing can be.
    pub(crate) fn new(
        model: &Model,
        session: &Session,
        size: OwnTextSize,
        need: Need,
        random: Arc<Samples>,
    ) -> Self {
        let length = size.length.unwrap_or(SIZE.length);
        let length = length.min(model.context().unwrap_or(usize::MAX));
        let size = Size { rows: size.samples.unwrap_or(SIZE.rows).max(1), length, ..SIZE };
        let made = OnceLock::new();
        Self { model: model.clone(), session: session.clone(), size, need, random, made }
    }

    /// The samples, once a pass has asked for them.
    pub(crate) fn used(&self) -> Option<&dyn SampleSource> {
        self.made.get().map(|_| self as _)
    }

    /// Why random tokens were used, where they were.
    pub(crate) fn why_random(&self) -> Option<&str> {
        self.made.get()?.why_random.as_deref()
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| match self.write() {
            Ok(samples) => Made { samples: Arc::new(samples), why_random: None },
            Err(why) => Made { samples: self.random.clone(), why_random: Some(why) },
        })
    }

    /// Bytes of the logits of a row.
    fn logits_bytes(&self, vocab: usize) -> u64 {
        (self.size.length as u64).saturating_mul(vocab as u64).saturating_mul(4)
    }

    fn write(&self) -> Result<Samples, String> {
        let copy = WorkingCopy::of(self.model.graph(), &[], &self.session);
        let copy = copy.map_err(|_| "it was interrupted".to_owned())?;
        let inputs = self.model.inputs();
        let vocab = self.model.vocabulary().ok_or("its vocabulary is not known")?;
        let cache = self.model.cache_shape();
        let writer =
            Writer { graph: &copy.graph, inputs: &inputs, vocab, cache, session: &self.session };
        let text = match self.session.max_mem {
            Some(cap) if self.logits_bytes(vocab) > cap / 4 => {
                Err("its logits take more than a quarter of the memory".to_owned())
            }
            _ => match self.need {
                Need::Tokens => writer.write(self.size),
                Need::Size => writer.stand_in(self.size),
            },
        };
        self.session.progress.finish();
        let text = text?;
        let how = match text.has_cache {
            true => "token by token".to_owned(),
            false => format!("{} rounds", self.size.rounds),
        };
        let source = format!("text that the model writes, {how}, seed {}", self.session.seed);
        made_tokens(&source, &inputs, text.ids, cache).map_err(|it| it.to_string())
    }
}

impl SampleSource for OwnText {
    fn len(&self) -> usize {
        self.made().samples.len()
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        self.made().samples.batch(index)
    }

    fn describe(&self) -> String {
        let made = self.made();
        match &made.why_random {
            Some(why) => {
                format!("{}; the model cannot write text: {why}", made.samples.describe())
            }
            None => made.samples.describe(),
        }
    }

    fn digest(&self) -> Option<String> {
        self.made().samples.digest()
    }

    fn is_text(&self) -> bool {
        self.made().why_random.is_none()
    }
}

impl fmt::Debug for OwnText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnText").field("size", &self.size).finish_non_exhaustive()
    }
}
