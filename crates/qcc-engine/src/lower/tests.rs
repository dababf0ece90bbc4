//! Lowered graphs compute what the graphs did; what is fused and what is not.

use std::collections::BTreeMap;

use qcc_exec::run_once;
use qcc_ir::{GraphBuilder, OpRef, Type};
use qcc_kernels::{Alone, Pool, Scalar};
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::outliers::MatMulQOutliers;
use qcc_quant::layout::gaps;
use qcc_tensor::{DType, Dim, Tensor};

use super::*;

/// A graph under construction: products with weights of a seed.
struct Net {
    b: GraphBuilder,
    names: usize,
    x: Value,
    k: usize,
}

impl Net {
    fn new(dtype: DType, k: usize) -> Self {
        let mut b = GraphBuilder::new("g");
        let dims = [Dim::symbol("batch"), Dim::symbol("length"), Dim::Known(k)];
        let x = b.input("x", Type::tensor(dtype, dims), None);
        Self { b, names: 0, x, k }
    }

    fn op(&mut self, domain: &str, name: &str, inputs: &[Value]) -> Value {
        self.with(qcc_ops::parse(domain, name, 20, Vec::new()).unwrap(), inputs)
    }

    fn with(&mut self, op: OpRef, inputs: &[Value]) -> Value {
        self.names += 1;
        let name = format!("v{}", self.names);
        let inputs = inputs.iter().map(|it| Some(*it)).collect();
        let node = self.b.op(&name, op, inputs, vec![Output::new(name.clone(), Type::Unknown)]);
        Value { node, slot: 0 }
    }

    fn constant(&mut self, tensor: Tensor) -> Value {
        self.names += 1;
        self.b.constant(&format!("c{}", self.names), tensor)
    }

    fn product(&mut self, x: Value, n: usize, level: i64, seed: u8) -> Value {
        let (k, blocks) = (self.k, self.k.div_ceil(32));
        let byte = |i: usize| (i.wrapping_mul(97) ^ (i >> 3)) as u8 ^ seed;
        let scale = |i: usize| f32::from(1 + (i % 7) as u8) / 64.0;
        let codes = (0..n * blocks * 16).map(byte).collect::<Vec<_>>();
        let scales = (0..n * blocks).map(scale).collect::<Vec<_>>();
        let codes = self.constant(Tensor::from_vec(vec![n, blocks, 16], codes).unwrap());
        let scales = Tensor::from_vec(vec![n, blocks], scales).unwrap();
        let scales = match self.b.graph().ty(self.x).dtype() {
            Some(DType::F16) => {
                let halves: Vec<half::f16> =
                    scales.to_f32().unwrap().iter().map(|&it| half::f16::from_f32(it)).collect();
                Tensor::from_vec(vec![n, blocks], halves).unwrap()
            }
            _ => scales,
        };
        let scales = self.constant(scales);
        let op = MatMulNBits {
            k,
            n,
            bits: 4,
            block_size: 32,
            accuracy_level: level,
            weight_prepacked: 0,
        };
        self.with(Arc::new(op), &[x, codes, scales])
    }

    /// A product whose weight has outliers, one in ten.
    fn outliers(&mut self, x: Value, n: usize, seed: u8) -> Value {
        let (k, blocks) = (self.k, self.k.div_ceil(32));
        let byte = |i: usize| (i.wrapping_mul(97) ^ (i >> 3)) as u8 ^ seed;
        let codes = (0..n * blocks * 16).map(byte).collect::<Vec<_>>();
        let places = (0..n * k).step_by(10).map(|it| it / k * blocks * 32 + it % k);
        let places = gaps::pack(&places.map(|it| it as u64).collect::<Vec<_>>());
        let mut scales = |by: f32| {
            let scale = |i: usize| by * f32::from(1 + (i % 7) as u8) / 64.0;
            let scales = (0..n * blocks).map(scale).collect::<Vec<_>>();
            self.constant(Tensor::from_vec(vec![n, blocks], scales).unwrap())
        };
        let (inside, outside) = (scales(1.0), scales(7.5));
        let codes = self.constant(Tensor::from_vec(vec![n, blocks, 16], codes).unwrap());
        let places = self.constant(Tensor::vector(places));
        let op = MatMulQOutliers { bits: 4, k, n, block_size: 32 };
        self.with(Arc::new(op), &[x, codes, inside, outside, places])
    }

