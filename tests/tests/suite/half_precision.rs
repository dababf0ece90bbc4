//! Models in half precision: tuned as those in f32 are.

use std::sync::Arc;

use half::f16;
use onnx_protobuf::type_proto::Value as Kind;
use onnx_protobuf::{Message as _, ModelProto, TensorProto};
use qcc::{Compiler, Model, OpenOptions, SaveOptions};
use qcc_tests::{Bench, books1m};

const FLOAT: i32 = 1;
const HALF: i32 = 10;

fn narrow(tensor: &mut TensorProto) {
    if tensor.data_type != Some(FLOAT) {
        return;
    }
    tensor.data_type = Some(HALF);
    let raw = tensor.raw_data.take().unwrap_or_default();
    let from_raw = raw.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
    let floats = from_raw.chain(std::mem::take(&mut tensor.float_data));
    let bytes: Vec<u8> = floats.flat_map(|it| f16::from_f32(it).to_le_bytes()).collect();
    tensor.raw_data = Some(bytes.into());
}

/// The bundled model with every float in f16.
fn narrowed() -> Vec<u8> {
    let bytes = std::fs::read(books1m().join("model.onnx")).unwrap();
    let mut model = ModelProto::decode(&*bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.initializer.iter_mut().for_each(narrow);
    for value in graph.value_info.iter_mut().chain(&mut graph.output) {
        if let Some(Kind::TensorType(it)) = value.r#type.as_mut().and_then(|it| it.value.as_mut())
            && it.elem_type == Some(FLOAT)
        {
            it.elem_type = Some(HALF);
        }
    }
    for node in &mut graph.node {
        let is_cast = node.op_type.as_deref() == Some("Cast");
        for attr in &mut node.attribute {
            attr.t.iter_mut().for_each(narrow);
            if is_cast && attr.name.as_deref() == Some("to") && attr.i == Some(FLOAT.into()) {
                attr.i = Some(HALF.into());
            }
        }
    }
    model.encode_to_vec()
}

#[test]
fn blocks_of_f16_are_tuned_as_those_of_f32_are() {
    let bench = Bench::new();
    let path = bench.path("half.onnx");
    std::fs::write(&path, narrowed()).unwrap();
    let model = Model::open(&path).unwrap();
    let tuned = |model: &Model, steps: usize| {
        let options = OpenOptions { samples: Some(16), ..OpenOptions::default() };
        let samples = Arc::new(model.samples(books1m().join("calib.npy"), options).unwrap());
        let recipe = format!("signround{{objective=block,iters={steps},batch=8}}");
        let compiler = Compiler::new().recipe(&recipe).unwrap().bits(2).unwrap();
        let output = compiler.calibration(samples).threads(2).run(model).unwrap();
        let tuned = output.record().weights.iter().filter(|it| it.pass == "signround").count();
        let blocks = output.record().blocks.len();
        let path = bench.path("tuned.onnx");
        let options = SaveOptions { overwrite: true, ..SaveOptions::default() };
        output.save(&path, &options).unwrap();
        (tuned, blocks, bench.logits(&std::fs::read(path).unwrap()))
    };
    let want = bench.logits(&std::fs::read(books1m().join("model.onnx")).unwrap());
    let off = |got: &[f32]| want.iter().zip(got).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let (weights, blocks, in_f32) = tuned(bench.model(), 10);
    let (of_half, blocks_of_half, in_f16) = tuned(&model, 10);
    assert_eq!((of_half, blocks_of_half), (weights, blocks));
    let (in_f32, in_f16) = (off(&in_f32), off(&in_f16));
    assert!(in_f16 < 1.15 * in_f32, "{in_f16} against {in_f32}");
}
