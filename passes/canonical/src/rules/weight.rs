//! Rules that bring products to `MatMul(x, weight)`.
//!
//! Source: ONNX `Gemm`-13, com.microsoft `FusedMatMul`-1.

use super::{At, Literals, Rule, holds, rule};
use crate::canonicalize::term::list_text;

#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    // With beta = 0 the third operand is not read.
    rule("drop-unread-bias",     "(Gemm ?a ?b ?c ?alpha 0 ?ta ?tb)", "(Gemm ?a ?b ?alpha 0 ?ta ?tb)"),
    rule("gemm-to-matmul",       "(Gemm ?a ?b 1 ?beta 0 0)",      "(MatMul ?a ?b)"),
    rule("gemm-to-matmul-t",     "(Gemm ?a ?b 1 ?beta 0 1)",      "(MatMul ?a (Transpose ?b [1,0]))").when(is_weight),
    // The bias may be where a sum begins, or be added at its end.
    rule("gemm-to-matmul-add",   "(Gemm ?a ?b ?c 1 1 0 0)",       "(Add (MatMul ?a ?b) ?c)").nearly(),
    rule("gemm-to-matmul-add-t", "(Gemm ?a ?b ?c 1 1 0 1)",       "(Add (MatMul ?a (Transpose ?b [1,0])) ?c)").nearly().when(is_weight),
    rule("fused-to-matmul",      "(FusedMatMul ?a ?b 1 0 0)",     "(MatMul ?a ?b)"),
    rule("fused-to-matmul-t",    "(FusedMatMul ?a ?b 1 0 1)",     "(MatMul ?a (Transpose ?b ?p))").when(is_weight_of_rank),
    // The factor may be applied to an operand or to the result.
    rule("fused-to-matmul-mul",  "(FusedMatMul ?a ?b ?alpha 0 0)", "(Mul (MatMul ?a ?b) ?alpha)").nearly().when(is_factor),
    rule("fused-to-matmul-mul-t", "(FusedMatMul ?a ?b ?alpha 0 1)", "(Mul (MatMul ?a (Transpose ?b ?p)) ?alpha)").nearly().when(is_factor_and_weight),
    // (W X')' = X W': the weight on the left of a transposed product.
    rule("turn-product",         "(Transpose (MatMul ?w (Transpose ?x ?p)) ?p)", "(MatMul ?x (Transpose ?w ?p))").when(turns_a_weight),
];

fn is_weight(at: &At<'_>) -> Option<Literals> {
    holds(at.is_const("?b"))
}

/// The order of axes that turns the matrix of a constant.
fn is_weight_of_rank(at: &At<'_>) -> Option<Literals> {
    let rank = at.ty("?b").rank().filter(|&it| it >= 2 && at.is_const("?b"))?;
    Some(vec![("?p", list_text(&turned(rank)))])
}

/// The axes of a rank with the last two in the other order.
fn turned(rank: usize) -> Vec<i64> {
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 2, rank - 1);
    perm
}

/// The factor of the result can be written as a constant.
fn is_factor(at: &At<'_>) -> Option<Literals> {
    holds(at.whole().dtype() == Some(qcc_tensor::DType::F32) && at.number("?alpha")? != 1.0)
}

fn is_factor_and_weight(at: &At<'_>) -> Option<Literals> {
    is_factor(at)?;
    is_weight_of_rank(at)
}

fn turns_a_weight(at: &At<'_>) -> Option<Literals> {
    let perm = at.ints("?p")?;
    let is_turn = perm.len() >= 2 && perm == turned(perm.len());
    let has_rank = |name: &str| at.ty(name).rank() == Some(perm.len());
    holds(is_turn && at.is_const("?w") && has_rank("?w") && has_rank("?x"))
}

#[cfg(test)]
mod tests {
    use crate::rules::check::check;

    #[test]
    fn gemm_is_a_product_and_a_sum() {
        check("(Gemm a m 1 1 0 0)", "(MatMul a m)");
        check("(Gemm a m b 1 0 0 0)", "(MatMul a m)");
        check("(Gemm a m b 1 1 0 0)", "(Add (MatMul a m) b)");
        check("(Gemm a n 1 1 0 1)", "(MatMul a (Transpose n [1,0]))");
        check("(Gemm a n b 1 1 0 1)", "(Add (MatMul a (Transpose n [1,0])) b)");
    }

    #[test]
    fn other_gemms_stay() {
        check("(Gemm a m b 0.5 1 0 0)", "(Gemm a m b 0.5 1 0 0)");
        check("(Gemm a m b 1 0.5 0 0)", "(Gemm a m b 1 0.5 0 0)");
        check("(Gemm a m b 1 1 1 0)", "(Gemm a m b 1 1 1 0)");
        check("(Gemm a d b 1 1 0 1)", "(Gemm a d b 1 1 0 1)");
        check("(Gemm a d 1 1 0 1)", "(Gemm a d 1 1 0 1)");
        check("(Gemm a m b 0.5 0 0 0)", "(Gemm a m b 0.5 0 0 0)");
    }

    #[test]
    fn fused_products_come_apart() {
        check("(FusedMatMul a m 1 0 0)", "(MatMul a m)");
        check("(FusedMatMul a m 0.5 0 0)", "(Mul (MatMul a m) 0.5)");
        check("(FusedMatMul a n 1 0 1)", "(MatMul a (Transpose n [1,0]))");
        check("(FusedMatMul a n 0.5 0 1)", "(Mul (MatMul a (Transpose n [1,0])) 0.5)");
    }

    #[test]
    fn other_fused_products_stay() {
        check("(FusedMatMul a m 1 1 0)", "(FusedMatMul a m 1 1 0)");
        check("(FusedMatMul a d 1 0 1)", "(FusedMatMul a d 1 0 1)");
        check("(FusedMatMul a d 0.5 0 1)", "(FusedMatMul a d 0.5 0 1)");
        // The factor is written as f32 only.
        check("(FusedMatMul h k 0.5 0 0)", "(FusedMatMul h k 0.5 0 0)");
    }

    #[test]
    fn a_weight_on_the_left_turns() {
        let turned = "(Transpose (MatMul n (Transpose a [1,0])) [1,0])";
        check(turned, "(MatMul a (Transpose n [1,0]))");
        let dynamic = "(Transpose (MatMul d (Transpose a [1,0])) [1,0])";
        check(dynamic, dynamic);
    }
}