    fn finish(mut self, outputs: &[Value]) -> Graph {
        self.b.set_outputs(outputs.to_vec());
        self.b.finish().unwrap()
    }
}

fn x(dtype: DType, dims: Vec<usize>) -> Tensor {
    let number = |i: usize| ((i * 37 + i / 5) % 101) as f32 / 50.0 - 1.0;
    let values: Vec<f32> = (0..dims.iter().product()).map(number).collect();
    match dtype {
        DType::F16 => {
            let values: Vec<_> = values.into_iter().map(half::f16::from_f32).collect();
            Tensor::from_vec(dims, values).unwrap()
        }
        _ => Tensor::from_vec(dims, values).unwrap(),
    }
}

fn options(threads: usize) -> LowerOptions {
    LowerOptions::new(Arc::new(Scalar), Arc::new(Pool::new(threads)))
}

/// Lowers, and holds the results against those of the graph, relative to the largest.
fn check(graph: &Graph, rows: usize, k: usize, most: f32) -> (Graph, Report) {
    let input = graph.ty(Value { node: graph.inputs()[0], slot: 0 }).dtype().unwrap();
    let inputs = BTreeMap::from([("x".to_owned(), x(input, vec![1, rows, k]))]);
    let want = run_once(graph, &inputs).unwrap();
    let mut lowered = graph.clone();
    let report = lower(&mut lowered, &options(1)).unwrap();
    let got = run_once(&lowered, &inputs).unwrap();
    for ((name, want), (same, got)) in want.iter().zip(&got) {
        assert_eq!((name, want.dims(), want.dtype()), (same, got.dims(), got.dtype()));
        let (want, got) = (want.to_f32().unwrap(), got.to_f32().unwrap());
        let scale = want.iter().fold(0f32, |most, it| most.max(it.abs()));
        let error = want.iter().zip(&*got).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error <= most * scale, "{name}: {error} of {scale}");
    }
    // Nothing depends on the threads.
    for threads in [2, 5] {
        let mut again = graph.clone();
        lower(&mut again, &options(threads)).unwrap();
        assert_eq!(run_once(&again, &inputs).unwrap(), got);
    }
    (lowered, report)
}

fn ops(graph: &Graph) -> Vec<String> {
    let op = |id: NodeId| Some(graph.node(id)?.op()?.name().to_owned());
    graph.topo().into_iter().filter_map(op).collect()
}

fn epilogues(report: &Report) -> Vec<String> {
    report.products.iter().map(|it| it.epilogue.to_string()).collect()
}

#[test]
fn each_level_is_as_exact_as_its_planes() {
    for (level, most) in [(0, 1e-6), (1, 1e-6), (2, 1e-4), (4, 1.5e-2)] {
        for rows in [1, 7, 19] {
            let mut net = Net::new(DType::F32, 100);
            let y = net.product(net.x, 41, level, 3);
            let (graph, report) = check(&net.finish(&[y]), rows, 100, most);
            assert_eq!(ops(&graph), ["KernelProduct"]);
            assert_eq!(report.products[0].op, "MatMulNBits");
        }
    }
}

#[test]
fn half_precision_goes_in_and_comes_out() {
    let mut net = Net::new(DType::F16, 96);
    let y = net.product(net.x, 41, 0, 3);
    let (_, report) = check(&net.finish(&[y]), 3, 96, 1e-3);
    assert_eq!(report.products[0].product.planes(), Planes::A15);
}

