//! `If`, `Loop` and `Scan`.

use qcc_exec::run_once;
use qcc_ir::Type;
use qcc_tensor::DType;

use crate::support::*;

fn flag(it: bool) -> Tensor {
    Tensor::from_bools(vec![], &[it]).unwrap()
}

fn outputs(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    run_once(graph, inputs).unwrap().into_iter().map(|it| it.1).collect()
}

const BRANCHES: &str = "
graph @main(%c: bool[], %x: f32[n, 3]) -> (%y: f32[*]) {
  %w = const f32[3, 2] [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
  %a = Neg(%x)
  %y = If(%c) {
    then_branch = graph @then captures(%w: f32[3, 2], %a: f32[n, 3]) () -> (%t: f32[*]) {
      %t = MatMul(%a, %w)
    },
    else_branch = graph @else captures(%w: f32[3, 2]) () -> (%e: f32[*]) {
      %e = Identity(%w)
    }
  }
}";

#[test]
fn a_branch_runs_with_what_it_captures() {
    let graph = graph(BRANCHES);
    let x = Tensor::from_vec(vec![2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let on = outputs(&graph, &inputs([("c", flag(true)), ("x", x.clone())]));
    assert_eq!((on[0].dims(), floats(&on[0])), (&[2, 2][..], vec![-1.0, -2.0, -4.0, -5.0]));
    let off = outputs(&graph, &inputs([("c", flag(false)), ("x", x)]));
    assert_eq!(off[0].dims(), [3, 2]);
}

#[test]
fn a_branch_that_is_known_gives_its_types() {
    let graph = graph(BRANCHES);
    let inputs = [
        ("c".to_owned(), Bound::Value(flag(true))),
        ("x".to_owned(), Bound::Shape(DType::F32, vec![5, 3])),
    ];
    let plan = Plan::new(&graph, &inputs, &PlanOptions::default()).unwrap();
    let ty = plan.ty(value(&graph, "y"));
    assert_eq!(ty, Some(&Type::tensor(DType::F32, [5usize, 2])));
}

/// Powers of two: carried value doubled, and each one noted.
fn powers(count: &str, condition: &str) -> Graph {
    graph(&format!(
        "graph @main(%m: i64[], %c: bool[], %x: f32[2]) -> (%last: f32[2], %all: f32[*]) {{
           %last, %all = Loop({count}, {condition}, %x) {{
             body = graph @body captures(%x: f32[2])
                 (%i: i64[], %go: bool[], %v: f32[2]) -> (%on: bool[], %next: f32[2], %s: f32[2]) {{
               %next = Add(%v, %v)
               %s = Sub(%next, %x)
               %two = const i64[] [2]
               %left = Sub(%two, %i)
               %on = Cast(%left) {{to = 9}}
             }}
           }}
         }}"
    ))
}

#[test]
fn a_loop_counts_and_stops() {
    let x = || Tensor::vector(vec![1f32, 3.0]);
    let run = |count: &str, condition: &str, m: i64, c: bool| {
        let m = Tensor::scalar(m);
        outputs(&powers(count, condition), &inputs([("m", m), ("c", flag(c)), ("x", x())]))
    };
    // By count alone; the condition that the body gives is true while i is not 2.
    let it = run("%m", "_", 2, true);
    assert_eq!(floats(&it[0]), [4.0, 12.0]);
    assert_eq!((it[1].dims(), floats(&it[1])), (&[2, 2][..], vec![1.0, 3.0, 3.0, 9.0]));
    // By condition: it stops after i = 2.
    let it = run("_", "%c", 0, true);
    assert_eq!((floats(&it[0]), it[1].dims()), (vec![8.0, 24.0], &[3, 2][..]));
    let it = run("%m", "%c", 100, true);
    assert_eq!((floats(&it[0]), it[1].dims()), (vec![8.0, 24.0], &[3, 2][..]));
    // Not at all.
    let it = run("%m", "%c", 100, false);
    assert_eq!((floats(&it[0]), it[1].dims()), (vec![1.0, 3.0], &[0, 2][..]));
    let it = run("%m", "%c", 0, true);
    assert_eq!(it[1].dims(), [0, 2]);
}

#[test]
fn a_loop_may_grow_its_values() {
    let graph = graph(
        "graph @main(%m: i64[], %x: f32[n]) -> (%y: f32[*]) {
           %y = Loop(%m, _, %x) {
             body = graph @body (%i: i64[], %go: bool[], %v: f32[*]) -> (%on: bool[], %w: f32[*]) {
               %on = Identity(%go)
               %w = Concat(%v, %v) {axis = 0}
             }
           }
         }",
    );
    let it = inputs([("m", Tensor::scalar(5i64)), ("x", Tensor::vector(vec![7f32]))]);
    assert_eq!(floats(&outputs(&graph, &it)[0]), [7.0; 32]);
}

