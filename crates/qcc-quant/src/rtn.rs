//! Round to nearest: the grid of a group spans its weights, and each weight takes the closest code.
//!
//! Asymmetric: the range `min ..= max` of the group is widened to hold 0,
//! `scale = (max - min) / (2^bits - 1)`, `zero = round(-min / scale)`.
//! Symmetric: with m the weight of largest magnitude (the first one if two of opposite sign tie),
//! `scale = m / -2^(bits - 1)`, which maps m to code 0; `zero = 2^(bits - 1)`.
//! `code = clamp(round(w / scale) + zero, 0, 2^bits - 1)`, half to even, with the stored scale.

use crate::{
    codes::Codes,
    error::SquaredError,
    numbers::NumbersMut,
    quantize::codes_by,
    rows::WeightRows,
    rtn_lanes::rtn_lanes,
    simd::{LANES, ROUNDER, Vector, VectorKernel, dispatch_vectors},
    spec::{Grid, WeightSpec},
};

/// Groups whose scales are computed together.
pub(crate) const BATCH: usize = 64;

/// Rounds to nearest on the grid that spans each group.
pub fn rtn(rows: &WeightRows<'_>, spec: &WeightSpec) -> Codes {
    codes_by(rows, spec, |out| rtn_into(rows, spec, out)).0
}

/// [`rtn`] into `out`. Gives the error.
///
/// # Panics
/// If `out` is not of the size of `rows`.
pub fn rtn_into(rows: &WeightRows<'_>, spec: &WeightSpec, out: NumbersMut<'_>) -> SquaredError {
    rtn_lanes(rows, spec, out)
}

/// Codes of `weights` on a given grid: `clamp(round(w / scale) + zero)`, half to even.
/// `scale` is one that [`ScaleType::round`](crate::spec::ScaleType::round) returned.
pub fn encode(weights: &[f32], scale: f32, zero: u8, max_code: u8, codes: &mut [u8]) {
    dispatch_vectors(Encode { weights, inverse: 1.0 / scale, zero, max_code, codes });
}

/// Least and largest of the weights and 0.
#[inline(always)]
pub(crate) fn range<V: Vector>(weights: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (V::splat(0.0), V::splat(0.0));
    let (chunks, rest) = weights.as_chunks();
    for chunk in chunks {
        let w = V::load(chunk);
        (low, high) = (w.min(low), w.max(high));
    }
    if !rest.is_empty() {
        let w = V::load_part(rest, 0.0);
        (low, high) = (w.min(low), w.max(high));
    }
    (low.least(), high.greatest())
}

/// Grids of groups that are chosen together.
pub(crate) struct Grids {
    /// Least of the weights and 0.
    pub(crate) low: [f32; BATCH],
    /// Largest of the weights and 0.
    pub(crate) high: [f32; BATCH],
    /// `1 / scale`.
    pub(crate) inverse: [f32; BATCH],
    pub(crate) scale: [f32; BATCH],
    pub(crate) zero: [u8; BATCH],
}

impl Default for Grids {
    fn default() -> Self {
        let none = [0.0; BATCH];
        Self { low: none, high: none, inverse: none, scale: none, zero: [0; BATCH] }
    }
}

impl Grids {
    /// Chooses the grids of the first `count` groups by their ranges; `weights(i)` are those of
    /// group `i`.
    #[inline(always)]
    pub(crate) fn choose<I: Iterator<Item = f32>>(
        &mut self,
        spec: &WeightSpec,
        count: usize,
        weights: &impl Fn(usize) -> I,
    ) {
        let Self { low, high, inverse, scale, zero } = self;
        match spec.grid {
            Grid::Asym => {
                asym_grids(low, high, spec, inverse, &mut scale[..count], &mut zero[..count]);
            }
            Grid::Sym => {
                for i in 0..count {
                    if low[i] == -high[i] && low[i] != 0.0 {
                        low[i] = first_extreme(weights(i), high[i]);
                    }
                }
                sym_grids(low, high, spec, inverse, &mut scale[..count], &mut zero[..count]);
            }
        }
    }
}

/// The lower end of the range that makes `-high` or `high` the weight of largest magnitude,
/// whichever of the two comes first.
#[cold]
fn first_extreme(mut weights: impl Iterator<Item = f32>, high: f32) -> f32 {
    match weights.find(|w| w.abs() == high) {
        Some(w) if w > 0.0 => 0.0,
        _ => -high,
    }
}

