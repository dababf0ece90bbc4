//! Second moments of the inputs of a weight: `H = sum over tokens of x x^T`, `f64[K][K]`.
//!
//! With E = W_quantized - W of one output row, the squared error of that output summed over all
//! tokens is `E H E^T`: activations are not needed any more. `diag(H) / tokens` is E[x^2], the
//! weight of each input in the scale search.
//!
//! Tokens are summed in chunks of [`CHUNK`]: in f32 inside a chunk, each element one chain of
//! fused multiply-adds in token order, and in f64 over the chunks. So the bits depend on neither
//! the number of threads nor the CPU, but on how the tokens are divided into calls of
//! [`Gram::add`], unless each holds a multiple of `CHUNK` tokens.

use rayon::prelude::*;

use crate::matmul::{Packed, matmul};

/// Tokens summed in f32 before they are added in f64.
pub const CHUNK: usize = 256;

/// Rows of H that one task computes.
const TILE: usize = 96;

/// Why moments cannot be taken or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GramError {
    /// Activations that are not whole rows of K.
    #[error("{len} activations are not rows of {k}")]
    Ragged {
        /// Activations given.
        len: usize,
        /// Inputs of a row.
        k: usize,
    },
    /// The weight has another number of inputs.
    #[error("a weight of {weight} inputs does not fit second moments of {gram} inputs")]
    Inputs {
        /// K of the weight.
        weight: usize,
        /// K of the moments.
        gram: usize,
    },
    /// An activation was infinite, NaN or so large that its square is.
    #[error("the second moments of the activations are not finite")]
    NotFinite,
}

/// Second moments `H[K][K]` of activations. Memory: 8 K^2 bytes.
#[derive(Clone, Debug)]
pub struct Gram {
    k: usize,
    tokens: u64,
    /// `[k][k]`; only columns up to the end of the row's tile are kept up to date.
    sum: Vec<f64>,
}

impl Gram {
    /// Moments of no tokens, for rows of `k` inputs.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self { k, tokens: 0, sum: vec![0.0; k * k] }
    }

    /// Inputs of a row, K.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Tokens added so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds the tokens of `x: f32[M, K]`. Cost M K^2 multiply-adds.
    ///
    /// # Errors
    /// If `x` is not whole rows.
    pub fn add(&mut self, x: &[f32]) -> Result<(), GramError> {
        let k = self.k;
        if k == 0 || !x.len().is_multiple_of(k) {
            let ragged = GramError::Ragged { len: x.len(), k };
            return if x.is_empty() { Ok(()) } else { Err(ragged) };
        }
        for chunk in x.chunks(CHUNK * k) {
            let packed = Packed::new(chunk.len() / k, k, |token, j| chunk[token * k + j]);
            self.sum.par_chunks_mut(TILE * k).enumerate().for_each_init(
                || (Vec::new(), Vec::new()),
                |(tile, scratch), (i, sums)| {
                    // H is symmetric: a tile needs no columns right of its diagonal block.
                    let (first, columns) = (i * TILE, k.min((i + 1) * TILE));
                    tile.clear();
                    tile.resize(sums.len() / k * columns, 0.0);
                    matmul(
                        |row, token| chunk[token * k + first + row],
                        &packed,
                        columns,
                        tile,
                        scratch,
                    );
                    for (sums, tile) in sums.chunks_exact_mut(k).zip(tile.chunks_exact(columns)) {
                        for (sum, &x) in sums.iter_mut().zip(tile) {
                            *sum += f64::from(x);
                        }
                    }
                },
            );
        }
        self.tokens += (x.len() / k) as u64;
        Ok(())
    }

    /// Sum over tokens of `x_i x_j`.
    ///
    /// # Panics
    /// If `i` or `j` is not below K.
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.sum[i.max(j) * self.k + i.min(j)]
    }

    /// Sums of squares of each input, `[K]`.
    #[must_use]
    pub fn diag(&self) -> Vec<f64> {
        (0..self.k).map(|i| self.at(i, i)).collect()
    }

    /// Mean square of each input, `[K]`: the weights of the scale search. All 1 without tokens.
    #[must_use]
    pub fn mean_square(&self) -> Vec<f32> {
        if self.tokens == 0 {
            return vec![1.0; self.k];
        }
        self.diag().iter().map(|d| (d / self.tokens as f64) as f32).collect()
    }

    /// Part of the mean of diag(H) added to it by default: the 0.01 of GPTQ, more for fewer tokens
    /// than ten times K, as chance correlations of inputs would be fitted; at most 0.1.
    ///
    /// Measured on inputs with neighbors correlated by 0.9: with as many tokens as inputs, 0.1
    /// leaves a fifth less error on other tokens than 0.01; with seven times as many, 0.01 less.
    #[must_use]
    pub fn default_damp(&self) -> f64 {
        (0.1 * self.k as f64 / self.tokens.max(1) as f64).clamp(0.01, 0.1)
    }

    /// Whether a weight of `k` inputs fits.
    pub(crate) fn check(&self, k: usize) -> Result<(), GramError> {
        if k == self.k { Ok(()) } else { Err(GramError::Inputs { weight: k, gram: self.k }) }
    }

    /// Squared output error summed over tokens, `E H E^T`, of the weight error `e: f32[K]` of
    /// one row, in f64.
    ///
    /// # Panics
    /// If `e` is shorter than K.
    #[must_use]
    pub fn error(&self, e: &[f32]) -> f64 {
        let mut sum = 0.0;
        for i in (0..self.k).filter(|&i| e[i] != 0.0) {
            let row = &self.sum[i * self.k..][..i];
            let left: f64 = row.iter().zip(e).map(|(h, &e)| h * f64::from(e)).sum();
            let e = f64::from(e[i]);
            sum += e * (2.0 * left + e * self.at(i, i));
        }
        sum
    }
}

