//! How far quantized weights are from the float ones.
//!
//! Sums are f64, over blocks of rows of fixed size added in order, so that they do not depend on
//! the number of threads.

use std::ops::Add;

use crate::{
    codes::{Codes, decode},
    rows::WeightRows,
    simd::{Kernel, LANES, dispatch},
};
use rayon::prelude::*;

/// What rounding cost, summed as the weights were rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SquaredError {
    /// `sum w^2`.
    pub energy: f64,
    /// `sum (w - v)^2`.
    pub squared: f64,
}

impl SquaredError {
    /// Relative weight error, `sum (w - v)^2 / sum w^2`; 0 for exact zeros.
    pub fn relative(&self) -> f64 {
        ratio(self.squared, self.energy)
    }

    /// Signal to noise ratio in dB, `10 log10(sum w^2 / sum (w - v)^2)`; infinite without error.
    pub fn snr_db(&self) -> f64 {
        -10.0 * libm::log10(self.relative())
    }

    /// Sums over a run of groups of `size` weights of a row.
    pub(crate) fn of(
        weights: &[f32],
        size: usize,
        codes: &[u8],
        scales: &[f32],
        zeros: &[u8],
    ) -> Self {
        dispatch(Sums { weights, size, codes, scales, zeros })
    }
}

impl Add for SquaredError {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { energy: self.energy + other.energy, squared: self.squared + other.squared }
    }
}

struct Sums<'a> {
    weights: &'a [f32],
    size: usize,
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: &'a [u8],
}

/// Vectors whose squares are added as f32 before the sum becomes f64.
const RUN: usize = 16;

impl Kernel for Sums<'_> {
    type Output = SquaredError;
    #[inline(always)]
    fn run(self) -> SquaredError {
        let Self { weights, size, codes, scales, zeros } = self;
        let mut sums = SquaredError::default();
        let groups = weights.chunks(size).zip(codes.chunks(size)).zip(scales.iter().zip(zeros));
        for ((weights, codes), (&scale, &zero)) in groups {
            let runs = weights.chunks(RUN * LANES).zip(codes.chunks(RUN * LANES));
            for (weights, codes) in runs {
                let (mut energy, mut squared) = ([0.0f32; LANES], [0.0f32; LANES]);
                let mut add = |i: usize, w: f32, code: u8| {
                    let error = w - decode(code, scale, zero);
                    energy[i] += w * w;
                    squared[i] += error * error;
                };
                let (vectors, rest) = weights.as_chunks::<LANES>();
                let (code_vectors, code_rest) = codes.as_chunks::<LANES>();
                for (w, codes) in vectors.iter().zip(code_vectors) {
                    for i in 0..LANES {
                        add(i, w[i], codes[i]);
                    }
                }
                for (i, (&w, &code)) in rest.iter().zip(code_rest).enumerate() {
                    add(i, w, code);
                }
                sums.energy += sum(energy);
                sums.squared += sum(squared);
            }
        }
        sums
    }
}

