//! Why a pass stops the run.

use qcc_diag::{Code, Diagnostic, codes};
use qcc_ir::{EvalError, PatchError, TypeError};
use qcc_tensor::TensorError;

use crate::SampleError;

/// What stops the run. What a pass only declines is a note in the record.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PassError {
    /// A message for the user, made where most is known.
    #[error("{}", .0.message)]
    Diagnostic(Box<Diagnostic>),
    /// A patch that cannot be applied.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// Operands that cannot be right.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// An operator that gives no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A tensor that is not what its type says.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Samples that cannot be had.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// Somebody asked the run to stop.
    #[error("interrupted")]
    Cancelled,
    /// A state that must not exist.
    #[error("{0}")]
    Internal(String),
}

impl From<Diagnostic> for PassError {
    fn from(it: Diagnostic) -> Self {
        Self::Diagnostic(Box::new(it))
    }
}

impl From<Box<Diagnostic>> for PassError {
    fn from(it: Box<Diagnostic>) -> Self {
        Self::Diagnostic(it)
    }
}

impl PassError {
    /// A state that must not exist, in words.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal(what.into())
    }

    /// The message for the user; `pass` is the pass that stopped.
    pub fn into_diagnostic(self, pass: &str) -> Box<Diagnostic> {
        let of_pass = |code: Code, text: String| {
            Box::new(Diagnostic::error(code, text).at(format!("pass '{pass}'")))
        };
        match self {
            Self::Diagnostic(it) => it,
            Self::Patch(it) => of_pass(codes::QCC0801, it.to_string()),
            Self::Eval(EvalError::Unsupported { .. }) => of_pass(codes::QCC0201, self.to_string()),
            Self::Type(_) | Self::Eval(_) | Self::Tensor(_) => {
                of_pass(codes::QCC0202, self.to_string())
            }
            Self::Samples(it) => it.into_diagnostic(),
            Self::Cancelled => of_pass(codes::QCC0509, "interrupted".to_owned()),
            Self::Internal(it) => of_pass(codes::QCC0901, it),
        }
    }
}
