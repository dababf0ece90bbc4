//! A time for tuning in place of a number of steps.

use std::path::Path;

use onnx_protobuf::{Message, ModelProto};

use crate::bench::{Bench, bundled};

#[test]
fn a_budget_says_how_many_steps_give_the_same() {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    let samples = ["--calib", "calib.npy", "-n", "8", "--seq-len", "32", "-v", "-f"];
    let run = |more: &[&str]| {
        let ran = bench.passes(&[&["in.onnx", "-o", "out.onnx"], more, &samples[..]].concat());
        let model = ModelProto::decode(&*bench.read("out.onnx")).unwrap();
        (ran, model.graph.unwrap().initializer)
    };
    let (ran, within) = run(&["-O", "signround", "--budget", "3s"]);
    let (_, help) = ran.stderr.split_once("help: iters=").unwrap();
    let steps: String = help.chars().take_while(char::is_ascii_digit).collect();
    assert!(ran.stderr.contains(&format!("there is time for {steps} steps")));
    let (ran, counted) = run(&["-O", &format!("signround{{iters={steps}}}")]);
    assert!(within == counted && !ran.stderr.contains("QCC0610"));
    bench.refused(
        &["in.onnx", "-o", "other.onnx", "--budget", "soon"],
        2,
        "QCC0304",
        &["--budget"],
    );
}
