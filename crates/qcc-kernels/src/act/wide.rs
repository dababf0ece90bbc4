//! Rows in vectors of AVX-512, 16 groups at a time: what is one number per group is a lane then.

use super::{INFINITE, Planes, ROUNDER, Row, TINY};
use std::arch::x86_64::*;

/// Lanes of a vector, and groups that are worked on at a time.
const LANES: usize = 16;

/// Quantizes a row, or gives it back if the CPU has no such vectors.
#[inline]
pub(super) fn quantize(row: Row<'_>) -> Option<Row<'_>> {
    if !is_x86_feature_detected!("avx512f") {
        return Some(row);
    }
    // SAFETY: the CPU has AVX-512.
    #[allow(unsafe_code)]
    unsafe {
        match (row.layout.planes, row.layout.group / LANES) {
            (Planes::A8, 1) => run::<1, 1>(row),
            (Planes::A8, 2) => run::<1, 2>(row),
            (Planes::A8, _) => run::<1, 0>(row),
            (Planes::A15, 1) => run::<2, 1>(row),
            (Planes::A15, 2) => run::<2, 2>(row),
            (Planes::A15, _) => run::<2, 0>(row),
            (Planes::A22, 1) => run::<3, 1>(row),
            (Planes::A22, 2) => run::<3, 2>(row),
            (Planes::A22, _) => run::<3, 0>(row),
        }
    }
    None
}

/// `VECTORS` are those of a group; 0 is any number of them.
#[target_feature(enable = "avx512f")]
fn run<const PLANES: usize, const VECTORS: usize>(row: Row<'_>) {
    let Row { layout, x, codes, scales, sums, mut starts } = row;
    let (values, tail) = x.as_chunks::<LANES>();
    let tail = part(tail);
    // Vector number `i` of the row: values, then what is left of them, then zeros.
    let vector = |i: usize| match values.get(i) {
        Some(values) => load(values),
        None if i == values.len() => tail,
        None => _mm512_setzero_ps(),
    };
    let vectors = if VECTORS == 0 { layout.group / LANES } else { VECTORS };
    let plane = layout.plane();
    let (largest, middle) = (layout.planes.largest() as f32, i32::from(layout.bits.middle()));

    for first in (0..layout.groups).step_by(LANES) {
        let count = LANES.min(layout.groups - first);
        let mut most = [_mm512_setzero_si512(); LANES];
        for (i, most) in most[..count].iter_mut().enumerate() {
            let mut all = _mm512_setzero_si512();
            for v in 0..vectors {
                let magnitude = _mm512_abs_ps(vector((first + i) * vectors + v));
                all = _mm512_max_epu32(all, _mm512_castps_si512(magnitude));
            }
            *most = all;
        }
        let (scale, inverse) = scales_of(join::<true>(most), largest);
        let mut inverses = [0.0; LANES];
        store(&mut inverses, inverse);

        // Two vectors at a time: 32 bytes of codes are one store.
        let mut totals = [[_mm512_setzero_si512(); LANES]; PLANES];
        if vectors == 1 {
            for (i, pair) in inverses[..count].as_chunks::<2>().0.iter().enumerate() {
                let v = first + 2 * i;
                let a = planes::<PLANES>(vector(v), _mm512_set1_ps(pair[0]));
                let b = planes::<PLANES>(vector(v + 1), _mm512_set1_ps(pair[1]));
                write(a, b, plane, &mut codes[LANES * v..]);
                for (totals, (a, b)) in totals.iter_mut().zip(a.into_iter().zip(b)) {
                    (totals[2 * i], totals[2 * i + 1]) = (a, b);
                }
            }
        } else {
            for (i, inverse) in inverses[..count].iter().enumerate() {
                let inverse = _mm512_set1_ps(*inverse);
                let mut sums = [_mm512_setzero_si512(); PLANES];
                for pair in 0..vectors / 2 {
                    let v = (first + i) * vectors + 2 * pair;
                    let a = planes::<PLANES>(vector(v), inverse);
                    let b = planes::<PLANES>(vector(v + 1), inverse);
                    write(a, b, plane, &mut codes[LANES * v..]);
                    for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
                        *sum = _mm512_add_epi32(*sum, _mm512_add_epi32(a, b));
                    }
                }
                for (totals, sum) in totals.iter_mut().zip(sums) {
                    totals[i] = sum;
                }
            }
        }

        let mut joined = _mm512_setzero_ps();
        for (p, (starts, totals)) in starts.iter_mut().zip(totals).enumerate() {
            let total = join::<false>(totals);
            let start = _mm512_mullo_epi32(total, _mm512_set1_epi32(-middle));
            let mut lanes = [0.0; LANES];
            store(&mut lanes, _mm512_castsi512_ps(start));
            for (start, lane) in starts[first..first + count].iter_mut().zip(lanes) {
                *start = lane.to_bits() as i32;
            }
            let total = _mm512_cvtepi32_ps(total);
            joined = match p {
                0 => total,
                _ => _mm512_fmadd_ps(joined, _mm512_set1_ps(128.0), total),
            };
        }
        for (to, vector) in [(&mut *scales, scale), (&mut *sums, _mm512_mul_ps(scale, joined))] {
            let mut lanes = [0.0; LANES];
            store(&mut lanes, vector);
            to[first..first + count].copy_from_slice(&lanes[..count]);
        }
    }
}

