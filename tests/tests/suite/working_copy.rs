//! What runs for activations is a copy of the graph; the numbers are those of the graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnx_protobuf::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, Message, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc::{Compiler, Model, OpenOptions, Output, SaveOptions, WORKING_COPY};
use qcc_data::npz;
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, Kind, Scope};
use qcc_pass::{Pipeline, Record, SampleError, SampleSource, Session, Tap, WorkingCopy};
use qcc_tensor::Tensor;
use qcc_tests::{Bench, books1m};
use tempfile::TempDir;

fn node(domain: &str, op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        domain: (!domain.is_empty()).then(|| domain.to_owned()),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&it| it.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..AttributeProto::default()
    }
}

fn reference(name: &str, to: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(to.into()), f: None, ..float(name, 0.0) }
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

fn weight(name: &str, k: usize, n: usize) -> TensorProto {
    let value = |it: usize| (((it * 7919) % 1009) as f32 / 504.0 - 1.0) * 0.5;
    TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: vec![k as i64, n as i64],
        float_data: (0..k * n).map(value).collect(),
        ..TensorProto::default()
    }
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
    let dim = |&it: &i64| Dimension {
        value: Some(dimension::Value::DimValue(it)),
        ..Dimension::default()
    };
    let shape = onnx_protobuf::TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// `y = Block(x W1) W2`, where `Block` calls `Act`, with an argument and a default, and is written
