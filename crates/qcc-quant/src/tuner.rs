//! The parameters that SignRound tunes and their update by signs of gradients.
//!
//! A weight is `s (q - z)`, `s = round_stored(s0 c)`, `q = clamp(round(W / s + V) + z)`, with an
//! offset V for each weight and one factor c for each group. Of T steps, step t moves c by
//! `(T - t) / T^2` against the sign of its gradient, and V by that times `min(1, |g| / m)`, where g
//! is its gradient and m the mean of |g| over the group: a gradient that is mostly noise moves
//! little. V is an integer counter over `32 T^2`, and its whole travel `(T + 1) / 2T`. With
//! `G = dL/dW_quantized`, `u` the code before the clamp and rounding taken for the identity:
//!
//! - `dL/dV = s G` within the range of codes; a clamped weight moves only back towards the range;
//! - `dL/ds = sum of G (q - z - W / s)` within the range, `G (q - z)` beyond; `dL/dc = s0 dL/ds`.
//!
//! Source: arXiv 2309.05516. That has two factors in [0, 1] for the ends of the range in place
//! of c, stops weights at the limits, and moves every V by the whole step.

use rayon::prelude::*;

use crate::{
    chunks::ROWS,
    codes::Codes,
    simd::{Kernel, LANES, ROUNDER, dispatch},
    spec::{ScaleType, WeightSpec},
};

/// Parts of the least whole step of V.
const PARTS: i32 = 32;
/// With more steps a counter could leave its range.
const MOST_STEPS: u16 = 11_000;
/// The least factor of a scale: only one step of one can get there.
const LEAST_FACTOR: f32 = 1.0 / 16.0;
/// The largest factor of a scale.
const MOST_FACTOR: f32 = 2.0;

/// A gradient that is infinite or NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a gradient of the weights is not finite")]
pub struct GradientError;

/// Whether the scales are tuned too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// Offsets only.
    Frozen,
    /// One factor for each group.
    Tuned,
}

/// State of the tuning of a weight `[n][k]`. Memory: 4 bytes for each weight, 8 for each group.
#[derive(Clone, Debug)]
pub struct Tuner {
    k: usize,
    spec: WeightSpec,
    steps: u16,
    taken: u16,
    tuned: Scales,
    /// `32 V T^2`, `[n][k]`.
    counters: Vec<i32>,
    /// c, `[n][groups]`.
    factors: Vec<f32>,
    /// s0, `[n][groups]`.
    scales: Vec<f32>,
    /// `[n][groups]`.
    zeros: Vec<u8>,
}

impl Tuner {
    /// Begins `steps` steps, at most 11,000, from the scales and zero points of `start`, every offset 0: the codes
    /// are those nearest to the weights.
    #[must_use]
    pub fn new(start: &Codes, steps: u16, tuned: Scales) -> Self {
        Self {
            k: start.k,
            spec: start.spec,
            steps: steps.clamp(1, MOST_STEPS),
            taken: 0,
            tuned,
            counters: vec![0; start.codes.len()],
            factors: vec![1.0; start.scales.len()],
            scales: start.scales.clone(),
            zeros: start.zeros.clone(),
        }
    }

    /// The codes at the present parameters, for `weights: f32[n][k]`.
    ///
    /// # Panics
    /// If `out` is of another shape.
    pub fn encode(&self, weights: &[f32], out: &mut Codes) {
        let (k, groups, size) = (self.k, self.groups(), self.size());
        if self.counters.is_empty() {
            return;
        }
        assert!(weights.len() == self.counters.len() && out.codes.len() == weights.len());
        assert!(out.scales.len() == self.scales.len());
        out.zeros.copy_from_slice(&self.zeros);
        let outs = out.codes.par_chunks_mut(ROWS * k).zip(out.scales.par_chunks_mut(ROWS * groups));
        outs.enumerate().for_each(|(chunk, (codes, scales))| {
            for (i, codes) in codes.chunks_exact_mut(k).enumerate() {
                let row = chunk * ROWS + i;
                for (g, codes) in codes.chunks_mut(size).enumerate() {
                    let (first, at) = (row * k + g * size, row * groups + g);
                    let grid = self.grid(at);
                    scales[i * groups + g] = grid.scale;
                    let range = first..first + codes.len();
                    let (weights, counters) = (&weights[range.clone()], &self.counters[range]);
                    dispatch(Encode { grid, weights, counters, codes });
                }
            }
        });
    }

