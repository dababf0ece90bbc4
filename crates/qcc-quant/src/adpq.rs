//! AdpQ: the largest weights of a tensor and the others share codes but not scales.
//!
//! The adaptive LASSO `min h (w - v)^2 + lambda |v| / |w|` keeps w where `h w^2` exceeds a
//! threshold; choosing the threshold so that a fraction of the weights survives takes the largest
//! by `h w^2`, ties by lowest index. Outliers and inliers of a group are then rounded with a scale
//! each: from minimum and maximum, `max |w| / (2^(bits - 1) - 1)`, or, as an extension, by exact
//! search over the signed full range. Source: arXiv 2405.13358, without activations (h = 1).

use crate::{
    layout::gaps,
    quantize::RowOut,
    rows::WeightRows,
    search::{SearchKind, search_group},
    simd::ROUNDER,
    spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
};
use rayon::prelude::*;

/// How the scales of both populations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdpqFit {
    /// The largest magnitude takes the code `2^(bits - 1) - 1`, as published.
    MinMax,
    /// The scale of least error, of either sign, with the code `-2^(bits - 1)` in use.
    Exact,
}

/// What a weight is split into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdpqSpec {
    /// Width of a code, of outliers and inliers alike.
    pub bits: Bits,
    /// Weights that share two scales.
    pub group: GroupSize,
    /// Type of the scales.
    pub scale: ScaleType,
    /// Fraction of the weights of the tensor that are outliers, 0 to 1.
    pub outliers: f64,
    /// Choice of the scales.
    pub fit: AdpqFit,
}

/// Codes of a weight `[n][k]` with two scales in each group.
#[derive(Clone, Debug, PartialEq)]
pub struct AdpqCodes {
    /// Rows.
    pub n: usize,
    /// Weights in a row.
    pub k: usize,
    /// What the weight was split into.
    pub spec: AdpqSpec,
    /// `[n][k]`; a code c stands for `scale * (c - 2^(bits - 1))`.
    pub codes: Vec<u8>,
    /// `[n][groups]`; 0 in a group without inliers.
    pub inlier_scales: Vec<f32>,
    /// `[n][groups]`; 0 in a group without outliers.
    pub outlier_scales: Vec<f32>,
    /// Indices of the outliers into `codes`, ascending.
    pub outliers: Vec<u64>,
}

/// Rows of a task.
const BLOCK: usize = 64;
/// Halves of the bits of a score, counted one after the other.
const HALF: usize = 1 << 16;

/// Splits and rounds `rows`. `h: [k]` weighs `w^2` in the choice of outliers and the error in
/// [`AdpqFit::Exact`]; the published method has none. The weight is read four times.
///
/// # Panics
/// If `h` is not of length `k`.
pub fn adpq(rows: &WeightRows<'_>, spec: &AdpqSpec, h: Option<&[f32]>) -> AdpqCodes {
    assert!(h.is_none_or(|h| h.len() == rows.k()), "one h for each input");
    let (n, k) = (rows.n(), rows.k());
    let (groups, size) = (spec.group.count(k), spec.group.len(k));
    let mut split = AdpqCodes {
        n,
        k,
        spec: *spec,
        codes: vec![spec.bits.middle(); n * k],
        inlier_scales: vec![0.0; n * groups],
        outlier_scales: vec![0.0; n * groups],
        outliers: Vec::new(),
    };
    if n == 0 || k == 0 {
        return split;
    }
    let roots: Vec<f32> = h.map_or_else(|| vec![1.0; k], |h| h.iter().map(|h| h.sqrt()).collect());
    let threshold = Threshold::find(rows, &roots, spec.outliers);
    let d = h.map_or_else(|| vec![1.0; k], <[f32]>::to_vec);

    let blocks = split.codes.par_chunks_mut(BLOCK * k).zip(
        (split.inlier_scales.par_chunks_mut(BLOCK * groups))
            .zip(split.outlier_scales.par_chunks_mut(BLOCK * groups)),
    );
    let outliers: Vec<Vec<u64>> = blocks
        .enumerate()
        .map(|(block, (codes, (inlier_scales, outlier_scales)))| {
            let mut weights = vec![0.0; codes.len()];
            rows.read(block * BLOCK, &mut weights);
            let mut ties = threshold.ties_before(block);
            let mut outliers = Vec::new();
            for (row, (weights, codes)) in weights.chunks(k).zip(codes.chunks_mut(k)).enumerate() {
                let places = weights.chunks(size).zip(codes.chunks_mut(size)).enumerate();
                for (group, (weights, codes)) in places {
                    let column = group * size;
                    let start = ((block * BLOCK + row) * k + column) as u64;
                    let [mut inside, mut outside] = [Population::default(), Population::default()];
                    for (i, &w) in weights.iter().enumerate() {
                        let is_outlier =
                            threshold.is_outlier(score(w, roots[column + i]), &mut ties);
                        if is_outlier {
                            outliers.push(start + i as u64);
                        }
                        let population = if is_outlier { &mut outside } else { &mut inside };
                        population.add(i, w, d[column + i]);
                    }
                    inlier_scales[row * groups + group] = inside.round(spec, codes);
                    outlier_scales[row * groups + group] = outside.round(spec, codes);
                }
            }
            outliers
        })
        .collect();
    split.outliers = outliers.into_iter().flatten().collect();
    split
}

