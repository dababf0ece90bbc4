//! `H = T T^T` with T upper triangular, in f64.
//!
//! The usual factor `L L^T` of H with its indices reversed. In blocks of columns: each element is
//! computed by one task in an order fixed by the block size, so the bits do not depend on the
//! number of threads.

use rayon::prelude::*;

use crate::fused::{Kernel, dispatch, dot_f64};

/// Columns factored before the rest is updated.
const BLOCK: usize = 64;

/// T of `h[k][k]`, symmetric, as `[k][k]` with zeros below the diagonal; `None` if H is not
/// positive definite.
pub(crate) fn upper_factor(h: &[f32], k: usize) -> Option<Vec<f64>> {
    // Reversed in both indices, the row-major buffer reads backwards.
    let mut a: Vec<f64> = h.iter().rev().map(|&h| f64::from(h)).collect();
    let mut panel = Vec::new();
    for left in (0..k).step_by(BLOCK) {
        let width = BLOCK.min(k - left);
        for j in left..left + width {
            let (above, row) = a.split_at_mut(j * k);
            let row = &mut row[..k];
            for i in left..j {
                let upper = &above[i * k..];
                row[i] = (row[i] - dispatch(Dot(&upper[left..i], &row[left..i]))) / upper[i];
            }
            let square = row[j] - dispatch(Dot(&row[left..j], &row[left..j]));
            if square <= 0.0 || square.is_nan() {
                return None;
            }
            row[j] = square.sqrt();
        }
        let (top, rest) = a.split_at_mut((left + width) * k);
        rest.par_chunks_exact_mut(k).for_each(|row| {
            for i in left..left + width {
                let upper = &top[i * k..];
                row[i] = (row[i] - dispatch(Dot(&upper[left..i], &row[left..i]))) / upper[i];
            }
        });
        panel.clear();
        for row in rest.chunks_exact(k) {
            panel.extend_from_slice(&row[left..left + width]);
        }
        rest.par_chunks_exact_mut(k).enumerate().for_each(|(i, row)| {
            let (mine, row) = (&panel[i * width..][..width], &mut row[left + width..][..=i]);
            dispatch(Subtract { mine, panel: &panel, row });
        });
    }
    for (i, row) in a.chunks_exact_mut(k.max(1)).enumerate() {
        row[i + 1..].fill(0.0);
    }
    a.reverse();
    Some(a)
}

struct Dot<'a>(&'a [f64], &'a [f64]);

impl Kernel for Dot<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        dot_f64(self.0, self.1)
    }
}

/// `row[j] -= mine . panel[j]`.
struct Subtract<'a> {
    mine: &'a [f64],
    panel: &'a [f64],
    row: &'a mut [f64],
}

impl Kernel for Subtract<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (value, other) in self.row.iter_mut().zip(self.panel.chunks_exact(self.mine.len())) {
            *value -= dot_f64(self.mine, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian;

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for k in [1, 2, 5, 64, 65, 150] {
            let x = gaussian(2 * k * k, k as u64);
            let mut h = vec![0.0f32; k * k];
            for i in 0..k {
                for j in 0..=i {
                    let sum: f32 = x.chunks(k).map(|x| x[i] * x[j]).sum();
                    h[i * k + j] = sum;
                    h[j * k + i] = sum;
                }
                h[i * k + i] += 0.01;
            }
            let t = upper_factor(&h, k).unwrap();
            for i in 0..k {
                for j in 0..k {
                    let product: f64 = (0..k).map(|p| t[i * k + p] * t[j * k + p]).sum();
                    assert!((product - f64::from(h[i * k + j])).abs() < 1e-6, "{k} {i} {j}");
                    assert!(i <= j || t[i * k + j] == 0.0);
                }
            }
        }
        assert_eq!(upper_factor(&[1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(upper_factor(&[f32::NAN], 1), None);
        assert_eq!(upper_factor(&[], 0), Some(vec![]));
    }
}
