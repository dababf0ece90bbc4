//! Formulas as nodes: what the derivatives of operators are written with.

use std::sync::Arc;

use half::{bf16, f16};
use qcc_ir::{Emitter, Io, NotDifferentiable, Op, Value};
use qcc_tensor::{DType, Dim, Tensor};

use crate::arith::Arith;
use crate::concat::Concat;
use crate::expand::Expand;
use crate::fused_matmul::{FusedMatMul, Turn};
use crate::grad::SumTo;
use crate::reduce::{Kind, Reduce};
use crate::reshape::Reshape;
use crate::select::Where;
use crate::shape::Shape;
use crate::squeeze::Unsqueeze;
use crate::unary::Unary;

/// A form of an operator that has no derivative.
pub(crate) fn no_vjp(op: &dyn Op, what: &str) -> NotDifferentiable {
    NotDifferentiable::new(op.domain(), op.name(), what)
}

/// The adjoint of the first output, that output, and the first operands.
///
/// # Errors
/// When one of them is absent.
pub(crate) fn args<const N: usize>(
    op: &dyn Op,
    io: &Io<'_>,
    dy: &[Option<Value>],
) -> Result<(Value, Value, [Value; N]), NotDifferentiable> {
    let found = || {
        let first = (dy.first().copied().flatten()?, *io.outputs.first()?);
        let list: Option<Vec<Value>> = (0..N).map(|it| io.input(it)).collect();
        Some((first.0, first.1, list?.try_into().ok()?))
    };
    found().ok_or_else(|| no_vjp(op, "an operand is absent, or the adjoint of its result"))
}

/// Operators by name. Results follow the shape rules of the operators: operands broadcast.
pub(crate) trait Emit {
    /// Any operator with one output.
    fn apply(&mut self, op: impl Op, inputs: &[Value]) -> Value;
    /// A number in the element type of `like`; f32 when that is not known.
    fn scalar(&mut self, like: Value, value: f64) -> Value;
    /// A vector of integers.
    fn ints(&mut self, list: &[i64]) -> Value;
    /// `a + b`
    fn add(&mut self, a: Value, b: Value) -> Value;
    /// `a - b`
    fn sub(&mut self, a: Value, b: Value) -> Value;
    /// `a * b`
    fn mul(&mut self, a: Value, b: Value) -> Value;
    /// `a / b`
    fn div(&mut self, a: Value, b: Value) -> Value;
    /// `x * factor`
    fn scale(&mut self, x: Value, factor: f64) -> Value;
    /// `x + term`
    fn shift(&mut self, x: Value, term: f64) -> Value;
    /// `a - x`
    fn minus(&mut self, a: f64, x: Value) -> Value;
    /// `1 / (1 + e^-x)`
    fn sigmoid(&mut self, x: Value) -> Value;
    /// `c ? x : y`
    fn select(&mut self, c: Value, x: Value, y: Value) -> Value;
    /// `c ? x : 0`
    fn masked(&mut self, c: Value, x: Value) -> Value;
    /// `op(a) * op(b)`, where `op` may swap the two dimensions of the matrix.
    fn product(&mut self, a: (Value, bool), b: (Value, bool)) -> Value;
    /// The dimensions of `x`: a constant when they are known.
    fn shape_of(&mut self, x: Value) -> Value;
    /// One dimension of `x`, as a vector.
    fn dim_of(&mut self, x: Value, axis: usize) -> Value;
    /// Integer vectors, one after the other.
    fn joined(&mut self, parts: &[Value]) -> Value;
    /// `g` summed over what repeated `x` to its shape, which `g` has.
    fn sum_to(&mut self, g: Value, x: Value) -> Value;
    /// `x` repeated to the shape of `like`.
    fn expand_to(&mut self, x: Value, like: Value) -> Value;
    /// `x` in the shape of `like`, which has as many elements.
    fn reshape_to(&mut self, x: Value, like: Value) -> Value;
    /// `x` in a shape of which one dimension may be -1.
    fn reshape(&mut self, x: Value, shape: &[i64]) -> Value;
    /// New dimensions of one element, counted in the result.
    fn unsqueeze(&mut self, x: Value, axes: &[i64]) -> Value;
    /// Zeros in the shape of `x`.
    fn zeros_like(&mut self, x: Value) -> Value;
    /// Sum over axes, which stay with size 1.
    fn sum_over(&mut self, x: Value, axes: &[i64]) -> Value;
}

/// Whether both shapes are known to be the same one.
fn is_same_shape(b: &Emitter, x: Value, y: Value) -> bool {
    match (b.ty(x).shape(), b.ty(y).shape()) {
        (Some(x), Some(y)) => x == y && !x.contains(&Dim::Unknown),
        _ => false,
    }
}

