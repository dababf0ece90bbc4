//! `y = x * W` for one row `x`: the product of a decoded token.
//!
//! It reads `W` once and is bound by memory, so it is cut into columns for all threads. A sum over
//! `k` adds up partial sums of [`DEPTH`] terms in order.

use pulp::NullaryFnOnce;
use qcc_quant::simd::{LANES, Vector, VectorKernel, dispatch_vectors};
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
        dispatch_vectors(Dots { x, w: &w[idx * WIDTH * x.len()..], out });
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
    assert!(w.len() >= x.len() * out.len(), "shapes of a product");
    dispatch_vectors(FewColumns { x, w, out });
}

/// As [`gemv_turned`], on this thread.
///
/// # Panics
/// If `w` has fewer than `out.len() * x.len()` elements.
pub(crate) fn gemv_turned_here(x: &[f32], w: &[f32], out: &mut [f32]) {
    assert!(w.len() >= out.len() * x.len(), "shapes of a product");
    dispatch_vectors(Dots { x, w, out });
}

/// Dot products of `x` with rows. Lane `i` of a sum has the terms `i`, `i + LANES` and so on; then
/// the upper half of the lanes is added to the lower, until one is left.
struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    out: &'a mut [f32],
}

impl VectorKernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, w, out } = self;
        let k = x.len();
        if k == 0 {
            return out.fill(0.0);
        }
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            let w = &w[block * LANES * k..][..out.len() * k];
            let mut sums = [V::splat(0.0); LANES];
            let mut quads = w.chunks_exact(ROWS * k);
            for (w, sums) in quads.by_ref().zip(sums.as_chunks_mut::<ROWS>().0) {
                let (a, w) = w.split_at(k);
                let (b, w) = w.split_at(k);
                let (c, d) = w.split_at(k);
                dots(x, [a, b, c, d], sums);
            }
            let done = out.len() / ROWS * ROWS;
            for (row, sum) in quads.remainder().chunks_exact(k).zip(&mut sums[done..]) {
                dots(x, [row], std::array::from_mut(sum));
            }
            let mut lanes = V::transpose(sums);
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] = lanes[i].add(lanes[i + half]);
                }
            }
            out.copy_from_slice(&lanes[0].lanes()[..out.len()]);
        }
    }
}

/// Adds the products of `x` and of each row to the lanes of its sum.
#[inline(always)]
fn dots<V: Vector, const N: usize>(x: &[f32], rows: [&[f32]; N], sums: &mut [V; N]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let rows = rows.map(|it| it.as_chunks::<LANES>());
    for (i, x) in chunks.iter().enumerate() {
        let x = V::load(x);
        for (sum, (row, _)) in sums.iter_mut().zip(&rows) {
            *sum = x.mul_add(V::load(&row[i]), *sum);
        }
    }
    if !rest.is_empty() {
        let x = V::load_part(rest, 0.0);
        for (sum, (_, rest)) in sums.iter_mut().zip(&rows) {
            *sum = x.mul_add(V::load_part(rest, 0.0), *sum);
        }
    }
}

/// Vectors of sums that are kept in registers.
const SUMS: usize = 4;

/// `x * W` with columns in lanes, some columns after the other: sums stay in registers.
///
/// For 64 columns that is 2.7 times as fast as [`Columns`], for 576 and more 0.6 to 0.97 times:
/// there it reads a small piece of each of the long rows, and then the next.
struct FewColumns<'a> {
    x: &'a [f32],
    w: &'a [f32],
    out: &'a mut [f32],
}

impl VectorKernel for FewColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, w, out } = self;
        let n = out.len();
        let mut first = 0;
        while first < n {
            let out = &mut out[first..];
            let w = w.get(first..).unwrap_or(&[]);
            let (vectors, rest) = out.as_chunks_mut::<LANES>();
            first += if let Some(vectors) = vectors.first_chunk_mut::<SUMS>() {
                columns::<V, SUMS>(x, w, n, vectors)
            } else if let Some(vectors) = vectors.first_chunk_mut::<1>() {
                columns::<V, 1>(x, w, n, vectors)
            } else {
                let mut padded = [[0.0; LANES]];
                let width = rest.len();
                sum_rows::<V, 1>(x, &mut padded, |i| [V::load_part(&w[i * n..][..width], 0.0)]);
                rest.copy_from_slice(&padded[0][..width]);
                width
            };
        }
    }
}

#[inline(always)]
fn columns<V: Vector, const N: usize>(
    x: &[f32],
    w: &[f32],
    n: usize,
    out: &mut [[f32; LANES]; N],
) -> usize {
    sum_rows::<V, N>(x, out, |i| {
        let row = w[i * n..][..N * LANES].as_chunks::<LANES>().0;
        std::array::from_fn(|vector| V::load(&row[vector]))
    });
    N * LANES
}

/// `out = sum over i of x[i] * row(i)`, in sums of [`DEPTH`] terms.
#[inline(always)]
fn sum_rows<V: Vector, const N: usize>(
    x: &[f32],
    out: &mut [[f32; LANES]; N],
    row: impl Fn(usize) -> [V; N],
) {
    let mut total = [V::splat(0.0); N];
    for (block, x) in x.chunks(DEPTH).enumerate() {
        let mut sums = [V::splat(0.0); N];
        for (i, &x) in x.iter().enumerate() {
            let x = V::splat(x);
            let row = row(block * DEPTH + i);
            for (sum, w) in sums.iter_mut().zip(row) {
                *sum = x.mul_add(w, *sum);
            }
        }
        for (total, sum) in total.iter_mut().zip(sums) {
            *total = total.add(sum);
        }
    }
    for (out, total) in out.iter_mut().zip(total) {
        total.store(out);
    }
}

/// `x * W` row by row, each over its whole width: sums stay in the first cache.
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
            let mut here = vec![f32::NAN; n];
            gemv_here(&x, &w, &mut here);
            gemv(&x, &w, n, &mut a);
            gemv_turned(&x, &turned, &mut b);
            // All terms are multiples of 1/64 and small: sums are exact.
            assert_eq!(a, b);
            assert_eq!(a, here);
        }
    }
}
