//! Many new tokens: products of a block of queries with all keys that it sees.

use super::{Attention, AttentionShape, end, tile};
use crate::Threads;
use crate::shared::Shared;
use gemm::Parallelism;

/// New tokens of a block of queries.
const BLOCK: usize = 32;

/// The results of turned queries over a cache that has the new keys and values.
pub(super) fn run(
    attention: &Attention<'_>,
    threads: &dyn Threads,
    [keys, values, turned, y]: [Shared; 4],
) {
    let AttentionShape { heads, kv_heads, size, len, present } = attention.shape;
    let (rows, group) = (attention.spans.len(), heads / kv_heads);
    let blocks = len.div_ceil(BLOCK);
    threads.run(rows * heads * blocks, &|range| {
        let mut scores = Vec::new();
        for i in range {
            // Later blocks see more keys: they come first.
            let block = blocks - 1 - i / (rows * heads);
            let (row, head) = (i % (rows * heads) / heads, i % heads);
            let tokens = block * BLOCK..len.min((block + 1) * BLOCK);
            let (of_cache, at) = (row * kv_heads + head / group, row * heads + head);
            // SAFETY: nobody writes the cache and the queries any more.
            #[allow(unsafe_code)]
            let (keys, values, queries) = unsafe {
                let of = |it: &Shared, i: usize, len: usize| it.read(i * len..(i + 1) * len);
                (
                    of(&keys, of_cache, present * size),
                    of(&values, of_cache, present * size),
                    of(&turned, at, len * size),
                )
            };
            let queries = &queries[tokens.start * size..tokens.end * size];
            let y = y.at(((row * len + tokens.start) * heads + head) * size);
            let end = |token: usize| end(attention.spans[row], tokens.start + token);
            let (count, seen) = (tokens.len(), end(tokens.len() - 1));
            scores.resize(count * seen, 0.0);
            // SAFETY: `queries` has `count` rows of `size`, `keys` has `seen` rows and more.
            #[allow(unsafe_code)]
            unsafe {
                let (to, strides) = (scores.as_mut_ptr(), [size, 1, 1, size]);
                multiply([count, seen, size], (to, seen), queries, keys, strides);
            }
            for (token, scores) in scores.chunks_exact_mut(seen).enumerate() {
                let (near, far) = scores.split_at_mut(end(token));
                tile::softmax(near);
                far.fill(0.0);
            }
            // SAFETY: as above; the result of one head for the tokens of a block lies in `y` in
            // rows of all heads, and only this job has it.
            #[allow(unsafe_code)]
            unsafe {
                let strides = [seen, 1, size, 1];
                multiply([count, size, seen], (y, heads * size), &scores, values, strides);
            }
        }
    });
}

/// `to[m][n] = a[m][k] b[k][n]`, rows of `to` as far apart as it says. Strides are those of rows
/// and columns of a, and of rows and columns of b.
///
/// # Safety
/// All elements lie in what `to` leads to, which nobody else uses, and in `a` and `b`.
#[allow(unsafe_code)]
unsafe fn multiply(
    [m, n, k]: [usize; 3],
    (to, apart): (*mut f32, usize),
    a: &[f32],
    b: &[f32],
    strides: [usize; 4],
) {
    let [a_row, a_col, b_row, b_col] = strides.map(usize::cast_signed);
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // SAFETY: what the caller promises.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            apart.cast_signed(),
            false,
            a,
            a_col,
            a_row,
            b,
            b_col,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
