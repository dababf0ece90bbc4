//! Rows in vectors of AVX-512, four groups at a time: what is one number per group is a lane then.

use super::{INFINITE, Planes, ROUNDER, Row, TINY};
use std::arch::x86_64::*;

/// Lanes of a vector.
const LANES: usize = 16;

/// Groups that are worked on at a time.
const BATCH: usize = 4;

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
fn run<const PLANES: usize, const VECTORS: usize>(mut row: Row<'_>) {
    let (values, tail) = row.x.as_chunks::<LANES>();
    let tail = part(tail);
    let groups = row.layout.groups;
    let vectors = if VECTORS == 0 { row.layout.group / LANES } else { VECTORS };
    // Batches of whole groups, then what may have an end in it.
    let whole = values.len() / (BATCH * vectors) * BATCH;
    for first in (0..whole).step_by(BATCH) {
        let values = &values[first * vectors..(first + BATCH) * vectors];
        batch::<PLANES, VECTORS>(&mut row, first, BATCH, |i| match values.get(i) {
            Some(values) => load(values),
            None => _mm512_setzero_ps(),
        });
    }
    for first in (whole..groups).step_by(BATCH) {
        let count = BATCH.min(groups - first);
        batch::<PLANES, VECTORS>(&mut row, first, count, |i| {
            let i = first * vectors + i;
            match values.get(i) {
                Some(values) => load(values),
                None if i == values.len() => tail,
                None => _mm512_setzero_ps(),
            }
        });
    }
}

/// `count` groups from `first` on. `vector` gives their values.
#[target_feature(enable = "avx512f")]
#[inline]
fn batch<const PLANES: usize, const VECTORS: usize>(
    row: &mut Row<'_>,
    first: usize,
    count: usize,
    vector: impl Fn(usize) -> __m512,
) {
    let layout = &row.layout;
    let vectors = if VECTORS == 0 { layout.group / LANES } else { VECTORS };
    let plane = layout.plane();
    let (largest, middle) = (layout.planes.largest() as f32, i32::from(layout.bits.middle()));

    let mut most = [_mm512_setzero_si512(); BATCH];
    for (i, most) in most[..count].iter_mut().enumerate() {
        let mut all = _mm512_setzero_si512();
        for v in 0..vectors {
            let magnitude = _mm512_abs_ps(vector(i * vectors + v));
            all = _mm512_max_epu32(all, _mm512_castps_si512(magnitude));
        }
        *most = all;
    }
    let (scale, inverses) = scales_of(join_most(most), largest);

    // Two vectors at a time: 32 bytes of codes are one store.
    let mut totals = [[_mm512_setzero_si512(); BATCH]; PLANES];
    let codes = &mut row.codes[first * layout.group..];
    if vectors == 1 {
        for i in 0..count / 2 {
            let a = planes::<PLANES>(vector(2 * i), lane(inverses, 2 * i));
            let b = planes::<PLANES>(vector(2 * i + 1), lane(inverses, 2 * i + 1));
            write(a, b, plane, &mut codes[2 * i * LANES..]);
            for (totals, (a, b)) in totals.iter_mut().zip(a.into_iter().zip(b)) {
                (totals[2 * i], totals[2 * i + 1]) = (a, b);
            }
        }
    } else {
        for i in 0..count {
            let inverse = lane(inverses, i);
            let mut sums = [_mm512_setzero_si512(); PLANES];
            for v in (0..vectors).step_by(2) {
                let v = i * vectors + v;
                let a = planes::<PLANES>(vector(v), inverse);
                let b = planes::<PLANES>(vector(v + 1), inverse);
                write(a, b, plane, &mut codes[v * LANES..]);
                for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
                    *sum = _mm512_add_epi32(*sum, _mm512_add_epi32(a, b));
                }
            }
            for (totals, sum) in totals.iter_mut().zip(sums) {
                totals[i] = sum;
            }
        }
    }

    let mut joined = _mm_setzero_ps();
    for (p, (starts, totals)) in row.starts.iter_mut().zip(totals).enumerate() {
        let total = join_sum(totals);
        let start = _mm_mullo_epi32(total, _mm_set1_epi32(-middle));
        store(&mut starts[first..first + count], start);
        let total = _mm_cvtepi32_ps(total);
        joined = if p == 0 { total } else { _mm_fmadd_ps(joined, _mm_set1_ps(128.0), total) };
    }
    let sums = _mm_mul_ps(scale, joined);
    store(&mut row.scales[first..first + count], _mm_castps_si128(scale));
    store(&mut row.sums[first..first + count], _mm_castps_si128(sums));
}

/// Scales and their inverses, of the bits of the largest magnitudes.
#[target_feature(enable = "avx512f")]
#[inline]
fn scales_of(most: __m128i, largest: f32) -> (__m128, __m128) {
    let (amax, largest) = (_mm_castsi128_ps(most), _mm_set1_ps(largest));
    // Not TINY or less, so that NaN is among them.
    let some = _mm_cmpnle_ps(amax, _mm_set1_ps(TINY));
    let bad = _mm_castsi128_ps(_mm_cmpgt_epi32(most, _mm_set1_epi32(INFINITE as i32 - 1)));
    let scale = _mm_and_ps(some, _mm_div_ps(amax, largest));
    let inverse = _mm_andnot_ps(bad, _mm_and_ps(some, _mm_div_ps(largest, amax)));
    (_mm_blendv_ps(scale, _mm_set1_ps(f32::NAN), bad), inverse)
}

/// Lane `i` in all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn lane(lanes: __m128, i: usize) -> __m512 {
    let lanes = _mm512_castps128_ps512(lanes);
    _mm512_permutexvar_ps(_mm512_set1_epi32(i as i32), lanes)
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

/// Declares a function: lane `i` of the result is all lanes of vector `i`, joined.
macro_rules! join {
    ($(#[$doc:meta])* $name:ident, $wide:ident, $half:ident, $quarter:ident) => {
        $(#[$doc])*
        #[target_feature(enable = "avx512f")]
        #[inline]
        fn $name([a, b, c, d]: [__m512i; BATCH]) -> __m128i {
            let ab = $wide(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = $wide(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            // Each quarter has its four.
            let all = $wide(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let half = $half(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
            $quarter(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
        }
    };
}

join! {
    /// The largest lane of each vector, unsigned.
    join_most, _mm512_max_epu32, _mm256_max_epu32, _mm_max_epu32
}

join! {
    /// The sum of the lanes of each vector.
    join_sum, _mm512_add_epi32, _mm256_add_epi32, _mm_add_epi32
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

/// Writes lanes to as many numbers as there are, at most four.
#[target_feature(enable = "avx512f")]
#[inline]
fn store<T: Number>(to: &mut [T], lanes: __m128i) {
    let mut all = [0u32; BATCH];
    // SAFETY: 16 bytes are written.
    #[allow(unsafe_code)]
    unsafe {
        _mm_storeu_si128(all.as_mut_ptr().cast(), lanes);
    }
    for (to, bits) in to.iter_mut().zip(all) {
        *to = T::of_bits(bits);
    }
}

/// A number of 32 bits.
trait Number {
    fn of_bits(bits: u32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn of_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }
}

impl Number for i32 {
    #[inline(always)]
    fn of_bits(bits: u32) -> Self {
        bits.cast_signed()
    }
}