impl AdpqCodes {
    /// Row `row` as floats, `out: [k]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dequantize(&self, row: usize, out: &mut [f32]) {
        let (groups, size) = (self.spec.group.count(self.k), self.spec.group.len(self.k));
        let middle = i16::from(self.spec.bits.middle());
        let (start, end) = (row * self.k, (row + 1) * self.k);
        let codes = &self.codes[start..end];
        for (column, (x, &code)) in out.iter_mut().zip(codes).enumerate() {
            let scale = self.inlier_scales[row * groups + column / size];
            *x = scale * f32::from(i16::from(code) - middle);
        }
        let first = self.outliers.partition_point(|&index| index < start as u64);
        for &index in self.outliers[first..].iter().take_while(|&&index| index < end as u64) {
            let column = index as usize - start;
            let scale = self.outlier_scales[row * groups + column / size];
            out[column] = scale * f32::from(i16::from(codes[column]) - middle);
        }
    }

    /// Stored bits per weight: codes, two scales a group, and where the outliers are, as
    /// [`gaps`] says it. What fills up the last block of a row is not counted.
    pub fn bpw(&self) -> f64 {
        let scale_bits = 16.0 * self.spec.scale.bytes() as f64 * self.inlier_scales.len() as f64;
        let place_bits = 8.0 * gaps::pack(&self.outliers).len() as f64;
        let more = scale_bits + place_bits;
        f64::from(self.spec.bits.get()) + more / self.codes.len().max(1) as f64
    }
}

/// Rises with `h w^2`. The bits of floats that are not negative are in the order of the floats.
#[inline(always)]
fn score(w: f32, root: f32) -> u32 {
    (w.abs() * root).to_bits()
}

/// The score that separates outliers from inliers.
struct Threshold {
    /// Outliers are above this, ...
    score: u32,
    /// ... or the first so many that are equal to it. 0 if there are no outliers at all.
    ties: u64,
    /// Weights equal to `score` before each block of rows.
    before: Vec<u64>,
}