/// for an older opset, in which `ReduceMean` has its axes as an attribute.
fn with_functions(is_called: bool) -> ModelProto {
    let mut elu = node("", "Elu", &["x"], "y");
    elu.attribute = vec![reference("alpha", "slope")];
    let act = FunctionProto {
        domain: Some("my".into()),
        name: Some("Act".into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        attribute_proto: vec![float("slope", 0.5)],
        node: vec![elu],
        opset_import: vec![import("", 17)],
        ..FunctionProto::default()
    };
    let mut call = node("my", "Act", &["x"], "a");
    call.attribute = vec![reference("slope", "slope")];
    let mut mean = node("", "ReduceMean", &["a"], "m");
    mean.attribute = vec![AttributeProto {
        name: Some("axes".into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: vec![-1],
        ..AttributeProto::default()
    }];
    let block = FunctionProto {
        domain: Some("my".into()),
        name: Some("Block".into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        attribute: vec!["slope".into()],
        node: vec![call, mean, node("", "Sub", &["a", "m"], "y")],
        opset_import: vec![import("", 17), import("my", 1)],
        ..FunctionProto::default()
    };
    let mut block_call = node("my", "Block", &["h"], "b");
    block_call.attribute = vec![float("slope", 0.25)];
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 18), import("my", 1)],
        functions: vec![act, block],
        graph: Some(GraphProto {
            name: Some("g".into()),
            node: vec![
                node("", "MatMul", &["x", "w1"], "h"),
                if is_called { block_call } else { node("", "Relu", &["h"], "b") },
                node("", "MatMul", &["b", "w2"], "y"),
            ],
            initializer: vec![weight("w1", 64, 128), weight("w2", 128, 64)],
            input: vec![value("x", &[4, 64])],
            output: vec![value("y", &[4, 64])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

struct Rows;

impl SampleSource for Rows {
    fn len(&self) -> usize {
        20
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        let at = |it: usize| ((it * it * 31 + it * 17 + index * 101) % 257) as f32 / 128.0 - 1.0;
        let x = Tensor::from_vec(vec![4, 64], (0..256).map(at).collect::<Vec<f32>>());
        Ok(vec![("x".into(), x.map_err(|it| SampleError::Mismatch(it.to_string()))?)])
    }

    fn describe(&self) -> String {
        "rows made by a formula".into()
    }
}

fn open(folder: &TempDir, model: &ModelProto) -> Model {
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    Model::open(path).unwrap()
}

fn gptq() -> Compiler {
    let compiler = Compiler::new().recipe("gptq").unwrap().calibration(Arc::new(Rows));
    compiler.setting("select", "head", "4").unwrap()
}

/// Every constant of a graph by name.
fn constants(graph: &Graph) -> BTreeMap<String, Tensor> {
    let constant = |it: &qcc_ir::Node| match &it.kind {
        Kind::Const(tensor) => Some((it.outputs[0].name.clone(), tensor.clone())),
        _ => None,
    };
    graph.nodes().filter_map(|it| constant(it.1)).collect()
}

fn run(graph: &Graph, feed: &BTreeMap<String, Tensor>) -> Vec<f32> {
    let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let plan = Plan::new(graph, &bound, &PlanOptions::default()).unwrap();
    plan.run(feed, &[], &mut |_, _| {}).unwrap()[0].1.to_f32().unwrap().into_owned()
}

fn save(output: &Output, folder: &TempDir) -> (Vec<u8>, Model) {
    let path = folder.path().join("out.onnx");
    output.save(&path, &SaveOptions { overwrite: true, ..SaveOptions::default() }).unwrap();
    (std::fs::read(&path).unwrap(), Model::open(path).unwrap())
}

#[test]
fn a_model_with_functions_is_calibrated_and_written_with_them() {
    let folder = TempDir::new().unwrap();
    let source = with_functions(true);
    let model = open(&folder, &source);
    let error = gptq().working_copy("").unwrap().run(&model).err().unwrap().to_string();
    assert!(error.contains("my::Block"), "{error}");

    let output = gptq().run(&model).unwrap();
    let (bytes, _) = save(&output, &folder);
    let written = ModelProto::decode(&*bytes).unwrap();
    assert_eq!(written.functions, source.functions);
    let graph = written.graph.unwrap();
    let kinds: Vec<&str> = graph.node.iter().map(NodeProto::op_type).collect();
    assert_eq!(kinds, ["MatMulNBits", "Block", "MatMulNBits"]);

    // Bodies in place of the calls give the same codes, and a model without functions.
    let inlined = gptq().prepare("inline-functions,infer-types").unwrap().run(&model).unwrap();
    assert_eq!(inlined.record().notes, output.record().notes);
    let codes = constants(inlined.graph());
    for (name, tensor) in constants(output.graph()) {
        assert!(codes[&name] == tensor, "{name}");
    }
    let (bytes, again) = save(&inlined, &folder);
    assert_eq!(ModelProto::decode(&*bytes).unwrap().functions, []);

    // They compute what the model computes, but for the rounding of weights.
    let feed: BTreeMap<_, _> = Rows.batch(0).unwrap().into_iter().collect();
    let x = run(again.graph(), &feed);
    let session = session(WORKING_COPY);
    let float = WorkingCopy::of(model.graph(), &[], &session).unwrap();
    let want = run(&float.graph, &feed);
    let power = |it: &[f32]| it.iter().map(|it| f64::from(it * it)).sum::<f64>();
    let noise: Vec<f32> = x.iter().zip(&want).map(|(a, b)| a - b).collect();
    assert!(power(&noise) < 0.05 * power(&want) && power(&noise) > 0.0);
}

#[test]
fn functions_that_nobody_called_stay() {
    let folder = TempDir::new().unwrap();
    let source = with_functions(false);
    let model = open(&folder, &source);
    let (bytes, _) = save(&gptq().run(&model).unwrap(), &folder);
    assert_eq!(ModelProto::decode(&*bytes).unwrap().functions, source.functions);
}

fn session(text: &str) -> Session {
    let working_copy = Pipeline::parse(text, &qcc::passes(), &[]).unwrap();
    Session { working_copy, ..Session::default() }
}

/// More than the compiler does.
const REWRITTEN: &str = "inline-functions{opsets=any},infer-types,fold,canonicalize,dce";

/// What products with a constant read.
fn taps(graph: &Graph) -> Vec<Tap> {
    let tap = |node: &qcc_ir::Node| -> Option<Tap> {
        let is_product = node.op().is_some_and(|it| it.is_named("MatMul") || it.is_named("Gemm"));
        let [Some(x), Some(w)] = node.inputs.get(..2)? else { return None };
        (is_product && graph.constant(*w).is_some()).then(|| (Scope::root(), *x))
    };
    let taps: BTreeSet<Tap> = graph.nodes().filter_map(|it| tap(it.1)).collect();
    taps.into_iter().collect()
}

/// Second moments of what each tap sees.
fn moments(copy: &WorkingCopy, taps: &[Tap], feed: &BTreeMap<String, Tensor>) -> Vec<Vec<f64>> {
    let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let moved: Vec<Tap> = taps.iter().map(|it| copy.tap(it).unwrap().clone()).collect();
    let tapped = moved.iter().map(|it| it.1).collect();
    let options = PlanOptions { outputs: Some(Vec::new()), tapped, ..PlanOptions::default() };
    let plan = Plan::new(&copy.graph, &bound, &options).unwrap();
    let mut found = vec![Vec::new(); taps.len()];
    plan.run_scoped(feed, &moved, &mut |scope, value, tensor| {
        let k = *tensor.dims().last().unwrap();
        let mut gram = vec![0f64; k * k];
        for row in tensor.to_f32().unwrap().chunks_exact(k) {
            for (i, x) in row.iter().enumerate() {
                for (sum, y) in gram[i * k..][..k].iter_mut().zip(row) {
                    *sum += f64::from(*x) * f64::from(*y);
                }
            }
        }
        for (tap, found) in moved.iter().zip(&mut found) {
            if (&tap.0, tap.1) == (scope, value) {
                *found = gram.clone();
            }
        }
    })
    .unwrap();
    found
}

fn check_moments(graph: &Graph, feed: &BTreeMap<String, Tensor>) {
    let mut graph = graph.clone();
    let pipeline = Pipeline::parse("infer-types", &qcc::passes(), &[]).unwrap();
    let plain = Session::default();
    qcc_pass::run(&mut graph, &pipeline, &plain, &mut Record::default(), &mut []).unwrap();
    let taps = taps(&graph);
    assert!(!taps.is_empty());
    let copy = WorkingCopy::of(&graph, &taps, &session(WORKING_COPY)).unwrap();
    let rewritten = WorkingCopy::of(&graph, &taps, &session(REWRITTEN)).unwrap();
    assert!(rewritten.graph.same_as(&graph).is_err(), "nothing was rewritten");
    let inlined = WorkingCopy::of(&graph, &taps, &session("inline-functions{opsets=any}")).unwrap();
    let want = moments(&inlined, &taps, feed);
    for copy in [copy, rewritten] {
        for (got, want) in moments(&copy, &taps, feed).iter().zip(&want) {
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(0f64, |a, b| a.max(b.abs()));
            let far = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max);
            assert!(far <= 1e-5 * largest, "{far} of {largest}");
        }
    }
}

#[test]
fn moments_are_those_of_the_graph() {
    let bench = Bench::new();
    let ids: Vec<i64> = (0..64).map(|it| (it * 37 + 11) % 512).collect();
    let ids = Tensor::from_vec(vec![1, 64], ids).unwrap();
    let feed = BTreeMap::from([(bench.model().inputs()[0].name.clone(), ids)]);
    check_moments(bench.model().graph(), &feed);
}

/// Models that are too many to lie beside the tests; without them, nothing is checked.
fn zoo(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("QCC_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    Some(shared.join("models/zoo").join(name)).filter(|it| it.join("model.onnx").exists())
}

#[test]
fn moments_of_other_models_too() {
    for name in ["llama_dynamo_op23", "bert_legacy_op14", "gpt2_dynamo_op18", "phi_dynamo_op20"] {
        let Some(folder) = zoo(name) else { continue };
        let model = Model::open(folder.join("model.onnx")).unwrap();
        let feed = std::fs::read(folder.join("feeds.npz")).unwrap();
        let feed = npz::read(&feed.into()).unwrap();
        check_moments(model.graph(), &feed.into_iter().collect());
    }
}

#[test]
fn codes_hardly_depend_on_the_copy() {
    let bench = Bench::new();
    let options = OpenOptions { samples: Some(4), ..OpenOptions::default() };
    let samples = Arc::new(bench.model().samples(books1m().join("calib.npy"), options).unwrap());
    let codes = |copy: &str| {
        let compiler = Compiler::new().recipe("gptq").unwrap().calibration(samples.clone());
        let output = compiler.working_copy(copy).unwrap().run(bench.model()).unwrap();
        constants(output.graph())
    };
    let (plain, copy) = (codes(""), codes(REWRITTEN));
    let (mut all, mut differ) = (0, 0);
    for (name, want) in &plain {
        let got = &copy[name];
        assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()));
        let pairs = || got.bytes().iter().zip(want.bytes());
        all += pairs().count();
        differ += pairs().filter(|(a, b)| a != b).count();
    }
    assert!(differ * 1000 <= all, "{differ} bytes of {all} differ");
}

/// The outputs of a graph, as floats.
fn outputs(graph: &Graph, feed: &BTreeMap<String, Tensor>) -> Vec<Vec<f32>> {
    let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let plan = Plan::new(graph, &bound, &PlanOptions::default()).unwrap();
    let outputs = plan.run(feed, &[], &mut |_, _| {}).unwrap();
    outputs.into_iter().map(|it| it.1.to_f32().unwrap().into_owned()).collect()
}

#[test]
fn fused_operators_may_be_taken_apart() {
    for name in ["bert_ort_fused", "llama_genai_fp32"] {
        let Some(folder) = zoo(name) else { continue };
        let model = Model::open(folder.join("model.onnx")).unwrap();
        let feed = std::fs::read(folder.join("feeds.npz")).unwrap();
        let feed = npz::read(&feed.into()).unwrap().into_iter().collect();
        let text = "infer-types,lower-fused,infer-types";
        let copy = WorkingCopy::of(model.graph(), &[], &session(text)).unwrap();
        let fused = |graph: &Graph| {
            let is_fused =
                |it: &qcc_ir::Node| it.op().is_some_and(|it| it.domain() == "com.microsoft");
            graph.nodes().filter(|it| is_fused(it.1)).count()
        };
        assert!(fused(model.graph()) > 0, "{name}");
        assert_eq!(fused(&copy.graph), 0, "{name}");
        for (got, want) in outputs(&copy.graph, &feed).iter().zip(outputs(model.graph(), &feed)) {
            let largest = want.iter().fold(0f32, |a, b| a.max(b.abs()));
            let far = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(far <= 1e-5 * largest, "{name}: {far} of {largest}");
        }
    }
}
