//! Prints seconds and output error of the solvers on second moments, for two shapes of weight:
//! `cargo run --release --example signround_speed -p qcc-quant`.

use std::time::Instant;

use qcc_quant::{
    codes::Codes,
    gptq::{GptqOptions, gptq},
    gram::Gram,
    rows::{FloatKind, Order, WeightRows},
    rtn::rtn,
    signround::{SignRoundOptions, signround_gram},
    spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Some(bits), Some(group)) = (Bits::new(4), GroupSize::of(32)) else { return Ok(()) };
    let spec = WeightSpec { bits, group, grid: Grid::Sym, scale: ScaleType::F16 };
    println!("W4G32 symmetric, 8192 tokens, {} threads", rayon::current_num_threads());
    for (n, k) in [(576, 576), (1536, 576), (576, 1536)] {
        println!("N = {n}, K = {k}");
        let mut x = normal(8192 * k, 1);
        for row in x.chunks_exact_mut(k) {
            for j in 1..k {
                row[j] = 0.9 * row[j - 1] + 0.19f32.sqrt() * row[j];
            }
        }
        let start = Instant::now();
        let mut gram = Gram::new(k);
        gram.add(&x)?;
        println!("  {:28} {:7.3} s", "second moments", start.elapsed().as_secs_f64());

        let weights = normal(n * k, 2);
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let rows = WeightRows::new(&bytes, FloatKind::F32, n, k, Order::Nk)?;
        let nearest = error(&rtn(&rows, &spec), &weights, &gram);
        let show = |name: &str, seconds: f64, codes: &Codes| {
            let error = error(codes, &weights, &gram) / nearest;
            println!("  {name:28} {seconds:7.3} s   error {error:.4} of nearest");
        };
        for sweeps in [0, 10] {
            let start = Instant::now();
            let codes = gptq(&rows, &spec, &gram, &GptqOptions { sweeps, ..Default::default() })?;
            show(&format!("gptq, {sweeps} sweeps"), start.elapsed().as_secs_f64(), &codes);
        }
        for steps in [0, 50] {
            let options = SignRoundOptions { steps, ..Default::default() };
            let start = Instant::now();
            let codes = signround_gram(&rows, &spec, &gram, &options)?;
            show(&format!("signround, {steps} steps"), start.elapsed().as_secs_f64(), &codes);
        }
    }
    Ok(())
}

/// Output error summed over rows.
fn error(codes: &Codes, weights: &[f32], gram: &Gram) -> f64 {
    let mut e = vec![0.0; codes.k];
    let rows = weights.chunks_exact(codes.k).enumerate();
    rows.map(|(row, weights)| {
        codes.dequantize(row, &mut e);
        e.iter_mut().zip(weights).for_each(|(e, w)| *e -= w);
        gram.error(&e)
    })
    .sum()
}

/// Sums of twelve uniform numbers.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
