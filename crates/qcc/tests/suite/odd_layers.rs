//! Tuning of models whose layers are not alone with what they need: they share weights, or hold an
//! operator without a derivative.

use std::collections::BTreeSet;

use onnx_protobuf::{GraphProto, Message, ModelProto, TensorProto};

use crate::bench::{Bench, floats, node};
use crate::gradients::{bench, without_derivative};

const SAMPLES: &[&str] = &["--calib", "calib.npy", "-n", "10", "--seq-len", "48"];
const OUT: &[&str] = &["in.onnx", "-f", "-o", "out.onnx"];

/// Products of a layer of the bundled model.
const PRODUCTS: usize = 7;

/// The name of a product, by its place in the bundled model.
fn product(at: usize) -> String {
    if at == 0 { "node_linear".to_owned() } else { format!("node_linear_{at}") }
}

/// All layers read the weights of the first.
fn shared(model: &mut ModelProto) {
    let graph = model.graph.as_mut().unwrap();
    let weight = |graph: &GraphProto, at: usize| {
        let node = graph.node.iter().find(|it| it.name() == product(at)).unwrap();
        node.input[1].clone()
    };
    for at in PRODUCTS..4 * PRODUCTS {
        let first = weight(graph, at % PRODUCTS);
        let node = graph.node.iter_mut().find(|it| it.name() == product(at)).unwrap();
        node.input[1] = first;
    }
    let read: BTreeSet<String> = graph.node.iter().flat_map(|it| it.input.clone()).collect();
    graph.initializer.retain(|it| read.contains(it.name()));
}

/// The initializers of what a command writes.
fn written(bench: &Bench, options: &[&str]) -> Vec<TensorProto> {
    bench.passes(&[OUT, options, SAMPLES].concat());
    ModelProto::decode(&*bench.read("out.onnx")).unwrap().graph.unwrap().initializer
}

#[test]
fn weights_that_layers_share_are_tuned_for_all_of_them() {
    let bench = bench(shared);
    let told = bench.passes(&["inspect", "in.onnx", "--blocks"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.matches("layer: several blocks read its weights").count(), 4, "{told}");
    let ran = bench.passes(&[OUT, &["-O", "signround{iters=2}", "-v"], SAMPLES].concat());
    let each = ran.stderr.matches("several blocks read it").count();
    assert_eq!(each, PRODUCTS, "{}", ran.stderr);
    let blocks = written(&bench, &["-O", "signround{iters=2}"]);
    assert!(blocks == written(&bench, &["-O", "signround{objective=layer}"]));
}

#[test]
fn a_block_without_a_derivative_leaves_the_cap_in_force() {
    let bench = bench(without_derivative);
    let run = |cap: &'static str| {
        let options = ["-O", "signround{iters=2,batch=8}", "--max-mem", cap];
        [&["in.onnx", "-o", "none.onnx"][..], &options, SAMPLES].concat()
    };
    bench.refused(&run("17MB"), 1, "QCC0501", &["tuning of blocks needs", "raise it to"]);
    bench.passes(&run("60MB"));
}

#[test]
fn that_a_block_has_no_derivative_is_kept_as_well() {
    let bench = bench(without_derivative);
    let options = ["-O", "signround{iters=2}", "--work-dir", "kept", "-v"];
    let run = || bench.passes(&[OUT, &options, SAMPLES].concat());
    let first = run();
    let whole = bench.read("out.onnx");
    let again = run();
    assert!(bench.read("out.onnx") == whole);
    assert!(again.stderr.contains("4 of 4 blocks with weights are there"), "{}", again.stderr);
    let why = "was tuned by itself: ";
    let count = |text: &str| text.matches(why).count();
    assert_eq!(count(&again.stderr), PRODUCTS, "{}", again.stderr);
    assert_eq!(count(&first.stderr), PRODUCTS, "{}", first.stderr);
}

#[test]
fn scales_are_trained_beside_the_weights_that_are_written() {
    let bench = bench(without_derivative);
    // Those of the first layers have no gradient, and other bits.
    let scales = |bits: &str| {
        let passes = format!(
            "infer-types,select{{bits=4,set=\"node_linear(_[0-6])?:bits={bits}\"}},rtn,\
             tune-scales{{iters=6,batch=2}},pack,to-nbits"
        );
        let written = written(&bench, &["--passes", &passes]);
        let is_of_a_later_layer = |it: &TensorProto| {
            // Weights of its last two products.
            ["val_673_scales", "val_674_scales"].contains(&it.name())
        };
        written.into_iter().filter(is_of_a_later_layer).collect::<Vec<_>>()
    };
    let (two, eight) = (scales("2"), scales("8"));
    assert_eq!(two.len(), 2);
    assert!(two != eight, "they were trained beside weights in float");
}

#[test]
fn without_a_gradient_that_tells_bits_follow_from_the_errors_and_it_is_told() {
    // Logits that are not finite, and some of which only one is ever drawn.
    for factor in [3e38, 1e30] {
        let bench = bench(|model| {
            let graph = model.graph.as_mut().unwrap();
            let last = graph.node.iter_mut().find(|it| it.name() == product(4 * PRODUCTS)).unwrap();
            let logits = std::mem::replace(&mut last.output[0], "small".to_owned());
            graph.node.push(node("Mul", "large", &["small", "factor"], &logits));
            graph.initializer.push(floats("factor", &[], &[factor]));
        });
        let ran = bench.passes(&[OUT, &["-O", "rtn", "--bpw", "4.5"], SAMPLES].concat());
        let text = "bits are chosen by the errors of the weights alone";
        assert!(ran.stderr.contains(text), "{factor}: {}", ran.stderr);
    }
}
