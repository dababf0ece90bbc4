//! Runs loops of fused multiply-adds with the vector instructions the CPU has.
//!
//! A [`Kernel`] is scalar Rust, compiled once for each level. It fuses where it says `mul_add` and
//! the compiler reorders no float sums, so that every level computes the same bits. Without
//! fused instructions `mul_add` is a slow call with the same result.

/// Partial sums of a dot product: the f32 of one AVX-512 register.
const LANES: usize = 16;

/// A loop over slices. `run` and what it calls must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;
    /// The definition.
    fn run(self) -> Self::Output;
}

/// Instruction sets told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best level of this CPU.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    if is_x86_feature_detected!("avx512f") {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Plain
    }
}

/// What the target has.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn level() -> Level {
    Level::Plain
}

/// Runs `kernel` at the best level of this CPU.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: `level` has found the features of the callee.
        Level::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Plain => kernel.run(),
    }
}

/// Runs `kernel` as compiled for the target.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// `x += factor * y`.
#[inline(always)]
pub(crate) fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x = factor.mul_add(y, *x);
    }
}

/// `x . y` in 16 partial sums.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane = x.mul_add(y, *lane);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = x.mul_add(y, *lane);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// `x . y` in f64 and 8 partial sums.
#[inline(always)]
pub(crate) fn dot_f64(x: &[f64], y: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for (x, y) in x.iter().zip(y) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane = x.mul_add(y, *lane);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = x.mul_add(y, *lane);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian;

    struct Sum<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Sum<'_> {
        type Output = (f32, f64, f32);
        #[inline(always)]
        fn run(self) -> Self::Output {
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let mut x = self.0.to_vec();
            add_scaled(&mut x, 0.3, self.1);
            (dot(self.0, self.1), dot_f64(&wide(self.0), &wide(self.1)), x.iter().sum())
        }
    }

    #[test]
    fn levels_agree_and_are_sums() {
        for len in [0, 1, 15, 16, 17, 200] {
            let (x, y) = (gaussian(len, 1), gaussian(len, 2));
            let best = dispatch(Sum(&x, &y));
            assert_eq!(best, Sum(&x, &y).run());
            let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            assert!((f64::from(best.0) - exact).abs() < 1e-6);
            assert!((best.1 - exact).abs() < 1e-14);
        }
    }
}
