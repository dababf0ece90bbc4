//! Results are those of the definition, whatever the rows, threads and places.

use crate::oracle::{Case, Random, cases, row};
use proptest::prelude::*;
use qcc_kernels::{
    Activations, Epilogue, Factor, Isa, Kernel, KernelBits, KernelError, KernelSource, KernelSpec,
    Matrix, MatrixError, Operands, Overlay, Planes, Pool, Product, ProductError, Scalar, ScaleKind,
    Share,
};
use qcc_quant::panel::{PanelLayout, UnpackedWeight};
use std::ops::Range;
use std::sync::Arc;

fn product(case: &Case, planes: Planes, epilogue: Epilogue) -> Product {
    let matrix = Matrix::pack(case.layout, &case.weight.view()).unwrap();
    Product::new(Arc::new(matrix), Arc::new(Scalar), planes, epilogue)
}

fn run(product: &Product, pool: &Pool, x: &[f32], operands: Operands<'_>) -> Vec<f32> {
    let layout = product.matrix().layout();
    let rows = x.len() / layout.k();
    let mut y = vec![f32::NAN; rows * layout.n()];
    product.run(pool, &mut Activations::new(), x, operands, &mut y).unwrap();
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|it| it.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn results_are_those_of_the_definition(
        case in cases(), planes in prop::sample::select(Planes::ALL),
        epilogue in prop::sample::select(Epilogue::ALL), rows in 1usize..15, seed in any::<u64>(),
    ) {
        let (k, n) = (case.layout.k(), case.layout.n());
        let mut random = Random::new(seed);
        let (x, extra) = (random.floats(rows * k), random.floats(rows * n));
        let operands = Operands { bias: Some(&case.bias), extra: Some(&extra) };
        let y = run(&product(&case, planes, epilogue), &Pool::new(1), &x, operands);
        for r in 0..rows {
            let want = row(&case, planes, epilogue, &x[r * k..][..k], &extra[r * n..][..n]);
            prop_assert_eq!(bits(&y[r * n..][..n]), bits(&want), "row {}", r);
        }
    }
}

/// About one weight in `every`.
fn overlay(k: usize, n: usize, every: u32, seed: u64) -> Overlay {
    let mut random = Random::new(seed);
    let (mut starts, mut inputs, mut values) = (vec![0], Vec::new(), Vec::new());
    for _ in 0..n {
        let own = (0..k as u16).filter(|_| random.next().is_multiple_of(every));
        inputs.extend(own);
        values.resize_with(inputs.len(), || 8.0 * random.float());
        starts.push(inputs.len());
    }
    Overlay::new(k, &starts, &inputs, &values).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_overlay_is_added_before_the_end(
        case in cases(), epilogue in prop::sample::select(Epilogue::ALL), rows in 1usize..40,
        every in 1u32..40, seed in any::<u64>(),
    ) {
        let (k, n) = (case.layout.k(), case.layout.n());
        let mut random = Random::new(seed);
        let (x, extra) = (random.floats(rows * k), random.floats(rows * n));
        let operands = Operands { bias: Some(&case.bias), extra: Some(&extra) };
        let pool = Pool::new(1);
        let low = run(&product(&case, Planes::A22, Epilogue::None), &pool, &x, operands);
        let overlay = overlay(k, n, every, seed);
        // The weights as a dense matrix, a column of the results at a time.
        let own = |r: usize, c: usize| -> (f64, f64) {
            let terms = overlay.column(c).map(|(i, w)| f64::from(w) * f64::from(x[r * k + i]));
            terms.fold((0.0, 0.0), |(sum, size), it| (sum + it, size + it.abs()))
        };
        let whole = product(&case, Planes::A22, epilogue).with_overlay(Some(Arc::new(overlay.clone())));
        let got = run(&whole, &pool, &x, operands);
        for at in 0..rows * n {
            let (sum, size) = own(at / n, at % n);
            let y = f64::from(low[at]) + sum;
            let (bias, extra) = (case.bias[at % n], extra[at]);
            let want = epilogue.apply(y as f32, bias, extra);
            // No end is steeper than 2 by y, or by 2 times the other factor.
            let room = 1e-5 * (size + y.abs() + 1.0) * f64::from(2.0 + 2.0 * extra.abs());
            prop_assert!(f64::from((got[at] - want).abs()) <= room, "{} {want} {room}", got[at]);
        }
    }
}

