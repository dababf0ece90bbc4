//! Values that are shown while a plan runs, and graphs that are cut.

use qcc_exec::ExecError;
use qcc_ir::Scope;

use crate::support::*;

const TEXT: &str = "
graph @main(%x: f32[2]) -> (%y: f32[2]) {
  %w = const f32[2] [10.0, 20.0]
  %a = Add(%x, %w)
  %b = Mul(%a, %a)
  %c = Neg(%b)
  %side = Abs(%a)
  %y = Sub(%c, %w)
}";

fn seen(plan: &Plan, inputs: &BTreeMap<String, Tensor>, taps: &[Value]) -> Vec<(Value, Vec<f32>)> {
    let mut seen = Vec::new();
    plan.run(inputs, taps, &mut |value, it| seen.push((value, floats(it)))).unwrap();
    seen
}

#[test]
fn taps_come_in_order_and_once() {
    let graph = graph(TEXT);
    let inputs = inputs([("x", Tensor::vector(vec![1f32, 2.0]))]);
    let at = |name| value(&graph, name);
    let plan = plan(&graph, &inputs).unwrap();
    let got = seen(&plan, &inputs, &[at("c"), at("x"), at("b"), at("w"), at("y")]);
    let want = [
        (at("x"), vec![1.0, 2.0]),
        (at("w"), vec![10.0, 20.0]),
        (at("b"), vec![121.0, 484.0]),
        (at("c"), vec![-121.0, -484.0]),
        (at("y"), vec![-131.0, -504.0]),
    ];
    assert_eq!(got, want);
    let error = plan.run(&inputs, &[at("side")], &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, ExecError::NotPlanned(_)), "no output needs it");
}

#[test]
fn tapped_values_are_computed_though_nothing_needs_them() {
    let graph = graph(TEXT);
    let inputs = inputs([("x", Tensor::vector(vec![-11f32, 2.0]))]);
    let side = value(&graph, "side");
    let options =
        PlanOptions { outputs: Some(Vec::new()), tapped: vec![side], ..Default::default() };
    let plan = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    assert_eq!(plan.n_steps(), 2, "Add and Abs");
    assert_eq!(seen(&plan, &inputs, &[side]), [(side, vec![1.0, 22.0])]);
}

#[test]
fn a_part_runs_alone() {
    let graph = graph(TEXT);
    let inputs = inputs([("b", Tensor::vector(vec![1f32, 2.0])), ("w", ramp(&[2]))]);
    let plan = plan(&graph, &inputs).unwrap();
    assert_eq!(plan.n_steps(), 2, "Neg and Sub");
    let w = floats(&inputs["w"]);
    assert_eq!(floats(&run(&plan, &inputs)[0]), [-1.0 - w[0], -2.0 - w[1]]);
}

#[test]
fn taps_reach_into_regions() {
    let graph = graph(
        "graph @main(%c: bool[], %x: f32[2]) -> (%y: f32[2]) {
           %y = If(%c) {
             then_branch = graph @then captures(%x: f32[2]) () -> (%t: f32[2]) {
               %n = Neg(%x)
               %t = Abs(%n)
             },
             else_branch = graph @else captures(%x: f32[2]) () -> (%e: f32[2]) { %e = Abs(%x) }
           }
         }",
    );
    let node = value(&graph, "y").node;
    let inner = Scope::root().inner(node, 0);
    let tap = (inner.clone(), value(graph.at(&inner).unwrap(), "n"));
    let run = |is_on: bool| {
        let c = Tensor::from_bools(vec![], &[is_on]).unwrap();
        let inputs = inputs([("c", c), ("x", Tensor::vector(vec![1f32, -2.0]))]);
        let mut seen = Vec::new();
        let plan = plan(&graph, &inputs).unwrap();
        let taps = [tap.clone()];
        let mut sink = |_: &Scope, _: Value, it: &Tensor| seen.push(floats(it));
        plan.run_scoped(&inputs, &taps, &mut sink).unwrap();
        seen
    };
    assert_eq!(run(true), [[-1.0, 2.0]]);
    assert!(run(false).is_empty());
}
