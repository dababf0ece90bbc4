//! Runs plain loops with the vector instructions the CPU has.
//!
//! A [`Kernel`] is scalar Rust, compiled once for each level. The compiler neither reorders float
//! sums nor fuses multiply and add, so that every level computes the same bits: sums that should
//! be fast keep [`LANES`] partial sums of their own.

/// Partial sums of a vectorized loop: the floats of one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// Adding and subtracting it rounds a float of magnitude below 2^22 to an integer, half to even;
/// the low byte of the sum is the integer modulo 256.
pub(crate) const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

/// A loop over slices. `run` and what it calls must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;
    /// The definition.
    fn run(self) -> Self::Output;
}

/// Runs `kernel` at the best level of this CPU.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: `level` has found the features of the callee.
        Level::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Plain => kernel.run(),
    }
}

/// Runs `kernel` as compiled for the target.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Sum of the lanes in a fixed order.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// `tile` transposed into 16 rows of `out`, `stride` apart. `out.len() >= 15 * stride + 16`.
pub(crate) fn transpose(tile: &[[f32; LANES]; LANES], out: &mut [f32], stride: usize) {
    assert!(stride >= LANES && out.len() >= (LANES - 1) * stride + LANES);
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Plain {
        #[allow(unsafe_code)]
        // SAFETY: both vector levels include AVX; the assertion above bounds every row.
        unsafe {
            transpose_avx(tile, out.as_mut_ptr(), stride);
        }
        return;
    }
    for (column, row) in out.chunks_mut(stride).take(LANES).enumerate() {
        for (value, line) in row.iter_mut().zip(tile) {
            *value = line[column];
        }
    }
}

/// Instruction sets told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg(target_arch = "x86_64")]
pub(crate) enum Level {
    Plain,
    Avx2,
    Avx512,
}

/// The best level of this CPU.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> Level {
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Four transposed squares of 8.
///
/// # Safety
/// `out` is valid for writes of 16 floats at each of 16 offsets `i * stride`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[allow(unsafe_code)]
unsafe fn transpose_avx(tile: &[[f32; LANES]; LANES], out: *mut f32, stride: usize) {
    use std::arch::x86_64::*;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transpose_moves_every_value() {
        let mut tile = [[0.0; LANES]; LANES];
        for (i, line) in tile.iter_mut().enumerate() {
            for (j, value) in line.iter_mut().enumerate() {
                *value = (i * LANES + j) as f32;
            }
        }
        let mut out = vec![-1.0; 15 * 20 + 16];
        transpose(&tile, &mut out, 20);
        for (at, &value) in out.iter().enumerate() {
            let (row, column) = (at / 20, at % 20);
            let expected = if column < 16 { (column * 16 + row) as f32 } else { -1.0 };
            assert_eq!(value, expected, "row {row}, column {column}");
        }
    }

    #[test]
    fn the_rounder_rounds_half_to_even() {
        for (x, expected) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-128.0, -128)] {
            let sum = x + ROUNDER;
            assert_eq!(sum - ROUNDER, expected as f32);
            assert_eq!(sum.to_bits() as u8, expected as u8);
        }
    }
}
