//! The parameters that SignRound tunes and their update by signs of gradients.
//!
//! A weight is `s (q - z)`, `s = round_stored(s0 c)`, `q = clamp(round(W / s + V) + z)`, with an
//! offset V for each weight and one factor c for each group. Of T steps, step t moves V and c by
//! `(T - t) / T^2` against the sign of their gradient, so V = counter / T^2 with an integer
//! counter, and the whole travel is `(T + 1) / 2T`. With `G = dL/dW_quantized`, `u` the code before
//! the clamp and rounding taken for the identity:
//!
//! - `dL/dV = s G` within the range of codes; a clamped weight moves only back towards the range;
//! - `dL/ds = sum of G (q - z - W / s)` within the range, `G (q - z)` beyond; `dL/dc = s0 dL/ds`.
//!
//! Source: arXiv 2309.05516. That has two factors in [0, 1] for the ends of the range in place
//! of c, and stops weights at the limits.

use rayon::prelude::*;

use crate::{
    chunks::ROWS,
    codes::Codes,
    spec::{ScaleType, WeightSpec},
};

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
    /// `V T^2`, `[n][k]`.
    counters: Vec<i32>,
    /// c, `[n][groups]`.
    factors: Vec<f32>,
    /// s0, `[n][groups]`.
    scales: Vec<f32>,
    /// `[n][groups]`.
    zeros: Vec<u8>,
}

impl Tuner {
    /// Begins `steps` steps from the scales and zero points of `start`, every offset 0: the codes
    /// are those nearest to the weights.
    #[must_use]
    pub fn new(start: &Codes, steps: u16, tuned: Scales) -> Self {
        Self {
            k: start.k,
            spec: start.spec,
            steps: steps.max(1),
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
                    let weights = &weights[first..];
                    for ((code, w), v) in codes.iter_mut().zip(weights).zip(&self.counters[first..])
                    {
                        *code = grid.code(*w, *v).clamp(0.0, grid.max) as u8;
                    }
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
                    let slope =
                        grid.step(&weights[range.clone()], &gradient[range], counters, by)?;
                    if this.tuned == Scales::Tuned {
                        let rate = by as f32 * this.unit();
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

    /// V of a counter of 1, `1 / T^2`.
    fn unit(&self) -> f32 {
        1.0 / (f32::from(self.steps) * f32::from(self.steps))
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
    /// The code before the clamp.
    #[inline(always)]
    fn code(&self, weight: f32, counter: i32) -> f32 {
        (weight / self.scale + counter as f32 * self.unit).round_ties_even() + self.zero
    }

    /// Moves the counters by `by` and returns dL/ds at the parameters before.
    fn step(
        &self,
        weights: &[f32],
        gradient: &[f32],
        counters: &mut [i32],
        by: i32,
    ) -> Result<f32, GradientError> {
        let mut slope = 0.0f32;
        let mut is_finite = true;
        for ((&w, &g), counter) in weights.iter().zip(gradient).zip(counters) {
            let code = self.code(w, *counter);
            let clamped = code.clamp(0.0, self.max);
            let integer = clamped - self.zero;
            let is_inside = code == clamped;
            slope += g * if is_inside { integer - w / self.scale } else { integer };
            let direction = sign(g) * sign(self.scale);
            let moves = is_inside || (code > self.max) == (direction > 0);
            *counter -= if moves { by * direction } else { 0 };
            is_finite &= g.is_finite();
        }
        if is_finite { Ok(slope) } else { Err(GradientError) }
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
            let slope = grid.step(&weights, &gradient, &mut [0; 64], 1).unwrap();
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
            let most = i32::from(steps) * (i32::from(steps) + 1) / 2;
            prop_assert!(tuner.counters.iter().all(|c| c.abs() <= most));
        }
    }

    #[test]
    fn clamped_weights_move_only_back() {
        let grid = TunedGrid { scale: 1.0, zero: 2.0, max: 3.0, unit: 0.01 };
        let weights = [9.0, 9.0, -9.0, -9.0, 1.0, 1.0, 0.0];
        let gradient = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0];
        let mut counters = [0; 7];
        grid.step(&weights, &gradient, &mut counters, 5).unwrap();
        assert_eq!(counters, [-5, 0, 0, 5, -5, 5, 0]);
        // A negative scale turns the direction: 9 / -1 lies below the range.
        let grid = TunedGrid { scale: -1.0, ..grid };
        let mut counters = [0; 7];
        grid.step(&weights, &gradient, &mut counters, 5).unwrap();
        assert_eq!(counters, [5, 0, 0, -5, 5, -5, 0]);
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
