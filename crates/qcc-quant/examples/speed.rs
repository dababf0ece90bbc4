//! Prints the speed of rounding and of the scale searches on a random weight.
//!
//! Arguments: MiB of f32 weights (256), threads (all).

use qcc_quant::{
    numbers::{NumbersMut, NumbersShape},
    rows::{FloatKind, Order, WeightRows},
    rtn::rtn_into,
    search::{SearchKind, search},
    spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
};
use std::{env, time::Instant};

const K: usize = 4096;

fn main() {
    let arguments: Vec<usize> = env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let mib = arguments.first().copied().unwrap_or(256);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.get(1).copied().unwrap_or(0))
        .build_global();
    if let Err(error) = pool {
        eprintln!("{error}");
    }
    let n = (mib << 20) / (4 * K);
    let bytes: Vec<u8> = weights(n * K).flat_map(f32::to_le_bytes).collect();
    println!("{n} x {K} weights, {} threads", rayon::current_num_threads());

    for order in [Order::Nk, Order::Kn] {
        let Ok(rows) = WeightRows::new(&bytes, FloatKind::F32, n, K, order) else { return };
        time(&format!("{order:?} non_finite"), n, || {
            rows.non_finite();
        });
        for group in [32, 128] {
            for grid in [Grid::Asym, Grid::Sym] {
                let Some(spec) = spec(4, group, grid) else { return };
                let shape = NumbersShape { n, k: K, spec };
                let (mut codes, groups) = (vec![0; n * shape.row_bytes()], n * shape.groups());
                let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
                time(&format!("{order:?} rtn {grid:?} b4 g{group}"), n, || {
                    let field = shape.field();
                    let (codes, scales, zeros) = (&mut codes[..], &mut scales[..], &mut zeros[..]);
                    rtn_into(&rows, &spec, NumbersMut { field, codes, scales, zeros });
                });
            }
        }
    }

    let n = n.min(2048); // searches take longer
    let Ok(rows) = WeightRows::new(&bytes[..n * K * 4], FloatKind::F32, n, K, Order::Nk) else {
        return;
    };
    let d: Vec<f32> = (0..K).map(|i| 1.0 + (i % 7) as f32).collect();
    for (bits, group) in [(4, 32), (4, 128), (3, 128), (2, 64), (8, 128)] {
        for grid in [Grid::Asym, Grid::Sym] {
            let Some(spec) = spec(bits, group, grid) else { return };
            for kind in [SearchKind::Grid, SearchKind::Exact] {
                time(&format!("search {kind:?} {grid:?} b{bits} g{group}"), n, || {
                    search(&rows, &spec, kind, Some(&d));
                });
            }
        }
    }
}

fn spec(bits: u8, group: u32, grid: Grid) -> Option<WeightSpec> {
    let (bits, group) = (Bits::new(bits)?, GroupSize::of(group)?);
    Some(WeightSpec { bits, group, grid, scale: ScaleType::F16 })
}

/// Sums of four uniform numbers: bells with short tails.
fn weights(count: usize) -> impl Iterator<Item = f32> {
    let mut state = 1u64;
    (0..count).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = state ^ (state >> 29);
        let sum: i32 = (0..4).map(|i| (bits >> (16 * i)) as i32 & 0xffff).sum();
        (sum - 0x1_fffe) as f32 * 1e-6
    })
}

/// Best of three.
fn time(name: &str, n: usize, mut run: impl FnMut()) {
    let seconds = (0..3)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    let weights = (n * K) as f64;
    println!(
        "{name:32} {:8.1} Mw/s {:6.2} GB/s",
        weights / seconds / 1e6,
        weights * 4.0 / seconds / 1e9
    );
}
