//! `y = x * W` for one row `x`: the product of a decoded token.
//!
//! It reads `W` once and is bound by memory, so it is cut into columns for all threads. A sum over
//! `k` adds up partial sums of [`DEPTH`] terms in order.

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::vector::{PARALLEL_LEN, dispatch};

/// Columns of a task: its sums stay in the first cache.
const WIDTH: usize = 512;
/// Terms that are added before they are added to the sum.
const DEPTH: usize = 256;
/// Rows of `w` that are read together, so that sums are loaded and stored once for all of them.
const ROWS: usize = 4;

/// `out[j] = sum over i of x[i] * w[i * n + j]`.
///
/// # Panics
/// If `w` has fewer than `x.len() * n` elements, or `out` has not `n`.
pub(crate) fn gemv(x: &[f32], w: &[f32], n: usize, out: &mut [f32]) {
    assert!(out.len() == n && w.len() >= x.len() * n, "shapes of a product");
    let task = |(idx, out): (usize, &mut [f32])| {
        dispatch(Columns { x, w, n, first: idx * WIDTH, out });
    };
    if w.len() >= PARALLEL_LEN {
        out.par_chunks_mut(WIDTH).enumerate().for_each(task);
    } else {
        out.chunks_mut(WIDTH).enumerate().for_each(task);
    }
}

/// `out[j] = sum over i of x[i] * w[j * k + i]`, where `k` is the length of `x`: a product with a
/// turned matrix, as that of a tied head.
///
/// # Panics
/// If `w` has fewer than `out.len() * x.len()` elements.
pub(crate) fn gemv_turned(x: &[f32], w: &[f32], out: &mut [f32]) {
    assert!(w.len() >= out.len() * x.len(), "shapes of a product");
    let task = |(idx, out): (usize, &mut [f32])| {
        dispatch(Dots { x, w: &w[idx * WIDTH * x.len()..], out });
    };
    if w.len() >= PARALLEL_LEN {
        out.par_chunks_mut(WIDTH).enumerate().for_each(task);
    } else {
        out.chunks_mut(WIDTH).enumerate().for_each(task);
    }
}

/// As [`gemv`], on this thread, for matrices of few columns.
///
/// # Panics
/// If `w` has fewer than `x.len() * out.len()` elements.
pub(crate) fn gemv_here(x: &[f32], w: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(w.len() >= x.len() * n, "shapes of a product");
    for (idx, out) in out.chunks_mut(WIDTH).enumerate() {
        dispatch(Columns { x, w, n, first: idx * WIDTH, out });
    }
}

/// As [`gemv_turned`], on this thread.
///
/// # Panics
/// If `w` has fewer than `out.len() * x.len()` elements.
pub(crate) fn gemv_turned_here(x: &[f32], w: &[f32], out: &mut [f32]) {
    assert!(w.len() >= out.len() * x.len(), "shapes of a product");
    dispatch(Dots { x, w, out });
}

/// Partial sums of a dot product.
const LANES: usize = 32;

struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, w, out } = self;
        let (heads, tail) = x.as_chunks::<LANES>();
        for (out, w) in out.iter_mut().zip(w.chunks_exact(x.len().max(1))) {
            let (rows, rest) = w.as_chunks::<LANES>();
            let mut sums = [0f32; LANES];
            for (x, w) in heads.iter().zip(rows) {
                for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
                    *sum += x * w;
                }
            }
            for step in [16, 8, 4, 2, 1] {
                for lane in 0..step {
                    sums[lane] += sums[lane + step];
                }
            }
            *out = sums[0] + tail.iter().zip(rest).map(|(x, w)| x * w).sum::<f32>();
        }
    }
}

struct Columns<'a> {
    x: &'a [f32],
    w: &'a [f32],
    n: usize,
    first: usize,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, w, n, first, out } = self;
        let width = out.len();
        let row = |i: usize| &w[i * n + first..][..width];
        out.fill(0.0);
        let mut sums = [0f32; WIDTH];
        let sums = &mut sums[..width];
        for (block, x) in x.chunks(DEPTH).enumerate() {
            sums.fill(0.0);
            let (quads, rest) = x.as_chunks::<ROWS>();
            for (quad, x) in quads.iter().enumerate() {
                let i = block * DEPTH + quad * ROWS;
                let [a, b, c, d] = [row(i), row(i + 1), row(i + 2), row(i + 3)];
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum += (x[0] * a[j] + x[1] * b[j]) + (x[2] * c[j] + x[3] * d[j]);
                }
            }
            for (idx, &x) in rest.iter().enumerate() {
                let w = row(block * DEPTH + quads.len() * ROWS + idx);
                for (sum, &w) in sums.iter_mut().zip(w) {
                    *sum += x * w;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&*sums) {
                *out += sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_matrix_gives_the_same() {
        for (k, n) in [(1, 1), (31, 3), (32, 700), (100, 1), (130, 1100)] {
            let number = |it: usize| ((it * 37 + 11) % 64) as f32 / 8.0 - 4.0;
            let x: Vec<f32> = (0..k).map(number).collect();
            let w: Vec<f32> = (0..k * n).map(number).collect();
            let turned: Vec<f32> = (0..n * k).map(|it| w[it % k * n + it / k]).collect();
            let (mut a, mut b) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            gemv(&x, &w, n, &mut a);
            gemv_turned(&x, &turned, &mut b);
            // All terms are multiples of 1/64 and small: sums are exact.
            assert_eq!(a, b);
        }
    }
}
