//! `qcc::ScatterAdd(g, indices, shape)` and `qcc::SliceGrad(g, shape, starts, ends, axes?, steps?)`:
//! derivatives of `Gather` and `Slice`, zeros with elements put where they came from.
//!
//! Elements that came from one place are added in the order of the indices.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::cells::Cells;
use crate::combine::{Combine, combiner};
use crate::ints::{const_ints, dtype, ints, positions, sizes, unknown_dims, vector_len};
use crate::operands::{self, count, need};
use crate::quant::DOMAIN;
use crate::slice::Slice;
use crate::strided::put;
use crate::{AttrError, AttrReader};

/// The type of zeros of a shape that an operand holds.
fn zeros_type(
    op: &str,
    inputs: &[Option<Input<'_>>],
    shape: usize,
) -> Result<Vec<Type>, TypeError> {
    let shape = need(op, inputs, shape)?;
    let dims = match const_ints(op, Some(shape))? {
        Some(dims) => Some(sizes(op, &dims)?.into_iter().map(Dim::Known).collect()),
        None => unknown_dims(vector_len(shape)),
    };
    Ok(vec![need(op, inputs, 0)?.ty.with_shape(dims)])
}

/// Zeros of a shape, to which the slices of an axis that `indices` name are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScatterAdd {
    /// The axis of the result; negative counts from the end.
    pub axis: i64,
}

impl ScatterAdd {
    const NAME: &'static str = "ScatterAdd";

    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.int("axis", 0)? }))
    }
}

impl Op for ScatterAdd {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `g: T[A.., I.., B..]`, `indices: i64[I..]`, `shape: i64[R]` give `T[A.., X, B..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(Self::NAME, inputs, 3, 3)?;
        zeros_type(Self::NAME, inputs, 2)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = Self::NAME;
        let (g, indices) = (need(op, inputs, 0)?, need(op, inputs, 1)?);
        let dims = sizes(op, &ints(op, need(op, inputs, 2)?)?)?;
        let axis = operands::axis(op, self.axis, dims.len())?;
        let (before, after) = (&dims[..axis], &dims[axis + 1..]);
        if g.dims() != [before, indices.dims(), after].concat() {
            return Err(TypeError::other(op, "operands do not fit the shape").into());
        }
        let list = positions(op, indices, dims[axis])?;
        let mut cells = Cells::new(g.dtype());
        let add = combiner(g.dtype(), Combine::Add).ok_or_else(|| dtype(op, g.dtype()))?;
        let mut room = cells.room(cx, &dims)?;
        let (out, width) = (room.bytes(), cells.width());
        out.fill(0);
        let block = after.iter().product::<usize>() * width;
        if block > 0 && !list.is_empty() {
            let from = cells.read(op, g)?;
            let outs = out.chunks_exact_mut(block * dims[axis]);
            for (out, from) in outs.zip(from.chunks_exact(block * list.len())) {
                for (&at, new) in list.iter().zip(from.chunks_exact(block)) {
                    add(&mut out[at * block..][..block], new);
                }
            }
        }
        Ok(vec![cells.tensor(cx, dims, room)?])
    }
}

/// Zeros of a shape, with the elements that a slice takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceGrad;

impl SliceGrad {
    const NAME: &'static str = "SliceGrad";
}

impl Op for SliceGrad {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `g: T[..]`, `shape: i64[R]`, bounds `i64[A]` give `T[shape]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(Self::NAME, inputs, 4, 6)?;
        zeros_type(Self::NAME, inputs, 1)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = Self::NAME;
        let g = need(op, inputs, 0)?;
        let dims = sizes(op, &ints(op, need(op, inputs, 1)?)?)?;
        // The bounds stand where `Slice` has them, one place further on.
        let view = Slice { bounds: None }.view(&dims, &inputs[1..])?;
        if view.dims != g.dims() {
            return Err(TypeError::other(op, "operands do not fit the shape").into());
        }
        let mut cells = Cells::new(g.dtype());
        let mut room = cells.room(cx, &dims)?;
        let width = cells.width();
        room.bytes().fill(0);
        if !g.is_empty() {
            put(&cells.read(op, g)?, width, &view, room.bytes());
        }
        Ok(vec![cells.tensor(cx, dims, room)?])
    }
}
