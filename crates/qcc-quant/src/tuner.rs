//! The parameters that SignRound tunes and their update by signs of gradients.
//!
//! A weight is `s (q - z)`, `s = round_stored(s0 c)`, `q = clamp(round(W / s + V) + z)`, with an
//! offset V for each weight and one factor c for each group. Of T steps, step t moves V by
//! `(T - t) / T^2` times `min(1, |g| / m)` against its gradient g, where m is the mean of |g| over
//! the group: a gradient that is mostly noise moves little. It moves c by that rate times
//! `16 / 4^bits` against the sign of its gradient. V is an integer counter over `32 T^2`, and its
//! whole travel `(T + 1) / 2T`; with a first rate r in place of `1 / T`, `r T` times that.
//! With `G = dL/dW_quantized`, rounding taken for the identity:
//!
//! - `dL/dV = s G` within the range of codes; a clamped weight moves only back towards the range;
//! - `dL/ds = sum of G (q - z - W / s)` within the range, `G (q - z)` beyond; `dL/dc = s0 dL/ds`.
//!
//! Source: arXiv 2309.05516. That has two factors in [0, 1] for the ends of the range in place
//! of c ([`Scales::Ends`]), stops weights at the limits, and moves every V by the whole step.

mod scales;
mod steps;
mod turn;

use rayon::prelude::*;

use crate::{
    chunks::ROWS,
    codes::Codes,
    rows::WeightRows,
    simd::{dispatch, dispatch_vectors},
    spec::WeightSpec,
};

use scales::Group;
use steps::{Encode, TunedGrid};
use turn::Turn;

/// Columns of a gradient that are turned at a time, or one group where that is more.
const COLUMNS: usize = 512;

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

/// What of the scales is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// Nothing: offsets only.
    Frozen,
    /// One factor for each group, of the scale that is begun with; the zero point stays.
    Tuned,
    /// Two factors for each group, of its least and its largest weight: scale and zero point follow
    /// from them.
    Ends,
}

/// State of the tuning of a weight `[n][k]`. Memory: 4 bytes for each weight, 16 for each group.
#[derive(Clone, Debug)]
pub struct Tuner {
    k: usize,
    spec: WeightSpec,
    steps: u16,
    taken: u16,
    form: Scales,
    /// V of a counter of 1.
    unit: f32,
    /// V over `unit`, `[n][k]`.
    counters: Vec<i32>,
    /// `[n][groups]`.
    groups: Vec<Group>,
}

impl Tuner {
    /// Begins `steps` steps, at most 11,000, every offset 0: the codes are those nearest to the
    /// weights. The scales and zero points are those of `start`; with [`Scales::Ends`] those of the
    /// range of `weights: f32[n][k]`.
    #[must_use]
    pub fn new(start: &Codes, weights: &[f32], steps: u16, form: Scales) -> Self {
        let groups = match form {
            Scales::Ends => scales::ranges(weights, start.k, &start.spec),
            Scales::Frozen | Scales::Tuned => scales::searched(start),
        };
        let steps = steps.clamp(1, MOST_STEPS);
        Self {
            k: start.k,
            spec: start.spec,
            steps,
            taken: 0,
            form,
            unit: 1.0 / (PARTS as f32 * f32::from(steps) * f32::from(steps)),
            counters: vec![0; start.codes.len()],
            groups,
        }
    }

    /// Moves by `rate` in the first step, and by less from step to step as before; `None` is one
    /// over the number of steps. To be said before the first step.
    #[must_use]
    pub fn with_rate(mut self, rate: Option<f32>) -> Self {
        if let Some(rate) = rate {
            self.unit = rate / (PARTS as f32 * f32::from(self.steps));
        }
        self
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
        assert!(out.scales.len() == self.groups.len());
        let grids = out.scales.par_chunks_mut(ROWS * groups);
        let grids = grids.zip(out.zeros.par_chunks_mut(ROWS * groups));
        let outs = out.codes.par_chunks_mut(ROWS * k).zip(grids);
        outs.enumerate().for_each(|(chunk, (codes, (scales, zeros)))| {
            for (i, codes) in codes.chunks_exact_mut(k).enumerate() {
                let row = chunk * ROWS + i;
                for (g, codes) in codes.chunks_mut(size).enumerate() {
                    let (first, at) = (row * k + g * size, row * groups + g);
                    let grid = self.grid(&self.groups[at]);
                    scales[i * groups + g] = grid.scale;
                    zeros[i * groups + g] = grid.zero as u8;
                    let range = first..first + codes.len();
                    let (weights, counters) = (&weights[range.clone()], &self.counters[range]);
                    dispatch(Encode { grid, weights, counters, codes });
                }
            }
        });
    }

