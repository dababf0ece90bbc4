//! Loops over f32 slices, and functions for them, compiled for the vectors of the CPU at hand.
//!
//! No loop fuses multiply and add, sums have one partial sum for each of [`LANES`] lanes and end in
//! a fixed order, and long slices are cut into tasks by length alone: the bits of a result depend
//! neither on the CPU nor on the number of threads.
//!
//! Sources: `exp` and `tanh` are Cephes' `expf.c` and `tanhf.c`, without branches; `erf` has the
//! two polynomials of N. Juffa's `erff`.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// From this many elements on, a loop runs on all threads.
pub(crate) const PARALLEL_LEN: usize = 1 << 16;
/// Elements of one task.
pub(crate) const TASK_LEN: usize = 1 << 14;
/// Partial sums of a sum.
const LANES: usize = 16;
/// Longer sums are added in f64 from sums of this many terms.
const SUM_LEN: usize = 4096;

/// Runs a loop with the vector instructions that the CPU has.
pub(crate) fn dispatch<K: NullaryFnOnce>(kernel: K) -> K::Output {
    Arch::new().dispatch(kernel)
}

/// A function of one float that compiles to vector code: its `at` is `#[inline(always)]`.
pub(crate) trait Lane: Copy + Send + Sync {
    /// The value at `x`.
    fn at(self, x: f32) -> f32;
}

/// Closures with more than a few operations may stay calls; use a type for what must be fast.
impl<F: Fn(f32) -> f32 + Copy + Send + Sync> Lane for F {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        self(x)
    }
}

/// `out[i] = f(x[i])`, on all threads when there is much to do.
pub(crate) fn map<F: Lane>(f: F, x: &[f32], out: &mut [f32]) {
    let task = |(x, out): (&[f32], &mut [f32])| dispatch(Map { f, x, out });
    if x.len() >= PARALLEL_LEN {
        x.par_chunks(TASK_LEN).zip(out.par_chunks_mut(TASK_LEN)).for_each(task);
    } else {
        task((x, out));
    }
}

struct Map<'a, F> {
    f: F,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Lane> NullaryFnOnce for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = self.f.at(x);
        }
    }
}

/// Runs `f(first_row, rows)` over `out`, cut between rows of `width`, on all threads when there is
/// much to do. A cut depends on the shape alone.
pub(crate) fn rows<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let width = width.max(1);
    let count = (TASK_LEN / width).max(1);
    if out.len() >= PARALLEL_LEN {
        let chunks = out.par_chunks_mut(count * width).enumerate();
        chunks.for_each(|(idx, out)| f(idx * count, out));
    } else {
        f(0, out);
    }
}

/// `e^x`, relative error below 2e-7; gradual underflow.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then is the low bits.
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_2e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 1.666_666_6e-1)
        * r
        + 0.5;
    let p = p * (r * r) + r + 1.0;
    // 2^n in two factors, since n is from -150 to 128.
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    p * power(half) * power(n.wrapping_sub(half))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, relative error below 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let (z, size) = (x * x, x.abs());
    let p = ((((-5.704_988_7e-3 * z + 2.063_908_8e-2) * z - 5.373_971_5e-2) * z + 1.333_144_2e-1)
        * z
        - 3.333_328e-1)
        * z
        * x
        + x;
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size > 0.625 { far } else { p.copysign(x) }
}

/// Error function, relative error below 3e-7.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    // From 4 on the result is 1, and the polynomial need not hold beyond.
    let t = x.abs();
    let t = if t > 4.2 { 4.2 } else { t };
    let s = t * t;
    let r = -1.728_534_7e-5 * t + 3.831_971_3e-4;
    let u = -3.883_964_4e-3 * t + 2.425_462_2e-2;
    let r = (((r * s + u) * t - 1.067_778_8e-1) * t - 6.348_467e-1) * t - 1.287_175_1e-1;
    let far = (1.0 - exp(r * t - t)).copysign(x);
    let p = ((((-5.967_617e-4 * s + 4.991_194e-3) * s - 2.676_813_5e-2) * s + 1.128_199_25e-1) * s
        - 3.761_253_4e-1)
        * s
        + 1.283_791_7e-1;
    if t > 0.927_734_4 { far } else { p * x + x }
}

/// Sum of `f(x)` over `x`; at most [`SUM_LEN`] terms are added in f32.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32 + Copy) -> f32 {
    if x.len() <= SUM_LEN {
        return sum_part(x, f);
    }
    x.chunks(SUM_LEN).map(|it| f64::from(sum_part(it, f))).sum::<f64>() as f32
}

#[inline(always)]
fn sum_part(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element, `-inf` when there is none. A NaN does not get through.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    fold(lanes, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest relative error over many points, leaving out results below the normal range.
    fn error(f: fn(f32) -> f32, want: fn(f64) -> f64, low: f32, high: f32) -> f64 {
        let mut worst = 0f64;
        for i in 0..=400_000 {
            let x = low + (high - low) * (i as f32 / 400_000.0);
            let want = want(f64::from(x));
            if want.abs() >= f64::from(f32::MIN_POSITIVE) {
                worst = worst.max(((f64::from(f(x)) - want) / want).abs());
            }
        }
        worst
    }

    #[test]
    fn functions_are_as_exact_as_floats_allow() {
        for (name, error, bound) in [
            ("exp", error(exp, f64::exp, -87.0, 88.7), 2e-7),
            ("tanh", error(tanh, f64::tanh, -10.0, 10.0), 3e-7),
            ("erf", error(erf, libm::erf, -5.0, 5.0), 3e-7),
            ("sigmoid", error(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0), 3e-7),
        ] {
            assert!(error < bound, "{name}: {error}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(
            (exp(f32::INFINITY), exp(f32::NEG_INFINITY), exp(0.0)),
            (f32::INFINITY, 0.0, 1.0)
        );
        assert!((exp(-100.0) / 3.8e-44 - 1.0).abs() < 0.05, "a subnormal: {}", exp(-100.0));
        assert!(exp(88.72).is_finite() && exp(88.73).is_infinite());
        for f in [exp, tanh, erf, sigmoid] {
            assert!(f(f32::NAN).is_nan());
        }
        for f in [tanh, erf] {
            assert_eq!((f(f32::INFINITY), f(f32::NEG_INFINITY), f(100.0)), (1.0, -1.0, 1.0));
            assert_eq!(f(-0.0).to_bits(), (-0f32).to_bits());
        }
    }

    #[test]
    fn sums_of_many_terms_stay_exact() {
        let x = vec![0.1f32; 1 << 20];
        let want = f64::from(0.1f32) * f64::from(1 << 20);
        // A lane adds 256 terms; one running sum would be off by a tenth of a percent.
        assert!((f64::from(sum_of(&x, |x| x)) / want - 1.0).abs() < 1e-5);
        assert_eq!(max(&[-3.0, -1.0, -2.0]), -1.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