#[test]
fn products_of_one_value_share_it() {
    let mut net = Net::new(DType::F32, 96);
    let q = net.product(net.x, 64, 4, 1);
    let k = net.product(net.x, 32, 4, 2);
    let exact = net.product(net.x, 32, 0, 3);
    let after = net.op("", "Neg", &[q]);
    let graph = net.finish(&[after, k, exact]);
    let (lowered, report) = check(&graph, 9, 96, 1.5e-2);
    // One of them keeps activations otherwise.
    assert_eq!(ops(&lowered), ["KernelProduct", "KernelProduct", "Neg"]);
    assert_eq!(report.products.iter().map(|it| it.node).collect::<Vec<_>>(), [0, 0, 1]);

    let mut apart = graph.clone();
    let unfused = LowerOptions { fuse: false, ..options(1) };
    lower(&mut apart, &unfused).unwrap();
    assert_eq!(ops(&apart).len(), 4);
    let inputs = BTreeMap::from([("x".to_owned(), x(DType::F32, vec![1, 9, 96]))]);
    assert_eq!(run_once(&apart, &inputs).unwrap(), run_once(&lowered, &inputs).unwrap());
}

#[test]
fn gate_and_up_become_one_node() {
    for form in ["Sigmoid", "Swish", "QuickGelu"] {
        let mut net = Net::new(DType::F32, 64);
        let gate = net.product(net.x, 48, 4, 1);
        let up = net.product(net.x, 48, 4, 2);
        let silu = match form {
            "Sigmoid" => {
                let s = net.op("", "Sigmoid", &[gate]);
                net.op("", "Mul", &[s, gate])
            }
            "Swish" => net.op("", "Swish", &[gate]),
            _ => {
                let alpha = vec![("alpha".to_owned(), 1.0f32.into())];
                let op = qcc_ops::parse("com.microsoft", "QuickGelu", 1, alpha).unwrap();
                net.with(op, &[gate])
            }
        };
        let y = net.op("", "Mul", &[up, silu]);
        let (lowered, report) = check(&net.finish(&[y]), 5, 64, 2e-2);
        assert_eq!(ops(&lowered), ["KernelProduct"], "{form}");
        assert_eq!(epilogues(&report), ["silumul", "none"]);
        assert!(report.apart.is_empty(), "{:?}", report.apart);
    }
}

#[test]
fn a_bias_a_residual_and_gelu_are_taken_in() {
    for domain in ["", "com.microsoft"] {
        let mut net = Net::new(DType::F32, 64);
        let c = net.constant(Tensor::vector((0..48).map(|it| it as f32).collect::<Vec<_>>()));
        let a = net.product(net.x, 48, 0, 1);
        let a = net.op("", "Add", &[c, a]);
        let b = net.product(net.x, 48, 0, 2);
        let b = net.op(domain, "Gelu", &[b]);
        let r = net.product(net.x, 48, 0, 3);
        let y = net.op("", "Add", &[a, r]);
        let (lowered, report) = check(&net.finish(&[y, b]), 5, 64, 1e-6);
        assert_eq!(ops(&lowered), ["KernelProduct", "KernelProduct"]);
        // The other operand of the addition is a product too: the first of the two takes it.
        assert_eq!(epilogues(&report), ["biasresidual", "gelu", "none"]);
        assert!(report.apart.is_empty(), "{:?}", report.apart);
    }
}

#[test]
fn a_bias_goes_with_every_end() {
    for (op, name) in [("erf", "biasgelu"), ("tanh", "biasgelutanh"), ("fast", "biasgelutanh")] {
        let mut net = Net::new(DType::F32, 64);
        let c =
            net.constant(Tensor::vector((0..48).map(|it| it as f32 / 24.0).collect::<Vec<_>>()));
        let a = net.product(net.x, 48, 0, 1);
        let a = net.op("", "Add", &[a, c]);
        let y = match op {
            "erf" => net.op("", "Gelu", &[a]),
            "fast" => net.op("com.microsoft", "FastGelu", &[a]),
            _ => {
                let tanh = vec![("approximate".to_owned(), "tanh".into())];
                net.with(qcc_ops::parse("", "Gelu", 20, tanh).unwrap(), &[a])
            }
        };
        let (lowered, report) = check(&net.finish(&[y]), 5, 64, 1e-6);
        assert_eq!(ops(&lowered), ["KernelProduct"], "{op}");
        assert_eq!(epilogues(&report), [name]);
    }
    // Both factors of a SiLU have one.
    let mut net = Net::new(DType::F32, 64);
    let [gate, up] = [1, 2].map(|seed| {
        let c = net.constant(Tensor::vector(vec![f32::from(seed) / 4.0; 48]));
        let y = net.product(net.x, 48, 0, seed);
        net.op("", "Add", &[c, y])
    });
    let silu = net.op("", "Swish", &[gate]);
    let y = net.op("", "Mul", &[up, silu]);
    let (lowered, report) = check(&net.finish(&[y]), 5, 64, 2e-6);
    assert_eq!(ops(&lowered), ["KernelProduct"]);
    assert_eq!(epilogues(&report), ["biassilumul", "bias"]);
    // A bias that is an operand, and another one: the second stays.
    let mut net = Net::new(DType::F32, 64);
    let [c, d] = [1, 2].map(|it| net.constant(Tensor::vector(vec![it as f32; 48])));
    let y = net.product(net.x, 48, 0, 1);
    let y = net.op("", "Add", &[y, c]);
    let y = net.op("", "Add", &[y, d]);
    let (lowered, report) = check(&net.finish(&[y]), 5, 64, 1e-6);
    assert_eq!(ops(&lowered), ["KernelProduct", "Add"]);
    assert_eq!(epilogues(&report), ["bias"]);
}