    /// Moves the parameters by one step against the signs of `gradient: f32[n][k]`, dL/dW of the
    /// quantized weights as [`encode`](Self::encode) gives them for `weights: f32[n][k]`. Any
    /// positive factor of the gradient gives the same step. After the last step nothing moves.
    ///
    /// # Errors
    /// If the gradient is not finite; parameters of some rows have moved then.
    ///
    /// # Panics
    /// If `weights` or `gradient` are of another shape.
    pub fn step(&mut self, weights: &[f32], gradient: &[f32]) -> Result<(), GradientError> {
        let (k, groups, size) = (self.k, self.groups(), self.size());
        assert!(weights.len() == self.counters.len() && gradient.len() == weights.len());
        if self.counters.is_empty() {
            return Ok(());
        }
        let by = i32::from(self.steps - self.taken);
        let (mut counters, mut factors) =
            (std::mem::take(&mut self.counters), std::mem::take(&mut self.factors));
        let this = &*self;
        let rows = counters.par_chunks_mut(ROWS * k).zip(factors.par_chunks_mut(ROWS * groups));
        let result = rows.enumerate().try_for_each(|(chunk, (counters, factors))| {
            let rows = counters.chunks_exact_mut(k).zip(factors.chunks_exact_mut(groups));
            for (row, (counters, factors)) in (chunk * ROWS..).zip(rows) {
                for (g, counters) in counters.chunks_mut(size).enumerate() {
                    let at = row * groups + g;
                    let range = row * k + g * size..row * k + g * size + counters.len();
                    let grid = this.grid_of(at, factors[g]);
                    let (weights, gradient) = (&weights[range.clone()], &gradient[range]);
                    let slope = dispatch(Step { grid, weights, gradient, counters, by })?;
                    if this.tuned == Scales::Tuned {
                        let rate = by as f32 * this.unit() * PARTS as f32;
                        let factor = factors[g] - rate * sign(slope * this.scales[at]) as f32;
                        factors[g] = factor.clamp(LEAST_FACTOR, MOST_FACTOR);
                    }
                }
            }
            Ok(())
        });
        (self.counters, self.factors) = (counters, factors);
        self.taken = self.steps.min(self.taken + 1);
        result
    }

    fn groups(&self) -> usize {
        self.spec.group.count(self.k)
    }

    fn size(&self) -> usize {
        self.spec.group.len(self.k)
    }

    /// V of a counter of 1, `1 / 32 T^2`.
    fn unit(&self) -> f32 {
        1.0 / (PARTS as f32 * f32::from(self.steps) * f32::from(self.steps))
    }

    fn grid(&self, group: usize) -> TunedGrid {
        self.grid_of(group, self.factors[group])
    }

    fn grid_of(&self, group: usize, factor: f32) -> TunedGrid {
        let stored: ScaleType = self.spec.scale;
        TunedGrid {
            scale: stored.round(self.scales[group] * factor),
            zero: f32::from(self.zeros[group]),
            max: f32::from(self.spec.bits.max_code()),
            unit: self.unit(),
        }
    }
}

/// One group at its present factor.
#[derive(Clone, Copy)]
struct TunedGrid {
    scale: f32,
    zero: f32,
    max: f32,
    unit: f32,
}

impl TunedGrid {
    /// The code before the clamp; magnitudes from 2^22 on stay as they are, far outside.
    #[inline(always)]
    fn code(&self, weight: f32, counter: i32) -> f32 {
        let steps = weight / self.scale + counter as f32 * self.unit;
        steps.clamp(-FAR, FAR) + ROUNDER - ROUNDER + self.zero
    }
}