/// Second moments as the solvers use them: means over tokens, damped, in f32.
#[derive(Debug)]
pub(crate) struct Damped {
    pub(crate) k: usize,
    /// `[k][k]`, symmetric, with a positive diagonal.
    pub(crate) dense: Vec<f32>,
    /// The same as the right operand of a product.
    pub(crate) packed: Packed,
    /// Largest correlation of each input with another, `max_j |H_ij| / sqrt(H_ii H_jj)`, `[k]`.
    pub(crate) correlation: Vec<f32>,
}

impl Damped {
    /// `H / tokens + damp * mean(diag(H / tokens)) * I`; the unit matrix if H is zero.
    pub(crate) fn new(gram: &Gram, damp: Option<f64>) -> Result<Self, GramError> {
        let k = gram.k;
        // Without any, a singular H could not be factored.
        let damp = damp.unwrap_or_else(|| gram.default_damp()).max(1e-6);
        let factor = 1.0 / gram.tokens.max(1) as f64;
        let trace: f64 = gram.diag().iter().sum();
        let mean = trace * factor / k.max(1) as f64;
        if !trace.is_finite() || mean > f64::from(f32::MAX) / 1e6 {
            return Err(GramError::NotFinite);
        }
        // Too small for f32, or zero: scale, as a constant factor changes no solution.
        let (factor, shift) = if mean < 1e-20 {
            if mean > 0.0 { (factor / mean, damp) } else { (0.0, 1.0) }
        } else {
            (factor, damp * mean)
        };
        let at = |i: usize, j: usize| {
            (gram.at(i, j) * factor + if i == j { shift.max(f64::MIN_POSITIVE) } else { 0.0 })
                as f32
        };
        let mut dense = vec![0.0; k * k];
        dense.par_chunks_mut(k.max(1)).enumerate().for_each(|(i, row)| {
            for (j, value) in row.iter_mut().enumerate() {
                *value = at(i, j);
            }
        });
        let packed = Packed::new(k, k, |i, j| dense[i * k + j]);
        if dense.iter().any(|h| !h.is_finite()) {
            return Err(GramError::NotFinite);
        }
        let norms: Vec<f32> = (0..k).map(|i| dense[i * k + i].sqrt()).collect();
        let correlation = dense.par_chunks(k.max(1)).enumerate().map(|(i, row)| {
            let others = row.iter().zip(&norms).enumerate().filter(|(j, _)| *j != i);
            others.fold(0.0f32, |most, (_, (h, norm))| most.max(h.abs() / (norm * norms[i])))
        });
        Ok(Self { k, correlation: correlation.collect(), packed, dense })
    }

