//! `Scatter` (opset 9), `ScatterElements` (11) and `ScatterND` (11): a copy of the operand with
//! some elements replaced or combined.
//!
//! `reduction` is `none`, `add` or `mul` since opset 16, also `max` or `min` since 18. Updates of
//! one place are applied in order. Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::cells::Cells;
use crate::combine::{Combine, combiner};
use crate::emit::{Emit, args, no_vjp};
use crate::gather::{GatherElements, GatherNd, elements, slices};
use crate::ints::dtype;
use crate::operands::{self, count, need};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Scatter", parse: ScatterElements::parse },
    OpDef { domain: "", name: "ScatterElements", parse: ScatterElements::parse },
    OpDef { domain: "", name: "ScatterND", parse: ScatterNd::parse },
];

fn reduction(reader: &AttrReader<'_>) -> Result<Option<Combine>, AttrError> {
    Ok(match reader.str("reduction", "none")? {
        "none" => None,
        "add" => Some(Combine::Add),
        "mul" => Some(Combine::Mul),
        "max" => Some(Combine::Max),
        "min" => Some(Combine::Min),
        _ => return Err(reader.error("reduction", "is not none, add, mul, max or min")),
    })
}

fn reduction_attr(attrs: &mut Attrs, reduction: Option<Combine>) {
    let name = match reduction {
        None => return,
        Some(Combine::Add) => "add",
        Some(Combine::Mul) => "mul",
        Some(Combine::Max) => "max",
        Some(Combine::Min) => "min",
    };
    attrs.push(("reduction".into(), name.into()));
}

/// Copies `data` and writes blocks of `block` elements of `updates` at `places`.
fn scattered(
    op: &str,
    cx: &EvalCx,
    (data, updates): (&Tensor, &Tensor),
    (places, block): (&[usize], usize),
    reduction: Option<Combine>,
) -> Result<Tensor, EvalError> {
    let mut cells = Cells::new(data.dtype());
    let (from, news) = (cells.read(op, data)?, cells.read(op, updates)?);
    let combine = match reduction {
        None => None,
        Some(it) => {
            let combine = combiner(data.dtype(), it);
            Some(combine.ok_or_else(|| dtype(op, data.dtype()))?)
        }
    };
    let mut room = cells.room(cx, data.dims())?;
    let (out, width) = (room.bytes(), cells.width());
    out.copy_from_slice(&from);
    let size = block * width;
    if size > 0 {
        for (&place, new) in places.iter().zip(news.chunks_exact(size)) {
            let old = &mut out[place * width..][..size];
            match combine {
                None => old.copy_from_slice(new),
                Some(combine) => combine(old, new),
            }
        }
    }
    cells.tensor(cx, data.dims().to_vec(), room)
}

fn same_rank(op: &str, a: Input<'_>, b: Input<'_>) -> Result<(), TypeError> {
    match (a.ty.shape(), b.ty.shape()) {
        (Some(a), Some(b)) if a.len() != b.len() => Err(TypeError::shapes(op, a, b)),
        _ => Ok(()),
    }
}

fn mismatch(op: &str, a: &[usize], b: &[usize]) -> EvalError {
    let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
    TypeError::shapes(op, &dims(a), &dims(b)).into()
}

/// Single elements: `out[i.. with indices[i..] at the axis] = updates[i..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScatterElements {
    /// Whether it is spelled `Scatter`, the name before opset 11.
    pub legacy: bool,
    /// The axis of `data`; negative counts from the end.
    pub axis: i64,
    /// How updates meet what is there; they replace it when absent.
    pub reduction: Option<Combine>,
}

impl ScatterElements {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let legacy = reader.op() == "Scatter";
        let reduction = if legacy { None } else { reduction(reader)? };
        Ok(Arc::new(Self { legacy, axis: reader.int("axis", 0)?, reduction }))
    }
}

impl Op for ScatterElements {
    fn name(&self) -> &str {
        if self.legacy { "Scatter" } else { "ScatterElements" }
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("axis".into(), self.axis.into())];
        reduction_attr(&mut attrs, self.reduction);
        attrs
    }

    /// `data: T[..]`, `indices: i64[I..]`, `updates: T[I..]`, all of one rank, give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 3, 3)?;
        let data = need(self.name(), inputs, 0)?;
        for index in 1..3 {
            same_rank(self.name(), data, need(self.name(), inputs, index)?)?;
        }
        if let Some(rank) = data.ty.rank() {
            operands::axis(self.name(), self.axis, rank)?;
        }
        Ok(vec![data.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = self.name();
        count(op, inputs, 3, 3)?;
        let (data, indices) = (need(op, inputs, 0)?, need(op, inputs, 1)?);
        let updates = need(op, inputs, 2)?;
        if indices.dims() != updates.dims() {
            return Err(mismatch(op, indices.dims(), updates.dims()));
        }
        let axis = operands::axis(op, self.axis, data.rank())?;
        let places = elements(op, data.dims(), indices, axis)?;
        Ok(vec![scattered(op, cx, (data, updates), (&places, 1), self.reduction)?])
    }

    /// Zero where an element was replaced. ONNX leaves open which of two updates of one place stays.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_, indices, updates]) = args(self, io, dy)?;
        let data = match self.reduction {
            Some(Combine::Add) => g,
            Some(_) => return Err(no_vjp(self, "of this reduction")),
            None => {
                let zeros = b.zeros_like(updates);
                b.apply(self.clone(), &[g, indices, zeros])
            }
        };
        let gather = GatherElements { axis: self.axis };
        let updates = io.wants(2).then(|| b.apply(gather, &[g, indices]));
        Ok(vec![Some(data), None, updates])
    }
}