#[test]
fn a_residual_that_repeats_is_added_as_before() {
    for dims in [vec![48], vec![2, 1, 48], vec![5, 1], vec![1, 5, 48]] {
        let mut net = Net::new(DType::F32, 64);
        let z = net.constant(x(DType::F32, dims));
        // Not a constant of one value per output.
        let z = net.op("", "Neg", &[z]);
        let y = net.product(net.x, 48, 0, 1);
        let y = net.op("", "Add", &[z, y]);
        let (lowered, report) = check(&net.finish(&[y]), 5, 64, 1e-6);
        assert_eq!(epilogues(&report), ["residual"]);
        assert!(!ops(&lowered).contains(&"Add".to_owned()));
    }
    // Behind a bias, which the product adds by itself then.
    let mut net = Net::new(DType::F32, 64);
    let z = net.constant(x(DType::F32, vec![5, 1]));
    let z = net.op("", "Neg", &[z]);
    let c = net.constant(Tensor::vector((0..48).map(|it| it as f32).collect::<Vec<_>>()));
    let y = net.product(net.x, 48, 0, 1);
    let y = net.op("", "Add", &[y, c]);
    let y = net.op("", "Add", &[z, y]);
    let (_, report) = check(&net.finish(&[y]), 5, 64, 1e-6);
    assert_eq!(epilogues(&report), ["biasresidual"]);
}

#[test]
fn outliers_go_with_every_end() {
    for rows in [1, 5, 19] {
        let mut net = Net::new(DType::F32, 100);
        let c = net.constant(Tensor::vector((0..48).map(|it| it as f32).collect::<Vec<_>>()));
        let a = net.outliers(net.x, 48, 1);
        let a = net.op("", "Add", &[c, a]);
        let b = net.outliers(net.x, 48, 2);
        let b = net.op("", "Gelu", &[b]);
        let gate = net.outliers(net.x, 48, 3);
        let up = net.product(net.x, 48, 0, 4);
        let silu = net.op("", "Swish", &[gate]);
        let g = net.op("", "Mul", &[silu, up]);
        let r = net.outliers(net.x, 48, 5);
        let y = net.op("", "Add", &[r, g]);
        let (lowered, report) = check(&net.finish(&[y, a, b]), rows, 100, 2e-6);
        assert_eq!(ops(&lowered), ["KernelProduct", "KernelProduct"]);
        assert_eq!(epilogues(&report), ["bias", "gelu", "silumul", "none", "residual"]);
        let beside = report.products.iter().map(|it| it.product.overlay().is_some());
        assert_eq!(beside.collect::<Vec<_>>(), [true, true, true, false, true]);
        assert_eq!(report.products[0].product.overlay().unwrap().len(), 480);
    }
    // An addition that repeats is done by the graph's own operator.
    let mut net = Net::new(DType::F16, 64);
    let z = net.constant(x(DType::F16, vec![5, 1]));
    let z = net.op("", "Neg", &[z]);
    let y = net.outliers(net.x, 48, 1);
    let y = net.op("", "Add", &[z, y]);
    let (_, report) = check(&net.finish(&[y]), 5, 64, 1e-3);
    assert_eq!(epilogues(&report), ["residual"]);
}

