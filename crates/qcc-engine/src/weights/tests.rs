//! The numbers that are found are those that the operators compute with: products of rows of the
//! identity give the weight back.

use std::sync::Arc;

use proptest::prelude::*;
use qcc_ir::{Attr, EvalCx, GraphBuilder, OpRef, Output, Type};
use qcc_ops::dequantize::DequantizeLinear;
use qcc_ops::transpose::Transpose;
use qcc_quant::layout::Dense;

use super::*;

/// A value of a test graph.
#[derive(Clone)]
enum Leaf {
    Input(Type),
    Const(Tensor),
    Op(OpRef, Vec<Option<usize>>),
}

/// A graph whose last value is its output.
fn graph(leaves: &[Leaf]) -> Graph {
    let mut b = GraphBuilder::new("g");
    let mut values: Vec<Value> = Vec::new();
    for (at, leaf) in leaves.iter().enumerate() {
        let name = format!("v{at}");
        values.push(match leaf {
            Leaf::Input(ty) => b.input(&name, ty.clone(), None),
            Leaf::Const(tensor) => b.constant(&name, tensor.clone()),
            Leaf::Op(op, inputs) => {
                let inputs = inputs.iter().map(|it| it.map(|it| values[it])).collect();
                let outputs = vec![Output::new(name.clone(), Type::Unknown)];
                Value { node: b.op(&name, op.clone(), inputs, outputs), slot: 0 }
            }
        });
    }
    b.set_outputs(vec![*values.last().unwrap()]);
    b.finish().unwrap()
}

fn find(leaves: &[Leaf]) -> Option<Result<LowBit, Refused>> {
    let graph = graph(leaves);
    low_bit(&graph, &Scope::root(), graph.outputs()[0].node)
}

fn why(leaves: &[Leaf]) -> String {
    find(leaves).unwrap().unwrap_err().to_string()
}

/// What the graph gives for rows of the identity: `[k][n]`.
fn rows_of_identity(leaves: &[Leaf], k: usize) -> Vec<f32> {
    let identity: Vec<f32> = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k))).collect();
    let mut values: Vec<Tensor> = Vec::new();
    for leaf in leaves {
        values.push(match leaf {
            Leaf::Input(_) => Tensor::from_vec(vec![k, k], identity.clone()).unwrap(),
            Leaf::Const(tensor) => tensor.clone(),
            Leaf::Op(op, inputs) => {
                let inputs: Vec<_> = inputs.iter().map(|it| it.map(|it| &values[it])).collect();
                op.eval(&EvalCx::default(), &inputs, 1).unwrap().remove(0)
            }
        });
    }
    values.last().unwrap().to_f32().unwrap().into_owned()
}

/// `[k][n]` of what was found.
fn decoded(found: &LowBit) -> Vec<f32> {
    let it = &found.weight;
    let groups = it.k.div_ceil(it.group);
    let value = |k: usize, n: usize| {
        let group = n * groups + k / it.group;
        let zero = it.weight.zeros.as_ref().map_or(f32::from(it.bits.middle()), |all| all[group]);
        let bias = found.bias.as_ref().map_or(0.0, |it| it[n]);
        let mut beside = found.overlay.iter().flat_map(|it| it.column(n));
        let own = beside.find(|it| it.0 == k).map_or(0.0, |it| it.1);
        let low = (f32::from(it.weight.codes[n * it.k + k]) - zero) * it.weight.scales[group];
        low + own + bias
    };
    (0..it.k).flat_map(|k| (0..it.n).map(move |n| value(k, n))).collect()
}

fn agree(leaves: &[Leaf], k: usize) -> LowBit {
    let found = find(leaves).unwrap().unwrap();
    assert_eq!(decoded(&found), rows_of_identity(leaves, k));
    found
}

fn x(dtype: DType, k: usize) -> Leaf {
    Leaf::Input(Type::tensor(dtype, [k, k]))
}

