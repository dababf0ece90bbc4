//! What a record holds makes the same again.

use std::collections::BTreeMap;
use std::path::Path;

use crate::bench::{Bench, bundled};

#[test]
fn the_options_of_a_record_are_those_of_a_command_that_makes_the_same() {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    let samples = ["--calib", "calib.npy", "-n", "8", "--seq-len", "32"];
    for options in [
        &["-O", "rtn"][..],
        &["-O", "rtn", "--format", "qdq"],
        &["-O", "rtn", "--format", "function", "-b", "3", "--sym"],
        &["-O", "rtn", "--format", "fake", "-g", "64"],
        &["-O", "rtn", "--scheme", "W8A16"],
        &["-O", "none"],
        &["--passes", "infer-types,select{bits=3},rtn,pack,to-nbits"],
        &["-O", "signround", "--preset", "fast", "--tune-scales", "1"],
        &["-O", "rtn", "--bpw", "4.5"],
        &["-O", "signround", "--budget", "1s", "--lm-head", "4"],
        &["-O", "signround", "--preset", "std", "--budget", "2s"],
    ] {
        let has_samples = options[1] == "signround" || options.contains(&"--bpw");
        let more = if has_samples { &samples[..] } else { &[] };
        let out = ["in.onnx", "-f", "-o", "out.onnx", "--record", "record.json"];
        bench.passes(&[&out[..], options, more].concat());
        let first = bench.read("out.onnx");
        let record: serde_json::Value = serde_json::from_slice(&bench.read("record.json")).unwrap();
        let told: BTreeMap<String, String> =
            serde_json::from_value(record["options"].clone()).unwrap();
        let mut args = vec!["quantize".to_owned(), "in.onnx".to_owned(), "-f".to_owned()];
        for (name, values) in &told {
            for value in values.split('\n') {
                args.push(format!("--{name}"));
                args.extend((value != "true").then(|| value.to_owned()));
            }
        }
        args.extend(["--output".to_owned(), "out.onnx".to_owned()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        bench.passes(&args);
        assert!(bench.read("out.onnx") == first, "{options:?} became {args:?}");
    }
}
