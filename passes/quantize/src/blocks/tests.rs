//! Blocks of graphs made by hand, and what does not change them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use qcc_ir::{GraphBuilder, Node, Output, Type};
use qcc_tensor::{DType, Tensor};

use super::*;
use crate::find_sites;

const H: usize = 64;

/// A graph under construction, with types of all values.
struct Maker {
    builder: GraphBuilder,
    count: usize,
}

impl Maker {
    fn new() -> Self {
        Self { builder: GraphBuilder::new("g"), count: 0 }
    }

    fn name(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}_{}", self.count)
    }

    fn input(&mut self, width: usize) -> Value {
        let name = self.name("in");
        self.builder.input(&name, f32s(width), None)
    }

    fn weight(&mut self, k: usize, n: usize) -> Value {
        let name = self.name("w");
        self.builder.constant(&name, Tensor::from_vec(vec![k, n], vec![0.5f32; k * n]).unwrap())
    }

    fn many(&mut self, domain: &str, op: &str, inputs: &[Value], n: u32, width: usize) -> NodeId {
        let make = qcc_ops::parse(domain, op, 17, Vec::new()).unwrap();
        let outputs = (0..n).map(|_| Output::new(self.name("v"), f32s(width))).collect();
        self.builder.op("", make, inputs.iter().copied().map(Some).collect(), outputs)
    }

    fn op(&mut self, op: &str, inputs: &[Value]) -> Value {
        Value { node: self.many("", op, inputs, 1, H), slot: 0 }
    }

    fn linear(&mut self, x: Value, k: usize, n: usize) -> Value {
        let weight = self.weight(k, n);
        Value { node: self.many("", "MatMul", &[x, weight], 1, n), slot: 0 }
    }

    /// Reads `x`, and keys and values from `from`; the mask is a side value.
    fn attention(&mut self, x: Value, from: Value, mask: Value) -> Value {
        let q = self.linear(x, H, H);
        let k = self.linear(from, H, H);
        let v = self.linear(from, H, H);
        let k = self.op("Transpose", &[k]);
        let scores = self.op("MatMul", &[q, k]);
        let scores = self.op("Add", &[scores, mask]);
        let weights = self.op("Softmax", &[scores]);
        let mixed = self.op("MatMul", &[weights, v]);
        self.linear(mixed, H, H)
    }

    fn mlp(&mut self, x: Value) -> Value {
        let up = self.linear(x, H, 2 * H);
        let up = self.op("Relu", &[up]);
        self.linear(up, 2 * H, H)
    }

    fn norm(&mut self, x: Value) -> Value {
        let scale = self.name("g");
        let scale = self.builder.constant(&scale, Tensor::vector(vec![1f32; H]));
        self.op("LayerNormalization", &[x, scale])
    }

    fn finish(mut self, outputs: Vec<Value>) -> Graph {
        self.builder.set_outputs(outputs);
        self.builder.finish().unwrap()
    }
}

fn f32s(width: usize) -> Type {
    Type::tensor(DType::F32, [4, width])
}

fn found(graph: &Graph) -> Vec<Block> {
    blocks(graph, &find_sites(graph), &BlockOptions::default())
}

/// Kinds with the number of products.
fn summary(blocks: &[Block]) -> Vec<(&'static str, usize)> {
    blocks.iter().map(|it| (it.kind.text(), it.products.len())).collect()
}

/// Layers with a norm before each branch, one after the last layer, and a head.
fn pre_norm(layers: usize) -> Graph {
    let mut m = Maker::new();
    let mut x = m.input(H);
    let mask = m.input(H);
    for _ in 0..layers {
        let y = m.norm(x);
        let y = m.attention(y, y, mask);
        x = m.op("Add", &[x, y]);
        let y = m.norm(x);
        let y = m.mlp(y);
        x = m.op("Add", &[x, y]);
    }
    let x = m.norm(x);
    let y = m.linear(x, H, 3 * H);
    m.finish(vec![y])
}

fn post_norm(layers: usize) -> Graph {
    let mut m = Maker::new();
    let (x, _) = post_norm_layers(&mut m, layers);
    m.finish(vec![x])
}

