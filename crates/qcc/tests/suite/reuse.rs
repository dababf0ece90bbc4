//! Blocks that runs with other options, or of another model, take from each other.

use onnx_protobuf::{Message, ModelProto};

use crate::bench::{Bench, bundled};
use crate::resume::{TUNE, bench, kept_in, kill_behind_a_block};

/// A weight of the third of four layers.
const LATE: [&str; 2] = ["--exclude", "node_linear_18"];

/// [`TUNE`] with a recipe and more options, told on the error stream.
fn with(recipe: &'static str, more: &[&'static str]) -> Vec<&'static str> {
    let mut args: Vec<&str> = TUNE.iter().copied().filter(|it| *it != "-q").collect();
    args[2] = recipe;
    args.push("-f");
    args.extend(more);
    args
}

/// The output of a run that takes nothing from another.
fn fresh(bench: &Bench, args: &[&'static str]) -> Vec<u8> {
    bench.passes(&[args, &["--fresh"]].concat());
    bench.read("out.onnx")
}

/// Lets a run take what it finds in `kept`: what it says, and the output.
fn reused(bench: &Bench, args: &[&'static str]) -> (String, Vec<u8>) {
    let told = bench.passes(&[args, &["--work-dir", "kept"]].concat()).stderr;
    (told, bench.read("out.onnx"))
}

const QUANTIZED: &str = "signround{iters=4,batch=2}";
const FLOAT: &str = "signround{iters=4,batch=2,inputs=float}";

#[test]
fn blocks_before_a_weight_that_is_left_out_are_taken() {
    let bench = bench();
    let want = fresh(&bench, &with(QUANTIZED, &LATE));
    let (told, whole) = reused(&bench, &with(QUANTIZED, &[]));
    assert!(!told.contains("are there already"), "{told}");
    let (told, found) = reused(&bench, &with(QUANTIZED, &LATE));
    assert!(
        told.contains("signround       2 of 4 blocks with weights are there already"),
        "{told}"
    );
    assert!(found == want && want != whole);
    // All of it is in the folder of the run that took it, too.
    let kept = kept_in(&bench, "kept");
    for at in 1..=4 {
        let name = format!("block-{at}.safetensors");
        assert_eq!(kept.keys().filter(|it| it.ends_with(&name)).count(), 2, "{name}");
    }
    let (told, found) = reused(&bench, &with(QUANTIZED, &LATE));
    assert!(
        told.contains("signround       4 of 4 blocks with weights are there already"),
        "{told}"
    );
    assert!(found == want);
}

#[test]
fn blocks_on_float_inputs_are_taken_wherever_they_are() {
    let bench = bench();
    let early = ["--exclude", "node_linear_9"];
    let want = fresh(&bench, &with(FLOAT, &early));
    reused(&bench, &with(FLOAT, &[]));
    let (told, found) = reused(&bench, &with(FLOAT, &early));
    assert!(told.contains("3 of 4 blocks with weights are there already"), "{told}");
    assert!(found == want);
}

#[test]
fn a_run_goes_on_from_another_that_was_stopped() {
    let bench = bench();
    let (whole, late) = (with(QUANTIZED, &[]), with(QUANTIZED, &LATE));
    let want = fresh(&bench, &late);
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    for _ in 0..3 {
        assert!(kill_behind_a_block(&bench, &whole));
    }
    let before = kept_in(&bench, "out.onnx.work");
    let told = bench.passes(&late).stderr;
    assert!(told.contains("are there already") && told.contains("goes on at block"), "{told}");
    assert!(told.contains("warning[QCC0507]"), "{told}");
    assert!(bench.read("out.onnx") == want);
    // The one that was stopped still has what it had.
    assert!(kept_in(&bench, "out.onnx.work") == before);
}

#[test]
fn a_model_of_another_name_or_with_another_last_layer_takes_what_is_equal() {
    let bench = bench();
    let (_, whole) = reused(&bench, &with(QUANTIZED, &[]));
    let mut named = with(QUANTIZED, &[]);
    named[0] = "other.onnx";
    let model = bundled();
    bench.put("other.onnx", &model);
    let (told, found) = reused(&bench, &named);
    assert!(told.contains("4 of 4 blocks with weights are there already"), "{told}");
    assert!(found == whole);

    bench.put("other.onnx", &with_another_last_layer(&model));
    let want = fresh(&bench, &named);
    let (told, found) = reused(&bench, &named);
    assert!(told.contains("3 of 4 blocks with weights are there already"), "{told}");
    assert!(found == want && want != whole);
}

/// The bundled model with another sign of one value of its last layer.
fn with_another_last_layer(model: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::decode(model).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let node = graph.node.iter().find(|it| it.name() == "node_linear_27").unwrap();
    let weight = graph.initializer.iter_mut().find(|it| it.name() == node.input[1]).unwrap();
    let mut bytes = weight.raw_data.take().unwrap().to_vec();
    bytes[3] ^= 0x80;
    weight.raw_data = Some(bytes.into());
    model.encode_to_vec()
}
