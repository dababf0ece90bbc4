//! `qcc::LayerNormGrad(x, scale?, dy)` and `qcc::RmsNormGrad(x, scale?, dy)`: derivatives of the
//! normalization of the dimensions from an axis on.
//!
//! With `r = 1 / sqrt(variance + epsilon)`, `h = (x - mean) * r` and `g = dy * scale`:
//! `dx = r * (g - mean(g) - h * mean(g * h))`. The root mean square takes off neither mean. The
//! second result is `h`, of which the derivative of the scale is made.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{Attr, Attrs, Emitter, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError, Value};
use qcc_tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::emit::Emit;
use crate::norm::{Kind, spread};
use crate::numeric::{narrow, wrong_type};
use crate::operands::{axis, need, optional};
use crate::quant::DOMAIN;
use crate::vector::dispatch;
use crate::{AttrError, AttrReader};

/// Rows that one task computes.
const ROWS: usize = 32;

/// The derivative of a normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormGrad {
    /// Which normalization.
    pub kind: Kind,
    /// First dimension of what is normalized; negative ones count from the end.
    pub axis: i64,
    /// Added to the variance.
    pub epsilon: f32,
}

impl NormGrad {
    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kind = if reader.op() == "LayerNormGrad" { Kind::Layer } else { Kind::Rms };
        let (axis, epsilon) = (reader.int("axis", -1)?, reader.float("epsilon", 1e-5)?);
        Ok(Arc::new(Self { kind, axis, epsilon }))
    }
}

impl Op for NormGrad {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Layer => "LayerNormGrad",
            Kind::Rms => "RmsNormGrad",
        }
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), Attr::Int(self.axis)), ("epsilon".into(), Attr::Float(self.epsilon))]
    }

    /// `x: T[A, B], scale: T[B]?, dy: T[A, B]` gives `T[A, B], T[A, B]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        need(self.name(), inputs, 2)?;
        Ok(vec![need(self.name(), inputs, 0)?.ty.clone(); n])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = self.name();
        let (x, dy) = (need(op, inputs, 0)?, need(op, inputs, 2)?);
        if x.dims() != dy.dims() || x.dtype() != dy.dtype() {
            return Err(TypeError::other(op, "x and dy differ in type").into());
        }
        let inner = &x.dims()[axis(op, self.axis, x.rank())?..];
        let width = inner.iter().product::<usize>().max(1);
        let scale = optional(inputs, 1);
        match x.dtype() {
            DType::F64 => {
                let scale = match scale {
                    Some(it) if it.dtype() == DType::F64 && it.dims() == inner => {
                        it.as_slice::<f64>()?.into_owned()
                    }
                    Some(it) => spread(op, it, inner)?.into_iter().map(f64::from).collect(),
                    None => vec![1.0; width],
                };
                let (values, adjoint) = (x.as_slice::<f64>()?, dy.as_slice::<f64>()?);
                let mut outs = [vec![0f64; x.len()], vec![0f64; x.len()]];
                let [dx, hat] = &mut outs;
                let rows = values.chunks_exact(width).zip(adjoint.chunks_exact(width));
                let to = dx.chunks_exact_mut(width).zip(hat.chunks_exact_mut(width));
                let mut terms = vec![0f64; width];
                for ((x, dy), (dx, hat)) in rows.zip(to) {
                    self.double([x, dy, &scale], dx, hat, &mut terms);
                }
                let tensors = outs.into_iter().take(n.max(1));
                let tensors = tensors.map(|it| Tensor::from_vec(x.dims().to_vec(), it));
                Ok(tensors.collect::<Result<_, _>>()?)
            }
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let scale = match scale {
                    Some(it) => spread(op, it, inner)?,
                    None => vec![1.0; width],
                };
                let (values, adjoint) = (x.to_f32()?, dy.to_f32()?);
                let mut dx = cx.pool.take(values.len())?;
                let mut hat = cx.pool.take(if n > 1 { values.len() } else { 0 })?;
                let block = ROWS * width;
                let task = |(idx, (dx, hat)): (usize, (&mut [f32], &mut [f32]))| {
                    let (from, count) = (idx * block, dx.len());
                    let (x, dy) = (&values[from..][..count], &adjoint[from..][..count]);
                    dispatch(Rows { op: self, x, dy, scale: &scale, dx, hat });
                };
                if n > 1 {
                    dx.par_chunks_mut(block)
                        .zip(hat.par_chunks_mut(block))
                        .enumerate()
                        .for_each(task);
                } else {
                    let blocks = dx.par_chunks_mut(block).enumerate();
                    blocks.for_each(|(idx, dx)| task((idx, (dx, &mut []))));
                }
                let mut results = vec![narrow(op, cx, dtype, x.dims(), dx)?];
                if n > 1 {
                    results.push(narrow(op, cx, dtype, x.dims(), hat)?);
                }
                Ok(results)
            }
            other => Err(wrong_type(op, other)),
        }
    }
}

