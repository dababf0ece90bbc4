//! `qcc compare`: what it finds, what it refuses, and how it ends.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use onnx_protobuf::{GraphProto, NodeProto, TensorProto, type_proto};
use qcc::Model;
use qcc_data::npz;
use qcc_exec::run_once;
use qcc_tensor::Tensor;
use serde_json::Value;

use crate::bench::{Bench, SIZE, bundled, floats, good, model, node, numbers, product, value};

const CANNOT: &str = "QCC0405";

/// What the command gave.
struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn compare(bench: &Bench, args: &[&str]) -> Told {
    let output = bench.command(&[&["compare"], args].concat()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|it| panic!("{it}: {}", self.stdout))
    }

    fn refuses(&self, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert!(self.stderr.contains(&format!("error[{CANNOT}]: ")), "{}", self.stderr);
        assert!(self.stderr.contains("help: "), "{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "no '{text}' in:\n{}", self.stderr);
        }
    }
}

fn eval_ids() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M/eval.npy");
    path.to_string_lossy().into_owned()
}

/// The bundled model as `in.onnx`, and rounded to 4 bits as `out.onnx`.
fn rounded(more: &[&str]) -> Bench {
    let bench = Bench::new(&bundled());
    bench.passes(&[&["in.onnx", "-O", "rtn", "-b4", "-o", "out.onnx", "-q"], more].concat());
    bench
}

/// A model with `x` as its input, rows of [`SIZE`], and `rows.npz` to feed it.
fn small(graph: GraphProto) -> Bench {
    let bench = Bench::new(&model(graph));
    bench.put("rows.npz", &rows(&numbers(4 * SIZE)));
    bench
}

fn rows(values: &[f32]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let x = Tensor::from_vec(vec![values.len() / SIZE, SIZE], values.to_vec()).unwrap();
    npz::write(&mut file, [("x", &x)]).unwrap();
    file.into_inner()
}

/// `h = x W`, then `tail` from `h` to outputs.
fn chain(columns: usize, tail: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    let weight = floats("w", &[SIZE, columns], &numbers(SIZE * columns));
    let mut graph = product(&[-1, SIZE as i64], weight);
    graph.node[0].output[0] = "h".into();
    graph.node.extend(tail);
    graph.output = outputs.iter().map(|it| value(it, None)).collect();
    graph
}

#[test]
fn a_model_and_itself_are_equal() {
    let bench = Bench::new(&bundled());
    let told = compare(&bench, &["in.onnx", "in.onnx", "-d", &eval_ids(), "-n", "2"]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.stdout.matches("exact").count(), 6, "{}", told.stdout);
    assert!(told.stdout.contains("no difference"), "{}", told.stdout);
    let gates = ["--fail-above", "snr:200dB,cosine:1,max:0", "--fail-above", "relative:0"];
    let args = ["in.onnx", "in.onnx", "-d", &eval_ids(), "-n", "1", "--all", "--json"];
    let told = compare(&bench, &[&args[..], &gates].concat());
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let json = told.json();
    let values = json["values"].as_array().unwrap();
    assert!(values.len() > 200, "{}", values.len());
    assert!(values.iter().all(|it| it["exact"] == true), "{json:#}");
    assert!(json["first_difference"].is_null());
    assert!(json["gates"].as_array().unwrap().iter().all(|it| it["passed"] == true));
}

#[test]
fn figures_are_those_of_the_definition() {
    let bench = rounded(&[]);
    let ids = eval_ids();
    let told = compare(&bench, &["in.onnx", "out.onnx", "-d", &ids, "-n", "2", "--json"]);
    let json = told.json();
    let tokens = qcc_data::npy::read(&std::fs::read(&ids).unwrap().into()).unwrap();
    let tokens = tokens.to_i64().unwrap();
    let models = ["in.onnx", "out.onnx"].map(|it| Model::open(bench.path(it)).unwrap());
    let (mut signal, mut noise, mut other, mut dot, mut most) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for sample in 0..2 {
        let row = tokens[sample * 256..(sample + 1) * 256].to_vec();
        let feed = Tensor::from_vec(vec![1, 256], row).unwrap();
        let feed = BTreeMap::from([("input_ids".to_owned(), feed)]);
        let [a, b] = [0, 1].map(|it: usize| run_once(models[it].graph(), &feed).unwrap());
        let (a, b) = (a[0].1.to_f32().unwrap(), b[0].1.to_f32().unwrap());
        for (&a, &b) in a.iter().zip(b.iter()) {
            let (a, b) = (f64::from(a), f64::from(b));
            signal += a * a;
            other += b * b;
            dot += a * b;
            noise += (a - b) * (a - b);
            most = most.max((a - b).abs());
        }
    }
    let logits = &json["values"][0];
    let near = |key: &str, want: f64| {
        let got = logits[key].as_f64().unwrap();
        assert!((got - want).abs() <= 1e-9 * want.abs(), "{key}: {got}, not {want}");
    };
    assert_eq!((&logits["name"], &logits["output"]), (&"logits".into(), &true.into()));
    assert_eq!(logits["elements"], 2 * 256 * 1536);
    near("max_abs", most);
    near("relative", (noise / signal).sqrt());
    near("cosine", dot / (signal * other).sqrt());
    near("snr_db", 10.0 * (signal / noise).log10());
}

