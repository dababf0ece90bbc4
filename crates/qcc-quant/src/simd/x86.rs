//! The vectors of AVX2 and AVX-512.

#![expect(unsafe_code)]

use super::{LANES, Plain, Vector, VectorKernel};
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
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
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
        // SAFETY: `level` has found AVX2 and FMA.
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Plain => kernel.run::<Plain>(),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: VectorKernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

#[target_feature(enable = "avx2,fma")]
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
    fn store_halves(self, high: Self, words: &mut [u32; LANES]) {
        // SAFETY: AVX-512, see above; 16 words are written.
        unsafe {
            let high = _mm512_slli_epi32::<16>(_mm512_castps_si512(high.0));
            let (low, mask) = (_mm512_castps_si512(self.0), _mm512_set1_epi32(0xffff));
            let joined = _mm512_ternarylogic_epi32::<0xf8>(high, low, mask); // high | low & mask
            _mm512_storeu_si512(words.as_mut_ptr().cast(), joined);
        }
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
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: AVX-512, see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
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
    #[inline(always)]
    fn transpose(tile: [Self; LANES]) -> [Self; LANES] {
        let mut pairs = tile;
        let mut fours = tile;
        let mut out = tile;
        // SAFETY: AVX-512, see above.
        unsafe {
            for i in (0..LANES).step_by(2) {
                pairs[i] = Self(_mm512_unpacklo_ps(tile[i].0, tile[i + 1].0));
                pairs[i + 1] = Self(_mm512_unpackhi_ps(tile[i].0, tile[i + 1].0));
            }
            for i in (0..LANES).step_by(4) {
                let [a, b, c, d] = [pairs[i].0, pairs[i + 1].0, pairs[i + 2].0, pairs[i + 3].0];
                fours[i] = Self(_mm512_shuffle_ps::<0x44>(a, c));
                fours[i + 1] = Self(_mm512_shuffle_ps::<0xee>(a, c));
                fours[i + 2] = Self(_mm512_shuffle_ps::<0x44>(b, d));
                fours[i + 3] = Self(_mm512_shuffle_ps::<0xee>(b, d));
            }
            for i in 0..4 {
                let [a, b, c, d] = [fours[i].0, fours[i + 4].0, fours[i + 8].0, fours[i + 12].0];
                let even = _mm512_shuffle_f32x4::<0x88>(a, b);
                let odd = _mm512_shuffle_f32x4::<0xdd>(a, b);
                let even_below = _mm512_shuffle_f32x4::<0x88>(c, d);
                let odd_below = _mm512_shuffle_f32x4::<0xdd>(c, d);
                out[i] = Self(_mm512_shuffle_f32x4::<0x88>(even, even_below));
                out[i + 4] = Self(_mm512_shuffle_f32x4::<0x88>(odd, odd_below));
                out[i + 8] = Self(_mm512_shuffle_f32x4::<0xdd>(even, even_below));
                out[i + 12] = Self(_mm512_shuffle_f32x4::<0xdd>(odd, odd_below));
            }
        }
        out
    }
    #[inline(always)]
    fn least(self) -> f32 {
        // SAFETY: AVX-512, see above.
        unsafe {
            let (low, high) = halves(self.0);
            fold(_mm256_min_ps(low, high), |a, b| _mm_min_ps(a, b))
        }
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: AVX-512, see above.
        unsafe {
            let (low, high) = halves(self.0);
            fold(_mm256_max_ps(low, high), |a, b| _mm_max_ps(a, b))
        }
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
        unsafe { Self(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values[8..].as_ptr())) }
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
    fn store_halves(self, high: Self, words: &mut [u32; LANES]) {
        // SAFETY: AVX2, see above; 8 words are written to each half.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff);
            let join = |low, high| {
                let low = _mm256_and_si256(_mm256_castps_si256(low), mask);
                _mm256_or_si256(low, _mm256_slli_epi32::<16>(_mm256_castps_si256(high)))
            };
            let (left, right) = words.split_at_mut(8);
            _mm256_storeu_si256(left.as_mut_ptr().cast(), join(self.0, high.0));
            _mm256_storeu_si256(right.as_mut_ptr().cast(), join(self.1, high.1));
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
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let (Self(a, b), Self(c, d), Self(e, f)) = (self, factor, addend);
        // SAFETY: AVX2 and FMA, see above.
        unsafe { Self(_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)) }
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
        let select =
            |a, b, yes, no| unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) };
        Self(select(self.0, bound.0, yes.0, no.0), select(self.1, bound.1, yes.1, no.1))
    }
    #[inline(always)]
    fn transpose(tile: [Self; LANES]) -> [Self; LANES] {
        // SAFETY: AVX2, see above.
        let quarter = |top: usize, high: bool| unsafe {
            transpose_8(std::array::from_fn(|i| {
                let Self(left, right) = tile[top + i];
                if high { right } else { left }
            }))
        };
        let [a, b] = [quarter(0, false), quarter(8, false)];
        let [c, d] = [quarter(0, true), quarter(8, true)];
        std::array::from_fn(|i| if i < 8 { Self(a[i], b[i]) } else { Self(c[i - 8], d[i - 8]) })
    }
    #[inline(always)]
    fn least(self) -> f32 {
        // SAFETY: AVX2, see above.
        unsafe { fold(_mm256_min_ps(self.0, self.1), |a, b| _mm_min_ps(a, b)) }
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: AVX2, see above.
        unsafe { fold(_mm256_max_ps(self.0, self.1), |a, b| _mm_max_ps(a, b)) }
    }
}