fn random(len: usize, seed: u64, most: u8) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8 & most
    };
    (0..len).map(|_| next()).collect()
}

/// Scales that are powers of two, so that every sum is exact.
fn scales(dims: Vec<usize>, seed: u64) -> Leaf {
    let values = random(dims.iter().product(), seed, 3);
    let values: Vec<f32> = values.iter().map(|&it| 0.25 * f32::from(1u8 << it)).collect();
    Leaf::Const(Tensor::from_vec(dims, values).unwrap())
}

fn bytes(dtype: DType, dims: Vec<usize>, seed: u64) -> Leaf {
    let len = dims.iter().product::<usize>() * dtype.bits();
    Leaf::Const(Tensor::new(dtype, dims, random(len.div_ceil(8), seed, 255).into()).unwrap())
}

fn nbits(n: usize, k: usize, bits: u8, block: usize, level: i64) -> OpRef {
    let (block_size, accuracy_level) = (block, level);
    Arc::new(MatMulNBits { k, n, bits, block_size, accuracy_level, weight_prepacked: 0 })
}

/// A `MatMulNBits` with the operands that `with` names: packed or float zero points, a bias.
fn nbits_graph(n: usize, k: usize, bits: u8, block: usize, with: (bool, bool, bool)) -> Vec<Leaf> {
    let (blocks, width) = (k.div_ceil(block), usize::from(bits));
    let (packed, floats, bias) = with;
    let mut leaves = vec![
        x(DType::F32, k),
        bytes(DType::U8, vec![n, blocks, block * width / 8], 7),
        scales(vec![n, blocks], 8),
    ];
    let mut inputs = vec![Some(0), Some(1), Some(2)];
    if packed {
        leaves.push(bytes(DType::U8, vec![n, (blocks * width).div_ceil(8)], 9));
        inputs.push(Some(3));
    } else if floats {
        let points = random(n * blocks, 9, 7).iter().map(|&it| f32::from(it) + 0.5).collect();
        leaves.push(Leaf::Const(Tensor::from_vec(vec![n, blocks], points).unwrap()));
        inputs.push(Some(3));
    }
    if bias {
        inputs.resize(5, None);
        inputs.push(Some(leaves.len()));
        let values = (0..n).map(|it| it as f32).collect();
        leaves.push(Leaf::Const(Tensor::from_vec(vec![n], values).unwrap()));
    }
    leaves.push(Leaf::Op(nbits(n, k, bits, block, 4), inputs));
    leaves
}

