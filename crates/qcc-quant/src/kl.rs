//! Choice among grids of nearly the same error by the distribution of their values.
//!
//! p is the distribution of the weights of a group, q that of the values of their codes; the
//! measure is KL(p || q) in nats. Every estimator smooths: without smoothing the divergence of a
//! continuous distribution from a discrete one is infinite.
//! * [`Estimator::Kde`]: Gaussian kernels of width `0.9 sigma n^(-1/5)` on both, compared in 32
//!   bins over the range of the weights and 5% at either end;
//! * [`Estimator::Hist`]: counts of weights in bins over the same range against the mass of each
//!   code spread over its cell, with one more count spread over all bins of both;
//! * [`Estimator::Gauss`]: normal distributions of the same mean and variance,
//!   `(ln(v2 / v1) + (v1 + (m1 - m2)^2) / v2 - 1) / 2`.

use crate::{
    candidates::{Candidate, Group},
    search::{KlBand, rtn},
    simd::Vector,
};

/// How the divergence of two distributions is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Estimator {
    /// Gaussian kernels.
    Kde,
    /// Bins; none counts as one.
    Hist {
        /// Number of bins; 32 is usual.
        bins: u16,
    },
    /// Means and variances.
    Gauss,
}

/// Bins in which kernel densities are compared.
const KDE_BINS: usize = 32;
/// Density added to each bin so that an empty one has a logarithm.
const KDE_FLOOR: f64 = 1e-6;

/// The distribution of a group of weights, to compare codes with.
#[derive(Clone, Debug)]
pub struct Reference {
    estimator: Estimator,
    count: f64,
    mean: f64,
    variance: f64,
    /// Left end of the first bin.
    left: f64,
    width: f64,
    kernel: f64,
    shares: Vec<f64>,
}

impl Reference {
    /// The distribution of `weights`.
    pub fn new(estimator: Estimator, weights: &[f32]) -> Self {
        let count = weights.len().max(1) as f64;
        let values = || weights.iter().map(|&w| f64::from(w));
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|w| (w - mean) * (w - mean)).sum::<f64>() / count;
        let low = values().fold(f64::INFINITY, f64::min);
        let range = values().fold(f64::NEG_INFINITY, f64::max) - low;
        let bins = match estimator {
            Estimator::Kde => KDE_BINS,
            Estimator::Hist { bins } => usize::from(bins).max(1),
            Estimator::Gauss => 0,
        };
        let mut reference = Self {
            estimator,
            count,
            mean,
            variance,
            left: low - 0.05 * range,
            width: 1.1 * range / bins as f64,
            kernel: 0.9 * variance.sqrt() * libm::pow(count, -0.2),
            shares: Vec::new(),
        };
        let mut shares = vec![0.0; bins];
        if variance > 0.0 {
            match estimator {
                Estimator::Kde => values().for_each(|w| reference.add_kernel(w, 1.0, &mut shares)),
                Estimator::Hist { .. } => {
                    for w in values() {
                        shares[reference.bin(w)] += 1.0;
                    }
                }
                Estimator::Gauss => {}
            }
            reference.smooth(&mut shares);
        }
        reference.shares = shares;
        reference
    }

    /// KL divergence, in nats, of codes from the weights: `masses[i]` of them, which may be
    /// fractions, have the value `first + i * step`. 0 if all weights are equal.
    pub fn divergence(&self, first: f64, step: f64, masses: &[f64]) -> f64 {
        if self.variance <= 0.0 {
            return 0.0;
        }
        let codes = || masses.iter().enumerate().map(|(i, &m)| (first + i as f64 * step, m));
        let mut shares = vec![0.0; self.shares.len()];
        match self.estimator {
            Estimator::Gauss => {
                let mean = codes().map(|(x, m)| x * m).sum::<f64>() / self.count;
                let spread = codes().map(|(x, m)| m * (x - mean) * (x - mean)).sum::<f64>();
                let (variance, shift) = (spread / self.count, self.mean - mean);
                if variance <= 0.0 {
                    return f64::INFINITY;
                }
                let ratio = (self.variance + shift * shift) / variance;
                return 0.5 * (libm::log(variance / self.variance) + ratio - 1.0);
            }
            Estimator::Kde => {
                for (x, mass) in codes().filter(|&(_, mass)| mass > 0.0) {
                    self.add_kernel(x, mass, &mut shares);
                }
            }
            Estimator::Hist { .. } => {
                for (x, mass) in codes().filter(|&(_, mass)| mass > 0.0) {
                    self.add_cell(x - 0.5 * step.abs(), x + 0.5 * step.abs(), mass, &mut shares);
                }
            }
        }
        self.smooth(&mut shares);
        let terms = self.shares.iter().zip(&shares).filter(|&(&p, _)| p > 0.0);
        terms.map(|(&p, &q)| p * libm::log(p / q)).sum::<f64>().max(0.0)
    }

    fn bin(&self, x: f64) -> usize {
        (((x - self.left) / self.width) as usize).min(self.bins() - 1)
    }

    fn bins(&self) -> usize {
        match self.estimator {
            Estimator::Kde => KDE_BINS,
            Estimator::Hist { bins } => usize::from(bins).max(1),
            Estimator::Gauss => 1,
        }
    }

    fn add_kernel(&self, x: f64, mass: f64, shares: &mut [f64]) {
        for (i, share) in shares.iter_mut().enumerate() {
            let distance = (self.left + (i as f64 + 0.5) * self.width - x) / self.kernel;
            *share += mass * libm::exp(-0.5 * distance * distance);
        }
    }

    /// Spreads `mass` evenly from `from` to `to`; what lies outside goes to the outer bins.
    fn add_cell(&self, from: f64, to: f64, mass: f64, shares: &mut [f64]) {
        let last = shares.len().saturating_sub(1);
        for (i, share) in shares.iter_mut().enumerate() {
            let left = if i == 0 { f64::NEG_INFINITY } else { self.left + i as f64 * self.width };
            let right = self.left + (i + 1) as f64 * self.width;
            let right = if i == last { f64::INFINITY } else { right };
            let overlap = to.min(right) - from.max(left);
            if overlap > 0.0 {
                *share += mass * overlap / (to - from);
            }
        }
    }

    /// Shares that add up to 1, none of them 0.
    fn smooth(&self, shares: &mut [f64]) {
        let more = match self.estimator {
            Estimator::Kde => KDE_FLOOR,
            Estimator::Hist { .. } | Estimator::Gauss => 1.0 / shares.len().max(1) as f64,
        };
        let total: f64 = shares.iter().map(|share| share + more).sum();
        for share in shares {
            *share = (*share + more) / total;
        }
    }
}