#[test]
fn inner_values_are_results_of_blocks_in_every_format() {
    let args = ["in.onnx", "out.onnx", "-d", &eval_ids(), "-n", "1", "--json"];
    let of = |format: &str| compare(&rounded(&["--format", format]), &args).json();
    let fake = of("fake");
    let names = |json: &Value, key: &str| -> Vec<String> {
        let values = json["values"].as_array().unwrap().iter();
        values.map(|it| it[key].as_str().unwrap_or("-").to_owned()).collect()
    };
    let blocks = ["-", "before", "layer 0", "layer 1", "layer 2", "layer 3"];
    for format in ["nbits", "qdq", "function", "fake"] {
        let json = of(format);
        assert_eq!(json["inner"], "blocks", "{format}");
        assert_eq!(names(&json, "block"), blocks, "{format}");
        assert_eq!(names(&json, "name"), names(&fake, "name"), "{format}");
        let first = &json["first_difference"];
        assert_eq!(first["value"], json["values"][2]["name"], "{format}");
        let weights = first["weights"].as_array().unwrap();
        assert_eq!((weights.len(), &weights[0]), (7, &"node_linear".into()), "{format}");
        for (got, want) in json["values"].as_array().unwrap().iter().zip(0..) {
            let far = |it: &Value| it["relative"].as_f64().unwrap();
            let want = far(&fake["values"][want]);
            assert!((far(got) - want).abs() <= 1e-3 * want, "{format}: {got}");
        }
    }
}

#[test]
fn only_weights_that_differ_are_named() {
    let bench = rounded(&["--include", "node_linear_9"]);
    let told = compare(&bench, &["in.onnx", "out.onnx", "-d", &eval_ids(), "-n", "1"]);
    let line = told.stdout.lines().find(|it| it.contains("<- ")).unwrap();
    assert!(line.ends_with("layer 1   <- first difference, node_linear_9"), "{line}");
    assert_eq!(told.stdout.matches("exact").count(), 2, "{}", told.stdout);
    assert_eq!(told.stdout.matches("<- first").count(), 1, "{}", told.stdout);
}

