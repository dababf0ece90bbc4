//! What an operator is to the graph: a trait. The operators themselves live in `qcc-ops`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use qcc_tensor::{Dim, Pool, Tensor, TensorError};

use crate::{Adjoints, Attrs, Emitter, Io, NotDifferentiable, Type, Value};

/// A shared operator.
pub type OpRef = Arc<dyn Op>;

/// One operand as type inference sees it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What is known about it.
    pub ty: &'a Type,
    /// Its value, if it is a constant.
    pub value: Option<&'a Tensor>,
}

/// What an evaluation may use besides its operands.
#[derive(Clone, Debug, Default)]
pub struct EvalCx {
    /// Where buffers for results come from.
    pub pool: Pool,
}

/// An operator with its attributes decoded into fields.
pub trait Op: fmt::Debug + Any + Send + Sync {
    /// ONNX `op_type`.
    fn name(&self) -> &str;

    /// ONNX domain; empty for the default one.
    fn domain(&self) -> &str {
        ""
    }

    /// The fields as attributes, in the order of the definition; those at their default may be
    /// left out. Reading them back gives an equal operator.
    fn attrs(&self) -> Attrs;

    /// Types of the outputs. `inputs[i]` is `None` for an absent optional operand, `n_outputs`
    /// says how many outputs the node has. What cannot be known is [`Type::Unknown`].
    ///
    /// # Errors
    /// When the operands cannot be right.
    fn infer(&self, inputs: &[Option<Input<'_>>], n_outputs: usize)
    -> Result<Vec<Type>, TypeError>;

    /// Values of the outputs.
    ///
    /// # Errors
    /// When the operands do not fit, or the operator cannot be executed.
    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError>;

    /// Operands whose memory results may take over, as a cache that grows.
    fn takes(&self) -> &'static [usize] {
        &[]
    }

    /// As [`Op::eval`], with some of the operands of [`Op::takes`] given away, by position: nothing
    /// reads them any more, and they are absent from `inputs`.
    ///
    /// # Errors
    /// As [`Op::eval`].
    fn eval_taking(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        taken: Vec<(usize, Tensor)>,
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let mut all = inputs.to_vec();
        for (at, tensor) in &taken {
            if let Some(slot) = all.get_mut(*at) {
                *slot = Some(tensor);
            }
        }
        self.eval(cx, &all, n_outputs)
    }

    /// The vector-Jacobian product, as nodes that `b` adds: from the adjoints `dy` of the outputs
    /// the adjoint of each operand. An output that nothing reads on the way to the loss has no
    /// adjoint; an operand that is not wanted, or on which no output depends, gets none.
    ///
    /// # Errors
    /// When the operator, or this form of it, has no derivative that is known here.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let _ = (b, io, dy);
        Err(NotDifferentiable::new(self.domain(), self.name(), ""))
    }

    /// Whether equal operands give equal results and nothing else happens. Random operators, and
    /// those that are not known, are not pure.
    fn is_pure(&self) -> bool {
        true
    }
}

impl dyn Op {
    /// The operator as a concrete type.
    pub fn is<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// Whether it is `name` of the default domain.
    pub fn is_named(&self, name: &str) -> bool {
        self.domain().is_empty() && self.name() == name
    }
}

/// Why operands cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// Wrong number of operands.
    #[error("{op} takes {want} inputs, but has {got}")]
    Arity {
        /// Operator.
        op: String,
        /// What it takes, in words.
        want: String,
        /// How many there are.
        got: usize,
    },
    /// A required operand is absent.
    #[error("{op} needs its input {index}")]
    Absent {
        /// Operator.
        op: String,
        /// Position, from 0.
        index: usize,
    },
    /// A rank that the operator does not take.
    #[error("{op} takes rank {want} for its input {index}, not {got}")]
    Rank {
        /// Operator.
        op: String,
        /// Position, from 0.
        index: usize,
        /// What it takes, in words.
        want: String,
        /// What it is.
        got: usize,
    },
    /// Shapes that do not fit together.
    #[error("{op}: {a} and {b} do not fit together")]
    Shapes {
        /// Operator.
        op: String,
        /// One of them.
        a: String,
        /// The other one.
        b: String,
    },
    /// An element type that the operator does not take.
    #[error("{op} does not take {got}")]
    DType {
        /// Operator.
        op: String,
        /// The element type.
        got: String,
    },
    /// Anything else, in words.
    #[error("{op}: {what}")]
    Other {
        /// Operator.
        op: String,
        /// What is wrong.
        what: String,
    },
}

impl TypeError {
    /// Two shapes that do not fit together.
    pub fn shapes(op: &str, a: &[Dim], b: &[Dim]) -> Self {
        let text = |dims: &[Dim]| {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            format!("[{}]", dims.join(", "))
        };
        Self::Shapes { op: op.into(), a: text(a), b: text(b) }
    }

    /// Anything else, in words.
    pub fn other(op: &str, what: impl Into<String>) -> Self {
        Self::Other { op: op.into(), what: what.into() }
    }
}

/// Why an operator gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The operator, or this form of it, has no evaluation.
    #[error("{op} cannot be executed{}", if .what.is_empty() { String::new() } else { format!(": {}", .what) })]
    Unsupported {
        /// Operator, with its domain if it is not the default one.
        op: String,
        /// Which form; empty when it is all of it.
        what: String,
    },
    /// The operands cannot be right.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A result whose shape does not hold.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl EvalError {
    /// This form of the operator has no evaluation.
    pub fn unsupported(op: &dyn Op, what: impl Into<String>) -> Self {
        let op = if op.domain().is_empty() {
            op.name().to_owned()
        } else {
            format!("{}::{}", op.domain(), op.name())
        };
        Self::Unsupported { op, what: what.into() }
    }
}

/// An operator that no file knows: all its inputs are used, nothing is known of its outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    /// Domain.
    pub domain: String,
    /// Name.
    pub name: String,
    /// Attributes as they came.
    pub attrs: Attrs,
}

impl Op for Opaque {
    fn name(&self) -> &str {
        &self.name
    }

    fn domain(&self) -> &str {
        &self.domain
    }

    fn attrs(&self) -> Attrs {
        self.attrs.clone()
    }

    fn infer(&self, _: &[Option<Input<'_>>], n_outputs: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![Type::Unknown; n_outputs])
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        Err(EvalError::unsupported(self, ""))
    }

    fn is_pure(&self) -> bool {
        false
    }
}
