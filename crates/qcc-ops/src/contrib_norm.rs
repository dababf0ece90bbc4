//! Layer norms of ONNX Runtime, over the last dimension and with a residual before them.
//!
//! `SimplifiedLayerNormalization` (registered in the default domain):
//! `x / sqrt(mean(x^2) + epsilon) * scale`; `com.microsoft.SkipSimplifiedLayerNormalization`: the
//! same of `input + skip + bias`; `com.microsoft.SkipLayerNormalization`:
//! `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` of that sum. Result 3 is the sum.
//! Source: ONNX Runtime docs/ContribOperators.md.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::dims::len_of;
use crate::emit::{Emit, args, no_vjp};
use crate::floats::float_tensor;
use crate::grad::NormGrad;
use crate::norm::Kind;
use crate::operands::{self, count, need, optional};
use crate::vector::{self, dispatch};
use crate::{AttrError, AttrReader, OpDef};

const SIMPLE: &str = "SimplifiedLayerNormalization";
const SKIP: &str = "SkipLayerNormalization";
const SKIP_SIMPLE: &str = "SkipSimplifiedLayerNormalization";

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: SIMPLE, parse: SimplifiedLayerNorm::parse },
    OpDef { domain: "com.microsoft", name: SKIP, parse: SkipLayerNorm::parse },
    OpDef { domain: "com.microsoft", name: SKIP_SIMPLE, parse: SkipLayerNorm::parse },
];

/// What a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// The root of its mean square.
    Rms,
    /// Its standard deviation, after taking off its mean.
    Layer,
}

/// Rows that are normalized, with what multiplies and what is added to each element.
pub(crate) struct Rows<'a> {
    pub(crate) norm: Norm,
    pub(crate) epsilon: f32,
    pub(crate) scale: &'a [f32],
    pub(crate) shift: Option<&'a [f32]>,
}

impl Rows<'_> {
    /// Normalizes rows of `x` as long as `scale` into `out`.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32]) {
        let width = self.scale.len();
        vector::rows(out, width, |first, out| {
            let x = &x[first * width..][..out.len()];
            dispatch(Pass { rows: self, x, out });
        });
    }

    /// Mean and inverse deviation of a row.
    #[inline(always)]
    pub(crate) fn moments(&self, row: &[f32]) -> (f32, f32) {
        let count = row.len() as f32;
        let mean = match self.norm {
            Norm::Rms => 0.0,
            Norm::Layer => vector::sum_of(row, |x| x) / count,
        };
        let square = vector::sum_of(row, |x| (x - mean) * (x - mean)) / count;
        (mean, 1.0 / (square + self.epsilon).sqrt())
    }
}

struct Pass<'a> {
    rows: &'a Rows<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Rows { scale, shift, .. } = *self.rows;
        let width = scale.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (mean, factor) = self.rows.moments(x);
            for ((y, &x), &scale) in out.iter_mut().zip(x).zip(scale) {
                *y = (x - mean) * factor * scale;
            }
            if let Some(shift) = shift {
                out.iter_mut().zip(shift).for_each(|(y, b)| *y += b);
            }
        }
    }
}

/// A result in a float type.
pub(crate) fn result(
    cx: &EvalCx,
    op: &str,
    dtype: DType,
    dims: Vec<usize>,
    values: Vec<f32>,
) -> Result<Tensor, EvalError> {
    match dtype {
        DType::F32 => Ok(cx.pool.tensor(dims, values)?),
        other => float_tensor(op, other, dims, values),
    }
}

/// RMS norm over the dimensions from `axis` on.
#[derive(Clone, Debug, PartialEq)]
pub struct SimplifiedLayerNorm {
    /// First dimension that is normalized over.
    pub axis: i64,
    /// Added to the mean square.
    pub epsilon: f32,
    /// ONNX code of the type of the second result; the norm is computed in f32.
    pub stash_type: i64,
}

impl SimplifiedLayerNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            axis: reader.int("axis", -1)?,
            epsilon: reader.float("epsilon", 1e-5)?,
            stash_type: reader.int("stash_type", 1)?,
        }))
    }
}

