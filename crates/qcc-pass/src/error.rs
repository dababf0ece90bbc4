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

#[cfg(test)]
mod tests {
    use qcc_diag::codes::{QCC0201, QCC0202, QCC0401, QCC0402, QCC0509, QCC0801, QCC0901};

    use super::*;

    #[test]
    fn every_error_has_its_code() {
        let unsupported = EvalError::Unsupported { op: "Loop".into(), what: String::new() };
        let unreadable =
            SampleError::Unreadable { source_name: "a.npz".into(), what: "it ends early".into() };
        let own = Diagnostic::error(QCC0402, "own words").at("input 'z'");
        let cases: [(PassError, Code, &str, &str); 8] = [
            (
                PatchError::Cycle { pass: "p" }.into(),
                QCC0801,
                "p: the result has a cycle",
                "pass 'p'",
            ),
            (unsupported.into(), QCC0201, "Loop cannot be executed", "pass 'p'"),
            (TypeError::other("Add", "no").into(), QCC0202, "Add: no", "pass 'p'"),
            (unreadable.into(), QCC0401, "'a.npz' cannot be read: it ends early", "a.npz"),
            (
                SampleError::Diagnostic(Box::new(own.clone())).into(),
                QCC0402,
                "own words",
                "input 'z'",
            ),
            (own.into(), QCC0402, "own words", "input 'z'"),
            (PassError::Cancelled, QCC0509, "interrupted", "pass 'p'"),
            (PassError::internal("odd"), QCC0901, "odd", "pass 'p'"),
        ];
        for (error, code, text, place) in cases {
            let it = error.into_diagnostic("p");
            assert_eq!(
                (it.code, it.message.as_str(), it.place.as_deref()),
                (code, text, Some(place))
            );
        }
    }
}
