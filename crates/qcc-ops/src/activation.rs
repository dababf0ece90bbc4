//! Activations with attributes: functions of one element.
//!
//! Source: onnx/defs/math/defs.cc and nn/defs.cc: LeakyRelu-16, Elu-22, Selu-22, Celu-12,
//! HardSigmoid-22, ThresholdedRelu-22, Shrink-9, Gelu-20, Swish-24.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::Tensor;

use crate::compare::Compare;
use crate::emit::{Emit, args};
use crate::numeric::{Number, build, map_float, with_integer};
use crate::operands::one;
use crate::unary::Unary;
use crate::vector::{self, Lane};
use crate::{AttrError, AttrReader, OpDef};

/// A function of one element, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x < 0 ? alpha * x : x`
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// `x < 0 ? alpha * (e^x - 1) : x`
    Elu {
        /// Negative limit.
        alpha: f32,
    },
    /// `gamma * (x > 0 ? x : alpha * (e^x - 1))`
    Selu {
        /// Negative limit before the scale.
        alpha: f32,
        /// Scale.
        gamma: f32,
    },
    /// `max(0, x) + min(0, alpha * (e^(x / alpha) - 1))`
    Celu {
        /// Negative limit.
        alpha: f32,
    },
    /// `max(0, min(1, alpha * x + beta))`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x > alpha ? x : 0`
    ThresholdedRelu {
        /// Threshold.
        alpha: f32,
    },
    /// `x < -lambd ? x + bias : x > lambd ? x - bias : 0`
    Shrink {
        /// What is taken off.
        bias: f32,
        /// Threshold.
        lambd: f32,
    },
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`
    GeluTanh,
    /// `x * sigmoid(alpha * x)`
    Swish {
        /// Slope inside of the sigmoid; 1 is SiLU.
        alpha: f32,
    },
}

use Activation::{
    Celu, Elu, Gelu, GeluTanh, HardSigmoid, LeakyRelu, Selu, Shrink, Swish, ThresholdedRelu,
};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "LeakyRelu", parse },
    OpDef { domain: "", name: "Elu", parse },
    OpDef { domain: "", name: "Selu", parse },
    OpDef { domain: "", name: "Celu", parse },
    OpDef { domain: "", name: "HardSigmoid", parse },
    OpDef { domain: "", name: "ThresholdedRelu", parse },
    OpDef { domain: "", name: "Shrink", parse },
    OpDef { domain: "", name: "Gelu", parse },
    OpDef { domain: "", name: "Swish", parse },
];

fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
    let float = |name: &str, default| reader.float(name, default);
    Ok(Arc::new(match reader.op() {
        "LeakyRelu" => LeakyRelu { alpha: float("alpha", 0.01)? },
        "Elu" => Elu { alpha: float("alpha", 1.0)? },
        // The defaults of the definition, in full.
        "Selu" => Selu { alpha: float("alpha", 1.673_263_2)?, gamma: float("gamma", 1.050_701)? },
        "Celu" => Celu { alpha: float("alpha", 1.0)? },
        "HardSigmoid" => HardSigmoid { alpha: float("alpha", 0.2)?, beta: float("beta", 0.5)? },
        "ThresholdedRelu" => ThresholdedRelu { alpha: float("alpha", 1.0)? },
        "Shrink" => Shrink { bias: float("bias", 0.0)?, lambd: float("lambd", 0.5)? },
        "Swish" => Swish { alpha: float("alpha", 1.0)? },
        _ => match reader.str("approximate", "none")? {
            "none" => Gelu,
            "tanh" => GeluTanh,
            _ => return Err(reader.error("approximate", "is neither 'none' nor 'tanh'")),
        },
    }))
}

impl Op for Activation {
    fn name(&self) -> &str {
        match self {
            LeakyRelu { .. } => "LeakyRelu",
            Elu { .. } => "Elu",
            Selu { .. } => "Selu",
            Celu { .. } => "Celu",
            HardSigmoid { .. } => "HardSigmoid",
            ThresholdedRelu { .. } => "ThresholdedRelu",
            Shrink { .. } => "Shrink",
            Gelu | GeluTanh => "Gelu",
            Swish { .. } => "Swish",
        }
    }

    fn attrs(&self) -> Attrs {
        let (first, second) = match *self {
            LeakyRelu { alpha }
            | Elu { alpha }
            | Celu { alpha }
            | ThresholdedRelu { alpha }
            | Swish { alpha } => (("alpha", alpha), None),
            Selu { alpha, gamma } => (("alpha", alpha), Some(("gamma", gamma))),
            HardSigmoid { alpha, beta } => (("alpha", alpha), Some(("beta", beta))),
            Shrink { bias, lambd } => (("bias", bias), Some(("lambd", lambd))),
            Gelu => return Vec::new(),
            GeluTanh => return vec![("approximate".into(), "tanh".into())],
        };
        [Some(first), second].into_iter().flatten().map(|it| (it.0.into(), it.1.into())).collect()
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
        macro_rules! map {
            ($single:expr, $double:expr) => {
                map_float(self.name(), cx, x, $single, $double)
            };
        }
        /// The same text for both widths.
        macro_rules! both {
            (|$x:ident, $t:ident| $body:expr) => {
                map!(
                    move |$x: f32| {
                        type $t = f32;
                        $body
                    },
                    move |$x: f64| {
                        type $t = f64;
                        $body
                    }
                )
            };
        }
        Ok(vec![match *self {
            LeakyRelu { alpha } => both!(|x, T| if x < 0.0 { T::from(alpha) * x } else { x }),
            Elu { alpha } => both!(|x, T| if x < 0.0 { T::from(alpha) * x.exp_m1() } else { x }),
            Selu { alpha, gamma } => both!(|x, T| {
                let x = if x > 0.0 { x } else { T::from(alpha) * x.exp_m1() };
                T::from(gamma) * x
            }),
            Celu { alpha } => both!(|x, T| {
                let alpha = T::from(alpha);
                if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x }
            }),
            HardSigmoid { alpha, beta } => {
                both!(|x, T| (T::from(alpha) * x + T::from(beta)).clamp(0.0, 1.0))
            }
            ThresholdedRelu { alpha } => {
                both!(|x, T| if x > T::from(alpha) { x } else { 0.0 })
            }
            Shrink { bias, lambd } if x.dtype().is_float() => both!(|x, T| {
                let (bias, lambd) = (T::from(bias), T::from(lambd));
                if x < -lambd {
                    x + bias
                } else if x > lambd {
                    x - bias
                } else {
                    0.0
                }
            }),
            Shrink { bias, lambd } => shrink(cx, x, bias.into(), lambd.into()),
            Gelu => map!(gelu, |x| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))),
            GeluTanh => map!(gelu_tanh, |x| {
                let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
            Swish { alpha } => {
                map!(SwishLane(alpha), |x| x / (1.0 + (-f64::from(alpha) * x).exp()))
            }
        }?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, y, [x]) = args(self, io, dy)?;
        Ok(vec![Some(self.pull(b, g, x, y))])
    }
}

impl Activation {
    /// The adjoint of `x` from `g`, that of `y = f(x)`.
    pub(crate) fn pull(self, b: &mut Emitter, g: Value, x: Value, y: Value) -> Value {
        let is = |b: &mut Emitter, how: Compare, x: Value, bound: f64| {
            let bound = b.scalar(x, bound);
            b.apply(how, &[x, bound])
        };
        // `g` times a slope that is linear in `y`.
        let by = |b: &mut Emitter, factor: f32, term: f32| {
            let scaled = b.scale(y, factor.into());
            let slope = b.shift(scaled, term.into());
            b.mul(g, slope)
        };
        match self {
            LeakyRelu { alpha } => {
                let is_below = is(b, Compare::Less, x, 0.0);
                let scaled = b.scale(g, alpha.into());
                b.select(is_below, scaled, g)
            }
            Elu { alpha } => {
                let is_below = is(b, Compare::Less, x, 0.0);
                let scaled = by(b, 1.0, alpha);
                b.select(is_below, scaled, g)
            }
            Selu { alpha, gamma } => {
                let is_above = is(b, Compare::Greater, x, 0.0);
                let (line, scaled) = (b.scale(g, gamma.into()), by(b, 1.0, gamma * alpha));
                b.select(is_above, line, scaled)
            }
            Celu { alpha } => {
                let is_below = is(b, Compare::Less, x, 0.0);
                let scaled = by(b, 1.0 / alpha, 1.0);
                b.select(is_below, scaled, g)
            }
            HardSigmoid { alpha, .. } => {
                let (low, high) = (is(b, Compare::Greater, y, 0.0), is(b, Compare::Less, y, 1.0));
                let is_inside = b.apply(Compare::And, &[low, high]);
                let scaled = b.scale(g, alpha.into());
                b.masked(is_inside, scaled)
            }
            ThresholdedRelu { alpha } => {
                let is_above = is(b, Compare::Greater, x, alpha.into());
                b.masked(is_above, g)
            }
            Shrink { lambd, .. } => {
                let size = b.apply(Unary::Abs, &[x]);
                let is_outside = is(b, Compare::Greater, size, lambd.into());
                b.masked(is_outside, g)
            }
            // The normal distribution's share below x, plus x times its density.
            Gelu => {
                let scaled = b.scale(x, std::f64::consts::FRAC_1_SQRT_2);
                let error = b.apply(Unary::Erf, &[scaled]);
                let twice = b.shift(error, 1.0);
                let share = b.scale(twice, 0.5);
                let square = b.mul(scaled, scaled);
                let less = b.scale(square, -1.0);
                let bell = b.apply(Unary::Exp, &[less]);
                let density = b.scale(bell, (2.0 * std::f64::consts::PI).sqrt().recip());
                let tail = b.mul(x, density);
                let slope = b.add(share, tail);
                b.mul(g, slope)
            }
            // With `t` the tangent and `k` the root: `(1 + t + x (1 - t^2) k (1 + 3 * 0.044715 x^2)) / 2`.
            GeluTanh => {
                let k = std::f64::consts::FRAC_2_PI.sqrt();
                let square = b.mul(x, x);
                let bent = b.scale(square, 0.044715 * k);
                let inner = b.shift(bent, k);
                let arg = b.mul(x, inner);
                let t = b.apply(Unary::Tanh, &[arg]);
                let t2 = b.mul(t, t);
                let rest = b.minus(1.0, t2);
                let steep = b.scale(square, 3.0 * 0.044715 * k);
                let inner_slope = b.shift(steep, k);
                let xr = b.mul(x, rest);
                let tail = b.mul(xr, inner_slope);
                let one_t = b.shift(t, 1.0);
                let twice = b.add(one_t, tail);
                let slope = b.scale(twice, 0.5);
                b.mul(g, slope)
            }
            Swish { alpha } => {
                let ax = b.scale(x, alpha.into());
                let s = b.sigmoid(ax);
                let ay = b.scale(y, alpha.into());
                let rest = b.minus(1.0, s);
                let tail = b.mul(ay, rest);
                let slope = b.add(s, tail);
                b.mul(g, slope)
            }
        }
    }
}

fn shrink(cx: &EvalCx, x: &Tensor, bias: f64, lambd: f64) -> Result<Tensor, EvalError> {
    with_integer!(x.dtype(), T => {
        let values = x.as_slice::<T>()?;
        build(cx, x.dims(), |out: &mut [T]| {
            for (out, &x) in out.iter_mut().zip(&*values) {
                let x = x.to_f64();
                *out = T::of_f64(match () {
                    () if x < -lambd => x + bias,
                    () if x > lambd => x - bias,
                    () => 0.0,
                });
            }
        })
    }, other => Err(crate::numeric::wrong_type("Shrink", other)))
}

/// Exact Gelu.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + vector::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Gelu by the hyperbolic tangent.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + vector::tanh(SQRT_2_PI * (x + 0.044715 * x * x * x)))
}

#[derive(Clone, Copy)]
struct SwishLane(f32);

impl Lane for SwishLane {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        x * vector::sigmoid(self.0 * x)
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::Attr;

    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, floats, values};

    fn all() -> [Activation; 10] {
        [
            LeakyRelu { alpha: 0.3 },
            Elu { alpha: 2.0 },
            Selu { alpha: 2.0, gamma: 3.0 },
            Celu { alpha: 2.0 },
            HardSigmoid { alpha: 0.3, beta: 0.4 },
            ThresholdedRelu { alpha: 0.7 },
            Shrink { bias: 0.3, lambd: 0.9 },
            Gelu,
            GeluTanh,
            Swish { alpha: 1.3 },
        ]
    }

    #[test]
    fn attributes_make_the_same_operator() {
        for it in all() {
            let again = parse("", it.name(), 24, it.attrs()).unwrap();
            assert_eq!(again.is::<Activation>(), Some(&it));
        }
        let attrs = vec![("approximate".to_owned(), Attr::from("sin"))];
        assert!(parse("", "Gelu", 20, attrs).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        for it in all() {
            check_vjp(&it, &[floats(&[-4.1, -1.7, -0.8, -0.3, 0.2, 0.5, 1.1, 2.3, 6.0])], 1);
            check_vjp(&it, &[values(&[2, 1, 5])], 1);
        }
    }

    #[test]
    fn single_agrees_with_double() {
        let cx = EvalCx::default();
        let xs: Vec<f32> = (-400..=400).map(|it| it as f32 / 40.0 + 0.001).collect();
        let double = Tensor::vector(xs.iter().map(|&it| f64::from(it)).collect::<Vec<_>>());
        let single = Tensor::vector(xs);
        for it in all() {
            let got = it.eval(&cx, &[Some(&single)], 1).unwrap().remove(0);
            let want = it.eval(&cx, &[Some(&double)], 1).unwrap().remove(0);
            let (got, want) = (got.to_f32().unwrap(), want.as_slice::<f64>().unwrap());
            for (got, &want) in got.iter().zip(&*want) {
                // Gelu cancels far below 0: its error is relative to x there.
                let near = (f64::from(*got) - want).abs() <= 1e-6 * want.abs() + 1e-6;
                assert!(near, "{it:?}: {got} {want}");
            }
        }
    }
}