/// What the last of the layers gives, and the mask of their attention.
fn post_norm_layers(m: &mut Maker, layers: usize) -> (Value, Value) {
    let x = m.input(H);
    let mask = m.input(H);
    let mut x = m.norm(x);
    for _ in 0..layers {
        let y = m.attention(x, x, mask);
        let y = m.op("Add", &[x, y]);
        x = m.norm(y);
        let y = m.mlp(x);
        let y = m.op("Add", &[x, y]);
        x = m.norm(y);
    }
    (x, mask)
}

/// Two chains; the first one's end is read by every layer of the second.
fn encoder_decoder(encoders: usize, decoders: usize) -> Graph {
    let mut m = Maker::new();
    let mut e = m.input(H);
    let mut d = m.input(H);
    let mask = m.input(H);
    for _ in 0..encoders {
        let y = m.norm(e);
        let y = m.attention(y, y, mask);
        e = m.op("Add", &[e, y]);
        let y = m.norm(e);
        let y = m.mlp(y);
        e = m.op("Add", &[e, y]);
    }
    let e = m.norm(e);
    for _ in 0..decoders {
        let y = m.norm(d);
        let y = m.attention(y, y, mask);
        d = m.op("Add", &[d, y]);
        let y = m.norm(d);
        let y = m.attention(y, e, mask);
        d = m.op("Add", &[d, y]);
        let y = m.norm(d);
        let y = m.mlp(y);
        d = m.op("Add", &[d, y]);
    }
    let d = m.norm(d);
    let y = m.linear(d, H, 3 * H);
    m.finish(vec![y])
}

#[test]
fn a_layer_is_attention_and_mlp() {
    let graph = pre_norm(3);
    let blocks = found(&graph);
    assert_eq!(summary(&blocks), [("layer", 6), ("layer", 6), ("layer", 6), ("after", 1)]);
    assert_eq!(blocks[0].class, blocks[2].class);
    assert_ne!(blocks[0].class, blocks[3].class);
    for pair in blocks.windows(2) {
        assert_eq!(pair[0].outputs, pair[1].inputs);
        assert_eq!(pair[0].outputs.len(), 1);
    }
    let mask = Value { node: graph.inputs()[1], slot: 0 };
    assert!(blocks[..3].iter().all(|it| it.side == [mask]));
    assert!(blocks[3].side.is_empty() && blocks[3].nodes.len() == 2, "the last norm and the head");
    assert_eq!(blocks[1].params, (4 * H * H + 4 * H * H) as u64);
    assert_eq!(blocks[1].weights.len(), 6);
    assert_eq!(blocks.iter().map(|it| it.layer).max(), Some(Some(2)));
}

#[test]
fn a_norm_that_ends_each_layer_belongs_to_the_last_one_too() {
    let blocks = found(&post_norm(2));
    assert_eq!(summary(&blocks), [("before", 0), ("layer", 6), ("layer", 6)]);
    assert_eq!(blocks[1].class, blocks[2].class);
    assert_eq!(blocks[1].nodes.len(), blocks[2].nodes.len());
}

#[test]
fn what_only_reads_the_last_norm_does_not_part_it_from_its_layer() {
    let mut m = Maker::new();
    let (x, mask) = post_norm_layers(&mut m, 3);
    let pooled = m.op("Mul", &[x, mask]);
    let pooled = m.op("ReduceMean", &[pooled]);
    let graph = m.finish(vec![x, pooled]);
    let blocks = found(&graph);
    assert_eq!(summary(&blocks), [("before", 0), ("layer", 6), ("layer", 6), ("layer", 6)]);
    assert_eq!(blocks[3].outputs, [x]);
    assert_eq!(blocks[3].others, [pooled]);
}

#[test]
fn one_layer_is_known_by_its_form() {
    assert_eq!(summary(&found(&pre_norm(1))), [("layer", 6), ("after", 1)]);
    assert_eq!(summary(&found(&post_norm(1))), [("before", 0), ("layer", 6)]);
}

