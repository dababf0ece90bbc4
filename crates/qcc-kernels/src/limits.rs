//! What the CPU at hand can do at most, measured: bytes read and 8-bit products in a second.
//!
//! A product needs the larger of `bytes / read rate` and `products / dot product rate`; that over
//! the time that it takes is its share of the limit. Each figure is the best of many short rounds.

use crate::pages::Region;
use crate::spec::Isa;
use crate::threads::Threads;
use pulp::bytemuck::{bytes_of, try_cast_slice};
use pulp::{Arch, Simd, WithSimd};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Time of all rounds of a figure.
const TIME: Duration = Duration::from_millis(120);

/// Parts that a round is cut in.
const PARTS: usize = 64;

/// Bytes a second that threads read from a buffer of so many bytes, which they share out: from the
/// cache that holds it, or from memory.
#[must_use]
pub fn read_rate(threads: &dyn Threads, bytes: usize) -> f64 {
    let bytes = bytes.max(PARTS * LINE).next_multiple_of(PARTS * LINE);
    // In huge pages, as packed weights are; without memory there is nothing to measure.
    let Ok(mut region) = Region::new(bytes) else { return 0.0 };
    region.bytes_mut().fill(1);
    let buffer = region.bytes();
    // Small buffers are read more than once in a round, by the same threads.
    let repeats = (1usize << 22).div_ceil(bytes).max(1);
    let part = bytes / PARTS;
    let took = best(|| {
        threads.run(PARTS, &|range| {
            let bytes = &buffer[range.start * part..range.end * part];
            for _ in 0..repeats {
                black_box(Arch::new().dispatch(Read { bytes: black_box(bytes) }));
            }
        });
    });
    (bytes * repeats) as f64 / took.as_secs_f64()
}

/// Bytes of eight of the longest registers.
const LINE: usize = 512;

/// All bytes or each other, in eight registers.
struct Read<'a> {
    bytes: &'a [u8],
}

impl WithSimd for Read<'_> {
    type Output = u8;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u8 {
        let words = try_cast_slice::<u8, S::u64s>(self.bytes).unwrap_or(&[]);
        let zero = simd.splat_u64s(0);
        let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
        let (mut e, mut f, mut g, mut h) = (zero, zero, zero, zero);
        for line in words.as_chunks::<8>().0 {
            (a, b) = (simd.or_u64s(a, line[0]), simd.or_u64s(b, line[1]));
            (c, d) = (simd.or_u64s(c, line[2]), simd.or_u64s(d, line[3]));
            (e, f) = (simd.or_u64s(e, line[4]), simd.or_u64s(f, line[5]));
            (g, h) = (simd.or_u64s(g, line[6]), simd.or_u64s(h, line[7]));
        }
        let all = [a, b, c, d, e, f, g, h];
        let all = all.into_iter().fold(zero, |all, it| simd.or_u64s(all, it));
        bytes_of(&all).iter().fold(0, |all, it| all | it)
    }
}

/// Products of codes of 4 bits and activations of 8 that threads add up in a second, from
/// registers, by the instructions that kernels of the instruction set use. `None` where they are
/// not known here.
#[must_use]
pub fn dot_rate(threads: &dyn Threads, isa: Isa) -> Option<f64> {
    /// Steps of a part.
    const STEPS: usize = 1 << 12;
    let products = dots(isa, 1)?;
    let took = best(|| {
        threads.run(PARTS, &|range| {
            for _ in range {
                black_box(dots(isa, STEPS));
            }
        });
    });
    Some((products * STEPS * PARTS) as f64 / took.as_secs_f64())
}

/// The shortest of rounds that fill [`TIME`].
fn best(mut round: impl FnMut()) -> Duration {
    let (start, mut least) = (Instant::now(), Duration::MAX);
    // The first one brings pages and threads.
    round();
    while least == Duration::MAX || start.elapsed() < TIME {
        let at = Instant::now();
        round();
        least = least.min(at.elapsed());
    }
    least.max(Duration::from_nanos(1))
}