/// Slices by several coordinates: `out[indices[i.., :]..] = updates[i..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScatterNd {
    /// How updates meet what is there; they replace it when absent.
    pub reduction: Option<Combine>,
}

impl ScatterNd {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { reduction: reduction(reader)? }))
    }
}

impl Op for ScatterNd {
    fn name(&self) -> &str {
        "ScatterND"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        reduction_attr(&mut attrs, self.reduction);
        attrs
    }

    /// `data: T[X.., C..]`, `indices: i64[I.., count(X)]`, `updates: T[I.., C..]` give
    /// `T[X.., C..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("ScatterND", inputs, 3, 3)?;
        Ok(vec![need("ScatterND", inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = "ScatterND";
        count(op, inputs, 3, 3)?;
        let (data, indices) = (need(op, inputs, 0)?, need(op, inputs, 1)?);
        let updates = need(op, inputs, 2)?;
        let places = slices(op, data.dims(), indices, 0)?;
        let Some((&depth, outer)) = indices.dims().split_last() else { return Ok(Vec::new()) };
        let rest = &data.dims()[depth..];
        if updates.dims() != [outer, rest].concat() {
            return Err(mismatch(op, data.dims(), updates.dims()));
        }
        let block = rest.iter().product();
        Ok(vec![scattered(op, cx, (data, updates), (&places, block), self.reduction)?])
    }

    /// Zero where an element was replaced. ONNX leaves open which of two updates of one place stays.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_, indices, updates]) = args(self, io, dy)?;
        let data = match self.reduction {
            Some(Combine::Add) => g,
            Some(_) => return Err(no_vjp(self, "of this reduction")),
            None => {
                let zeros = b.zeros_like(updates);
                b.apply(self.clone(), &[g, indices, zeros])
            }
        };
        let gather = GatherNd { batch_dims: 0 };
        let updates = io.wants(2).then(|| b.apply(gather, &[g, indices]));
        Ok(vec![Some(data), None, updates])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};

    fn run(op: &dyn Op, dims: &[usize], indices: Vec<i64>, updates: Vec<f32>) -> Option<Vec<f32>> {
        let data = Tensor::from_vec(vec![2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let indices = Tensor::from_vec(dims.to_vec(), indices).unwrap();
        let dims = if updates.len() == 1 { vec![1, 1] } else { vec![1, 2] };
        let updates = Tensor::from_vec(dims, updates).unwrap();
        let inputs = [Some(&data), Some(&indices), Some(&updates)];
        let out = op.eval(&EvalCx::default(), &inputs, 1).ok()?.remove(0);
        Some(out.to_f32().unwrap().to_vec())
    }

    #[test]
    fn later_updates_see_earlier_ones() {
        let op = |reduction| ScatterElements { legacy: false, axis: 1, reduction };
        let run = |op: &dyn Op| run(op, &[1, 2], vec![0, -2], vec![5.0, 7.0]);
        assert_eq!(run(&op(None)), Some(vec![7.0, 2.0, 3.0, 4.0]));
        assert_eq!(run(&op(Some(Combine::Add))), Some(vec![13.0, 2.0, 3.0, 4.0]));
        assert_eq!(run(&op(Some(Combine::Mul))), Some(vec![35.0, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn rows_are_replaced() {
        let op = ScatterNd { reduction: None };
        assert_eq!(run(&op, &[1, 1], vec![1], vec![8.0, 9.0]), Some(vec![1.0, 2.0, 8.0, 9.0]));
        assert_eq!(run(&op, &[1, 1], vec![2], vec![8.0, 9.0]), None);
        assert_eq!(run(&op, &[1, 1], vec![1], vec![8.0]), None);
        assert_eq!(run(&op, &[1, 3], vec![0, 0, 0], vec![8.0]), None);
    }

    #[test]
    fn attributes_make_the_same_operator() {
        let op = ScatterElements { legacy: false, axis: -1, reduction: Some(Combine::Max) };
        let again = crate::parse("", "ScatterElements", 18, op.attrs()).unwrap();
        assert_eq!(again.is::<ScatterElements>(), Some(&op));
        assert!(crate::parse("", "Scatter", 9, op.attrs()).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        let matrix = |list: &[i64], dims: &[usize]| {
            Tensor::from_vec(dims.to_vec(), list.to_vec()).unwrap().into()
        };
        for reduction in [None, Some(Combine::Add)] {
            let op = ScatterElements { legacy: false, axis: 1, reduction };
            let list = matrix(&[0, 2, -1, 1], &[2, 2]);
            check_vjp(&op, &[values(&[2, 4]), list, values(&[2, 2])], 1);
            let op = ScatterNd { reduction };
            check_vjp(&op, &[values(&[4, 3]), matrix(&[3, 1], &[2, 1]), values(&[2, 3])], 1);
        }
    }
}
