//! Normalization of what lies behind an axis: `LayerNormalization` (ONNX opset 17) and
//! `RMSNormalization` (opset 23).
//!
//! Layer: `(x - mean) / sqrt(variance + epsilon) * scale + bias`; RMS: `x / sqrt(mean(x^2) + epsilon)
//! * scale`. Both compute in f32, which is what `stash_type` 1 says.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::broadcast::{self, Walk, zip};
use crate::emit::{Emit, args, no_vjp};
use crate::grad::NormGrad;
use crate::numeric::{narrow, wrong_type};
use crate::operands::{axis, count, need, optional};
use crate::vector::{self, dispatch, sum_of};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "LayerNormalization", parse: Norm::parse },
    OpDef { domain: "", name: "RMSNormalization", parse: Norm::parse },
];

/// Which normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes off the mean; further outputs are the mean and the inverse deviation.
    Layer,
    /// Does not.
    Rms,
}

/// Normalization of the dimensions from an axis on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which one.
    pub kind: Kind,
    /// First dimension of what is normalized; negative ones count from the end.
    pub axis: i64,
    /// Added to the variance.
    pub epsilon: f32,
    /// Element type of statistics, as an ONNX code.
    pub stash_type: i64,
}

impl Norm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kind = if reader.op() == "LayerNormalization" { Kind::Layer } else { Kind::Rms };
        Ok(Arc::new(Self {
            kind,
            axis: reader.int("axis", -1)?,
            epsilon: reader.float("epsilon", 1e-5)?,
            stash_type: reader.int("stash_type", 1)?,
        }))
    }

    fn stash(&self) -> Option<DType> {
        i32::try_from(self.stash_type).ok().and_then(DType::from_onnx_code)
    }
}

impl Op for Norm {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Layer => "LayerNormalization",
            Kind::Rms => "RMSNormalization",
        }
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("axis".into(), Attr::Int(self.axis)),
            ("epsilon".into(), Attr::Float(self.epsilon)),
            ("stash_type".into(), Attr::Int(self.stash_type)),
        ]
    }

    /// `x: T[A, B], scale: T[B], bias: T[B]?` gives `T[A, B], f32[A, 1], f32[A, 1]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        let most = if self.kind == Kind::Rms { 2 } else { 3 };
        count(self.name(), inputs, 2, most)?;
        let x = need(self.name(), inputs, 0)?.ty;
        let shape = match x.shape() {
            None => None,
            Some(dims) => {
                let at = axis(self.name(), self.axis, dims.len())?;
                let dims = dims.iter().enumerate();
                Some(dims.map(|(i, it)| if i < at { it.clone() } else { Dim::Known(1) }).collect())
            }
        };
        let mut types = vec![x.clone()];
        types.resize(n.max(1), Type::partial(self.stash(), shape));
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale) = (need(self.name(), inputs, 0)?, need(self.name(), inputs, 1)?);
        if !x.dtype().is_float() || self.stash() != Some(DType::F32) {
            return Err(wrong_type(self.name(), x.dtype()));
        }
        let at = axis(self.name(), self.axis, x.rank())?;
        let (outer, inner) = x.dims().split_at(at);
        let (count, width) = (outer.iter().product::<usize>(), inner.iter().product::<usize>());
        let scale = spread(self.name(), scale, inner)?;
        let bias = optional(inputs, 2).map(|it| spread(self.name(), it, inner)).transpose()?;
        let values = x.to_f32()?;
        let mut out = cx.pool.take(values.len())?;
        // Mean and inverse deviation of each row, when they are asked for.
        let mut stats = vec![[0f32; 2]; if n > 1 { count } else { 0 }];
        let rows = |first: usize, out: &mut [f32], stats: &mut [[f32; 2]]| {
            let x = &values[first * width..][..out.len()];
            let epsilon = self.epsilon;
            let (scale, bias) = (&*scale, bias.as_deref());
            let layer = self.kind == Kind::Layer;
            dispatch(Rows { layer, epsilon, width, x, scale, bias, out, stats });
        };
        if n > 1 && width > 0 {
            rows(0, &mut out, &mut stats);
        } else if width > 0 {
            vector::rows(&mut out, width, |first, out| rows(first, out, &mut []));
        }
        let mut results = vec![narrow(self.name(), cx, x.dtype(), x.dims(), out)?];
        let mut dims = outer.to_vec();
        dims.resize(x.rank(), 1);
        let stat = |which: usize| stats.iter().map(|it| it[which]).collect();
        if n > 1 {
            results.push(Tensor::from_vec::<f32>(dims.clone(), stat(0))?);
        }
        if n > 2 {
            results.push(Tensor::from_vec::<f32>(dims, stat(1))?);
        }
        Ok(results)
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        if dy.iter().skip(1).any(Option::is_some) {
            return Err(no_vjp(self, "of its statistics"));
        }
        let (g, _, [x, scale]) = args(self, io, dy)?;
        let grad = NormGrad { kind: self.kind, axis: self.axis, epsilon: self.epsilon };
        let [dx, ds] = grad.pull(b, [x, scale, g], io.wants(1));
        let db = io.input(2).filter(|_| io.wants(2)).map(|bias| b.sum_to(g, bias));
        Ok(vec![dx, ds, db])
    }
}

