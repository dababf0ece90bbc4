//! Samples that are tuned on as one.

use std::path::Path;

use onnx_protobuf::{Message, ModelProto, tensor_shape_proto::dimension, type_proto};

use crate::bench::{Bench, bundled};

/// The initializers of what is tuned on four samples a step.
fn tuned(model: &[u8]) -> Vec<onnx_protobuf::TensorProto> {
    let bench = Bench::new(model);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    let recipe = "signround{iters=4,batch=4}";
    let samples = ["--calib", "calib.npy", "-n", "10", "--seq-len", "48"];
    let ran =
        bench.passes(&[&["in.onnx", "-O", recipe, "-o", "out.onnx", "-v"], &samples[..]].concat());
    assert!(!ran.stderr.contains("QCC0606"), "{}", ran.stderr);
    ModelProto::decode(&*bench.read("out.onnx")).unwrap().graph.unwrap().initializer
}

#[test]
fn samples_give_the_same_together_and_one_by_one() {
    let open = bundled();
    let mut fixed = ModelProto::decode(&*open).unwrap();
    let graph = fixed.graph.as_mut().unwrap();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let Some(type_proto::Value::TensorType(ty)) =
            value.r#type.as_mut().and_then(|it| it.value.as_mut())
        else {
            panic!("no tensor")
        };
        // A batch of one: samples cannot run together.
        ty.shape.as_mut().unwrap().dim[0].value = Some(dimension::Value::DimValue(1));
    }
    let (together, alone) = (tuned(&open), tuned(&fixed.encode_to_vec()));
    assert!(together.len() > 60);
    assert!(together == alone);
}
