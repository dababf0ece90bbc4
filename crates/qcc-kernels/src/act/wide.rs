//! The loops in vectors of AVX-512.

use super::{Loops, ROUNDER, Row};
use std::arch::x86_64::*;

/// Quantizes a row, or gives it back if the CPU has no such vectors.
#[inline]
pub(super) fn quantize(row: Row<'_>) -> Option<Row<'_>> {
    if !is_x86_feature_detected!("avx512f") {
        return Some(row);
    }
    // SAFETY: the CPU has AVX-512.
    #[allow(unsafe_code)]
    unsafe {
        run(row);
    }
    None
}

#[target_feature(enable = "avx512f")]
fn run(row: Row<'_>) {
    row.choose::<Wide>();
}

/// Named only where the CPU has AVX-512.
struct Wide;

/// 16 floats of a run.
#[inline(always)]
fn load(values: &[f32; 16]) -> __m512 {
    // SAFETY: AVX-512, as [`Wide`] says; 16 floats are read.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

impl Loops for Wide {
    #[inline(always)]
    fn magnitude<const RUN: usize>(runs: &[[f32; RUN]]) -> u32 {
        // SAFETY: AVX-512, as [`Wide`] says.
        #[allow(unsafe_code)]
        unsafe {
            let mut most = _mm512_setzero_si512();
            for values in runs.as_flattened().as_chunks::<16>().0 {
                let magnitude = _mm512_abs_ps(load(values));
                most = _mm512_max_epu32(most, _mm512_castps_si512(magnitude));
            }
            _mm512_reduce_max_epu32(most)
        }
    }

    #[inline(always)]
    fn split<const PLANES: usize, const RUN: usize>(
        run: &[f32; RUN],
        inverse: f32,
        plane: usize,
        codes: &mut [i8],
        totals: &mut [i32; PLANES],
    ) {
        // SAFETY: AVX-512, as [`Wide`] says; 16 codes are written to an array of them.
        #[allow(unsafe_code)]
        unsafe {
            let (inverse, rounder) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUNDER));
            let mut sums = [_mm512_setzero_si512(); PLANES];
            for (i, values) in run.as_chunks::<16>().0.iter().enumerate() {
                let scaled = _mm512_add_ps(_mm512_mul_ps(load(values), inverse), rounder);
                let mut a =
                    _mm512_sub_epi32(_mm512_castps_si512(scaled), _mm512_castps_si512(rounder));
                for p in (0..PLANES).rev() {
                    let mut low = a;
                    if p > 0 {
                        let half = _mm512_set1_epi32(64);
                        low = _mm512_and_si512(_mm512_add_epi32(a, half), _mm512_set1_epi32(127));
                        low = _mm512_sub_epi32(low, half);
                        a = _mm512_srai_epi32::<7>(_mm512_sub_epi32(a, low));
                    }
                    sums[p] = _mm512_add_epi32(sums[p], low);
                    let Some(to) = codes[p * plane + 16 * i..].first_chunk_mut::<16>() else {
                        return;
                    };
                    _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(low));
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = total.wrapping_add(_mm512_reduce_add_epi32(sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plain;
    use super::*;
    use proptest::prelude::*;

    /// Both loops on one run.
    fn loops<L: Loops>(run: &[f32; 32], inverse: f32) -> (u32, [i8; 96], [i32; 3]) {
        let (mut codes, mut totals) = ([99; 96], [5; 3]);
        L::split::<3, 32>(run, inverse, 32, &mut codes, &mut totals);
        (L::magnitude(std::slice::from_ref(run)), codes, totals)
    }

    proptest! {
        #[test]
        fn the_same_as_plain(values in prop::collection::vec(-2f32..2.0, 32), bad in 0usize..64) {
            let mut run = [0.0; 32];
            run.copy_from_slice(&values);
            let inverse = Some(1e6).filter(|_| is_x86_feature_detected!("avx512f"));
            if let Some(inverse) = inverse {
                prop_assert_eq!(loops::<Wide>(&run, inverse), loops::<Plain>(&run, inverse));
                if let Some(x) = run.get_mut(bad) {
                    *x = f32::NAN;
                    prop_assert_eq!(loops::<Wide>(&run, 1.0).0, loops::<Plain>(&run, 1.0).0);
                }
            }
        }
    }
}
