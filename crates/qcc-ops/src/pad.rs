//! `Pad` (amounts are operands since opset 11, attributes before; `axes` since 18, mode `wrap`
//! since 19): elements before and after along each axis. Negative amounts take elements away.
//!
//! Modes: `constant`, `edge` (the outermost element), `reflect` (mirrored at it) and `wrap`
//! (from the other side). Source: onnx/defs/tensor/defs.cc.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor, TensorError};

use crate::cells::{Cells, fill, moved};
use crate::emit::{Emit, args, no_vjp};
use crate::ints::{axes, const_ints, ints, unknown_dims};
use crate::operands::{count, need, optional};
use crate::strided::{View, put, take};
use crate::unary::Unary;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Pad", parse: Pad::parse }];

/// What stands in the new places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// One value.
    Constant,
    /// The outermost element.
    Edge,
    /// The elements mirrored at the outermost one, which is not repeated.
    Reflect,
    /// The elements of the other side.
    Wrap,
}

/// `Pad(data, pads, constant_value?, axes?)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// What stands in the new places.
    pub mode: PadMode,
    /// Amounts, all begins and then all ends, when they are an attribute (before opset 11).
    pub pads: Option<Vec<i64>>,
    /// The constant, when it is an attribute (before opset 11).
    pub value: Option<f32>,
}

impl Pad {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let mode = match reader.str("mode", "constant")? {
            "constant" => PadMode::Constant,
            "edge" => PadMode::Edge,
            "reflect" => PadMode::Reflect,
            "wrap" => PadMode::Wrap,
            _ => return Err(reader.error("mode", "is not constant, edge, reflect or wrap")),
        };
        if reader.opset() >= 11 {
            return Ok(Arc::new(Self { mode, pads: None, value: None }));
        }
        let pads = reader.opt_ints("pads")?.ok_or_else(|| reader.missing("pads"))?.to_vec();
        Ok(Arc::new(Self { mode, pads: Some(pads), value: reader.opt_float("value")? }))
    }
}

/// Amounts before and after along each of `rank` axes.
fn amounts(pads: &[i64], list: Option<&[i64]>, rank: usize) -> Result<Vec<[i64; 2]>, TypeError> {
    let all: Vec<i64> = (0..rank as i64).collect();
    let list = axes("Pad", list.unwrap_or(&all), rank)?;
    if pads.len() != 2 * list.len() {
        let what = format!("{} amounts for {} axes", pads.len(), list.len());
        return Err(TypeError::other("Pad", what));
    }
    let (begins, ends) = pads.split_at(list.len());
    let mut out = vec![[0; 2]; rank];
    for ((axis, &begin), &end) in list.into_iter().zip(begins).zip(ends) {
        out[axis] = [begin, end];
    }
    Ok(out)
}

fn padded(dim: usize, [begin, end]: [i64; 2]) -> Result<usize, TypeError> {
    let sum = i128::from(begin) + i128::from(end) + dim as i128;
    usize::try_from(sum).map_err(|_| TypeError::other("Pad", format!("{dim} becomes {sum}")))
}

/// The element of an axis that stands in each place of the result.
fn sources(mode: PadMode, dim: usize, [begin, end]: [i64; 2]) -> Result<Vec<usize>, TypeError> {
    let len = padded(dim, [begin, end])?;
    let cut = |it: i64| usize::try_from(it.saturating_neg()).unwrap_or(0).min(dim);
    let (first, last) = (cut(begin), dim - cut(end));
    let begin = begin.max(0);
    let Some(count) = last.checked_sub(first).filter(|&it| it > 0) else {
        return if len == 0 {
            Ok(Vec::new())
        } else {
            Err(TypeError::other("Pad", "is of nothing"))
        };
    };
    let count = count as i64;
    let source = |at: usize| {
        let at = at as i64 - begin;
        let at = match mode {
            PadMode::Constant | PadMode::Edge => at.clamp(0, count - 1),
            PadMode::Wrap => at.rem_euclid(count),
            PadMode::Reflect if count == 1 => 0,
            PadMode::Reflect => {
                let at = at.rem_euclid(2 * (count - 1));
                at.min(2 * (count - 1) - at)
            }
        };
        first + at as usize
    };
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| TypeError::other("Pad", "is too large"))?;
    out.extend((0..len).map(source));
    Ok(out)
}

