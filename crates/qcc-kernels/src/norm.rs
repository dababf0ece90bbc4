//! The root mean square norm before products, with the addition before it, in f32:
//!
//! ```text
//! s = x + skip
//! y = s / sqrt(mean(s^2) + epsilon) * gamma
//! ```

use crate::Threads;
use crate::shared::Shared;
use pulp::{Arch, Simd, WithSimd};

/// Fewer floats are left to the calling thread.
const SHARED_FLOATS: usize = 1 << 15;

/// A norm of rows as long as `gamma`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Factors of the features.
    pub gamma: Vec<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl RmsNorm {
    /// Norms rows `x` into `y`. `skip` is added to them, from its beginning again where it has
    /// fewer rows; `sum` gets what comes of that.
    ///
    /// # Panics
    /// If these are not whole rows, or of other lengths than `x`, or there is a sum of nothing.
    pub fn run(
        &self,
        threads: &dyn Threads,
        x: &[f32],
        skip: Option<&[f32]>,
        sum: Option<&mut [f32]>,
        y: &mut [f32],
    ) {
        let k = self.gamma.len();
        let is_whole = |len: usize| k > 0 && len.is_multiple_of(k);
        assert!(is_whole(x.len()) && y.len() == x.len(), "whole rows");
        assert!(skip.is_none_or(|it| is_whole(it.len()) && !it.is_empty()), "whole rows to add");
        let fits = |it: &&mut [f32]| skip.is_some() && it.len() == x.len();
        assert!(sum.as_ref().is_none_or(fits), "as many sums");
        let (y, sum) = (Shared::new(y), sum.map(Shared::new));
        let arch = Arch::new();
        let rows = |range: std::ops::Range<usize>| {
            for row in range {
                let at = row * k..(row + 1) * k;
                let skip = skip.map(|it| &it[row * k % it.len()..][..k]);
                // SAFETY: the slices are borrowed and as long as `x`, and each row is given to one
                // thread.
                #[allow(unsafe_code)]
                let (y, sum) =
                    unsafe { (y.part(at.clone()), sum.as_ref().map(|it| it.part(at.clone()))) };
                arch.dispatch(Row { norm: self, x: &x[at], skip, y: &mut *y });
                if let Some(sum) = sum {
                    for ((sum, x), skip) in
                        sum.iter_mut().zip(&x[row * k..]).zip(skip.unwrap_or(&[]))
                    {
                        *sum = x + skip;
                    }
                }
            }
        };
        if x.len() < SHARED_FLOATS { rows(0..x.len() / k) } else { threads.run(x.len() / k, &rows) }
    }
}

struct Row<'a> {
    norm: &'a RmsNorm,
    x: &'a [f32],
    skip: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { norm, x, skip, y } = self;
        match skip {
            Some(skip) => {
                for ((y, x), skip) in y.iter_mut().zip(x).zip(skip) {
                    *y = x + skip;
                }
            }
            None => y.copy_from_slice(x),
        }
        let (vectors, rest) = S::as_simd_f32s(y);
        let mut squares = [simd.splat_f32s(0.0); 4];
        let mut four = vectors.chunks_exact(4);
        for vectors in &mut four {
            for (sum, &it) in squares.iter_mut().zip(vectors) {
                *sum = simd.mul_add_f32s(it, it, *sum);
            }
        }
        for (sum, &it) in squares.iter_mut().zip(four.remainder()) {
            *sum = simd.mul_add_f32s(it, it, *sum);
        }
        let [a, b, c, d] = squares;
        let all = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        let rest: f32 = rest.iter().map(|it| it * it).sum();
        let mean = (simd.reduce_sum_f32s(all) + rest) / norm.gamma.len() as f32;
        let factor = 1.0 / (mean + norm.epsilon).sqrt();
        for (y, gamma) in y.iter_mut().zip(&norm.gamma) {
            *y = *y * factor * gamma;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alone, Pool};

    fn floats(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 101) as f32 / 50.0 - 0.9).collect()
    }

    #[test]
    fn rows_are_added_and_normed() {
        let pool = Pool::new(3);
        for (k, rows, of_skip) in
            [(1, 3, None), (83, 4, Some(4)), (576, 120, Some(60)), (64, 1, Some(1))]
        {
            let norm = RmsNorm { gamma: floats(k, 7), epsilon: 1e-3 };
            let (x, skip) = (floats(rows * k, 13), of_skip.map(|it| floats(it * k, 29)));
            let run = |threads: &dyn Threads| {
                let (mut sum, mut y) = (vec![0.0; rows * k], vec![f32::NAN; rows * k]);
                let to = skip.as_ref().map(|_| &mut sum[..]);
                norm.run(threads, &x, skip.as_deref(), to, &mut y);
                (sum, y)
            };
            let (sum, y) = run(&Alone);
            assert_eq!((sum.clone(), y.clone()), run(&pool));
            for row in 0..rows {
                let add = |i: usize| skip.as_ref().map_or(0.0, |it| it[(row * k + i) % it.len()]);
                let want: Vec<f32> = (0..k).map(|i| x[row * k + i] + add(i)).collect();
                if skip.is_some() {
                    assert_eq!(sum[row * k..(row + 1) * k], want[..]);
                }
                let mean = want.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>() / k as f64;
                for (i, it) in want.iter().enumerate() {
                    let want = f64::from(*it) / (mean + 1e-3).sqrt() * f64::from(norm.gamma[i]);
                    let far = (f64::from(y[row * k + i]) - want).abs();
                    assert!(far < 1e-6, "{k}: {far}");
                }
            }
        }
    }
}