    /// Moves the parameters by one step against the signs of `gradient`, dL/dW of the quantized
    /// weights as [`encode`](Self::encode) gives them for `weights: f32[n][k]`, and gives the codes
    /// at the new ones. Any positive factor of the gradient gives the same step. After the last
    /// step nothing moves.
    ///
    /// # Errors
    /// If the gradient is not finite; parameters and codes of some rows have moved then.
    ///
    /// # Panics
    /// If `weights`, `gradient` or `out` are of another shape.
    pub fn step(
        &mut self,
        weights: &[f32],
        gradient: &WeightRows<'_>,
        out: &mut Codes,
    ) -> Result<(), GradientError> {
        let (k, groups, size) = (self.k, self.groups(), self.size());
        assert!(weights.len() == self.counters.len() && out.codes.len() == weights.len());
        assert!(gradient.k() == k && gradient.n() * k == weights.len());
        assert!(out.scales.len() == self.groups.len());
        if self.counters.is_empty() {
            return Ok(());
        }
        let by = i32::from(self.steps - self.taken);
        let (mut counters, mut params) =
            (std::mem::take(&mut self.counters), std::mem::take(&mut self.groups));
        let this = &*self;
        let rate = by as f32 * this.unit * PARTS as f32;
        let columns = size * (COLUMNS / size).max(1);
        let grids = out.scales.par_chunks_mut(ROWS * groups);
        let grids = grids.zip(out.zeros.par_chunks_mut(ROWS * groups));
        let grids = grids.zip(params.par_chunks_mut(ROWS * groups));
        let rows = counters.par_chunks_mut(ROWS * k).zip(out.codes.par_chunks_mut(ROWS * k));
        let result =
            rows.zip(grids).enumerate().try_for_each_init(Vec::new, |tile, (chunk, it)| {
                let ((counters, codes), ((scales, zeros), params)) = it;
                for left in (0..k).step_by(columns) {
                    let width = columns.min(k - left);
                    tile.resize(counters.len() / k * width, 0.0);
                    gradient.read_tile(chunk * ROWS, left, width, tile);
                    for (row, gradient) in tile.chunks_exact(width).enumerate() {
                        let start = row * k + left;
                        let first = row * groups + left / size;
                        let (range, grids) =
                            (start..start + width, first..first + width.div_ceil(size));
                        let weights = &weights[chunk * ROWS * k..][range.clone()];
                        dispatch_vectors(Turn {
                            tuner: this,
                            by,
                            rate,
                            weights,
                            gradient,
                            counters: &mut counters[range.clone()],
                            codes: &mut codes[range],
                            params: &mut params[grids.clone()],
                            scales: &mut scales[grids.clone()],
                            zeros: &mut zeros[grids],
                        })?;
                    }
                }
                Ok(())
            });
        (self.counters, self.groups) = (counters, params);
        self.taken = self.steps.min(self.taken + 1);
        result
    }

    fn groups(&self) -> usize {
        self.spec.group.count(self.k)
    }

    fn size(&self) -> usize {
        self.spec.group.len(self.k)
    }