/// Lanes 0 to 7 and 8 to 15.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn halves(x: __m512) -> (__m256, __m256) {
    // SAFETY: AVX-512 is the caller's promise.
    unsafe { (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) }
}

/// Joins lane `i` with lane `i + 4`, then `i + 2`, then `i + 1`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold(x: __m256, join: impl Fn(__m128, __m128) -> __m128) -> f32 {
    // SAFETY: AVX2 is the caller's promise.
    unsafe {
        let four = join(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = join(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(join(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// A transposed square of 8.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn transpose_8(tile: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = tile;
    let mut fours = tile;
    let mut out = tile;
    // SAFETY: AVX2 is the caller's promise.
    unsafe {
        for i in (0..8).step_by(2) {
            pairs[i] = _mm256_unpacklo_ps(tile[i], tile[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(tile[i], tile[i + 1]);
        }
        for i in [0, 4] {
            fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
        }
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
    }
    out
}

/// Squares of four words, transposed.
#[inline(always)]
pub(super) fn transpose_words(tile: [[u32; LANES]; LANES / 4]) -> [[u8; LANES]; LANES] {
    let mut out = [[0; LANES]; LANES];
    // SAFETY: SSE2 is part of the target; four words are loaded and 16 bytes stored, whole.
    unsafe {
        for (rows, left) in out.as_chunks_mut::<4>().0.iter_mut().zip((0..LANES).step_by(4)) {
            let [a, b, c, d] =
                tile.map(|line| _mm_loadu_si128(line[left..left + 4].as_ptr().cast()));
            let (low, low_next) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (high, high_next) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            let lines = [
                _mm_unpacklo_epi64(low, low_next),
                _mm_unpackhi_epi64(low, low_next),
                _mm_unpacklo_epi64(high, high_next),
                _mm_unpackhi_epi64(high, high_next),
            ];
            for (row, line) in rows.iter_mut().zip(lines) {
                _mm_storeu_si128(row.as_mut_ptr().cast(), line);
            }
        }
    }
    out
}

/// Asks for the cache line of `byte`.
#[inline(always)]
pub(super) fn prefetch(byte: &u8) {
    // SAFETY: SSE is part of the target, and a prefetch reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) }
}
