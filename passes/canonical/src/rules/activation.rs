//! Rules that find activations behind the operators that exporters spell them with.
//!
//! Source: ONNX `Swish`-24, `Gelu`-20; Hendrycks and Gimpel, "Gaussian Error Linear Units", for
//! the form with tanh. All are equal up to rounding.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use super::{At, Literals, Rule, holds, rule};
use crate::canonicalize::term::is_short_float;

#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule("mul-sigmoid-to-swish",   "(Mul ?x (Sigmoid ?x))",           "(Swish ?x 1)").nearly().since(24).when(is_float),
    rule("mul-sigmoid-to-swish-a", "(Mul ?x (Sigmoid (Mul ?x ?a)))",  "(Swish ?x ?a)").nearly().since(24).when(has_slope),

    // 1 + erf(x / sqrt(2))
    rule("erf-of-div", "(Add (Erf (Div ?x ?s)) ?one)", "(OnePlusErf ?x)").nearly().when(|at| holds(at.is("?s", SQRT_2) && at.is("?one", 1.0))),
    rule("erf-of-mul", "(Add (Erf (Mul ?x ?s)) ?one)", "(OnePlusErf ?x)").nearly().when(|at| holds(at.is("?s", FRAC_1_SQRT_2) && at.is("?one", 1.0))),
    // Half of the product may be taken anywhere.
    rule("gelu-half-last",  "(Mul (Mul ?x (OnePlusErf ?x)) ?h)", "(Gelu ?x)").nearly().since(20).when(is_half),
    rule("gelu-half-first", "(Mul (Mul ?x ?h) (OnePlusErf ?x))", "(Gelu ?x)").nearly().since(20).when(is_half),
    rule("gelu-half-inner", "(Mul ?x (Mul (OnePlusErf ?x) ?h))", "(Gelu ?x)").nearly().since(20).when(is_half),

    rule("cube-of-pow", "(Pow ?x ?n)",         "(Cube ?x)").nearly().when(|at| holds(at.is("?n", 3.0))),
    rule("cube-of-mul", "(Mul (Mul ?x ?x) ?x)", "(Cube ?x)").nearly(),
    // sqrt(2 / pi) * (x + 0.044715 * x^3)
    rule("tanh-inner-sum",     "(Mul (Add ?x (Mul (Cube ?x) ?c)) ?s)",             "(TanhInner ?x)").nearly().when(is_inner),
    rule("tanh-inner-product", "(Mul (Mul ?x ?s) (Add (Mul (Mul ?x ?c) ?x) ?one))", "(TanhInner ?x)").nearly().when(is_inner_product),
    rule("tanh-inner-square",  "(Mul (Mul ?x ?s) (Add (Mul (Mul ?x ?x) ?c) ?one))", "(TanhInner ?x)").nearly().when(is_inner_product),
    rule("one-plus-tanh",      "(Add (Tanh (TanhInner ?x)) ?one)",                 "(OnePlusTanh ?x)").nearly().when(|at| holds(at.is("?one", 1.0))),
    rule("gelu-tanh-half-last",  "(Mul (Mul ?x (OnePlusTanh ?x)) ?h)", "(GeluTanh ?x)").nearly().since(20).when(is_half),
    rule("gelu-tanh-half-first", "(Mul (Mul ?x ?h) (OnePlusTanh ?x))", "(GeluTanh ?x)").nearly().since(20).when(is_half),
    rule("gelu-tanh-half-inner", "(Mul ?x (Mul (OnePlusTanh ?x) ?h))", "(GeluTanh ?x)").nearly().since(20).when(is_half),
];

/// The coefficient of the cube in the form with tanh.
const CUBIC: f64 = 0.044715;

fn is_float(at: &At<'_>) -> Option<Literals> {
    holds(is_short_float(at.ty("?x")))
}

fn has_slope(at: &At<'_>) -> Option<Literals> {
    holds(is_short_float(at.ty("?x")) && at.number("?a").is_some())
}

fn is_half(at: &At<'_>) -> Option<Literals> {
    holds(is_short_float(at.ty("?x")) && at.is("?h", 0.5))
}

fn is_inner(at: &At<'_>) -> Option<Literals> {
    holds(at.is("?c", CUBIC) && at.is("?s", FRAC_2_SQRT_PI * FRAC_1_SQRT_2))
}

