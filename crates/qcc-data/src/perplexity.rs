//! Perplexity, and how much two language models agree.
//!
//! Every row is a sequence of its own. Positions `1 .. length` are scored given those before them,
//! so the logits of positions `0 .. length - 1` count, each against the id that follows.
//! `perplexity = exp(sum of negative log likelihoods / count)`;
//! `KL(p || q) = sum over i of p[i] (ln p[i] - ln q[i])` in nats, the mean over positions.
//! Logits are f32, all else is f64; positions are worked on in parallel and summed in order, so the
//! result does not depend on the number of threads.

use qcc_tensor::Tensor;
use rayon::prelude::*;

use crate::DataError;

/// Perplexity over the rows added so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perplexity {
    nll: f64,
    count: u64,
    per_row: Vec<f64>,
}

impl Perplexity {
    /// Nothing scored yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scores one run: logits `[batch, length, vocabulary]` against the ids, `[batch, length]` or
    /// `[length]`.
    ///
    /// # Errors
    /// QCC0404 for other shapes and types, rows of fewer than two tokens, and ids outside of the
    /// vocabulary.
    pub fn add(&mut self, logits: &Tensor, ids: &Tensor) -> Result<(), DataError> {
        let [batch, length, vocab] = shape(logits)?;
        let of_ids = ids.to_i64().map_err(DataError::not_scored)?;
        if of_ids.len() != batch * length || ids.dims().last() != Some(&length) {
            let (logits, ids) = (logits.dims(), ids.dims());
            let text = format!("logits {logits:?} do not belong to ids {ids:?}");
            return Err(DataError::not_scored(text));
        }
        let next = |at: usize| usize::try_from(of_ids[at + 1]).ok().filter(|&it| it < vocab);
        let places = places(batch, length);
        if let Some(&at) = places.iter().find(|&&at| next(at).is_none()) {
            let text = format!("id {} is outside of {vocab} logits", of_ids[at + 1]);
            return Err(DataError::not_scored(text));
        }
        let values = logits.to_f32().map_err(DataError::not_scored)?;
        let nll: Vec<f64> = places
            .par_iter()
            .map(|&at| {
                let row = &values[at * vocab..][..vocab];
                let top = max(row);
                let sum: f64 = row.iter().map(|&it| (f64::from(it) - top).exp()).sum();
                next(at).map_or(f64::NAN, |id| sum.ln() - (f64::from(row[id]) - top))
            })
            .collect();
        for row in nll.chunks_exact(length - 1) {
            let sum: f64 = row.iter().sum();
            self.nll += sum;
            self.count += row.len() as u64;
            self.per_row.push(sum / row.len() as f64);
        }
        Ok(())
    }

    /// `exp` of the mean negative log likelihood; NaN before anything is added.
    pub fn value(&self) -> f64 {
        (self.nll / self.count as f64).exp()
    }

    /// Positions scored.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean negative log likelihood of each row in nats, in the order added.
    pub fn nll_per_row(&self) -> &[f64] {
        &self.per_row
    }
}

/// How far the predictions of a model are from those of a reference, over the rows added so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    kl: f64,
    same: u64,
    count: u64,
}

impl Agreement {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compares the logits of one run, both `[batch, length, vocabulary]`.
    ///
    /// # Errors
    /// QCC0404 for other shapes and types, and rows of fewer than two tokens.
    pub fn add(&mut self, reference: &Tensor, model: &Tensor) -> Result<(), DataError> {
        let [batch, length, vocab] = shape(reference)?;
        if reference.dims() != model.dims() {
            let (want, got) = (reference.dims(), model.dims());
            let text = format!("the reference gives logits {want:?}, and the model {got:?}");
            return Err(DataError::not_scored(text));
        }
        let p = reference.to_f32().map_err(DataError::not_scored)?;
        let q = model.to_f32().map_err(DataError::not_scored)?;
        let found: Vec<(f64, bool)> = places(batch, length)
            .par_iter()
            .map(|&at| {
                let (p, q) = (&p[at * vocab..][..vocab], &q[at * vocab..][..vocab]);
                (divergence(p, q), first_max(p) == first_max(q))
            })
            .collect();
        self.count += found.len() as u64;
        self.same += found.iter().filter(|it| it.1).count() as u64;
        self.kl += found.iter().map(|it| it.0).sum::<f64>();
        Ok(())
    }

    /// Mean of `KL(reference || model)` in nats; NaN before anything is added.
    pub fn kl(&self) -> f64 {
        self.kl / self.count as f64
    }

    /// Share of positions at which both put the same token first.
    pub fn top1(&self) -> f64 {
        self.same as f64 / self.count as f64
    }

    /// Positions compared.
    pub fn count(&self) -> u64 {
        self.count
    }
}

fn shape(logits: &Tensor) -> Result<[usize; 3], DataError> {
    match *logits.dims() {
        [batch, length, vocab] if length >= 2 && vocab > 0 && logits.dtype().is_float() => {
            Ok([batch, length, vocab])
        }
        _ => {
            let (dtype, dims) = (logits.dtype(), logits.dims());
            Err(DataError::not_scored(format!(
                "logits are [batch, length of at least 2, vocabulary], not {dtype}{dims:?}"
            ))
            .help("compare outputs with those of the float model: --ref float.onnx"))
        }
    }
}

/// Positions whose logits count, of all rows in order.
fn places(batch: usize, length: usize) -> Vec<usize> {
    (0..batch).flat_map(|row| (0..length - 1).map(move |at| row * length + at)).collect()
}