struct Rows<'a> {
    op: &'a NormGrad,
    x: &'a [f32],
    dy: &'a [f32],
    scale: &'a [f32],
    dx: &'a mut [f32],
    /// Empty when it is not asked for.
    hat: &'a mut [f32],
}

impl NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { op, x, dy, scale, dx, hat } = self;
        let width = scale.len();
        let mut own = vec![0f32; 2 * width];
        let (terms, own) = own.split_at_mut(width);
        let rows =
            x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (row, ((x, dy), dx)) in rows.enumerate() {
            let hat = hat.get_mut(row * width..(row + 1) * width).unwrap_or(own);
            op.single([x, dy, scale], dx, hat, terms);
        }
    }
}

fn sum_wide(x: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    x.iter().map(|&x| f(x)).sum()
}

/// A row in one width of floats: of `x`, `dy` and the scale to `dx` and `h`, with room for as many
/// terms.
macro_rules! row {
    ($name:ident, $t:ty, $sum:path) => {
        #[inline(always)]
        fn $name(&self, [x, dy, scale]: [&[$t]; 3], dx: &mut [$t], h: &mut [$t], terms: &mut [$t]) {
            let (count, is_layer) = (x.len() as $t, self.kind == Kind::Layer);
            let mean = if is_layer { $sum(x, |x| x) / count } else { 0.0 };
            let variance = $sum(x, |x| (x - mean) * (x - mean)) / count;
            let inverse = 1.0 / (variance + <$t>::from(self.epsilon)).sqrt();
            for ((h, &x), (g, (&dy, &scale))) in
                h.iter_mut().zip(x).zip(dx.iter_mut().zip(dy.iter().zip(scale)))
            {
                *h = (x - mean) * inverse;
                *g = dy * scale;
            }
            let shift = if is_layer { $sum(dx, |g| g) / count } else { 0.0 };
            terms.iter_mut().zip(&*dx).zip(&*h).for_each(|((term, g), h)| *term = g * h);
            let slope = $sum(terms, |it| it) / count;
            for (dx, &h) in dx.iter_mut().zip(&*h) {
                *dx = inverse * (*dx - shift - h * slope);
            }
        }
    };
}

impl NormGrad {
    /// The adjoints of `x` and, if it is asked for, of the scale, from that of the result.
    pub(crate) fn pull(
        self,
        b: &mut Emitter,
        [x, scale, dy]: [Value; 3],
        wants_scale: bool,
    ) -> [Option<Value>; 2] {
        let inputs = [Some(x), Some(scale), Some(dy)];
        if !wants_scale {
            return [Some(b.op_with(Arc::new(self), &inputs)), None];
        }
        let [dx, hat] = b.ops(Arc::new(self), &inputs);
        let terms = b.mul(dy, hat);
        [Some(dx), Some(b.sum_to(terms, scale))]
    }

    row!(single, f32, crate::vector::sum_of);
    row!(double, f64, sum_wide);
}