#[test]
fn loops_nest() {
    let graph = graph(
        "graph @main(%m: i64[], %x: f32[]) -> (%y: f32[]) {
           %y = Loop(%m, _, %x) {
             body = graph @outer captures(%m: i64[], %x: f32[])
                 (%i: i64[], %go: bool[], %v: f32[]) -> (%on: bool[], %w: f32[]) {
               %on = Identity(%go)
               %w = Loop(%m, _, %v) {
                 body = graph @inner captures(%x: f32[])
                     (%j: i64[], %go2: bool[], %a: f32[]) -> (%on2: bool[], %b: f32[]) {
                   %on2 = Identity(%go2)
                   %b = Add(%a, %x)
                 }
               }
             }
           }
         }",
    );
    let it = inputs([("m", Tensor::scalar(4i64)), ("x", Tensor::scalar(1f32))]);
    assert_eq!(floats(&outputs(&graph, &it)[0]), [17.0]);
}

fn sums(attributes: &str) -> Graph {
    graph(&format!(
        "graph @main(%start: f32[2], %x: f32[*]) -> (%sum: f32[2], %all: f32[*]) {{
           %sum, %all = Scan(%start, %x) {{
             num_scan_inputs = 1{attributes},
             body = graph @body (%before: f32[2], %item: f32[2]) -> (%after: f32[2], %out: f32[2]) {{
               %after = Add(%before, %item)
               %out = Identity(%after)
             }}
           }}
         }}"
    ))
}

#[test]
fn a_scan_walks_any_axis_in_any_direction() {
    let start = || Tensor::vector(vec![0f32, 0.0]);
    let rows = Tensor::from_vec(vec![3, 2], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let run = |attributes: &str, x: &Tensor| {
        let it = outputs(&sums(attributes), &inputs([("start", start()), ("x", x.clone())]));
        (floats(&it[0]), it[1].dims().to_vec(), floats(&it[1]))
    };
    let forward = vec![1.0, 2.0, 4.0, 6.0, 9.0, 12.0];
    assert_eq!(run("", &rows), (vec![9.0, 12.0], vec![3, 2], forward.clone()));
    let back = run(", scan_input_directions = [1]", &rows);
    assert_eq!(back.2, [5.0, 6.0, 8.0, 10.0, 9.0, 12.0]);
    let turned = run(", scan_output_directions = [1]", &rows);
    assert_eq!(turned.2, [9.0, 12.0, 4.0, 6.0, 1.0, 2.0]);
    let columns = Tensor::from_vec(vec![2, 3], vec![1f32, 3.0, 5.0, 2.0, 4.0, 6.0]).unwrap();
    let across = run(", scan_input_axes = [-1], scan_output_axes = [1]", &columns);
    assert_eq!((across.1, across.2), (vec![2, 3], vec![1.0, 4.0, 9.0, 2.0, 6.0, 12.0]));
    let none = Tensor::from_vec(vec![0, 2], Vec::<f32>::new()).unwrap();
    assert_eq!(run("", &none), (vec![0.0, 0.0], vec![0, 2], vec![]));
}

#[test]
fn wrong_operands_are_errors() {
    let graph = sums("");
    let it = inputs([("start", Tensor::vector(vec![0f32; 2])), ("x", ramp(&[]))]);
    assert!(run_once(&graph, &it).is_err(), "a scalar has no slices");
    let two = Tensor::from_bools(vec![2], &[true, true]).unwrap();
    let branches = crate::support::graph(&BRANCHES.replace("%c: bool[]", "%c: bool[n]"));
    let it = inputs([("c", two), ("x", ramp(&[2, 3]))]);
    let error = run_once(&branches, &it).unwrap_err();
    assert_eq!(error.to_string(), "If 'y': If: its condition is not one bool");
}