/// Scale, zero point and `1 / scale` of groups with these ranges; scale 1 and the middle zero
/// point for groups of zeros.
#[inline(always)]
fn asym_grids(
    low: &[f32; BATCH],
    high: &[f32; BATCH],
    spec: &WeightSpec,
    inverse: &mut [f32; BATCH],
    scales: &mut [f32],
    zeros: &mut [u8],
) {
    let (max_code, middle) = (spec.bits.max_code(), spec.bits.middle());
    let top = f32::from(max_code);
    let count = scales.len();
    let (low, high, inverse) = (&low[..count], &high[..count], &mut inverse[..count]);
    let zeros = &mut zeros[..count];
    for i in 0..count {
        let is_zero = low[i] == high[i];
        // Halves, so that the difference of two huge weights is finite.
        let step = (0.5 * high[i] - 0.5 * low[i]) / (0.5 * top);
        let scale = spec.scale.round(step);
        let scale = if is_zero { 1.0 } else { scale };
        inverse[i] = 1.0 / scale;
        let zero = clamp(-low[i] * inverse[i], 0.0, top) + ROUNDER;
        scales[i] = scale;
        zeros[i] = if is_zero { middle } else { zero.to_bits() as u8 };
    }
}

/// As [`asym_grids`]; the end of the range with the larger magnitude takes the long half.
#[inline(always)]
fn sym_grids(
    low: &[f32; BATCH],
    high: &[f32; BATCH],
    spec: &WeightSpec,
    inverse: &mut [f32; BATCH],
    scales: &mut [f32],
    zeros: &mut [u8],
) {
    let step = -1.0 / f32::from(spec.bits.middle());
    let count = scales.len();
    let (low, high, inverse) = (&low[..count], &high[..count], &mut inverse[..count]);
    let zeros = &mut zeros[..count];
    for i in 0..count {
        let extreme = if -low[i] >= high[i] { low[i] } else { high[i] };
        let scale = spec.scale.round(extreme * step);
        let scale = if extreme == 0.0 { 1.0 } else { scale };
        inverse[i] = 1.0 / scale;
        scales[i] = scale;
        zeros[i] = spec.bits.middle();
    }
}

/// Codes on one grid.
pub(crate) struct Encode<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) inverse: f32,
    pub(crate) zero: u8,
    pub(crate) max_code: u8,
    pub(crate) codes: &'a mut [u8],
}

impl VectorKernel for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let zero = f32::from(self.zero);
        let (low, high) = (-zero, f32::from(self.max_code) - zero);
        let (inverse, low, high) = (V::splat(self.inverse), V::splat(low), V::splat(high));
        // Clamping to whole numbers before rounding equals clamping after it. The zero point is
        // added after rounding: an odd one would change which neighbor of a half is even.
        let code = |w: V| w.mul(inverse).max(low).min(high).round().add(V::splat(ROUNDER + zero));
        let (chunks, rest) = self.weights.as_chunks();
        let (code_chunks, code_rest) = self.codes.as_chunks_mut();
        for (chunk, codes) in chunks.iter().zip(code_chunks) {
            code(V::load(chunk)).store_low_bytes(codes);
        }
        if !rest.is_empty() {
            let mut codes = [0; LANES];
            code(V::load_part(rest, 0.0)).store_low_bytes(&mut codes);
            code_rest.copy_from_slice(&codes[..rest.len()]);
        }
    }
}

