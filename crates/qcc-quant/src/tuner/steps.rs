//! The two loops over the weights of a group: codes at the present parameters, and a step.

use super::PARTS;
use crate::simd::{Kernel, LANES, ROUNDER, Vector};

/// One group at the present parameters.
#[derive(Clone, Copy)]
pub(super) struct TunedGrid {
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) max: f32,
    /// V of a counter of 1.
    pub(super) unit: f32,
}

impl TunedGrid {
    /// The code before the clamp; magnitudes from 2^22 on stay as they are, far outside.
    #[inline(always)]
    pub(super) fn code(&self, weight: f32, counter: i32) -> f32 {
        let steps = weight / self.scale + counter as f32 * self.unit;
        steps.clamp(-FAR, FAR) + ROUNDER - ROUNDER + self.zero
    }
}

/// Beyond all codes; whole numbers up to it are exact behind [`ROUNDER`].
const FAR: f32 = 65_536.0;

/// Codes of a group.
pub(super) struct Encode<'a> {
    pub(super) grid: TunedGrid,
    pub(super) weights: &'a [f32],
    pub(super) counters: &'a [i32],
    pub(super) codes: &'a mut [u8],
}

impl Kernel for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let grid = self.grid;
        for ((code, &w), &v) in self.codes.iter_mut().zip(self.weights).zip(self.counters) {
            // The low byte of the sum is the code.
            *code = (grid.code(w, v).clamp(0.0, grid.max) + ROUNDER).to_bits() as u8;
        }
    }
}

/// What the loss of a group does as its grid moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slopes {
    /// dL/ds at a fixed zero point.
    pub(super) scale: f32,
    /// Sum of the gradients of clamped weights; `dL/dz` is that times `-s`.
    pub(super) clamped: f32,
}

/// The weights of a group, and what moves them.
pub(super) struct Weighed<'a> {
    pub(super) grid: TunedGrid,
    pub(super) weights: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) counters: &'a mut [i32],
}

/// A sum for each lane, so that the compiler may use vectors.
pub(super) type Lanes = [f32; LANES];

/// Sums over the lanes of some groups, each from the first to the last. One group after the other
/// would wait for each addition.
#[inline(always)]
pub(super) fn totals<V: Vector>(groups: &[Lanes; LANES]) -> Lanes {
    let [first, rest @ ..] = V::transpose(groups.map(|it| V::load(&it)));
    rest.into_iter().fold(first, V::add).lanes()
}

/// Sum of |g|; not finite when a gradient is not.
#[inline(always)]
pub(super) fn magnitude(gradient: &[f32]) -> Lanes {
    let mut sums = [0.0; LANES];
    for gradient in gradient.chunks(LANES) {
        for (sum, g) in sums.iter_mut().zip(gradient) {
            *sum += g.abs();
        }
    }
    sums
}

impl Weighed<'_> {
    /// Moves the counters by at most `by` whole steps, where `magnitude` is the sum of |g|; returns
    /// the slopes at the parameters before: by the scale, and of clamped weights.
    #[inline(always)]
    pub(super) fn step(self, magnitude: f32, by: i32) -> [Lanes; 2] {
        let Self { grid, weights, gradient, counters } = self;
        let most = (PARTS * by) as f32;
        let each = if magnitude > 0.0 { most * gradient.len() as f32 / magnitude } else { 0.0 };
        let mut sums = Sums { slope: [0.0; LANES], clamped: [0.0; LANES], most, by: each };
        let (weights, last_weights) = weights.as_chunks::<LANES>();
        let (gradient, last_gradient) = gradient.as_chunks::<LANES>();
        let (counters, last_counters) = counters.as_chunks_mut::<LANES>();
        for ((w, g), counters) in weights.iter().zip(gradient).zip(counters) {
            sums.step(grid, w, g, counters);
        }
        sums.step(grid, last_weights, last_gradient, last_counters);
        [sums.slope, sums.clamped]
    }
}

struct Sums {
    /// dL/ds.
    slope: Lanes,
    /// Of clamped weights.
    clamped: Lanes,
    /// Most that a counter moves.
    most: f32,
    /// What it moves for each unit of |g|.
    by: f32,
}

impl Sums {
    #[inline(always)]
    fn step(&mut self, grid: TunedGrid, weights: &[f32], gradient: &[f32], counters: &mut [i32]) {
        let flip = sign(grid.scale);
        let (most, by) = (self.most, self.by);
        let sums = self.slope.iter_mut().zip(&mut self.clamped);
        for (((&w, &g), counter), (slope, beyond)) in
            weights.iter().zip(gradient).zip(counters).zip(sums)
        {
            let code = grid.code(w, *counter);
            let clamped = code.clamp(0.0, grid.max);
            let integer = clamped - grid.zero;
            let is_inside = code == clamped;
            *slope += g * if is_inside { integer - w / grid.scale } else { integer };
            *beyond += if is_inside { 0.0 } else { g };
            let direction = sign(g) * flip;
            let moves = is_inside | ((code > grid.max) == (direction > 0));
            let step = (g.abs() * by).min(most) as i32;
            *counter -= if moves { step * direction } else { 0 };
        }
    }
}

