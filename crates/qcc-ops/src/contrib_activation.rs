//! Activations of `com.microsoft`, version 1.
//!
//! `Gelu`: `x * (1 + erf(x / sqrt(2))) / 2`; `BiasGelu`: the same of `x + bias`;
//! `FastGelu`: `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2` of `x + bias`;
//! `QuickGelu`: `x * sigmoid(alpha * x)`.
//! Source: ONNX Runtime docs/ContribOperators.md.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::activation::Activation;
use crate::dims::len_of;
use crate::emit::{Emit, args};
use crate::floats::float_tensor;
use crate::operands::{count, need, optional};
use crate::vector::{self, Lane};
use crate::{AttrError, AttrReader, OpDef};

const fn def(name: &'static str) -> OpDef {
    OpDef { domain: "com.microsoft", name, parse: ContribActivation::parse }
}

/// The operators of this file.
pub const OPS: &[OpDef] = &[def("Gelu"), def("BiasGelu"), def("FastGelu"), def("QuickGelu")];

/// An activation, which may add a bias first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ContribActivation {
    /// `Gelu(x)`.
    Gelu,
    /// `BiasGelu(x, bias)`.
    BiasGelu,
    /// `FastGelu(x, bias?)`.
    FastGelu,
    /// `QuickGelu(x)`.
    QuickGelu {
        /// Slope inside the sigmoid, 1.702 by default.
        alpha: f32,
    },
}

#[derive(Clone, Copy)]
struct Erf;

impl Lane for Erf {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        0.5 * x * (1.0 + vector::erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
}

#[derive(Clone, Copy)]
struct Tanh;

impl Lane for Tanh {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        const FACTOR: f32 = 0.797_884_6; // sqrt(2 / pi)
        0.5 * x * (1.0 + vector::tanh(FACTOR * (x + 0.044_715 * x * x * x)))
    }
}

#[derive(Clone, Copy)]
struct Quick(f32);

impl Lane for Quick {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        x * vector::sigmoid(self.0 * x)
    }
}

impl ContribActivation {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(match reader.op() {
            "Gelu" => Self::Gelu,
            "BiasGelu" => Self::BiasGelu,
            "FastGelu" => Self::FastGelu,
            _ => Self::QuickGelu { alpha: reader.float("alpha", 1.702)? },
        }))
    }

    /// Fewest and most operands.
    fn operands(self) -> (usize, usize) {
        match self {
            Self::Gelu | Self::QuickGelu { .. } => (1, 1),
            Self::BiasGelu => (2, 2),
            Self::FastGelu => (1, 2),
        }
    }
}

impl Op for ContribActivation {
    fn name(&self) -> &str {
        match self {
            Self::Gelu => "Gelu",
            Self::BiasGelu => "BiasGelu",
            Self::FastGelu => "FastGelu",
            Self::QuickGelu { .. } => "QuickGelu",
        }
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        match *self {
            Self::QuickGelu { alpha } => vec![("alpha".into(), Attr::Float(alpha))],
            _ => Attrs::new(),
        }
    }

    /// `x: T[..S, n], bias: T[n]` gives `T[..S, n]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (least, most) = self.operands();
        count(self.name(), inputs, least, most)?;
        Ok(vec![need(self.name(), inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = need(self.name(), inputs, 0)?;
        let dims = x.dims().to_vec();
        let mut values = x.to_f32()?;
        if let Some(bias) = optional(inputs, 1) {
            let bias = bias.to_f32()?;
            if bias.is_empty() || dims.last() != Some(&bias.len()) {
                return Err(TypeError::other(self.name(), "bias and input do not fit").into());
            }
            for row in values.to_mut().chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias.iter()).for_each(|(x, b)| *x += b);
            }
        }
        let mut out = cx.pool.take(len_of(self.name(), &dims)?)?;
        match *self {
            Self::Gelu | Self::BiasGelu => vector::map(Erf, &values, &mut out),
            Self::FastGelu => vector::map(Tanh, &values, &mut out),
            Self::QuickGelu { alpha } => vector::map(Quick(alpha), &values, &mut out),
        }
        Ok(vec![match x.dtype() {
            DType::F32 => cx.pool.tensor(dims, out)?,
            other => float_tensor(self.name(), other, dims, out)?,
        }])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, y, [x]) = args(self, io, dy)?;
        let of = match *self {
            Self::Gelu | Self::BiasGelu => Activation::Gelu,
            Self::FastGelu => Activation::GeluTanh,
            Self::QuickGelu { alpha } => Activation::Swish { alpha },
        };
        let Some(bias) = io.input(1) else { return Ok(vec![Some(of.pull(b, g, x, y))]) };
        let sum = b.add(x, bias);
        let dx = of.pull(b, g, sum, y);
        let db = io.wants(1).then(|| b.sum_to(dx, bias));
        Ok(vec![Some(dx), db])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_against, values};

    fn run(name: &str, inputs: &[&Tensor]) -> Vec<f32> {
        let op = crate::parse("com.microsoft", name, 1, Vec::new()).unwrap();
        let inputs: Vec<_> = inputs.iter().map(|&it| Some(it)).collect();
        let y = op.eval(&EvalCx::default(), &inputs, 1).unwrap();
        y[0].to_f32().unwrap().to_vec()
    }

    #[test]
    fn known_values() {
        let x = Tensor::vector(vec![1f32, -2.0]);
        let close = |a: Vec<f32>, b: [f32; 2]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
        };
        close(run("Gelu", &[&x]), [0.841_344_7, -0.045_500_26]);
        close(run("FastGelu", &[&x]), [0.841_192, -0.045_402_28]);
        close(run("QuickGelu", &[&x]), [0.845_795_8, -0.064_340_93]);
        let bias = Tensor::vector(vec![0.5f32, 3.0]);
        close(run("BiasGelu", &[&x, &bias]), [1.399_789_2, 0.841_344_7]);
    }

    #[test]
    fn bias_must_fit() {
        let op = crate::parse("com.microsoft", "FastGelu", 1, Vec::new()).unwrap();
        let (x, bias) = (Tensor::vector(vec![1f32, 2.0]), Tensor::scalar(1f32));
        assert!(op.eval(&EvalCx::default(), &[Some(&x), Some(&bias)], 1).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        let all = [
            (ContribActivation::Gelu, 1),
            (ContribActivation::BiasGelu, 2),
            (ContribActivation::FastGelu, 1),
            (ContribActivation::FastGelu, 2),
            (ContribActivation::QuickGelu { alpha: 1.3 }, 1),
        ];
        for (op, count) in all {
            let forward = |it: &[&Tensor]| {
                let list: Vec<_> = it.iter().map(|it| it.as_slice::<f64>().unwrap()).collect();
                let y = list[0].iter().enumerate().map(|(i, x)| {
                    let x = x + list.get(1).map_or(0.0, |it| it[i % it.len()]);
                    let k = std::f64::consts::FRAC_2_PI.sqrt();
                    match op {
                        ContribActivation::FastGelu => {
                            0.5 * x * (1.0 + (k * (x + 0.044715 * x.powi(3))).tanh())
                        }
                        ContribActivation::QuickGelu { alpha } => {
                            x / (1.0 + (-f64::from(alpha) * x).exp())
                        }
                        _ => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
                    }
                });
                vec![Tensor::from_vec(it[0].dims().to_vec(), y.collect::<Vec<f64>>()).unwrap()]
            };
            let args = [values(&[2, 3, 5]), values(&[5])];
            check_against(&op, &args[..count], &forward);
        }
    }
}
