//! `qcc bench`: what it prints, and what it refuses.

use serde_json::Value;

use crate::bench::{Bench, bundled};

/// The bundled model as `in.onnx`, and rounded to 4 bits as `out.onnx`.
fn rounded() -> Bench {
    let bench = Bench::new(&bundled());
    bench.passes(&["in.onnx", "-O", "rtn", "-b4", "-o", "out.onnx", "-q"]);
    bench
}

fn run(bench: &Bench, args: &[&str]) -> (Option<i32>, String, String) {
    let output = bench.command(&[&["bench"], args].concat()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_quantized_model_beside_the_float_one() {
    let bench = rounded();
    let args = ["out.onnx", "--ref", "in.onnx", "-m", "1,3", "-t2", "--runs", "1", "--json"];
    let (code, text, errors) = run(&bench, &args);
    assert_eq!(code, Some(0), "{errors}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["products"], &found["limits"]["threads"]), (&28.into(), &2.into()));
    let whole = found["whole"].as_array().unwrap();
    assert_eq!(whole.iter().map(|it| &it["rows"]).collect::<Vec<_>>(), [1, 3]);
    assert!(whole.iter().all(|it| it["reference_seconds"].as_f64().unwrap() > 0.0));
    // q with k and v, o, gate with up, down: each in four layers, with the float nodes beside.
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|it| &it["count"]).collect::<Vec<_>>(), [4; 4]);
    for time in layers.iter().flat_map(|it| it["times"].as_array().unwrap()) {
        assert!(time["reference_seconds"].as_f64().unwrap() > 0.0, "{time}");
        assert!(time["share_of_limit"].as_f64().unwrap() > 0.0, "{time}");
    }

    let args = ["out.onnx", "-m1", "-t1", "--runs", "1", "--whole", "--profile"];
    let (code, text, errors) = run(&bench, &args);
    assert_eq!(code, Some(0), "{errors}");
    for part in ["  products   28 on ", " GB/s from ", "tokens/s", "qcc::KernelProduct"] {
        assert!(text.contains(part), "no '{part}' in:\n{text}");
    }
    assert!(!text.contains("K x N"), "{text}");
}

#[test]
fn a_float_model_has_no_products() {
    let bench = Bench::new(&bundled());
    let (code, text, errors) = run(&bench, &["in.onnx", "-m1", "-t1", "--runs", "1"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("  products   0 on "), "{text}");
}

#[test]
fn what_is_wrong_has_a_code() {
    let bench = Bench::new(&bundled());
    for (args, code, text) in [
        (&["in.onnx", "-m", "1,0"][..], "QCC0304", "whole number from 1 on"),
        (&["in.onnx", "--activations", "a4"][..], "QCC0304", "a8, a15, a22"),
        (&["no.onnx"][..], "QCC0101", "no.onnx"),
    ] {
        let (ended, _, errors) = run(&bench, args);
        assert_ne!(ended, Some(0), "{args:?}");
        assert!(errors.contains(code) && errors.contains(text), "{args:?}: {errors}");
    }
}