#[test]
fn an_overlay_leaves_rows_apart_too() {
    let (k, n) = (100, 70);
    let layout = PanelLayout::new(KernelBits::B4, 32, k, n, ScaleKind::F16, false).unwrap();
    let overlay = Arc::new(overlay(k, n, 20, 3));
    let x = Random::new(9).floats(k * 40);
    let case = Case::new(layout, 5);
    for epilogue in [Epilogue::Bias, Epilogue::Gelu] {
        let product = product(&case, Planes::A8, epilogue).with_overlay(Some(overlay.clone()));
        let operands = Operands { bias: Some(&case.bias), extra: None };
        let one = Pool::new(1);
        let alone: Vec<u32> =
            x.chunks_exact(k).flat_map(|x| bits(&run(&product, &one, x, operands))).collect();
        for threads in [1, 3, 16] {
            let pool = Pool::new(threads);
            for rows in [1, 2, 5, 9, 17, 33, 40] {
                for first in [0, 40 - rows] {
                    let y = run(&product, &pool, &x[first * k..][..rows * k], operands);
                    assert_eq!(bits(&y), alone[first * n..][..rows * n], "{rows} from {first}");
                }
            }
        }
    }
}

#[test]
fn an_overlay_needs_the_rows_as_floats() {
    let layout = PanelLayout::new(KernelBits::B4, 32, 64, 20, ScaleKind::F32, false).unwrap();
    let product = product(&Case::new(layout, 1), Planes::A8, Epilogue::None);
    let product = product.with_overlay(Some(Arc::new(overlay(64, 20, 10, 2))));
    assert_eq!(product.overlay().map(|it| (it.n(), it.k())), Some((20, 64)));
    let (pool, mut acts, mut y) = (Pool::new(1), Activations::new(), [0.0; 40]);
    let x = Random::new(4).floats(128);
    acts.quantize(product.act_layout(), &x);
    let operands = Operands::default();
    let run = product.run_quantized(&pool, &acts, operands, &mut y);
    assert!(matches!(run, Err(ProductError::NotKept)));
    acts.keep(&pool, &x);
    product.run_quantized(&pool, &acts, operands, &mut y).unwrap();
    assert_eq!(bits(&y), bits(&self::run(&product, &pool, &x, operands)));
    // Other rows were not kept.
    acts.quantize(product.act_layout(), &x[64..]);
    assert!(product.run_quantized(&pool, &acts, operands, &mut y[..20]).is_err());
}

