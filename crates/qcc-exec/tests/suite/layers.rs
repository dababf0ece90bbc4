//! Gradients of whole layers beside those of PyTorch in f64.
//!
//! `tools/py/block_gradient.py` and `tools/py/layer_gradients.py` made the figures: of each tensor
//! 64 elements at even distances, and the root of the sum of its squares.

use std::path::{Path, PathBuf};

use qcc_exec::{Seed, differentiate};
use qcc_ir::verify;
use qcc_onnx::{ReadOptions, read};

use crate::support::*;

/// Bound of a difference, relative to the size of the tensor.
const BOUND: f64 = 1e-4;
/// The size that a tensor has at least, for those that are zero but for rounding: adjoints of what
/// softmax does not see.
const LEAST: f64 = 1e-2;

/// A model and the names of what its figures are: the output, the input, and the weights.
struct Layer<'a> {
    model: PathBuf,
    figures: &'a str,
    output: &'a str,
    input: &'a str,
    weights: Vec<String>,
    dims: [usize; 3],
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The figures of a file: a row for each tensor.
fn figures(name: &str) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(data(name)).unwrap();
    let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let numbers = bytes[head..].as_chunks::<8>().0.iter().map(|it| f64::from_le_bytes(*it));
    numbers.collect::<Vec<_>>().chunks(65).map(<[f64]>::to_vec).collect()
}

/// Checks the output of a layer and the adjoints of its input and of its weights.
fn check(layer: &Layer<'_>, others: &[(&str, Tensor)]) {
    let want = figures(layer.figures);
    let graph = read(&layer.model, &ReadOptions::default()).unwrap().graph;
    let names = [layer.input].into_iter().chain(layer.weights.iter().map(String::as_str));
    let wrt: Vec<Value> = names.map(|it| value(&graph, it)).collect();
    let seed = Seed::fed(value(&graph, layer.output));
    let it = differentiate(&graph, &[seed], &wrt).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(verify(&it.graph), []);
    let len: usize = layer.dims.iter().product();
    // No period of these divides the width, so that no two rows are the same.
    let x = (0..len).map(|it| ((it * 37 + 11) % 61) as f32 / 8.0 - 3.75).collect();
    let adjoint = (0..len).map(|it| ((it * 29 + 5) % 53) as f32 / 26.0 - 1.0).collect();
    let tensor = |list| Tensor::from_vec::<f32>(layer.dims.to_vec(), list).unwrap();
    let mut inputs = inputs([(layer.input, tensor(x))]);
    inputs.insert(format!("{}.grad", layer.output), tensor(adjoint));
    inputs.extend(others.iter().map(|(name, it)| ((*name).to_owned(), it.clone())));
    let found = it.wrt.iter().map(|it| it.unwrap());
    let outputs = [value(&graph, layer.output)].into_iter().chain(found).collect();
    let options = PlanOptions { outputs: Some(outputs), ..PlanOptions::default() };
    let plan = Plan::new(&it.graph, &bound(&inputs), &options).unwrap();
    let once = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&plan, &inputs))
    };
    let out = once(1);
    assert_eq!(out.len(), want.len());
    let names = [layer.output, layer.input].into_iter();
    let names = names.chain(layer.weights.iter().map(String::as_str));
    for ((name, tensor), want) in names.zip(&out).zip(&want) {
        let list = floats(tensor);
        let (want, norm) = (&want[..64], want[64]);
        let scale = (norm / (list.len() as f64).sqrt()).max(LEAST);
        for (idx, want) in want.iter().enumerate() {
            let got = f64::from(list[idx * list.len() / 64]);
            assert!((got - want).abs() < BOUND * scale, "{name}: {got}, not {want}");
        }
        let got = list.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>().sqrt();
        assert!((got - norm).abs() < 1e-6 * norm.max(10.0), "{name}: norm {got}, not {norm}");
    }
    assert_eq!(out, once(3), "bits do not depend on threads");
}

/// A layer that is a model of its own, with parameters under their own names.
fn check_model(name: &str) {
    let (model, figures) = (data(&format!("{name}.onnx")), format!("{name}.npy"));
    let graph = read(&model, &ReadOptions::default()).unwrap().graph;
    let values = graph.nodes().flat_map(|(id, _)| graph.values_of(id));
    let names = values.map(|it| graph.value_name(it).to_owned());
    let mut weights: Vec<String> = names
        .filter(|it| it.starts_with("layer.") && (it.ends_with("weight") || it.ends_with("bias")))
        .collect();
    weights.sort_unstable();
    let dims = [2, 7, 32];
    let layer = Layer { model, figures: &figures, output: "y", input: "x", weights, dims };
    check(&layer, &[]);
}

#[test]
fn gpt2() {
    check_model("gpt2_layer");
}

#[test]
fn bert() {
    check_model("bert_layer");
}

#[test]
fn t5() {
    check_model("t5_layer");
}

#[test]
fn the_second_layer_of_the_bundled_model() {
    let weights = [
        "m.model.layers.1.input_layernorm.weight",
        "val_265",
        "val_272",
        "val_279",
        "val_390",
        "m.model.layers.1.post_attention_layernorm.weight",
        "val_395",
        "val_397",
        "val_398",
    ];
    let layer = Layer {
        model: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M/model.onnx"),
        figures: "books1M_layer1.npy",
        output: "add_16",
        input: "add_10",
        weights: weights.map(str::to_owned).to_vec(),
        dims: [2, 7, 128],
    };
    let ids = Tensor::from_vec(vec![2, 7], vec![1i64; 14]).unwrap();
    check(&layer, &[("input_ids", ids)]);
}
