//! Operators along one axis: `ArgMax`, `ArgMin` (ONNX opset 13), `CumSum` (opset 14) and
//! `LpNormalization` (opset 22).

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::emit::{Emit, args};
use crate::numeric::{Number, build, with_number, wrong_type};
use crate::operands::{axis, one, two};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "ArgMax", parse: ArgExtreme::parse },
    OpDef { domain: "", name: "ArgMin", parse: ArgExtreme::parse },
    OpDef { domain: "", name: "CumSum", parse: CumSum::parse },
    OpDef { domain: "", name: "LpNormalization", parse: LpNorm::parse },
];

/// Calls `f` with the first element of each line along an axis, and the step from one to the next.
fn lines(dims: &[usize], axis: usize, mut f: impl FnMut(usize, usize)) {
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    for block in 0..outer {
        for first in 0..inner {
            f(block * dims[axis] * inner + first, inner);
        }
    }
}

/// Position of the largest or smallest element of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgExtreme {
    /// The largest, not the smallest.
    pub max: bool,
    /// The axis; negative ones count from the end.
    pub axis: i64,
    /// The axis stays, with size 1.
    pub keep: bool,
    /// The last one of equal ones, not the first.
    pub last: bool,
}

impl ArgExtreme {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            max: reader.op() == "ArgMax",
            axis: reader.int("axis", 0)?,
            keep: reader.flag("keepdims", true)?,
            last: reader.flag("select_last_index", false)?,
        }))
    }
}

impl Op for ArgExtreme {
    fn name(&self) -> &str {
        if self.max { "ArgMax" } else { "ArgMin" }
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("axis".into(), Attr::Int(self.axis)),
            ("keepdims".into(), Attr::Int(self.keep.into())),
            ("select_last_index".into(), Attr::Int(self.last.into())),
        ]
    }

    /// `x: T[..]` gives `i64[..]` with the axis removed, or of size 1.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = one(self.name(), inputs)?;
        let Some(dims) = x.ty.shape() else {
            return Ok(vec![Type::partial(Some(DType::I64), None)]);
        };
        let at = axis(self.name(), self.axis, dims.len())?;
        let mut dims = dims.to_vec();
        if self.keep {
            dims[at] = Dim::Known(1);
        } else {
            dims.remove(at);
        }
        Ok(vec![Type::partial(Some(DType::I64), Some(dims))])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(self.name(), inputs)?;
        let at = axis(self.name(), self.axis, x.rank())?;
        let len = x.dims()[at];
        if len == 0 {
            return Err(TypeError::other(self.name(), "the axis is empty").into());
        }
        let mut out = Vec::new();
        with_number!(x.dtype(), T => {
            let values = x.as_slice::<T>()?;
            lines(x.dims(), at, |first, step| {
                let mut best = 0;
                for index in 1..len {
                    let (new, old) = (values[first + index * step], values[first + best * step]);
                    let wins = if self.max { new > old } else { new < old };
                    if wins || (self.last && new == old) {
                        best = index;
                    }
                }
                out.push(best as i64);
            });
        }, other => return Err(wrong_type(self.name(), other)));
        let mut dims = x.dims().to_vec();
        if self.keep {
            dims[at] = 1;
        } else {
            dims.remove(at);
        }
        Ok(vec![Tensor::from_vec(dims, out)?])
    }
}

/// Running sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CumSum {
    /// An element does not count to its own sum.
    pub exclusive: bool,
    /// From the end to the start.
    pub reverse: bool,
}

impl CumSum {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let exclusive = reader.flag("exclusive", false)?;
        Ok(Arc::new(Self { exclusive, reverse: reader.flag("reverse", false)? }))
    }
}

impl Op for CumSum {
    fn name(&self) -> &str {
        "CumSum"
    }

    fn attrs(&self) -> Attrs {
        let flag = |name: &str, it: bool| (name.to_owned(), Attr::Int(it.into()));
        vec![flag("exclusive", self.exclusive), flag("reverse", self.reverse)]
    }

