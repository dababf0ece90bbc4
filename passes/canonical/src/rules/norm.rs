//! Rules that find normalizations behind the operators that exporters spell them with.
//!
//! `rms(x) = x / sqrt(mean(x^2) + eps)` over the last axis; a layer norm is that of `x - mean(x)`.
//! The operators compute in f32, so f16 in between may differ. Source: ONNX
//! `RMSNormalization`-23, `LayerNormalization`-17. All are equal up to rounding.

use qcc_tensor::DType;

use super::{At, Literals, Rule, holds, rule};
use crate::canonicalize::term::is_short_float;

#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule("square-of-pow",       "(Pow ?x ?n)",               "(Square ?x)").nearly().when(|at| holds(at.is("?n", 2.0))),
    rule("square-of-mul",       "(Mul ?x ?x)",               "(Square ?x)").nearly(),
    rule("rsqrt-of-reciprocal", "(Reciprocal (Sqrt ?x))",    "(Rsqrt ?x)").nearly(),
    rule("rsqrt-of-div",        "(Div ?one (Sqrt ?x))",      "(Rsqrt ?x)").nearly().when(|at| holds(at.is("?one", 1.0))),
    rule("rsqrt-of-pow",        "(Pow ?x ?n)",               "(Rsqrt ?x)").nearly().when(|at| holds(at.is("?n", -0.5))),
    rule("mean-last",           "(ReduceMean ?x ?axes 1)",   "(MeanLast ?x)").nearly().when(is_last),

    rule("rms-of-mul",          "(Mul ?x (Rsqrt (Add (MeanLast (Square ?x)) ?eps)))", "(Rms ?x ?eps)").nearly().when(is_eps),
    rule("rms-of-div",          "(Div ?x (Sqrt (Add (MeanLast (Square ?x)) ?eps)))",  "(Rms ?x ?eps)").nearly().when(is_eps),
    rule("rms-norm",            "(Mul (Rms ?x ?eps) ?w)",    "(RMSNormalization ?x ?w -1 ?eps)").nearly().since(23).when(is_scale),
    // Computed in f32 between two casts, as the operator does it.
    rule("rms-norm-cast",       "(Mul (Cast (Rms (Cast ?x 1) ?eps) ?to) ?w)", "(RMSNormalization ?x ?w -1 ?eps)").nearly().since(23).when(is_cast_scale),

    rule("layer-norm",          "(Mul (Rms (Sub ?x (MeanLast ?x)) ?eps) ?w)", "(LayerNormalization ?x ?w -1 ?eps)").nearly().since(17).when(is_scale),
    rule("layer-norm-cast",     "(Mul (Cast (Rms (Sub (Cast ?x 1) (MeanLast (Cast ?x 1))) ?eps) ?to) ?w)", "(LayerNormalization ?x ?w -1 ?eps)").nearly().since(17).when(is_cast_scale),
    rule("layer-norm-bias",     "(Add (LayerNormalization ?x ?w -1 ?eps) ?b)", "(LayerNormalization ?x ?w ?b -1 ?eps)").nearly().since(17).when(is_bias),
];

/// The mean is over the last axis alone.
fn is_last(at: &At<'_>) -> Option<Literals> {
    let [axis] = *at.ints("?axes")? else { return None };
    let last = at.ty("?x").rank().map(|it| it as i64 - 1);
    holds(axis == -1 || Some(axis) == last)
}

fn is_eps(at: &At<'_>) -> Option<Literals> {
    holds(at.number("?eps").is_some_and(|it| it >= 0.0))
}

fn is_scale(at: &At<'_>) -> Option<Literals> {
    holds(is_short_float(at.ty("?x")) && is_last_row(at, "?w"))
}

/// The cast back gives the type of the value that was cast to f32.
fn is_cast_scale(at: &At<'_>) -> Option<Literals> {
    let dtype = at.ty("?x").dtype().filter(|it| matches!(it, DType::F16 | DType::BF16))?;
    holds(at.number("?to") == Some(f64::from(dtype.onnx_code())) && is_last_row(at, "?w"))
}

fn is_bias(at: &At<'_>) -> Option<Literals> {
    holds(is_last_row(at, "?b"))
}