fn max(row: &[f32]) -> f64 {
    f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

fn first_max(row: &[f32]) -> usize {
    let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    (0..row.len()).fold(0, better)
}

/// `KL(softmax(p) || softmax(q))`, with the logarithms of the sums taken out of the loop.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_top, q_top) = (max(p), max(q));
    let (mut p_sum, mut q_sum, mut inner) = (0f64, 0f64, 0f64);
    for (&p, &q) in p.iter().zip(q) {
        let (p, q) = (f64::from(p) - p_top, f64::from(q) - q_top);
        let weight = p.exp();
        p_sum += weight;
        q_sum += q.exp();
        // A token of no probability counts nothing, even where both logarithms are infinite.
        if weight > 0.0 || weight.is_nan() {
            inner += weight * (p - q);
        }
    }
    inner / p_sum - p_sum.ln() + q_sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use qcc_pass::Rng;

    fn logits(dims: [usize; 3], probabilities: &[f64]) -> Tensor {
        let values = probabilities.iter().map(|it| it.ln() as f32 + 3.0).collect();
        Tensor::from_vec::<f32>(dims.to_vec(), values).unwrap()
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-6, "{got}, not {want}");
    }

    #[test]
    fn perplexity_by_hand() {
        // The last position predicts nothing. Ids 1, 0 have probabilities 1/2, 1/8.
        let row = [0.25, 0.5, 0.25, 0.125, 0.125, 0.75, 0.9, 0.05, 0.05];
        let mut it = Perplexity::new();
        it.add(&logits([1, 3, 3], &row), &Tensor::vector(vec![2i64, 1, 0])).unwrap();
        near(it.value(), 4.0);
        // A second row on which both have probability 3/4 and 1/4.
        let more = [0.25, 0.75, 0.0, 0.25, 0.5, 0.25, 1.0, 0.0, 0.0];
        let ids = Tensor::from_vec(vec![1, 3], vec![0i32, 1, 2]).unwrap();
        it.add(&logits([1, 3, 3], &more), &ids).unwrap();
        near(it.value(), (2.0f64 * 8.0 * (4.0 / 3.0) * 4.0).powf(0.25));
        near(it.nll_per_row()[0], 4f64.ln());
        near(it.nll_per_row()[1], (16.0f64 / 3.0).ln() / 2.0);
        assert_eq!(it.count(), 4);
    }

    #[test]
    fn agreement_by_hand() {
        let p = logits([1, 3, 2], &[0.5, 0.5, 0.75, 0.25, 0.1, 0.9]);
        let q = logits([1, 3, 2], &[0.25, 0.75, 0.5, 0.5, 0.9, 0.1]);
        let mut it = Agreement::new();
        it.add(&p, &q).unwrap();
        let first = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        let second = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        near(it.kl(), (first + second) / 2.0);
        // Ties go to the first token: at both positions p has token 0 first; q has 1, then 0.
        near(it.top1(), 0.5);
        let mut same = Agreement::new();
        same.add(&p, &p).unwrap();
        assert!(same.kl().abs() < 1e-15 && same.top1() == 1.0);
    }

    #[test]
    fn impossible_tokens() {
        let (p, q) = ([0.0, f32::NEG_INFINITY], [1.0, f32::NEG_INFINITY]);
        assert_eq!(divergence(&p, &q), 0.0);
        assert_eq!(divergence(&[0.0, 0.0], &q), f64::INFINITY);
        assert!(divergence(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
    }

    #[test]
    fn shapes_and_ids_are_checked() {
        let mut it = Perplexity::new();
        let good = logits([1, 2, 2], &[0.5; 4]);
        let fails = |it: &mut Perplexity, logits: &Tensor, ids: Vec<i64>| {
            let error = it.add(logits, &Tensor::vector(ids)).unwrap_err();
            assert_eq!(error.0.code.name(), "QCC0404");
        };
        fails(&mut it, &good, vec![0, 2]);
        fails(&mut it, &good, vec![0, -1]);
        fails(&mut it, &good, vec![0]);
        fails(&mut it, &logits([1, 1, 2], &[0.5; 2]), vec![0]);
        fails(&mut it, &Tensor::vector(vec![1f32]), vec![0]);
        assert_eq!(it, Perplexity::new());
        assert!(it.value().is_nan());
        assert!(Agreement::new().add(&good, &logits([1, 2, 1], &[0.5; 2])).is_err());
    }

    #[test]
    fn one_batch_is_as_good_as_its_rows() {
        let mut rng = Rng::new(1, "logits");
        let halves: Vec<f16> = (0..2 * 5 * 7).map(|_| f16::from_f32(rng.normal() * 4.0)).collect();
        let part = |range: std::ops::Range<usize>, batch| {
            Tensor::from_vec(vec![batch, 5, 7], halves[range].to_vec()).unwrap()
        };
        let ids =
            |batch, values: &[i64]| Tensor::from_vec(vec![batch, 5], values.to_vec()).unwrap();
        let all = [0, 1, 2, 3, 4, 6, 5, 4, 3, 2];
        let (mut whole, mut parts) = (Perplexity::new(), Perplexity::new());
        whole.add(&part(0..70, 2), &ids(2, &all)).unwrap();
        parts.add(&part(0..35, 1), &ids(1, &all[..5])).unwrap();
        parts.add(&part(35..70, 1), &ids(1, &all[5..])).unwrap();
        assert_eq!(whole, parts);
    }
}