#[test]
fn a_gate_that_fails_is_exit_code_4() {
    let bench = rounded(&[]);
    let ids = eval_ids();
    let gated = |gate: &str, more: &[&str]| {
        let args = ["in.onnx", "out.onnx", "-d", &ids, "-n", "1", "--fail-above", gate];
        compare(&bench, &[&args[..], more].concat())
    };
    for gate in ["snr:40dB", "cosine:0.9999", "max:0.01", "relative:1%"] {
        let told = gated(gate, &[]);
        assert_eq!(told.code, Some(4), "{gate}: {}", told.stderr);
        assert!(told.stderr.contains("error[QCC0802]: "), "{}", told.stderr);
        assert!(told.stderr.contains("of output 'logits' is "), "{}", told.stderr);
        assert!(told.stdout.contains(": failed ("), "{}", told.stdout);
    }
    for gate in ["snr:10dB", "cosine:0.9", "max:100", "relative:0.5"] {
        let told = gated(gate, &[]);
        assert_eq!(told.code, Some(0), "{gate}: {}", told.stderr);
        assert!(told.stdout.contains(": passed ("), "{}", told.stdout);
    }
    let told = gated("snr:10dB,max:0", &["--json"]);
    assert_eq!(told.code, Some(4));
    let passed: Vec<bool> = told.json()["gates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["passed"].as_bool().unwrap())
        .collect();
    assert_eq!(passed, [true, false]);
    for (gate, text) in
        [("snr", "a gate is"), ("sn:1", "write 'snr'"), ("cosine:2", "from -1 to 1")]
    {
        let told = gated(gate, &[]);
        assert_eq!(told.code, Some(2), "{gate}: {}", told.stderr);
        assert!(told.stderr.contains("error[QCC0304]"), "{}", told.stderr);
        assert!(told.stderr.contains(text), "{}", told.stderr);
    }
    // Before anything is read or runs.
    let told =
        compare(&bench, &["in.onnx", "in.onnx", "-d", "none.npz", "--fail-above", "unequal:1%"]);
    told.refuses(&["no output that is not floats", "--> option --fail-above"]);
}

#[test]
fn models_that_do_not_fit_each_other() {
    let bench = small(good());
    let data = ["-d", "rows.npz"];
    let against = |graph: GraphProto| {
        bench.put("other.onnx", &model(graph));
        compare(&bench, &[&["in.onnx", "other.onnx"], &data[..]].concat())
    };
    let weight = || floats("w", &[SIZE, SIZE], &numbers(SIZE * SIZE));

    let batch = product(&[3, SIZE as i64], weight());
    against(batch).refuses(&["input 'x' of the second model is f32[3, 64]", "f32[1, 64] is given"]);

    let mut renamed = good();
    renamed.input[0].name = Some("z".into());
    renamed.node[0].input[0] = "z".into();
    against(renamed).refuses(&["the second model takes 'z'", "inputs of the first one are 'x'"]);

    let narrow = product(&[-1, SIZE as i64], floats("w", &[SIZE, 32], &numbers(SIZE * 32)));
    against(narrow).refuses(&["output 'y' is f32[1, 64] and f32[1, 32]"]);

    let mut other = good();
    other.output[0].name = Some("q".into());
    other.node[0].output[0] = "q".into();
    against(other).refuses(&["no value has the same name", "the first one are 'y'", "are 'q'"]);
}

#[test]
fn without_samples_there_are_random_tokens_or_a_way_out() {
    let bench = small(good());
    compare(&bench, &["in.onnx", "in.onnx"]).refuses(&["takes no token ids", "--data inputs.npz"]);
    let bench = rounded(&[]);
    let run = || compare(&bench, &["in.onnx", "out.onnx", "-n", "2", "--seq-len", "16"]);
    let told = run();
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stderr.contains("note[QCC0605]: "), "{}", told.stderr);
    assert!(told.stdout.contains("random tokens: 2 samples of 16 tokens"), "{}", told.stdout);
    assert_eq!(told.stdout, run().stdout);
}

#[test]
fn what_is_in_one_model_only_is_counted() {
    let relu = || node("Relu", "relu", &["h"], "y");
    let bench = small(chain(SIZE, vec![relu(), node("Neg", "neg", &["h"], "z")], &["y", "z"]));
    let mut other = chain(SIZE, vec![node("Relu", "relu", &["k"], "y")], &["y"]);
    other.node[0].output[0] = "k".into();
    bench.put("other.onnx", &model(other));
    let args = ["in.onnx", "other.onnx", "-d", "rows.npz", "--all"];
    let told = compare(&bench, &args);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    for text in [
        "1 output is in a only, 'z' first: skipped",
        "1 inner value is in a only: skipped",
        "1 inner value is in b only: skipped",
    ] {
        assert!(told.stdout.contains(text), "no '{text}' in:\n{}", told.stdout);
    }
    let json = compare(&bench, &[&args[..], &["--json"]].concat()).json();
    assert_eq!(json["outputs_in_a_only"], serde_json::json!(["z"]));
    assert_eq!((&json["inner_in_a_only"], &json["inner_in_b_only"]), (&1.into(), &1.into()));
}

#[test]
fn where_no_result_of_a_block_is_in_both_norms_are_compared() {
    let graph = |h: &str, sum: &str| {
        let mut graph = chain(
            SIZE,
            vec![
                node("LayerNormalization", "norm", &[h, "scale"], "n"),
                node("Add", "sum", &["n", h], sum),
                node("MatMul", "last", &[sum, "w"], "y"),
            ],
            &["y"],
        );
        graph.node[0].output[0] = h.into();
        graph.initializer.push(floats("scale", &[SIZE], &[1.0; SIZE]));
        graph
    };
    let bench = small(graph("h", "s"));
    bench.put("other.onnx", &model(graph("k", "l")));
    let args = ["in.onnx", "other.onnx", "-d", "rows.npz", "--json"];
    let json = compare(&bench, &args).json();
    assert_eq!((&json["inner"], &json["values"][1]["name"]), (&"norms".into(), &"n".into()));
    assert_eq!(json["values"].as_array().unwrap().len(), 2, "{json:#}");
    let json = compare(&bench, &[&args[..], &["--all"]].concat()).json();
    assert_eq!((&json["inner"], &json["inner_in_a_only"]), (&"all".into(), &2.into()));
}

