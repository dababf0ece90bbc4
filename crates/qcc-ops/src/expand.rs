//! `Expand` (opset 8) and `Tile` (opset 6): the same elements again.
//!
//! `Expand` broadcasts to a shape, and that to the operand, by the rule of ONNX; `Tile` puts copies
//! side by side. Source: onnx/defs/tensor/defs.cc, onnx/defs/math/defs.cc.

use std::sync::Arc;

use qcc_ir::{Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, Type, TypeError, Value};
use qcc_tensor::{Dim, Tensor, TensorError};

use crate::OpDef;
use crate::cells::moved;
use crate::emit::{Emit, args, no_vjp};
use crate::gather::Gather;
use crate::ints::{const_ints, ints, sizes, unknown_dims, vector_len};
use crate::operands;
use crate::reshape::Reshape;
use crate::strided::View;

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Expand", parse: |_| Ok(Arc::new(Expand)) },
    OpDef { domain: "", name: "Tile", parse: |_| Ok(Arc::new(Tile)) },
];

/// `Expand(input, shape)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expand;

impl Expand {
    fn dims(from: &[Dim], shape: &[usize]) -> Result<Vec<Dim>, TypeError> {
        let rank = from.len().max(shape.len());
        let (skip_from, skip_shape) = (rank - from.len(), rank - shape.len());
        (0..rank)
            .map(|axis| {
                let dim = axis.checked_sub(skip_from).map_or(&Dim::Known(1), |it| &from[it]);
                let size = axis.checked_sub(skip_shape).map_or(1, |it| shape[it]);
                match dim {
                    dim if size == 1 => Ok(dim.clone()),
                    Dim::Known(it) if *it != 1 && *it != size => {
                        let shape: Vec<Dim> = shape.iter().map(|&it| it.into()).collect();
                        Err(TypeError::shapes("Expand", from, &shape))
                    }
                    // A symbol is 1 or the size: anything else is refused when it runs.
                    _ => Ok(Dim::Known(size)),
                }
            })
            .collect()
    }
}

impl Op for Expand {
    fn name(&self) -> &str {
        "Expand"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `input: T[..]`, `shape: i64[R]` give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (input, shape) = operands::two("Expand", inputs)?;
        let dims = match (input.ty.shape(), const_ints("Expand", Some(shape))?) {
            (Some(from), Some(shape)) => Some(Self::dims(from, &sizes("Expand", &shape)?)?),
            (Some(from), None) => unknown_dims(vector_len(shape).map(|it| it.max(from.len()))),
            (None, _) => None,
        };
        Ok(vec![input.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (input, shape) = operands::two("Expand", inputs)?;
        let from: Vec<Dim> = input.dims().iter().map(|&it| it.into()).collect();
        let dims = Self::dims(&from, &sizes("Expand", &ints("Expand", shape)?)?)?;
        let dims: Vec<usize> = dims.iter().filter_map(Dim::known).collect();
        if input.len() == qcc_tensor::checked_len(&dims).unwrap_or_default() {
            return Ok(vec![input.reshape(dims)?]);
        }
        let of = View::of(input.dims());
        let skip = dims.len() - input.rank();
        let stride = |axis: usize| match axis.checked_sub(skip) {
            Some(it) if input.dims()[it] == dims[axis] => of.strides[it],
            _ => 0,
        };
        let strides = (0..dims.len()).map(stride).collect();
        let view = View { dims: dims.clone(), strides, start: 0 };
        let out = moved("Expand", cx, input, dims, |from, width, to| view.copy(from, width, to))?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x, _]) = args(self, io, dy)?;
        Ok(vec![Some(b.sum_to(g, x))])
    }
}

/// `Tile(input, repeats)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile;

impl Tile {
    fn fit(rank: usize, repeats: &[i64]) -> Result<Vec<usize>, TypeError> {
        if repeats.len() != rank {
            let what = format!("{} repeats for rank {rank}", repeats.len());
            return Err(TypeError::other("Tile", what));
        }
        sizes("Tile", repeats)
    }
}

