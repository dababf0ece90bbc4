//! How much each token counts in what a block is tuned for: padding does not.

use qcc_pass::{PassError, SampleSource};
use qcc_tensor::Tensor;

/// Shares of the tokens of each sample, `f32[batch, length]`; `None` where all are 1.
pub(super) struct Shares(Vec<Option<Tensor>>);

impl Shares {
    /// Of samples: 1 for tokens that count, 0 for padding.
    pub(super) fn read(samples: &dyn SampleSource) -> Result<Self, PassError> {
        let each = (0..samples.len()).map(|it| samples.counted(it));
        Ok(Self(each.collect::<Result<_, _>>()?))
    }

    /// Whether tokens differ.
    pub(super) fn differ(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// Of the tokens of some samples, one after the other; `None` when all are 1, or `count` is not
    /// their number.
    pub(super) fn rows(&self, samples: &[usize], count: usize) -> Option<Vec<f32>> {
        let each = samples.iter().map(|it| self.0.get(*it)?.as_ref()?.as_slice::<f32>().ok());
        let rows: Vec<f32> = each.collect::<Option<Vec<_>>>()?.concat();
        (rows.len() == count).then_some(rows)
    }

    /// What the elements of a value of one sample are multiplied by, of the same rank.
    pub(super) fn of(&self, sample: usize, value: &Tensor) -> Result<Tensor, PassError> {
        let mut dims = vec![1; value.rank()];
        match self.0.get(sample).and_then(Option::as_ref) {
            Some(shares) if value.dims().starts_with(shares.dims()) && shares.rank() == 2 => {
                dims[..2].copy_from_slice(shares.dims());
                Ok(shares.reshape(dims)?)
            }
            // The first axis is that of samples.
            _ => {
                dims.iter_mut().take(1).for_each(|it| *it = value.dims()[0]);
                Ok(Tensor::from_vec(dims.clone(), vec![1.0f32; dims.iter().product()])?)
            }
        }
    }

    /// `sum share (a - b)^2` over the elements of a value of one sample.
    pub(super) fn distance(&self, sample: usize, a: &Tensor, b: &Tensor) -> Result<f64, PassError> {
        let (x, y) = (a.to_f32()?, b.to_f32()?);
        let squares = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(x - y) * f64::from(x - y)).sum()
        };
        let shares = self.0.get(sample).and_then(Option::as_ref);
        let Some(shares) = shares.filter(|it| a.dims().starts_with(it.dims())) else {
            return Ok(squares(&x, &y));
        };
        let width = a.len().checked_div(shares.len()).unwrap_or(0).max(1);
        let shares = shares.as_slice::<f32>()?;
        let tokens = x.chunks(width).zip(y.chunks(width)).zip(shares.iter());
        Ok(tokens.map(|((x, y), share)| f64::from(*share) * squares(x, y)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_count() {
        let shares = Tensor::from_vec(vec![1, 2], vec![1.0f32, 0.0]).unwrap();
        let shares = Shares(vec![None, Some(shares)]);
        let a = Tensor::from_vec(vec![1, 2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let b = Tensor::from_vec(vec![1, 2, 2], vec![0.0f32; 4]).unwrap();
        assert_eq!(shares.distance(0, &a, &b).unwrap(), 30.0);
        assert_eq!(shares.distance(1, &a, &b).unwrap(), 5.0);
        assert_eq!(shares.of(1, &a).unwrap().dims(), [1, 2, 1]);
        assert_eq!(shares.of(0, &a).unwrap().dims(), [1, 1, 1]);
        assert_eq!(shares.rows(&[1], 2).unwrap(), [1.0, 0.0]);
        assert_eq!((shares.rows(&[1], 3), shares.rows(&[0], 2)), (None, None));
        // A value whose first axes are not the tokens counts whole.
        let other = Tensor::from_vec(vec![2, 2], vec![1.0f32; 4]).unwrap();
        let zero = Tensor::from_vec(vec![2, 2], vec![0.0f32; 4]).unwrap();
        assert_eq!(shares.distance(1, &other, &zero).unwrap(), 4.0);
    }
}