impl Op for SimplifiedLayerNorm {
    fn name(&self) -> &str {
        SIMPLE
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("axis".into(), Attr::Int(self.axis)),
            ("epsilon".into(), Attr::Float(self.epsilon)),
            ("stash_type".into(), Attr::Int(self.stash_type)),
        ]
    }

    /// `x: T[..S, ..N], scale: V[..N]` gives `V[..S, ..N]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(SIMPLE, inputs, 2, 2)?;
        let (x, scale) = (need(SIMPLE, inputs, 0)?.ty, need(SIMPLE, inputs, 1)?.ty);
        let mut stash = Type::partial(Some(DType::F32), None);
        if let Some(shape) = x.shape() {
            let axis = operands::axis(SIMPLE, self.axis, shape.len())?;
            let ones = shape[axis..].iter().map(|_| Dim::Known(1));
            stash = Type::tensor(DType::F32, shape[..axis].iter().cloned().chain(ones));
        }
        let mut types = vec![x.with_dtype(scale.dtype()), stash];
        types.resize(n_outputs, Type::Unknown);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale) = (need(SIMPLE, inputs, 0)?, need(SIMPLE, inputs, 1)?);
        let dims = x.dims().to_vec();
        let axis = operands::axis(SIMPLE, self.axis, dims.len())?;
        let factors = scale.to_f32()?;
        let width: usize = dims[axis..].iter().product();
        if factors.len() != width {
            return Err(TypeError::other(SIMPLE, "the scale does not fit the input").into());
        }
        let values = x.to_f32()?;
        let rows = Rows { norm: Norm::Rms, epsilon: self.epsilon, scale: &factors, shift: None };
        let mut out = cx.pool.take(len_of(SIMPLE, &dims)?)?;
        if !out.is_empty() {
            rows.run(&values, &mut out);
        }
        let mut results = vec![result(cx, SIMPLE, scale.dtype(), dims.clone(), out)?];
        if n_outputs > 1 {
            let mut stash_dims = dims;
            stash_dims[axis..].fill(1);
            let mut stash: Vec<f32> =
                values.chunks(width.max(1)).map(|it| rows.moments(it).1).collect();
            stash.resize(len_of(SIMPLE, &stash_dims)?, f32::INFINITY);
            results.push(Tensor::from_vec(stash_dims, stash)?);
        }
        Ok(results)
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if dy.iter().skip(1).any(Option::is_some) {
            return Err(no_vjp(self, "of its statistics"));
        }
        let (g, _, [x, scale]) = args(self, io, dy)?;
        let grad = NormGrad { kind: Kind::Rms, axis: self.axis, epsilon: self.epsilon };
        Ok(grad.pull(b, [x, scale, g], io.wants(1)).to_vec())
    }
}

/// A norm of a sum; the sum is a result too.
#[derive(Clone, Debug, PartialEq)]
pub struct SkipLayerNorm {
    /// Which of the two operators it is.
    pub norm: Norm,
    /// Added under the root.
    pub epsilon: f32,
}

impl SkipLayerNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let norm = if reader.op() == SKIP { Norm::Layer } else { Norm::Rms };
        Ok(Arc::new(Self { norm, epsilon: reader.float("epsilon", 1e-12)? }))
    }

    /// Position of the bias.
    fn bias(&self) -> usize {
        match self.norm {
            Norm::Rms => 3,
            Norm::Layer => 4,
        }
    }
}

impl Op for SkipLayerNorm {
    fn name(&self) -> &str {
        match self.norm {
            Norm::Rms => SKIP_SIMPLE,
            Norm::Layer => SKIP,
        }
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        vec![("epsilon".into(), Attr::Float(self.epsilon))]
    }