    fn grid(&self, group: &Group) -> TunedGrid {
        let (scale, zero) = group.scale(self.form, &self.spec);
        TunedGrid { scale, zero, max: f32::from(self.spec.bits.max_code()), unit: self.unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rows::{FloatKind, Order, WeightRows},
        rtn::rtn,
        spec::{Bits, Grid, GroupSize, ScaleType},
        testing::{bytes_of, gaussian, specs},
    };
    use proptest::prelude::*;

    fn start(weights: &[f32], k: usize, spec: &WeightSpec) -> Codes {
        rtn(&WeightRows::of(weights, weights.len() / k, k), spec)
    }

    proptest! {
        #[test]
        fn starts_nearest_to_the_weights_and_travels_half_a_code(
            spec in specs(), seed in any::<u64>(), steps in 1u16..20,
        ) {
            let (n, k) = (3, 90);
            let weights = gaussian(n * k, seed);
            let begin = start(&weights, k, &spec);
            let mut tuner = Tuner::new(&begin, &weights, steps, Scales::Frozen);
            let mut codes = Codes::zeroed(n, k, spec);
            tuner.encode(&weights, &mut codes);
            prop_assert_eq!(&codes.scales, &begin.scales);
            prop_assert_eq!(&codes.zeros, &begin.zeros);
            let near = codes.codes.iter().zip(&begin.codes).all(|(a, b)| a.abs_diff(*b) <= 1);
            prop_assert!(near, "only ties may fall to the other side");
            let gradient = vec![1.0; n * k];
            let gradient = WeightRows::of(&gradient, n, k);
            for _ in 0..steps + 2 {
                tuner.step(&weights, &gradient, &mut codes).unwrap();
            }
            let most = PARTS * i32::from(steps) * (i32::from(steps) + 1) / 2;
            prop_assert!(tuner.counters.iter().all(|c| c.abs() <= most));
        }
    }

    #[test]
    fn a_rate_is_how_far_the_first_step_goes() {
        let weights: Vec<f32> = (0..32).map(|it| it as f32 / 8.0 - 2.0).collect();
        let spec = WeightSpec {
            bits: Bits::new(4).unwrap(),
            group: GroupSize::Row,
            grid: Grid::Asym,
            scale: ScaleType::F32,
        };
        let begin = start(&weights, 32, &spec);
        let moved = |rate: Option<f32>| {
            let mut tuner = Tuner::new(&begin, &weights, 4, Scales::Frozen).with_rate(rate);
            let gradient = WeightRows::of(&[1.0; 32], 1, 32);
            tuner.step(&weights, &gradient, &mut Codes::zeroed(1, 32, spec)).unwrap();
            tuner.counters.iter().map(|it| *it as f32 * tuner.unit).collect::<Vec<_>>()
        };
        assert_eq!(moved(None), moved(Some(0.25)));
        let farthest = |rate: f32| moved(Some(rate)).into_iter().fold(0.0, f32::min);
        assert_eq!((farthest(0.25), farthest(0.5), farthest(0.0)), (-0.25, -0.5, 0.0));
    }

    #[test]
    fn steps_agree_for_any_number_of_threads_and_order_and_refuse_nan() {
        let (n, k) = (2 * ROWS + 5, 2 * COLUMNS + 70);
        let (weights, mut gradient) = (gaussian(n * k, 1), gaussian(n * k, 2));
        let turned: Vec<f32> = (0..k)
            .flat_map(|col| (0..n).map(move |row| row * k + col))
            .map(|it| gradient[it])
            .collect();
        let rows = [(bytes_of(&gradient), Order::Nk), (bytes_of(&turned), Order::Kn)];
        for group in [GroupSize::of(32).unwrap(), GroupSize::Row] {
            let (bits, scale) = (Bits::new(3).unwrap(), ScaleType::F16);
            let spec = WeightSpec { bits, group, grid: Grid::Asym, scale };
            let begin = start(&weights, k, &spec);
            let run = |threads, (bytes, order): &(Vec<u8>, Order)| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let gradient = WeightRows::new(bytes, FloatKind::F32, n, k, *order).unwrap();
                pool.install(|| {
                    let mut tuner = Tuner::new(&begin, &weights, 4, Scales::Tuned);
                    let mut codes = Codes::zeroed(n, k, spec);
                    for _ in 0..4 {
                        tuner.step(&weights, &gradient, &mut codes).unwrap();
                    }
                    let mut again = Codes::zeroed(n, k, spec);
                    tuner.encode(&weights, &mut again);
                    assert!(codes == again, "a step gives the codes behind it");
                    codes
                })
            };
            let one = run(1, &rows[0]);
            assert!(one != begin);
            assert!(one == run(2, &rows[0]) && one == run(2, &rows[1]));
        }
        gradient[n * k - 1] = f32::NAN;
        let gradient = WeightRows::of(&gradient, n, k);
        let (bits, group) = (Bits::new(3).unwrap(), GroupSize::Row);
        let spec = WeightSpec { bits, group, grid: Grid::Asym, scale: ScaleType::F16 };
        let mut codes = start(&weights, k, &spec);
        let mut tuner = Tuner::new(&codes, &weights, 4, Scales::Tuned);
        assert_eq!(tuner.step(&weights, &gradient, &mut codes), Err(GradientError));
    }
}
