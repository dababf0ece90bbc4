//! Whole products: compiled kernels against those in plain Rust.

use proptest::prelude::*;
use qcc_codegen::Jit;
use qcc_kernels::{
    Activations, Epilogue, KernelSource, Matrix, Operands, Planes, Pool, Product, Scalar,
};
use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale, PanelWeight};
use std::sync::{Arc, LazyLock};

static JIT: LazyLock<Arc<Jit>> = LazyLock::new(|| Arc::new(Jit::new().expect("LLVM")));

/// A weight `[n][k]` with codes, scales and zero points that follow from `seed`.
pub(crate) fn matrix(layout: PanelLayout, seed: usize) -> Arc<Matrix> {
    let mut state = seed as u64 | 1;
    let mut next = move || {
        // Xorshift of Marsaglia.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let most = 1 << layout.bits().bits();
    let codes: Vec<u8> = (0..layout.n() * layout.k()).map(|_| (next() % most) as u8).collect();
    let groups = layout.n() * layout.groups();
    let scales: Vec<f32> = (0..groups).map(|_| (next() % 255) as f32 / 256.0 - 0.4).collect();
    let scales: Vec<f32> = scales.iter().map(|&scale| layout.scale().nearest(scale)).collect();
    let zeros: Vec<f32> = (0..groups).map(|_| (next() % most) as f32).collect();
    let zeros = layout.zeros().then_some(&zeros[..]);
    let weight = PanelWeight { codes: &codes, scales: &scales, zeros };
    Arc::new(Matrix::pack(layout, &weight).expect("packed"))
}

fn run(
    matrix: &Arc<Matrix>,
    source: Arc<dyn KernelSource>,
    planes: Planes,
    epilogue: Epilogue,
    threads: usize,
    x: &[f32],
) -> Vec<u32> {
    let product = Product::new(Arc::clone(matrix), source, planes, epilogue);
    let (k, n) = (matrix.layout().k(), matrix.layout().n());
    let rows = x.len() / k;
    let bias: Vec<f32> = (0..n).map(|i| i as f32 / 8.0).collect();
    let extra: Vec<f32> = (0..rows * n).map(|i| (i % n) as f32 / 16.0 - 1.0).collect();
    let operands = Operands { bias: Some(&bias), extra: Some(&extra) };
    let mut y = vec![0.0; rows * n];
    let mut room = Activations::new();
    product.run(&Pool::new(threads), &mut room, x, operands, &mut y).expect("a product");
    y.into_iter().map(f32::to_bits).collect()
}

pub(crate) fn inputs(rows: usize, k: usize) -> Vec<f32> {
    (0..rows * k).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 250.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any shape, also where nothing is a multiple of anything.
    #[test]
    fn compiled_is_defined(
        (bits, group, scale) in (
            prop::sample::select(PanelBits::ALL),
            prop::sample::select(vec![16, 32, 64, 96, 128, 256, 512, usize::MAX]),
            prop::sample::select(PanelScale::ALL),
        ),
        (zeros, planes, epilogue) in (
            any::<bool>(),
            prop::sample::select(Planes::ALL),
            prop::sample::select(Epilogue::ALL),
        ),
        (k, n, rows, threads) in (1_usize..300, 1_usize..80, 1_usize..16, 1_usize..3),
        seed in any::<usize>(),
    ) {
        let layout = PanelLayout::new(bits, group, k, n, scale, zeros).expect("a layout");
        let matrix = matrix(layout, seed);
        let x = inputs(rows, k);
        let compiled = run(&matrix, JIT.clone(), planes, epilogue, threads, &x);
        let defined = run(&matrix, Arc::new(Scalar), planes, epilogue, 1, &x);
        prop_assert_eq!(compiled, defined);
    }
}

/// A row's result depends neither on the other rows, nor on its place, nor on threads.
#[test]
fn a_row_is_by_itself() {
    let layout = PanelLayout::new(PanelBits::B4, 32, 200, 100, PanelScale::F16, false);
    let matrix = matrix(layout.expect("a layout"), 5);
    let one = |rows: usize, threads| {
        let x: Vec<f32> = inputs(1, 200).repeat(rows);
        run(&matrix, JIT.clone(), Planes::A8, Epilogue::None, threads, &x)
    };
    let alone = one(1, 1);
    for rows in 1..=20 {
        for threads in 1..=2 {
            assert!(one(rows, threads).chunks(100).all(|row| row == alone), "{rows} {threads}");
        }
    }
}