    /// `x: T[..], axis: i64` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![two("CumSum", inputs)?.0.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, by) = two("CumSum", inputs)?;
        let [by] = *by.to_i64()? else {
            return Err(TypeError::other("CumSum", "the axis is not one number").into());
        };
        let at = axis("CumSum", by, x.rank())?;
        let len = x.dims()[at];
        Ok(vec![with_number!(x.dtype(), T => {
            let values = x.as_slice::<T>()?;
            build(cx, x.dims(), |out: &mut [T]| lines(x.dims(), at, |first, step| {
                let mut sum = T::default();
                for index in 0..len {
                    let index = if self.reverse { len - 1 - index } else { index };
                    let place = first + index * step;
                    let next = sum.add(values[place]);
                    out[place] = if self.exclusive { sum } else { next };
                    sum = next;
                }
            }))?
        }, other => return Err(wrong_type("CumSum", other)))])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_, axis]) = args(self, io, dy)?;
        Ok(vec![Some(b.apply(Self { reverse: !self.reverse, ..*self }, &[g, axis]))])
    }
}

/// `x / norm(x)`; 0 where the norm is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpNorm {
    /// The axis; negative ones count from the end.
    pub axis: i64,
    /// Sum of magnitudes, not root of the sum of squares.
    pub l1: bool,
}

impl LpNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let axis = reader.int("axis", -1)?;
        match reader.int("p", 2)? {
            1 => Ok(Arc::new(Self { axis, l1: true })),
            2 => Ok(Arc::new(Self { axis, l1: false })),
            _ => Err(reader.error("p", "is neither 1 nor 2")),
        }
    }
}

impl Op for LpNorm {
    fn name(&self) -> &str {
        "LpNormalization"
    }

    fn attrs(&self) -> Attrs {
        let p = if self.l1 { 1 } else { 2 };
        vec![("axis".into(), Attr::Int(self.axis)), ("p".into(), Attr::Int(p))]
    }

    /// `x: T[..]` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![one(self.name(), inputs)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(self.name(), inputs)?;
        let at = axis(self.name(), self.axis, x.rank())?;
        let len = x.dims()[at];
        if !x.dtype().is_float() {
            return Err(wrong_type(self.name(), x.dtype()));
        }
        Ok(vec![with_number!(x.dtype(), T => {
            let values = x.as_slice::<T>()?;
            build(cx, x.dims(), |out: &mut [T]| lines(x.dims(), at, |first, step| {
                let places = || (0..len).map(|index| first + index * step);
                let line = places().map(|it| values[it].to_f64());
                let norm = if self.l1 {
                    line.map(f64::abs).sum::<f64>()
                } else {
                    line.map(|it| it * it).sum::<f64>().sqrt()
                };
                for place in places() {
                    let y = if norm == 0.0 { 0.0 } else { values[place].to_f64() / norm };
                    out[place] = T::of_f64(y);
                }
            }))?
        }, other => return Err(wrong_type(self.name(), other)))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, values};

    #[test]
    fn attributes_make_the_same_operator() {
        let it = ArgExtreme { max: false, axis: 1, keep: false, last: true };
        assert_eq!(parse("", "ArgMin", 13, it.attrs()).unwrap().is::<ArgExtreme>(), Some(&it));
        let it = CumSum { exclusive: true, reverse: true };
        assert_eq!(parse("", "CumSum", 14, it.attrs()).unwrap().is::<CumSum>(), Some(&it));
        let it = LpNorm { axis: 0, l1: true };
        assert_eq!(parse("", it.name(), 22, it.attrs()).unwrap().is::<LpNorm>(), Some(&it));
    }

    #[test]
    fn equal_elements() {
        let x = Tensor::vector(vec![3i32, 1, 3]);
        for (last, want) in [(false, 0), (true, 2)] {
            let it = ArgExtreme { max: true, axis: 0, keep: false, last };
            let out = it.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
            assert_eq!(out, Tensor::scalar(i64::from(want)));
        }
    }

    #[test]
    fn a_zero_line_stays_zero() {
        let x = Tensor::from_vec(vec![2, 2], vec![0f32, 0.0, 3.0, -4.0]).unwrap();
        let it = LpNorm { axis: -1, l1: false };
        let out = it.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(&*out.to_f32().unwrap(), [0.0, 0.0, 0.6, -0.8]);
    }

    #[test]
    fn gradients_match_central_differences() {
        for flags in 0..4 {
            let op = CumSum { exclusive: flags & 1 == 1, reverse: flags & 2 == 2 };
            check_vjp(&op, &[values(&[2, 5]), Tensor::scalar(1i64).into()], 1);
        }
    }
}
