//! Operands of different shapes, combined element by element.
//!
//! Shapes are aligned at their last dimension; a dimension of 1, or one that is missing, repeats.
//! Source: ONNX "Multidirectional Broadcasting", which is NumPy's rule.

use pulp::NullaryFnOnce;
use qcc_ir::TypeError;
use qcc_tensor::{Dim, checked_len};
use rayon::prelude::*;

use crate::vector::{PARALLEL_LEN, TASK_LEN, dispatch};

/// The shape of the result, as far as it can be known.
///
/// # Errors
/// When two known dimensions differ and neither is 1.
pub(crate) fn shape(op: &str, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, TypeError> {
    let rank = a.len().max(b.len());
    let at = |dims: &[Dim], idx: usize| match (idx + dims.len()).checked_sub(rank) {
        Some(idx) => dims[idx].clone(),
        None => Dim::Known(1),
    };
    (0..rank)
        .map(|idx| match (at(a, idx), at(b, idx)) {
            (Dim::Known(1), it) | (it, Dim::Known(1)) => Ok(it),
            (Dim::Known(x), Dim::Known(y)) if x != y => Err(TypeError::shapes(op, a, b)),
            // The other one is this number or 1.
            (Dim::Known(x), _) | (_, Dim::Known(x)) => Ok(Dim::Known(x)),
            (Dim::Symbol(x), Dim::Symbol(y)) if x == y => Ok(Dim::Symbol(x)),
            _ => Ok(Dim::Unknown),
        })
        .collect()
}

/// The shape of the result of tensors that are there.
///
/// # Errors
/// When two dimensions differ and neither is 1, or the result has more elements than fit.
pub(crate) fn sizes(op: &str, shapes: &[&[usize]]) -> Result<Vec<usize>, TypeError> {
    let rank = shapes.iter().map(|it| it.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for dims in shapes {
        for (out, &dim) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            match (*out, dim) {
                (1, _) => *out = dim,
                (_, 1) => {}
                (x, y) if x == y => {}
                _ => {
                    let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<_>>();
                    let b = shapes.get(1).copied().unwrap_or_default();
                    return Err(TypeError::shapes(op, &dims(shapes[0]), &dims(b)));
                }
            }
        }
    }
    match checked_len(&out) {
        Some(_) => Ok(out),
        None => Err(TypeError::other(op, format!("result {out:?} is too large"))),
    }
}

/// How `N` operands are read in the order of the result: rows of `inner` elements, in which an
/// operand either runs (step 1) or stays (step 0).
#[derive(Clone, Debug)]
pub(crate) struct Walk<const N: usize> {
    /// Elements of a row.
    pub inner: usize,
    /// Step of each operand within a row, 0 or 1.
    pub steps: [usize; N],
    /// Dimensions over rows, the last one fastest, with the stride of each operand.
    outer: Vec<(usize, [usize; N])>,
    len: usize,
}

impl<const N: usize> Walk<N> {
    /// `out` is the broadcast shape of `shapes`, as [`sizes`] gives it.
    pub(crate) fn new(out: &[usize], shapes: [&[usize]; N]) -> Self {
        let len = checked_len(out).unwrap_or(0);
        let mut strides = [1usize; N];
        // From the last dimension to the first, neighbors that all operands run through merge.
        let mut merged: Vec<(usize, [usize; N])> = Vec::new();
        for (back, &dim) in out.iter().rev().enumerate() {
            let mut here = [0; N];
            for (op, dims) in shapes.iter().enumerate() {
                let own = dims.len().checked_sub(back + 1).map_or(1, |idx| dims[idx]);
                if own != 1 {
                    here[op] = strides[op];
                    strides[op] = strides[op].saturating_mul(own);
                }
            }
            if dim == 1 {
                continue;
            }
            match merged.last_mut() {
                Some(last) if (0..N).all(|op| here[op] == last.0 * last.1[op]) => last.0 *= dim,
                _ => merged.push((dim, here)),
            }
        }
        // Only the innermost run of an operand has stride 1; one that stays there has none.
        let (inner, steps) = match merged.first() {
            Some(first) if first.1.iter().all(|&it| it <= 1) => merged.remove(0),
            _ => (1, [0; N]),
        };
        merged.reverse();
        Self { inner, steps, outer: merged, len }
    }

    /// First element of each operand in a row.
    #[inline(always)]
    pub(crate) fn offsets(&self, mut row: usize) -> [usize; N] {
        let mut offsets = [0; N];
        for (dim, strides) in self.outer.iter().rev() {
            let idx = row % dim;
            row /= dim;
            for op in 0..N {
                offsets[op] += idx * strides[op];
            }
        }
        offsets
    }

    /// Element of each operand that is at this place of the result.
    pub(crate) fn at(&self, index: usize) -> [usize; N] {
        let (row, col) = (index / self.inner, index % self.inner);
        let mut at = self.offsets(row);
        for (at, step) in at.iter_mut().zip(&self.steps) {
            *at += col * step;
        }
        at
    }

    /// Number of elements of the result.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Fills `out` with `f(a, b)`, broadcasting; `out` is in the order of the walk.
pub(crate) fn zip<A: Copy + Sync, B: Copy + Sync, R: Send>(
    walk: &Walk<2>,
    a: &[A],
    b: &[B],
    out: &mut [R],
    f: fn(A, B) -> R,
) {
    debug_assert_eq!(walk.len(), out.len());
    let task = |(idx, out): (usize, &mut [R])| {
        Zip { walk, first: idx * TASK_LEN, a, b, out, f }.call();
    };
    if out.len() >= PARALLEL_LEN {
        out.par_chunks_mut(TASK_LEN).enumerate().for_each(task);
    } else {
        out.chunks_mut(TASK_LEN).enumerate().for_each(task);
    }
}

/// As [`zip`], compiled for this function and the CPU at hand.
pub(crate) fn zip_fast<R: Send, F>(walk: &Walk<2>, a: &[f32], b: &[f32], out: &mut [R], f: F)
where
    F: Fn(f32, f32) -> R + Copy + Sync,
{
    debug_assert_eq!(walk.len(), out.len());
    let task = |(idx, out): (usize, &mut [R])| {
        dispatch(Zip { walk, first: idx * TASK_LEN, a, b, out, f });
    };
    if out.len() >= PARALLEL_LEN {
        out.par_chunks_mut(TASK_LEN).enumerate().for_each(task);
    } else {
        out.chunks_mut(TASK_LEN).enumerate().for_each(task);
    }
}

struct Zip<'a, A, B, R, F> {
    walk: &'a Walk<2>,
    first: usize,
    a: &'a [A],
    b: &'a [B],
    out: &'a mut [R],
    f: F,
}

impl<A: Copy, B: Copy, R, F: Fn(A, B) -> R + Copy> NullaryFnOnce for Zip<'_, A, B, R, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Zip { walk, first, a, b, mut out, f } = self;
        let inner = walk.inner;
        let (mut row, mut col) = (first / inner, first % inner);
        while !out.is_empty() {
            let count = (inner - col).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            let at = walk.offsets(row);
            match walk.steps {
                [1, 1] => {
                    let (a, b) = (&a[at[0] + col..][..count], &b[at[1] + col..][..count]);
                    for ((out, &a), &b) in now.iter_mut().zip(a).zip(b) {
                        *out = f(a, b);
                    }
                }
                [1, _] => {
                    let (a, b) = (&a[at[0] + col..][..count], b[at[1]]);
                    for (out, &a) in now.iter_mut().zip(a) {
                        *out = f(a, b);
                    }
                }
                [_, 1] => {
                    let (a, b) = (a[at[0]], &b[at[1] + col..][..count]);
                    for (out, &b) in now.iter_mut().zip(b) {
                        *out = f(a, b);
                    }
                }
                _ => {
                    let (a, b) = (a[at[0]], b[at[1]]);
                    for out in now {
                        *out = f(a, b);
                    }
                }
            }
            out = rest;
            (row, col) = (row + 1, 0);
        }
    }
}

