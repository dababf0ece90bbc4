//! Derivatives of small graphs, and of a layer of the bundled model.

use std::path::Path;

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Gradient, GradientError, Seed, differentiate, run_once};
use qcc_ir::verify;
use qcc_onnx::{ReadOptions, read};

use crate::support::*;

fn gradient(graph: &Graph, seeds: &[&str], wrt: &[&str]) -> Result<Gradient, GradientError> {
    let seeds: Vec<Seed> = seeds.iter().map(|it| Seed::fed(value(graph, it))).collect();
    let wrt: Vec<Value> = wrt.iter().map(|it| value(graph, it)).collect();
    differentiate(graph, &seeds, &wrt)
}

const TWO_READERS: &str = "graph @g(%x: f32[2], %w: f32[2]) -> (%y: f32[2]) {
    %a: f32[2] = Mul(%x, %w)
    %b: f32[2] = Exp(%a)
    %y: f32[2] = Add(%a, %b)
}";

#[test]
fn adjoints_of_readers_are_added() {
    let graph = graph(TWO_READERS);
    let it = gradient(&graph, &["y"], &["x", "w", "a"]).unwrap();
    assert_eq!(verify(&it.graph), []);
    let names: Vec<_> = it.wrt.iter().map(|it2| it.graph.value_name(it2.unwrap())).collect();
    assert_eq!(names, ["x.grad", "w.grad", "a.grad"]);
    let inputs = [("x", [1f32, 2.0]), ("w", [0.5, -1.0]), ("y.grad", [1.0, 10.0])];
    let inputs = inputs.map(|(name, list)| (name.to_owned(), Tensor::vector(list.to_vec())));
    let out: BTreeMap<_, _> =
        run_once(&it.graph, &inputs.into_iter().collect()).unwrap().into_iter().collect();
    let slope = [1.0 + 0.5f32.exp(), 10.0 * (1.0 + (-2f32).exp())];
    let near = |name: &str, want: [f32; 2]| {
        let got = out[name].to_f32().unwrap();
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{name} {got:?}");
    };
    near("a.grad", slope);
    near("x.grad", [0.5 * slope[0], -slope[1]]);
    near("w.grad", [slope[0], 2.0 * slope[1]]);
    assert!(out.contains_key("y"), "outputs stay");
}

#[test]
fn only_what_lies_between_has_an_adjoint() {
    let graph = graph(TWO_READERS);
    let it = gradient(&graph, &["b"], &["w"]).unwrap();
    let ops = it.graph.nodes().filter(|it| it.1.op().is_some()).count();
    assert_eq!(ops, 3 + 2, "one product for Exp and one for Mul");
    let it = gradient(&graph, &["a"], &["b"]).unwrap();
    assert_eq!(it.wrt, [None]);
    assert_eq!(it.graph.outputs(), graph.outputs());
}

#[test]
fn a_seed_may_be_a_value_and_adjoints_have_names_of_their_own() {
    let graph = graph(
        "graph @g(%a: f32[2], %b: f32[2]) -> (%y: f32[2]) {
        %one = const f32[2] [1.0, 1.0]
        %y: f32[2] = Add(%a, %b)
    }",
    );
    let seed = Seed { value: value(&graph, "y"), adjoint: Some(value(&graph, "one")) };
    let it = differentiate(&graph, &[seed], &[value(&graph, "a"), value(&graph, "b")]).unwrap();
    assert_eq!(verify(&it.graph), []);
    assert_ne!(it.wrt[0], it.wrt[1]);
    let names: Vec<_> = it.graph.outputs().iter().map(|v| it.graph.value_name(*v)).collect();
    assert_eq!(names, ["y", "a.grad", "b.grad"]);
}

#[test]
fn a_node_without_derivative_is_named() {
    let graph = graph(
        "graph @g(%x: f32[2], %s: f32[2]) -> (%y: f32[2]) {
        %n = Shape(%x)
        %m: f32[2] = Mul(%x, %s)
        %h: f32[2] = my.domain::Thing(%m)
        %y: f32[2] = Add(%h, %s)
    }",
    );
    let error = gradient(&graph, &["y"], &["x"]).unwrap_err();
    assert_eq!(error.to_string(), "my.domain::Thing 'h': my.domain::Thing has no derivative");
    let error = gradient(&graph, &["y"], &["n"]).unwrap_err();
    assert!(matches!(error, GradientError::Value { .. }));
    let code = Diagnostic::from(gradient(&graph, &["y"], &["x"]).unwrap_err()).code;
    assert_eq!(code, codes::QCC0201);
    assert!(gradient(&graph, &["m"], &["x"]).is_ok(), "it is not on the way");
}

#[test]
fn quantizing_operators_are_no_obstacle_behind_what_is_asked_for() {
    let graph = graph(
        "graph @g(%x: f32[2, 3], %w: f32[3, 2]) -> (%y: f32[2, 2]) {
        %q: f32[3, 2] = my.domain::Rounded(%w)
        %y: f32[2, 2] = MatMul(%x, %q)
    }",
    );
    let it = gradient(&graph, &["y"], &["q"]).unwrap();
    let grad = &it.graph[it.wrt[0].unwrap().node];
    assert_eq!(grad.op().unwrap().name(), "MatMulGradW");
}

#[test]
fn a_batch_gives_the_bytes_of_its_rows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = root.join("../../tests/models/books1M/model.onnx");
    let graph = read(&model, &ReadOptions::default()).unwrap().graph;
    let weights = ["val_265", "val_272", "val_279", "val_390", "val_395", "val_397", "val_398"];
    let wrt: Vec<&str> = ["add_10"].into_iter().chain(weights).collect();
    let it = gradient(&graph, &["add_16"], &wrt).unwrap();
    let numbers = |seed: usize, first: usize, count: usize| -> Tensor {
        let elements = first * 1280..(first + count) * 1280;
        let list = elements.map(|it| ((it * seed + 11) % 61) as f32 / 8.0 - 3.75).collect();
        Tensor::from_vec::<f32>(vec![count, 10, 128], list).unwrap()
    };
    let run = |first: usize, count: usize| {
        let inputs = inputs([
            ("input_ids", Tensor::from_vec(vec![count, 10], vec![1i64; count * 10]).unwrap()),
            ("add_10", numbers(37, first, count)),
            ("add_16.grad", numbers(29, first, count)),
        ]);
        let outputs = Some(it.wrt.iter().flatten().copied().collect());
        let options = PlanOptions { outputs, ..PlanOptions::default() };
        let plan = Plan::new(&it.graph, &bound(&inputs), &options).unwrap();
        run(&plan, &inputs).iter().map(floats).collect::<Vec<_>>()
    };
    let (whole, parts) = (run(0, 3), [run(0, 1), run(1, 1), run(2, 1)]);
    let rows: Vec<f32> = parts.iter().flat_map(|it| it[0].clone()).collect();
    assert_eq!(whole[0], rows, "of the input");
    for at in 1..whole.len() {
        let mut sum = parts[0][at].clone();
        for part in &parts[1..] {
            sum.iter_mut().zip(&part[at]).for_each(|(sum, part)| *sum += part);
        }
        assert_eq!(whole[at], sum, "of {}", wrt[at]);
    }
}
