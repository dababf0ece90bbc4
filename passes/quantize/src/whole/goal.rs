//! What an output should be, and how far it is from that.

use qcc_ir::Value;
use qcc_pass::{PassError, Rng};
use qcc_tensor::Tensor;
use rayon::prelude::*;

/// What an output is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Logits: distributions over the last axis.
    Logits,
    /// Values that count as such.
    Values,
}

/// An output that is looked at.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) value: Value,
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Goal {
    /// The loss of one output of a sample, and how many of its rows count.
    pub(super) fn loss(
        &self,
        found: &Tensor,
        wanted: &Tensor,
        counted: Option<&Tensor>,
    ) -> Result<(f64, f64), PassError> {
        let width = width(wanted);
        let rows = Rows::of(wanted, counted)?;
        let (x, y) = (found.to_f32()?, wanted.to_f32()?);
        let each = |of: &(dyn Fn(&[f32], &[f32]) -> f64 + Sync)| -> f64 {
            let pairs = x.par_chunks(width).zip(y.par_chunks(width)).enumerate();
            let all: Vec<f64> = pairs
                .map(|(row, (x, y))| {
                    let share = rows.share(row);
                    if share > 0.0 { share * of(x, y) } else { 0.0 }
                })
                .collect();
            all.iter().sum()
        };
        let loss = match self.kind {
            Kind::Logits => each(&kl) / rows.total.max(1.0),
            Kind::Values => each(&squares) / each(&|_, y| energy(y)).max(f64::MIN_POSITIVE),
        };
        Ok((loss, rows.total))
    }

    /// What the output is pulled to, and how much each of its rows counts: the adjoint of the output
    /// is that times the difference. With `rng`, to a draw. `goals` is the number of outputs whose
    /// mean the loss is.
    pub(super) fn pull(
        &self,
        wanted: &Tensor,
        counted: Option<&Tensor>,
        rng: Option<&mut Rng>,
        goals: usize,
    ) -> Result<(Tensor, Tensor), PassError> {
        let width = width(wanted);
        let rows = Rows::of(wanted, counted)?;
        let y = wanted.to_f32()?;
        // The loss is the sum over the rows of `weight KL`, or of `weight |y - y'|^2 / 2`.
        let weight = match self.kind {
            Kind::Logits => 1.0 / rows.total.max(1.0),
            Kind::Values => {
                let each = y.chunks(width).enumerate();
                let norm: f64 = each.map(|(row, y)| rows.share(row) * energy(y)).sum();
                2.0 / norm.max(f64::MIN_POSITIVE)
            }
        } / goals.max(1) as f64;
        // A draw for each row has the curvature of the row when it is pulled by the root.
        let factor = if rng.is_some() { weight.sqrt() } else { weight };
        let mut goal: Vec<f32> = match self.kind {
            Kind::Logits => {
                let mut out = vec![0.0; y.len()];
                let pairs = out.par_chunks_mut(width).zip(y.par_chunks(width));
                pairs.for_each(|(out, y)| softmax(y, out));
                out
            }
            Kind::Values => y.as_ref().into(),
        };
        if let Some(rng) = rng {
            for row in goal.chunks_mut(width) {
                match self.kind {
                    Kind::Logits => draw(row, rng.f64()),
                    Kind::Values => row
                        .iter_mut()
                        .for_each(|it| *it += if rng.f32() < 0.5 { -1.0 } else { 1.0 }),
                }
            }
        }
        let mut dims: Vec<usize> = wanted.dims().into();
        let shares: Vec<f32> =
            (0..goal.len() / width).map(|row| (rows.share(row) * factor) as f32).collect();
        let goal = Tensor::from_vec(dims.clone(), goal)?;
        if let Some(last) = dims.last_mut() {
            *last = 1;
        }
        Ok((goal, Tensor::from_vec(dims, shares)?))
    }
}

fn width(tensor: &Tensor) -> usize {
    tensor.dims().last().copied().unwrap_or(1).max(1)
}

