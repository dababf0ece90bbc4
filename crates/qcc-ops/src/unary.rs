//! Functions of one element without attributes: `y = f(x)`.
//!
//! Source: onnx/defs/math/defs.cc, of opset 7 and later. `Neg`, `Abs`, `Sign` and `Relu` take
//! integers too, `BitwiseNot` only these.

use std::sync::Arc;

use qcc_ir::{Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, Type, TypeError, Value};
use qcc_tensor::Tensor;

use crate::OpDef;
use crate::compare::Compare;
use crate::emit::{Emit, args, no_vjp};
use crate::numeric::{Number, build, map_float, with_integer, wrong_type};
use crate::operands::one;
use crate::vector;

macro_rules! unaries {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// A function of one element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Unary { $($(#[$doc])* $name,)* }

        impl Unary {
            fn text(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        /// The operators of this file.
        pub const OPS: &[OpDef] = &[$(OpDef {
            domain: "",
            name: stringify!($name),
            parse: |_| Ok(Arc::new(Unary::$name)),
        },)*];
    };
}

unaries! {
    /// `-x`
    Neg;
    /// `|x|`
    Abs;
    /// -1, 0 or 1
    Sign;
    /// `max(x, 0)`
    Relu;
    /// Bits that are not there, of integers
    BitwiseNot;
    /// `sqrt(x)`
    Sqrt;
    /// `1 / x`
    Reciprocal;
    /// `e^x`
    Exp;
    /// Natural logarithm
    Log;
    /// Error function
    Erf;
    /// `1 / (1 + e^-x)`
    Sigmoid;
    /// `log(1 + e^x)`
    Softplus;
    /// `x / (1 + |x|)`
    Softsign;
    /// `x * max(0, min(1, x / 6 + 1 / 2))`
    HardSwish;
    /// `x * tanh(softplus(x))`
    Mish;
    /// Next integer above
    Ceil;
    /// Next integer below
    Floor;
    /// Nearest integer, half to even
    Round;
    /// Sine
    Sin;
    /// Cosine
    Cos;
    /// Tangent
    Tan;
    /// Arc sine
    Asin;
    /// Arc cosine
    Acos;
    /// Arc tangent
    Atan;
    /// Hyperbolic sine
    Sinh;
    /// Hyperbolic cosine
    Cosh;
    /// Hyperbolic tangent
    Tanh;
    /// Area hyperbolic sine
    Asinh;
    /// Area hyperbolic cosine
    Acosh;
    /// Area hyperbolic tangent
    Atanh;
}

impl Op for Unary {
    fn name(&self) -> &str {
        self.text()
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// `x: T[..]` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![one(self.text(), inputs)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(self.text(), inputs)?;
        let integer = !x.dtype().is_float();
        Ok(vec![if integer { self.integers(cx, x) } else { self.floats(cx, x) }?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, y, [x]) = args(self, io, dy)?;
        let own = |b: &mut Emitter, op: Self, x: Value| b.apply(op, &[x]);
        let over_root = |b: &mut Emitter, square: Value| {
            let root = b.apply(Self::Sqrt, &[square]);
            b.div(g, root)
        };
        Ok(vec![Some(match self {
            Self::BitwiseNot => return Err(no_vjp(self, "")),
            Self::Sign | Self::Ceil | Self::Floor | Self::Round => return Ok(vec![None]),
            Self::Neg => own(b, Self::Neg, g),
            Self::Abs => {
                let sign = own(b, Self::Sign, x);
                b.mul(g, sign)
            }
            Self::Relu => {
                let zero = b.scalar(y, 0.0);
                let is_above = b.apply(Compare::Greater, &[y, zero]);
                b.masked(is_above, g)
            }
            Self::Sqrt => {
                let twice = b.scale(y, 2.0);
                b.div(g, twice)
            }
            Self::Reciprocal => {
                let square = b.mul(y, y);
                let gy = b.mul(g, square);
                own(b, Self::Neg, gy)
            }
            Self::Exp => b.mul(g, y),
            Self::Log => b.div(g, x),
            Self::Erf => {
                let square = b.mul(x, x);
                let less = own(b, Self::Neg, square);
                let bell = own(b, Self::Exp, less);
                let slope = b.scale(bell, std::f64::consts::FRAC_2_SQRT_PI);
                b.mul(g, slope)
            }
            Self::Sigmoid => {
                let rest = b.minus(1.0, y);
                let slope = b.mul(y, rest);
                b.mul(g, slope)
            }
            Self::Softplus => {
                let slope = b.sigmoid(x);
                b.mul(g, slope)
            }
            Self::Softsign => {
                let size = own(b, Self::Abs, x);
                let root = b.shift(size, 1.0);
                let square = b.mul(root, root);
                b.div(g, square)
            }
            // 0 below -3, 1 above 3, and `x / 3 + 1 / 2` between.
            Self::HardSwish => {
                let third = b.scale(x, 1.0 / 3.0);
                let between = b.shift(third, 0.5);
                let [one, low, high] = [1.0, -3.0, 3.0].map(|it| b.scalar(x, it));
                let is_below = b.apply(Compare::Less, &[x, high]);
                let slope = b.select(is_below, between, one);
                let scaled = b.mul(g, slope);
                let is_above = b.apply(Compare::Greater, &[x, low]);
                b.masked(is_above, scaled)
            }
            // With `t = tanh(softplus(x))` and `s = sigmoid(x)`: `t + x * s * (1 - t^2)`.
            Self::Mish => {
                let soft = own(b, Self::Softplus, x);
                let t = own(b, Self::Tanh, soft);
                let s = b.sigmoid(x);
                let square = b.mul(t, t);
                let rest = b.minus(1.0, square);
                let xs = b.mul(x, s);
                let tail = b.mul(xs, rest);
                let slope = b.add(t, tail);
                b.mul(g, slope)
            }
            Self::Sin => {
                let slope = own(b, Self::Cos, x);
                b.mul(g, slope)
            }
            Self::Cos => {
                let sine = own(b, Self::Sin, x);
                let slope = own(b, Self::Neg, sine);
                b.mul(g, slope)
            }
            Self::Tan => {
                let square = b.mul(y, y);
                let slope = b.shift(square, 1.0);
                b.mul(g, slope)
            }
            Self::Sinh => {
                let slope = own(b, Self::Cosh, x);
                b.mul(g, slope)
            }
            Self::Cosh => {
                let slope = own(b, Self::Sinh, x);
                b.mul(g, slope)
            }
            Self::Tanh => {
                let square = b.mul(y, y);
                let slope = b.minus(1.0, square);
                b.mul(g, slope)
            }
            Self::Asin | Self::Acos | Self::Atan | Self::Asinh | Self::Acosh | Self::Atanh => {
                let square = b.mul(x, x);
                match self {
                    Self::Asin | Self::Acos => {
                        let rest = b.minus(1.0, square);
                        let d = over_root(b, rest);
                        b.scale(d, if *self == Self::Asin { 1.0 } else { -1.0 })
                    }
                    Self::Asinh | Self::Acosh => {
                        let term = if *self == Self::Asinh { 1.0 } else { -1.0 };
                        let rest = b.shift(square, term);
                        over_root(b, rest)
                    }
                    _ => {
                        let is_plain = *self == Self::Atan;
                        let rest =
                            if is_plain { b.shift(square, 1.0) } else { b.minus(1.0, square) };
                        b.div(g, rest)
                    }
                }
            }
        })])
    }
}

impl Unary {
    fn integers(self, cx: &EvalCx, x: &Tensor) -> Result<Tensor, EvalError> {
        with_integer!(x.dtype(), T => {
            let f: fn(T) -> T = match self {
                Self::Neg => T::negated,
                Self::Abs => T::magnitude,
                Self::Sign => T::sign,
                Self::Relu => |x| Number::larger(x, 0),
                Self::BitwiseNot => |x: T| !x,
                _ => return Err(wrong_type(self.text(), x.dtype())),
            };
            let values = x.as_slice::<T>()?;
            build(cx, x.dims(), |out: &mut [T]| {
                out.iter_mut().zip(&*values).for_each(|(out, &x)| *out = f(x));
            })
        }, other => Err(wrong_type(self.text(), other)))
    }

    fn floats(self, cx: &EvalCx, x: &Tensor) -> Result<Tensor, EvalError> {
        macro_rules! map {
            ($single:expr, $double:expr) => {
                map_float(self.text(), cx, x, $single, $double)
            };
        }
        match self {
            Self::Neg => map!(|x: f32| -x, |x| -x),
            Self::Abs => map!(f32::abs, f64::abs),
            Self::Sign => map!(<f32 as Number>::sign, <f64 as Number>::sign),
            Self::Relu => {
                map!(|x: f32| if x < 0.0 { 0.0 } else { x }, |x| if x < 0.0 { 0.0 } else { x })
            }
            Self::BitwiseNot => Err(wrong_type(self.text(), x.dtype())),
            Self::Sqrt => map!(f32::sqrt, f64::sqrt),
            Self::Reciprocal => map!(|x: f32| 1.0 / x, |x| 1.0 / x),
            Self::Exp => map!(vector::exp, f64::exp),
            Self::Log => map!(f32::ln, f64::ln),
            Self::Erf => map!(vector::erf, libm::erf),
            Self::Sigmoid => map!(vector::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            Self::Softplus => map!(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
            Self::Softsign => map!(|x: f32| x / (1.0 + x.abs()), |x| x / (1.0 + x.abs())),
            Self::HardSwish => map!(|x: f32| x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0), |x| x
                * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            Self::Mish => map!(mish, |x| x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh()),
            Self::Ceil => map!(f32::ceil, f64::ceil),
            Self::Floor => map!(f32::floor, f64::floor),
            Self::Round => map!(f32::round_ties_even, f64::round_ties_even),
            Self::Sin => map!(f32::sin, f64::sin),
            Self::Cos => map!(f32::cos, f64::cos),
            Self::Tan => map!(f32::tan, f64::tan),
            Self::Asin => map!(f32::asin, f64::asin),
            Self::Acos => map!(f32::acos, f64::acos),
            Self::Atan => map!(f32::atan, f64::atan),
            Self::Sinh => map!(f32::sinh, f64::sinh),
            Self::Cosh => map!(f32::cosh, f64::cosh),
            Self::Tanh => map!(vector::tanh, f64::tanh),
            Self::Asinh => map!(f32::asinh, f64::asinh),
            Self::Acosh => map!(f32::acosh, f64::acosh),
            Self::Atanh => map!(f32::atanh, f64::atanh),
        }
    }
}

fn softplus(x: f32) -> f32 {
    let tail = vector::exp(-x.abs()).ln_1p();
    // Written so that NaN stays.
    if x > 0.0 { x + tail } else { tail + x * 0.0 }
}

/// `tanh(log(1 + e))` is `(e^2 + 2 e) / (e^2 + 2 e + 2)`.
#[inline(always)]
fn mish(x: f32) -> f32 {
    let e = vector::exp(if x > 20.0 { 20.0 } else { x });
    let z = e * (e + 2.0);
    x * (z / (z + 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, floats};

    #[test]
    fn single_agrees_with_double() {
        let cx = EvalCx::default();
        let xs: Vec<f64> = (-400..=400).map(|it| f64::from(it) / 40.0).collect();
        for op in OPS.iter().filter(|it| it.name != "BitwiseNot") {
            let op = (op.parse)(&mut crate::AttrReader::new(op.name, 20, &Vec::new())).unwrap();
            let single = Tensor::vector(xs.iter().map(|&it| it as f32).collect::<Vec<_>>());
            let double = single.to_f32().unwrap().iter().map(|&it| f64::from(it)).collect();
            let double = Tensor::vector::<f64>(double);
            let got = op.eval(&cx, &[Some(&single)], 1).unwrap().remove(0);
            let want = op.eval(&cx, &[Some(&double)], 1).unwrap().remove(0);
            let (got, want) = (got.to_f32().unwrap(), want.as_slice::<f64>().unwrap());
            for ((got, &want), x) in got.iter().zip(&*want).zip(&xs) {
                let got = f64::from(*got);
                // HardSwish cancels at -3: its error is relative to x there.
                let near = (got - want).abs() <= 1e-6 * want.abs() + 2e-7 * x.abs();
                assert!(
                    near || got == want || got.is_nan() && want.is_nan(),
                    "{}({x}): {got} {want}",
                    op.name()
                );
            }
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        for op in OPS.iter().filter(|it| it.name != "BitwiseNot") {
            let list: &[f64] = match op.name {
                "Sqrt" | "Log" => &[0.3, 1.7, 4.0],
                "Asin" | "Acos" | "Atanh" => &[-0.7, 0.1, 0.6],
                "Acosh" => &[1.3, 2.0, 7.5],
                _ => &[-7.3, -3.2, -2.1, -0.6, 0.4, 1.2, 2.9, 3.3, 6.1],
            };
            let op = (op.parse)(&mut crate::AttrReader::new(op.name, 20, &Vec::new())).unwrap();
            check_vjp(&*op, &[floats(list)], 1);
        }
    }

    #[test]
    fn integers_wrap_and_nan_stays() {
        let cx = EvalCx::default();
        let x = Tensor::vector(vec![i8::MIN, -3, 0, 5]);
        let run = |op: Unary, x| op.eval(&cx, &[Some(x)], 1).map(|mut it| it.remove(0));
        assert_eq!(&*run(Unary::Abs, &x).unwrap().as_slice::<i8>().unwrap(), [i8::MIN, 3, 0, 5]);
        assert_eq!(&*run(Unary::Relu, &x).unwrap().as_slice::<i8>().unwrap(), [0, 0, 0, 5]);
        assert_eq!(
            &*run(Unary::BitwiseNot, &x).unwrap().as_slice::<i8>().unwrap(),
            [127, 2, -1, -6]
        );
        assert!(run(Unary::Exp, &x).is_err());
        let nan = Tensor::vector(vec![f32::NAN]);
        for op in [Unary::Relu, Unary::Softplus, Unary::Mish, Unary::HardSwish, Unary::Sign] {
            assert!(run(op, &nan).unwrap().to_f32().unwrap()[0].is_nan(), "{op:?}");
        }
    }
}