/// A scale or bias, repeated to the shape of what is normalized.
///
/// # Errors
/// When it does not go into it.
pub(crate) fn spread(op: &str, x: &Tensor, inner: &[usize]) -> Result<Vec<f32>, EvalError> {
    // Leading dimensions of 1 do not count.
    let lead = x.dims().len().saturating_sub(inner.len());
    let (lead, dims) = x.dims().split_at(lead);
    if lead.iter().any(|&it| it != 1) || broadcast::sizes(op, &[inner, dims])? != inner {
        let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<_>>();
        return Err(TypeError::shapes(op, &dims(x.dims()), &dims(inner)).into());
    }
    let values = x.to_f32()?;
    let walk = Walk::new(inner, [inner, dims]);
    if values.len() == walk.len() {
        return Ok(values.into_owned());
    }
    let mut out = vec![0f32; walk.len()];
    let unit = vec![(); walk.len()];
    zip(&walk, &unit, &values, &mut out, |(), x| x);
    Ok(out)
}

struct Rows<'a> {
    layer: bool,
    epsilon: f32,
    width: usize,
    x: &'a [f32],
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
    stats: &'a mut [[f32; 2]],
}

impl NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { layer, epsilon, width, x, scale, bias, out, stats } = self;
        let count = width as f32;
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate();
        for (row, (x, out)) in rows {
            let mean = if layer { sum_of(x, |x| x) / count } else { 0.0 };
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            match bias {
                Some(bias) => {
                    for (((out, &x), &scale), &bias) in out.iter_mut().zip(x).zip(scale).zip(bias) {
                        *out = (x - mean) * inverse * scale + bias;
                    }
                }
                None => {
                    for ((out, &x), &scale) in out.iter_mut().zip(x).zip(scale) {
                        *out = (x - mean) * inverse * scale;
                    }
                }
            }
            if let Some(stats) = stats.get_mut(row) {
                *stats = [mean, inverse];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testing::{check_against, layer_norm, spread, values};

    fn run(op: &dyn Op, inputs: &[&Tensor], n: usize) -> Vec<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|it| Some(*it)).collect();
        op.eval(&EvalCx::default(), &inputs, n).unwrap()
    }

    #[test]
    fn attributes_make_the_same_operator() {
        for kind in [Kind::Layer, Kind::Rms] {
            let it = Norm { kind, axis: 1, epsilon: 1e-6, stash_type: 1 };
            assert_eq!(parse("", it.name(), 23, it.attrs()).unwrap().is::<Norm>(), Some(&it));
        }
    }

    #[test]
    fn rows_are_normalized() {
        let x = Tensor::from_vec(vec![2, 2], vec![1f32, 3.0, -2.0, 2.0]).unwrap();
        let (scale, bias) = (Tensor::vector(vec![1f32, 2.0]), Tensor::scalar(0.5f32));
        let layer = Norm { kind: Kind::Layer, axis: -1, epsilon: 0.0, stash_type: 1 };
        let out = run(&layer, &[&x, &scale, &bias], 3);
        assert_eq!(&*out[0].to_f32().unwrap(), [-0.5, 2.5, -0.5, 2.5]);
        assert_eq!((out[1].dims(), &*out[1].to_f32().unwrap()), (&[2, 1][..], &[2.0, 0.0][..]));
        assert_eq!(&*out[2].to_f32().unwrap(), [1.0, 0.5]);
        let rms = Norm { kind: Kind::Rms, ..layer };
        let out = run(&rms, &[&x, &scale], 1);
        assert_eq!(out[0].to_f32().unwrap()[2..], [-1.0, 2.0]);
    }

    #[test]
    fn scale_must_fit() {
        let x = Tensor::from_vec(vec![2, 2], vec![0f32; 4]).unwrap();
        let it = Norm { kind: Kind::Rms, axis: -1, epsilon: 1e-5, stash_type: 1 };
        let scale = Tensor::vector(vec![1f32; 3]);
        assert!(it.eval(&EvalCx::default(), &[Some(&x), Some(&scale)], 1).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        for (kind, centered) in [(Kind::Layer, true), (Kind::Rms, false)] {
            for (dims, axis) in [(&[3, 5][..], -1), (&[2, 3, 4], 1), (&[2, 1, 7], 2)] {
                let inner = &dims[crate::operands::axis("", axis, dims.len()).unwrap()..];
                let width = inner.iter().product();
                let op = Norm { kind, axis, epsilon: 1e-2, stash_type: 1 };
                let forward = |it: &[&Tensor]| {
                    let list: Vec<_> = it.iter().map(|it| it.as_slice::<f64>().unwrap()).collect();
                    let hat = layer_norm(&list[0], width, f64::from(1e-2f32), centered);
                    let at = |(i, h): (usize, &f64)| {
                        h * list[1][i % width] + list.get(2).map_or(0.0, |it| it[i % width])
                    };
                    let list: Vec<f64> = hat.iter().enumerate().map(at).collect();
                    vec![Tensor::from_vec(dims.to_vec(), list).unwrap()]
                };
                let mut args = vec![values(dims), spread(inner)];
                check_against(&op, &args, &forward);
                if centered {
                    args.push(values(inner));
                    check_against(&op, &args, &forward);
                }
            }
        }
    }
}