/// Beyond all codes; whole numbers up to it are exact behind [`ROUNDER`].
const FAR: f32 = 65_536.0;

/// Codes of a group.
struct Encode<'a> {
    grid: TunedGrid,
    weights: &'a [f32],
    counters: &'a [i32],
    codes: &'a mut [u8],
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

/// Moves the counters of a group by at most `by` whole steps and returns dL/ds at the parameters before.
struct Step<'a> {
    grid: TunedGrid,
    weights: &'a [f32],
    gradient: &'a [f32],
    counters: &'a mut [i32],
    by: i32,
}

impl Kernel for Step<'_> {
    type Output = Result<f32, GradientError>;
    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { grid, weights, gradient, counters, by } = self;
        let count = gradient.len() as f32;
        // One sum for each lane, so that the compiler may use vectors.
        let mut sums = Sums { slope: [0.0; LANES], magnitude: [0.0; LANES], most: 0.0, by: 0.0 };
        let (whole, rest) = gradient.as_chunks::<LANES>();
        whole.iter().for_each(|it| sums.measure(it));
        sums.measure(rest);
        let magnitude: f32 = sums.magnitude.iter().sum();
        if !magnitude.is_finite() {
            return Err(GradientError);
        }
        sums.most = (PARTS * by) as f32;
        sums.by = if magnitude > 0.0 { sums.most * count / magnitude } else { 0.0 };
        let (weights, last_weights) = weights.as_chunks::<LANES>();
        let (gradient, last_gradient) = gradient.as_chunks::<LANES>();
        let (counters, last_counters) = counters.as_chunks_mut::<LANES>();
        for ((w, g), counters) in weights.iter().zip(gradient).zip(counters) {
            sums.step(grid, w, g, counters);
        }
        sums.step(grid, last_weights, last_gradient, last_counters);
        Ok(sums.slope.iter().sum())
    }
}

struct Sums {
    /// dL/ds.
    slope: [f32; LANES],
    /// Sum of |g|; not finite when a gradient is not.
    magnitude: [f32; LANES],
    /// Most that a counter moves.
    most: f32,
    /// What it moves for each unit of |g|.
    by: f32,
}

impl Sums {
    #[inline(always)]
    fn measure(&mut self, gradient: &[f32]) {
        for (sum, g) in self.magnitude.iter_mut().zip(gradient) {
            *sum += g.abs();
        }
    }

    #[inline(always)]
    fn step(&mut self, grid: TunedGrid, weights: &[f32], gradient: &[f32], counters: &mut [i32]) {
        let flip = sign(grid.scale);
        let (most, by) = (self.most, self.by);
        for (((&w, &g), counter), slope) in
            weights.iter().zip(gradient).zip(counters).zip(&mut self.slope)
        {
            let code = grid.code(w, *counter);
            let clamped = code.clamp(0.0, grid.max);
            let integer = clamped - grid.zero;
            let is_inside = code == clamped;
            *slope += g * if is_inside { integer - w / grid.scale } else { integer };
            let direction = sign(g) * flip;
            let moves = is_inside | ((code > grid.max) == (direction > 0));
            let step = (g.abs() * by).min(most) as i32;
            *counter -= if moves { step * direction } else { 0 };
        }
    }
}