/// A `MatMul` over a `DequantizeLinear`; `turned`: codes `[n][k]` and a `Transpose`.
fn linear_graph(
    (n, k): (usize, usize),
    dtype: DType,
    block: Option<usize>,
    turned: bool,
    zeros: bool,
) -> Vec<Leaf> {
    let dims = |k: usize| if turned { vec![n, k] } else { vec![k, n] };
    let spread = block.map_or(vec![n], |block| dims(k.div_ceil(block)));
    let (k_axis, n_axis) = (i64::from(turned), i64::from(!turned));
    let op = Arc::new(DequantizeLinear {
        domain: "",
        axis: Some(if block.is_some() { k_axis } else { n_axis }),
        block_size: block.unwrap_or(0),
        output_dtype: None,
    });
    let mut leaves = vec![x(DType::F32, k), bytes(dtype, dims(k), 3), scales(spread.clone(), 4)];
    let mut inputs = vec![Some(1), Some(2)];
    if zeros {
        leaves.push(bytes(dtype, spread, 5));
        inputs.push(Some(3));
    }
    leaves.push(Leaf::Op(op, inputs));
    if turned {
        let perm = Some(vec![1, 0]);
        leaves.push(Leaf::Op(Arc::new(Transpose { perm }), vec![Some(leaves.len() - 1)]));
    }
    leaves.push(Leaf::Op(Arc::new(MatMul), vec![Some(0), Some(leaves.len() - 1)]));
    leaves
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nbits_of_any_form(
        n in 1usize..40, k in 1usize..70, bits in prop::sample::select(vec![2u8, 4, 8]),
        block in prop::sample::select(vec![16usize, 32, 64]), packed: bool, floats: bool, bias: bool,
    ) {
        let found = agree(&nbits_graph(n, k, bits, block, (packed, floats, bias)), k);
        prop_assert_eq!(found.planes, Planes::A8);
        prop_assert_eq!(found.weight.weight.zeros.is_some(), packed || floats);
    }

    #[test]
    fn dequantized_of_any_form(
        n in 1usize..40, k in 1usize..70,
        dtype in prop::sample::select(vec![
            DType::I2, DType::U2, DType::I4, DType::U4, DType::I8, DType::U8,
        ]),
        block in prop::sample::select(vec![None, Some(16), Some(32)]), turned: bool, zeros: bool,
    ) {
        let found = agree(&linear_graph((n, k), dtype, block, turned, zeros), k);
        prop_assert_eq!(found.planes, Planes::A22);
    }

    #[test]
    fn functions_of_any_width(
        n in 1usize..40, k in 1usize..70, bits in 2u8..=8, sym: bool,
        block in prop::sample::select(vec![16usize, 32, 64]), seed: u64,
    ) {
        let layout = Dense::new(n, k, bits, block).unwrap();
        let most = u8::MAX >> (8 - bits);
        let codes = random(n * k, seed, most);
        let middle = 1u8 << (bits - 1);
        let points = if sym { vec![middle; n * layout.blocks()] }
            else { random(n * layout.blocks(), seed ^ 5, most) };
        let mut packed = vec![0; layout.bytes()];
        layout.pack(&codes, &points, &mut packed);
        let dims = vec![n, layout.blocks(), layout.block_bytes()];
        let mut leaves = vec![
            x(DType::F32, k),
            Leaf::Const(Tensor::from_vec(dims, packed).unwrap()),
            scales(vec![n, layout.blocks()], 8),
        ];
        let mut inputs = vec![Some(0), Some(1), Some(2)];
        if !sym {
            leaves.push(Leaf::Const(Tensor::from_vec(vec![n, layout.blocks()], points).unwrap()));
            inputs.push(Some(3));
        }
        let op = MatMulQ { bits, is_symmetric: sym, k, n, block_size: block };
        leaves.push(Leaf::Op(Arc::new(op), inputs));
        let found = agree(&leaves, k);
        // Codes of 5 to 7 bits around one middle need no zero points either.
        prop_assert!(!sym || found.weight.weight.zeros.is_none());
    }

    #[test]
    fn outliers_of_any_width(
        n in 1usize..40, k in 1usize..70, bits in prop::sample::select(vec![2u8, 3, 4, 5, 6, 8]),
        block in prop::sample::select(vec![16usize, 32, 64]), every in 1usize..30, seed: u64,
    ) {
        let (leaves, count) = outliers_graph((n, k), bits, block, every, seed);
        let found = agree(&leaves, k);
        prop_assert_eq!(found.overlay.unwrap().len(), count);
        prop_assert!(found.weight.weight.zeros.is_none());
        prop_assert_eq!(found.source.values.len(), 4);
    }
}

/// A `MatMulQ<b>Outliers` of which one weight in `every` is an outlier; and how many these are.
fn outliers_graph(
    (n, k): (usize, usize),
    bits: u8,
    block: usize,
    every: usize,
    seed: u64,
) -> (Vec<Leaf>, usize) {
    let layout = Dense::new(n, k, bits, block).unwrap();
    let blocks = layout.blocks();
    let codes = random(n * k, seed, u8::MAX >> (8 - bits));
    let mut packed = vec![0; layout.bytes()];
    layout.pack(&codes, &vec![1 << (bits - 1); n * blocks], &mut packed);
    let places: Vec<u64> =
        (0..n * k).step_by(every).map(|it| (it / k * blocks * block + it % k) as u64).collect();
    let dims = vec![n, blocks, layout.block_bytes()];
    let op = MatMulQOutliers { bits, k, n, block_size: block };
    let leaves = vec![
        x(DType::F32, k),
        Leaf::Const(Tensor::from_vec(dims, packed).unwrap()),
        scales(vec![n, blocks], 8),
        scales(vec![n, blocks], 9),
        Leaf::Const(Tensor::vector(qcc_quant::layout::gaps::pack(&places))),
        Leaf::Op(Arc::new(op), (0..5).map(Some).collect()),
    ];
    (leaves, places.len())
}

