//! Distance between the outputs of two models that need not be language models.
//!
//! Over all elements `r` of the reference and `m` of the model:
//! `SNR = 10 log10(sum r^2 / sum (m - r)^2)` in decibels, `relative = |m - r| / |r|` in the
//! Euclidean norm, `cosine = sum r m / (|r| |m|)`. A value that is finite in one of them only
//! makes the distance infinite; where none is finite in both, there is no distance, and it is NaN.
//! Sums are f64, in order.

use qcc_tensor::{DType, Tensor};

use crate::DataError;

/// Distance over the outputs added so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    signal: f64,
    noise: f64,
    model: f64,
    dot: f64,
    max_abs: f64,
    count: u64,
    /// Pairs of floats that are finite.
    finite: u64,
    /// Pairs that are not, and equal.
    alike: u64,
    not_finite: u64,
    unequal: u64,
}

impl Difference {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compares one output. Floats count into the distances; of other types the elements that
    /// differ are counted.
    ///
    /// # Errors
    /// QCC0404 when shapes differ, or one of them is of floats and the other is not.
    pub fn add(&mut self, reference: &Tensor, model: &Tensor) -> Result<(), DataError> {
        let floats = [reference, model].map(|it| it.dtype().is_float());
        if reference.dims() != model.dims() || floats[0] != floats[1] {
            let text = |it: &Tensor| format!("{}{:?}", it.dtype(), it.dims());
            let (want, got) = (text(reference), text(model));
            let what = format!("the reference gives {want}, and the model {got}");
            return Err(DataError::not_scored(what));
        }
        self.count += reference.len() as u64;
        if !floats[0] {
            return self.add_whole(reference, model);
        }
        if reference.dtype() == DType::F64 || model.dtype() == DType::F64 {
            let (want, got) = (wide(reference)?, wide(model)?);
            self.add_floats(want.iter().copied().zip(got.iter().copied()));
        } else {
            let want = reference.to_f32().map_err(DataError::not_scored)?;
            let got = model.to_f32().map_err(DataError::not_scored)?;
            let pairs = want.iter().zip(got.iter());
            self.add_floats(pairs.map(|(&r, &m)| (f64::from(r), f64::from(m))));
        }
        Ok(())
    }

    fn add_floats(&mut self, pairs: impl Iterator<Item = (f64, f64)>) {
        for (r, m) in pairs {
            if !r.is_finite() || !m.is_finite() {
                let equal = r == m || (r.is_nan() && m.is_nan());
                *(if equal { &mut self.alike } else { &mut self.not_finite }) += 1;
                continue;
            }
            self.finite += 1;
            let error = m - r;
            self.signal += r * r;
            self.model += m * m;
            self.dot += r * m;
            self.noise += error * error;
            self.max_abs = self.max_abs.max(error.abs());
        }
    }

    fn add_whole(&mut self, reference: &Tensor, model: &Tensor) -> Result<(), DataError> {
        let differ = match (reference.as_strings(), model.as_strings()) {
            (Some(want), Some(got)) => want.iter().zip(got).filter(|it| it.0 != it.1).count(),
            _ => {
                let want = reference.to_i64().map_err(DataError::not_scored)?;
                let got = model.to_i64().map_err(DataError::not_scored)?;
                want.iter().zip(got.iter()).filter(|it| it.0 != it.1).count()
            }
        };
        self.unequal += differ as u64;
        Ok(())
    }

    /// Signal to noise in decibels: infinite for equal outputs.
    pub fn snr_db(&self) -> f64 {
        let relative = self.relative();
        if relative == 0.0 { f64::INFINITY } else { -20.0 * relative.log10() }
    }

    /// Norm of the error over the norm of the reference; 0 for equal outputs.
    pub fn relative(&self) -> f64 {
        match (self.noise, self.signal) {
            _ if self.not_finite > 0 => f64::INFINITY,
            _ if self.is_empty() => f64::NAN,
            (0.0, _) => 0.0,
            (noise, signal) => (noise / signal).sqrt(),
        }
    }