impl Emit for Emitter {
    fn apply(&mut self, op: impl Op, inputs: &[Value]) -> Value {
        self.op(Arc::new(op), inputs)
    }

    fn scalar(&mut self, like: Value, value: f64) -> Value {
        let tensor = match self.ty(like).dtype() {
            Some(DType::F64) => Tensor::scalar(value),
            Some(DType::F16) => Tensor::scalar(f16::from_f64(value)),
            Some(DType::BF16) => Tensor::scalar(bf16::from_f64(value)),
            _ => Tensor::scalar(value as f32),
        };
        self.constant(tensor)
    }

    fn ints(&mut self, list: &[i64]) -> Value {
        self.constant(Tensor::vector(list.to_vec()))
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        self.apply(Arith::Add, &[a, b])
    }

    fn sub(&mut self, a: Value, b: Value) -> Value {
        self.apply(Arith::Sub, &[a, b])
    }

    fn mul(&mut self, a: Value, b: Value) -> Value {
        self.apply(Arith::Mul, &[a, b])
    }

    fn div(&mut self, a: Value, b: Value) -> Value {
        self.apply(Arith::Div, &[a, b])
    }

    fn scale(&mut self, x: Value, factor: f64) -> Value {
        if factor == 1.0 {
            return x;
        }
        if factor == -1.0 {
            return self.apply(Unary::Neg, &[x]);
        }
        let factor = self.scalar(x, factor);
        self.mul(x, factor)
    }

    fn shift(&mut self, x: Value, term: f64) -> Value {
        let term = self.scalar(x, term);
        self.add(x, term)
    }

    fn minus(&mut self, a: f64, x: Value) -> Value {
        let a = self.scalar(x, a);
        self.sub(a, x)
    }

    fn sigmoid(&mut self, x: Value) -> Value {
        self.apply(Unary::Sigmoid, &[x])
    }

    fn select(&mut self, c: Value, x: Value, y: Value) -> Value {
        self.apply(Where, &[c, x, y])
    }

    fn masked(&mut self, c: Value, x: Value) -> Value {
        let zero = self.scalar(x, 0.0);
        self.select(c, x, zero)
    }

    fn product(&mut self, a: (Value, bool), b: (Value, bool)) -> Value {
        let turn = |matrix| Turn { matrix, batch: false };
        self.apply(FusedMatMul { a: turn(a.1), b: turn(b.1), alpha: 1.0 }, &[a.0, b.0])
    }

    fn shape_of(&mut self, x: Value) -> Value {
        let shape = Shape { start: 0, end: None };
        match shape.value_of(self.ty(x)) {
            Some(dims) => self.constant(dims),
            None => self.apply(shape, &[x]),
        }
    }

    fn dim_of(&mut self, x: Value, axis: usize) -> Value {
        let axis = axis as i64;
        let shape = Shape { start: axis, end: Some(axis + 1) };
        match shape.value_of(self.ty(x)) {
            Some(dim) => self.constant(dim),
            None => self.apply(shape, &[x]),
        }
    }

    fn joined(&mut self, parts: &[Value]) -> Value {
        let known: Option<Vec<Vec<i64>>> = parts
            .iter()
            .map(|&it| self.tensor(it)?.to_i64().ok().map(std::borrow::Cow::into_owned))
            .collect();
        match known {
            Some(lists) => self.ints(&lists.concat()),
            None => self.apply(Concat { axis: 0 }, parts),
        }
    }

    fn sum_to(&mut self, g: Value, x: Value) -> Value {
        if is_same_shape(self, g, x) {
            return g;
        }
        let shape = self.shape_of(x);
        self.apply(SumTo, &[g, shape])
    }

    fn expand_to(&mut self, x: Value, like: Value) -> Value {
        if is_same_shape(self, x, like) {
            return x;
        }
        let shape = self.shape_of(like);
        self.apply(Expand, &[x, shape])
    }

    fn reshape_to(&mut self, x: Value, like: Value) -> Value {
        if is_same_shape(self, x, like) {
            return x;
        }
        let shape = self.shape_of(like);
        self.apply(Reshape { allowzero: true }, &[x, shape])
    }

    fn reshape(&mut self, x: Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.apply(Reshape { allowzero: false }, &[x, shape])
    }

    fn unsqueeze(&mut self, x: Value, axes: &[i64]) -> Value {
        let axes = self.ints(axes);
        self.apply(Unsqueeze { axes: None }, &[x, axes])
    }

    fn zeros_like(&mut self, x: Value) -> Value {
        let zero = self.scalar(x, 0.0);
        self.expand_to(zero, x)
    }

    fn sum_over(&mut self, x: Value, axes: &[i64]) -> Value {
        let axes = Some(axes.to_vec());
        self.apply(Reduce { kind: Kind::Sum, axes, keep: true, none_is_none: false }, &[x])
    }
}