/// Which rows of the last axis of an output count.
struct Rows {
    /// 1 for tokens that count, 0 for padding; empty where all do.
    counted: Vec<f32>,
    /// Rows for each of these.
    each: usize,
    /// Number of rows that count.
    total: f64,
}

impl Rows {
    fn of(output: &Tensor, counted: Option<&Tensor>) -> Result<Self, PassError> {
        let rows = output.len() / width(output);
        let counted = counted.filter(|it| output.dims().starts_with(it.dims()) && !it.is_empty());
        let Some(counted) = counted else {
            return Ok(Self { counted: Vec::new(), each: 1, total: rows as f64 });
        };
        let counted = counted.to_f32()?.into_owned();
        let each = (rows / counted.len()).max(1);
        let total = counted.iter().map(|it| f64::from(*it)).sum::<f64>() * each as f64;
        Ok(Self { counted, each, total })
    }

    fn share(&self, row: usize) -> f64 {
        self.counted.get(row / self.each).map_or(1.0, |it| f64::from(*it))
    }
}

fn energy(y: &[f32]) -> f64 {
    y.iter().map(|y| f64::from(*y) * f64::from(*y)).sum()
}

fn squares(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}

/// The largest, and `log(sum(e^(y - largest)))`.
fn log_sum(y: &[f32]) -> (f64, f64) {
    let top = y.iter().fold(f32::NEG_INFINITY, |top, it| top.max(*it));
    let top = f64::from(top);
    (top, y.iter().map(|it| (f64::from(*it) - top).exp()).sum::<f64>().ln())
}

/// `KL(softmax(y) || softmax(x))`.
fn kl(x: &[f32], y: &[f32]) -> f64 {
    let ((top_x, sum_x), (top_y, sum_y)) = (log_sum(x), log_sum(y));
    let each = x.iter().zip(y).map(|(x, y)| {
        let q = f64::from(*x) - top_x - sum_x;
        let p = f64::from(*y) - top_y - sum_y;
        let weight = p.exp();
        if weight > 0.0 { weight * (p - q) } else { 0.0 }
    });
    each.sum()
}

fn softmax(y: &[f32], out: &mut [f32]) {
    let (top, sum) = log_sum(y);
    for (out, y) in out.iter_mut().zip(y) {
        *out = (f64::from(*y) - top - sum).exp() as f32;
    }
}

/// All of a distribution on one of its elements, that at which its sum passes `at`.
fn draw(row: &mut [f32], at: f64) {
    let total: f64 = row.iter().map(|it| f64::from(*it)).sum();
    let mut left = at * total;
    let found = row.iter().position(|it| {
        left -= f64::from(*it);
        left < 0.0
    });
    let last = row.iter().rposition(|it| *it > 0.0).unwrap_or(0);
    row.fill(0.0);
    if let Some(it) = row.get_mut(found.unwrap_or(last)) {
        *it = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distribution() {
        let mut counts = [0; 3];
        for at in 0..1000 {
            let mut row = [0.2f32, 0.0, 0.8];
            draw(&mut row, f64::from(at) / 1000.0);
            let found = row.iter().position(|it| *it == 1.0).unwrap();
            counts[found] += 1;
        }
        assert_eq!(counts, [200, 0, 800]);
        let mut row = [0.5f32, 0.5, 0.0];
        draw(&mut row, 1.0);
        assert_eq!(row, [0.0, 1.0, 0.0]);
    }

    #[test]
    fn kl_is_that_of_the_distributions() {
        let (p, q) = ([0.25f64, 0.75], [0.5f64, 0.5]);
        let want: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let x = q.map(|it| (it.ln() + 3.0) as f32);
        let y = p.map(|it| (it.ln() - 7.0) as f32);
        assert!((kl(&x, &y) - want).abs() < 1e-6);
        assert_eq!(kl(&y, &y), 0.0);
    }
}