/// 1, -1, or 0 for 0.
#[inline(always)]
pub(super) fn sign(x: f32) -> i32 {
    i32::from(x > 0.0) - i32::from(x < 0.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{simd::VectorKernel, simd::dispatch_vectors, testing::gaussian};
    use proptest::prelude::*;

    struct Step<'a>(Weighed<'a>, i32);

    impl VectorKernel for Step<'_> {
        type Output = Slopes;
        #[inline(always)]
        fn run<V: Vector>(self) -> Slopes {
            let alone = |lanes| totals::<V>(&std::array::from_fn(|_| lanes))[0];
            let magnitude = alone(magnitude(self.0.gradient));
            let [scale, clamped] = self.0.step(magnitude, self.1).map(alone);
            Slopes { scale, clamped }
        }
    }

    /// A step of one group.
    pub(in super::super) fn step(
        grid: TunedGrid,
        weights: &[f32],
        gradient: &[f32],
        counters: &mut [i32],
        by: i32,
    ) -> Slopes {
        dispatch_vectors(Step(Weighed { grid, weights, gradient, counters }, by))
    }

    #[test]
    fn totals_are_sums_in_the_order_of_lanes() {
        struct Totals<'a>(&'a [Lanes; LANES]);
        impl VectorKernel for Totals<'_> {
            type Output = Lanes;
            #[inline(always)]
            fn run<V: Vector>(self) -> Lanes {
                totals::<V>(self.0)
            }
        }
        let values = gaussian(LANES * LANES, 3);
        let groups = std::array::from_fn(|g| std::array::from_fn(|i| values[g * LANES + i]));
        let expected = groups.map(|it: Lanes| it.iter().sum::<f32>());
        assert_eq!(dispatch_vectors(Totals(&groups)), expected);
    }

    /// L = sum of G W_quantized with rounding and clamping frozen at s, by central differences.
    fn slope_by_differences(grid: &TunedGrid, weights: &[f32], gradient: &[f32]) -> f64 {
        let loss = |scale: f64| -> f64 {
            let terms = weights.iter().zip(gradient).map(|(&w, &g)| {
                let code = grid.code(w, 0);
                let frozen = f64::from(code - grid.zero) - f64::from(w) / f64::from(grid.scale);
                let integer = if code < 0.0 {
                    f64::from(-grid.zero)
                } else if code > grid.max {
                    f64::from(grid.max - grid.zero)
                } else {
                    f64::from(w) / scale + frozen
                };
                f64::from(g) * scale * integer
            });
            terms.sum()
        };
        let h = 1e-6 * f64::from(grid.scale);
        (loss(f64::from(grid.scale) + h) - loss(f64::from(grid.scale) - h)) / (2.0 * h)
    }

    proptest! {
        #[test]
        fn scale_gradient_is_that_of_central_differences(
            seed in any::<u64>(), scale in 0.01f32..0.1, negative in any::<bool>(), zero in 0u8..16,
        ) {
            let (weights, gradient) = (gaussian(64, seed), gaussian(64, seed ^ 1));
            let scale = if negative { -scale } else { scale };
            let grid = TunedGrid { scale, zero: f32::from(zero), max: 15.0, unit: 1e-4 };
            let slope = step(grid, &weights, &gradient, &mut [0; 64], 1).scale;
            let expected = slope_by_differences(&grid, &weights, &gradient);
            prop_assert!((f64::from(slope) - expected).abs() < 1e-4, "{slope} {expected}");
        }
    }

    #[test]
    fn clamped_weights_move_only_back() {
        let grid = TunedGrid { scale: 1.0, zero: 2.0, max: 3.0, unit: 0.01 };
        let weights = [9.0, 9.0, -9.0, -9.0, 1.0, 1.0, 0.0];
        let gradient = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0];
        let mut counters = [0; 7];
        step(grid, &weights, &gradient, &mut counters, 5);
        assert_eq!(counters, [-5, 0, 0, 5, -5, 5, 0].map(|it| it * PARTS));
        // A negative scale turns the direction: 9 / -1 lies below the range.
        let grid = TunedGrid { scale: -1.0, ..grid };
        let mut counters = [0; 7];
        step(grid, &weights, &gradient, &mut counters, 5);
        assert_eq!(counters, [5, 0, 0, -5, 5, -5, 0].map(|it| it * PARTS));
    }

    #[test]
    fn a_small_gradient_moves_little() {
        let grid = TunedGrid { scale: 1.0, zero: 2.0, max: 3.0, unit: 0.01 };
        let mut counters = [0; 4];
        step(grid, &[0.0; 4], &[3.0, -0.5, 0.5, 0.0], &mut counters, 2);
        assert_eq!(counters, [-2 * PARTS, PARTS, -PARTS, 0]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!magnitude(&[1.0, bad]).iter().sum::<f32>().is_finite());
        }
    }
}