/// `tensor` with `value`, or zero, around it; `amounts` are those before and after along each axis.
pub(crate) fn pad_constant(
    op: &str,
    cx: &EvalCx,
    tensor: &Tensor,
    amounts: &[[i64; 2]],
    value: Option<&Tensor>,
) -> Result<Tensor, EvalError> {
    let mut cells = Cells::new(tensor.dtype());
    let width = cells.width();
    let (from, cell) = (
        cells.read(op, tensor)?,
        match value {
            Some(it) => cells.read(op, it)?,
            None => Cow::Owned(cells.zero()),
        },
    );
    if cell.len() != width {
        return Err(TypeError::other(op, "the constant is not one element").into());
    }
    let mut dims = Vec::with_capacity(amounts.len());
    for (&dim, &amount) in tensor.dims().iter().zip(amounts) {
        dims.push(padded(dim, amount)?);
    }
    let mut room = cells.room(cx, &dims)?;
    if dims.contains(&0) {
        // The other dimensions may be of any size, and places in them have no numbers.
        return cells.tensor(cx, dims, room);
    }
    fill(room.bytes(), &cell);
    // What stays of the operand, and where it goes.
    let (mut stays, mut place) = (View::of(tensor.dims()), View::of(&dims));
    for (axis, &[begin, end]) in amounts.iter().enumerate() {
        let cut = |it: i64| usize::try_from(it.saturating_neg()).unwrap_or(0);
        let left = stays.dims[axis].saturating_sub(cut(begin)).saturating_sub(cut(end));
        (stays.dims[axis], place.dims[axis]) = (left, left);
        if left > 0 {
            stays.start += cut(begin) as isize * stays.strides[axis];
            place.start += begin.max(0) as isize * place.strides[axis];
        }
    }
    if stays.dims == tensor.dims() {
        put(&from, width, &place, room.bytes());
    } else if !stays.dims.contains(&0) {
        let mut inner = vec![0; stays.dims.iter().product::<usize>() * width];
        stays.copy(&from, width, &mut inner);
        put(&inner, width, &place, room.bytes());
    }
    cells.tensor(cx, dims, room)
}

impl Op for Pad {
    fn name(&self) -> &str {
        "Pad"
    }

    fn attrs(&self) -> Attrs {
        let mode = match self.mode {
            PadMode::Constant => "constant",
            PadMode::Edge => "edge",
            PadMode::Reflect => "reflect",
            PadMode::Wrap => "wrap",
        };
        let mut attrs: Attrs = vec![("mode".into(), mode.into())];
        attrs.extend(self.pads.clone().map(|it| ("pads".into(), it.into())));
        attrs.extend(self.value.map(|it| ("value".into(), it.into())));
        attrs
    }

    /// `data: T[..]`, `pads: i64[2 * A]`, `constant_value: T[]`, `axes: i64[A]` give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Pad", inputs, 1, 4)?;
        let data = need("Pad", inputs, 0)?;
        let Some(dims) = data.ty.shape() else { return Ok(vec![data.ty.clone()]) };
        let pads = match &self.pads {
            Some(it) => Some(it.clone()),
            None => const_ints("Pad", Some(need("Pad", inputs, 1)?))?,
        };
        let list = const_ints("Pad", optional(inputs, 3))?;
        let is_listed = optional(inputs, 3).is_none() || list.is_some();
        let Some(pads) = pads.filter(|_| is_listed) else {
            return Ok(vec![data.ty.with_shape(unknown_dims(Some(dims.len())))]);
        };
        let amounts = amounts(&pads, list.as_deref(), dims.len())?;
        let dim = |(dim, amount): (&Dim, [i64; 2])| match dim {
            dim if amount == [0, 0] => Ok(dim.clone()),
            Dim::Known(it) => Ok(Dim::Known(padded(*it, amount)?)),
            _ => Ok(Dim::Unknown),
        };
        let dims = dims.iter().zip(amounts).map(dim).collect::<Result<_, TypeError>>()?;
        Ok(vec![data.ty.with_shape(Some(dims))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Pad", inputs, 1, 4)?;
        let data = need("Pad", inputs, 0)?;
        let pads = match &self.pads {
            Some(it) => it.clone(),
            None => ints("Pad", need("Pad", inputs, 1)?)?,
        };
        let list = optional(inputs, 3).map(|it| ints("Pad", it)).transpose()?;
        let amounts = amounts(&pads, list.as_deref(), data.rank())?;
        if self.mode == PadMode::Constant {
            let legacy = match self.value {
                Some(value) => Some(constant(value, data)?),
                None => None,
            };
            let value = legacy.as_ref().or_else(|| optional(inputs, 2));
            return Ok(vec![pad_constant("Pad", cx, data, &amounts, value)?]);
        }
        let mut out = data.clone();
        for (axis, &amount) in amounts.iter().enumerate().filter(|it| *it.1 != [0, 0]) {
            let dim = out.dims()[axis];
            let list = sources(self.mode, dim, amount)?;
            let mut dims = out.dims().to_vec();
            dims[axis] = list.len();
            let block: usize = dims[axis + 1..].iter().product();
            out = moved("Pad", cx, &out, dims, |from, width, to| {
                take(from, dim, block * width, &list, to);
            })?;
        }
        Ok(vec![out])
    }

    /// What was added goes, and what was taken away is zero.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if self.mode != PadMode::Constant {
            return Err(no_vjp(self, "of this mode"));
        }
        if io.wants(2) {
            return Err(no_vjp(self, "by its constant"));
        }
        let (g, _, [_]) = args(self, io, dy)?;
        let pads = match (&self.pads, io.input(1)) {
            (Some(pads), _) => {
                let less: Vec<i64> = pads.iter().map(|it| it.wrapping_neg()).collect();
                b.ints(&less)
            }
            (None, Some(pads)) => match b.tensor(pads).and_then(|it| it.to_i64().ok()) {
                Some(list) => {
                    let less: Vec<i64> = list.iter().map(|it| it.wrapping_neg()).collect();
                    b.ints(&less)
                }
                None => b.apply(Unary::Neg, &[pads]),
            },
            (None, None) => return Err(no_vjp(self, "an operand is absent")),
        };
        let cut = Self { mode: PadMode::Constant, pads: None, value: None };
        let axes = io.input(3);
        Ok(vec![Some(b.op_with(Arc::new(cut), &[Some(g), Some(pads), None, axes]))])
    }
}