impl Threshold {
    /// Two counting passes over the weights, one for each half of the bits of the scores.
    fn find(rows: &WeightRows<'_>, roots: &[f32], fraction: f64) -> Self {
        let total = rows.n() * rows.k();
        let mut wanted = (fraction.clamp(0.0, 1.0) * total as f64) as u64;
        if wanted == 0 {
            return Self { score: u32::MAX, ties: 0, before: Vec::new() };
        }
        let count = |high: Option<u32>| {
            let counts = blocks(rows, |weights| {
                let mut counts = vec![0u64; HALF];
                for weights in weights.chunks(rows.k()) {
                    for (&w, &root) in weights.iter().zip(roots) {
                        let score = score(w, root);
                        let (upper, lower) = (score >> 16, score & 0xffff);
                        match high {
                            None => counts[upper as usize] += 1,
                            Some(high) if high == upper => counts[lower as usize] += 1,
                            Some(_) => {}
                        }
                    }
                }
                counts
            });
            counts.reduce(
                || vec![0; HALF],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                },
            )
        };
        // The half at which the wanted number is reached from above, and how many remain wanted.
        let mut reach = |counts: Vec<u64>| {
            for (half, count) in counts.into_iter().enumerate().rev() {
                if count >= wanted {
                    return half as u32;
                }
                wanted -= count;
            }
            0
        };
        let upper = reach(count(None));
        let lower = reach(count(Some(upper)));
        let threshold = upper << 16 | lower;
        let equal: Vec<u64> = blocks(rows, |weights| {
            let row = |weights: &[f32]| {
                let scores = weights.iter().zip(roots).map(|(&w, &root)| score(w, root));
                scores.filter(|&score| score == threshold).count() as u64
            };
            weights.chunks(rows.k()).map(row).sum()
        })
        .collect();
        let before = equal.iter().scan(0, |sum, &count| {
            let before = *sum;
            *sum += count;
            Some(before)
        });
        Self { score: threshold, ties: wanted, before: before.collect() }
    }

    fn ties_before(&self, block: usize) -> u64 {
        self.before.get(block).copied().unwrap_or(0)
    }

    /// `ties` counts the equal scores met so far.
    #[inline(always)]
    fn is_outlier(&self, score: u32, ties: &mut u64) -> bool {
        if score == self.score && self.ties > 0 {
            *ties += 1;
            return *ties <= self.ties;
        }
        score > self.score
    }
}

/// `look` at the weights of every block of rows.
fn blocks<'a, T: Send>(
    rows: &'a WeightRows<'a>,
    look: impl Fn(&[f32]) -> T + Sync + Send + 'a,
) -> impl IndexedParallelIterator<Item = T> + 'a {
    (0..rows.n().div_ceil(BLOCK)).into_par_iter().map(move |block| {
        let first = block * BLOCK;
        let mut weights = vec![0.0; BLOCK.min(rows.n() - first) * rows.k()];
        rows.read(first, &mut weights);
        look(&weights)
    })
}

/// The inliers or the outliers of one group.
#[derive(Default)]
struct Population {
    places: Vec<usize>,
    weights: Vec<f32>,
    d: Vec<f32>,
}

impl Population {
    fn add(&mut self, place: usize, w: f32, d: f32) {
        self.places.push(place);
        self.weights.push(w);
        self.d.push(d);
    }

    /// Writes the codes of this population and returns its scale.
    fn round(&self, spec: &AdpqSpec, codes: &mut [u8]) -> f32 {
        if self.weights.is_empty() {
            return 0.0;
        }
        let mut own = vec![spec.bits.middle(); self.weights.len()];
        let scale = match spec.fit {
            AdpqFit::MinMax => self.span(spec, &mut own),
            AdpqFit::Exact => {
                let spec = WeightSpec {
                    bits: spec.bits,
                    group: GroupSize::Row,
                    grid: Grid::Sym,
                    scale: spec.scale,
                };
                let (mut scale, mut zero) = ([1.0], [spec.bits.middle()]);
                let out = RowOut { codes: &mut own, scales: &mut scale, zeros: &mut zero };
                search_group(&self.weights, &self.d, &spec, SearchKind::Exact, out);
                scale[0]
            }
        };
        for (&place, code) in self.places.iter().zip(own) {
            codes[place] = code;
        }
        scale
    }

    fn span(&self, spec: &AdpqSpec, codes: &mut [u8]) -> f32 {
        let extreme = self.weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        if extreme == 0.0 {
            return 1.0;
        }
        let most = f32::from(spec.bits.middle() - 1);
        let scale = spec.scale.round(extreme / most);
        let inverse = 1.0 / scale;
        for (code, w) in codes.iter_mut().zip(&self.weights) {
            let steps = (w * inverse).clamp(-most, most) + ROUNDER;
            *code = (steps.to_bits() as u8).wrapping_add(spec.bits.middle());
        }
        scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::measure,
        rows::{FloatKind, Order},
        testing::{bytes_of, gaussian},
    };
    use proptest::prelude::*;

    fn spec(bits: u8, group: u32, outliers: f64, fit: AdpqFit) -> AdpqSpec {
        AdpqSpec {
            bits: Bits::new(bits).unwrap(),
            group: GroupSize::of(group).unwrap(),
            scale: ScaleType::F16,
            outliers,
            fit,
        }
    }

