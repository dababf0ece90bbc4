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

#[test]
fn a_budget_covers_all_of_tuning_and_says_when_it_is_too_short() {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    let samples = ["--calib", "calib.npy", "-n", "4", "--seq-len", "16", "-v", "-f"];
    let run = |more: &[&str]| {
        let args = ["in.onnx", "-o", "out.onnx", "-O", "signround{batch=1}"];
        let ran = bench.passes(&[&args[..], more, &samples[..]].concat());
        let model = ModelProto::decode(&*bench.read("out.onnx")).unwrap();
        (ran.stderr, model.graph.unwrap().initializer)
    };
    let (said, short) = run(&["--budget", "1ms", "--preset", "best"]);
    for text in ["warning[QCC0510]: the blocks take about", "no time is left to train them"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let (said, one) = run(&["--tune-scales", "0", "--budget", "1ms"]);
    assert!(said.contains("QCC0510") && !said.contains("train"), "{said}");
    assert!(short == one, "scales are trained");
    let (said, _) = run(&["--budget", "1h", "--tune-scales", "1", "--dry-run"]);
    assert!(!said.contains("QCC0510"), "{said}");
}