/// `x` within `low ..= high`, in the two instructions this takes where no value is NaN.
#[inline(always)]
pub(crate) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codes::decode,
        error::measure_codes,
        numbers::{NumbersRef, NumbersShape},
        quantize::RowOut,
        rows::{FloatKind, Order},
        spec::{Bits, GroupSize, ScaleType},
        testing::{bytes_of, gaussian, quantize_slice, rtn_groups, specs},
    };
    use proptest::prelude::*;

    fn spec(bits: u8, group: u32, grid: Grid) -> WeightSpec {
        WeightSpec {
            bits: Bits::new(bits).unwrap(),
            group: GroupSize::of(group).unwrap(),
            grid,
            scale: ScaleType::F32,
        }
    }

    fn rtn_slice(weights: &[f32], spec: &WeightSpec) -> Codes {
        quantize_slice(weights, |rows| rtn(rows, spec))
    }

    #[test]
    fn values_by_hand() {
        let codes = rtn_slice(&[-1.0, 2.75, 0.125, 0.375], &spec(4, 4, Grid::Asym));
        assert_eq!((codes.scales[0], codes.zeros[0]), (0.25, 4));
        assert_eq!(codes.codes, [0, 15, 4, 6], "0.5 and 1.5 steps round to even");
        let codes = rtn_slice(&[-1.0, 2.0, 0.25, -2.5], &spec(3, 4, Grid::Sym));
        assert_eq!((codes.scales[0], codes.zeros[0]), (0.625, 4));
        assert_eq!(codes.codes, [2, 7, 4, 0]);
        let codes = rtn_slice(&[-1.0, 2.0, 0.25, 2.5], &spec(3, 4, Grid::Sym));
        assert_eq!((codes.scales[0], codes.zeros[0]), (-0.625, 4), "a positive extreme");
        assert_eq!(codes.codes, [6, 1, 4, 0]);
    }

    #[test]
    fn zeros_are_exact_and_constants_survive() {
        for grid in [Grid::Sym, Grid::Asym] {
            let codes = rtn_slice(&[0.0, -0.0, 0.0, 0.3, 0.3, 0.3], &spec(4, 3, grid));
            assert_eq!((codes.scales[0], codes.zeros[0]), (1.0, 8));
            let mut row = [f32::NAN; 6];
            codes.dequantize(0, &mut row);
            assert_eq!(row[..3], [0.0; 3]);
            assert!(row[3..].iter().all(|x| (x - 0.3).abs() < 1e-7), "{row:?}");
        }
    }

    #[test]
    fn extremes_of_the_float_range_stay_finite() {
        for scale in [ScaleType::F32, ScaleType::F16, ScaleType::BF16] {
            for grid in [Grid::Sym, Grid::Asym] {
                for weights in [[f32::MAX, f32::MIN], [1e-45, -1e-45], [1e-45, 3e38], [7e5, 1.0]] {
                    let codes = rtn_slice(&weights, &WeightSpec { scale, ..spec(4, 2, grid) });
                    let mut row = [f32::NAN; 2];
                    codes.dequantize(0, &mut row);
                    assert!(row.iter().all(|x| x.is_finite()), "{weights:?} became {row:?}");
                    assert!(codes.scales[0].is_finite() && codes.scales[0] != 0.0);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn lanes_and_rows_give_the_same(
            spec in specs(), n in 1usize..300, k in 1usize..300, seed in any::<u64>(),
        ) {
            let weights = gaussian(n * k, seed);
            let bytes = bytes_of(&weights);
            let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap();
            let codes = rtn(&rows, &spec);
            let (size, groups) = (spec.group.len(k), codes.groups());
            let mut want = Codes::zeroed(n, k, spec);
            for row in 0..n {
                let out = RowOut {
                    codes: &mut want.codes[row * k..][..k],
                    scales: &mut want.scales[row * groups..][..groups],
                    zeros: &mut want.zeros[row * groups..][..groups],
                };
                rtn_groups(&weights[row * k..][..k], size, &spec, out);
            }
            prop_assert_eq!(&codes, &want);
            let shape = NumbersShape { n, k, spec };
            let mut fields = vec![0xff; n * shape.row_bytes()];
            let (mut scales, mut zeros) = (want.scales.clone(), want.zeros.clone());
            let out = NumbersMut {
                field: shape.field(), codes: &mut fields, scales: &mut scales, zeros: &mut zeros,
            };
            let error = rtn_into(&rows, &spec, out);
            let numbers = NumbersRef {
                shape,
                codes: &fields,
                scales: &scales,
                zeros: &zeros,
                outliers: Default::default(),
            };
            prop_assert_eq!(numbers.unpacked(), want.codes.clone());
            prop_assert_eq!((&scales, &zeros), (&want.scales, &want.zeros));
            let exact = measure_codes(&rows, None, &want);
            prop_assert!((error.energy / exact.energy - 1.0).abs() < 1e-4);
            prop_assert!((error.squared - exact.squared).abs() <= 1e-4 * exact.squared + 1e-12);
        }

        #[test]
        fn the_error_is_at_most_half_a_step(
            spec in specs(), n in 1usize..5, k in 1usize..150, seed in any::<u64>(),
        ) {
            let weights = gaussian(n * k, seed);
            let bytes = bytes_of(&weights);
            let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap();
            let codes = rtn(&rows, &spec);
            let (size, groups) = (spec.group.len(k), codes.groups());
            let max_code = spec.bits.max_code();
            for (i, &w) in weights.iter().enumerate() {
                let group = i / k * groups + i % k / size;
                let (scale, zero) = (codes.scales[group], codes.zeros[group]);
                let (a, b) = (decode(0, scale, zero), decode(max_code, scale, zero));
                let error = (decode(codes.codes[i], scale, zero) - w).abs();
                if a.min(b) <= w && w <= a.max(b) {
                    prop_assert!(error <= 0.5001 * scale.abs());
                } else if spec.scale != ScaleType::F16 || scale.abs() > 6.2e-5 {
                    prop_assert!(codes.codes[i] == 0 || codes.codes[i] == max_code);
                    // A rounded zero point or scale moves the ends; the short half ends early.
                    let steps = if spec.grid == Grid::Sym { 1.0 } else { 0.5 };
                    let rounding = 2f32.powi(-8) * spec.bits.levels() as f32;
                    prop_assert!(error <= (steps + rounding) * scale.abs());
                }
            }
        }

        #[test]
        fn order_and_kind_of_the_bytes_do_not_matter(
            spec in specs(), n in 1usize..150, k in 1usize..150, seed in any::<u64>(),
        ) {
            let weights = gaussian(n * k, seed);
            let bytes = bytes_of(&weights);
            let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap();
            let turned: Vec<f32> = (0..n * k).map(|i| weights[i % n * k + i / n]).collect();
            let turned = bytes_of(&turned);
            let turned = WeightRows::new(&turned, FloatKind::F32, n, k, Order::Kn).unwrap();
            prop_assert_eq!(rtn(&rows, &spec), rtn(&turned, &spec));
        }

        #[test]
        fn threads_change_neither_codes_nor_error(
            spec in specs(), n in 1usize..600, k in 1usize..150, seed in any::<u64>(),
        ) {
            let bytes = bytes_of(&gaussian(n * k, seed));
            for order in [Order::Nk, Order::Kn] {
                let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, order).unwrap();
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let round = || codes_by(&rows, &spec, |out| rtn_into(&rows, &spec, out));
                    pool.unwrap().install(round)
                };
                prop_assert_eq!(run(1), run(3));
            }
        }

        #[test]
        fn a_power_of_two_moves_only_the_scale(spec in specs(), seed in any::<u64>()) {
            let spec = WeightSpec { scale: ScaleType::F32, ..spec };
            let weights = gaussian(70, seed);
            let large: Vec<f32> = weights.iter().map(|w| w * 64.0).collect();
            let (small, large) = (rtn_slice(&weights, &spec), rtn_slice(&large, &spec));
            prop_assert_eq!(small.codes, large.codes);
            let scales: Vec<f32> = small.scales.iter().map(|s| s * 64.0).collect();
            prop_assert_eq!(scales, large.scales);
        }

        #[test]
        fn a_sign_moves_through_the_symmetric_grid(
            spec in specs(), weights in prop::collection::vec(-3i8..4, 70),
        ) {
            let spec = WeightSpec { grid: Grid::Sym, ..spec };
            let weights: Vec<f32> = weights.into_iter().map(f32::from).collect();
            let minus: Vec<f32> = weights.iter().map(|w| -w).collect();
            let (mut a, mut b) = (vec![0.0; 70], vec![0.0; 70]);
            rtn_slice(&weights, &spec).dequantize(0, &mut a);
            rtn_slice(&minus, &spec).dequantize(0, &mut b);
            b.iter_mut().for_each(|x| *x = -*x);
            prop_assert_eq!(a, b);
        }

        #[test]
        fn a_short_group_stands_alone(spec in specs(), seed in any::<u64>()) {
            let weights = gaussian(67, seed);
            let spec = WeightSpec { group: GroupSize::of(32).unwrap(), ..spec };
            let whole = rtn_slice(&weights, &spec);
            let short = rtn_slice(&weights[64..], &spec);
            prop_assert_eq!(&whole.codes[64..], &short.codes[..]);
            prop_assert_eq!(whole.scales[2], short.scales[0]);
        }
    }
}