#[test]
fn a_row_does_not_depend_on_rows_threads_or_place() {
    let pools = [1, 2, 3].map(Pool::new);
    for (bits_, group, zeros, k, n) in [
        (KernelBits::B4, 32, false, 96, 333),
        (KernelBits::B3, 64, true, 200, 64),
        (KernelBits::B2, 16, false, 100, 20),
    ] {
        let layout = PanelLayout::new(bits_, group, k, n, ScaleKind::F16, zeros).unwrap();
        let case = Case::new(layout, 5);
        let product = product(&case, Planes::A8, Epilogue::None);
        let x = Random::new(9).floats(k * 40);
        let alone: Vec<u32> = x
            .chunks_exact(k)
            .flat_map(|x| bits(&run(&product, &pools[0], x, Operands::default())))
            .collect();
        for pool in &pools {
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 19, 40] {
                for first in [0, 40 - rows] {
                    let y = run(&product, pool, &x[first * k..][..rows * k], Operands::default());
                    assert_eq!(
                        bits(&y),
                        alone[first * n..][..rows * n],
                        "{rows} rows from {first}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_goes_through() {
    let layout = PanelLayout::new(KernelBits::B4, 32, 64, 33, ScaleKind::F16, true).unwrap();
    let product = product(&Case::new(layout, 3), Planes::A8, Epilogue::None);
    let mut x = Random::new(1).floats(3 * 64);
    x[64 + 40] = f32::INFINITY;
    let y = run(&product, &Pool::new(1), &x, Operands::default());
    assert!(y[..33].iter().chain(&y[66..]).all(|it| it.is_finite()));
    assert!(y[33..66].iter().all(|it| it.is_nan()));
}

#[test]
fn quantized_rows_are_shared() {
    let layout = |n| PanelLayout::new(KernelBits::B4, 32, 64, n, ScaleKind::F32, false).unwrap();
    let (one, two) = (Case::new(layout(40), 1), Case::new(layout(7), 2));
    let [one, two] = [one, two].map(|case| product(&case, Planes::A15, Epilogue::None));
    let (pool, mut acts) = (Pool::new(1), Activations::new());
    let x = Random::new(4).floats(64 * 9);
    assert!(one.act_layout().serves(&two.act_layout()));
    acts.quantize(one.act_layout(), &x);
    let mut y = vec![0.0; 7 * 9];
    two.run_quantized(&pool, &acts, Operands::default(), &mut y).unwrap();
    assert_eq!(bits(&y), bits(&run(&two, &pool, &x, Operands::default())));
}

#[test]
fn products_of_the_same_rows_are_one_job() {
    let layout = |n| PanelLayout::new(KernelBits::B4, 32, 64, n, ScaleKind::F32, false).unwrap();
    let products: Vec<Product> = [40, 7, 300]
        .map(|n| product(&Case::new(layout(n), n as u64), Planes::A8, Epilogue::None))
        .into();
    for (threads, rows) in [(1, 1), (2, 1), (2, 13), (3, 40), (40, 40)] {
        let (pool, mut acts) = (Pool::new(threads), Activations::new());
        let x = Random::new(4).floats(64 * rows);
        acts.quantize(products[0].act_layout(), &x);
        let mut ys: Vec<_> = products.iter().map(|it| vec![0.0; it.layout().n() * rows]).collect();
        let shares = products.iter().zip(&mut ys);
        let mut shares: Vec<Share<'_>> = shares
            .map(|(product, y)| Share { product, operands: Operands::default(), y, factor: None })
            .collect();
        Product::run_all(&pool, &acts, &mut shares).unwrap();
        shares[1].y = &mut [];
        assert!(Product::run_all(&pool, &acts, &mut shares).is_err());
        for (product, y) in products.iter().zip(&ys) {
            assert_eq!(bits(y), bits(&run(product, &pool, &x, Operands::default())));
        }
    }
    Product::run_all(&Pool::new(2), &Activations::new(), &mut []).unwrap();
}

/// As if the factor were computed first; beside other products, in any number of rows and threads.
#[test]
fn a_factor_is_computed_in_the_same_job() {
    let layout = |n| PanelLayout::new(KernelBits::B4, 32, 96, n, ScaleKind::F32, true).unwrap();
    for n in [7, 40, 333] {
        let bias = Random::new(8).floats(n);
        let [gate, up, other] =
            [(1, n, Epilogue::BiasSiluMul), (2, n, Epilogue::Bias), (3, 50, Epilogue::None)].map(
                |(seed, n, epilogue)| product(&Case::new(layout(n), seed), Planes::A8, epilogue),
            );
        for (threads, rows) in [(1, 1), (2, 1), (1, 6), (2, 13), (3, 40), (40, 19), (2, 0)] {
            let (pool, mut acts) = (Pool::new(threads), Activations::new());
            let x = Random::new(4).floats(96 * rows);
            acts.quantize(gate.act_layout(), &x);
            let [mut y, mut between] = [(); 2].map(|()| vec![f32::NAN; rows * n]);
            let mut beside = vec![f32::NAN; rows * 50];
            let factor = Some(Factor { product: &up, bias: Some(&bias), y: &mut between });
            let (operands, biased) =
                (Operands::default(), Operands { bias: Some(&bias), extra: None });
            let mut shares = [
                Share { product: &gate, operands: biased, y: &mut y, factor },
                Share { product: &other, operands, y: &mut beside, factor: None },
            ];
            Product::run_all(&pool, &acts, &mut shares).unwrap();
            let extra = run(&up, &pool, &x, biased);
            let want = run(&gate, &pool, &x, Operands { extra: Some(&extra), ..biased });
            assert_eq!(bits(&between), bits(&extra), "{n} {threads} {rows}");
            assert_eq!(bits(&y), bits(&want), "{n} {threads} {rows}");
            assert_eq!(bits(&beside), bits(&run(&other, &pool, &x, operands)));
        }
    }
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let layout = |n| PanelLayout::new(KernelBits::B4, 32, 64, n, ScaleKind::F32, false).unwrap();
    let of = |n, planes, epilogue| product(&Case::new(layout(n), 1), planes, epilogue);
    let gate = of(40, Planes::A8, Epilogue::SiluMul);
    let mut acts = Activations::new();
    acts.quantize(gate.act_layout(), &[1.0; 64]);
    let fails = |factor: &Product, room: usize| {
        let (mut y, mut between) = ([0.0; 40], vec![0.0; room]);
        let factor = Some(Factor { product: factor, bias: None, y: &mut between });
        let mut share =
            [Share { product: &gate, operands: Operands::default(), y: &mut y, factor }];
        Product::run_all(&Pool::new(1), &acts, &mut share).is_err()
    };
    assert!(!fails(&of(40, Planes::A8, Epilogue::None), 40));
    assert!(fails(&of(40, Planes::A8, Epilogue::None), 39));
    assert!(fails(&of(41, Planes::A8, Epilogue::None), 41));
    assert!(fails(&of(40, Planes::A15, Epilogue::None), 40));
    assert!(fails(&of(40, Planes::A8, Epilogue::Residual), 40));
    assert!(fails(&of(40, Planes::A8, Epilogue::Bias), 40));
}

#[test]
fn weights_are_packed_by_parts() {
    let weight = |group| {
        let layout = PanelLayout::new(KernelBits::B3, group, 200, 150, ScaleKind::F16, true);
        Case::new(layout.unwrap(), 8)
    };
    for (group, most) in [(16, 1), (64, 32), (64, 100), (200, 64), (32, 1000)] {
        let case = weight(group);
        let (layout, groups) = (case.layout, 200usize.div_ceil(group));
        let part = |columns: Range<usize>| {
            assert!(columns.len() <= most.max(32));
            let of = |per: usize| columns.start * per..columns.end * per;
            Ok::<_, MatrixError>(UnpackedWeight {
                codes: case.weight.codes[of(200)].to_vec(),
                scales: case.weight.scales[of(groups)].to_vec(),
                zeros: case.weight.zeros.as_ref().map(|it| it[of(groups)].to_vec()),
            })
        };
        let parts = Matrix::pack_by_parts(layout, most, part).unwrap();
        assert_eq!(parts.bytes(), Matrix::pack(layout, &case.weight.view()).unwrap().bytes());
    }
}

#[test]
fn wrong_operands_are_refused() {
    let layout = PanelLayout::new(KernelBits::B4, 32, 64, 20, ScaleKind::F32, false).unwrap();
    let case = Case::new(layout, 1);
    let product = product(&case, Planes::A8, Epilogue::Bias);
    let (pool, mut acts) = (Pool::new(1), Activations::new());
    let (mut y, x) = ([0.0; 40], [1.0; 128]);
    let bias = Operands { bias: Some(&case.bias), extra: None };
    let mut run =
        |x: &[f32], operands, y: &mut [f32]| product.run(&pool, &mut acts, x, operands, y);
    run(&x, bias, &mut y).unwrap();
    run(&[], bias, &mut []).unwrap();
    assert!(run(&x[1..], bias, &mut y).is_err());
    assert!(run(&x, bias, &mut y[1..]).is_err());
    assert!(run(&x, Operands::default(), &mut y).is_err());
    let short = Operands { bias: Some(&case.bias[1..]), extra: None };
    assert!(run(&x, short, &mut y).is_err());
    let other = qcc_kernels::ActLayout::new(&layout, Planes::A15);
    acts.quantize(other, &x);
    let shared = product.run_quantized(&pool, &acts, bias, &mut y);
    assert!(matches!(shared, Err(ProductError::Activations)));
    assert!(Matrix::from_bytes(layout, &[]).is_err());
}

#[test]
fn a_source_without_the_kernel_is_an_error() {
    struct Empty;
    impl KernelSource for Empty {
        fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
            Err(KernelError::Unknown(*spec))
        }
        fn isa(&self) -> Isa {
            Isa::Avx2
        }
    }
    let layout = PanelLayout::new(KernelBits::B4, 32, 64, 20, ScaleKind::F32, false).unwrap();
    let matrix = Matrix::pack(layout, &Case::new(layout, 1).weight.view()).unwrap();
    let product = Product::new(Arc::new(matrix), Arc::new(Empty), Planes::A8, Epilogue::None);
    assert_eq!(
        product.prepare(7).unwrap_err().to_string(),
        "no kernel qcc_mm_b4_g32_m3_t2_f32_a8_avx2 here"
    );
    assert!(Scalar.kernel(&"qcc_mm_b4_g32_m3_t2_f32_a8_avx2".parse().unwrap()).is_err());
}
