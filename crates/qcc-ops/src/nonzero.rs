//! `NonZero` (opset 9): positions of the elements that are not zero.
//!
//! Column `j` of the result holds the coordinates of the `j`-th such element in row-major order.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::OpDef;
use crate::ints::dtype;
use crate::operands;
use crate::strided::row_major;

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "", name: "NonZero", parse: |_| Ok(Arc::new(NonZero)) }];

/// Positions of the elements that are not zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonZero;

/// Row-major places of the elements that are not zero.
///
/// # Errors
/// For types that are neither `bool`, integer nor a float of 16 bits or more.
pub(crate) fn places(op: &str, tensor: &Tensor) -> Result<Vec<usize>, TypeError> {
    let kind = tensor.dtype();
    if kind != DType::Bool && !kind.is_int() && !kind.is_float() {
        return Err(dtype(op, kind));
    }
    // The sign of a float zero does not count.
    let top = if kind.is_float() { 0x7f } else { 0xff };
    let is_set = |cell: &[u8]| match cell.split_last() {
        Some((last, rest)) => last & top != 0 || rest.iter().any(|&it| it != 0),
        None => false,
    };
    let cells = tensor.bytes().chunks_exact(kind.bits() / 8).enumerate();
    Ok(cells.filter(|it| is_set(it.1)).map(|it| it.0).collect())
}

impl Op for NonZero {
    fn name(&self) -> &str {
        "NonZero"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `x: T[..]` of rank R gives `i64[R, n]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let ty = operands::one("NonZero", inputs)?.ty;
        let rank = ty.rank().map_or(Dim::Unknown, Dim::Known);
        Ok(vec![Type::tensor(DType::I64, [rank, Dim::Unknown])])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = operands::one("NonZero", inputs)?;
        let places = places("NonZero", x)?;
        let mut out = Vec::with_capacity(places.len() * x.rank());
        for (&stride, &dim) in row_major(x.dims()).iter().zip(x.dims()) {
            out.extend(places.iter().map(|it| (it / stride % dim) as i64));
        }
        Ok(vec![Tensor::from_vec(vec![x.rank(), places.len()], out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_zero_is_zero() {
        let x = Tensor::from_vec(vec![2, 2], vec![-0.0f32, -1.0, 0.0, 1e-40]).unwrap();
        let out = NonZero.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(out.dims(), [2, 2]);
        assert_eq!(&*out.as_slice::<i64>().unwrap(), [0, 1, 1, 1]);
        let scalar = Tensor::scalar(5i32);
        let out = NonZero.eval(&EvalCx::default(), &[Some(&scalar)], 1).unwrap().remove(0);
        assert_eq!(out.dims(), [0, 1]);
    }
}
