//! `Slice` (bounds are operands since opset 10, attributes before): every `step`-th element of a
//! range along some axes.
//!
//! Source: onnx/defs/tensor/defs.cc. Bounds out of range are clamped; negative ones count from the
//! end, so that a negative step reaches the first element only with an end below `-dim`.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::cells::moved;
use crate::emit::{Emit, args};
use crate::grad::SliceGrad;
use crate::ints::{axes, const_ints, ints};
use crate::operands::{count, need, optional};
use crate::strided::View;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Slice", parse: Slice::parse }];

/// `Slice(data, starts, ends, axes?, steps?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The bounds, when they are attributes (before opset 10).
    pub bounds: Option<Bounds>,
}

/// Ranges along axes; all lists are of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First element.
    pub starts: Vec<i64>,
    /// After the last element.
    pub ends: Vec<i64>,
    /// The axes, the first ones when absent.
    pub axes: Option<Vec<i64>>,
    /// Distances between elements that are taken, 1 when absent.
    pub steps: Option<Vec<i64>>,
}

/// What is taken along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    len: usize,
    step: i64,
}

impl Bounds {
    /// Axis, start, end and step of each range.
    fn list(&self, rank: usize) -> Result<Vec<(usize, i64, i64, i64)>, TypeError> {
        let count = self.starts.len();
        let all: Vec<i64> = (0..rank.min(count) as i64).collect();
        let list = self.axes.as_ref().unwrap_or(&all);
        let steps = self.steps.clone().unwrap_or_else(|| vec![1; count]);
        if [self.ends.len(), list.len(), steps.len()] != [count; 3] {
            return Err(TypeError::other("Slice", "bounds are of different length"));
        }
        if steps.contains(&0) {
            return Err(TypeError::other("Slice", "a step is 0"));
        }
        let list = axes("Slice", list, rank)?;
        let bounds = self.starts.iter().zip(&self.ends);
        Ok(list.into_iter().zip(bounds).zip(steps).map(|((a, (s, e)), p)| (a, *s, *e, p)).collect())
    }
}