impl Op for Tile {
    fn name(&self) -> &str {
        "Tile"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `input: T[..]` of rank R, `repeats: i64[R]` give `T[..]` of rank R.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (input, repeats) = operands::two("Tile", inputs)?;
        let dims = match (input.ty.shape(), const_ints("Tile", Some(repeats))?) {
            (Some(dims), Some(repeats)) => {
                let repeats = Self::fit(dims.len(), &repeats)?;
                let tiled = |(dim, times): (&Dim, usize)| match (dim, times) {
                    (dim, 1) => dim.clone(),
                    (_, 0) => Dim::Known(0),
                    (Dim::Known(it), times) => {
                        it.checked_mul(times).map_or(Dim::Unknown, Dim::Known)
                    }
                    _ => Dim::Unknown,
                };
                Some(dims.iter().zip(repeats).map(tiled).collect())
            }
            (shape, _) => unknown_dims(shape.map(<[Dim]>::len).or_else(|| vector_len(repeats))),
        };
        Ok(vec![input.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (input, repeats) = operands::two("Tile", inputs)?;
        let repeats = Self::fit(input.rank(), &ints("Tile", repeats)?)?;
        let of = View::of(input.dims());
        let (mut dims, mut view) = (Vec::new(), View { dims: vec![], strides: vec![], start: 0 });
        for ((&dim, &stride), &times) in of.dims.iter().zip(&of.strides).zip(&repeats) {
            let overflow = || TensorError::Overflow(vec![dim, times]);
            dims.push(dim.checked_mul(times).ok_or_else(overflow)?);
            view.dims.extend([times, dim]);
            view.strides.extend([0, stride]);
        }
        if repeats.iter().all(|&it| it == 1) {
            return Ok(vec![input.clone()]);
        }
        let out = moved("Tile", cx, input, dims, |from, width, to| view.copy(from, width, to))?;
        Ok(vec![out])
    }

    /// The copies of each element are added up.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x, repeats]) = args(self, io, dy)?;
        let rank = b.ty(x).rank().ok_or_else(|| no_vjp(self, "the rank is not known"))?;
        let list = b.tensor(repeats).and_then(|it| ints("Tile", it).ok());
        let mut parts = Vec::new();
        for axis in 0..rank {
            parts.push(match list.as_ref().and_then(|it| it.get(axis)) {
                Some(&times) => b.ints(&[times]),
                None => {
                    let at = b.ints(&[axis as i64]);
                    b.apply(Gather { axis: 0 }, &[repeats, at])
                }
            });
            parts.push(b.dim_of(x, axis));
        }
        if rank == 0 {
            return Ok(vec![Some(g)]);
        }
        let shape = b.joined(&parts);
        let split = b.apply(Reshape { allowzero: true }, &[g, shape]);
        let copies: Vec<i64> = (0..rank as i64).map(|it| 2 * it).collect();
        let sum = b.sum_over(split, &copies);
        Ok(vec![Some(b.reshape_to(sum, x))])
    }
}

#[cfg(test)]
mod tests {
    use qcc_tensor::DType;

    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn run(op: &dyn Op, x: &Tensor, list: Vec<i64>) -> Result<Tensor, EvalError> {
        Ok(op.eval(&EvalCx::default(), &[Some(x), Some(&Tensor::vector(list))], 1)?.remove(0))
    }

    #[test]
    fn both_sides_broadcast() {
        let x = Tensor::from_vec(vec![3, 1], vec![1u8, 2, 3]).unwrap();
        let out = run(&Expand, &x, vec![2, 1, 2]).unwrap();
        assert_eq!(out.dims(), [2, 3, 2]);
        assert_eq!(&out.bytes()[..], [1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3]);
        assert!(run(&Expand, &x, vec![2, 1]).is_err());
        assert!(run(&Expand, &x, vec![-1, 1]).is_err());
        assert!(run(&Expand, &x, vec![i64::MAX, 1, 1]).is_err());
        assert_eq!(run(&Expand, &x, vec![0, 1, 1]).unwrap().dims(), [0, 3, 1]);
    }

    #[test]
    fn tiles_lie_side_by_side() {
        let x = Tensor::from_vec(vec![2, 2], vec![1u8, 2, 3, 4]).unwrap();
        let out = run(&Tile, &x, vec![1, 2]).unwrap();
        assert_eq!(&out.bytes()[..], [1, 2, 1, 2, 3, 4, 3, 4]);
        assert!(run(&Tile, &x, vec![2]).is_err());
        assert!(run(&Tile, &x, vec![i64::MAX, 4]).is_err());
    }

    #[test]
    fn symbols_give_way_to_sizes() {
        let ty = Type::tensor(DType::F32, [Dim::symbol("b"), Dim::symbol("s")]);
        let infer = |op: &dyn Op, list: Vec<i64>| {
            let shape = Tensor::vector(list);
            let shape_ty = Type::of(&shape);
            let data = Some(Input { ty: &ty, value: None });
            let shape = Some(Input { ty: &shape_ty, value: Some(&shape) });
            op.infer(&[data, shape], 1).unwrap()[0].to_string()
        };
        assert_eq!(infer(&Expand, vec![4, 1, 8]), "f32[4, b, 8]");
        assert_eq!(infer(&Tile, vec![1, 2]), "f32[b, ?]");
    }

    #[test]
    fn gradients_match_central_differences() {
        check_vjp(&Expand, &[values(&[3, 1]), ints(&[2, 1, 4])], 1);
        check_vjp(&Expand, &[values(&[3, 2]), ints(&[1, 1])], 1);
        check_vjp(&Tile, &[values(&[3, 1, 2]), ints(&[2, 3, 1])], 1);
    }
}
