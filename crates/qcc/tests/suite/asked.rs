//! What `run` and `bench` are asked for and cannot do, or need not do: it is said before anything
//! of that size is made.

use onnx_protobuf::{
    GraphProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension::Value, type_proto,
};
use qcc_data::npy;
use qcc_tensor::Tensor;

use crate::bench::{Bench, SIZE, bundled, floats, good, model, node, numbers, product, rtn, value};

/// A value of an element type, with dimensions that have names.
fn named(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |it: &&str| {
        let value = it.parse().map_or_else(|_| Value::DimParam((*it).into()), Value::DimValue);
        Dimension { value: Some(value), denotation: None }
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let ty = Some(TypeProto { value, denotation: None });
    ValueInfoProto { name: Some(name.into()), r#type: ty, ..ValueInfoProto::default() }
}

/// A table of tokens, one of 8 positions, and a cache beside them.
fn with_cache() -> Vec<u8> {
    let (past, present) = ("past_key_values.0.key", "present.0.key");
    let dims = ["batch_size", "2", "past_sequence_length", "64"];
    model(GraphProto {
        name: Some("g".into()),
        node: vec![
            node("Gather", "tokens", &["w", "input_ids"], "token"),
            node("Gather", "places", &["p", "position_ids"], "place"),
            node("Add", "sum", &["token", "place"], "logits"),
            node("Identity", "cache", &[past], present),
        ],
        initializer: vec![
            floats("w", &[1000, SIZE], &numbers(1000 * SIZE)),
            floats("p", &[8, SIZE], &numbers(8 * SIZE)),
        ],
        input: vec![
            named("input_ids", 7, &["batch_size", "sequence_length"]),
            named("position_ids", 7, &["batch_size", "sequence_length"]),
            named(past, 1, &dims),
        ],
        output: vec![value("logits", None), value(present, None)],
        ..GraphProto::default()
    })
}

/// A product of the small model on `x.npy`.
fn with_array() -> Bench {
    let bench = Bench::new(&model(good()));
    let x = Tensor::from_vec(vec![5, SIZE], numbers(5 * SIZE)).unwrap();
    bench.put("x.npy", &npy::write(&x).unwrap());
    bench
}

#[test]
fn sizes_that_no_memory_has() {
    let refused = |bench: &Bench, model: &str, more: &[&str]| {
        let args = [&["bench", model, "-t1", "--runs", "1"], more].concat();
        let texts = ["a run needs", "GiB of memory are left", "fewer tokens or rows", "-m, --past"];
        bench.refused(&args, 1, "QCC0503", &texts);
    };
    let bundled = Bench::new(&bundled());
    for rows in ["99999999999", "4611686018427387904", "18446744073709551615"] {
        for more in [&["-m", rows][..], &["-m", rows, "--whole"]] {
            refused(&bundled, "in.onnx", more);
        }
        refused(&bundled, "in.onnx", &["-m", &format!("1,{rows}")]);
    }
    let cache = Bench::new(&with_cache());
    for past in ["10000000000", "4611686018427387904", "18446744073709551615"] {
        for more in [&["--past", past][..], &["--past", past, "--whole"]] {
            refused(&cache, "in.onnx", more);
        }
    }
    // The whole model has one row in every run, but its product is timed by itself.
    let product = with_array();
    product.passes(&rtn(&[]));
    for rows in ["99999999999", "18446744073709551615"] {
        refused(&product, "out.onnx", &["-m", rows]);
    }
    // No inputs are made for a run whose results have no room.
    let rows = "100000000";
    let texts = ["a run needs", "results of operators", "fewer tokens or rows"];
    bundled.refused(&["bench", "in.onnx", "-t1", "-m", rows], 1, "QCC0503", &texts);
}

#[test]
fn more_tokens_than_the_model_has_positions() {
    let refused = |bench: &Bench, more: &[&str], texts: &[&str]| {
        bench.refused(&[&["bench", "in.onnx"], more].concat(), 2, "QCC0304", texts);
    };
    let bench = Bench::new(&with_cache());
    bench.put("config.json", b"{\"max_position_embeddings\": 8}");
    let long = &["'in.onnx' takes at most 8 tokens, not 9", "option --rows", "-m 8 is the most"];
    refused(&bench, &["-m", "1,9,4"], long);
    refused(&bench, &["-m9", "--past", "3"], long);
    let texts = &["at most 8 tokens, not 4 behind 5 others", "option --past"];
    refused(&bench, &["-m", "1,4", "--past", "5"], texts);
    refused(&bench, &["-m", "1,4", "--past", "5"], &["--past 4 is the most for -m 4"]);
    refused(&bench, &["-m1", "--past", "18446744073709551615"], &["--past 7 is the most"]);
    bench.passes(&["bench", "in.onnx", "-m8", "-t1", "--runs", "3"]);
    // Nor does any of several runs go on where the one before it ended.
    bench.passes(&["bench", "in.onnx", "-m", "1,4", "--past", "4", "-t1", "--runs", "3"]);
    bench.passes(&["bench", "in.onnx", "-m1", "--past", "7", "-t1", "--runs", "3"]);
    // What nobody asked for stays below it.
    let times = |bench: &Bench, more: &[&str]| -> Vec<u64> {
        let args = ["bench", "in.onnx", "-t1", "--runs", "3", "--json"];
        let json = bench.passes(&[&args, more].concat()).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["whole"].as_array().unwrap().iter().map(|it| it["rows"].as_u64().unwrap()).collect()
    };
    assert_eq!(times(&bench, &[]), [1, 4]);
    assert_eq!(times(&bench, &["--past", "6"]), [1]);
    // A model of one length has one time, of that length.
    let weight = floats("w", &[SIZE, SIZE], &numbers(SIZE * SIZE));
    assert_eq!(times(&Bench::new(&model(product(&[5, SIZE as i64], weight))), &[]), [5]);
    assert_eq!(times(&Bench::new(&model(good())), &["-m", "7,9"]), [1]);
    // The reference runs as many.
    let bundled = Bench::new(&bundled());
    bundled.put("other.onnx", &with_cache());
    std::fs::create_dir(bundled.path("short")).unwrap();
    bundled.put("short/other.onnx", &with_cache());
    bundled.put("short/config.json", b"{\"n_positions\": 4}");
    let texts = &["'short/other.onnx' takes at most 4 tokens, not 5"];
    refused(&bundled, &["-m5", "--ref", "short/other.onnx"], texts);
}

#[test]
fn options_of_text_that_would_do_nothing() {
    let bench = with_array();
    let arrays = ["run", "in.onnx", "--input", "x=x.npy"];
    for option in [
        &["--tokenizer", "tokenizer.json"][..],
        &["-n", "5"],
        &["--max-new-tokens", "128"],
        &["--temperature", "0.8"],
        &["--top-k", "5"],
        &["--top-p", "0.9"],
        &["--min-p", "0.1"],
        &["--repetition-penalty", "1.1"],
        &["--seed", "42"],
        &["--stop", "x"],
        &["--stop-id", "1"],
        &["--ignore-eos"],
    ] {
        let name = if option[0] == "-n" { "--max-new-tokens" } else { option[0] };
        let text = format!("{name} does nothing: no text is written");
        let texts = [&*text, &format!("--> option {name}"), "help: --prompt TEXT or --ids 1,2,3"];
        bench.refused(&[&arrays[..], option].concat(), 2, "QCC0304", &texts);
        bench.refused(&[&["run", "in.onnx"], option].concat(), 2, "QCC0304", &texts);
    }
    for option in [["--input", "x=x.npy"], ["--inputs", "x.npz"], ["--outputs", "y.npz"]] {
        for text in [["--prompt", "Once"], ["--prompt-file", "once.txt"], ["--ids", "1,2"]] {
            let args = [&["run", "in.onnx"], &option[..], &text].concat();
            bench.refused(&args, 2, "QCC0304", &[option[0], "cannot be used with"]);
        }
    }
    bench.refused(&[&arrays[..], &["-f"]].concat(), 2, "QCC0304", &["--outputs"]);
}

#[test]
fn options_of_drawing_that_would_do_nothing() {
    let bench = Bench::new(&bundled());
    let ids = ["run", "in.onnx", "--ids", "5,17", "-n", "2"];
    let cold: &[&str] = &["--temperature", "0"];
    for option in [["--seed", "7"], ["--top-k", "5"], ["--top-p", "0.9"], ["--min-p", "0.1"]] {
        let text = format!("{} does nothing: the likeliest token is taken each time", option[0]);
        let args = [&ids[..], cold, &option].concat();
        bench.refused(&args, 2, "QCC0304", &[&text, "help: a --temperature above 0"]);
        if option[0] == "--seed" {
            let texts = [&*text, "--> option --seed", "help: --temperature 0.8 lets it draw"];
            bench.refused(&[&ids[..], &option].concat(), 2, "QCC0304", &texts);
        } else {
            bench.passes(&[&ids[..], &option, &["--seed", "7"]].concat());
        }
    }
    bench.passes(&[&ids[..], cold].concat());
    bench.passes(&[&ids[..], &["--temperature", "0.8", "--seed", "7"]].concat());
    bench.passes(&[&ids[..], &["--repetition-penalty", "1.2"]].concat());
}

/// Every product of a model whose groups no kernel serves is named by one warning.
#[test]
fn products_without_kernels_are_told_once() {
    let bench = Bench::new(&bundled());
    let ids = ["run", "out.onnx", "--ids", "5,17", "-n", "1", "-t1"];
    bench.passes(&rtn(&["--format", "function", "-g", "48"]));
    let warning = "warning[QCC0609]: ";
    let ran = bench.passes(&ids);
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    for text in ["products have no kernel, '", "weights are decoded to floats", "groups of 48"] {
        assert!(ran.stderr.contains(text), "no '{text}' in:\n{}", ran.stderr);
    }
    for more in [&["-q"][..], &["--kernels", "none"]] {
        let ran = bench.passes(&[&ids[..], more].concat());
        assert!(!ran.stderr.contains(warning), "{more:?}\n{}", ran.stderr);
    }
    let bench = with_array();
    bench.passes(&rtn(&[]));
    let ran = bench.passes(&["run", "out.onnx", "--input", "x=x.npy"]);
    assert!(!ran.stderr.contains(warning), "{}", ran.stderr);
}
