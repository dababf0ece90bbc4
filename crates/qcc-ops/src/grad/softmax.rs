//! `qcc::SoftmaxGrad(y, dy)` and `qcc::LogSoftmaxGrad(y, dy)`: derivatives along an axis.
//!
//! `dx = y * (dy - sum(dy * y))` and `dx = dy - e^y * sum(dy)`, with `y` the result of the forward
//! operator.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Tensor};

use crate::numeric::{narrow, wrong_type};
use crate::operands::two;
use crate::quant::DOMAIN;
use crate::softmax::{Kind, Softmax};
use crate::vector::{self, dispatch};
use crate::{AttrError, AttrReader};

/// The derivative of a softmax or of its logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxGrad {
    /// The operator that it is the derivative of.
    pub of: Softmax,
}

impl SoftmaxGrad {
    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kind = if reader.op() == "SoftmaxGrad" { Kind::Soft } else { Kind::Log };
        let (axis, flatten) = (reader.int("axis", -1)?, reader.flag("flatten", false)?);
        Ok(Arc::new(Self { of: Softmax { kind, axis, flatten } }))
    }
}

impl Op for SoftmaxGrad {
    fn name(&self) -> &str {
        match self.of.kind {
            Kind::Log => "LogSoftmaxGrad",
            Kind::Soft | Kind::Hard => "SoftmaxGrad",
        }
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        self.of.attrs()
    }

    /// `y: T[..], dy: T[..]` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![two(self.name(), inputs)?.0.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (y, dy) = two(self.name(), inputs)?;
        if y.dims() != dy.dims() || y.dtype() != dy.dtype() {
            return Err(TypeError::other(self.name(), "operands differ in type").into());
        }
        let (len, inner) = self.of.lines(y.dims())?;
        let log = self.of.kind == Kind::Log;
        Ok(vec![match y.dtype() {
            DType::F64 => {
                let (y, dy) = (y.as_slice::<f64>()?, dy.as_slice::<f64>()?);
                let mut out = vec![0f64; y.len()];
                double(log, [len, inner], &y, &dy, &mut out);
                Tensor::from_vec(inputs[0].map_or(Vec::new(), |it| it.dims().to_vec()), out)?
            }
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let (values, adjoint) = (y.to_f32()?, dy.to_f32()?);
                let mut out = cx.pool.take(values.len())?;
                let block = (len * inner).max(1);
                vector::rows(&mut out, block, |first, out| {
                    let (from, count) = (first * block, out.len());
                    let (y, dy) = (&values[from..][..count], &adjoint[from..][..count]);
                    dispatch(Lines { log, len, inner, y, dy, out });
                });
                narrow(self.name(), cx, dtype, y.dims(), out)?
            }
            other => return Err(wrong_type(self.name(), other)),
        }])
    }
}

fn double(log: bool, [len, inner]: [usize; 2], y: &[f64], dy: &[f64], out: &mut [f64]) {
    for block in 0..y.len().checked_div(len * inner).unwrap_or(0) {
        for first in 0..inner {
            let places = || (0..len).map(|it| (block * len + it) * inner + first);
            if log {
                let sum: f64 = places().map(|at| dy[at]).sum();
                places().for_each(|at| out[at] = dy[at] - y[at].exp() * sum);
            } else {
                let sum: f64 = places().map(|at| dy[at] * y[at]).sum();
                places().for_each(|at| out[at] = y[at] * (dy[at] - sum));
            }
        }
    }
}

struct Lines<'a> {
    log: bool,
    len: usize,
    inner: usize,
    y: &'a [f32],
    dy: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Lines<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { log, len, inner, y, dy, out } = self;
        if len == 0 || inner == 0 {
            return;
        }
        if inner == 1 {
            let mut terms = vec![0f32; len];
            let lines = y.chunks_exact(len).zip(dy.chunks_exact(len));
            for ((y, dy), out) in lines.zip(out.chunks_exact_mut(len)) {
                line(log, y, dy, &mut terms, out);
            }
            return;
        }
        let mut lines = vec![0f32; 4 * len];
        let (from, rest) = lines.split_at_mut(len);
        let (adjoint, rest) = rest.split_at_mut(len);
        let (terms, to) = rest.split_at_mut(len);
        let block = len * inner;
        let blocks = y.chunks_exact(block).zip(dy.chunks_exact(block));
        for ((y, dy), out) in blocks.zip(out.chunks_exact_mut(block)) {
            for first in 0..inner {
                let strided = |x: &[f32], to: &mut [f32]| {
                    let line = x[first..].iter().step_by(inner);
                    to.iter_mut().zip(line).for_each(|(to, &x)| *to = x);
                };
                strided(y, from);
                strided(dy, adjoint);
                line(log, from, adjoint, terms, to);
                out[first..].iter_mut().step_by(inner).zip(&*to).for_each(|(to, &x)| *to = x);
            }
        }
    }
}

#[inline(always)]
fn line(log: bool, y: &[f32], dy: &[f32], terms: &mut [f32], out: &mut [f32]) {
    let lanes = y.iter().zip(dy);
    if log {
        let sum = vector::sum_of(dy, |it| it);
        out.iter_mut().zip(lanes).for_each(|(out, (&y, &dy))| *out = dy - vector::exp(y) * sum);
    } else {
        terms.iter_mut().zip(lanes.clone()).for_each(|(term, (&y, &dy))| *term = y * dy);
        let sum = vector::sum_of(terms, |it| it);
        out.iter_mut().zip(lanes).for_each(|(out, (&y, &dy))| *out = y * (dy - sum));
    }
}
