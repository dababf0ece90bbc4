//! `Gather` (opset 1), `GatherElements` (11) and `GatherND` (11, `batch_dims` since 12): elements
//! by position.
//!
//! Positions count from the end when negative; those out of bounds are refused.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor, checked_len};

use crate::cells::moved;
use crate::combine::Combine;
use crate::emit::{Emit, args, no_vjp};
use crate::grad::ScatterAdd;
use crate::ints::{self, position, positions, unknown_dims};
use crate::operands;
use crate::scatter::{ScatterElements, ScatterNd};
use crate::strided::{Walk, row_major, take};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Gather", parse: Gather::parse },
    OpDef { domain: "", name: "GatherElements", parse: GatherElements::parse },
    OpDef { domain: "", name: "GatherND", parse: GatherNd::parse },
];

/// Slices of an axis: `out[a.., i.., b..] = data[a.., indices[i..], b..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The axis of `data`; negative counts from the end.
    pub axis: i64,
}

impl Gather {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.int("axis", 0)? }))
    }
}

impl Op for Gather {
    fn name(&self) -> &str {
        "Gather"
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `data: T[A.., X, B..]`, `indices: i64[I..]` give `T[A.., I.., B..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, indices) = operands::two("Gather", inputs)?;
        let Some(dims) = data.ty.shape() else { return Ok(vec![data.ty.clone()]) };
        let axis = operands::axis("Gather", self.axis, dims.len())?;
        let dims = indices.ty.shape().map(|it| [&dims[..axis], it, &dims[axis + 1..]].concat());
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, indices) = operands::two("Gather", inputs)?;
        let axis = operands::axis("Gather", self.axis, data.rank())?;
        let (before, after) = (&data.dims()[..axis], &data.dims()[axis + 1..]);
        let len = data.dims()[axis];
        let list = positions("Gather", indices, len)?;
        let dims = [before, indices.dims(), after].concat();
        let block: usize = after.iter().product();
        let out = moved("Gather", cx, data, dims, |from, width, to| {
            take(from, len, block * width, &list, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x, indices]) = args(self, io, dy)?;
        let shape = b.shape_of(x);
        Ok(vec![Some(b.apply(ScatterAdd { axis: self.axis }, &[g, indices, shape]))])
    }
}

/// Single elements: `out[i..] = data[i.. with indices[i..] at the axis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherElements {
    /// The axis of `data`; negative counts from the end.
    pub axis: i64,
}

impl GatherElements {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.int("axis", 0)? }))
    }
}

/// The element of `data` at each of `indices`, which replaces the coordinate along `axis`.
///
/// # Errors
/// When an index is out of bounds, or `indices` has another rank or is longer along another axis.
pub(crate) fn elements(
    op: &str,
    data: &[usize],
    indices: &Tensor,
    axis: usize,
) -> Result<Vec<usize>, TypeError> {
    let fits = indices.rank() == data.len()
        && indices.dims().iter().zip(data).enumerate().all(|(at, (i, d))| at == axis || i <= d);
    if !fits {
        let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
        return Err(TypeError::shapes(op, &dims(data), &dims(indices.dims())));
    }
    let mut strides: Vec<isize> = row_major(data).into_iter().map(|it| it as isize).collect();
    let step = std::mem::take(&mut strides[axis]) as usize;
    let mut walk = Walk::new(indices.dims().to_vec(), strides, 0);
    let list = positions(op, indices, data[axis])?;
    let place = |index: usize| {
        let place = walk.offset as usize + index * step;
        walk.step();
        place
    };
    Ok(list.into_iter().map(place).collect())
}