/// Scales and their inverses, of the bits of the largest magnitudes.
#[target_feature(enable = "avx512f")]
#[inline]
fn scales_of(most: __m512i, largest: f32) -> (__m512, __m512) {
    let (amax, largest) = (_mm512_castsi512_ps(most), _mm512_set1_ps(largest));
    // Not TINY or less, so that NaN is among them.
    let some = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(amax, _mm512_set1_ps(TINY));
    let bad = _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(INFINITE as i32));
    let scale = _mm512_maskz_div_ps(some, amax, largest);
    let inverse = _mm512_maskz_div_ps(some & !bad, largest, amax);
    (_mm512_mask_mov_ps(scale, bad, _mm512_set1_ps(f32::NAN)), inverse)
}

/// Codes of 16 values by plane. Of what is not finite they are anything.
#[target_feature(enable = "avx512f")]
#[inline]
fn planes<const PLANES: usize>(values: __m512, inverse: __m512) -> [__m512i; PLANES] {
    let rounder = _mm512_set1_ps(ROUNDER);
    let scaled = _mm512_add_ps(_mm512_mul_ps(values, inverse), rounder);
    let mut a = _mm512_sub_epi32(_mm512_castps_si512(scaled), _mm512_castps_si512(rounder));
    let mut all = [a; PLANES];
    for low in all[1..].iter_mut().rev() {
        let half = _mm512_set1_epi32(64);
        *low = _mm512_and_si512(_mm512_add_epi32(a, half), _mm512_set1_epi32(127));
        *low = _mm512_sub_epi32(*low, half);
        a = _mm512_srai_epi32::<7>(_mm512_sub_epi32(a, *low));
    }
    all[0] = a;
    all
}

/// Writes codes of 32 values, `codes` being where those of plane 0 go.
#[target_feature(enable = "avx512f")]
#[inline]
fn write<const PLANES: usize>(
    a: [__m512i; PLANES],
    b: [__m512i; PLANES],
    plane: usize,
    codes: &mut [i8],
) {
    for (p, (a, b)) in a.into_iter().zip(b).enumerate() {
        let both = _mm256_set_m128i(_mm512_cvtepi32_epi8(b), _mm512_cvtepi32_epi8(a));
        if let Some(to) = codes.get_mut(p * plane..).and_then(|it| it.first_chunk_mut()) {
            let to: &mut [i8; 2 * LANES] = to;
            // SAFETY: 32 bytes are written.
            #[allow(unsafe_code)]
            unsafe {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), both);
            }
        }
    }
}

/// Lane `i` is all lanes of vector `i` joined: the largest unsigned if `MOST`, else the sum.
#[target_feature(enable = "avx512f")]
#[inline]
fn join<const MOST: bool>(vectors: [__m512i; LANES]) -> __m512i {
    let mut pairs = [_mm512_setzero_si512(); 8];
    for (to, from) in pairs.iter_mut().zip(vectors.as_chunks::<2>().0) {
        let low = _mm512_unpacklo_epi32(from[0], from[1]);
        *to = both::<MOST>(low, _mm512_unpackhi_epi32(from[0], from[1]));
    }
    let mut fours = [_mm512_setzero_si512(); 4];
    for (to, from) in fours.iter_mut().zip(pairs.as_chunks::<2>().0) {
        let low = _mm512_unpacklo_epi64(from[0], from[1]);
        *to = both::<MOST>(low, _mm512_unpackhi_epi64(from[0], from[1]));
    }
    // Now each quarter of a vector has its four; quarters are joined.
    let [a, b, c, d] = fours;
    quarters::<MOST>(quarters::<MOST>(a, b), quarters::<MOST>(c, d))
}

/// Even quarters of both joined with the odd ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarters<const MOST: bool>(a: __m512i, b: __m512i) -> __m512i {
    let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
    both::<MOST>(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn both<const MOST: bool>(a: __m512i, b: __m512i) -> __m512i {
    if MOST { _mm512_max_epu32(a, b) } else { _mm512_add_epi32(a, b) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: 16 floats are read.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

/// Up to 15 values, then zeros.
#[target_feature(enable = "avx512f")]
#[inline]
fn part(values: &[f32]) -> __m512 {
    let mut all = [0.0; LANES];
    all[..values.len()].copy_from_slice(values);
    load(&all)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(to: &mut [f32; LANES], vector: __m512) {
    // SAFETY: 16 floats are written.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_ps(to.as_mut_ptr(), vector);
    }
}
