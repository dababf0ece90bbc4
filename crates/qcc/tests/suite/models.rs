//! Models that are damaged, contradict themselves, or hold nothing to quantize.

use crate::bench::{Bench, RTN, SIZE, bundled, bytes_of, floats, good, model, node, numbers};
use crate::bench::{product, rtn};

/// A run on damaged bytes: an error with a code and nothing else, or an output that can be read.
fn survives(bench: &Bench, bytes: &[u8], what: &str) -> bool {
    bench.put("in.onnx", bytes);
    let before = bench.files();
    let ran = bench.run(RTN);
    assert!(bench.read("in.onnx") == bytes, "{what}: the input changed");
    let out = bench.path("out.onnx");
    if ran.code == Some(0) {
        qcc::Model::open(&out).unwrap_or_else(|it| panic!("{what}: {it}"));
        std::fs::remove_file(out).unwrap();
        return true;
    }
    assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
    assert!(ran.stderr.contains("error[QCC0"), "{what}: {}", ran.stderr);
    assert!(ran.stderr.contains("more: qcc explain QCC0"), "{what}: {}", ran.stderr);
    assert!(before == bench.files(), "{what}: something was left behind");
    false
}

#[test]
fn a_model_that_is_cut_short() {
    for (whole, parts) in [(bundled(), 32), (model(good()), 64)] {
        let bench = Bench::new(&whole);
        for part in 0..parts {
            let len = whole.len() * part / parts;
            let what = format!("the first {len} of {} bytes", whole.len());
            assert!(!survives(&bench, &whole[..len], &what), "{what} are no model");
        }
        // The last field of the message is the import of the opset: without it there is a model.
        survives(&bench, &whole[..whole.len() - 1], "one byte less");
    }
}

#[test]
fn a_model_with_a_bit_flipped() {
    let whole = model(good());
    let weight = bytes_of(&numbers(SIZE * SIZE));
    let at = whole.windows(weight.len()).position(|it| it == weight).unwrap();
    let bench = Bench::new(&whole);
    let mut survived = 0;
    // Everything around the weight, and some of the weight.
    let around = (0..at).chain(at + weight.len()..whole.len());
    for place in around.chain((at..at + weight.len()).step_by(4001)) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place * 5 % 8);
        survived += usize::from(survives(&bench, &bytes, &format!("bit at byte {place}")));
    }
    assert!(survived > 5, "only {survived} models with a flipped bit can be read");
}

#[test]
fn the_bundled_model_with_a_bit_flipped() {
    let whole = bundled();
    let bench = Bench::new(&whole);
    for part in 0..8 {
        // Nodes are at the start of the graph, weights after them.
        let place = if part < 6 { 30 + 1777 * part } else { whole.len() / 7 * (part - 3) };
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (part % 8);
        survives(&bench, &bytes, &format!("bit at byte {place}"));
    }
}

#[test]
fn what_is_no_model() {
    let bench = Bench::new(b"");
    bench.refused(RTN, 1, "QCC0102", &["in.onnx", "the file is empty"]);
    bench.put("in.onnx", b"version https://git-lfs.github.com/spec/v1\n");
    bench.refused(RTN, 1, "QCC0102", &["git lfs pull"]);
    bench.put("in.onnx", b"GGUF\x03\0\0\0\x02\0\0\0");
    bench.refused(RTN, 1, "QCC0102", &["it is a GGUF file; qcc reads ONNX"]);
    bench.put("in.onnx", b"\x10\0\0\0\0\0\0\0{\"w\":{}}        and more");
    bench.refused(RTN, 1, "QCC0102", &["it is a safetensors file", "qcc reads ONNX"]);
    std::fs::remove_file(bench.path("in.onnx")).unwrap();
    bench.refused(RTN, 1, "QCC0101", &["in.onnx", "help: check the path"]);
    std::fs::create_dir(bench.path("in.onnx")).unwrap();
    bench.refused(RTN, 1, "QCC0101", &["in.onnx", "not a file"]);
}

#[test]
fn a_cycle() {
    let mut graph = good();
    graph.node = vec![
        node("Add", "one", &["x", "b"], "a"),
        node("MatMul", "two", &["a", "w"], "b"),
        node("Relu", "three", &["b"], "y"),
    ];
    let bench = Bench::new(&model(graph));
    bench.refused(RTN, 1, "QCC0103", &["cycle through", "'a'", "'b'", "help: "]);
}

#[test]
fn shapes_that_do_not_fit_together() {
    let square = || floats("w", &[SIZE, SIZE], &numbers(SIZE * SIZE));
    let scalar = floats("w", &[], &[1.0]);
    let columns = SIZE as i64;
    for (graph, text) in [
        (product(&[-1, columns - 1], square()), "[?, 63] and [64, 64] do not fit together"),
        (product(&[], square()), "an operand has no dimensions"),
        (product(&[-1, columns], scalar), "an operand has no dimensions"),
    ] {
        let bench = Bench::new(&model(graph));
        bench.refused(RTN, 1, "QCC0202", &[text, "--> node 'product'", "help: "]);
    }
}

