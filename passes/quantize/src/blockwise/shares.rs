//! How much each token counts in what a block is tuned for.
//!
//! Padding does not. Of the others each is divided by the root mean square of what the float block
//! gives for it, so that a few tokens of great magnitude, the first of a text say, are not all that
//! is looked at; dividing by the mean square itself would make them the least.

use qcc_pass::{PassError, SampleSource};
use qcc_tensor::Tensor;

/// What keeps a token of zeros from counting without limit, of the mean square of a sample.
const FLOOR: f64 = 1e-4;

/// Which tokens of each sample count, `f32[batch, length]`; `None` where all do.
pub(super) struct Shares(Vec<Option<Tensor>>);

impl Shares {
    /// Of samples: 1 for tokens that count, 0 for padding.
    pub(super) fn read(samples: &dyn SampleSource) -> Result<Self, PassError> {
        let each = (0..samples.len()).map(|it| samples.counted(it));
        Ok(Self(each.collect::<Result<_, _>>()?))
    }

    /// Of the tokens of some samples, one after the other; `None` when all are 1, or `count` is not
    /// their number.
    pub(super) fn rows(&self, samples: &[usize], count: usize) -> Option<Vec<f32>> {
        let each = samples.iter().map(|it| self.0.get(*it)?.as_ref()?.as_slice::<f32>().ok());
        let rows: Vec<f32> = each.collect::<Option<Vec<_>>>()?.concat();
        (rows.len() == count).then_some(rows)
    }

    /// What the squares of the errors of a value of one sample are multiplied by, of the same rank:
    /// one for each row of the last axis. `wanted` is the value in the float model.
    pub(super) fn of(&self, sample: usize, wanted: &Tensor) -> Result<Tensor, PassError> {
        let mut dims: Vec<usize> = wanted.dims().into();
        let width = dims.last_mut().map_or(1, |it| std::mem::replace(it, 1)).max(1);
        let x = wanted.to_f32()?;
        let square = |row: &[f32]| -> f64 {
            row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / width as f64
        };
        let squares: Vec<f64> = x.chunks(width).map(square).collect();
        let floor = FLOOR * squares.iter().sum::<f64>() / squares.len().max(1) as f64;
        let root = |it: &f64| (it + floor).sqrt();
        let mut rows: Vec<f32> = squares
            .iter()
            .map(|it| if root(it) > 0.0 { (1.0 / root(it)) as f32 } else { 1.0 })
            .collect();
        let counted = self.0.get(sample).and_then(Option::as_ref);
        if let Some(counted) = counted.filter(|it| wanted.dims().starts_with(it.dims())) {
            let each = rows.len().checked_div(counted.len()).unwrap_or(0).max(1);
            for (rows, counted) in rows.chunks_mut(each).zip(counted.as_slice::<f32>()?.iter()) {
                rows.iter_mut().for_each(|it| *it *= counted);
            }
        }
        Ok(Tensor::from_vec(dims, rows)?)
    }

    /// `sum share (found - wanted)^2` over the elements of a value of one sample.
    pub(super) fn distance(
        &self,
        sample: usize,
        found: &Tensor,
        wanted: &Tensor,
    ) -> Result<f64, PassError> {
        let (x, y, shares) = (found.to_f32()?, wanted.to_f32()?, self.of(sample, wanted)?);
        let width = wanted.dims().last().copied().unwrap_or(1).max(1);
        let squares = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(x - y) * f64::from(x - y)).sum()
        };
        let shares = shares.as_slice::<f32>()?;
        let rows = x.chunks(width).zip(y.chunks(width)).zip(shares.iter());
        Ok(rows.map(|((x, y), share)| f64::from(*share) * squares(x, y)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(dims: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_vec(dims.into(), values.into()).unwrap()
    }

    #[test]
    fn padding_does_not_count() {
        let shares = Shares(vec![None, Some(tokens(&[1, 2], &[1.0, 0.0]))]);
        let wanted = tokens(&[1, 2, 2], &[1.0; 4]);
        let found = tokens(&[1, 2, 2], &[2.0, 3.0, 4.0, 5.0]);
        let all = shares.distance(0, &found, &wanted).unwrap();
        assert!((all - 30.0).abs() < 0.01, "{all}");
        let first = shares.distance(1, &found, &wanted).unwrap();
        assert!((first - 5.0).abs() < 0.01, "{first}");
        assert_eq!(shares.of(1, &wanted).unwrap().dims(), [1, 2, 1]);
        assert_eq!(shares.rows(&[1], 2).unwrap(), [1.0, 0.0]);
        assert_eq!((shares.rows(&[1], 3), shares.rows(&[0], 2)), (None, None));
        // A value whose first axes are not the tokens counts whole.
        let other = tokens(&[2, 2], &[1.0; 4]);
        let zero = tokens(&[2, 2], &[0.0; 4]);
        assert!((shares.distance(1, &zero, &other).unwrap() - 4.0).abs() < 0.01);
    }

    #[test]
    fn great_tokens_count_by_their_magnitude() {
        let shares = Shares(vec![None]);
        let found = shares.of(0, &tokens(&[1, 3, 2], &[100.0, 100.0, 1.0, 1.0, 0.0, 0.0])).unwrap();
        let found = found.as_slice::<f32>().unwrap();
        let ratio = found[1] / found[0];
        assert!((70.0..100.0).contains(&ratio), "{ratio}");
        assert!(found[2].is_finite());
        let none = shares.of(0, &tokens(&[1, 2], &[0.0; 2])).unwrap();
        assert_eq!(*none.as_slice::<f32>().unwrap(), [1.0]);
    }
}
