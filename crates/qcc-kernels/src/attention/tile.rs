//! A few queries over all keys that they see, some side by side.

use super::Span;
use crate::epilogue::exp;
use pulp::{Arch, NullaryFnOnce};

/// Queries side by side.
const SIDE: usize = 4;

/// Floats of a vector.
const LANES: usize = 16;

/// Vectors of features whose sums lie in registers at a time.
const VECTORS: usize = 4;

/// The results of queries `[group][len][size]` over keys and values `[positions][size]`, to
/// `give(query, result)`.
pub(super) fn run(
    size: usize,
    len: usize,
    span: Span,
    [queries, keys, values]: [&[f32]; 3],
    mut give: impl FnMut(usize, &[f32]),
) {
    let arch = Arch::new();
    let mut scores = Vec::new();
    let mut out = vec![0.0; SIDE * size];
    let end = |query: usize| (span.first + query % len + 1).min(span.keys.max(1));
    for (tile, some) in queries.chunks(SIDE * size).enumerate() {
        let first = tile * SIDE;
        let count = some.len() / size;
        let seen = (first..first + count).map(end).max().unwrap_or(0);
        scores.clear();
        scores.resize(SIDE * seen, 0.0);
        let out = &mut out[..some.len()];
        let (scores, ends) = (&mut *scores, |query| end(first + query));
        let tile = Tile { size, seen, queries: some, keys, values, scores, out: &mut *out };
        match count {
            1 => arch.dispatch(One::<1>(tile, &ends)),
            2 => arch.dispatch(One::<2>(tile, &ends)),
            3 => arch.dispatch(One::<3>(tile, &ends)),
            _ => arch.dispatch(One::<SIDE>(tile, &ends)),
        }
        for (i, result) in out.chunks_exact(size).enumerate() {
            give(first + i, result);
        }
    }
}

/// `e^(x - max) / sum` in the place of `x`.
pub(super) fn softmax(scores: &mut [f32]) {
    Arch::new().dispatch(Softmax(scores));
}

struct Tile<'a> {
    size: usize,
    /// Keys that any of the queries sees.
    seen: usize,
    /// `[side][size]`.
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// `[side][seen]`.
    scores: &'a mut [f32],
    /// `[side][size]`.
    out: &'a mut [f32],
}

/// A tile of `R` queries, and how many keys each of them sees.
struct One<'a, const R: usize>(Tile<'a>, &'a dyn Fn(usize) -> usize);

type Lanes = [f32; LANES];

#[inline(always)]
fn add(sums: &mut Lanes, a: &Lanes, b: &Lanes) {
    for i in 0..LANES {
        sums[i] = a[i].mul_add(b[i], sums[i]);
    }
}

/// The sum of all lanes.
#[inline(always)]
fn sum(mut lanes: Lanes) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

impl<const R: usize> NullaryFnOnce for One<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(Tile { size, seen, queries, keys, values, scores, out }, end) = self;
        let queries: [&[f32]; R] = std::array::from_fn(|r| &queries[r * size..(r + 1) * size]);
        let whole: [&[Lanes]; R] = queries.map(|it| it.as_chunks().0);
        let rest: [&[f32]; R] = queries.map(|it| it.as_chunks::<LANES>().1);
        for (at, key) in keys.chunks_exact(size).take(seen).enumerate() {
            let (vectors, tail) = key.as_chunks::<LANES>();
            let mut sums = [[0.0; LANES]; R];
            for (i, key) in vectors.iter().enumerate() {
                for r in 0..R {
                    add(&mut sums[r], &whole[r][i], key);
                }
            }
            for r in 0..R {
                let mut score = sum(sums[r]);
                for (q, k) in rest[r].iter().zip(tail) {
                    score = q.mul_add(*k, score);
                }
                scores[r * seen + at] = score;
            }
        }
        for r in 0..R {
            let (near, far) = scores[r * seen..(r + 1) * seen].split_at_mut(end(r));
            Softmax(near).call();
            far.fill(0.0);
        }
        let mut first = 0;
        while first + VECTORS * LANES <= size {
            weigh::<R, VECTORS>(seen, size, first, scores, values, out);
            first += VECTORS * LANES;
        }
        while first + LANES <= size {
            weigh::<R, 1>(seen, size, first, scores, values, out);
            first += LANES;
        }
        for column in first..size {
            for r in 0..R {
                let mut sum = 0.0f32;
                for at in 0..seen {
                    sum = scores[r * seen + at].mul_add(values[at * size + column], sum);
                }
                out[r * size + column] = sum;
            }
        }
    }
}

/// Columns of the result from `first` on, `V` vectors of them.
#[inline(always)]
fn weigh<const R: usize, const V: usize>(
    seen: usize,
    size: usize,
    first: usize,
    scores: &[f32],
    values: &[f32],
    out: &mut [f32],
) {
    let scores: [&[f32]; R] = std::array::from_fn(|r| &scores[r * seen..(r + 1) * seen]);
    let mut sums = [[[0.0; LANES]; V]; R];
    for at in 0..seen {
        let value = &values[at * size + first..][..V * LANES];
        let (value, _) = value.as_chunks::<LANES>();
        for r in 0..R {
            let score = [scores[r][at]; LANES];
            for v in 0..V {
                add(&mut sums[r][v], &score, &value[v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            out[r * size + first + v * LANES..][..LANES].copy_from_slice(&sums[r][v]);
        }
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (vectors, rest) = self.0.as_chunks_mut::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        for vector in &*vectors {
            for i in 0..LANES {
                most[i] = if vector[i] > most[i] { vector[i] } else { most[i] };
            }
        }
        let most =
            most.iter().chain(&*rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let mut sums = [0.0; LANES];
        for vector in &mut *vectors {
            for i in 0..LANES {
                vector[i] = exp(vector[i] - most);
                sums[i] += vector[i];
            }
        }
        let mut total = sum(sums);
        for x in &mut *rest {
            *x = exp(*x - most);
            total += *x;
        }
        let factor = 1.0 / total;
        for vector in vectors {
            for x in vector {
                *x *= factor;
            }
        }
        for x in rest {
            *x *= factor;
        }
    }
}