#[test]
fn one_scale_for_all() {
    let op = DequantizeLinear { domain: "", axis: Some(1), block_size: 0, output_dtype: None };
    let zero = Leaf::Const(Tensor::new(DType::U4, vec![], vec![5u8].into()).unwrap());
    let scale = Leaf::Const(Tensor::scalar(0.5f32));
    let mut leaves = vec![x(DType::F32, 32), bytes(DType::U4, vec![32, 3], 3), scale, zero];
    leaves.push(Leaf::Op(Arc::new(op), vec![Some(1), Some(2), Some(3)]));
    leaves.push(Leaf::Op(Arc::new(MatMul), vec![Some(0), Some(4)]));
    let found = agree(&leaves, 32);
    assert_eq!((found.weight.group, found.weight.weight.scales.len()), (32, 3));
}

#[test]
fn gemm_turns_and_adds() {
    let mut leaves = linear_graph((5, 32), DType::I8, Some(16), false, false);
    let Some(Leaf::Op(_, inputs)) = leaves.pop() else { panic!() };
    let gemm = |beta| Gemm { alpha: 1.0, beta, trans_a: false, trans_b: false };
    leaves.insert(0, Leaf::Const(Tensor::vector(vec![1.0f32, 2.0, 3.0, 4.0, 5.0])));
    for leaf in &mut leaves {
        if let Leaf::Op(_, inputs) = leaf {
            inputs.iter_mut().flatten().for_each(|it| *it += 1);
        }
    }
    let inputs: Vec<_> = inputs.iter().map(|it| it.map(|it| it + 1)).chain([Some(0)]).collect();
    leaves.push(Leaf::Op(Arc::new(gemm(1.0)), inputs.clone()));
    assert_eq!(agree(&leaves, 32).bias, Some(vec![1.0, 2.0, 3.0, 4.0, 5.0]));
    leaves.pop();
    leaves.push(Leaf::Op(Arc::new(gemm(0.5)), inputs));
    assert_eq!(why(&leaves), "the product or its bias has a factor");
}

#[test]
fn accuracy_level_and_type_choose_the_planes() {
    let of = |level| planes(level, Some(DType::F32));
    let all = [of(0), of(1), of(2), of(3), of(4)];
    assert_eq!(all, [Planes::A22, Planes::A22, Planes::A15, Planes::A15, Planes::A8]);
    assert_eq!(planes(0, Some(DType::F16)), Planes::A15);
    assert_eq!(planes(4, Some(DType::F16)), Planes::A8);
    assert_eq!(planes(0, None), Planes::A22);
}