/// A float in the element type of a tensor of floats.
fn constant(value: f32, like: &Tensor) -> Result<Tensor, EvalError> {
    use qcc_tensor::DType;
    Ok(match like.dtype() {
        DType::F32 => Tensor::scalar(value),
        DType::F64 => Tensor::scalar(f64::from(value)),
        DType::F16 => Tensor::scalar(half::f16::from_f32(value)),
        DType::BF16 => Tensor::scalar(half::bf16::from_f32(value)),
        got => return Err(TensorError::DType { want: DType::F32, got }.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn run(mode: PadMode, x: Vec<i32>, pads: [i64; 2]) -> Option<Vec<i32>> {
        let op = Pad { mode, pads: None, value: None };
        let (x, pads) = (Tensor::vector(x), Tensor::vector(pads.to_vec()));
        let inputs = [Some(&x), Some(&pads)];
        let out = op.eval(&EvalCx::default(), &inputs, 1).ok()?.remove(0);
        let types = [Type::of(&x), Type::of(&pads)];
        let typed = [(&types[0], &x), (&types[1], &pads)];
        let typed = typed.map(|(ty, it)| Some(Input { ty, value: Some(it) }));
        assert_eq!(op.infer(&typed, 1).unwrap()[0], Type::of(&out));
        Some(out.as_slice::<i32>().unwrap().to_vec())
    }

    #[test]
    fn modes() {
        let x = vec![1, 2, 3];
        let run = |mode, pads| run(mode, x.clone(), pads).unwrap();
        assert_eq!(run(PadMode::Constant, [1, 2]), [0, 1, 2, 3, 0, 0]);
        assert_eq!(run(PadMode::Edge, [1, 2]), [1, 1, 2, 3, 3, 3]);
        assert_eq!(run(PadMode::Reflect, [2, 3]), [3, 2, 1, 2, 3, 2, 1, 2]);
        assert_eq!(run(PadMode::Wrap, [1, 4]), [3, 1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn negative_amounts_cut() {
        let x = vec![1, 2, 3];
        for mode in [PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
            assert_eq!(run(mode, x.clone(), [-1, 0]).unwrap(), [2, 3]);
            assert_eq!(run(mode, x.clone(), [-1, -2]).unwrap(), [0; 0]);
            assert_eq!(run(mode, x.clone(), [-4, 0]), None);
            assert_eq!(run(mode, x.clone(), [i64::MAX, i64::MAX]), None);
        }
        assert_eq!(run(PadMode::Wrap, x.clone(), [-1, 2]).unwrap(), [2, 3, 2, 3]);
        assert_eq!(run(PadMode::Constant, x, [1, -2]).unwrap(), [0, 1]);
    }

    #[test]
    fn amounts_are_attributes_before_11() {
        let attrs: Attrs = vec![
            ("mode".into(), "constant".into()),
            ("pads".into(), vec![0, 1, 0, 0].into()),
            ("value".into(), 9.0.into()),
        ];
        let op = crate::parse("", "Pad", 10, attrs.clone()).unwrap();
        assert_eq!(op.attrs(), attrs);
        let x = Tensor::from_vec(vec![2, 1], vec![1f32, 2.0]).unwrap();
        let out = op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(&*out.to_f32().unwrap(), [9.0, 1.0, 9.0, 2.0]);
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = Pad { mode: PadMode::Constant, pads: None, value: None };
        check_vjp(&op, &[values(&[2, 5]), ints(&[1, -1, 0, 2])], 1);
        let op = Pad { pads: Some(vec![0, 2, 1, -3]), value: Some(7.0), ..op };
        check_vjp(&op, &[values(&[2, 5])], 1);
    }
}
