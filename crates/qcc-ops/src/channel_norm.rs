//! Normalization with a scale per channel, dimension 1: `BatchNormalization` (ONNX opset 15),
//! `InstanceNormalization` (opset 22), `GroupNormalization` (opset 21); and
//! `MeanVarianceNormalization` (opset 13).
//!
//! `(x - mean) / sqrt(variance + epsilon) * scale + bias`, with statistics that are operands, of each
//! channel, of each group of channels, or over given axes.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::broadcast::Walk;
use crate::numeric::{narrow, wrong_type};
use crate::operands::{axis, count, need, one};
use crate::vector::sum_of;
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "BatchNormalization", parse: BatchNorm::parse },
    OpDef { domain: "", name: "InstanceNormalization", parse: GroupNorm::parse },
    OpDef { domain: "", name: "GroupNormalization", parse: GroupNorm::parse },
    OpDef { domain: "", name: "MeanVarianceNormalization", parse: MeanVariance::parse },
];

/// Batch and channels of `x`, and the elements of one channel of one sample.
fn channels(op: &str, x: &Tensor) -> Result<[usize; 3], EvalError> {
    match x.dims() {
        [batch, channels, rest @ ..] if x.dtype().is_float() => {
            Ok([*batch, *channels, rest.iter().product()])
        }
        [batch] if x.dtype().is_float() => Ok([*batch, 1, 1]),
        [] => {
            let (op, want) = (op.into(), "1 or more".into());
            Err(TypeError::Rank { op, index: 0, want, got: 0 }.into())
        }
        _ => Err(wrong_type(op, x.dtype())),
    }
}

/// An operand with one number per channel or group.
fn numbers(
    op: &str,
    inputs: &[Option<&Tensor>],
    at: usize,
    len: usize,
) -> Result<Vec<f32>, EvalError> {
    let it = need(op, inputs, at)?;
    if it.len() != len {
        return Err(TypeError::other(
            op,
            format!("input {at} has {} elements, not {len}", it.len()),
        )
        .into());
    }
    Ok(it.to_f32()?.into_owned())
}

/// Normalization by statistics from training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// Share of the old statistics in training.
    pub momentum: f32,
    /// Computes statistics; this is not executed.
    pub training: bool,
    /// The statistics are of channels, not of single elements, before opset 9.
    pub spatial: bool,
}

impl BatchNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            epsilon: reader.float("epsilon", 1e-5)?,
            momentum: reader.float("momentum", 0.9)?,
            training: reader.flag("training_mode", false)?,
            spatial: reader.flag("spatial", true)?,
        }))
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &str {
        "BatchNormalization"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![
            ("epsilon".to_owned(), Attr::Float(self.epsilon)),
            ("momentum".to_owned(), Attr::Float(self.momentum)),
        ];
        if self.training {
            attrs.push(("training_mode".into(), Attr::Int(1)));
        }
        if !self.spatial {
            attrs.push(("spatial".into(), Attr::Int(0)));
        }
        attrs
    }

    /// `x: T[N, C, ..], scale, bias, mean, variance: U[C]` gives `T[N, C, ..]`, and in training
    /// `U[C], U[C]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 5, 5)?;
        let mut types = vec![need(self.name(), inputs, 0)?.ty.clone()];
        if n > 1 {
            let mean = need(self.name(), inputs, 3)?.ty;
            types.resize(n, mean.with_shape(mean.shape().map(<[Dim]>::to_vec)));
        }
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count(self.name(), inputs, 5, 5)?;
        if self.training || n > 1 || !self.spatial {
            return Err(EvalError::unsupported(self, "training"));
        }
        let x = need(self.name(), inputs, 0)?;
        let [_, channels, len] = channels(self.name(), x)?;
        let of = |at| numbers(self.name(), inputs, at, channels);
        let (scale, bias, mean, variance) = (of(1)?, of(2)?, of(3)?, of(4)?);
        let values = x.to_f32()?;
        let mut out = cx.pool.take(values.len())?;
        let lines = values.chunks(len.max(1)).zip(out.chunks_mut(len.max(1)));
        for ((x, out), c) in lines.zip((0..channels).cycle()) {
            let factor = scale[c] / (variance[c] + self.epsilon).sqrt();
            out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - mean[c]) * factor + bias[c]);
        }
        Ok(vec![narrow(self.name(), cx, x.dtype(), x.dims(), out)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::batch_norm(self, b, io, dy)
    }
}

/// Normalization of groups of channels of each sample; of every channel for itself as
/// `InstanceNormalization`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; `None` is one for each channel, as `InstanceNormalization`.
    pub groups: Option<i64>,
    /// Added to the variance.
    pub epsilon: f32,
    /// Element type of statistics, as an ONNX code.
    pub stash_type: i64,
}