/// The sum of all lanes, as f64.
#[inline(always)]
pub(crate) fn sum(lanes: [f32; LANES]) -> f64 {
    let mut lanes = lanes.map(f64::from);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Sums over the weights w, their quantized values v and what an error at each input counts, d.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightError {
    /// Number of weights.
    pub count: f64,
    /// `sum w^2`.
    pub energy: f64,
    /// `sum v^2`.
    pub value_energy: f64,
    /// `sum (w - v)^2`.
    pub squared: f64,
    /// `sum d w^2`.
    pub weighted_energy: f64,
    /// `sum d (w - v)^2`.
    pub weighted_squared: f64,
    /// `max |w - v|`.
    pub largest: f64,
}

impl WeightError {
    /// Relative weight error, `sum (w - v)^2 / sum w^2`; 0 for exact zeros.
    pub fn relative(&self) -> f64 {
        self.plain().relative()
    }

    /// Relative weighted error, `sum d (w - v)^2 / sum d w^2`: with d = E[x^2] the relative error
    /// of outputs whose inputs are uncorrelated.
    pub fn relative_weighted(&self) -> f64 {
        ratio(self.weighted_squared, self.weighted_energy)
    }

    /// Weighted mean squared error, `sum d (w - v)^2 / count`.
    pub fn weighted_mse(&self) -> f64 {
        ratio(self.weighted_squared, self.count)
    }

    /// Signal to noise ratio in dB, `10 log10(sum w^2 / sum (w - v)^2)`; infinite without error.
    pub fn snr_db(&self) -> f64 {
        self.plain().snr_db()
    }

    /// The unweighted sums alone.
    pub fn plain(&self) -> SquaredError {
        SquaredError { energy: self.energy, squared: self.squared }
    }

    /// `sum v^2 / sum w^2`: below 1 where rounding shrinks the weights.
    pub fn energy_ratio(&self) -> f64 {
        ratio(self.value_energy, self.energy)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            energy: self.energy + other.energy,
            value_energy: self.value_energy + other.value_energy,
            squared: self.squared + other.squared,
            weighted_energy: self.weighted_energy + other.weighted_energy,
            weighted_squared: self.weighted_squared + other.weighted_squared,
            largest: self.largest.max(other.largest),
        }
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

/// Rows of a task.
const BLOCK: usize = 64;

/// Compares `rows` with the values that `dequantize(row, out)` writes. `d: [k]`, 1 if `None`.
///
/// # Panics
/// If `d` is not of length `k`.
pub fn measure(
    rows: &WeightRows<'_>,
    d: Option<&[f32]>,
    dequantize: &(dyn Fn(usize, &mut [f32]) + Sync),
) -> WeightError {
    assert!(d.is_none_or(|d| d.len() == rows.k()), "one d for each input");
    in_blocks(rows, |row, weights| {
        let mut values = vec![0.0; weights.len()];
        dequantize(row, &mut values);
        let mut sums = WeightError { count: weights.len() as f64, ..WeightError::default() };
        for (i, (&w, &v)) in weights.iter().zip(&values).enumerate() {
            let (w, v, d) = (f64::from(w), f64::from(v), d.map_or(1.0, |d| f64::from(d[i])));
            let error = (w - v) * (w - v);
            sums.energy += w * w;
            sums.value_energy += v * v;
            sums.squared += error;
            sums.weighted_energy += d * w * w;
            sums.weighted_squared += d * error;
            sums.largest = sums.largest.max(error);
        }
        sums.largest = sums.largest.sqrt();
        sums
    })
    .into_iter()
    .fold(WeightError::default(), WeightError::plus)
}

/// [`measure`] of codes.
///
/// # Panics
/// If `codes` are not of the size of `rows`, or `d` is not of length `k`.
pub fn measure_codes(rows: &WeightRows<'_>, d: Option<&[f32]>, codes: &Codes) -> WeightError {
    assert!((rows.n(), rows.k()) == (codes.n, codes.k), "codes of these rows");
    measure(rows, d, &|row, out| codes.dequantize(row, out))
}

/// Share of the weights that lie more than half a step beyond the ends of their grid.
///
/// # Panics
/// If `codes` are not of the size of `rows`.
pub fn clip_fraction(rows: &WeightRows<'_>, codes: &Codes) -> f64 {
    assert!((rows.n(), rows.k()) == (codes.n, codes.k), "codes of these rows");
    let (groups, size) = (codes.groups(), codes.spec.group.len(codes.k));
    let max_code = f32::from(codes.spec.bits.max_code());
    let clipped = in_blocks(rows, |row, weights| {
        let grids = codes.scales[row * groups..].iter().zip(&codes.zeros[row * groups..]);
        let mut count = 0u64;
        for (weights, (&scale, &zero)) in weights.chunks(size).zip(grids) {
            let zero = f32::from(zero);
            let is_clipped =
                |w: &&f32| **w / scale < -zero - 0.5 || **w / scale > max_code - zero + 0.5;
            count += weights.iter().filter(is_clipped).count() as u64;
        }
        count
    });
    ratio(clipped.into_iter().sum::<u64>() as f64, (rows.n() * rows.k()) as f64)
}

/// `look(row, weights)` of every row, in order.
fn in_blocks<T: Send>(rows: &WeightRows<'_>, look: impl Fn(usize, &[f32]) -> T + Sync) -> Vec<T> {
    let (n, k) = (rows.n(), rows.k());
    if k == 0 {
        return Vec::new();
    }
    let blocks: Vec<Vec<T>> = (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let first = block * BLOCK;
            let mut weights = vec![0.0; BLOCK.min(n - first) * k];
            rows.read(first, &mut weights);
            weights.chunks_exact(k).enumerate().map(|(i, w)| look(first + i, w)).collect()
        })
        .collect();
    blocks.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rows::{FloatKind, Order},
        rtn::rtn,
        spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
        testing::{bytes_of, gaussian},
    };

    #[test]
    fn values_by_hand() {
        let bytes = bytes_of(&[3.0, 4.0, 0.0, -5.0]);
        let rows = WeightRows::new(&bytes, FloatKind::F32, 2, 2, Order::Nk).unwrap();
        let values = [[3.0, 3.0], [0.5, -5.0]];
        let error =
            measure(&rows, Some(&[2.0, 1.0]), &|row, out| out.copy_from_slice(&values[row]));
        assert_eq!((error.count, error.energy, error.squared), (4.0, 50.0, 1.25));
        assert_eq!((error.weighted_energy, error.weighted_squared), (59.0, 1.5));
        assert_eq!((error.largest, error.relative()), (1.0, 0.025));
        assert!((error.snr_db() - 16.0206).abs() < 1e-4);
        assert_eq!((error.weighted_mse(), error.energy_ratio()), (0.375, 43.25 / 50.0));
        let none = measure(&rows, None, &|row, out| rows.read(row, out));
        assert_eq!(
            (none.relative(), none.snr_db(), none.energy_ratio()),
            (0.0, f64::INFINITY, 1.0)
        );
    }

    #[test]
    fn sums_do_not_depend_on_threads_or_order() {
        let (n, k) = (150, 40);
        let weights = gaussian(n * k, 5);
        let (bytes, turned): (_, Vec<f32>) =
            (bytes_of(&weights), (0..n * k).map(|i| weights[i % n * k + i / n]).collect());
        let turned = bytes_of(&turned);
        let spec = WeightSpec {
            bits: Bits::new(3).unwrap(),
            group: GroupSize::of(16).unwrap(),
            grid: Grid::Sym,
            scale: ScaleType::F16,
        };
        let run = |bytes, order, threads| {
            let rows = WeightRows::new(bytes, FloatKind::F32, n, k, order).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let codes = rtn(&rows, &spec);
                (measure_codes(&rows, None, &codes), clip_fraction(&rows, &codes))
            })
        };
        let first = run(&bytes, Order::Nk, 1);
        assert_eq!(first, run(&bytes, Order::Nk, 2));
        assert_eq!(first, run(&turned, Order::Kn, 2));
        assert!(first.0.relative() > 0.01 && first.0.relative() < 0.1);
        assert!(first.1 > 0.0 && first.1 < 0.05, "the short half clips a few: {}", first.1);
    }
}