/// Fills `out` with the elements of the operand that `pick` names, broadcasting all three.
pub(crate) fn select<T: Copy + Send + Sync>(
    walk: &Walk<3>,
    pick: &[u8],
    a: &[T],
    b: &[T],
    out: &mut [T],
) {
    let task = |(idx, mut out): (usize, &mut [T])| {
        let first = idx * TASK_LEN;
        let (mut row, mut col) = (first / walk.inner, first % walk.inner);
        while !out.is_empty() {
            let count = (walk.inner - col).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            let at = walk.offsets(row);
            let [p, x, y] = [0, 1, 2].map(|op| at[op] + col * walk.steps[op]);
            select_row(walk.steps, &pick[p..], &a[x..], &b[y..], now);
            out = rest;
            (row, col) = (row + 1, 0);
        }
    };
    if out.len() >= PARALLEL_LEN {
        out.par_chunks_mut(TASK_LEN).enumerate().for_each(task);
    } else {
        out.chunks_mut(TASK_LEN).enumerate().for_each(task);
    }
}

/// A row of [`select`]: operands begin at its first element.
fn select_row<T: Copy>(steps: [usize; 3], pick: &[u8], a: &[T], b: &[T], out: &mut [T]) {
    let count = out.len();
    match steps {
        [1, 1, 1] => {
            for (((out, &pick), &a), &b) in out.iter_mut().zip(pick).zip(a).zip(b) {
                *out = if pick != 0 { a } else { b };
            }
        }
        [1, 1, _] => {
            let b = b[0];
            for ((out, &pick), &a) in out.iter_mut().zip(pick).zip(a) {
                *out = if pick != 0 { a } else { b };
            }
        }
        [1, _, 1] => {
            let a = a[0];
            for ((out, &pick), &b) in out.iter_mut().zip(pick).zip(b) {
                *out = if pick != 0 { a } else { b };
            }
        }
        [1, _, _] => {
            let (a, b) = (a[0], b[0]);
            for (out, &pick) in out.iter_mut().zip(pick) {
                *out = if pick != 0 { a } else { b };
            }
        }
        [_, a_step, b_step] => {
            let (from, step) = if pick[0] != 0 { (a, a_step) } else { (b, b_step) };
            if step == 1 {
                out.copy_from_slice(&from[..count]);
            } else {
                out.fill(from[0]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shapes_with_symbols() {
        let [n, m] = ["n", "m"].map(Dim::symbol);
        let known = |it: &[usize]| it.iter().map(|&it| Dim::Known(it)).collect::<Vec<_>>();
        let a = [n.clone(), Dim::Known(1), n.clone(), Dim::Known(3)];
        let b = [Dim::Known(4), n.clone(), Dim::Unknown];
        let out = shape("Add", &a, &b).unwrap();
        assert_eq!(out, [n.clone(), Dim::Known(4), n.clone(), Dim::Known(3)]);
        assert_eq!(shape("Add", &[n], &[m]).unwrap(), [Dim::Unknown]);
        assert!(shape("Add", &known(&[2]), &known(&[3])).is_err());
        assert!(sizes("Add", &[&[2], &[3]]).is_err());
    }

    #[test]
    fn rows_are_as_long_as_can_be() {
        let walk = Walk::new(&[2, 3, 4, 5], [&[2, 3, 4, 5], &[4, 5]]);
        assert_eq!((walk.inner, walk.steps, walk.outer.len()), (20, [1, 1], 1));
        let walk = Walk::new(&[2, 3, 4], [&[2, 3, 4], &[2, 3, 1]]);
        assert_eq!((walk.inner, walk.steps, walk.outer.len()), (4, [1, 0], 1));
        let walk = Walk::new(&[2, 3, 4], [&[2, 3, 4], &[]]);
        assert_eq!((walk.inner, walk.steps, walk.outer.len()), (24, [1, 0], 0));
    }

    /// The element of a shape that stands at `idx` of the result, by the definition.
    fn at(out: &[usize], dims: &[usize], mut idx: usize) -> usize {
        let (mut place, mut stride) = (0, 1);
        for back in 0..out.len() {
            let own = out.len() - back - 1;
            let coord = idx % out[own];
            idx /= out[own];
            if back < dims.len() {
                let dim = dims[dims.len() - back - 1];
                place += if dim == 1 { 0 } else { coord * stride };
                stride *= dim;
            }
        }
        place
    }

    fn shaped(full: &[usize], ones: u8, drop: usize) -> Vec<usize> {
        let dims = full.iter().enumerate();
        let dims = dims.map(|(i, &dim)| if ones >> i & 1 == 1 { 1 } else { dim });
        dims.skip(drop.min(full.len())).collect()
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            full in proptest::collection::vec(1usize..5, 0..5),
            ones: (u8, u8, u8), drop in (0usize..3, 0usize..3),
        ) {
            let dims = [
                shaped(&full, ones.0, 0), shaped(&full, ones.1, drop.0),
                shaped(&full, ones.2, drop.1),
            ];
            let out = sizes("Add", &[&dims[0], &dims[1], &dims[2]]).unwrap();
            let data = dims.clone().map(|it| (0..it.iter().product::<usize>()).collect::<Vec<_>>());
            let len: usize = out.iter().product();

            let two = sizes("Add", &[&dims[0], &dims[1]]).unwrap();
            let mut got = vec![(0, 0); two.iter().product()];
            let walk = Walk::new(&two, [&dims[0], &dims[1]]);
            zip(&walk, &data[0], &data[1], &mut got, |a, b| (a, b));
            for (idx, got) in got.into_iter().enumerate() {
                prop_assert_eq!(got, (at(&two, &dims[0], idx), at(&two, &dims[1], idx)));
            }

            let pick: Vec<u8> = data[0].iter().map(|it| (it % 2) as u8).collect();
            let b: Vec<usize> = data[2].iter().map(|it| it + 1000).collect();
            let mut got = vec![0; len];
            let walk = Walk::new(&out, [&dims[0], &dims[1], &dims[2]]);
            select(&walk, &pick, &data[1], &b, &mut got);
            for (idx, got) in got.into_iter().enumerate() {
                let want = match at(&out, &dims[0], idx) % 2 {
                    0 => 1000 + at(&out, &dims[2], idx),
                    _ => at(&out, &dims[1], idx),
                };
                prop_assert_eq!(got, want);
            }
        }
    }
}
