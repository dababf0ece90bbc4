//! Times kernels on the CPU at hand: `time SPEC...`, for example
//! `time qcc_mm_b4_g32_m1_t2_f16_a8_avx512vnni`. Without a name: widths and groups of the
//! fastest instruction set, for 1 and 6 rows.
//!
//! Weights are 16 panels of 1024 k, which stay in the second cache. The best of many rounds counts.

use qcc_codegen::Jit;
use qcc_kernels::{Isa, Kernel, KernelArgs, KernelGroup, KernelSpec};
use qcc_quant::panel::PanelLayout;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

const K: usize = 1024;
const PANELS: usize = 16;
const ROUNDS: usize = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let jit = Jit::new()?;
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        names = all(jit.isa());
    }
    println!("{:48} {:>8} {:>8} {:>10}", "kernel", "GMAC/s", "GB/s", "compile ms");
    for name in names {
        let spec: KernelSpec = name.parse()?;
        let start = Instant::now();
        let kernel = jit.kernel(&spec)?;
        let compile = start.elapsed().as_secs_f64() * 1e3;
        let (took, bytes) = time(&spec, kernel)?;
        let products = usize::from(spec.rows) * K * 16 * usize::from(spec.tiles) * PANELS;
        let per_second = |count: usize| count as f64 / took.as_secs_f64() / 1e9;
        let (products, bytes) = (per_second(products), per_second(bytes));
        println!("{name:48} {products:8.1} {bytes:8.1} {compile:10.1}");
    }
    Ok(())
}

fn all(isa: Isa) -> Vec<String> {
    let mut names = Vec::new();
    for bits in [2, 3, 4, 8] {
        for group in [16, 32, 128] {
            for rows in [1, 6] {
                names.push(format!("qcc_mm_b{bits}_g{group}_m{rows}_t2_f16_a8_{isa}"));
            }
        }
    }
    names
}

/// 64 bytes at a multiple of 64.
#[derive(Clone)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read by kernels")] [u8; 64]);

/// The least time of a call, and the bytes of the weights.
fn time(spec: &KernelSpec, kernel: Kernel) -> Result<(Duration, usize), Box<dyn Error>> {
    let tiles = usize::from(spec.tiles);
    let group = match spec.group {
        KernelGroup::Half => 16,
        KernelGroup::Blocks(blocks) => 32 * usize::from(blocks),
        KernelGroup::Counted => K,
    };
    let layout = PanelLayout::new(spec.bits, group, K, 16 * tiles, spec.scale, spec.asymmetric)?;
    let panel = layout.steps() * layout.step_bytes(tiles);
    // Bytes that are codes and, as f16, bf16 or f32, small scales and zero points.
    let weights = vec![Line([0x11; 64]); panel * PANELS / 64];
    let (rows, planes) = (usize::from(spec.rows), spec.planes.count() as usize);
    let act_plane = layout.stored_k() + 64;
    let acts = vec![Line([0x25; 64]); (rows * planes * act_plane).div_ceil(64)];
    let groups = layout.stored_groups();
    let numbers = vec![1e-3_f32; rows * planes * groups];
    let starts = vec![-8_i32; rows * planes * groups];
    let columns = 32 * PANELS;
    let mut y = vec![0.0_f32; rows * columns];
    let extra = vec![1.0_f32; rows * columns];
    let args = KernelArgs {
        weights: weights.as_ptr().cast(),
        panels: PANELS as u64,
        panel_stride: panel as u64,
        groups: groups as u64,
        group_blocks: group.div_ceil(32) as u64,
        acts: acts.as_ptr().cast(),
        act_row: (planes * act_plane) as u64,
        act_plane: act_plane as u64,
        act_scales: numbers.as_ptr(),
        act_init: starts.as_ptr(),
        act_sums: numbers.as_ptr(),
        act_group_row: (planes * groups) as u64,
        act_group_plane: groups as u64,
        y: y.as_mut_ptr(),
        y_row: columns as u64,
        columns: 16 * u64::from(spec.tiles),
        bias: extra.as_ptr(),
        extra: extra.as_ptr(),
        extra_row: columns as u64,
        spec,
    };
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        // SAFETY: the operands were made of the sizes that the spec asks for.
        #[allow(unsafe_code)]
        unsafe {
            kernel(black_box(&raw const args));
        }
        best = best.min(start.elapsed());
    }
    Ok((best, panel * PANELS))
}