/// A vector as long as the last axis of `x`, and of its element type.
fn is_last_row(at: &At<'_>, name: &str) -> bool {
    let (x, row) = (at.ty("?x"), at.ty(name));
    let last = x.shape().and_then(<[_]>::last).and_then(qcc_tensor::Dim::known);
    let len = row.known_dims().filter(|it| it.len() == 1).and_then(|it| it.first().copied());
    last.is_some() && last == len && x.dtype() == row.dtype()
}

#[cfg(test)]
mod tests {
    use crate::rules::check::check;

    const MEAN: &str = "(ReduceMean (Pow x 2) [-1] 1)";

    #[test]
    fn rms_norm_in_its_spellings() {
        let sum = format!("(Add {MEAN} 0.00001)");
        let other = "(Add 0.00001 (ReduceMean (Mul x x) [2] 1))";
        for sum in [&*sum, other] {
            for rms in [
                format!("(Mul x (Reciprocal (Sqrt {sum})))"),
                format!("(Mul x (Div 1 (Sqrt {sum})))"),
                format!("(Mul (Pow {sum} -0.5) x)"),
                format!("(Div x (Sqrt {sum}))"),
            ] {
                check(&format!("(Mul w {rms})"), "(RMSNormalization x w -1 0.00001)");
            }
        }
    }

    #[test]
    fn rms_norm_between_casts() {
        let x = "(Cast h 1)";
        let rms = format!("(Div {x} (Sqrt (Add (ReduceMean (Pow {x} 2) [-1] 1) 0.001)))");
        check(&format!("(Mul g (Cast {rms} 10))"), "(RMSNormalization h g -1 0.001)");
        let stays = format!("(Mul g (Cast {rms} 1))");
        check(&stays, &stays);
    }

    #[test]
    fn what_is_no_rms_norm() {
        for text in [
            // Another power, axis, value below, scale; the mean without its axis.
            "(Mul (Div x (Sqrt (Add (ReduceMean (Pow x 3) [-1] 1) 0.001))) w)",
            "(Mul (Div x (Sqrt (Add (ReduceMean (Mul x y) [-1] 1) 0.001))) w)",
            "(Mul (Div x (Sqrt (Add (ReduceMean (Pow x 2) [1] 1) 0.001))) w)",
            "(Mul (Div x (Sqrt (Add (ReduceMean (Pow x 2) [-1] 0) 0.001))) w)",
            "(Mul (Div y (Sqrt (Add (ReduceMean (Pow x 2) [-1] 1) 0.001))) w)",
            "(Mul (Div x (Sqrt (Add (ReduceMean (Pow x 2) [-1] 1) w))) w)",
            "(Mul (Div x (Sqrt (Add (ReduceMean (Pow x 2) [-1] 1) 0.001))) b)",
            "(Mul (Mul x (Reciprocal (Add (ReduceMean (Pow x 2) [-1] 1) 0.001))) w)",
            "(Mul (Mul x (Div 2 (Sqrt (Add (ReduceMean (Pow x 2) [-1] 1) 0.001)))) w)",
            "(Mul (Mul x (Pow (Add (ReduceMean (Pow x 2) [-1] 1) 0.001) 0.5)) w)",
            "(Mul (Mul y (Pow (Add (ReduceMean (Pow x 2) [-1] 1) 0.001) -0.5)) w)",
        ] {
            check(text, text);
        }
    }

    /// A layer norm of `x` without scale.
    fn standard(x: &str) -> String {
        let d = format!("(Sub {x} (ReduceMean {x} [-1] 1))");
        format!("(Div {d} (Sqrt (Add (ReduceMean (Pow {d} 2) [-1] 1) 0.001)))")
    }

    #[test]
    fn layer_norm() {
        let normed = standard("x");
        check(&format!("(Mul {normed} w)"), "(LayerNormalization x w -1 0.001)");
        check(&format!("(Add v (Mul {normed} w))"), "(LayerNormalization x w v -1 0.001)");
        let normed = standard("(Cast h 1)");
        check(&format!("(Mul (Cast {normed} 10) g)"), "(LayerNormalization h g -1 0.001)");
    }

    #[test]
    fn what_is_no_layer_norm() {
        let normed = standard("x");
        check(&format!("(Mul {normed} b)"), &format!("(Mul {normed} b)"));
        check(&format!("(Add y (Mul {normed} w))"), "(Add y (LayerNormalization x w -1 0.001))");
        let normed = standard("(Cast h 1)");
        check(&format!("(Mul (Cast {normed} 16) g)"), &format!("(Mul (Cast {normed} 16) g)"));
    }
}
