//! How large what a product reads is, for the record: could it be kept in 8 bits?
//!
//! Codes of 8 bits hold a tensor well where its values are of one size. `largest / median`, of the
//! largest magnitudes in groups of 32 inputs, tells of inputs that are large in every token; the share
//! of values beyond 8 times the root mean square of their token tells of single ones.

use qcc_pass::{ActivationRecord, PassError};

use super::Sums;

/// Inputs of a group.
const GROUP: usize = 32;

/// Values beyond so many times the root mean square of their token are outliers.
const BEYOND: f64 = 8.0;

/// Magnitudes of the inputs of a product.
#[derive(Clone, Debug)]
pub(crate) struct Magnitudes {
    /// The largest of each input, `[K]`.
    largest: Vec<f32>,
    values: u64,
    beyond: u64,
}

impl Magnitudes {
    /// What is told of them; `None` without values, or where one is not finite.
    pub(crate) fn record(&self) -> Option<ActivationRecord> {
        let each = self.largest.chunks(GROUP).map(|it| it.iter().copied().fold(0.0, f32::max));
        let mut groups: Vec<f32> = each.collect();
        groups.sort_by(f32::total_cmp);
        let (largest, median) = (*groups.last()?, *groups.get(groups.len() / 2)?);
        let is_known = self.values > 0 && self.largest.iter().all(|it| it.is_finite());
        is_known.then(|| ActivationRecord {
            largest: largest.into(),
            median: median.into(),
            beyond: self.beyond as f64 / self.values as f64,
        })
    }
}

impl Sums for Magnitudes {
    fn new(k: usize) -> Self {
        Self { largest: vec![0.0; k], values: 0, beyond: 0 }
    }

    fn add(&mut self, x: &[f32]) -> Result<(), PassError> {
        for row in x.chunks_exact(self.largest.len().max(1)) {
            let mut square = 0.0;
            for (largest, x) in self.largest.iter_mut().zip(row) {
                // Unlike `max`, this keeps NaN.
                if x.abs() > *largest || x.is_nan() {
                    *largest = x.abs();
                }
                square += f64::from(*x) * f64::from(*x);
            }
            let limit = (BEYOND * (square / row.len() as f64).sqrt()) as f32;
            self.beyond += row.iter().filter(|it| it.abs() > limit).count() as u64;
            self.values += row.len() as u64;
        }
        Ok(())
    }

    fn size_bytes(k: usize) -> u64 {
        4 * k as u64
    }
}

/// Sums, with the magnitudes of the same tokens.
pub(crate) struct Seen<S> {
    pub(crate) sums: S,
    pub(crate) magnitudes: Magnitudes,
}

impl<S: Sums> Sums for Seen<S> {
    fn new(k: usize) -> Self {
        Self { sums: S::new(k), magnitudes: Magnitudes::new(k) }
    }

    fn add(&mut self, x: &[f32]) -> Result<(), PassError> {
        self.magnitudes.add(x)?;
        self.sums.add(x)
    }

    fn size_bytes(k: usize) -> u64 {
        S::size_bytes(k) + Magnitudes::size_bytes(k)
    }

    fn solving_bytes(k: usize) -> u64 {
        S::solving_bytes(k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_large_in_every_token_stands_out() {
        // Three groups of inputs; one input is 100 times the others.
        let token = |sign: f32| {
            let mut row = vec![sign * 0.5; 96];
            row[40] = sign * 50.0;
            row
        };
        let mut it = Magnitudes::new(96);
        it.add(&[token(1.0), token(-1.0)].concat()).unwrap();
        let found = it.record().unwrap();
        assert_eq!((found.largest, found.median), (50.0, 0.5));
        // One of 96 values is 9.7 times the root mean square.
        assert!((found.beyond - 1.0 / 96.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn even_inputs_have_no_outliers_and_nothing_is_told_of_none() {
        let mut it = Magnitudes::new(40);
        assert_eq!(it.record(), None);
        it.add(&[[0.25; 40], [-0.25; 40]].concat()).unwrap();
        let want = ActivationRecord { largest: 0.25, median: 0.25, beyond: 0.0 };
        assert_eq!(it.record(), Some(want));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut it = it.clone();
            it.add(&[bad; 40]).unwrap();
            it.add(&[1.0; 40]).unwrap();
            assert_eq!(it.record(), None, "{bad}");
        }
    }
}