#[test]
fn a_weight_of_no_elements_is_left() {
    let columns = SIZE as i64;
    for (graph, text) in [
        (product(&[-1, columns], floats("w", &[SIZE, 0], &[])), "only 0 elements"),
        (product(&[-1, 0], floats("w", &[0, SIZE], &[])), "only 0 elements"),
    ] {
        let bytes = model(graph);
        let bench = Bench::new(&bytes);
        bench.refused(&rtn(&["--strict"]), 1, "QCC0601", &[text]);
        let ran = bench.passes(RTN);
        assert!(ran.stderr.contains("warning[QCC0601]") && ran.stderr.contains(text));
        assert!(bench.read("out.onnx") == bytes, "the output is the input");
    }
}

#[test]
fn an_input_of_no_elements_is_quantized() {
    let weight = floats("w", &[SIZE, SIZE], &numbers(SIZE * SIZE));
    let bench = Bench::new(&model(product(&[0, SIZE as i64], weight)));
    bench.passes(RTN);
    let output = qcc::Model::open(bench.path("out.onnx")).unwrap();
    let has =
        |name: &str| output.graph().nodes().any(|it| it.1.op().is_some_and(|it| it.is_named(name)));
    assert!(!has("MatMul"));
}

#[test]
fn a_weight_that_is_not_finite_is_left_or_refused() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = numbers(SIZE * SIZE);
        values[3 * SIZE + 2] = wrong;
        let mut graph = good();
        graph.node = vec![
            node("MatMul", "first", &["x", "damaged"], "h"),
            node("MatMul", "second", &["h", "w"], "i"),
            node("MatMul", "head", &["i", "v"], "y"),
        ];
        graph.initializer.push(floats("damaged", &[SIZE, SIZE], &values));
        graph.initializer.push(floats("v", &[SIZE, SIZE], &numbers(SIZE * SIZE)));
        let bench = Bench::new(&model(graph));
        let texts = ["'damaged'", "values is not finite, at [3, 2]", "help: "];
        bench.refused(&rtn(&["--strict"]), 1, "QCC0607", &texts);

        let ran = bench.passes(RTN);
        assert!(
            ran.stderr.contains("warning[QCC0607]: 'damaged' is left in float"),
            "{}",
            ran.stderr
        );
        let output = qcc::Model::open(bench.path("out.onnx")).unwrap();
        let kept = output.graph().nodes().find_map(|(_, node)| {
            let is_it = node.outputs.first().is_some_and(|it| it.name == "damaged");
            node.constant().filter(|_| is_it).cloned()
        });
        assert_eq!(kept.unwrap().bytes()[..], bytes_of(&values), "{wrong}: every bit of it");
        let products = output.graph().nodes().filter_map(|it| it.1.op());
        assert_eq!(products.filter(|it| it.is_named("MatMul")).count(), 2, "damaged, and the head");
    }
}

#[test]
fn weights_whose_squares_overflow_have_a_figure() {
    let mut values = numbers(SIZE * SIZE);
    (values[5], values[77]) = (1e38, -3e38);
    let bench =
        Bench::new(&model(product(&[-1, SIZE as i64], floats("w", &[SIZE, SIZE], &values))));
    for recipe in ["rtn", "kl"] {
        let args = ["in.onnx", "-O", recipe, "-o", "out.onnx", "-f", "--json"];
        let output = bench.command(&args).output().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let snr_db = record["weights"][0]["snr_db"].as_f64();
        assert!(snr_db.is_some_and(|it| it > 0.0), "{recipe}: {snr_db:?}");
    }
}

#[test]
fn groups_and_bits_that_do_not_fit() {
    let bench = Bench::new(&model(good()));
    bench.refused(&rtn(&["-g", "24"]), 1, "QCC0305", &["'w'", "groups of 24", "help: --format"]);
    for group in ["many", "99999999999999999999", "1.5"] {
        bench.refused(&rtn(&["-g", group]), 2, "QCC0304", &[group, "help: "]);
    }
    for bits in ["1", "9", "four"] {
        let ran = bench.run(&rtn(&["-b", bits]));
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(!bench.path("out.onnx").exists());
    }
    // Longer than a row: one group for each.
    bench.passes(&rtn(&["-g", "128"]));
}

#[test]
fn a_long_way_to_the_weight() {
    let mut graph = good();
    graph.node.clear();
    let (steps, mut last) = (4001, "w".to_owned());
    for step in 0..steps {
        let next = format!("w{step}");
        graph.node.push(node("Transpose", "", &[&last], &next));
        last = next;
    }
    graph.node.push(node("MatMul", "product", &["x", &last], "y"));
    let bench = Bench::new(&model(graph));
    let ran = bench.passes(&[
        "in.onnx",
        "-o",
        "out.onnx",
        "--passes",
        "infer-types,select,rtn,pack,to-nbits",
    ]);
    assert!(!ran.stderr.contains("QCC0601"), "{}", ran.stderr);
    bench.passes(&rtn(&["-f"]));
}
