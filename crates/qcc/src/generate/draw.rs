//! One token from logits.

use rayon::prelude::*;

/// Logits this far below the largest count as nothing: together they would be less than 1e-3 of a
/// vocabulary of 200,000.
const FAR: f32 = 20.0;

/// Draws one token from each row of `logits`, `[rows, width]`, by the numbers `at`, in `[0, 1)`:
/// the first token at which the sum of probabilities exceeds the number. Only the first `limit`
/// tokens are drawn. `None` when the logits of a row are not numbers.
pub(crate) fn draw(logits: &[f32], width: usize, limit: usize, at: &[f64]) -> Option<Vec<i64>> {
    let rows: Vec<&[f32]> = logits.chunks_exact(width.max(1)).collect();
    if rows.len() != at.len() || limit == 0 || limit > width {
        return None;
    }
    let one = |(row, at): (&&[f32], &f64)| row.get(..limit).and_then(|it| draw_one(it, *at));
    rows.par_iter().zip(at).map(one).collect()
}

pub(super) fn draw_one(logits: &[f32], at: f64) -> Option<i64> {
    let mut top = f32::NEG_INFINITY;
    for &it in logits {
        if it.is_nan() {
            return None;
        }
        top = top.max(it);
    }
    if !top.is_finite() {
        return None;
    }
    let weight = |it: f32| match it - top {
        far if far < -FAR => 0.0,
        near => f64::from(libm::expf(near)),
    };
    let mut weights = Vec::with_capacity(logits.len());
    let mut sum = 0.0;
    for &it in logits {
        sum += weight(it);
        weights.push(sum);
    }
    let token = weights.partition_point(|&it| it <= at * sum);
    // Rounding may leave the last sum at the number drawn.
    let last = weights.partition_point(|&it| it < sum);
    i64::try_from(token.min(last)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        let logits = [0.0f32, 3f32.ln(), f32::NEG_INFINITY, 4f32.ln()];
        let drawn = |at: f64| draw(&logits, 4, 4, &[at]).unwrap()[0];
        assert_eq!([0.0, 0.12, 0.13, 0.49, 0.51, 0.999_999].map(drawn), [0, 0, 1, 1, 3, 3]);
        assert_eq!(draw(&logits, 4, 2, &[0.999]), Some(vec![1]));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        assert_eq!(draw(&[0.0, f32::NAN], 2, 2, &[0.5]), None);
        assert_eq!(draw(&[0.0, f32::INFINITY], 2, 2, &[0.5]), None);
        assert_eq!(draw(&[f32::NEG_INFINITY; 2], 2, 2, &[0.5]), None);
        assert_eq!(draw(&[0.0; 2], 2, 3, &[0.5]), None);
        assert_eq!(draw(&[0.0; 2], 2, 2, &[0.5, 0.5]), None);
        assert_eq!(draw(&[0.0; 2], 2, 2, &[1.0]), Some(vec![1]));
    }
}
