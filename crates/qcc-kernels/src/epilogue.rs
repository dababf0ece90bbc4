//! What is done to a result before it is stored: the definition, to the bit.
//!
//! Every operation is a rounded f32 operation, `mul_add` where it says so, in the order written,
//! so that any instruction set can compute the same bits.
//!
//! `exp` is that of Cephes (`expf.c`): with `n` the integer next to `x log2 e`, `r = x - n ln 2`
//! and a polynomial for `e^r`. `gelu` has the error function of Abramowitz and Stegun, 7.1.26.
//! `gelu_tanh` is `x (1 + tanh(s (x + 0.044715 x^3))) / 2` with `s = sqrt(2 / pi)`, written by
//! `(1 + tanh(v)) / 2 = 1 / (1 + e^(-2 v))`.

use crate::spec::Epilogue;
use pulp::{Arch, NullaryFnOnce};

/// `1.5 * 2^23`: adding it rounds to an integer, half to even, in the low bits.
pub const ROUNDER: f32 = 12_582_912.0;

/// `ln 2` in two parts; the first has few bits.
pub const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^r = 1 + r + r^2 (...)`, highest power first.
pub const EXP: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// The polynomial of the error function, highest power first.
pub const ERF: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

/// The error function is a polynomial in `1 / (1 + slope |x|)`.
pub const ERF_SLOPE: f32 = 0.327_591_1;

/// `2 sqrt(2 / pi)`, and that times 0.044715: twice what `gelu_tanh` gives to tanh is
/// `x (TANH[0] + TANH[1] x^2)`.
pub const TANH: [f32; 2] = [1.595_769, 0.071_354_814];

/// Beyond it `exp` stays the same.
pub const EXP_MOST: f32 = 88.0;

/// Below it `exp` stays the same.
pub const EXP_LEAST: f32 = -87.0;

/// `e^x` for `x` within -87 and 88, outside of it that of the bound; relative error below 2e-7.
#[must_use]
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons, not `clamp`, so that NaN goes through.
    let x = if x > EXP_MOST { EXP_MOST } else { x };
    let x = if x < EXP_LEAST { EXP_LEAST } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p.mul_add(r, *c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `x / (1 + e^-x)`.
#[must_use]
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (exp(-x) + 1.0)
}

/// `x` times the normal distribution function of `x`; absolute error below `2e-7 |x|`.
#[must_use]
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let a = (x * std::f32::consts::FRAC_1_SQRT_2).abs();
    let t = 1.0 / a.mul_add(ERF_SLOPE, 1.0);
    let mut p = ERF[0];
    for c in &ERF[1..] {
        p = p.mul_add(t, *c);
    }
    // What lies beyond |x|, on one side.
    let tail = (p * t) * (exp(-(a * a)) * 0.5);
    x * if x > 0.0 { 1.0 - tail } else { tail }
}

/// `x` times the normal distribution function of `x`, by the hyperbolic tangent that is often
/// taken for it; absolute error against that formula below `5e-7 |x|`.
#[must_use]
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let twice = x * (x * x).mul_add(TANH[1], TANH[0]);
    x / (exp(-twice) + 1.0)
}

impl Epilogue {
    /// Whether it reads `bias`.
    #[must_use]
    pub const fn reads_bias(self) -> bool {
        use Epilogue::{Bias, BiasGelu, BiasGeluTanh, BiasResidual, BiasSiluMul};
        matches!(self, Bias | BiasResidual | BiasSiluMul | BiasGelu | BiasGeluTanh)
    }

    /// Whether it reads `extra`.
    #[must_use]
    pub const fn reads_extra(self) -> bool {
        matches!(self.behind_bias(), Self::Residual | Self::SiluMul)
    }

    /// What is left of it when the bias was added, if it adds one.
    #[must_use]
    pub const fn behind_bias(self) -> Self {
        match self {
            Self::None | Self::Bias => Self::None,
            Self::Residual | Self::BiasResidual => Self::Residual,
            Self::SiluMul | Self::BiasSiluMul => Self::SiluMul,
            Self::Gelu | Self::BiasGelu => Self::Gelu,
            Self::GeluTanh | Self::BiasGeluTanh => Self::GeluTanh,
        }
    }

    /// The same behind the addition of a bias.
    #[must_use]
    pub const fn with_bias(self) -> Self {
        match self.behind_bias() {
            Self::Residual => Self::BiasResidual,
            Self::SiluMul => Self::BiasSiluMul,
            Self::Gelu => Self::BiasGelu,
            Self::GeluTanh => Self::BiasGeluTanh,
            _ => Self::Bias,
        }
    }

    /// `end` behind it, where it is a bias or nothing; else none.
    #[must_use]
    pub const fn then(self, end: Self) -> Option<Self> {
        match self {
            Self::None => Some(end),
            Self::Bias if !end.reads_bias() => Some(end.with_bias()),
            _ => None,
        }
    }

    /// The value that is stored for the result `y`.
    #[must_use]
    #[inline(always)]
    pub fn apply(self, y: f32, bias: f32, extra: f32) -> f32 {
        let y = if self.reads_bias() { y + bias } else { y };
        match self.behind_bias() {
            Self::Residual => y + extra,
            Self::SiluMul => silu(y) * extra,
            Self::Gelu => gelu(y),
            Self::GeluTanh => gelu_tanh(y),
            _ => y,
        }
    }

    /// The same for a row of results. `bias` and `extra` are as long, where they are read.
    pub(crate) fn apply_all(self, y: &mut [f32], bias: &[f32], extra: &[f32]) {
        Arch::new().dispatch(Row { epilogue: self, y, bias, extra });
    }
}

/// [`Epilogue::apply_all`], for the vectors of this CPU.
struct Row<'a> {
    epilogue: Epilogue,
    y: &'a mut [f32],
    bias: &'a [f32],
    extra: &'a [f32],
}

impl NullaryFnOnce for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { epilogue, y, bias, extra } = self;
        if epilogue.reads_bias() {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        // One loop each, that knows its end.
        match epilogue.behind_bias() {
            Epilogue::Residual => y.iter_mut().zip(extra).for_each(|(y, extra)| *y += extra),
            Epilogue::SiluMul => {
                y.iter_mut().zip(extra).for_each(|(y, extra)| *y = silu(*y) * extra);
            }
            Epilogue::Gelu => y.iter_mut().for_each(|y| *y = gelu(*y)),
            Epilogue::GeluTanh => y.iter_mut().for_each(|y| *y = gelu_tanh(*y)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-8000..8000).map(|i| i as f32 * 0.010_37)
    }

    #[test]
    fn exp_is_that_of_f64() {
        for x in points().chain([-87.0, 88.0, 0.0, -0.0]) {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 2e-7 * want, "{x}");
        }
        assert_eq!((exp(0.0), exp(1e9), exp(f32::NEG_INFINITY)), (1.0, exp(88.0), exp(-87.0)));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_and_gelu_are_those_of_f64() {
        // Phi(1) and Phi(-2) of tables.
        assert!((gelu(1.0) - 0.841_344_8).abs() < 3e-7);
        assert!((gelu(-2.0) + 2.0 * 0.022_750_13).abs() < 6e-7);
        for x in points() {
            let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(silu(x)) - want).abs() <= 1e-6 * want.abs() + 1e-35, "{x}");
            // Symmetry holds to rounding: gelu(x) - gelu(-x) = x.
            assert!(
                (gelu(x) + gelu(-x) - x.abs() + 2.0 * gelu(-x.abs()).abs()).abs() <= 1e-6 * x.abs()
            );
        }
        assert!([silu, gelu, gelu_tanh].iter().all(|it| it(f32::NAN).is_nan()));
        assert_eq!((silu(0.0), gelu(0.0), gelu(-100.0)), (0.0, 0.0, gelu(-100.0)));
    }

    #[test]
    fn gelu_by_tanh_is_that_of_f64() {
        let want = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        for x in points() {
            let want = want(f64::from(x));
            assert!((f64::from(gelu_tanh(x)) - want).abs() <= 5e-7 * f64::from(x.abs()), "{x}");
        }
        assert_eq!((gelu_tanh(0.0), gelu_tanh(100.0)), (0.0, 100.0));
    }

    #[test]
    fn a_bias_goes_with_every_end() {
        for &it in Epilogue::ALL {
            let (behind, with) = (it.behind_bias(), it.with_bias());
            assert!(with.reads_bias() && !behind.reads_bias(), "{it}");
            assert_eq!((with.behind_bias(), behind.with_bias()), (behind, with));
            assert_eq!(with.reads_extra(), it.reads_extra());
            assert!(it == with || it == behind);
            assert_eq!(Epilogue::None.then(it), Some(it));
            assert_eq!(Epilogue::Bias.then(it), (it == behind).then_some(with));
            assert_eq!(Epilogue::Gelu.then(it), None);
        }
    }

    #[test]
    fn a_row_ends_as_its_results_do() {
        let y: Vec<f32> = points().step_by(97).chain([0.0, f32::NAN]).collect();
        let of = |by: f32| -> Vec<f32> { y.iter().map(|it| it * by + 1.0).collect() };
        let (bias, extra) = (of(0.5), of(-3.0));
        for &epilogue in Epilogue::ALL {
            let mut row = y.clone();
            epilogue.apply_all(&mut row, &bias, &extra);
            for (i, got) in row.iter().enumerate() {
                let want = epilogue.apply(y[i], bias[i], extra[i]);
                assert_eq!(got.to_bits(), want.to_bits(), "{epilogue} of {}", y[i]);
            }
        }
    }

    #[test]
    fn epilogues_by_hand() {
        let all = Epilogue::ALL.iter().map(|it| it.apply(0.0, 2.0, 3.0)).collect::<Vec<_>>();
        let of_two = [5.0, silu(2.0) * 3.0, gelu(2.0), gelu_tanh(2.0)];
        assert_eq!(all[..6], [0.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!(all[6..], of_two);
        assert_eq!(Epilogue::SiluMul.apply(1.5, 2.0, 3.0), silu(1.5) * 3.0);
    }
}
