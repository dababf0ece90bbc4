//! Plans with open dimensions: one for every length, with the results of a plan for that length.

use qcc_exec::ExecError;
use qcc_tensor::{DType, Dim};

use crate::support::*;

fn open(dtype: DType, dims: &[&str]) -> Bound {
    let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
    Bound::Open(dtype, dims.iter().map(dim).collect())
}

fn planned(graph: &Graph, bound: &[(&str, Bound)]) -> Plan {
    let bound: Vec<_> = bound.iter().map(|it| (it.0.to_owned(), it.1.clone())).collect();
    Plan::new(graph, &bound, &PlanOptions::default()).unwrap()
}

/// Reshapes by its own dimensions, as exporters write it, expands, and takes a constant apart.
const SHAPES: &str = "
graph @main(%x: f32[b, t, 6], %m: f32[b, t]) -> (%y: f32[b, 2, t, 3], %z: f32[b, t, 6]) {
  %shape = Shape(%x)
  %i0 = const i64[] [0]
  %i1 = const i64[] [1]
  %axes = const i64[1] [0]
  %b = Gather(%shape, %i0)
  %t = Gather(%shape, %i1)
  %b1 = Unsqueeze(%b, %axes)
  %t1 = Unsqueeze(%t, %axes)
  %two = const i64[1] [2]
  %three = const i64[1] [3]
  %to = Concat(%b1, %t1, %two, %three) {axis = 0}
  %heads = Reshape(%x, %to)
  %y = Transpose(%heads) {perm = [0, 2, 1, 3]}
  %last = const i64[1] [-1]
  %wide = Unsqueeze(%m, %last)
  %like = Expand(%wide, %shape)
  %range = ConstantOfShape(%shape)
  %sum = Add(%x, %like)
  %more = Add(%sum, %range)
  %m3 = Unsqueeze(%m, %last)
  %z = Mul(%more, %m3)
}";

#[test]
fn an_open_plan_gives_the_bytes_of_one_for_the_length() {
    let graph = graph(SHAPES);
    let any = planned(
        &graph,
        &[("x", open(DType::F32, &["b", "t", "6"])), ("m", open(DType::F32, &["b", "t"]))],
    );
    for (b, t) in [(1, 1), (1, 5), (3, 2), (2, 0), (1, 300)] {
        let inputs = inputs([("x", ramp(&[b, t, 6])), ("m", ramp(&[b, t]))]);
        let one = plan(&graph, &inputs).unwrap();
        assert_eq!(run(&any, &inputs), run(&one, &inputs), "{b} {t}");
        assert!(one.n_steps() < any.n_steps());
    }
}

#[test]
fn what_does_not_depend_on_an_open_dimension_is_folded() {
    let graph = graph(
        "graph @main(%x: f32[b, t, 6]) -> (%y: i64[], %t: i64[1], %z: f32[2, s, 3]) {
           %shape = Shape(%x)
           %two = const i64[] [2]
           %y = Gather(%shape, %two)
           %one = const i64[1] [1]
           %end = const i64[1] [2]
           %t = Slice(%shape, %one, %end)
           %i0 = const i64[] [0]
           %b = Gather(%shape, %i0)
           %axes = const i64[1] [0]
           %b1 = Unsqueeze(%b, %axes)
           %three = const i64[1] [3]
           %rest = const i64[1] [-1]
           %to = Concat(%b1, %rest, %three) {axis = 0}
           %z = Reshape(%x, %to)
           %dims = Shape(%z)
         }",
    );
    let plan = planned(&graph, &[("x", open(DType::F32, &["2", "t", "6"]))]);
    // `t` and its shape, and the reshape.
    assert_eq!(plan.n_steps(), 3);
    assert_eq!(plan.ty(value(&graph, "z")).unwrap().to_string(), "f32[2, ?, 3]");
    let outputs = run(&plan, &inputs([("x", ramp(&[2, 4, 6]))]));
    assert_eq!(outputs[0], Tensor::scalar(6i64));
    assert_eq!(outputs[1], Tensor::vector(vec![4i64]));
    assert_eq!(outputs[2].dims(), [2, 8, 3]);
}

/// One head of attention with a cache.
const CACHED: &str = "
graph @main(%x: f32[1, t, 4], %past: f32[1, p, 4]) -> (%y: f32[1, t, 4], %present: f32[1, q, 4]) {
  %present = Concat(%past, %x) {axis = 1}
  %turned = Transpose(%present) {perm = [0, 2, 1]}
  %scores = MatMul(%x, %turned)
  %weights = Softmax(%scores) {axis = -1}
  %y = MatMul(%weights, %present)
}";

#[test]
fn one_plan_serves_all_steps_of_a_cache() {
    let graph = graph(CACHED);
    let any = planned(
        &graph,
        &[("x", open(DType::F32, &["1", "t", "4"])), ("past", open(DType::F32, &["1", "p", "4"]))],
    );
    let mut past = ramp(&[1, 0, 4]);
    for (step, length) in [7, 1, 1, 2, 1].into_iter().enumerate() {
        let inputs = inputs([("x", ramp(&[1, length, 4])), ("past", past)]);
        let want = run(&plan(&graph, &inputs).unwrap(), &inputs);
        assert_eq!(run(&any, &inputs), want, "step {step}");
        let given = any.run_giving(inputs).unwrap();
        assert_eq!(given.iter().map(|it| it.1.clone()).collect::<Vec<_>>(), want);
        past = want[1].clone();
    }
    assert_eq!(past.dims(), [1, 12, 4]);
}

#[test]
fn a_run_is_checked_against_the_bound() {
    let graph = graph(SHAPES);
    let plan = planned(
        &graph,
        &[("x", open(DType::F32, &["b", "t", "6"])), ("m", open(DType::F32, &["b", "t"]))],
    );
    let why = |x: Tensor, m: Tensor| {
        let inputs = inputs([("x", x), ("m", m)]);
        let error = plan.run(&inputs, &[], &mut |_, _| {}).unwrap_err();
        assert_eq!(plan.run_giving(inputs).unwrap_err(), error);
        assert!(matches!(error, ExecError::Input { .. }));
        error.to_string()
    };
    assert_eq!(
        why(ramp(&[1, 4, 6]), ramp(&[1, 3])),
        "input 'm' is f32[1, 3], but 't' is 4 in input 'x'"
    );
    assert_eq!(
        why(ramp(&[1, 4, 5]), ramp(&[1, 4])),
        "input 'x' is f32[1, 4, 5], but the plan is for f32[b, t, 6]"
    );
    assert_eq!(
        why(ramp(&[1, 4, 6]), Tensor::from_vec(vec![1, 4], vec![0i64; 4]).unwrap()),
        "input 'm' is i64[1, 4], but the plan is for f32[b, t]"
    );
    assert!(why(ramp(&[4, 6]), ramp(&[1, 4])).contains("but the plan is for"));
    let mut only = inputs([("x", ramp(&[1, 4, 6]))]);
    let error = plan.run(&only, &[], &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "input 'm' is missing");
    only.clear();
    let wrong = [("x".to_owned(), open(DType::F32, &["b", "t", "7"]))];
    assert!(Plan::new(&graph, &wrong, &PlanOptions::default()).is_err(), "the model takes 6");
}
