//! `Transpose` (opset 1): dimensions in another order.
//!
//! `out.dims[i] = x.dims[perm[i]]`; without `perm` the order is turned around.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::Tensor;

use crate::cells::moved;
use crate::emit::{Emit, args, no_vjp};
use crate::ints::axes;
use crate::operands;
use crate::strided::View;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Transpose", parse: Transpose::parse }];

/// Dimensions in another order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// For each dimension of the result, that of the operand; the reverse order when absent.
    pub perm: Option<Vec<i64>>,
}

impl Transpose {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { perm: reader.opt_ints("perm")?.map(<[i64]>::to_vec) }))
    }

    /// The order for operands of this rank.
    ///
    /// # Errors
    /// When `perm` is not a permutation of `0..rank`.
    pub fn order(&self, rank: usize) -> Result<Vec<usize>, TypeError> {
        let Some(perm) = &self.perm else { return Ok((0..rank).rev().collect()) };
        if perm.len() != rank {
            let what = format!("perm {perm:?} does not fit rank {rank}");
            return Err(TypeError::other("Transpose", what));
        }
        axes("Transpose", perm, rank)
    }
}

impl Op for Transpose {
    fn name(&self) -> &str {
        "Transpose"
    }

    fn attrs(&self) -> Attrs {
        self.perm.iter().map(|it| ("perm".into(), it.clone().into())).collect()
    }

    /// `x: T[..]` gives `T[..]` of the same rank.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = operands::one("Transpose", inputs)?;
        let dims = match x.ty.shape() {
            Some(dims) => {
                let order = self.order(dims.len())?;
                Some(order.into_iter().map(|it| dims[it].clone()).collect())
            }
            None => crate::ints::unknown_dims(self.perm.as_ref().map(Vec::len)),
        };
        Ok(vec![x.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = operands::one("Transpose", inputs)?;
        let order = self.order(x.rank())?;
        let view = View::of(x.dims()).permuted(&order);
        // Dimensions of one element may go anywhere without moving a byte.
        let long: Vec<usize> = order.into_iter().filter(|&it| x.dims()[it] > 1).collect();
        if long.is_sorted() || x.is_empty() {
            return Ok(vec![x.reshape(view.dims)?]);
        }
        let out = moved("Transpose", cx, x, view.dims.clone(), |from, width, to| {
            view.copy(from, width, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let mut perm = None;
        if self.perm.is_some() {
            let rank = b.ty(x).rank().or(self.perm.as_ref().map(Vec::len)).unwrap_or(0);
            let order = self.order(rank).map_err(|it| no_vjp(self, &it.to_string()))?;
            let mut inverse = vec![0i64; rank];
            (0..).zip(order).for_each(|(to, from)| inverse[from] = to);
            perm = Some(inverse);
        }
        Ok(vec![Some(b.apply(Self { perm }, &[g]))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};

    fn transposed(x: &Tensor, perm: &[i64]) -> Result<Tensor, EvalError> {
        let op = Transpose { perm: Some(perm.to_vec()) };
        Ok(op.eval(&EvalCx::default(), &[Some(x)], 1)?.remove(0))
    }

    #[test]
    fn heads_come_forward() {
        let x = Tensor::from_vec(vec![1, 2, 2, 2], (0..8).collect::<Vec<i32>>()).unwrap();
        let out = transposed(&x, &[0, 2, 1, 3]).unwrap();
        assert_eq!(&*out.as_slice::<i32>().unwrap(), [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn single_elements_move_without_copy() {
        let x = Tensor::from_vec(vec![3, 1, 2], vec![0f32; 6]).unwrap();
        let out = transposed(&x, &[1, 0, 2]).unwrap();
        assert_eq!(out.dims(), [1, 3, 2]);
        assert_eq!(out.bytes().as_ptr(), x.bytes().as_ptr());
    }

    #[test]
    fn orders_that_are_none_are_refused() {
        let x = Tensor::from_vec(vec![2, 2], vec![0u8; 4]).unwrap();
        assert!(transposed(&x, &[0]).is_err());
        assert!(transposed(&x, &[0, 0]).is_err());
        assert!(transposed(&x, &[0, 2]).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        for perm in [Some(vec![2, 0, 1]), Some(vec![0, -1, 1]), None] {
            check_vjp(&Transpose { perm }, &[values(&[2, 3, 1])], 1);
        }
    }
}