#[test]
fn both_branches_of_a_parallel_residual_are_one_layer() {
    let mut m = Maker::new();
    let mut x = m.input(H);
    let mask = m.input(H);
    for _ in 0..3 {
        let y = m.norm(x);
        let a = m.attention(y, y, mask);
        let b = m.mlp(y);
        let sum = m.op("Add", &[a, b]);
        x = m.op("Add", &[x, sum]);
    }
    let blocks = found(&m.finish(vec![x]));
    assert_eq!(summary(&blocks), [("layer", 6); 3]);
}

#[test]
fn a_cut_may_carry_a_sum_and_its_norm() {
    let mut m = Maker::new();
    let x = m.input(H);
    let mask = m.input(H);
    let gamma = m.builder.constant("gamma", Tensor::vector(vec![1f32; H]));
    let (mut sum, mut y) = (x, m.norm(x));
    for _ in 0..3 {
        for part in 0..2 {
            let branch = if part == 0 { m.attention(y, y, mask) } else { m.mlp(y) };
            let inputs = [sum, branch, gamma];
            let node = m.many("com.microsoft", "SkipSimplifiedLayerNormalization", &inputs, 4, H);
            (y, sum) = (Value { node, slot: 0 }, Value { node, slot: 3 });
        }
    }
    let head = m.linear(y, H, 3 * H);
    let blocks = found(&m.finish(vec![head]));
    assert_eq!(summary(&blocks), [("layer", 6), ("layer", 6), ("layer", 6), ("after", 1)]);
    let widths: Vec<usize> = blocks.iter().map(|it| it.inputs.len()).collect();
    assert_eq!(widths, [1, 2, 2, 1]);
}

#[test]
fn an_encoder_and_a_decoder_have_layers_of_their_own() {
    for (encoders, decoders) in [(2, 2), (1, 1), (4, 2), (1, 3)] {
        let blocks = found(&encoder_decoder(encoders, decoders));
        let layers: Vec<usize> =
            blocks.iter().filter(|it| it.kind == Kind::Layer).map(|it| it.products.len()).collect();
        let want = [vec![6; encoders], vec![10; decoders]].concat();
        assert_eq!(layers, want, "{encoders} {decoders}");
        let cross = blocks.iter().filter(|it| it.products.len() == 10);
        assert!(cross.clone().all(|it| it.inputs.len() == 2));
    }
}

#[test]
fn products_that_do_not_repeat_are_blocks_by_themselves() {
    let mut m = Maker::new();
    let x = m.input(40);
    let x = m.linear(x, 40, 50);
    let x = m.op("Relu", &[x]);
    let x = m.linear(x, 50, 60);
    let x = m.op("Relu", &[x]);
    let y = m.linear(x, 60, 70);
    assert_eq!(summary(&found(&m.finish(vec![y]))), [("single", 1); 3]);

    let mut m = Maker::new(); // a diamond: nothing goes between its sides
    let x = m.input(40);
    let (a, b) = (m.linear(x, 40, 50), m.linear(x, 40, 50));
    let y = m.op("Mul", &[a, b]);
    let y = m.linear(y, 50, 30);
    assert_eq!(summary(&found(&m.finish(vec![y]))), [("single", 2), ("single", 1)]);

    let mut m = Maker::new(); // no product at all
    let x = m.input(H);
    let y = m.op("Relu", &[x]);
    assert_eq!(found(&m.finish(vec![y])), []);
}

#[test]
fn caches_and_hidden_states_are_no_ends() {
    let mut m = Maker::new();
    let mut x = m.input(H);
    let (mask, cache) = (m.input(H), m.input(H));
    let mut outputs = Vec::new();
    for _ in 0..2 {
        let y = m.linear(x, H, H);
        let key = m.op("Add", &[y, cache]);
        outputs.push(m.op("Relu", &[key]));
        let y = m.attention(key, key, mask);
        x = m.op("Add", &[x, y]);
        outputs.push(x);
    }
    outputs.push(m.linear(x, H, 3 * H));
    let blocks = found(&m.finish(outputs.clone()));
    assert_eq!(summary(&blocks), [("layer", 5), ("layer", 5), ("after", 1)]);
    assert_eq!(blocks[0].others, outputs[..1]);
    assert_eq!(blocks[1].others, outputs[2..3]);
    assert_eq!(blocks[1].side.len(), 2, "the mask and the cache");
}

