//! Where passes get samples from.

use qcc_diag::{Diagnostic, codes};
use qcc_tensor::Tensor;

/// Calibration samples: named inputs of the model, one set for each run of it.
pub trait SampleSource: Send + Sync {
    /// How many runs there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inputs of one run, by name of the model input. The same index gives the same tensors.
    ///
    /// # Errors
    /// When there is no such run, or it cannot be read.
    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError>;

    /// Which tokens of one run count, 1, and which are padding, 0: `f32[batch, length]`. `None` when
    /// all count, or the model takes no tokens.
    ///
    /// # Errors
    /// As [`SampleSource::batch`].
    fn counted(&self, _index: usize) -> Result<Option<Tensor>, SampleError> {
        Ok(None)
    }

    /// Where they come from, in a few words.
    fn describe(&self) -> String;

    /// BLAKE3 of the values, in hexadecimal digits; `None` where nobody hashed them.
    fn digest(&self) -> Option<String> {
        None
    }

    /// Whether they are like what the model meets in use; random tokens are not.
    fn is_text(&self) -> bool {
        true
    }
}

/// Why samples cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// They cannot be read.
    #[error("'{source_name}' cannot be read: {what}")]
    Unreadable {
        /// The file, as the user named it.
        source_name: String,
        /// What is wrong with it.
        what: String,
    },
    /// They are not what the model takes.
    #[error("the samples do not fit the model: {0}")]
    Mismatch(String),
    /// There is no such run.
    #[error("sample {index} of {len} was asked for")]
    OutOfRange {
        /// The run that was asked for, from 0.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A message for the user, made where most is known.
    #[error("{}", .0.message)]
    Diagnostic(Box<Diagnostic>),
}

impl SampleError {
    /// The message for the user.
    pub fn into_diagnostic(self) -> Box<Diagnostic> {
        let text = self.to_string();
        Box::new(match self {
            Self::Diagnostic(it) => return it,
            Self::Unreadable { source_name, .. } => {
                Diagnostic::error(codes::QCC0401, text).at(source_name)
            }
            Self::Mismatch(_) => Diagnostic::error(codes::QCC0402, text),
            Self::OutOfRange { .. } => Diagnostic::error(codes::QCC0901, text),
        })
    }
}
