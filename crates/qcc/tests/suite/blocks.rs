//! Blocks of real exports: as many layers as the models have, and parts that run one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use qcc::{Compiler, Model, WORKING_COPY};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, NodeId, Value};
use qcc_quantize::blocks::{Block, BlockOptions, blocks};
use qcc_quantize::find_sites;
use qcc_tensor::Tensor;

/// How many layers the configurations of the models name, encoder and decoder together, and how
/// many blocks there are with what lies before and after. Models without layers have one block for
/// each product, or for what cannot be parted.
const ZOO: &[(&str, usize, usize)] = &[
    ("bart_legacy_op17", 4, 7),
    ("bert_dynamo_op20", 2, 3),
    ("bert_legacy_op14", 2, 3),
    ("bert_ort_dynamic_int8", 2, 3),
    ("bert_ort_fused", 2, 3),
    ("gemma_dynamo_op20", 2, 4),
    ("gpt2_dynamo_op18", 2, 4),
    ("gpt2_legacy_op13", 2, 4),
    ("gptneox_legacy_op14", 2, 4),
    ("if_dynamo", 0, 3),
    ("llama_bf16_dynamo", 2, 4),
    ("llama_dynamo_op21", 2, 4),
    ("llama_dynamo_op23", 2, 4),
    ("llama_external_2files", 2, 4),
    ("llama_fp16_dynamo", 2, 4),
    ("llama_genai_fp32", 2, 4),
    ("llama_genai_int4", 2, 4),
    ("llama_legacy_op17", 2, 4),
    ("llama_optimum_kv", 2, 4),
    ("llama_ort_nbits", 2, 4),
    ("local_functions", 3, 4),
    ("loop_legacy", 0, 2),
    ("mlp_odd_sizes_op11", 0, 3),
    ("moe_3d_dynamo", 1, 1),
    ("moe_block_legacy", 1, 1),
    ("phi_dynamo_op20", 2, 4),
    ("qwen2_dynamo_op20", 2, 4),
    ("qwen3_legacy_op18", 2, 4),
    ("tied_unfolded_legacy", 0, 4),
    ("vit_dynamo_op20", 2, 4),
    ("vit_legacy_op15", 2, 4),
    ("whisper_dynamo_static", 2, 6),
];

/// Models with `MatMulInteger`, which is carried, but not executed.
const NOT_EXECUTED: &[&str] = &["bert_ort_dynamic_int8"];

