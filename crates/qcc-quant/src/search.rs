//! Search of the scale and zero point of each group that make the weighted error least.
//!
//! The error of a group is `sum d (w - scale * (code - zero))^2`, where d is what an error at an
//! input counts: the second moment E[x^2] of the input, or 1. [`SearchKind::Grid`] tries scales
//! from 0.75 to 1.75 (4 bits) of the inverse spanning one, with the zero points around the
//! centered one (or either sign of the scale), each followed by one least-squares scale;
//! [`SearchKind::Exact`] finds the optimum over all scales and zero points. Scales are rounded to
//! the stored type before codes are chosen and errors measured, and round to nearest is always
//! among the candidates.

use crate::{
    candidates::{Candidate, Group},
    codes::Codes,
    error::SquaredError,
    exact::{Events, exact},
    kl::{self, Estimator},
    numbers::NumbersMut,
    quantize::{RowOut, codes_by, quantize_groups},
    rows::WeightRows,
    rtn::Encode,
    simd::{Vector, VectorKernel, dispatch_vectors},
    spec::{Grid, WeightSpec},
};

/// How scales are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SearchKind {
    /// A fixed set of candidates: its error is within 0.3% of the optimum's.
    Grid,
    /// The optimum over all real scales and all zero points, up to the rounding of the scale. Three
    /// to four times the work of the grid up to 4 bits; with 8 bits a hundred times, for nothing
    /// that can be measured.
    Exact,
}

/// Among candidates whose error is within a band of the least, take the one whose values are
/// distributed most like the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlBand {
    /// Width of the band: errors up to `1 + tau` times the least. 0 turns the choice off.
    pub tau: f32,
    /// Measure of the divergence.
    pub estimator: Estimator,
}

/// Least share of the mean that an input counts, so that unused inputs keep defined codes.
const LEAST_SHARE: f64 = 1e-3;

/// Quantizes with searched scales. `d: [k]`, finite, not below zero, is what the squared error at
/// each input counts; only ratios matter. `None` is 1 everywhere.
///
/// # Panics
/// If `d` is not of length `k`.
pub fn search(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    kind: SearchKind,
    d: Option<&[f32]>,
) -> Codes {
    codes_by(rows, spec, |out| search_into(rows, spec, kind, d, out)).0
}

/// [`search`] into `out`. Gives the unweighted error.
///
/// # Panics
/// If `d` is not of length `k`, or `out` not of the size of `rows`.
pub fn search_into(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    kind: SearchKind,
    d: Option<&[f32]>,
    out: NumbersMut<'_>,
) -> SquaredError {
    run(rows, spec, Choice::Search(kind), d, out)
}

/// Quantizes into `out` with the candidates of [`SearchKind::Grid`], choosing by distribution
/// within the band. With `tau` 0 the error alone decides. Gives the unweighted error.
///
/// # Panics
/// If `d` is not of length `k`, or `out` not of the size of `rows`.
pub fn kl_precalibrate(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    band: KlBand,
    d: Option<&[f32]>,
    out: NumbersMut<'_>,
) -> SquaredError {
    run(rows, spec, Choice::Band(band), d, out)
}

#[derive(Clone, Copy)]
enum Choice {
    Search(SearchKind),
    Band(KlBand),
}

fn run(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    choice: Choice,
    d: Option<&[f32]>,
    out: NumbersMut<'_>,
) -> SquaredError {
    let group = spec.group.len(rows.k());
    let d = importance(rows.k(), group, d);
    quantize_groups(rows, spec, out, &|column, weights, out| {
        let d = &d[column..][..weights.len()];
        dispatch_vectors(SearchGroups { weights, d, group, spec, choice, out });
    })
}

/// [`search`] of the weights of one group; `out` is set whole.
pub(crate) fn search_group(
    weights: &[f32],
    d: &[f32],
    spec: &WeightSpec,
    kind: SearchKind,
    out: RowOut<'_>,
) {
    let group = weights.len();
    let d = &importance(group, group, Some(d));
    out.codes.fill(spec.bits.middle());
    out.scales.fill(1.0);
    out.zeros.fill(spec.bits.middle());
    let choice = Choice::Search(kind);
    dispatch_vectors(SearchGroups { weights, d, group, spec, choice, out });
}

/// `d` over the mean of its group, with a floor.
pub(crate) fn importance(k: usize, group: usize, d: Option<&[f32]>) -> Vec<f32> {
    let Some(d) = d else { return vec![1.0; k] };
    assert_eq!(d.len(), k, "one d for each input");
    let mut shares = Vec::with_capacity(k);
    for d in d.chunks(group) {
        let mean = d.iter().map(|&d| f64::from(d)).sum::<f64>() / d.len() as f64;
        let usable = mean > 0.0 && mean.is_finite();
        shares.extend(
            d.iter().map(
                |&d| {
                    if usable { (f64::from(d) / mean).max(LEAST_SHARE) as f32 } else { 1.0 }
                },
            ),
        );
    }
    shares
}