impl GroupNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let epsilon = reader.float("epsilon", 1e-5)?;
        if reader.op() == "InstanceNormalization" {
            return Ok(Arc::new(Self { groups: None, epsilon, stash_type: 1 }));
        }
        let groups = reader.need_int("num_groups")?;
        if groups < 1 {
            return Err(reader.error("num_groups", "is not positive"));
        }
        let stash_type = reader.int("stash_type", 1)?;
        Ok(Arc::new(Self { groups: Some(groups), epsilon, stash_type }))
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &str {
        if self.groups.is_some() { "GroupNormalization" } else { "InstanceNormalization" }
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![("epsilon".to_owned(), Attr::Float(self.epsilon))];
        if let Some(groups) = self.groups {
            attrs.push(("num_groups".into(), Attr::Int(groups)));
            attrs.push(("stash_type".into(), Attr::Int(self.stash_type)));
        }
        attrs
    }

    /// `x: T[N, C, ..], scale: T[C], bias: T[C]` gives `T[N, C, ..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 3, 3)?;
        Ok(vec![need(self.name(), inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count(self.name(), inputs, 3, 3)?;
        let x = need(self.name(), inputs, 0)?;
        let [_, channels, len] = channels(self.name(), x)?;
        let groups = match self.groups {
            None => channels,
            Some(it) => usize::try_from(it).unwrap_or(usize::MAX),
        };
        if groups == 0 || channels % groups != 0 {
            let what = format!("{channels} channels are no {groups} groups");
            return Err(TypeError::other(self.name(), what).into());
        }
        let per_group = channels / groups;
        // Opset 18 has a scale for each group.
        let scales = if need(self.name(), inputs, 1)?.len() == groups { groups } else { channels };
        let (scale, bias) =
            (numbers(self.name(), inputs, 1, scales)?, numbers(self.name(), inputs, 2, scales)?);
        let values = x.to_f32()?;
        let mut out = cx.pool.take(values.len())?;
        let width = (per_group * len).max(1);
        let blocks = values.chunks(width).zip(out.chunks_mut(width));
        for ((x, out), group) in blocks.zip((0..groups).cycle()) {
            let terms = x.len() as f32;
            let mean = sum_of(x, |x| x) / terms;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / terms;
            let inverse = 1.0 / (variance + self.epsilon).sqrt();
            let lines = x.chunks(len.max(1)).zip(out.chunks_mut(len.max(1)));
            for (idx, (x, out)) in lines.enumerate() {
                let at = if scales == groups { group } else { group * per_group + idx };
                let (scale, bias) = (scale[at], bias[at]);
                out.iter_mut()
                    .zip(x)
                    .for_each(|(out, x)| *out = (x - mean) * inverse * scale + bias);
            }
        }
        Ok(vec![narrow(self.name(), cx, x.dtype(), x.dims(), out)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::group_norm(self, b, io, dy)
    }
}

/// `(x - mean) / (deviation + 1e-9)` over axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeanVariance {
    /// The axes.
    pub axes: Vec<i64>,
}

impl MeanVariance {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let axes = reader.opt_ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
        Ok(Arc::new(Self { axes }))
    }
}

impl Op for MeanVariance {
    fn name(&self) -> &str {
        "MeanVarianceNormalization"
    }

    fn attrs(&self) -> Attrs {
        vec![("axes".into(), Attr::Ints(self.axes.clone()))]
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
        if !x.dtype().is_float() {
            return Err(wrong_type(self.name(), x.dtype()));
        }
        let mut ones = x.dims().to_vec();
        for &it in &self.axes {
            ones[axis(self.name(), it, x.rank())?] = 1;
        }
        let walk = Walk::new(x.dims(), [x.dims(), &ones]);
        let groups = ones.iter().product::<usize>();
        let terms = (walk.len() / groups.max(1)) as f64;
        let values = x.to_f32()?;
        let mut mean = vec![0f64; groups];
        let mut variance = vec![0f64; groups];
        for (index, &x) in values.iter().enumerate() {
            mean[walk.at(index)[1]] += f64::from(x) / terms;
        }
        for (index, &x) in values.iter().enumerate() {
            let at = walk.at(index)[1];
            variance[at] += (f64::from(x) - mean[at]).powi(2) / terms;
        }
        let mut out = cx.pool.take(values.len())?;
        for (index, (out, &x)) in out.iter_mut().zip(&*values).enumerate() {
            let at = walk.at(index)[1];
            *out = ((f64::from(x) - mean[at]) / (variance[at].sqrt() + 1e-9)) as f32;
        }
        Ok(vec![narrow(self.name(), cx, x.dtype(), x.dims(), out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn attributes_make_the_same_operator() {
        let it = BatchNorm { epsilon: 0.1, momentum: 0.5, training: true, spatial: false };
        assert_eq!(parse("", it.name(), 14, it.attrs()).unwrap().is::<BatchNorm>(), Some(&it));
        for groups in [None, Some(2)] {
            let it = GroupNorm { groups, epsilon: 0.1, stash_type: 1 };
            assert_eq!(parse("", it.name(), 21, it.attrs()).unwrap().is::<GroupNorm>(), Some(&it));
        }
        let it = MeanVariance { axes: vec![1] };
        assert_eq!(parse("", it.name(), 13, it.attrs()).unwrap().is::<MeanVariance>(), Some(&it));
    }

    #[test]
    fn scales_of_groups_and_of_channels() {
        let x = Tensor::from_vec(vec![1, 4, 1], vec![1f32, 3.0, -2.0, 2.0]).unwrap();
        let it = GroupNorm { groups: Some(2), epsilon: 0.0, stash_type: 1 };
        let run = |scale: Vec<f32>| {
            let bias = Tensor::vector(vec![0f32; scale.len()]);
            let inputs = [Some(&x), Some(&Tensor::vector(scale)), Some(&bias)];
            it.eval(&EvalCx::default(), &inputs, 1).map(|it| it[0].to_f32().unwrap().into_owned())
        };
        assert_eq!(run(vec![1.0, 2.0]).unwrap(), [-1.0, 1.0, -2.0, 2.0]);
        assert_eq!(run(vec![1.0, 2.0, 3.0, 4.0]).unwrap(), [-1.0, 2.0, -3.0, 4.0]);
        assert!(run(vec![1.0; 3]).is_err());
    }
}