    /// `input: T[..S, n], skip: T[..S, n], gamma: T[n]` gives `T[..S, n]`, `f32[..S, 1]` twice,
    /// `T[..S, n]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 3, self.bias() + 1)?;
        let x = need(self.name(), inputs, 0)?.ty;
        let stash = x.shape().and_then(<[Dim]>::split_last).map(|(_, outer)| {
            Type::tensor(DType::F32, outer.iter().cloned().chain([Dim::Known(1)]))
        });
        let stash = stash.unwrap_or(Type::partial(Some(DType::F32), None));
        let mut types = vec![x.clone(), stash.clone(), stash, x.clone()];
        types.resize(n_outputs, Type::Unknown);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = self.name();
        let wrong = |what: &str| EvalError::from(TypeError::other(op, what));
        let (x, skip) = (need(op, inputs, 0)?, need(op, inputs, 1)?);
        let gamma = need(op, inputs, 2)?.to_f32()?;
        let beta = match self.norm {
            Norm::Rms => None,
            Norm::Layer => optional(inputs, 3).map(Tensor::to_f32).transpose()?,
        };
        let bias = optional(inputs, self.bias()).map(Tensor::to_f32).transpose()?;
        let dims = x.dims().to_vec();
        let width = gamma.len();
        let fits = |it: &Option<std::borrow::Cow<'_, [f32]>>| {
            it.as_ref().is_none_or(|it| it.len() == width)
        };
        if dims.last() != Some(&width) || !fits(&beta) || !fits(&bias) {
            return Err(wrong("input, gamma, beta and bias do not fit together"));
        }
        let (a, b) = (x.to_f32()?, skip.to_f32()?);
        let repeats = if a.is_empty() { Some(0) } else { a.len().checked_rem(b.len()) };
        if repeats != Some(0) || skip.dims().last() != Some(&width) {
            return Err(wrong("input and skip do not fit together"));
        }
        let mut sum = cx.pool.take(len_of(op, &dims)?)?;
        vector::rows(&mut sum, width, |first, sum| {
            let first = first * width;
            let rows =
                a[first..].chunks_exact(width.max(1)).zip(sum.chunks_exact_mut(width.max(1)));
            for (i, (a, sum)) in rows.enumerate() {
                let b = &b[(first + i * width) % b.len()..][..width];
                sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = a + b);
                if let Some(bias) = &bias {
                    sum.iter_mut().zip(bias.iter()).for_each(|(sum, bias)| *sum += bias);
                }
            }
        });
        let rows =
            Rows { norm: self.norm, epsilon: self.epsilon, scale: &gamma, shift: beta.as_deref() };
        let mut out = cx.pool.take(sum.len())?;
        if !out.is_empty() {
            rows.run(&sum, &mut out);
        }
        let mut results = vec![result(cx, op, x.dtype(), dims.clone(), out)?];
        if n_outputs > 1 {
            let mut stash_dims = dims.clone();
            if let Some(last) = stash_dims.last_mut() {
                *last = 1;
            }
            let moments: Vec<(f32, f32)> =
                sum.chunks_exact(width.max(1)).map(|it| rows.moments(it)).collect();
            let (means, factors): (Vec<f32>, Vec<f32>) = moments.into_iter().unzip();
            for mut stash in [means, factors] {
                stash.resize(len_of(op, &stash_dims)?, 0.0);
                results.push(Tensor::from_vec(stash_dims.clone(), stash)?);
            }
            results.push(result(cx, op, x.dtype(), dims, sum)?);
        }
        results.truncate(n_outputs.max(1));
        Ok(results)
    }

    /// With `z` the sum: its adjoint is that of the norm plus that of the result that is the sum.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if dy.iter().take(3).skip(1).any(Option::is_some) {
            return Err(no_vjp(self, "of its statistics"));
        }
        let of_sum = dy.get(3).copied().flatten();
        let (Some(x), Some(skip), Some(gamma)) = (io.input(0), io.input(1), io.input(2)) else {
            return Err(no_vjp(self, "an operand is absent"));
        };
        let bias = io.input(self.bias());
        let (mut dz, mut dg) = (of_sum, None);
        if let Some(&Some(g)) = dy.first() {
            let mut z = b.add(x, skip);
            if let Some(bias) = bias {
                z = b.add(z, bias);
            }
            let kind = if self.norm == Norm::Layer { Kind::Layer } else { Kind::Rms };
            let grad = NormGrad { kind, axis: -1, epsilon: self.epsilon };
            let [own, scale] = grad.pull(b, [z, gamma, g], io.wants(2));
            (dz, dg) = (own, scale);
            if let (Some(a), Some(c)) = (own, of_sum) {
                dz = Some(b.add(a, c));
            }
        }
        let mut adjoints = vec![None; io.inputs.len()];
        for (at, value) in [(0, Some(x)), (1, Some(skip)), (self.bias(), bias)] {
            if let (Some(value), Some(dz), true) = (value, dz, io.wants(at)) {
                adjoints[at] = Some(b.sum_to(dz, value));
            }
        }
        adjoints[2] = dg;
        if let (Norm::Layer, Some(&Some(g)), Some(beta), true) =
            (self.norm, dy.first(), io.input(3), io.wants(3))
        {
            adjoints[3] = Some(b.sum_to(g, beta));
        }
        Ok(adjoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_against, layer_norm, spread, values};

    #[test]
    fn sums_and_norms_by_hand() {
        let op = crate::parse("com.microsoft", SKIP, 1, Vec::new()).unwrap();
        let x = Tensor::from_vec(vec![2, 1, 2], vec![1f32, 2.0, 5.0, 0.0]).unwrap();
        let skip = Tensor::from_vec(vec![1, 2], vec![0f32, 3.0]).unwrap();
        let (gamma, beta) = (Tensor::vector(vec![2f32, 1.0]), Tensor::vector(vec![0f32, 10.0]));
        let inputs = [Some(&x), Some(&skip), Some(&gamma), Some(&beta), Some(&beta)];
        let y = op.eval(&EvalCx::default(), &inputs, 4).unwrap();
        assert_eq!(&*y[3].to_f32().unwrap(), [1.0, 15.0, 5.0, 13.0]);
        assert_eq!(&*y[1].to_f32().unwrap(), [8.0, 9.0]);
        assert_eq!(&*y[0].to_f32().unwrap(), [-2.0, 11.0, -2.0, 11.0]);
        let types = op.infer(&inputs.map(|_| None), 4);
        assert!(types.is_err());
    }

    #[test]
    fn rms_by_hand() {
        let attrs = vec![("epsilon".to_owned(), Attr::Float(0.0))];
        let op = crate::parse("", SIMPLE, 1, attrs).unwrap();
        let x = Tensor::from_vec(vec![1, 2], vec![1f32, 7.0]).unwrap();
        let scale = Tensor::vector(vec![5f32, 10.0]);
        let y = op.eval(&EvalCx::default(), &[Some(&x), Some(&scale)], 2).unwrap();
        assert_eq!(&*y[0].to_f32().unwrap(), [1.0, 14.0]);
        assert_eq!(&*y[1].to_f32().unwrap(), [0.2]);
        let wrong =
            op.eval(&EvalCx::default(), &[Some(&x), Some(&x.reshape(vec![2, 1]).unwrap())], 1);
        assert!(wrong.is_ok(), "only the number of elements counts");
        let wrong = op.eval(&EvalCx::default(), &[Some(&x), Some(&Tensor::scalar(1f32))], 1);
        assert!(wrong.is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        let f64s = |it: &Tensor| it.as_slice::<f64>().unwrap().into_owned();
        for (norm, centered) in [(Norm::Layer, true), (Norm::Rms, false)] {
            let op = SkipLayerNorm { norm, epsilon: 1e-2 };
            let width = 5;
            // Input, skip, gamma, beta of a layer norm, bias; results 1 and 2 have no adjoint.
            let forward = |it: &[&Tensor]| {
                let list: Vec<Vec<f64>> = it.iter().map(|it| f64s(it)).collect();
                let bias = &list[if centered { 4 } else { 3 }];
                let sum = list[0].iter().enumerate();
                let sum = sum.map(|(i, x)| x + list[1][i % list[1].len()] + bias[i % width]);
                let sum: Vec<f64> = sum.collect();
                let hat = layer_norm(&sum, width, f64::from(1e-2f32), centered);
                let shift = |i: usize| if centered { list[3][i % width] } else { 0.0 };
                let y = hat.iter().enumerate().map(|(i, h)| h * list[2][i % width] + shift(i));
                let y: Vec<f64> = y.collect();
                let flags = Tensor::vector(vec![0u8; 2]);
                let dims = it[0].dims().to_vec();
                let (y, sum) = (Tensor::from_vec(dims.clone(), y), Tensor::from_vec(dims, sum));
                vec![y.unwrap(), flags.clone(), flags, sum.unwrap()]
            };
            for skip in [&[2, 3, 5][..], &[3, 5]] {
                let mut args = vec![values(&[2, 3, 5]), values(skip), spread(&[5]), values(&[5])];
                if centered {
                    args.push(spread(&[5]));
                }
                check_against(&op, &args, &forward);
            }
        }
        let op = SimplifiedLayerNorm { axis: -1, epsilon: 1e-2, stash_type: 1 };
        let forward = |it: &[&Tensor]| {
            let (hat, s) = (layer_norm(&f64s(it[0]), 5, f64::from(1e-2f32), false), f64s(it[1]));
            let y = hat.iter().enumerate().map(|(i, h)| h * s[i % 5]).collect::<Vec<f64>>();
            vec![Tensor::from_vec(it[0].dims().to_vec(), y).unwrap()]
        };
        check_against(&op, &[values(&[3, 5]), spread(&[5])], &forward);
    }
}