/// A run of whole groups of one row.
struct SearchGroups<'a> {
    weights: &'a [f32],
    d: &'a [f32],
    group: usize,
    spec: &'a WeightSpec,
    choice: Choice,
    out: RowOut<'a>,
}

impl VectorKernel for SearchGroups<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { weights, d, group, spec, choice, out } = self;
        let mut scaled = Vec::with_capacity(group);
        let mut events = Events::default();
        let groups = weights.chunks(group).zip(d.chunks(group)).zip(out.codes.chunks_mut(group));
        for (((w, d), codes), (scale, zero)) in groups.zip(out.scales.iter_mut().zip(out.zeros)) {
            scaled.clear();
            scaled.extend_from_slice(w);
            // Outputs already hold the codes of zeros.
            let Some(group) = Group::new::<V>(&mut scaled, d, spec) else { continue };
            let best = match choice {
                Choice::Search(SearchKind::Grid) => grid::<V>(&group),
                Choice::Search(SearchKind::Exact) => {
                    let start = grid::<V>(&group);
                    exact::<V>(&group, start, &mut events)
                }
                Choice::Band(band) => kl::choose::<V>(&group, band),
            };
            (*scale, *zero) = stored_grid(&group, best);
            let max_code = spec.bits.max_code();
            Encode { weights: w, inverse: 1.0 / *scale, zero: *zero, max_code, codes }.run::<V>();
        }
    }
}

/// The best of the fixed candidates, moved once more to its least-squares scale.
#[inline(always)]
pub(crate) fn grid<V: Vector>(group: &Group<'_>) -> Candidate {
    let winners = group.winners::<V, _>(&group.grids());
    let mut best = rtn::<V>(group);
    for winner in winners {
        best = group.better(best, winner);
    }
    best
}

/// Round to nearest and its error.
#[inline(always)]
pub(crate) fn rtn<V: Vector>(group: &Group<'_>) -> Candidate {
    let rtn = group.rtn();
    let error = group.errors::<V>(&[rtn.scale; _], &[rtn.zero; _])[0];
    Candidate { error, ..rtn }
}