/// What stands behind products of a graph that is not lowered.
#[test]
fn ends_of_products_are_told() {
    let typed = |net: &mut Net, value: Value, dims: &[usize]| {
        let dims = dims.iter().map(|&it| Dim::Known(it));
        net.b.set_type(value, Type::tensor(DType::F32, dims));
    };
    let mut net = Net::new(DType::F32, 64);
    let c = net.constant(Tensor::vector(vec![0.5f32; 48]));
    let a = net.product(net.x, 48, 0, 1);
    let biased = net.op("", "Add", &[c, a]);
    let b = net.product(net.x, 48, 0, 2);
    let gelu = net.op("", "Gelu", &[b]);
    let gate = net.product(net.x, 48, 0, 3);
    let up = net.product(net.x, 48, 0, 4);
    let silu = net.op("", "Swish", &[gate]);
    let gated = net.op("", "Mul", &[up, silu]);
    // Something is added: of the same shape; of another one; of one that is not known.
    let sums = [Some([5, 48]), Some([1, 48]), None].map(|dims| {
        let other = net.op("", "Neg", &[gated]);
        let r = net.product(net.x, 48, 0, 5);
        typed(&mut net, r, &[5, 48]);
        if let Some(dims) = dims {
            typed(&mut net, other, &dims);
        }
        net.op("", "Add", &[other, r])
    });
    let graph = net.finish(&[&[biased, gelu, gated], &sums[..]].concat());
    let mut standing = Vec::new();
    for id in graph.topo() {
        let Some(Ok(it)) = low_bit(&graph, &Scope::root(), id) else { continue };
        let layout = it.weight.layout().unwrap();
        let matrix = Arc::new(Matrix::pack(layout, &it.weight.weight.view()).unwrap());
        let has_bias = it.bias.is_some();
        standing.push(crate::Standing { id, x: it.x, matrix, planes: it.planes, has_bias });
    }
    let at = |value: Value| standing.iter().position(|it| it.id == value.node).unwrap();
    let all = crate::ends(&graph, &standing);
    let end = |value: Value| all[at(value)].clone();
    let found = |value: Value| end(value).map(|it| (it.epilogue, it.bias.is_some(), it.factor));
    assert_eq!(all.len(), 7);
    assert_eq!(found(a), Some((Epilogue::Bias, true, None)));
    assert_eq!(end(a).unwrap().last, biased.node);
    assert_eq!(found(b), Some((Epilogue::Gelu, false, None)));
    assert_eq!(found(gate), Some((Epilogue::SiluMul, false, Some(at(up)))));
    assert_eq!(found(up), None);
    assert_eq!(end(gate).unwrap().last, gated.node);
    let residuals = all.iter().flatten().filter(|it| it.epilogue == Epilogue::Residual);
    assert_eq!(residuals.map(|it| it.last).collect::<Vec<_>>(), [sums[0].node]);
    // Those with a bias of their own have no end that is one, and all others.
    let biased = at(a);
    for it in &mut standing {
        it.has_bias = true;
    }
    let own = crate::ends(&graph, &standing);
    assert_eq!(own[biased], None);
    assert!((0..all.len()).all(|it| it == biased || own[it] == all[it]), "{own:?}");
}