#[test]
fn inner_values_of_other_shapes_are_left_out() {
    let sum = |axis: i64| {
        let axes = TensorProto {
            dims: vec![1],
            data_type: Some(7),
            name: Some("axes".into()),
            raw_data: Some(axis.to_le_bytes().to_vec().into()),
            ..TensorProto::default()
        };
        (node("ReduceSum", "sum", &["h", "axes"], "y"), axes)
    };
    let graph = |columns: usize| {
        let (node, axes) = sum(1);
        let mut graph = chain(columns, vec![node], &["y"]);
        graph.initializer.push(axes);
        graph
    };
    let bench = small(graph(SIZE));
    bench.put("other.onnx", &model(graph(32)));
    let told = compare(&bench, &["in.onnx", "other.onnx", "-d", "rows.npz", "--all"]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stderr.contains(&format!("warning[{CANNOT}]: ")), "{}", told.stderr);
    assert!(told.stderr.contains("'h' is f32[1, 64] and f32[1, 32]"), "{}", told.stderr);
    assert!(told.stdout.contains("<- first difference, product"), "{}", told.stdout);
}

#[test]
fn whole_numbers_and_what_is_not_finite() {
    let tail = || vec![node("ArgMax", "best", &["h"], "i"), node("Relu", "relu", &["h"], "y")];
    let graph = |sign: f32| {
        let mut graph = chain(SIZE, tail(), &["i", "y"]);
        // Another weight, so that the largest of a column is in another row.
        let values: Vec<f32> = numbers(SIZE * SIZE).iter().map(|it| it * sign).collect();
        graph.initializer = vec![floats("w", &[SIZE, SIZE], &values)];
        if let Some(type_proto::Value::TensorType(it)) =
            graph.output[0].r#type.as_mut().and_then(|it| it.value.as_mut())
        {
            it.elem_type = Some(7);
        }
        graph
    };
    let bench = small(graph(1.0));
    bench.put("other.onnx", &model(graph(-1.0)));
    let mut values = numbers(4 * SIZE);
    values[3] = f32::INFINITY;
    bench.put("infinite.npz", &rows(&values));
    let told = compare(&bench, &["in.onnx", "other.onnx", "-d", "infinite.npz", "--json"]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let json = told.json();
    let (best, relu) = (&json["values"][0], &json["values"][1]);
    assert_eq!((&best["name"], &relu["name"]), (&"i".into(), &"y".into()));
    assert!(best["snr_db"].is_null() && best["unequal"].is_u64(), "{best}");
    let count = |key: &str| relu["not_finite"][key].as_u64().unwrap();
    assert!(count("a") > 0 && count("b") > 0 && count("differ") > 0, "{relu}");
    assert!(relu["relative"].is_null() && relu["exact"] == false, "{relu}");
    let told = compare(&bench, &["in.onnx", "other.onnx", "-d", "infinite.npz"]);
    assert!(told.stdout.contains("not finite: "), "{}", told.stdout);
    let gate = ["in.onnx", "other.onnx", "-d", "infinite.npz", "--fail-above", "snr:-1000"];
    assert_eq!(compare(&bench, &gate).code, Some(4));
    // The same in both models is no difference.
    let told = compare(&bench, &["in.onnx", "in.onnx", "-d", "infinite.npz"]);
    assert!(told.stdout.contains("0 of them differ"), "{}", told.stdout);
    assert!(told.stdout.contains("no difference"), "{}", told.stdout);
}

#[test]
fn where_nothing_is_finite_no_gate_passes() {
    let large = floats("w", &[SIZE, SIZE], &[3e38; SIZE * SIZE]);
    let bench = small(product(&[-1, SIZE as i64], large));
    bench.put("x.npz", &rows(&numbers(SIZE).iter().map(|it| it.abs() + 1.0).collect::<Vec<_>>()));
    let gates = ["--fail-above", "snr:-1000", "--fail-above", "cosine:-1,max:1e30"];
    let told = compare(&bench, &[&["in.onnx", "in.onnx", "-d", "x.npz"], &gates[..]].concat());
    assert_eq!(told.code, Some(4), "{}{}", told.stdout, told.stderr);
    assert_eq!(told.stderr.matches("error[QCC0802]").count(), 3, "{}", told.stderr);
    let eval = ["eval", "in.onnx", "--ref", "in.onnx", "-d", "x.npz"];
    let ran = bench.command(&[&eval, &gates[..]].concat()).output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("64 of 64 elements are not finite"), "{said}");
    let quantize = ["in.onnx", "-O", "rtn", "--eval", "x.npz", "-o", "out.onnx"];
    bench.refused(&quantize, 1, "QCC0408", &["option --eval", "nothing can be measured"]);
}
