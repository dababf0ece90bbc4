//! A few queries over all keys that they see, some side by side.

use super::Span;
use crate::epilogue::exp;
use pulp::{Arch, Simd, WithSimd};

/// Queries side by side.
const SIDE: usize = 4;

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
    for (tile, some) in queries.chunks(SIDE * size).enumerate() {
        let first = tile * SIDE;
        let count = some.len() / size;
        let ends = std::array::from_fn(|i| super::end(span, (first + i) % len));
        let seen = ends.iter().take(count).copied().max().unwrap_or(0);
        scores.resize(SIDE * seen, 0.0);
        let (scores, out) = (&mut *scores, &mut out[..some.len()]);
        let tile = Tile { size, seen, ends, queries: some, keys, values, scores, out: &mut *out };
        match count {
            1 => arch.dispatch(One::<1>(tile)),
            2 => arch.dispatch(One::<2>(tile)),
            3 => arch.dispatch(One::<3>(tile)),
            _ => arch.dispatch(One::<SIDE>(tile)),
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
    /// Keys that each of them sees.
    ends: [usize; SIDE],
    /// `[side][size]`.
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// `[side][seen]`.
    scores: &'a mut [f32],
    /// `[side][size]`.
    out: &'a mut [f32],
}

/// A tile of `R` queries.
struct One<'a, const R: usize>(Tile<'a>);

impl<const R: usize> WithSimd for One<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(mut tile) = self;
        tile.score::<S, R>(simd);
        for (scores, &end) in tile.scores.chunks_exact_mut(tile.seen).take(R).zip(&tile.ends) {
            let (near, far) = scores.split_at_mut(end);
            Softmax(near).with_simd(simd);
            far.fill(0.0);
        }
        let (lanes, mut first) = (S::F32_LANES, 0);
        while first + VECTORS * lanes <= tile.size {
            tile.weigh::<S, R, VECTORS>(simd, first);
            first += VECTORS * lanes;
        }
        while first + lanes <= tile.size {
            tile.weigh::<S, R, 1>(simd, first);
            first += lanes;
        }
        for column in first..tile.size {
            tile.weigh_column::<R>(column);
        }
    }
}

impl Tile<'_> {
    /// The products of queries and keys.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&mut self, simd: S) {
        let Self { size, seen, .. } = *self;
        let query = |r: usize| S::as_simd_f32s(&self.queries[r * size..(r + 1) * size]);
        let whole: [&[S::f32s]; R] = std::array::from_fn(|r| query(r).0);
        let rest: [&[f32]; R] = std::array::from_fn(|r| query(r).1);
        for (at, key) in self.keys.chunks_exact(size).take(seen).enumerate() {
            let (vectors, tail) = S::as_simd_f32s(key);
            let mut sums = [simd.splat_f32s(0.0); R];
            for (i, &key) in vectors.iter().enumerate() {
                for r in 0..R {
                    sums[r] = simd.mul_add_f32s(whole[r][i], key, sums[r]);
                }
            }
            for r in 0..R {
                let mut score = simd.reduce_sum_f32s(sums[r]);
                for (q, k) in rest[r].iter().zip(tail) {
                    score = q.mul_add(*k, score);
                }
                self.scores[r * seen + at] = score;
            }
        }
    }

    /// Columns of the results from `first` on, `V` vectors of them.
    #[inline(always)]
    fn weigh<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize) {
        let Self { size, seen, .. } = *self;
        let row = |r: usize| &self.scores[r * seen..(r + 1) * seen];
        let scores: [&[f32]; R] = std::array::from_fn(row);
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (at, value) in self.values.chunks_exact(size).take(seen).enumerate() {
            let (vectors, _) = S::as_simd_f32s(&value[first..first + V * S::F32_LANES]);
            for r in 0..R {
                let score = simd.splat_f32s(scores[r][at]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(score, vectors[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut self.out[r * size + first..][..V * S::F32_LANES];
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        }
    }

    fn weigh_column<const R: usize>(&mut self, column: usize) {
        let Self { size, seen, .. } = *self;
        for r in 0..R {
            let scores = &self.scores[r * seen..(r + 1) * seen];
            let values = self.values.chunks_exact(size).map(|it| it[column]);
            let sum =
                scores.iter().zip(values).fold(0.0, |sum, (a, b): (&f32, f32)| a.mul_add(b, sum));
            self.out[r * size + column] = sum;
        }
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let most = vectors
            .iter()
            .fold(simd.splat_f32s(f32::NEG_INFINITY), |most, &it| simd.max_f32s(most, it));
        let most = rest
            .iter()
            .fold(simd.reduce_max_f32s(most), |most, &it| if it > most { it } else { most });
        for x in &mut *self.0 {
            *x = exp(*x - most);
        }
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let sum = vectors.iter().fold(simd.splat_f32s(0.0), |sum, &it| simd.add_f32s(sum, it));
        let factor = 1.0 / (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>());
        for x in self.0 {
            *x *= factor;
        }
    }
}
