//! Weights and specs for tests.

use crate::{
    codes::Codes,
    quantize::RowOut,
    rows::{FloatKind, Order, WeightRows},
    rtn::{Grids, encode},
    spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
};
use proptest::prelude::*;

/// Normal weights, a few of them large.
pub(crate) fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count)
        .map(|i| {
            let sum: f32 = (0..12).map(|_| uniform()).sum();
            0.05 * (sum - 6.0) * if i % 37 == 5 { 4.0 } else { 1.0 }
        })
        .collect()
}

/// The little-endian bytes of floats.
pub(crate) fn bytes_of(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Quantizes one row.
pub(crate) fn quantize_slice(
    weights: &[f32],
    quantize: impl FnOnce(&WeightRows<'_>) -> Codes,
) -> Codes {
    let bytes = bytes_of(weights);
    let (n, k) = (1, weights.len());
    quantize(&WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk).unwrap())
}

/// Round to nearest of a run of whole groups of one row, group by group.
pub(crate) fn rtn_groups(weights: &[f32], size: usize, spec: &WeightSpec, out: RowOut<'_>) {
    let groups = weights.chunks(size).zip(out.codes.chunks_mut(size));
    for ((weights, codes), (scale, zero)) in groups.zip(out.scales.iter_mut().zip(out.zeros)) {
        let mut grids = Grids::default();
        grids.low[0] = weights.iter().copied().fold(0.0, f32::min);
        grids.high[0] = weights.iter().copied().fold(0.0, f32::max);
        grids.choose(spec, 1, &|_| weights.iter().copied());
        (*scale, *zero) = (grids.scale[0], grids.zero[0]);
        encode(weights, *scale, *zero, spec.bits.max_code(), codes);
    }
}

/// Every kind of spec.
pub(crate) fn specs() -> impl Strategy<Value = WeightSpec> {
    let sizes = prop_oneof![
        (1u32..80).prop_map(|size| GroupSize::of(size).unwrap()),
        prop::sample::select(vec![16, 32, 64, 128]).prop_map(|size| GroupSize::of(size).unwrap()),
        Just(GroupSize::Row),
    ];
    let grids = prop::sample::select(vec![Grid::Sym, Grid::Asym]);
    let scales = prop::sample::select(vec![ScaleType::F32, ScaleType::F16, ScaleType::BF16]);
    (2u8..=8, sizes, grids, scales).prop_map(|(bits, group, grid, scale)| WeightSpec {
        bits: Bits::new(bits).unwrap(),
        group,
        grid,
        scale,
    })
}