    /// Cosine of the angle between the outputs; 1 where both are zero, 0 where one is.
    pub fn cosine(&self) -> f64 {
        match self.signal.sqrt() * self.model.sqrt() {
            _ if self.not_finite > 0 || self.is_empty() => f64::NAN,
            0.0 => f64::from(u8::from(self.signal == self.model)),
            norms => self.dot / norms,
        }
    }

    /// Largest error of one element.
    pub fn max_abs(&self) -> f64 {
        match self.not_finite {
            0 if self.is_empty() => f64::NAN,
            0 => self.max_abs,
            _ => f64::INFINITY,
        }
    }

    /// Whether there were floats, and none of them finite.
    fn is_empty(&self) -> bool {
        self.finite == 0 && self.alike > 0
    }

    /// Elements that are not finite in both outputs, and equal.
    pub fn alike_not_finite(&self) -> u64 {
        self.alike
    }

    /// Elements compared, of all types.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Elements that are not finite in one of the outputs, or infinite with other signs.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Elements of outputs that are not floats and differ.
    pub fn unequal(&self) -> u64 {
        self.unequal
    }
}

fn wide(tensor: &Tensor) -> Result<Vec<f64>, DataError> {
    if tensor.dtype() == DType::F64 {
        return Ok(tensor.as_slice::<f64>().map_err(DataError::not_scored)?.into_owned());
    }
    let values = tensor.to_f32().map_err(DataError::not_scored)?;
    Ok(values.iter().map(|&it| f64::from(it)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(want: &[f32], got: &[f32]) -> Difference {
        let mut it = Difference::new();
        it.add(&Tensor::vector(want.to_vec()), &Tensor::vector(got.to_vec())).unwrap();
        it
    }

    #[test]
    fn distances_by_hand() {
        let it = compare(&[3.0, 4.0], &[3.0, 3.5]);
        assert!((it.relative() - 0.1).abs() < 1e-12);
        assert!((it.snr_db() - 20.0).abs() < 1e-12);
        assert!((it.cosine() - 23.0 / (5.0 * 21.25f64.sqrt())).abs() < 1e-12);
        assert_eq!((it.max_abs(), it.count()), (0.5, 2));
    }

    #[test]
    fn equal_zero_and_infinite_outputs() {
        let equal = compare(&[1.0, f32::INFINITY, f32::NAN], &[1.0, f32::INFINITY, f32::NAN]);
        assert_eq!((equal.relative(), equal.snr_db(), equal.cosine()), (0.0, f64::INFINITY, 1.0));
        assert_eq!((equal.alike_not_finite(), equal.not_finite()), (2, 0));
        let nothing = compare(&[f32::INFINITY, f32::NAN], &[f32::INFINITY, f32::NAN]);
        let all = [nothing.relative(), nothing.snr_db(), nothing.cosine(), nothing.max_abs()];
        assert!(all.iter().all(|it| it.is_nan()), "{all:?}");
        let zero = compare(&[0.0], &[0.5]);
        assert_eq!((zero.relative(), zero.cosine()), (f64::INFINITY, 0.0));
        assert_eq!(compare(&[0.0], &[0.0]).cosine(), 1.0);
        for (want, got) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::INFINITY, f32::NEG_INFINITY)] {
            let it = compare(&[want, 1.0], &[got, 1.0]);
            assert_eq!((it.relative(), it.not_finite()), (f64::INFINITY, 1));
        }
    }

    #[test]
    fn whole_numbers_are_counted() {
        let mut it = Difference::new();
        it.add(&Tensor::vector(vec![1i64, 2, 3]), &Tensor::vector(vec![1i64, 5, 4])).unwrap();
        assert_eq!((it.unequal(), it.relative(), it.count()), (2, 0.0, 3));
        let floats = Tensor::vector(vec![1f32, 2.0, 3.0]);
        assert!(it.add(&floats, &Tensor::vector(vec![1i64, 2, 3])).is_err());
        assert!(it.add(&floats, &Tensor::scalar(1f32)).is_err());
        let doubles = Tensor::vector(vec![1f64, 2.0, 3.5]);
        let mut it = Difference::new();
        it.add(&floats, &doubles).unwrap();
        assert_eq!((it.max_abs(), it.count()), (0.5, 3));
    }
}