impl Op for GatherElements {
    fn name(&self) -> &str {
        "GatherElements"
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `data: T[..]`, `indices: i64[I..]` of the same rank give `T[I..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, indices) = operands::two("GatherElements", inputs)?;
        if let Some(rank) = data.ty.rank().or(indices.ty.rank()) {
            operands::axis("GatherElements", self.axis, rank)?;
        }
        if let (Some(a), Some(b)) = (data.ty.shape(), indices.ty.shape())
            && a.len() != b.len()
        {
            return Err(TypeError::shapes("GatherElements", a, b));
        }
        let dims = indices.ty.shape().map(<[Dim]>::to_vec);
        Ok(vec![data.ty.with_shape(dims.or_else(|| unknown_dims(data.ty.rank())))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, indices) = operands::two("GatherElements", inputs)?;
        let axis = operands::axis("GatherElements", self.axis, data.rank())?;
        let list = elements("GatherElements", data.dims(), indices, axis)?;
        let dims = indices.dims().to_vec();
        let out = moved("GatherElements", cx, data, dims, |from, width, to| {
            take(from, 0, width, &list, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x, indices]) = args(self, io, dy)?;
        let (zeros, reduction) = (b.zeros_like(x), Some(Combine::Add));
        let scatter = ScatterElements { legacy: false, axis: self.axis, reduction };
        Ok(vec![Some(b.apply(scatter, &[zeros, indices, g]))])
    }
}

/// Slices by several coordinates: `out[b.., i..] = data[b.., indices[b.., i.., :]..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherNd {
    /// Leading dimensions that `data` and `indices` share.
    pub batch_dims: usize,
}

impl GatherNd {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let batch_dims = usize::try_from(reader.int("batch_dims", 0)?)
            .map_err(|_| reader.error("batch_dims", "is negative"))?;
        Ok(Arc::new(Self { batch_dims }))
    }
}

/// First element of each slice of `data` that a tuple of coordinates names; the tuples are the
/// rows of `indices`, and number `batch` leading dimensions of both.
///
/// # Errors
/// When a coordinate is out of bounds or there are more of them than dimensions.
pub(crate) fn slices(
    op: &str,
    data: &[usize],
    indices: &Tensor,
    batch: usize,
) -> Result<Vec<usize>, TypeError> {
    let bad = || {
        let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
        TypeError::shapes(op, &dims(data), &dims(indices.dims()))
    };
    let (&depth, outer) = indices.dims().split_last().ok_or_else(bad)?;
    let end = batch.checked_add(depth).filter(|&it| it <= data.len()).ok_or_else(bad)?;
    if outer.len() < batch || outer[..batch] != data[..batch] {
        return Err(bad());
    }
    let tuples = checked_len(outer).ok_or_else(bad)?;
    let strides = row_major(data);
    let whole: usize = data[batch..].iter().product();
    let each = (tuples / data[..batch].iter().product::<usize>().max(1)).max(1);
    if depth == 0 {
        return Ok((0..tuples).map(|it| it / each * whole).collect());
    }
    let coordinates = ints::ints(op, indices)?;
    let place = |(at, tuple): (usize, &[i64])| {
        let mut place = at / each * whole;
        for ((&index, &dim), &stride) in tuple.iter().zip(&data[batch..end]).zip(&strides[batch..])
        {
            place += position(op, index, dim)? * stride;
        }
        Ok(place)
    };
    coordinates.chunks_exact(depth).enumerate().map(place).collect()
}

impl Op for GatherNd {
    fn name(&self) -> &str {
        "GatherND"
    }

    fn attrs(&self) -> Attrs {
        if self.batch_dims == 0 {
            return Attrs::new();
        }
        vec![("batch_dims".into(), (self.batch_dims as i64).into())]
    }

    /// `data: T[B.., X.., C..]`, `indices: i64[B.., I.., count(X)]` give `T[B.., I.., C..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, indices) = operands::two("GatherND", inputs)?;
        let (Some(from), Some(list)) = (data.ty.shape(), indices.ty.shape()) else {
            return Ok(vec![data.ty.with_shape(None)]);
        };
        let bad = || TypeError::shapes("GatherND", from, list);
        let (depth, outer) = list.split_last().ok_or_else(bad)?;
        let dims = match depth.known() {
            None => None,
            Some(depth) => {
                let end = self.batch_dims.checked_add(depth).filter(|&it| it <= from.len());
                Some([outer, &from[end.ok_or_else(bad)?..]].concat())
            }
        };
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, indices) = operands::two("GatherND", inputs)?;
        let starts = slices("GatherND", data.dims(), indices, self.batch_dims)?;
        let Some((&depth, outer)) = indices.dims().split_last() else { return Ok(Vec::new()) };
        let rest = &data.dims()[self.batch_dims + depth..];
        let block: usize = rest.iter().product();
        let list: Vec<usize> = starts.into_iter().map(|it| it / block.max(1)).collect();
        let out = moved("GatherND", cx, data, [outer, rest].concat(), |from, width, to| {
            take(from, 0, block * width, &list, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if self.batch_dims != 0 {
            return Err(no_vjp(self, "with batch dimensions"));
        }
        let (g, _, [x, indices]) = args(self, io, dy)?;
        let (zeros, reduction) = (b.zeros_like(x), Some(Combine::Add));
        Ok(vec![Some(b.apply(ScatterNd { reduction }, &[zeros, indices, g]))])
    }
}

#[cfg(test)]
mod tests {
    use qcc_tensor::DType;

    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn run(op: &dyn Op, x: &Tensor, dims: &[usize], list: Vec<i64>) -> Result<Tensor, EvalError> {
        let indices = Tensor::from_vec(dims.to_vec(), list).unwrap();
        Ok(op.eval(&EvalCx::default(), &[Some(x), Some(&indices)], 1)?.remove(0))
    }

    fn ramp(dims: &[usize]) -> Tensor {
        let len = dims.iter().product::<usize>() as i32;
        Tensor::from_vec(dims.to_vec(), (0..len).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn rows_and_columns() {
        let x = ramp(&[2, 3]);
        let out = run(&Gather { axis: 0 }, &x, &[1, 2], vec![1, -2]).unwrap();
        assert_eq!(out.dims(), [1, 2, 3]);
        assert_eq!(&*out.as_slice::<i32>().unwrap(), [3, 4, 5, 0, 1, 2]);
        let out = run(&Gather { axis: -1 }, &x, &[], vec![2]).unwrap();
        assert_eq!(out.dims(), [2]);
        assert_eq!(&*out.as_slice::<i32>().unwrap(), [2, 5]);
    }

    #[test]
    fn out_of_bounds_is_refused() {
        let x = ramp(&[2, 3]);
        for index in [2, -3, i64::MIN, i64::MAX] {
            assert!(run(&Gather { axis: 0 }, &x, &[1], vec![index]).is_err());
            assert!(run(&GatherElements { axis: 0 }, &x, &[1, 1], vec![index]).is_err());
            assert!(run(&GatherNd { batch_dims: 0 }, &x, &[1, 1], vec![index]).is_err());
        }
        assert!(run(&GatherNd { batch_dims: 2 }, &x, &[2, 3, 1], vec![0; 6]).is_err());
        assert!(run(&GatherNd { batch_dims: 0 }, &x, &[], vec![0]).is_err());
        assert!(run(&GatherElements { axis: 0 }, &x, &[1, 4], vec![0; 4]).is_err());
    }

    #[test]
    fn batches_have_their_own_indices() {
        let x = ramp(&[2, 2, 2]);
        let out = run(&GatherNd { batch_dims: 1 }, &x, &[2, 1], vec![1, 0]).unwrap();
        assert_eq!(out.dims(), [2, 2]);
        assert_eq!(&*out.as_slice::<i32>().unwrap(), [2, 3, 4, 5]);
    }

    #[test]
    fn types_of_embeddings() {
        let table = Type::tensor(DType::F32, [100usize, 8]);
        let ids = Type::tensor(DType::I64, [Dim::symbol("b"), Dim::symbol("s")]);
        let inputs = [&table, &ids].map(|ty| Some(Input { ty, value: None }));
        let infer = |op: &dyn Op| op.infer(&inputs, 1).unwrap()[0].to_string();
        assert_eq!(infer(&Gather { axis: 0 }), "f32[b, s, 8]");
        assert_eq!(infer(&GatherElements { axis: 1 }), "f32[b, s]");
    }

    #[test]
    fn gradients_match_central_differences() {
        let matrix = |list: &[i64], dims: &[usize]| {
            Tensor::from_vec(dims.to_vec(), list.to_vec()).unwrap().into()
        };
        for axis in [0, 1, -1] {
            let data = values(&[4, 4, 3]);
            check_vjp(&Gather { axis }, &[data.clone(), ints(&[2, 0, -1, 2])], 1);
            check_vjp(&Gather { axis }, &[data.clone(), Tensor::scalar(1i64).into()], 1);
            check_vjp(&Gather { axis }, &[data, matrix(&[0, 1, 1, 1], &[2, 2])], 1);
        }
        let list = matrix(&[0, 0, 2, -1, 1, 1], &[2, 3]);
        check_vjp(&GatherElements { axis: 0 }, &[values(&[3, 3]), list], 1);
        let list = matrix(&[0, 1, 0, 1, 2, -1], &[3, 2]);
        check_vjp(&GatherNd { batch_dims: 0 }, &[values(&[3, 2, 2]), list], 1);
    }
}
