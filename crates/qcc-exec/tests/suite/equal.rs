//! Two graphs compared by what they compute.

use qcc_exec::equal::{check_equal, random_inputs};

use crate::support::*;

fn scaled(factor: &str) -> Graph {
    graph(&format!(
        "graph @main(%x: f32[batch, seq], %ids: i64[batch, 2]) -> (%y: f32[*], %i: i64[*]) {{
           %f = const f32[] [{factor}]
           %y = Mul(%x, %f)
           %i = Add(%ids, %ids)
         }}"
    ))
}

#[test]
fn equal_graphs_pass_and_others_say_where() {
    let a = scaled("2.0");
    let b = graph(
        "graph @main(%x: f32[batch, seq], %ids: i64[batch, 2]) -> (%y: f32[*], %i: i64[*]) {
           %y = Add(%x, %x)
           %two = const i64[] [2]
           %i = Mul(%ids, %two)
         }",
    );
    assert_eq!(check_equal(&a, &b, 1, 0.0), Ok(()));
    let near = scaled("2.001");
    assert_eq!(check_equal(&a, &near, 1, 1e-2), Ok(()));
    let error = check_equal(&a, &near, 1, 1e-6).unwrap_err();
    assert!(error.starts_with("output 'y': element 0 is "), "{error}");
    let error = check_equal(&a, &scaled("inf"), 1, 0.5).unwrap_err();
    assert!(error.starts_with("output 'y'"), "{error}");
}

#[test]
fn outputs_must_have_the_same_names_and_types() {
    let a = graph("graph @main(%x: f32[2]) -> (%y: f32[2]) { %y = Neg(%x) }");
    let b = graph("graph @main(%x: f32[2]) -> (%z: f32[2]) { %z = Neg(%x) }");
    let error = check_equal(&a, &b, 1, 0.0).unwrap_err();
    assert_eq!(error, "outputs are [\"y\"] and [\"z\"]");
    let c = graph(
        "graph @main(%x: f32[2]) -> (%y: f32[*]) {
           %s = const i64[2] [1, 2]
           %n = Neg(%x)
           %y = Reshape(%n, %s)
         }",
    );
    assert_eq!(check_equal(&a, &c, 1, 0.0).unwrap_err(), "output 'y': f32[2] and f32[1, 2]");
}

#[test]
fn inputs_depend_on_the_seed_alone() {
    let graph = scaled("1.0");
    let a = random_inputs(&graph, 7).unwrap();
    assert_eq!(a, random_inputs(&graph, 7).unwrap());
    assert_ne!(a, random_inputs(&graph, 8).unwrap());
    assert_eq!((a["x"].dims(), a["ids"].dims()), (&[2, 3][..], &[2, 2][..]));
    assert!(a["ids"].to_i64().unwrap().iter().all(|it| (0..4).contains(it)));
}
