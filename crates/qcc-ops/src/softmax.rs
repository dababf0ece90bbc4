//! `Softmax`, `LogSoftmax` and `Hardmax` (ONNX opset 13) along one axis.
//!
//! Before opset 13 they run over all dimensions from `axis` on, which is 1 by default. That form is
//! kept, and written as the attribute `flatten`.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::emit::{Emit, args, no_vjp};
use crate::grad::SoftmaxGrad;
use crate::numeric::{narrow, wrong_type};
use crate::operands::{axis, one};
use crate::vector::{self, dispatch, exp};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Softmax", parse: Softmax::parse },
    OpDef { domain: "", name: "LogSoftmax", parse: Softmax::parse },
    OpDef { domain: "", name: "Hardmax", parse: Softmax::parse },
];

/// What is computed of a line of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `e^x / sum(e^x)`
    Soft,
    /// `x - log(sum(e^x))`
    Log,
    /// 1 at the first of the largest, else 0
    Hard,
}

/// A distribution over the elements of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// Which one.
    pub kind: Kind,
    /// The axis; negative ones count from the end.
    pub axis: i64,
    /// All dimensions from the axis on are one, as before opset 13.
    pub flatten: bool,
}

impl Softmax {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kind = match reader.op() {
            "Softmax" => Kind::Soft,
            "LogSoftmax" => Kind::Log,
            _ => Kind::Hard,
        };
        let flatten = reader.flag("flatten", reader.opset() < 13)?;
        let axis = reader.int("axis", if flatten { 1 } else { -1 })?;
        Ok(Arc::new(Self { kind, axis, flatten }))
    }

    /// Lines of `len` elements that lie `inner` apart.
    ///
    /// # Errors
    /// When there is no such axis.
    pub(crate) fn lines(&self, dims: &[usize]) -> Result<(usize, usize), TypeError> {
        // The old form may begin behind the last dimension.
        if self.flatten && usize::try_from(self.axis).is_ok_and(|it| it == dims.len()) {
            return Ok((1, 1));
        }
        if dims.is_empty() {
            return Ok((1, 1));
        }
        let axis = axis(self.name(), self.axis, dims.len())?;
        Ok(if self.flatten {
            (dims[axis..].iter().product(), 1)
        } else {
            (dims[axis], dims[axis + 1..].iter().product())
        })
    }

    fn double(&self, line: &mut [f64]) {
        let max = line.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        match self.kind {
            Kind::Soft => {
                line.iter_mut().for_each(|it| *it = (*it - max).exp());
                let sum: f64 = line.iter().sum();
                line.iter_mut().for_each(|it| *it /= sum);
            }
            Kind::Log => {
                let sum: f64 = line.iter().map(|it| (it - max).exp()).sum();
                line.iter_mut().for_each(|it| *it = *it - max - sum.ln());
            }
            Kind::Hard => {
                let first = line.iter().position(|&it| it == max);
                line.iter_mut().enumerate().for_each(|(idx, it)| {
                    *it = f64::from(u8::from(Some(idx) == first));
                });
            }
        }
    }
}

impl Op for Softmax {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Soft => "Softmax",
            Kind::Log => "LogSoftmax",
            Kind::Hard => "Hardmax",
        }
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![("axis".to_owned(), Attr::Int(self.axis))];
        if self.flatten {
            attrs.push(("flatten".into(), Attr::Int(1)));
        }
        attrs
    }

    /// `x: T[..]` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = one(self.name(), inputs)?;
        if let (Some(rank), false) = (x.ty.rank().filter(|&it| it > 0), self.flatten) {
            axis(self.name(), self.axis, rank)?;
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(self.name(), inputs)?;
        let (len, inner) = self.lines(x.dims())?;
        let block = (len * inner).max(1);
        Ok(vec![match x.dtype() {
            DType::F64 => {
                let mut out = x.as_slice::<f64>()?.into_owned();
                let mut line = vec![0.0; len];
                for block in out.chunks_mut(block) {
                    for first in 0..inner {
                        let places = || (0..len).map(|it| first + it * inner);
                        line.iter_mut().zip(places()).for_each(|(to, from)| *to = block[from]);
                        self.double(&mut line);
                        line.iter().zip(places()).for_each(|(&from, to)| block[to] = from);
                    }
                }
                Tensor::from_vec(x.dims().to_vec(), out)?
            }
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let values = x.to_f32()?;
                let mut out = cx.pool.take(values.len())?;
                vector::rows(&mut out, block, |first, out| {
                    let x = &values[first * block..][..out.len()];
                    dispatch(Lines { kind: self.kind, len, inner, x, out });
                });
                narrow(self.name(), cx, dtype, x.dims(), out)?
            }
            other => return Err(wrong_type(self.name(), other)),
        }])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if self.kind == Kind::Hard {
            return Err(no_vjp(self, ""));
        }
        let (g, y, [_]) = args(self, io, dy)?;
        Ok(vec![Some(b.apply(SoftmaxGrad { of: *self }, &[y, g]))])
    }
}

