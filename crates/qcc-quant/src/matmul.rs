//! f32 matrix product with the same bits on every CPU and for any number of threads.
//!
//! Each output is one chain of fused multiply-adds over the inner index in ascending order,
//! whatever the vector width, the tile or the thread that computes it. Single-threaded: callers
//! run it on tiles of the output.

use crate::fused::{Kernel, Level, dispatch, level};

/// Columns of a panel: two AVX-512 registers.
const NR: usize = 32;
/// Inner indices of a panel kept in the first level cache.
const KC: usize = 256;

/// The right operand `f32[k][n]`, in panels of [`NR`] columns `[panel][k][NR]`.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    k: usize,
    n: usize,
    panels: Vec<[f32; NR]>,
}

impl Packed {
    /// Packs the matrix whose element at row `p`, column `j` is `at(p, j)`.
    pub(crate) fn new(k: usize, n: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut panels = vec![[0.0; NR]; n.div_ceil(NR) * k];
        for (panel, lines) in panels.chunks_exact_mut(k.max(1)).enumerate() {
            for (p, line) in lines.iter_mut().enumerate() {
                for (j, value) in (panel * NR..n).zip(line) {
                    *value = at(p, j);
                }
            }
        }
        Self { k, n, panels }
    }
}

/// `out[rows][columns] += a * b` for the first columns of b, as many as make `out` whole rows,
/// with `a(i, p)` the left operand `f32[rows][k]`. `scratch` is reused between calls.
///
/// # Panics
/// If there are more columns than b has, or `out` is not whole rows.
pub(crate) fn matmul(
    a: impl Fn(usize, usize) -> f32,
    b: &Packed,
    columns: usize,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    assert!(columns <= b.n && out.len().checked_rem(columns).unwrap_or(out.len()) == 0);
    if b.k == 0 || out.is_empty() {
        return;
    }
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => blocked::<12>(a, b, columns, out, scratch),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => blocked::<3>(a, b, columns, out, scratch),
        Level::Plain => blocked::<4>(a, b, columns, out, scratch),
    }
}

/// The product in blocks of `MR` rows: `a` is packed `[block][KC][MR]`.
fn blocked<const MR: usize>(
    a: impl Fn(usize, usize) -> f32,
    b: &Packed,
    n: usize,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let rows = out.len() / n;
    scratch.resize(rows.div_ceil(MR) * MR * KC, 0.0);
    for first in (0..b.k).step_by(KC) {
        let depth = KC.min(b.k - first);
        let (blocks, _) = scratch.as_chunks_mut::<MR>();
        for (block, lines) in blocks.chunks_exact_mut(depth).take(rows.div_ceil(MR)).enumerate() {
            for (p, line) in lines.iter_mut().enumerate() {
                for (i, value) in line.iter_mut().enumerate() {
                    let row = block * MR + i;
                    *value = if row < rows { a(row, first + p) } else { 0.0 };
                }
            }
        }
        for (panel, lines) in b.panels.chunks_exact(b.k).enumerate().take(n.div_ceil(NR)) {
            let (left, lines) = (panel * NR, &lines[first..first + depth]);
            let width = NR.min(n - left);
            let lhs = blocks.chunks_exact(depth);
            for (lhs, out) in lhs.zip(out.chunks_mut(MR * n)) {
                let mut tile = [[0.0; NR]; MR];
                for (sums, line) in tile.iter_mut().zip(out.chunks_exact(n)) {
                    sums[..width].copy_from_slice(&line[left..left + width]);
                }
                dispatch(Tile { lhs, rhs: lines, sums: &mut tile });
                for (sums, line) in tile.iter().zip(out.chunks_exact_mut(n)) {
                    line[left..left + width].copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

/// `sums[i][j] += lhs[p][i] * rhs[p][j]` over ascending p.
struct Tile<'a, const MR: usize> {
    lhs: &'a [[f32; MR]],
    rhs: &'a [[f32; NR]],
    sums: &'a mut [[f32; NR]; MR],
}

impl<const MR: usize> Kernel for Tile<'_, MR> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut sums = *self.sums;
        for (lhs, rhs) in self.lhs.iter().zip(self.rhs) {
            for (sums, &a) in sums.iter_mut().zip(lhs) {
                for (sum, &b) in sums.iter_mut().zip(rhs) {
                    *sum = a.mul_add(b, *sum);
                }
            }
        }
        *self.sums = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(i: usize, j: usize) -> f32 {
        ((i * 37 + j * 11) % 251) as f32 / 77.0 - 1.5
    }

    proptest! {
        #[test]
        fn is_one_fused_chain_at_every_size(m in 0usize..40, k in 0usize..600, n in 0usize..80) {
            let b = Packed::new(k, n, value);
            let mut out = vec![0.0; m * n];
            matmul(|i, p| value(p, i), &b, n, &mut out, &mut Vec::new());
            for i in 0..m {
                for j in 0..n {
                    let chain = (0..k).fold(0.0f32, |s, p| value(p, i).mul_add(value(p, j), s));
                    prop_assert_eq!(out[i * n + j].to_bits(), chain.to_bits());
                }
            }
        }
    }

    #[test]
    fn levels_agree() {
        let b = Packed::new(300, 33, value);
        let (mut wide, mut narrow) = (vec![0.0; 25 * 30], vec![0.0; 25 * 30]);
        blocked::<12>(value, &b, 30, &mut wide, &mut Vec::new());
        blocked::<3>(value, &b, 30, &mut narrow, &mut Vec::new());
        assert_eq!(wide, narrow);
    }
}
