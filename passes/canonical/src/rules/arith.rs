//! Rules that move no numbers: what does nothing, and shapes of shapes.

use qcc_tensor::Dim;

use super::{At, Literals, Rule, holds, rule};
use crate::canonicalize::term::list_text;

#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule("commute-add",        "(Add ?a ?b)",                 "(Add ?b ?a)"),
    rule("commute-mul",        "(Mul ?a ?b)",                 "(Mul ?b ?a)"),
    rule("drop-identity",      "(Identity ?x)",               "?x"),
    // At inference nothing is dropped. What trains is not encoded as this term.
    rule("drop-dropout",       "(Dropout ?x)",                "?x"),
    rule("drop-dropout-ratio", "(Dropout ?x ?ratio)",         "?x"),
    rule("drop-dropout-mode",  "(Dropout ?x ?ratio ?mode)",   "?x"),
    rule("drop-neg-neg",       "(Neg (Neg ?x))",              "?x"),
    rule("drop-mul-one",       "(Mul ?x ?c)",                 "?x").when(|at| holds(at.number("?c") == Some(1.0))),
    rule("drop-div-one",       "(Div ?x ?c)",                 "?x").when(|at| holds(at.number("?c") == Some(1.0))),
    rule("drop-cast-same",     "(Cast ?x ?to)",               "?x").when(is_same_dtype),
    rule("drop-reshape-same",  "(Reshape ?x ?s)",             "?x").when(is_same_shape),
    rule("join-reshapes",      "(Reshape (Reshape ?x ?s) ?t)", "(Reshape ?x ?t)").when(has_no_zero),
    rule("reshape-squeezed",   "(Reshape (Squeeze ?x ?s) ?t)", "(Reshape ?x ?t)").when(has_no_zero),
    rule("reshape-unsqueezed", "(Reshape (Unsqueeze ?x ?s) ?t)", "(Reshape ?x ?t)").when(has_no_zero),
    rule("drop-squeeze-unsqueeze", "(Squeeze (Unsqueeze ?x ?s) ?t)", "?x").when(are_same_axes),
    rule("drop-unsqueeze-squeeze", "(Unsqueeze (Squeeze ?x ?s) ?t)", "?x").when(are_same_axes),
    rule("drop-transpose-none", "(Transpose ?x ?p)",          "?x").when(is_in_order),
    rule("join-transposes",    "(Transpose (Transpose ?x ?p) ?q)", "(Transpose ?x ?r)").when(joined),
];

fn is_same_dtype(at: &At<'_>) -> Option<Literals> {
    let dtype = at.ty("?x").dtype()?;
    holds(at.number("?to") == Some(f64::from(dtype.onnx_code())))
}

/// All dimensions are known, or symbols that are equal.
fn is_same_shape(at: &At<'_>) -> Option<Literals> {
    let dims = at.ty("?x").shape()?;
    holds(Some(dims) == at.whole().shape() && !dims.contains(&Dim::Unknown))
}

/// A 0 in the shape would be a dimension of what is left out.
fn has_no_zero(at: &At<'_>) -> Option<Literals> {
    holds(!at.ints("?t")?.contains(&0))
}

/// Axes of both are counted in the same dimensions, those of the longer shape.
fn are_same_axes(at: &At<'_>) -> Option<Literals> {
    holds(at.ints("?s")? == at.ints("?t")?)
}

fn is_in_order(at: &At<'_>) -> Option<Literals> {
    holds(at.ints("?p")?.iter().zip(0..).all(|(&it, idx)| it == idx))
}

fn joined(at: &At<'_>) -> Option<Literals> {
    let (first, second) = (at.ints("?p")?, at.ints("?q")?);
    let pick = |it: &i64| first.get(usize::try_from(*it).ok()?).copied();
    let perm: Option<Vec<i64>> = second.iter().map(pick).collect();
    Some(vec![("?r", list_text(&perm?))])
}

#[cfg(test)]
mod tests {
    use crate::rules::check::check;

    #[test]
    fn what_does_nothing_goes() {
        check("(Relu (Identity x))", "(Relu x)");
        check("(Dropout x)", "x");
        check("(Dropout x 0.5)", "x");
        check("(Dropout x 0.5 0)", "x");
        check("(Neg (Neg x))", "x");
        check("(Mul 1 x)", "x");
        check("(Div x 1)", "x");
        check("(Cast x 1)", "x");
        check("(Reshape (Relu x) s)", "(Relu x)");
    }

    #[test]
    fn what_does_something_stays() {
        for text in ["(Relu x)", "(Neg x)", "(Mul x 2)", "(Div 1 x)", "(Add x 0)", "(Cast x 10)"] {
            check(text, text);
        }
        check("(Add y x)", "(Add y x)");
        check("(Mul y x)", "(Mul y x)");
    }

    #[test]
    fn only_the_last_shape_counts() {
        check("(Reshape (Reshape x z) j)", "(Reshape x j)");
        check("(Reshape (Squeeze x [0]) j)", "(Reshape x j)");
        check("(Reshape (Unsqueeze x [0]) j)", "(Reshape x j)");
    }

    #[test]
    fn zeros_in_a_shape_look_at_what_is_between() {
        check("(Reshape (Reshape x j) e)", "(Reshape (Reshape x j) e)");
        check("(Reshape (Squeeze x [0]) z)", "(Reshape (Squeeze x [0]) z)");
        check("(Reshape (Unsqueeze x [0]) z)", "(Reshape (Unsqueeze x [0]) z)");
    }

    #[test]
    fn axes_that_come_and_go() {
        check("(Squeeze (Unsqueeze x [0]) [0])", "x");
        check("(Unsqueeze (Squeeze x [1]) [1])", "x");
        check("(Squeeze (Unsqueeze x [0]) [1])", "(Squeeze (Unsqueeze x [0]) [1])");
        check("(Unsqueeze (Squeeze x [1]) [0])", "(Unsqueeze (Squeeze x [1]) [0])");
    }

    #[test]
    fn transposes_join() {
        check("(Transpose (Transpose x [0,2,1]) [0,2,1])", "x");
        check("(Transpose (Transpose x [1,2,0]) [1,0,2])", "(Transpose x [2,1,0])");
        check("(Transpose x [0,2,1])", "(Transpose x [0,2,1])");
    }
}