    /// Row `i`.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.dense[i * self.k..][..self.k]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        codes::Codes,
        rows::{FloatKind, Order, WeightRows},
        spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
        testing::{bytes_of, gaussian},
    };

    /// Activations `[m][k]`, neighbors in a row correlated by `rho`, every 37th token and some
    /// inputs large.
    pub(crate) fn correlated(m: usize, k: usize, rho: f32, seed: u64) -> Vec<f32> {
        let mut x = gaussian(m * k, seed);
        let noise = (1.0 - rho * rho).sqrt();
        for row in x.chunks_exact_mut(k) {
            for j in 1..k {
                row[j] = rho * row[j - 1] + noise * row[j];
            }
            for (j, x) in row.iter_mut().enumerate() {
                *x *= if j % 23 == 7 { 6.0 } else { 1.0 };
            }
        }
        x
    }

    /// A random weight and the moments of inputs to round it for.
    pub(crate) struct Problem {
        pub(crate) weights: Vec<f32>,
        pub(crate) gram: Gram,
        n: usize,
    }

    impl Problem {
        /// `[n][k]` and `m` tokens with neighbors correlated by `rho`.
        pub(crate) fn new(n: usize, k: usize, m: usize, rho: f32) -> Self {
            Self::of(n, k, &correlated(m, k, rho, 11))
        }

        pub(crate) fn of(n: usize, k: usize, x: &[f32]) -> Self {
            let mut gram = Gram::new(k);
            gram.add(x).unwrap();
            Self { weights: gaussian(n * k, 12), gram, n }
        }

        /// A few specs with groups that are ragged, longer than a block of columns, or a row.
        pub(crate) fn specs(&self) -> [WeightSpec; 4] {
            let spec = |bits, group, grid| WeightSpec {
                bits: Bits::new(bits).unwrap(),
                group,
                grid,
                scale: ScaleType::F16,
            };
            [
                spec(4, GroupSize::of(32).unwrap(), Grid::Sym),
                spec(3, GroupSize::of(150).unwrap(), Grid::Asym),
                spec(2, GroupSize::of(48).unwrap(), Grid::Asym),
                spec(5, GroupSize::Row, Grid::Sym),
            ]
        }

        pub(crate) fn quantize(&self, by: impl FnOnce(&WeightRows<'_>) -> Codes) -> Codes {
            let bytes = bytes_of(&self.weights);
            let (n, k) = (self.n, self.gram.k);
            by(&WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap())
        }

        /// E, row by row.
        pub(crate) fn errors(&self, codes: &Codes) -> Vec<Vec<f32>> {
            let rows = self.weights.chunks_exact(self.gram.k).enumerate();
            rows.map(|(row, weights)| {
                let mut e = vec![0.0; self.gram.k];
                codes.dequantize(row, &mut e);
                e.iter_mut().zip(weights).for_each(|(e, w)| *e -= w);
                e
            })
            .collect()
        }

        /// tr(E H E^T).
        pub(crate) fn error(&self, codes: &Codes) -> f64 {
            self.errors(codes).iter().map(|e| self.gram.error(e)).sum()
        }
    }

    #[test]
    fn sums_products_of_inputs() {
        let mut gram = Gram::new(2);
        gram.add(&[1.0, 2.0, 3.0, -4.0]).unwrap();
        gram.add(&[]).unwrap();
        assert_eq!((gram.tokens(), gram.at(0, 0), gram.at(1, 1)), (2, 10.0, 20.0));
        assert_eq!((gram.at(0, 1), gram.at(1, 0)), (-10.0, -10.0));
        assert_eq!(gram.mean_square(), [5.0, 10.0]);
        assert_eq!(gram.error(&[1.0, 0.5]), 10.0 - 10.0 + 5.0);
        assert_eq!(gram.add(&[1.0]), Err(GramError::Ragged { len: 1, k: 2 }));
        assert_eq!(Gram::new(0).add(&[1.0]), Err(GramError::Ragged { len: 1, k: 0 }));
    }

    #[test]
    fn many_tiles_and_chunks_agree_with_f64_sums() {
        let (m, k) = (2 * CHUNK + 37, 2 * TILE + 13);
        let x = correlated(m, k, 0.9, 5);
        let mut gram = Gram::new(k);
        gram.add(&x).unwrap();
        for (i, j) in [(0, 0), (5, 200), (200, 5), (TILE, TILE - 1), (k - 1, k - 1), (k - 1, 0)] {
            let terms = || x.chunks(k).map(|x| f64::from(x[i]) * f64::from(x[j]));
            let (sum, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            assert!((gram.at(i, j) - sum).abs() <= 1e-6 * size, "{i} {j}");
        }
    }

    #[test]
    fn error_is_that_of_the_outputs() {
        let (m, k) = (300, 40);
        let x = correlated(m, k, 0.9, 6);
        let e = correlated(1, k, 0.0, 7);
        let mut gram = Gram::new(k);
        gram.add(&x).unwrap();
        let output =
            |x: &[f32]| x.iter().zip(&e).map(|(&x, &e)| f64::from(x) * f64::from(e)).sum::<f64>();
        let direct: f64 = x.chunks(k).map(|x| output(x).powi(2)).sum();
        assert!((gram.error(&e) - direct).abs() < 1e-6 * direct);
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let (m, k) = (700, 250);
        let x = correlated(m, k, 0.5, 8);
        let sums = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gram = Gram::new(k);
                gram.add(&x).unwrap();
                gram.sum
            })
        });
        assert!(sums[0] == sums[1] && sums[0] == sums[2]);
    }

    #[test]
    fn damping_survives_dead_tiny_and_broken_inputs() {
        let damped = |x: &[f32]| {
            let mut gram = Gram::new(2);
            gram.add(x).unwrap();
            Damped::new(&gram, Some(0.01))
        };
        assert_eq!(damped(&[0.0, 0.0]).unwrap().dense, [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(damped(&[2.0, 0.0]).unwrap().dense, [4.02, 0.0, 0.0, 0.02]);
        let tiny = damped(&[1e-18, 0.0]).unwrap().dense;
        assert!((tiny[0] - 2.01).abs() < 1e-5 && tiny[3] == 0.01, "{tiny:?}");
        assert_eq!(damped(&[f32::NAN, 0.0]).unwrap_err(), GramError::NotFinite);
        assert_eq!(damped(&[1e30, 0.0]).unwrap_err(), GramError::NotFinite);
        assert_eq!(damped(&[1.0, f32::INFINITY]).unwrap_err(), GramError::NotFinite);
    }
}