/// Adds up products in so many steps: how many a step has.
fn dots(isa: Isa, steps: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        match isa {
            Isa::Avx512Vnni if has!("avx512f") && has!("avx512vnni") => {
                // SAFETY: the CPU has the features.
                #[allow(unsafe_code)]
                unsafe {
                    x86::wide(steps);
                }
                return Some(x86::SUMS * 64);
            }
            Isa::AvxVnni if has!("avxvnni") && has!("avx2") => {
                // SAFETY: the CPU has the features.
                #[allow(unsafe_code)]
                unsafe {
                    x86::narrow(steps);
                }
                return Some(x86::SUMS * 32);
            }
            Isa::Avx512 if has!("avx512bw") => {
                // SAFETY: the CPU has the features.
                #[allow(unsafe_code)]
                unsafe {
                    x86::wide_words(steps);
                }
                return Some(x86::PAIRS * 64);
            }
            Isa::Avx2 if has!("avx2") => {
                // SAFETY: the CPU has the feature.
                #[allow(unsafe_code)]
                unsafe {
                    x86::narrow_words(steps);
                }
                return Some(x86::PAIRS * 32);
            }
            _ => {}
        }
    }
    let _ = (isa, steps);
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_add_epi16, _mm256_dpbusd_avx_epi32, _mm256_maddubs_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256, _mm512_add_epi16, _mm512_dpbusd_epi32, _mm512_maddubs_epi16,
        _mm512_set1_epi32, _mm512_setzero_si512,
    };
    use std::hint::black_box;

    /// Sums that do not wait for each other.
    pub(super) const SUMS: usize = 12;

    /// The same of sums that wait for one addition only; with codes they fit 16 registers.
    pub(super) const PAIRS: usize = 6;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn wide(steps: usize) {
        let (a, b) = (_mm512_set1_epi32(black_box(0x0102_0304)), _mm512_set1_epi32(black_box(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// Products of pairs in 16 bits, and their sums: in a kernel these are most of the work.
    /// Activations differ from step to step, or it would be computed once.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn wide_words(steps: usize) {
        let codes: [_; PAIRS] = std::array::from_fn(|i| _mm512_set1_epi32(black_box(i as i32 + 1)));
        let (mut acts, one) = (_mm512_set1_epi32(black_box(5)), _mm512_set1_epi32(black_box(1)));
        let mut sums = [_mm512_set1_epi32(0); PAIRS];
        for _ in 0..steps {
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(codes, acts));
            }
            acts = _mm512_add_epi16(acts, one);
        }
        black_box(sums);
    }

    /// The same with half the width.
    #[target_feature(enable = "avx2")]
    pub(super) fn narrow_words(steps: usize) {
        let codes: [_; PAIRS] = std::array::from_fn(|i| _mm256_set1_epi32(black_box(i as i32 + 1)));
        let (mut acts, one) = (_mm256_set1_epi32(black_box(5)), _mm256_set1_epi32(black_box(1)));
        let mut sums = [_mm256_set1_epi32(0); PAIRS];
        for _ in 0..steps {
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, acts));
            }
            acts = _mm256_add_epi16(acts, one);
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn narrow(steps: usize) {
        let (a, b) = (_mm256_set1_epi32(black_box(0x0102_0304)), _mm256_set1_epi32(black_box(5)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Alone;

    #[test]
    fn figures_are_those_of_a_cpu() {
        // From a modem to a supercomputer; and all of the buffer is read.
        let rate = read_rate(&Alone, 1 << 16);
        assert!((1e7..1e13).contains(&rate), "{rate}");
        for at in [0, 7, LINE, 2 * LINE - 1] {
            let mut region = Region::new(2 * LINE).unwrap();
            region.bytes_mut().fill(0);
            region.bytes_mut()[at] = 5;
            assert_eq!(Arch::new().dispatch(Read { bytes: region.bytes() }), 5);
        }
        assert_eq!(dot_rate(&Alone, Isa::Scalar), None);
        for isa in [Isa::Avx512Vnni, Isa::AvxVnni, Isa::Avx512, Isa::Avx2] {
            let rate = dot_rate(&Alone, isa);
            // Without optimization, on a busy machine, it is a small part of what it should be.
            assert!(rate.is_none_or(|it| (1e6..1e14).contains(&it)), "{isa}: {rate:?}");
        }
        #[cfg(target_arch = "x86_64")]
        assert_eq!(dot_rate(&Alone, Isa::Avx2).is_some(), std::is_x86_feature_detected!("avx2"));
    }
}