fn is_inner_product(at: &At<'_>) -> Option<Literals> {
    is_inner(at)?;
    holds(at.is("?one", 1.0))
}

#[cfg(test)]
mod tests {
    use crate::rules::check::check;

    #[test]
    fn swish() {
        check("(Mul x (Sigmoid x))", "(Swish x 1)");
        check("(Mul (Sigmoid x) x)", "(Swish x 1)");
        check("(Mul x (Sigmoid (Mul 1.702 x)))", "(Swish x 1.702)");
    }

    #[test]
    fn other_factors_are_kept() {
        check("(Mul y (Sigmoid x))", "(Mul y (Sigmoid x))");
        check("(Mul y (Sigmoid (Mul x 1.702)))", "(Mul y (Sigmoid (Mul x 1.702)))");
        check("(Mul x (Sigmoid (Mul x w)))", "(Mul x (Sigmoid (Mul x w)))");
        // Nothing is known of `u`.
        check("(Mul u (Sigmoid u))", "(Mul u (Sigmoid u))");
    }

    #[test]
    fn gelu_by_erf() {
        check("(Mul (Mul x (Add (Erf (Div x 1.4142135)) 1)) 0.5)", "(Gelu x)");
        check("(Mul (Mul 0.5 x) (Add 1 (Erf (Mul x 0.70710677))))", "(Gelu x)");
        check("(Mul x (Mul 0.5 (Add 1 (Erf (Div x 1.4142135)))))", "(Gelu x)");
    }

    #[test]
    fn other_erfs_are_kept() {
        for text in [
            "(Mul (Mul x (Add (Erf (Div x 1.4)) 1)) 0.5)",
            "(Mul (Mul x (Add (Erf (Mul x 0.7)) 1)) 0.5)",
            "(Mul (Mul x (Add (Erf (Div x 1.4142135)) 2)) 0.5)",
            "(Mul (Mul x (Add (Erf (Div x 1.4142135)) 1)) 0.25)",
            "(Mul (Mul y 0.5) (Add (Erf (Div x 1.4142135)) 1))",
            "(Mul y (Mul (Add (Erf (Div x 1.4142135)) 1) 0.5))",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn gelu_by_tanh() {
        let sum = "(Mul 0.7978846 (Add x (Mul 0.044715 (Pow x 3))))";
        let cube = "(Mul (Add x (Mul (Mul x (Mul x x)) 0.044715)) 0.7978846)";
        let product = "(Mul (Mul x 0.7978846) (Add 1 (Mul (Mul 0.044715 x) x)))";
        let square = "(Mul (Mul x 0.7978846) (Add 1 (Mul 0.044715 (Mul x x))))";
        for inner in [sum, cube, product, square] {
            check(&format!("(Mul (Mul x 0.5) (Add (Tanh {inner}) 1))"), "(GeluTanh x)");
            check(&format!("(Mul 0.5 (Mul x (Add (Tanh {inner}) 1)))"), "(GeluTanh x)");
            check(&format!("(Mul x (Mul 0.5 (Add 1 (Tanh {inner}))))"), "(GeluTanh x)");
        }
    }

    #[test]
    fn other_tanhs_are_kept() {
        for inner in [
            "(Mul (Add x (Mul (Pow x 3) 0.05)) 0.7978846)",
            "(Mul (Add x (Mul (Pow x 2) 0.044715)) 0.7978846)",
            "(Mul (Add x (Mul (Mul (Mul x x) y) 0.044715)) 0.7978846)",
            "(Mul (Mul x 0.7978846) (Add (Mul (Mul x 0.05) x) 1))",
            "(Mul (Mul x 0.7978846) (Add (Mul (Mul x x) 0.044715) 2))",
        ] {
            let text = format!("(Mul (Mul x 0.5) (Add (Tanh {inner}) 1))");
            check(&text, &text);
        }
        let inner = "(Mul (Add x (Mul (Pow x 3) 0.044715)) 0.7978846)";
        for text in [
            format!("(Mul (Mul x 0.5) (Add (Tanh {inner}) 2))"),
            format!("(Mul (Mul x 0.25) (Add (Tanh {inner}) 1))"),
            format!("(Mul (Mul x (Add (Tanh {inner}) 1)) 0.25)"),
            format!("(Mul y (Mul (Add (Tanh {inner}) 1) 0.5))"),
        ] {
            check(&text, &text);
        }
    }
}