    fn run(weights: &[f32], n: usize, spec: &AdpqSpec) -> (AdpqCodes, f64) {
        let bytes = bytes_of(weights);
        let k = weights.len() / n;
        let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap();
        let codes = adpq(&rows, spec, None);
        let error = measure(&rows, None, &|row, out| codes.dequantize(row, out)).relative();
        (codes, error)
    }

    #[test]
    fn values_by_hand() {
        // Outliers are the two largest magnitudes, 8 and -4, in different groups.
        let weights = [0.5, -1.75, 8.0, 0.25, 1.0, -4.0, 0.0, 0.5];
        let (codes, _) = run(&weights, 1, &spec(4, 4, 0.25, AdpqFit::MinMax));
        assert_eq!(codes.outliers, [2, 5]);
        assert_eq!(codes.inlier_scales, [0.25, f16(1.0 / 7.0)]);
        assert_eq!(codes.outlier_scales, [f16(8.0 / 7.0), f16(4.0 / 7.0)]);
        assert_eq!(codes.codes, [10, 1, 15, 9, 15, 1, 8, 12], "3.5 steps round to 4");
        let mut row = [0.0; 8];
        codes.dequantize(0, &mut row);
        assert_eq!(row[..2], [0.5, -1.75]);
        assert!((row[2] - 8.0).abs() < 0.01 && (row[5] + 4.0).abs() < 0.01);
        // 4 code bits; 2 groups of two 16-bit scales; 2 outliers of a byte each.
        assert_eq!(codes.bpw(), 4.0 + (2.0 * 32.0 + 16.0) / 8.0);
    }

    fn f16(x: f32) -> f32 {
        ScaleType::F16.round(x)
    }

    #[test]
    fn ties_go_to_the_lowest_index() {
        let weights: Vec<f32> = (0..900).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let (codes, error) = run(&weights, 150, &spec(4, 4, 0.333, AdpqFit::MinMax));
        assert_eq!(codes.outliers, (0..299).collect::<Vec<u64>>());
        assert!(error < 1e-6);
    }

    proptest! {
        #[test]
        fn outliers_are_the_largest(seed in any::<u64>(), n in 1usize..140, percent in 0u32..=100) {
            let weights = gaussian(n * 30, seed);
            let fraction = f64::from(percent) / 100.0;
            let (codes, _) = run(&weights, n, &spec(4, 16, fraction, AdpqFit::MinMax));
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()).then(a.cmp(&b)));
            let mut largest: Vec<u64> = order[..(fraction * weights.len() as f64) as usize]
                .iter()
                .map(|&i| i as u64)
                .collect();
            largest.sort_unstable();
            prop_assert_eq!(&codes.outliers, &largest);
        }

        #[test]
        fn all_or_none_are_the_same(seed in any::<u64>()) {
            let weights = gaussian(320, seed);
            let (none, error) = run(&weights, 4, &spec(4, 32, 0.0, AdpqFit::MinMax));
            let (all, same) = run(&weights, 4, &spec(4, 32, 1.0, AdpqFit::MinMax));
            prop_assert_eq!(none.codes, all.codes);
            prop_assert_eq!(none.inlier_scales, all.outlier_scales);
            prop_assert_eq!(error, same);
        }

        #[test]
        fn exact_fits_better(seed in any::<u64>()) {
            let weights = gaussian(320, seed);
            let (_, span) = run(&weights, 4, &spec(3, 64, 0.05, AdpqFit::MinMax));
            let (_, exact) = run(&weights, 4, &spec(3, 64, 0.05, AdpqFit::Exact));
            prop_assert!(exact < span);
        }
    }

    #[test]
    fn an_outlier_leaves_the_rest_alone() {
        let mut weights = gaussian(128, 9);
        weights[77] = 1e4;
        let (codes, _) = run(&weights, 1, &spec(4, 128, 1.0 / 128.0, AdpqFit::MinMax));
        let mut row = vec![0.0; 128];
        codes.dequantize(0, &mut row);
        assert!((row[77] - 1e4).abs() < 10.0);
        let limit = 0.51 * codes.inlier_scales[0];
        assert!(weights.iter().zip(&row).all(|(w, x)| *w == 1e4 || (w - x).abs() <= limit));
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let weights = gaussian(300 * 50, 2);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&weights, 300, &spec(4, 32, 0.05, AdpqFit::Exact)))
        };
        assert_eq!(run(1), run(2));
    }
}
