//! The vectors of AVX2 and AVX-512.

#![expect(unsafe_code)]

use super::{VectorKernel, LANES, Plain, Vector};
use std::arch::x86_64::*;

/// Instruction sets told apart, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    Plain,
    Avx2,
    Avx512,
}

/// The best level of this CPU.
#[inline]
pub(super) fn level() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") {
        Level::Avx2
    } else {
        Level::Plain
    }
}

/// The levels of this CPU.
#[cfg(test)]
pub(super) fn levels() -> impl Iterator<Item = Level> {
    [Level::Plain, Level::Avx2, Level::Avx512].into_iter().filter(|&l| l <= level())
}

/// Runs `kernel` at `wanted` or, if the CPU cannot, at the best level.
#[inline]
pub(super) fn dispatch<K: VectorKernel>(wanted: Level, kernel: K) -> K::Output {
    match wanted.min(level()) {
        // SAFETY: `level` has found AVX-512.
        Level::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: `level` has found AVX2.
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Plain => kernel.run::<Plain>(),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: VectorKernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

#[target_feature(enable = "avx2")]
fn run_avx2<K: VectorKernel>(kernel: K) -> K::Output {
    kernel.run::<Pair>()
}

/// Made only by [`run_avx512`].
#[derive(Clone, Copy)]
struct Wide(__m512);

/// Made only by [`run_avx2`].
#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

// SAFETY of both implementations: the vectors are private to this file and named only where
// `dispatch` has checked their instruction set; loads and stores go through array references.

impl Vector for Wide {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        // SAFETY: AVX-512, see above; 16 floats are read.
        Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        // SAFETY: AVX-512, see above; 16 floats are written.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [u8; LANES]) {
        // SAFETY: AVX-512, see above; 16 bytes are written.
        unsafe {
            let narrow = _mm512_cvtepi32_epi8(_mm512_castps_si512(self.0));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), narrow);
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn select_greater(self, bound: Self, yes: Self, no: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, bound.0);
            _mm512_mask_mov_ps(no.0, mask, yes.0)
        })
    }
}

impl Pair {
    #[inline(always)]
    fn zip(self, other: Self, join: impl Fn(__m256, __m256) -> __m256) -> Self {
        Self(join(self.0, other.0), join(self.1, other.1))
    }
}

impl Vector for Pair {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: AVX2, see above.
        let half = unsafe { _mm256_set1_ps(x) };
        Self(half, half)
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        // SAFETY: AVX2, see above; 16 floats are read.
        unsafe {
            Self(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values[8..].as_ptr()))
        }
    }
    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        let (low, high) = values.split_at_mut(8);
        // SAFETY: AVX2, see above; 8 floats are written to each half.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), self.0);
            _mm256_storeu_ps(high.as_mut_ptr(), self.1);
        }
    }
    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [u8; LANES]) {
        // SAFETY: AVX2, see above; 16 bytes are written.
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let low = _mm256_and_si256(_mm256_castps_si256(self.0), mask);
            let high = _mm256_and_si256(_mm256_castps_si256(self.1), mask);
            // Packing works within 128-bit halves; the permutation puts them in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            let narrow = _mm256_packus_epi16(words, words);
            let narrow = _mm256_permute4x64_epi64::<0b11_01_10_00>(narrow);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm256_castsi256_si128(narrow));
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: AVX2, see above.
        self.zip(other, |a, b| unsafe { _mm256_add_ps(a, b) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: AVX2, see above.
        self.zip(other, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: AVX2, see above.
        self.zip(other, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: AVX2, see above.
        self.zip(other, |a, b| unsafe { _mm256_max_ps(a, b) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: AVX2, see above.
        self.zip(other, |a, b| unsafe { _mm256_min_ps(a, b) })
    }
    #[inline(always)]
    fn select_greater(self, bound: Self, yes: Self, no: Self) -> Self {
        // SAFETY: AVX2, see above.
        let select = |a, b, yes, no| unsafe {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b))
        };
        Self(
            select(self.0, bound.0, yes.0, no.0),
            select(self.1, bound.1, yes.1, no.1),
        )
    }
}

/// Transposes if the CPU has AVX2. The caller has checked that every row lies within `out`.
#[inline]
pub(super) fn transpose(tile: &[[f32; LANES]; LANES], out: &mut [f32], stride: usize) -> bool {
    let can = level() >= Level::Avx2 && out.len() >= (LANES - 1) * stride + LANES;
    if can {
        // SAFETY: AVX2 includes AVX, and the rows lie within `out`.
        unsafe { transpose_avx(tile, out.as_mut_ptr(), stride) }
    }
    can
}

/// Four transposed squares of 8.
///
/// # Safety
/// `out` is valid for writes of 16 floats at each of 16 offsets `i * stride`.
#[target_feature(enable = "avx")]
unsafe fn transpose_avx(tile: &[[f32; LANES]; LANES], out: *mut f32, stride: usize) {
    for (top, left) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
        // SAFETY: `top + i < 16` and `left + 8 <= 16`.
        let line = |i: usize| unsafe { _mm256_loadu_ps(tile[top + i].as_ptr().add(left)) };
        let mut pairs = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            let (a, b) = (line(2 * i), line(2 * i + 1));
            pairs[2 * i] = _mm256_unpacklo_ps(a, b);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(a, b);
        }
        let mut fours = [_mm256_setzero_ps(); 8];
        for i in [0, 4] {
            fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            // SAFETY: rows `left + i` and `left + i + 4` are below 16, `top + 8 <= 16`.
            unsafe {
                _mm256_storeu_ps(out.add((left + i) * stride + top), low);
                _mm256_storeu_ps(out.add((left + i + 4) * stride + top), high);
            }
        }
    }
}

/// Asks for the cache line of `byte`.
#[inline(always)]
pub(super) fn prefetch(byte: &u8) {
    // SAFETY: SSE is part of the target, and a prefetch reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) }
}