/// 1, -1, or 0 for 0.
#[inline(always)]
fn sign(x: f32) -> i32 {
    i32::from(x > 0.0) - i32::from(x < 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rows::{FloatKind, Order, WeightRows},
        rtn::rtn,
        spec::{Bits, Grid, GroupSize},
        testing::{bytes_of, gaussian, specs},
    };
    use proptest::prelude::*;

    fn start(weights: &[f32], k: usize, spec: &WeightSpec) -> Codes {
        let bytes = bytes_of(weights);
        let n = weights.len() / k;
        rtn(&WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap(), spec)
    }

    fn step(
        grid: TunedGrid,
        weights: &[f32],
        gradient: &[f32],
        counters: &mut [i32],
        by: i32,
    ) -> Result<f32, GradientError> {
        dispatch(Step { grid, weights, gradient, counters, by })
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
            let slope = step(grid, &weights, &gradient, &mut [0; 64], 1).unwrap();
            let expected = slope_by_differences(&grid, &weights, &gradient);
            prop_assert!((f64::from(slope) - expected).abs() < 1e-4, "{slope} {expected}");
        }

        #[test]
        fn starts_nearest_to_the_weights_and_travels_half_a_code(
            spec in specs(), seed in any::<u64>(), steps in 1u16..20,
        ) {
            let (n, k) = (3, 90);
            let weights = gaussian(n * k, seed);
            let begin = start(&weights, k, &spec);
            let mut tuner = Tuner::new(&begin, steps, Scales::Frozen);
            let mut codes = Codes::zeroed(n, k, spec);
            tuner.encode(&weights, &mut codes);
            prop_assert_eq!(&codes.scales, &begin.scales);
            prop_assert_eq!(&codes.zeros, &begin.zeros);
            let near = codes.codes.iter().zip(&begin.codes).all(|(a, b)| a.abs_diff(*b) <= 1);
            prop_assert!(near, "only ties may fall to the other side");
            let gradient = vec![1.0; n * k];
            for _ in 0..steps + 2 {
                tuner.step(&weights, &gradient).unwrap();
            }
            let most = PARTS * i32::from(steps) * (i32::from(steps) + 1) / 2;
            prop_assert!(tuner.counters.iter().all(|c| c.abs() <= most));
        }
    }

    #[test]
    fn clamped_weights_move_only_back() {
        let grid = TunedGrid { scale: 1.0, zero: 2.0, max: 3.0, unit: 0.01 };
        let weights = [9.0, 9.0, -9.0, -9.0, 1.0, 1.0, 0.0];
        let gradient = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0];
        let mut counters = [0; 7];
        step(grid, &weights, &gradient, &mut counters, 5).unwrap();
        assert_eq!(counters, [-5, 0, 0, 5, -5, 5, 0].map(|it| it * PARTS));
        // A negative scale turns the direction: 9 / -1 lies below the range.
        let grid = TunedGrid { scale: -1.0, ..grid };
        let mut counters = [0; 7];
        step(grid, &weights, &gradient, &mut counters, 5).unwrap();
        assert_eq!(counters, [5, 0, 0, -5, 5, -5, 0].map(|it| it * PARTS));
    }

    #[test]
    fn a_small_gradient_moves_little() {
        let grid = TunedGrid { scale: 1.0, zero: 2.0, max: 3.0, unit: 0.01 };
        let mut counters = [0; 4];
        step(grid, &[0.0; 4], &[3.0, -0.5, 0.5, 0.0], &mut counters, 2).unwrap();
        assert_eq!(counters, [-2 * PARTS, PARTS, -PARTS, 0]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(step(grid, &[0.0; 2], &[1.0, bad], &mut [0; 2], 1), Err(GradientError));
        }
    }

    #[test]
    fn steps_agree_for_any_number_of_threads_and_refuse_nan() {
        let spec = WeightSpec {
            bits: Bits::new(3).unwrap(),
            group: GroupSize::of(32).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F16,
        };
        let (n, k) = (2 * ROWS + 5, 70);
        let (weights, mut gradient) = (gaussian(n * k, 1), gaussian(n * k, 2));
        let begin = start(&weights, k, &spec);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut tuner = Tuner::new(&begin, 4, Scales::Tuned);
                for _ in 0..4 {
                    tuner.step(&weights, &gradient).unwrap();
                }
                let mut codes = Codes::zeroed(n, k, spec);
                tuner.encode(&weights, &mut codes);
                codes
            })
        };
        let one = run(1);
        assert!(one == run(2) && one != begin);
        gradient[n * k - 1] = f32::NAN;
        let mut tuner = Tuner::new(&begin, 4, Scales::Tuned);
        assert_eq!(tuner.step(&weights, &gradient), Err(GradientError));
    }
}
