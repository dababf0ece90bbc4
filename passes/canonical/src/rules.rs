//! The rules of `canonicalize`, one table a theme.
//!
//! A rule replaces a term by an equal one: exactly equal, or equal up to the rounding of floats.
//! What its pattern cannot say is asked in `when`, from what is known of the values, and never
//! guessed.

mod activation;
mod arith;
#[cfg(test)]
mod check;
mod norm;
mod weight;

use egg::{Applier, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};
use qcc_ir::Type;
use qcc_pass::PassError;
use qcc_tensor::DType;

use crate::canonicalize::term::{EGraph, Fact, Facts, MARKS, Term};

/// Literals for variables that only the right side of a rule has.
type Literals = Vec<(&'static str, String)>;

/// Whether a rule holds where its left side was found.
type When = fn(&At<'_>) -> Option<Literals>;

/// How equal the two sides of a rule are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Equal {
    /// Bit by bit, but for the payload of NaN.
    Exactly,
    /// Up to the rounding of floats.
    Nearly,
}

/// One rule.
pub(crate) struct Rule {
    /// What it does; unique.
    pub(crate) name: &'static str,
    pub(crate) equal: Equal,
    /// Opset that knows all operators of the right side.
    pub(crate) since: i64,
    left: &'static str,
    right: &'static str,
    /// Whether it holds, and literals for variables that only the right side has.
    when: When,
}

/// All rules.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    [arith::RULES, weight::RULES, norm::RULES, activation::RULES].into_iter().flatten()
}

/// A rule that holds wherever its left side does, exactly.
const fn rule(name: &'static str, left: &'static str, right: &'static str) -> Rule {
    Rule { name, equal: Equal::Exactly, since: 1, left, right, when: always }
}

fn always(_: &At<'_>) -> Option<Literals> {
    Some(Vec::new())
}

/// A condition without literals.
fn holds(it: bool) -> Option<Literals> {
    it.then(Vec::new)
}

impl Rule {
    const fn nearly(self) -> Self {
        Self { equal: Equal::Nearly, ..self }
    }

    const fn since(self, since: i64) -> Self {
        Self { since, ..self }
    }

    const fn when(self, when: When) -> Self {
        Self { when, ..self }
    }

    /// Whether it makes nothing of its own: it turns operands around, or names a part of a form.
    pub(crate) fn is_helper(&self) -> bool {
        let is_mark = |it: &str| self.right.starts_with(&format!("({it} "));
        self.name.starts_with("commute-") || MARKS.iter().any(|it| is_mark(it))
    }

    /// The operator at which its left side begins.
    pub(crate) fn head(&self) -> &'static str {
        self.left.trim_start_matches('(').split(' ').next().unwrap_or_default()
    }

    /// The rule as egg runs it.
    ///
    /// # Errors
    /// When it is written wrongly, which a test checks for all of them.
    pub(crate) fn compile(&self) -> Result<Rewrite<Term, Facts>, PassError> {
        let wrong = |it: &str| PassError::internal(format!("rule '{}': {it}", self.name));
        let left: Pattern<Term> = self.left.parse().map_err(|it| wrong(&format!("{it}")))?;
        let right: Pattern<Term> = self.right.parse().map_err(|it| wrong(&format!("{it}")))?;
        Rewrite::new(self.name, left, Guarded { right, when: self.when }).map_err(|it| wrong(&it))
    }
}

struct Guarded {
    right: Pattern<Term>,
    when: When,
}

impl Applier<Term, Facts> for Guarded {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        class: Id,
        subst: &Subst,
        searcher: Option<&PatternAst<Term>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let Some(literals) = (self.when)(&At { egraph, class, subst }) else { return Vec::new() };
        let mut subst = subst.clone();
        for (name, text) in literals {
            let Ok(var) = name.parse::<Var>() else { return Vec::new() };
            let id = egraph.add(Term::leaf(&text));
            subst.insert(var, id);
        }
        self.right.apply_one(egraph, class, &subst, searcher, rule)
    }
}

/// Where a left side was found.
struct At<'a> {
    egraph: &'a EGraph,
    class: Id,
    subst: &'a Subst,
}

impl At<'_> {
    fn fact(&self, name: &str) -> Option<&Fact> {
        let id = *self.subst.get(name.parse().ok()?)?;
        Some(&self.egraph[id].data)
    }

    /// Type of a variable.
    fn ty(&self, name: &str) -> &Type {
        static UNKNOWN: Type = Type::Unknown;
        self.fact(name).map_or(&UNKNOWN, |it| &it.ty)
    }

    /// Type of the whole.
    fn whole(&self) -> &Type {
        &self.egraph[self.class].data.ty
    }

    /// The number of a literal, or of a constant that broadcasts without changing a shape.
    fn number(&self, name: &str) -> Option<f64> {
        self.fact(name)?.number
    }

    /// Whether a variable is this number, as far as its element type can tell.
    fn is(&self, name: &str, want: f64) -> bool {
        let (bits, slack) = match self.ty(name).dtype() {
            Some(DType::F16) => (11, 1.0),
            Some(DType::BF16) => (8, 1.0),
            // Exporters compute such constants in f32, or write them with seven digits.
            _ => (24, 16.0),
        };
        let bound = slack * want.abs() * f64::from(-bits).exp2();
        self.number(name).is_some_and(|it| (it - want).abs() <= bound)
    }

    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.fact(name)?.ints.as_deref()
    }

    fn is_const(&self, name: &str) -> bool {
        self.fact(name).is_some_and(|it| it.tensor.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rules_are_written_right_and_have_their_own_names() {
        let mut names = BTreeSet::new();
        for rule in all() {
            rule.compile().unwrap();
            assert!(names.insert(rule.name), "{} is there twice", rule.name);
        }
    }
}