#[test]
fn a_block_that_is_too_large_is_split() {
    let graph = pre_norm(2);
    let sites = find_sites(&graph);
    let params = |max: usize| -> Vec<usize> {
        let options = BlockOptions { max_params: (max * H * H) as u64 };
        let blocks = blocks(&graph, &sites, &options);
        assert_eq!(blocks.iter().filter_map(|it| it.layer).max(), Some(1));
        blocks.iter().map(|it| it.params as usize / (H * H)).collect()
    };
    assert_eq!(params(8), [8, 8, 3]);
    assert_eq!(params(7), [4, 4, 4, 4, 3], "between attention and MLP");
    assert_eq!(params(3), [3, 1, 2, 2, 3, 1, 2, 2, 3], "inside both");
    let one = params(1); // products of one depth stay together
    assert_eq!(one, [3, 1, 2, 2, 3, 1, 2, 2, 3]);
}

/// The graph with its nodes in another order, and other names.
fn shuffled(graph: &Graph, seed: u64) -> (Graph, BTreeMap<NodeId, NodeId>) {
    let mut rest: Vec<NodeId> = graph.topo();
    let mut builder = GraphBuilder::new("other");
    let mut moved: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    let mut random = seed;
    while !rest.is_empty() {
        let is_ready = |it: &NodeId| graph[*it].uses().all(|it| moved.contains_key(&it.node));
        let ready: Vec<usize> = (0..rest.len()).filter(|&it| is_ready(&rest[it])).collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let id = rest.remove(ready[(random >> 33) as usize % ready.len()]);
        let new = |it: Value| Value { node: moved[&it.node], slot: it.slot };
        let Node { kind, inputs, outputs, .. } = &graph[id];
        let name = format!("x{random}");
        let ty = outputs[0].ty.clone();
        let node = match kind {
            qcc_ir::Kind::Const(tensor) => builder.constant(&name, tensor.clone()).node,
            qcc_ir::Kind::Op(op) => {
                let outputs = outputs.iter().enumerate();
                let outputs =
                    outputs.map(|(at, it)| Output::new(format!("{name}_{at}"), it.ty.clone()));
                let inputs = inputs.iter().map(|it| it.map(new)).collect();
                builder.op("", op.clone(), inputs, outputs.collect())
            }
            _ => builder.input(&name, ty, None).node,
        };
        moved.insert(id, node);
    }
    let outputs = graph.outputs().iter().map(|it| Value { node: moved[&it.node], slot: it.slot });
    builder.set_outputs(outputs.collect());
    (builder.finish().unwrap(), moved)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn names_and_order_change_nothing(which in 0usize..4, seed in any::<u64>(), max in 1usize..10) {
        let graph = match which {
            0 => pre_norm(3),
            1 => post_norm(2),
            2 => encoder_decoder(2, 2),
            _ => encoder_decoder(1, 1),
        };
        let (other, moved) = shuffled(&graph, seed);
        let options = BlockOptions { max_params: (max * H * H) as u64 };
        let before = blocks(&graph, &find_sites(&graph), &options);
        let after = blocks(&other, &find_sites(&other), &options);
        prop_assert_eq!(before.len(), after.len());
        for (a, b) in before.iter().zip(&after) {
            let about = |it: &Block| (it.kind, it.layer, it.class, it.params);
            prop_assert_eq!(about(a), about(b));
            let nodes = |list: &[NodeId]| list.iter().copied().collect::<BTreeSet<_>>();
            let values = |list: &[Value]| list.iter().copied().collect::<BTreeSet<_>>();
            let there = |it: &Value| Value { node: moved[&it.node], slot: it.slot };
            let moved_nodes: Vec<NodeId> = a.nodes.iter().map(|it| moved[it]).collect();
            prop_assert_eq!(nodes(&moved_nodes), nodes(&b.nodes));
            for (a, b) in [
                (&a.inputs, &b.inputs),
                (&a.side, &b.side),
                (&a.outputs, &b.outputs),
                (&a.others, &b.others),
            ] {
                let moved: Vec<Value> = a.iter().map(there).collect();
                prop_assert_eq!(values(&moved), values(b));
            }
        }
    }
}