#[test]
fn what_stays_says_why() {
    // Codes that a g_idx moves.
    let mut leaves = nbits_graph(3, 32, 4, 16, (false, false, false));
    let Some(Leaf::Op(op, mut inputs)) = leaves.pop() else { panic!() };
    inputs.extend([None, Some(3)]);
    leaves.push(Leaf::Const(Tensor::vector(vec![0i32; 32])));
    leaves.push(Leaf::Op(op, inputs));
    assert_eq!(why(&leaves), "its codes are in the order of a g_idx, which is deprecated");

    // Scales that are computed, or too few.
    let mut leaves = nbits_graph(3, 32, 4, 16, (false, false, false));
    leaves[2] = x(DType::F32, 6);
    assert_eq!(why(&leaves), "its scales are no constant");
    leaves[2] = scales(vec![3, 1], 0);
    assert_eq!(
        why(&leaves),
        "its weight has no packed form: scales of a packed matrix: 3 given, 6 needed"
    );

    // Blocks along the outputs.
    let mut leaves = linear_graph((32, 32), DType::I4, Some(16), false, false);
    leaves[2] = scales(vec![32, 2], 4);
    let op = DequantizeLinear { domain: "", axis: Some(1), block_size: 16, output_dtype: None };
    leaves[3] = Leaf::Op(Arc::new(op), vec![Some(1), Some(2)]);
    assert_eq!(why(&leaves), "its blocks lie along its outputs, not along what it sums over");

    // A scale for each k.
    let op = DequantizeLinear { domain: "", axis: Some(0), block_size: 0, output_dtype: None };
    leaves[2] = scales(vec![32], 4);
    leaves[3] = Leaf::Op(Arc::new(op), vec![Some(1), Some(2)]);
    assert_eq!(why(&leaves), "each of its inputs has a scale of its own");

    // Groups without a form.
    let leaves = linear_graph((8, 48), DType::I4, Some(24), false, false);
    assert!(why(&leaves).contains("no panel has groups of 24"), "{}", why(&leaves));

    // Elements that are no codes.
    let leaves = linear_graph((8, 32), DType::I16, Some(16), false, false);
    assert_eq!(why(&leaves), "its weight is i16, not codes of 2 to 8 bits");

    // The weight on the left.
    let mut leaves = linear_graph((32, 32), DType::I8, None, false, false);
    leaves.pop();
    leaves.push(Leaf::Op(Arc::new(MatMul), vec![Some(3), Some(0)]));
    assert_eq!(why(&leaves), "its weight is the left operand");

    // Outliers that a run brings, or that are not there.
    let (mut leaves, _) = outliers_graph((8, 32), 4, 16, 9, 1);
    leaves[4] = Leaf::Const(Tensor::vector(vec![0u8, 0, 1]));
    assert!(why(&leaves).starts_with("its outliers cannot be read: "), "{}", why(&leaves));
    leaves[4] = Leaf::Input(Type::tensor(DType::U8, [3usize]));
    assert_eq!(why(&leaves), "its places of outliers are no constant");

    // No low-bit weight at all.
    let plain = [
        x(DType::F32, 4),
        scales(vec![4, 4], 1),
        Leaf::Op(Arc::new(MatMul), vec![Some(0), Some(1)]),
    ];
    assert!(find(&plain).is_none());
}

#[test]
fn attributes_that_no_product_has_are_told() {
    let opaque = |domain: &str, name: &str, attrs: &[(&str, i64)]| {
        let attrs = attrs.iter().map(|&(name, it)| (name.to_owned(), Attr::Int(it))).collect();
        Arc::new(Opaque { domain: domain.to_owned(), name: name.to_owned(), attrs })
    };
    let with = |op| {
        let mut leaves = nbits_graph(8, 32, 4, 16, (false, false, false));
        let at = leaves.len() - 1;
        leaves[at] = Leaf::Op(op, vec![Some(0), Some(1), Some(2)]);
        leaves
    };
    for (name, value) in [("bits", 5), ("block_size", 24), ("block_size", -32), ("K", -1), ("N", 0)]
    {
        let mut attrs = vec![("K", 32), ("N", 8), ("bits", 4), ("block_size", 16)];
        attrs.iter_mut().filter(|it| it.0 == name).for_each(|it| it.1 = value);
        let why = why(&with(opaque("com.microsoft", "MatMulNBits", &attrs)));
        assert!(why.contains(&format!("'{name}'")), "{why}");
    }
    let ours = with(opaque("ai.qcc", "MatMulQ4", &[("K", 32), ("N", 8), ("block_size", 0)]));
    assert!(why(&ours).contains("'block_size'"), "{}", why(&ours));
    let other = with(opaque("my.domain", "MatMulNBits", &[("bits", 5)]));
    assert_eq!(find(&other).map(|it| it.is_ok()), None);
}