/// What a product gives by itself lacks a bias behind it, so it is no factor.
#[test]
fn a_factor_behind_a_bias_is_no_factor_where_the_graph_stays() {
    let mut net = Net::new(DType::F32, 64);
    let c = net.constant(Tensor::vector(vec![0.5f32; 48]));
    let [gate, up] = [3, 4].map(|seed| net.product(net.x, 48, 0, seed));
    let [first, second] = [gate, up].map(|it| net.op("", "Add", &[c, it]));
    let silu = net.op("", "Swish", &[first]);
    let graph_of = net.op("", "Mul", &[second, silu]);
    let graph = net.finish(&[graph_of]);
    let standing: Vec<crate::Standing> = [gate, up]
        .iter()
        .map(|it| {
            let found = low_bit(&graph, &Scope::root(), it.node).unwrap().unwrap();
            let layout = found.weight.layout().unwrap();
            let matrix = Arc::new(Matrix::pack(layout, &found.weight.weight.view()).unwrap());
            let (x, planes) = (found.x, found.planes);
            crate::Standing { id: it.node, x, matrix, planes, has_bias: false }
        })
        .collect();
    let ends = crate::ends(&graph, &standing);
    let found: Vec<_> = ends.iter().map(|it| it.as_ref().map(|it| it.epilogue)).collect();
    assert_eq!(found, [None, Some(Epilogue::Bias)]);
}

#[test]
fn what_others_read_stays() {
    let why = |build: &dyn Fn(&mut Net) -> Vec<Value>| {
        let mut net = Net::new(DType::F32, 64);
        let outputs = build(&mut net);
        let (_, report) = check(&net.finish(&outputs), 3, 64, 1e-6);
        report.apart.into_iter().map(|it| it.why).collect::<Vec<_>>()
    };
    let bias = why(&|net| {
        let c = net.constant(Tensor::vector(vec![1f32; 48]));
        let y = net.product(net.x, 48, 0, 1);
        vec![y, net.op("", "Add", &[y, c])]
    });
    assert_eq!(bias, ["its result is read without its bias too, so the addition stays"]);
    let gelu = why(&|net| {
        let y = net.product(net.x, 48, 0, 1);
        vec![y, net.op("", "Gelu", &[y])]
    });
    assert_eq!(gelu, ["its result is read before GELU too, so GELU stays"]);
    let silu = |up_reads_gate: bool, shown: bool, ended: bool| {
        why(&|net| {
            let gate = net.product(net.x, 64, 0, 1);
            let x = if up_reads_gate { net.op("", "Neg", &[net.x]) } else { net.x };
            let mut up = net.product(x, 64, 0, 2);
            if ended {
                up = net.op("", "Gelu", &[up]);
            }
            let silu = net.op("", "Swish", &[gate]);
            let y = net.op("", "Mul", &[silu, up]);
            if shown { vec![y, up] } else { vec![y] }
        })
    };
    assert_eq!(
        silu(true, false, false),
        ["the other factor of its SiLU is a product of other activations"]
    );
    assert_eq!(silu(false, true, false), ["the other factor of its SiLU is read elsewhere"]);
    assert_eq!(silu(false, false, true), ["the other factor of its SiLU ends in a function"]);
    assert!(silu(false, false, false).is_empty());
}

#[test]
fn planes_may_be_chosen_and_what_has_no_kernel_stays() {
    let mut net = Net::new(DType::F32, 64);
    let y = net.product(net.x, 48, 4, 1);
    let graph = net.finish(&[y]);
    let mut exact = graph.clone();
    let all = LowerOptions { planes: Some(Planes::A22), threads: Arc::new(Alone), ..options(1) };
    assert_eq!(lower(&mut exact, &all).unwrap().products[0].product.planes(), Planes::A22);

    // Scales that a run brings.
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", Type::tensor(DType::F32, [1usize, 32]), None);
    let s = b.input("s", Type::tensor(DType::F32, [1usize, 1]), None);
    let codes = b.constant("codes", Tensor::from_vec(vec![1, 1, 16], vec![0u8; 16]).unwrap());
    let (k, n, block_size) = (32, 1, 32);
    let op = MatMulNBits { k, n, bits: 4, block_size, accuracy_level: 0, weight_prepacked: 0 };
    let outputs = vec![Output::new("y", Type::Unknown)];
    let node = b.op("odd", Arc::new(op), vec![Some(x), Some(codes), Some(s)], outputs);
    b.set_outputs(vec![Value { node, slot: 0 }]);
    let mut graph = b.finish().unwrap();
    let report = lower(&mut graph, &options(1)).unwrap();
    assert_eq!(ops(&graph), ["MatMulNBits"]);
    let stays = Stays { name: "odd".into(), why: "its scales are no constant".into() };
    assert_eq!(report.stays, [stays]);
}