fn range(dim: usize, start: i64, end: i64, step: i64) -> Range {
    let signed = dim as i64;
    let from_front = |it: i64| if it < 0 { it.saturating_add(signed) } else { it };
    let (start, end) = (from_front(start), from_front(end));
    let (start, len) = if step > 0 {
        let (start, end) = (start.clamp(0, signed), end.clamp(0, signed));
        (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
    } else {
        let (start, end) = (start.clamp(-1, signed - 1), end.clamp(-1, signed - 1));
        (start.max(0), (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
    };
    Range { start: start as usize, len: len as usize, step }
}

/// The result along an axis whose dimension may be a symbol.
fn sliced(dim: &Dim, start: i64, end: i64, step: i64) -> Dim {
    match dim {
        Dim::Known(it) => Dim::Known(range(*it, start, end, step).len),
        // The largest integers of 32 and 64 bits stand for the end of any dimension.
        symbol if start == 0 && step == 1 && end >= i64::from(i32::MAX) => symbol.clone(),
        _ if (start >= 0) == (end >= 0) && (start >= end) == (step > 0) => Dim::Known(0),
        _ => Dim::Unknown,
    }
}

impl Slice {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        if reader.opset() >= 10 {
            return Ok(Arc::new(Self { bounds: None }));
        }
        let need = |name: &str| {
            let list = reader.opt_ints(name)?.ok_or_else(|| reader.missing(name))?;
            Ok::<_, AttrError>(list.to_vec())
        };
        let bounds = Bounds {
            starts: need("starts")?,
            ends: need("ends")?,
            axes: reader.opt_ints("axes")?.map(<[i64]>::to_vec),
            steps: None,
        };
        Ok(Arc::new(Self { bounds: Some(bounds) }))
    }

    fn operands(&self, inputs: &[Option<&Tensor>]) -> Result<Bounds, TypeError> {
        if let Some(bounds) = &self.bounds {
            return Ok(bounds.clone());
        }
        let list = |index| ints("Slice", need("Slice", inputs, index)?);
        let more = |index| optional(inputs, index).map(|it| ints("Slice", it)).transpose();
        Ok(Bounds { starts: list(1)?, ends: list(2)?, axes: more(3)?, steps: more(4)? })
    }

    /// What is taken of a tensor of these dimensions; the operands are those of the operator.
    ///
    /// # Errors
    /// When the bounds do not fit.
    pub(crate) fn view(
        &self,
        dims: &[usize],
        inputs: &[Option<&Tensor>],
    ) -> Result<View, TypeError> {
        let mut view = View::of(dims);
        for (axis, start, end, step) in self.operands(inputs)?.list(dims.len())? {
            let range = range(dims[axis], start, end, step);
            view.dims[axis] = range.len;
            view.start += view.strides[axis] * range.start as isize;
            // Of one element or none the step is not used, and may be of any size.
            let step = if range.len > 1 { range.step as isize } else { 1 };
            view.strides[axis] *= step;
        }
        Ok(view)
    }

    /// Dimensions when the bounds are no constants: those of axes that are not cut, if it is known
    /// which.
    fn uncut(dims: &[Dim], inputs: &[Option<Input<'_>>]) -> Result<Vec<Dim>, TypeError> {
        let cut = match optional(inputs, 3) {
            Some(_) => const_ints("Slice", optional(inputs, 3))?,
            None => optional(inputs, 1)
                .and_then(crate::ints::vector_len)
                .map(|it| (0..it.min(dims.len()) as i64).collect()),
        };
        let Some(cut) = cut else { return Ok(vec![Dim::Unknown; dims.len()]) };
        let mut dims = dims.to_vec();
        for axis in axes("Slice", &cut, dims.len())? {
            dims[axis] = Dim::Unknown;
        }
        Ok(dims)
    }
}

impl Op for Slice {
    fn name(&self) -> &str {
        "Slice"
    }

    fn attrs(&self) -> Attrs {
        let Some(bounds) = &self.bounds else { return Attrs::new() };
        let mut attrs: Attrs = vec![
            ("starts".into(), bounds.starts.clone().into()),
            ("ends".into(), bounds.ends.clone().into()),
        ];
        attrs.extend(bounds.axes.clone().map(|it| ("axes".into(), it.into())));
        attrs
    }

    /// `data: T[..]`, bounds `i64[A]` give `T[..]` of the same rank.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Slice", inputs, 1, 5)?;
        let data = need("Slice", inputs, 0)?;
        let Some(dims) = data.ty.shape() else { return Ok(vec![data.ty.clone()]) };
        let values: Vec<Option<&Tensor>> =
            inputs.iter().map(|it| it.and_then(|it| it.value)).collect();
        let known = |index| optional(inputs, index).is_none() || optional(&values, index).is_some();
        let dims = if self.bounds.is_some() || (1..5).all(known) {
            let mut dims = dims.to_vec();
            for (axis, start, end, step) in self.operands(&values)?.list(dims.len())? {
                dims[axis] = sliced(&dims[axis], start, end, step);
            }
            dims
        } else {
            Self::uncut(dims, inputs)?
        };
        Ok(vec![data.ty.with_shape(Some(dims))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Slice", inputs, 1, 5)?;
        let data = need("Slice", inputs, 0)?;
        let view = self.view(data.dims(), inputs)?;
        if view.dims == data.dims() && view.strides.iter().all(|&it| it >= 0) {
            return Ok(vec![data.clone()]);
        }
        let out = moved("Slice", cx, data, view.dims.clone(), |from, width, to| {
            view.copy(from, width, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let mut inputs = vec![Some(g), Some(b.shape_of(x))];
        match &self.bounds {
            None => inputs.extend(io.inputs.iter().skip(1)),
            Some(bounds) => {
                let lists = [Some(&bounds.starts), Some(&bounds.ends), bounds.axes.as_ref()];
                inputs.extend(lists.map(|it| it.map(|it| b.ints(it))));
            }
        }
        Ok(vec![Some(b.op_with(Arc::new(SliceGrad), &inputs))])
    }
}

#[cfg(test)]
mod tests {
    use qcc_tensor::DType;

    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn taken(len: usize, start: i64, end: i64, step: i64) -> Vec<usize> {
        let it = range(len, start, end, step);
        (0..it.len).map(|k| (it.start as i64 + k as i64 * it.step) as usize).collect()
    }

    #[test]
    fn ranges_are_those_of_python() {
        assert_eq!(taken(5, 1, 4, 2), [1, 3]);
        assert_eq!(taken(5, -2, i64::MAX, 1), [3, 4]);
        assert_eq!(taken(5, i64::MIN, 2, 1), [0, 1]);
        assert_eq!(taken(5, -1, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(taken(5, 20, 0, -4), [4]);
        assert_eq!(taken(5, 3, 3, 1), [0usize; 0]);
        assert_eq!(taken(0, 0, 9, 1), [0usize; 0]);
        assert_eq!(taken(0, 0, i64::MIN, -1), [0usize; 0]);
        assert_eq!(taken(5, 4, i64::MIN, i64::MIN), [4]);
    }

    fn inferred(starts: i64, ends: i64, steps: i64) -> String {
        let dims = [Dim::symbol("b"), Dim::symbol("s"), Dim::Known(8)];
        let ty = Type::tensor(DType::F32, dims);
        let values = [starts, ends, 1, steps].map(|it| Tensor::vector(vec![it]));
        let types = values.each_ref().map(Type::of);
        let mut inputs = vec![Some(Input { ty: &ty, value: None })];
        inputs
            .extend(types.iter().zip(&values).map(|(ty, it)| Some(Input { ty, value: Some(it) })));
        Slice { bounds: None }.infer(&inputs, 1).unwrap()[0].to_string()
    }

    #[test]
    fn whole_symbols_stay() {
        assert_eq!(inferred(0, i64::MAX, 1), "f32[b, s, 8]");
        assert_eq!(inferred(1, i64::MAX, 1), "f32[b, ?, 8]");
        assert_eq!(inferred(0, i64::MAX, 2), "f32[b, ?, 8]");
        assert_eq!(inferred(2, 2, 1), "f32[b, 0, 8]");
        assert_eq!(inferred(-1, i64::MAX, 1), "f32[b, ?, 8]");
    }

    #[test]
    fn bounds_are_attributes_before_10() {
        let attrs: Attrs = vec![
            ("starts".into(), vec![1].into()),
            ("ends".into(), vec![-1].into()),
            ("axes".into(), vec![1].into()),
        ];
        let op = crate::parse("", "Slice", 9, attrs.clone()).unwrap();
        assert_eq!(op.attrs(), attrs);
        let x = Tensor::from_vec(vec![2, 4], (0..8).collect::<Vec<i32>>()).unwrap();
        let out = op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(&*out.as_slice::<i32>().unwrap(), [1, 2, 5, 6]);
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = Slice { bounds: None };
        let x = || values(&[4, 7]);
        check_vjp(&op, &[x(), ints(&[1]), ints(&[i64::MAX])], 1);
        check_vjp(&op, &[x(), ints(&[1, -2]), ints(&[3, 0]), ints(&[0, 1]), ints(&[1, -2])], 1);
        check_vjp(&op, &[x(), ints(&[5]), ints(&[5]), ints(&[1])], 1);
        let bounds = Bounds { starts: vec![2], ends: vec![6], axes: Some(vec![1]), steps: None };
        check_vjp(&Slice { bounds: Some(bounds) }, &[x()], 1);
    }
}
