//! Padding masks of ONNX Runtime's attention operators, as numbers added to the scores.
//!
//! Forms, all integers: `[batch]`, the number of keys; `[2 * batch]`, the same and then the first
//! key; `[batch, keys]` and `[batch, queries, keys]`, 0 for a key that is hidden. A hidden key
//! gets `mask_filter_value`, which is finite: a row in which all are hidden still has a softmax.
//! Source: ONNX Runtime contrib_ops/cpu/bert/attention_helper.h.

use qcc_ir::{EvalError, TypeError};
use qcc_tensor::Tensor;

use crate::attention_core::Bias;

/// The mask for scores `[batch, heads, queries, keys]`.
///
/// # Errors
/// When the mask has none of these forms.
pub(crate) fn padding(
    op: &str,
    mask: &Tensor,
    scores: [usize; 4],
    filter: f32,
) -> Result<Bias<'static>, EvalError> {
    let [batch, _, queries, keys] = scores;
    let given = mask.to_i64()?;
    let hidden = |is_hidden: bool| if is_hidden { filter } else { 0.0 };
    let (data, dims): (Vec<f32>, _) = match *mask.dims() {
        [count] if count == batch || count == 2 * batch => {
            let data = (0..batch).flat_map(|row| {
                let first = if count == batch { 0 } else { given[batch + row] };
                let end = given[row];
                (0..keys as i64).map(move |key| hidden(key < first || key >= end))
            });
            (data.collect(), [batch, 1, 1, keys])
        }
        [b, k] if (b, k) == (batch, keys) => {
            (given.iter().map(|&it| hidden(it <= 0)).collect(), [batch, 1, 1, keys])
        }
        [b, q, k] if (b, q, k) == (batch, queries, keys) => {
            (given.iter().map(|&it| hidden(it <= 0)).collect(), [batch, 1, queries, keys])
        }
        ref other => {
            let what = format!("mask {other:?} does not fit scores {scores:?}");
            return Err(TypeError::other(op, what).into());
        }
    };
    Ok(Bias::new(op, data.into(), &dims, scores)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_forms_are_refused() {
        let mask = |dims: &[usize]| {
            let len = dims.iter().product();
            padding(
                "X",
                &Tensor::from_vec(dims.to_vec(), vec![1i32; len]).unwrap(),
                [2, 3, 4, 5],
                -1.0,
            )
        };
        for dims in [&[2][..], &[4], &[2, 5], &[2, 4, 5]] {
            assert!(mask(dims).is_ok());
        }
        for dims in [&[8][..], &[2, 4], &[2, 1, 5, 5], &[]] {
            assert!(mask(dims).is_err());
        }
        assert!(padding("X", &Tensor::scalar(1f32), [1, 1, 1, 1], 0.0).is_err());
    }
}
