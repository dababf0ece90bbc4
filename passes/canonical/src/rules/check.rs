//! Terms before and after all rules, for the tests of rules.

use egg::RecExpr;
use qcc_ir::Type;
use qcc_tensor::{DType, Tensor};

use super::all;
use crate::canonicalize::engine::{best_term, saturate};
use crate::canonicalize::term::{EGraph, Fact, Facts, Term};

/// Values that tests name: `x: f32[2, 3, 8]`, `y: f32[2, 3, 8]`, `h: f16[2, 8]`, constants
/// `w: f32[8]`, `v: f32[8]`, `b: f32[4]`, `g: f16[8]`, `m: f32[8, 4]`, `n: f32[4, 8]`, `i: i64[2] [2, 24]`, `z: i64[2] [0, 24]`,
/// `j: i64[2] [4, 12]`, `e: i64[3] [0, 2, 6]`,
/// `s: i64[3] [2, 3, 8]`, and matrices `a: f32[2, 8]`, `d: f32[4, 8]`, `k: f16[8, 4]`.
fn facts() -> Facts {
    let mut facts = Facts::default();
    let mut add = |name: &str, dtype, dims: &[usize], tensor: Option<Tensor>| {
        let ints = tensor.as_ref().and_then(|it| it.to_i64().ok()).map(|it| it.to_vec());
        let ty = Type::tensor(dtype, dims.iter().copied());
        facts.leaves.insert(name.into(), Fact { ty, tensor, number: None, ints });
    };
    let floats =
        |dims: &[usize]| Tensor::from_vec(dims.to_vec(), vec![1.0f32; dims.iter().product()]).ok();
    add("x", DType::F32, &[2, 3, 8], None);
    add("y", DType::F32, &[2, 3, 8], None);
    add("a", DType::F32, &[2, 8], None);
    add("d", DType::F32, &[4, 8], None);
    add("n", DType::F32, &[4, 8], floats(&[4, 8]));
    add("k", DType::F16, &[8, 4], None);
    add("h", DType::F16, &[2, 8], None);
    add("w", DType::F32, &[8], floats(&[8]));
    add("b", DType::F32, &[4], floats(&[4]));
    add("m", DType::F32, &[8, 4], floats(&[8, 4]));
    add("v", DType::F32, &[8], floats(&[8]));
    add("g", DType::F16, &[8], Tensor::new(DType::F16, vec![8], vec![0u8; 16].into()).ok());
    add("i", DType::I64, &[2], Some(Tensor::vector(vec![2i64, 24])));
    add("z", DType::I64, &[2], Some(Tensor::vector(vec![0i64, 24])));
    add("j", DType::I64, &[2], Some(Tensor::vector(vec![4i64, 12])));
    add("e", DType::I64, &[3], Some(Tensor::vector(vec![0i64, 2, 6])));
    add("s", DType::I64, &[3], Some(Tensor::vector(vec![2i64, 3, 8])));
    facts
}

/// All rules over `before` give `after`.
pub(super) fn check(before: &str, after: &str) {
    let rules: Vec<_> = all().map(|it| it.compile().unwrap()).collect();
    let mut egraph = EGraph::new(facts());
    let term: RecExpr<Term> = before.parse().unwrap();
    let root = egraph.add_expr(&term);
    let originals = egraph.nodes().to_vec();
    let (egraph, _) = saturate(egraph, &rules);
    assert_eq!(best_term(&egraph, root, &originals).to_string(), after);
}