/// The candidate of least divergence among those whose error is within the band of the least.
#[inline(always)]
pub(crate) fn choose<V: Vector>(group: &Group<'_>, band: KlBand) -> Candidate {
    let mut candidates = vec![rtn::<V>(group)];
    for grids in group.grids() {
        candidates.extend(group.winners::<V, 1>(&[grids]));
    }
    let least = candidates.iter().copied().reduce(|a, b| group.better(a, b));
    let Some(least) = least else { return group.rtn() };
    if band.tau > 0.0 { closest(group, band, &candidates, least) } else { least }
}

fn closest(
    group: &Group<'_>,
    band: KlBand,
    candidates: &[Candidate],
    least: Candidate,
) -> Candidate {
    let reference = Reference::new(band.estimator, group.w);
    let limit = least.error * (1.0 + band.tau);
    let divergence = |c: &Candidate| {
        let mut masses = vec![0.0; group.spec.bits.levels()];
        let inverse = 1.0 / c.scale;
        for w in group.w {
            let code = (w * inverse).clamp(-c.zero, group.top() - c.zero).round_ties_even();
            masses[(code + c.zero) as usize] += 1.0;
        }
        let step = f64::from(c.scale);
        reference.divergence(-f64::from(c.zero) * step, step, &masses)
    };
    let mut best = (divergence(&least), least);
    for candidate in candidates.iter().filter(|c| c.error <= limit) {
        let kl = divergence(candidate);
        let is_tie_won = kl == best.0 && group.better(best.1, *candidate).error < best.1.error;
        if kl < best.0 || is_tie_won {
            best = (kl, *candidate);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian;
    use proptest::prelude::*;

    const ESTIMATORS: [Estimator; 3] =
        [Estimator::Kde, Estimator::Hist { bins: 32 }, Estimator::Gauss];

    #[test]
    fn normal_distributions_by_hand() {
        let reference = Reference::new(Estimator::Gauss, &[-1.0, 1.0, -1.0, 1.0]);
        // Values -2 and 2: v1 = 1, v2 = 4, ln 4 = 1.3863.
        let kl = reference.divergence(-2.0, 4.0, &[2.0, 2.0]);
        assert!((kl - 0.5 * (4f64.ln() + 0.25 - 1.0)).abs() < 1e-12);
        assert_eq!(reference.divergence(-1.0, 2.0, &[2.0, 2.0]), 0.0);
    }

    #[test]
    fn equal_weights_diverge_from_nothing() {
        for estimator in ESTIMATORS {
            let reference = Reference::new(estimator, &[0.5; 8]);
            assert_eq!(reference.divergence(0.0, 0.5, &[0.0, 8.0]), 0.0);
        }
    }

    proptest! {
        #[test]
        fn is_positive_and_grows_with_distance(seed in any::<u64>()) {
            // Codes far finer than bins and kernels, over all of the weights.
            const STEP: f64 = 1.0 / 1024.0;
            let weights = gaussian(128, seed);
            let mut masses = vec![0.0; 4096];
            for &w in &weights {
                masses[((f64::from(w) / STEP).round() + 2048.0) as usize] += 1.0;
            }
            for estimator in ESTIMATORS {
                let reference = Reference::new(estimator, &weights);
                let at = |shift: f64| reference.divergence(shift - 2048.0 * STEP, STEP, &masses);
                let (here, there) = (at(0.0), at(0.24));
                prop_assert!((0.0..0.2).contains(&here), "{estimator:?} {here}");
                prop_assert!(there > 10.0 * here, "{estimator:?} {there} near {here}");
            }
        }

        #[test]
        fn kernels_do_not_see_the_sign(seed in any::<u64>()) {
            let weights = gaussian(64, seed);
            let minus: Vec<f32> = weights.iter().map(|w| -w).collect();
            let masses: Vec<f64> = (0..16).map(|i| f64::from(i % 5)).collect();
            let back: Vec<f64> = masses.iter().rev().copied().collect();
            let a = Reference::new(Estimator::Kde, &weights).divergence(-0.16, 0.02, &masses);
            let b = Reference::new(Estimator::Kde, &minus).divergence(-0.14, 0.02, &back);
            prop_assert!((a - b).abs() <= 1e-6 * a.max(1e-3), "{a} {b}");
        }
    }
}