struct Lines<'a> {
    kind: Kind,
    len: usize,
    inner: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Lines<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { kind, len, inner, x, out } = self;
        if len == 0 || inner == 0 {
            return;
        }
        if inner == 1 {
            for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
                line(kind, x, out);
            }
            return;
        }
        let mut lines = vec![0f32; 2 * len];
        let (from, to) = lines.split_at_mut(len);
        let blocks = x.chunks_exact(len * inner).zip(out.chunks_exact_mut(len * inner));
        for (x, out) in blocks {
            for first in 0..inner {
                for (it, x) in from.iter_mut().zip(x[first..].iter().step_by(inner)) {
                    *it = *x;
                }
                line(kind, from, to);
                for (out, it) in out[first..].iter_mut().step_by(inner).zip(&*to) {
                    *out = *it;
                }
            }
        }
    }
}

#[inline(always)]
fn line(kind: Kind, x: &[f32], out: &mut [f32]) {
    let max = vector::max(x);
    match kind {
        Kind::Soft => {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = exp(x - max);
            }
            let factor = 1.0 / vector::sum_of(out, |x| x);
            for out in out {
                *out *= factor;
            }
        }
        Kind::Log => {
            let shift = vector::sum_of(x, |x| exp(x - max)).ln();
            for (out, &x) in out.iter_mut().zip(x) {
                *out = x - max - shift;
            }
        }
        Kind::Hard => {
            out.fill(0.0);
            if let Some(first) = x.iter().position(|&it| it == max) {
                out[first] = 1.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, values};

    #[test]
    fn old_form_is_kept() {
        let old = parse("", "Softmax", 11, Vec::new()).unwrap();
        let want = Softmax { kind: Kind::Soft, axis: 1, flatten: true };
        assert_eq!(old.is::<Softmax>(), Some(&want));
        assert_eq!(parse("", "Softmax", 13, old.attrs()).unwrap().is::<Softmax>(), Some(&want));
        let x = Tensor::from_vec(vec![1, 2, 2], vec![0f32; 4]).unwrap();
        let out = old.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(&*out.to_f32().unwrap(), [0.25; 4]);
    }

    #[test]
    fn gradients_match_central_differences() {
        for kind in [Kind::Soft, Kind::Log] {
            for (axis, flatten) in [(-1, false), (0, false), (1, false), (1, true)] {
                let op = Softmax { kind, axis, flatten };
                check_vjp(&op, &[values(&[2, 3, 5])], 1);
                check_vjp(&op, &[values(&[3, 1])], 1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn single_equals_double(
            dims in proptest::collection::vec(1usize..40, 1..4), axis in 0usize..3, which in 0usize..3,
        ) {
            let kind = [Kind::Soft, Kind::Log, Kind::Hard][which];
            let op = Softmax { kind, axis: (axis % dims.len()) as i64, flatten: false };
            let len: usize = dims.iter().product();
            let x: Vec<f32> = (0..len).map(|it| ((it * 7919) % 997) as f32 / 25.0 - 20.0).collect();
            let wide = x.iter().map(|&it| f64::from(it)).collect::<Vec<_>>();
            let run = |x: Tensor| op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
            let got = run(Tensor::from_vec(dims.clone(), x).unwrap());
            let want = run(Tensor::from_vec(dims, wide).unwrap());
            for (got, want) in got.to_f32().unwrap().iter().zip(&*want.as_slice::<f64>().unwrap()) {
                prop_assert!((f64::from(*got) - want).abs() <= 1e-6 * want.abs() + 1e-6);
            }
        }
    }
}