/// Scale and zero point as written.
#[inline(always)]
pub(crate) fn stored_grid(group: &Group<'_>, grid: Candidate) -> (f32, u8) {
    let scale = grid.scale * group.unit;
    match group.spec.grid {
        Grid::Asym => (scale, grid.zero as u8),
        Grid::Sym if grid.zero == group.middle() => (scale, group.spec.bits.middle()),
        Grid::Sym => (-scale, group.spec.bits.middle()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codes::decode,
        rows::{FloatKind, Order},
        rtn::rtn,
        spec::{Bits, GroupSize, ScaleType},
        testing::{bytes_of, gaussian, quantize_slice, specs},
    };
    use proptest::prelude::*;

    /// Weighted errors of each group of one row.
    fn errors(weights: &[f32], codes: &Codes, d: Option<&[f32]>) -> Vec<f64> {
        let size = codes.spec.group.len(weights.len());
        let d = importance(weights.len(), size, d);
        let mut row = vec![0.0; weights.len()];
        codes.dequantize(0, &mut row);
        let terms: Vec<f64> = (weights.iter().zip(&row).zip(&d))
            .map(|((&w, &x), &d)| f64::from(d) * (f64::from(w) - f64::from(x)).powi(2))
            .collect();
        terms.chunks(size).map(|terms| terms.iter().sum()).collect()
    }

    fn energies(weights: &[f32], size: usize) -> Vec<f64> {
        weights.chunks(size).map(|w| w.iter().map(|&w| f64::from(w).powi(2)).sum()).collect()
    }

    fn spec(bits: u8, group: u32, grid: Grid) -> WeightSpec {
        WeightSpec {
            bits: Bits::new(bits).unwrap(),
            group: GroupSize::of(group).unwrap(),
            grid,
            scale: ScaleType::F32,
        }
    }

    fn moments(count: usize, seed: u64) -> Vec<f32> {
        gaussian(count, !seed).iter().map(|x| x * x).collect()
    }

    proptest! {
        #[test]
        fn errors_fall_from_rtn_to_grid_to_exact(
            spec in specs(), k in 1usize..150, seed in any::<u64>(), has_d in any::<bool>(),
        ) {
            let weights = gaussian(k, seed);
            let d = moments(k, seed);
            let d = has_d.then_some(&d[..]);
            let measure = |codes: &Codes| errors(&weights, codes, d);
            let nearest = measure(&quantize_slice(&weights, |rows| rtn(rows, &spec)));
            let search = |kind| quantize_slice(&weights, |rows| search(rows, &spec, kind, d));
            let grid = measure(&search(SearchKind::Grid));
            let exact = measure(&search(SearchKind::Exact));
            let energies = energies(&weights, spec.group.len(k));
            for (i, energy) in energies.iter().enumerate() {
                // Errors are compared in f32.
                let slack = 1e-6 * nearest[i] + 1e-12 * energy;
                prop_assert!(grid[i] <= nearest[i] + slack, "{} > {}", grid[i], nearest[i]);
                prop_assert!(exact[i] <= grid[i] + slack, "{} > {}", exact[i], grid[i]);
            }
        }

        #[test]
        fn exact_equals_brute_force(
            bits in 2u8..=4, size in 1usize..9, seed in any::<u64>(), has_d in any::<bool>(),
            grid in prop::sample::select(vec![Grid::Sym, Grid::Asym]),
        ) {
            let weights = gaussian(size, seed);
            let d = moments(size, seed);
            let d = has_d.then_some(&d[..]);
            let spec = spec(bits, 16, grid);
            let exact = quantize_slice(&weights, |rows| search(rows, &spec, SearchKind::Exact, d));
            let exact = errors(&weights, &exact, d)[0];
            let d = importance(size, size, d);
            let (top, middle) = (f32::from(spec.bits.max_code()), f32::from(spec.bits.middle()));
            let extreme = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let mut least = f64::INFINITY;
            for step in 1..3000 {
                let scale = extreme * step as f32 / 1500.0;
                for zero in 0..=spec.bits.max_code() {
                    let zero = f32::from(zero);
                    if grid == Grid::Sym && zero != middle && zero != middle - 1.0 {
                        continue;
                    }
                    let error: f64 = weights.iter().zip(&d).map(|(&w, &d)| {
                        let c = (w / scale).round_ties_even().clamp(-zero, top - zero);
                        f64::from(d) * (f64::from(w) - f64::from(scale * c)).powi(2)
                    }).sum();
                    least = least.min(error);
                }
            }
            let energy: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            prop_assert!(exact <= least + 1e-6 * energy, "{exact} > {least}");
        }

        #[test]
        fn codes_of_a_grid_are_found_again(
            bits in 2u8..=4, seed in any::<u64>(), zero in 0u8..4,
            grid in prop::sample::select(vec![Grid::Sym, Grid::Asym]),
        ) {
            let spec = spec(bits, 32, grid);
            let zero = if grid == Grid::Sym { spec.bits.middle() } else { zero };
            let weights: Vec<f32> = gaussian(32, seed)
                .iter()
                .map(|w| decode((w.to_bits() >> 3) as u8 & spec.bits.max_code(), 0.37, zero))
                .collect();
            let codes = quantize_slice(&weights, |rows| search(rows, &spec, SearchKind::Exact, None));
            let energy = energies(&weights, 32)[0];
            prop_assert!(errors(&weights, &codes, None)[0] <= 1e-12 * energy);
        }

        #[test]
        fn only_ratios_of_d_matter(spec in specs(), k in 1usize..100, seed in any::<u64>()) {
            let weights = gaussian(k, seed);
            let run = |d: Option<&[f32]>| {
                quantize_slice(&weights, |rows| search(rows, &spec, SearchKind::Grid, d))
            };
            prop_assert_eq!(run(None), run(Some(&vec![0.3; k])));
            prop_assert_eq!(run(None), run(Some(&vec![0.0; k])));
            let d = moments(k, seed);
            let large: Vec<f32> = d.iter().map(|d| d * 1024.0).collect();
            prop_assert_eq!(run(Some(&d)), run(Some(&large)));
        }

        #[test]
        fn a_power_of_two_moves_only_the_scale(spec in specs(), seed in any::<u64>()) {
            let spec = WeightSpec { scale: ScaleType::F32, bits: Bits::new(4).unwrap(), ..spec };
            let weights = gaussian(70, seed);
            let large: Vec<f32> = weights.iter().map(|w| w * 2f32.powi(70)).collect();
            for kind in [SearchKind::Grid, SearchKind::Exact] {
                let run = |weights: &[f32]| {
                    quantize_slice(weights, |rows| search(rows, &spec, kind, None))
                };
                let (small, large) = (run(&weights), run(&large));
                prop_assert_eq!(small.codes, large.codes);
                let scales: Vec<f32> = small.scales.iter().map(|s| s * 2f32.powi(70)).collect();
                prop_assert_eq!(scales, large.scales);
            }
        }

        #[test]
        fn the_band_bounds_the_error_and_lowers_the_divergence(
            spec in specs(), seed in any::<u64>(),
            estimator in prop::sample::select(vec![
                Estimator::Kde, Estimator::Hist { bins: 32 }, Estimator::Gauss,
            ]),
        ) {
            let spec = WeightSpec { group: GroupSize::of(64).unwrap(), ..spec };
            let weights = gaussian(64, seed);
            let run = |tau| {
                let band = KlBand { tau, estimator };
                let codes = quantize_slice(&weights, |rows| {
                    codes_by(rows, &spec, |out| kl_precalibrate(rows, &spec, band, None, out)).0
                });
                let mut masses = vec![0.0; spec.bits.levels()];
                codes.codes.iter().for_each(|&code| masses[usize::from(code)] += 1.0);
                let scale = f64::from(codes.scales[0]);
                let reference = kl::Reference::new(estimator, &weights);
                let first = -f64::from(codes.zeros[0]) * scale;
                (errors(&weights, &codes, None)[0], reference.divergence(first, scale, &masses))
            };
            let ((least, kl), (near, kl_near), (far, kl_far)) = (run(0.0), run(0.05), run(0.3));
            prop_assert!(near <= least * 1.0501 && far <= least * 1.3001);
            prop_assert!(kl_near <= kl + 1e-6 && kl_far <= kl_near + 1e-6);
        }
    }

    #[test]
    fn d_changes_the_result() {
        let weights = gaussian(32, 7);
        let mut d = vec![1.0; 32];
        d[3] = 1000.0;
        let run = |d| {
            quantize_slice(&weights, |rows| {
                search(rows, &spec(3, 32, Grid::Asym), SearchKind::Grid, d)
            })
        };
        let (plain, weighted) = (run(None), run(Some(&d)));
        let error = |codes: &Codes| {
            (decode(codes.codes[3], codes.scales[0], codes.zeros[0]) - weights[3]).abs()
        };
        assert!(error(&weighted) < error(&plain));
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let (n, k) = (300, 200);
        let bytes = bytes_of(&gaussian(n * k, 1));
        for order in [Order::Nk, Order::Kn] {
            let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, order).unwrap();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| search(&rows, &spec(4, 32, Grid::Asym), SearchKind::Exact, None))
            };
            assert_eq!(run(1), run(2));
        }
    }

    #[test]
    fn an_outlier_does_not_erase_the_rest() {
        let mut weights = gaussian(64, 3);
        weights[10] = 1e4;
        for grid in [Grid::Sym, Grid::Asym] {
            let spec = spec(4, 64, grid);
            let exact =
                quantize_slice(&weights, |rows| search(rows, &spec, SearchKind::Exact, None));
            let nearest = quantize_slice(&weights, |rows| rtn(rows, &spec));
            assert!(errors(&weights, &exact, None)[0] <= errors(&weights, &nearest, None)[0]);
        }
    }

    #[test]
    fn tiny_and_huge_weights_stay_finite() {
        for scale in [ScaleType::F32, ScaleType::F16, ScaleType::BF16] {
            for grid in [Grid::Sym, Grid::Asym] {
                for weights in [[f32::MAX, f32::MIN, 1.0], [1e-45, -3e-45, 0.0], [1e-45, 3e38, 7.0]]
                {
                    for kind in [SearchKind::Grid, SearchKind::Exact] {
                        let spec = WeightSpec { scale, ..spec(4, 3, grid) };
                        let codes =
                            quantize_slice(&weights, |rows| search(rows, &spec, kind, None));
                        let mut row = [f32::NAN; 3];
                        codes.dequantize(0, &mut row);
                        assert!(row.iter().all(|x| x.is_finite()), "{weights:?} became {row:?}");
                        assert!(codes.scales[0].is_finite() && codes.scales[0] != 0.0);
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_same_bytes() {
        let weights = gaussian(320, 11);
        let d = importance(320, 32, Some(&moments(320, 11)));
        for kind in [SearchKind::Grid, SearchKind::Exact] {
            let spec = spec(4, 32, Grid::Asym);
            let mut results = [(); 2].map(|()| ([0u8; 320], [1.0; 10], [0; 10]));
            for (i, (codes, scales, zeros)) in results.iter_mut().enumerate() {
                let out = RowOut { codes, scales, zeros };
                let (weights, d, spec) = (&weights[..], &d[..], &spec);
                let choice = Choice::Search(kind);
                let kernel = SearchGroups { weights, d, group: 32, spec, choice, out };
                if i == 0 { kernel.run::<crate::simd::Plain>() } else { dispatch_vectors(kernel) }
            }
            assert_eq!(results[0], results[1]);
        }
    }
}