/// The folder of the models, which are too many to lie beside the tests. Without it a test is
/// skipped, and says so where the test runner does not hide it.
fn zoo(test: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("QCC_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let zoo = shared.join("models/zoo");
    if zoo.is_dir() {
        return Some(zoo);
    }
    let line = format!("SKIP {test}: no {}; QCC_SHARED names the folder", zoo.display());
    writeln!(std::io::stderr(), "{line}").unwrap();
    None
}

fn rewritten(model: &Model, pipeline: &str) -> Graph {
    Compiler::new().pipeline(pipeline).run(model).unwrap().graph().clone()
}

fn find(graph: &Graph) -> Vec<Block> {
    blocks(graph, &find_sites(graph), &BlockOptions::default())
}

fn n_layers(blocks: &[Block]) -> usize {
    blocks.iter().filter_map(|it| it.layer).collect::<BTreeSet<_>>().len()
}

#[test]
fn the_bundled_model_has_four_layers() {
    let model = Model::open(bundled()).unwrap();
    let blocks = find(&rewritten(&model, "infer-types"));
    assert_eq!((n_layers(&blocks), blocks.len()), (4, 6));
    let layers: Vec<&Block> = blocks.iter().filter(|it| it.layer.is_some()).collect();
    assert!(layers.iter().all(|it| it.class == layers[0].class && it.products.len() == 7));
    assert_eq!(layers.iter().map(|it| it.params).sum::<u64>(), 4 * 196_608);
}

#[test]
fn as_many_layers_as_the_models_have() {
    let Some(zoo) = zoo("as_many_layers_as_the_models_have") else { return };
    for &(name, layers, all) in ZOO {
        let model = Model::open(zoo.join(name).join("model.onnx")).unwrap();
        let typed = find(&rewritten(&model, &format!("{WORKING_COPY},infer-types")));
        assert_eq!((n_layers(&typed), typed.len()), (layers, all), "{name}");
        let plain = find(model.graph());
        assert_eq!(n_layers(&plain), layers, "{name} without types");
        let lowered = format!("{WORKING_COPY},canonicalize,lower-fused,infer-types");
        let lowered = find(&rewritten(&model, &lowered));
        assert_eq!(n_layers(&lowered), layers, "{name} taken apart");
    }
}

#[test]
fn the_bundled_model_runs_block_by_block() {
    let model = Model::open(bundled()).unwrap();
    let ids: Vec<i64> = (0..48).map(|it| (it * 37 + 11) % 512).collect();
    let feed = Tensor::from_vec(vec![2, 24], ids).unwrap();
    let feed = BTreeMap::from([("input_ids".to_owned(), feed)]);
    for pipeline in ["infer-types", "canonicalize,lower-fused,infer-types"] {
        check_runs("books1M", &rewritten(&model, pipeline), &feed);
    }
}

#[test]
fn models_run_block_by_block() {
    let Some(zoo) = zoo("models_run_block_by_block") else { return };
    for &(name, ..) in ZOO.iter().filter(|it| !NOT_EXECUTED.contains(&it.0)) {
        let folder = zoo.join(name);
        let model = Model::open(folder.join("model.onnx")).unwrap();
        let feed = std::fs::read(folder.join("feeds.npz")).unwrap();
        let feed = qcc_data::npz::read(&feed.into()).unwrap().into_iter().collect();
        check_runs(name, &rewritten(&model, &format!("{WORKING_COPY},infer-types")), &feed);
    }
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M/model.onnx")
}

/// Values of a graph, given some of its values by name, and how many nodes were run for them.
fn run(
    graph: &Graph,
    given: &BTreeMap<String, Tensor>,
    wanted: &[Value],
) -> (Vec<(String, Tensor)>, usize) {
    let bound: Vec<_> = given.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let options = PlanOptions { outputs: Some(wanted.to_vec()), ..PlanOptions::default() };
    let plan = Plan::new(graph, &bound, &options).unwrap_or_else(|it| panic!("{it}"));
    let found = plan.run(given, &[], &mut |_, _| {}).unwrap_or_else(|it| panic!("{it}"));
    (found, plan.n_steps())
}

/// Running block after block gives, to the bit, what the whole graph does.
fn check_runs(name: &str, graph: &Graph, feed: &BTreeMap<String, Tensor>) {
    let blocks = find(graph);
    let (want, _) = run(graph, feed, graph.outputs());
    let in_blocks: BTreeSet<_> = blocks.iter().flat_map(|it| it.nodes.iter().copied()).collect();
    assert_eq!(in_blocks.len(), blocks.iter().map(|it| it.nodes.len()).sum::<usize>(), "{name}");
    let mut known: BTreeMap<Value, Tensor> = BTreeMap::new();
    for &node in graph.inputs() {
        let value = Value { node, slot: 0 };
        if let Some(tensor) = feed.get(graph.value_name(value)) {
            known.insert(value, tensor.clone());
        }
    }
    for (idx, block) in blocks.iter().enumerate() {
        // What no block makes follows from inputs of the graph alone.
        let missing = block.side.iter().copied().filter(|it| !known.contains_key(it));
        let missing: Vec<Value> = missing.collect();
        assert!(missing.iter().all(|it| !in_blocks.contains(&it.node)), "{name} {idx}");
        assert!(is_free(graph, &missing, &in_blocks), "{name} {idx}: side needs a block");
        for (value, (_, tensor)) in missing.iter().zip(run(graph, feed, &missing).0) {
            known.insert(*value, tensor);
        }
        let reads = block.inputs.iter().chain(&block.side);
        let given = reads.map(|it| (graph.value_name(*it).to_owned(), known[it].clone())).collect();
        let wanted: Vec<Value> = block.outputs.iter().chain(&block.others).copied().collect();
        let (found, n_steps) = run(graph, &given, &wanted);
        assert!(n_steps <= block.nodes.len(), "{name} {idx}: {n_steps} steps");
        for (value, (_, tensor)) in wanted.iter().zip(found) {
            known.insert(*value, tensor);
        }
    }
    for (value, (output, want)) in graph.outputs().iter().zip(want) {
        let from_blocks = in_blocks.contains(&value.node);
        let Some(got) = known.get(value) else {
            assert!(!from_blocks, "{name}: no block gives {output}");
            continue;
        };
        assert_eq!(got.dims(), want.dims(), "{name} {output}");
        assert!(got.bytes() == want.bytes(), "{name}: {output} differs");
    }
}

/// Whether values depend on no node of a block.
fn is_free(graph: &Graph, values: &[Value], in_blocks: &BTreeSet<NodeId>) -> bool {
    let mut stack: Vec<_> = values.iter().map(|it| it.node).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = stack.pop() {
        if in_blocks.contains(&id) {
            return false;
        }
        if seen.insert(id) {
            stack.extend(graph[id].uses().map(|it| it.node));
        }
    }
    true
}
