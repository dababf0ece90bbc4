//! What follows from shapes and constants is not run.

use qcc_exec::{ExecError, run_once, unsupported};
use qcc_ir::Type;
use qcc_tensor::{DType, Dim, Tensor};

use crate::support::*;

/// Heads apart by shapes that are read from the operand, as exporters write it.
const HEADS: &str = "
graph @main(%x: f32[batch, seq, 6]) -> (%y: f32[*]) {
  %shape = Shape(%x)
  %zero = const i64[] [0]
  %one = const i64[] [1]
  %b = Gather(%shape, %zero)
  %s = Gather(%shape, %one)
  %axis = const i64[1] [0]
  %b1 = Unsqueeze(%b, %axis)
  %s1 = Unsqueeze(%s, %axis)
  %heads = const i64[2] [2, -1]
  %target = Concat(%b1, %s1, %heads) {axis = 0}
  %split = Reshape(%x, %target)
  %y = Transpose(%split) {perm = [0, 2, 1, 3]}
}";

#[test]
fn shape_arithmetic_leaves_two_nodes() {
    let graph = graph(HEADS);
    let inputs = inputs([("x", ramp(&[2, 5, 6]))]);
    let plan = plan(&graph, &inputs).unwrap();
    assert_eq!(plan.n_steps(), 2, "Reshape and Transpose");
    assert_eq!(plan.ty(value(&graph, "y")), Some(&Type::tensor(DType::F32, [2usize, 2, 5, 3])));
    assert_eq!(run(&plan, &inputs)[0].dims(), [2, 2, 5, 3]);
    let target = plan.known(value(&graph, "target")).unwrap();
    assert_eq!(target.to_i64().unwrap().as_ref(), [2, 5, 2, -1]);
    assert_eq!(plan.known(value(&graph, "y")), None);
}

/// `x * W'`, where the constant `W` is large and behind an `Identity`.
fn turned(weight: &Tensor) -> Graph {
    let hex: String = weight.bytes().iter().map(|it| format!("{it:02x}")).collect();
    graph(&format!(
        "graph @main(%x: f32[*]) -> (%y: f32[*]) {{
           %w = const f32[300, 300] bytes \"{hex}\"
           %i = Identity(%w)
           %t = Transpose(%i)
           %y = MatMul(%x, %t)
         }}"
    ))
}

#[test]
fn constants_behind_steps_are_made_once() {
    let weight = ramp(&[300, 300]);
    let graph = turned(&weight);
    // Two products read a turned copy, one reads what `Identity` gave, which shares its bytes.
    for dims in [[2, 1, 300], [1, 2, 300]] {
        let inputs = inputs([("x", ramp(&dims))]);
        let plan = plan(&graph, &inputs).unwrap();
        assert_eq!((plan.n_steps(), plan.kept_bytes()), (1, 0), "nothing is computed before a run");
        let first = run(&plan, &inputs);
        assert_eq!(plan.kept_bytes(), 300 * 300 * 4, "one tensor, not what led to it");
        assert_eq!(run(&plan, &inputs), first);
        let y = floats(&first[0]);
        let (x, w) = (floats(&inputs["x"]), floats(&weight));
        let want: f32 = (0..300).map(|k| x[300 + k] * w[7 * 300 + k]).sum();
        assert_eq!(y[300 + 7], want, "row 1, column 7");
    }
}

#[test]
fn a_turned_constant_is_read_where_it_lies() {
    let weight = ramp(&[300, 300]);
    let graph = turned(&weight);
    let inputs = inputs([("x", ramp(&[2, 300]))]);
    let cut = value(&graph, "i");
    let bound = [bound(&inputs), vec![("i".to_owned(), Bound::Value(weight))]].concat();
    let plan = Plan::new(&graph, &bound, &PlanOptions::default()).unwrap();
    run(&plan, &inputs);
    assert_eq!((plan.n_steps(), plan.kept_bytes()), (1, 0));
    assert!(plan.ty(cut).is_some());
}

#[test]
fn a_few_rows_of_a_turned_table_are_read_where_they_lie() {
    let table = ramp(&[300, 300]);
    let hex: String = table.bytes().iter().map(|it| format!("{it:02x}")).collect();
    for axis in [0, 1] {
        let graph = graph(&format!(
            "graph @main(%ids: i64[*]) -> (%y: f32[*]) {{
               %w = const f32[300, 300] bytes \"{hex}\"
               %t = Transpose(%w)
               %y = Gather(%t, %ids) {{axis = {axis}}}
             }}"
        ));
        let ids = Bound::Open(DType::I64, vec![Dim::Symbol("t".into())]);
        let open = Plan::new(&graph, &[("ids".to_owned(), ids)], &PlanOptions::default()).unwrap();
        // Of 300 rows four are few and five are not; columns are no rows.
        for (count, is_few) in [(4, true), (5, false)] {
            let ids: Vec<i64> = (0..count).map(|it| it * 70 - 2).collect();
            let inputs = inputs([("ids", Tensor::vector(ids.clone()))]);
            let plan = plan(&graph, &inputs).unwrap();
            let y = run(&plan, &inputs);
            assert_eq!(run(&open, &inputs), y);
            assert_eq!(open.kept_bytes() > 0, axis != 0, "of an open number");
            let is_copied = plan.kept_bytes() > 0;
            assert_eq!(is_copied, !(is_few && axis == 0), "{count} along {axis}");
            let y = floats(&y[0]);
            let table = floats(&table);
            for (at, id) in ids.iter().enumerate() {
                if axis == 0 {
                    let row = id.rem_euclid(300) as usize;
                    for k in 0..300 {
                        assert_eq!(y[at * 300 + k], table[k * 300 + row]);
                    }
                } else {
                    let column = id.rem_euclid(300) as usize;
                    assert_eq!(y[7 * ids.len() + at], table[column * 300 + 7]);
                }
            }
        }
    }
}

