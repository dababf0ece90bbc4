//! The cache of keys and values: what is new goes behind the past, in the same memory where it can.

use qcc_ir::{EvalCx, EvalError};
use qcc_tensor::Tensor;

use super::{GroupQueryAttention, NAME, Sizes};
use crate::attention_core::Heads;
use crate::dims::len_of;

/// Where the operands of the past stand.
pub(super) const PAST: [usize; 2] = [3, 4];

/// Keys or values of earlier tokens.
pub(super) enum Past<'a> {
    Read(&'a Tensor),
    /// Nobody else reads them: new ones may be written beside them.
    Taken(Tensor),
}

impl Past<'_> {
    pub(super) fn tensor(&self) -> &Tensor {
        match self {
            Self::Read(it) => it,
            Self::Taken(it) => it,
        }
    }
}

impl GroupQueryAttention {
    /// `[batch, kv heads, present, size]`: the past, then what is new. A past that has room for it
    /// and that nobody else holds is written over.
    pub(super) fn present(
        &self,
        cx: &EvalCx,
        at: &Sizes,
        spans: &[(usize, usize)],
        past: Option<Past<'_>>,
        new: Heads<'_>,
        mut change: impl FnMut(usize, usize, &mut [f32]),
    ) -> Result<Vec<f32>, EvalError> {
        let Sizes { batch, len, size, present, .. } = *at;
        // Rows of a prompt that start anew leave nothing of the past behind them.
        let has_room = present == at.past && spans.iter().all(|it| it.0 > 0);
        let (past, mut kept) = match past {
            Some(Past::Taken(it)) if has_room => match it.into_buffer() {
                Ok(buffer) => (None, Some(buffer)),
                Err(it) => (Some(Past::Taken(it)), None),
            },
            other => (other, None),
        };
        let is_kept = kept.is_some();
        let mut out = match kept.take() {
            Some(it) => it,
            None => cx.pool.take(len_of(NAME, &[batch, self.kv_num_heads, present, size])?)?,
        };
        if present * size == 0 {
            return Ok(out);
        }
        let past = past.as_ref().map(|it| it.tensor().to_f32()).transpose()?;
        for (i, out) in out.chunks_exact_mut(present * size).enumerate() {
            let (row, head) = (i / self.kv_num_heads, i % self.kv_num_heads);
            let first = spans[row].0;
            let from = match &past {
                Some(past) => {
                    let from = first.min(at.past) * size;
                    out[..from].copy_from_slice(&past[i * at.past * size..][..from]);
                    from
                }
                None => 0,
            };
            if !is_kept {
                out[from..].fill(0.0);
            }
            for pos in 0..len {
                let out = &mut out[(first + pos) * size..][..size];
                out.copy_from_slice(new.vector(row, head, pos));
                change(row, pos, out);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::op;
    use super::*;

    /// Queries, keys and values of `len` tokens: 2 heads and 1, of 2 features.
    fn tokens(first: usize, len: usize) -> Tensor {
        let values = (first * 8..(first + len) * 8).map(|it| ((it * 7) % 11) as f32 / 4.0);
        Tensor::from_vec(vec![1, len, 8], values.collect()).unwrap()
    }

    fn run(cx: &EvalCx, x: &Tensor, total: usize, past: [Tensor; 2], gives: bool) -> Vec<Tensor> {
        let number = |it: usize| Tensor::vector(vec![it as i32]);
        let (last, total) = (number(total - 1), number(total));
        let mut inputs = [Some(x), None, None, None, None, Some(&last), Some(&total)];
        if gives {
            let [key, value] = past;
            return op(&[]).eval_taking(cx, &inputs, vec![(3, key), (4, value)], 3).unwrap();
        }
        (inputs[3], inputs[4]) = (Some(&past[0]), Some(&past[1]));
        op(&[]).eval(cx, &inputs, 3).unwrap()
    }

    #[test]
    fn a_cache_with_room_is_written_over() {
        let cx = EvalCx::default();
        let room = || {
            let mut buffer = cx.pool.take(12).unwrap();
            buffer.fill(0.0);
            cx.pool.tensor(vec![1, 1, 6, 2], buffer).unwrap()
        };
        let keys = room();
        let at = keys.bytes().as_ptr();
        let all = run(&cx, &tokens(0, 5), 5, [keys, room()], true);
        assert_ne!(all[1].bytes().as_ptr(), at, "a prompt starts anew");
        let past = |all: &[Tensor]| [all[1].clone(), all[2].clone()];
        let start = run(&cx, &tokens(0, 4), 4, [room(), room()], false);
        let want = run(&cx, &tokens(4, 1), 5, past(&start), false);
        assert_eq!(want[1..], all[1..]);
        let at = start[1].bytes().as_ptr();
        let held = run(&cx, &tokens(4, 1), 5, past(&start), true);
        assert_ne!(held[1].bytes().as_ptr(), at, "somebody else holds it");
        let [key, value] = past(&start);
        drop(start);
        let step = run(&cx, &tokens(4, 1), 5, [key, value], true);
        assert_eq!(step[1].bytes().as_ptr(), at);
        assert_eq!(step, want);
        assert_eq!(step, held);
    }
}