#[test]
fn a_quantized_weight_runs_rounded() {
    let graph = graph(
        "graph @main(%x: f32[1, 4]) -> (%y: f32[1, 1]) {
           %w = const f32[4, 1] [0.1, 0.9, 2.2, 3.0]
           %q = qcc::Quant(%w) {bits = 2, n = 1, k = 4, order = \"kn\",
             codes = tensor u8[1, 4] [0, 1, 2, 3], scales = tensor f32[1, 1] [1.0],
             zeros = tensor u8[1, 1] [0]}
           %y = MatMul(%x, %q)
         }",
    );
    let x = Tensor::from_vec(vec![1, 4], vec![1f32, 10.0, 100.0, 1000.0]).unwrap();
    let y = run_once(&graph, &inputs([("x", x)])).unwrap();
    assert_eq!(floats(&y[0].1), [3210.0]);
}

#[test]
fn an_input_bound_by_value_is_folded() {
    let graph = graph(
        "graph @main(%a: f32[2], %b: f32[2]) -> (%y: f32[2]) {
           %n = Neg(%a)
           %y = Add(%n, %b)
         }",
    );
    let a = Tensor::vector(vec![1f32, 2.0]);
    let bound =
        [("a".to_owned(), Bound::Value(a)), ("b".to_owned(), Bound::Shape(DType::F32, vec![2]))];
    let plan = Plan::new(&graph, &bound, &PlanOptions::default()).unwrap();
    assert_eq!(plan.n_steps(), 1);
    let y = run(&plan, &inputs([("b", Tensor::vector(vec![10f32, 20.0]))]));
    assert_eq!(floats(&y[0]), [9.0, 18.0]);
}

#[test]
fn defaults_of_inputs_stand_in() {
    let graph = graph(
        "graph @main(%x: f32[2], %s: f32[] = default f32[] [3.0]) -> (%y: f32[2]) {
           %y = Mul(%x, %s)
         }",
    );
    let x = Tensor::vector(vec![1f32, 2.0]);
    let mut inputs = inputs([("x", x)]);
    assert_eq!(floats(&run_once(&graph, &inputs).unwrap()[0].1), [3.0, 6.0]);
    inputs.insert("s".into(), Tensor::scalar(-1f32));
    assert_eq!(floats(&run_once(&graph, &inputs).unwrap()[0].1), [-1.0, -2.0]);
}

const UNKNOWN: &str = "
graph @main(%c: bool[], %x: f32[2]) -> (%y: f32[2], %z: f32[2]) {
  %dead = my::Dead(%x)
  %a = my::Foo(%x)
  %b = my::Foo(%a)
  %y = If(%c) {
    then_branch = graph @then captures(%b: f32[2]) () -> (%t: f32[2]) { %t = Bar(%b) },
    else_branch = graph @else captures(%x: f32[2]) () -> (%e: f32[2]) { %e = Neg(%x) }
  }
  %z = Neg(%x)
}";

#[test]
fn all_unsupported_operators_are_listed() {
    let graph = graph(UNKNOWN);
    let names: Vec<String> = unsupported(&graph).iter().map(|it| it.label.to_string()).collect();
    assert_eq!(names, ["my::Foo 'a'", "my::Foo 'b'", "Bar 't'"]);
    let c = Tensor::from_bools(vec![], &[true]).unwrap();
    let inputs = inputs([("c", c), ("x", ramp(&[2]))]);
    let error = plan(&graph, &inputs).unwrap_err();
    assert_eq!(error.to_string(), "Bar (1 node), my::Foo (2 nodes) cannot be executed");
    let text = qcc_diag::Diagnostic::from(error).to_string();
    assert!(text.starts_with("error[QCC0201]") && text.contains("my::Foo 'b'"), "{text}");

    // What only another output needs does not count.
    let options = PlanOptions { outputs: Some(vec![value(&graph, "z")]), ..Default::default() };
    let plan = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    assert_eq!(plan.n_steps(), 1);
}

#[test]
fn errors_name_node_and_shapes() {
    let graph = graph(
        "graph @main(%x: f32[a, b], %w: f32[c, d]) -> (%y: f32[*]) {
           %y = MatMul(%x, %w) @proj
         }",
    );
    let inputs = inputs([("x", ramp(&[2, 3])), ("w", ramp(&[4, 5]))]);
    let error = plan(&graph, &inputs).unwrap_err();
    let text = qcc_diag::Diagnostic::from(error).to_string();
    assert!(text.starts_with("error[QCC0202]: MatMul 'proj': "), "{text}");
    assert!(text.contains("note: its inputs are f32[2, 3], f32[4, 5]"), "{text}");
}

#[test]
fn inputs_must_fit() {
    let graph = graph("graph @main(%x: f32[2, s]) -> (%y: f32[2, s]) { %y = Neg(%x) }");
    let is_input = |it: ExecError| matches!(it, ExecError::Input { .. });
    assert!(is_input(plan(&graph, &inputs([])).unwrap_err()));
    assert!(is_input(plan(&graph, &inputs([("x", ramp(&[3, 2]))])).unwrap_err()));
    assert!(is_input(plan(&graph, &inputs([("other", ramp(&[2, 2]))])).unwrap_err()));
    let fits = plan(&graph, &inputs([("x", ramp(&[2, 2]))])).unwrap();
    let other = inputs([("x", ramp(&[2, 3]))]);
    assert!(is_input(fits.run(&other, &[], &mut |_, _| {}).unwrap_err()));
}
