//! Terms: the language in which rules are written.
//!
//! `(Swish ?x 1.5)`: an operator with its operands and then, for operators that rules look into,
//! its attributes as literals. Lower-case words are values that come from outside of the region.
//! An operator with attributes that no rule knows has them in its name, and is equal to itself
//! only. Names in [`MARKS`] are no operators: rules use them as names for parts of a form.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use egg::{Analysis, DidMerge, FromOp, FromOpError, Id, Language};
use qcc_ir::{Attr, Attrs, Input, OpRef, Type};
use qcc_ops::parse;
use qcc_tensor::{DType, Tensor};

/// Opset for which operators are made.
const OPSET: i64 = qcc_ir::text::DEFAULT_OPSET;

/// Parts of forms: `1 / sqrt(x)`, `x^2`, `x^3`, `x / rms(x)`, `1 + erf(x / sqrt(2))`,
/// `sqrt(2 / pi) * (x + 0.044715 x^3)`.
pub(crate) const MARKS: &[&str] =
    &["Rsqrt", "Square", "Cube", "MeanLast", "Rms", "OnePlusErf", "TanhInner", "OnePlusTanh"];

pub(crate) type EGraph = egg::EGraph<Term, Facts>;

/// A node of an e-graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term {
    /// A value from outside, or a literal.
    Leaf(Arc<str>),
    /// An operator.
    Op(Arc<str>, Vec<Id>),
}

impl Term {
    pub(crate) fn leaf(text: &str) -> Self {
        Self::Leaf(text.into())
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Leaf(it) | Self::Op(it, _) => it,
        }
    }
}

impl Language for Term {
    type Discriminant = Arc<str>;

    fn discriminant(&self) -> Arc<str> {
        match self {
            Self::Leaf(it) | Self::Op(it, _) => it.clone(),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(a), Self::Leaf(b)) => a == b,
            (Self::Op(a, x), Self::Op(b, y)) => a == b && x.len() == y.len(),
            _ => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Self::Leaf(_) => &[],
            Self::Op(_, children) => children,
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Self::Leaf(_) => &mut [],
            Self::Op(_, children) => children,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromOp for Term {
    type Error = FromOpError;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, FromOpError> {
        if op.starts_with(|it: char| it.is_ascii_uppercase()) {
            Ok(Self::Op(op.into(), children))
        } else if children.is_empty() {
            Ok(Self::leaf(op))
        } else {
            Err(FromOpError::new(op, children))
        }
    }
}

/// What is known of a class of equal terms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fact {
    pub(crate) ty: Type,
    /// The value of a constant.
    pub(crate) tensor: Option<Tensor>,
    /// One float that broadcasts without changing a shape.
    pub(crate) number: Option<f64>,
    /// A literal list, or the elements of a constant of few integers.
    pub(crate) ints: Option<Vec<i64>>,
}

/// Facts about what comes from outside of the e-graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) leaves: BTreeMap<Arc<str>, Fact>,
    /// Operators by the name of their terms.
    pub(crate) ops: BTreeMap<Arc<str>, OpRef>,
}

impl Analysis<Term> for Facts {
    type Data = Fact;

    fn make(egraph: &mut EGraph, term: &Term, _: Id) -> Fact {
        match term {
            Term::Leaf(name) => {
                egraph.analysis.leaves.get(name).cloned().unwrap_or_else(|| literal(name))
            }
            Term::Op(..) => Fact { ty: infer(egraph, term), ..Fact::default() },
        }
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        let ty = a.ty.meet(&b.ty).unwrap_or_else(|| a.ty.clone());
        let has = |it: &Fact| [it.tensor.is_some(), it.number.is_some(), it.ints.is_some()];
        let (before, other) = (has(a), has(&b));
        let other_ty = b.ty != ty;
        let mine_ty = a.ty != ty;
        a.ty = ty;
        a.tensor = a.tensor.take().or(b.tensor);
        a.number = a.number.or(b.number);
        a.ints = a.ints.take().or(b.ints);
        let now = has(a);
        DidMerge(mine_ty || before != now, other_ty || other != now)
    }
}

/// What a literal says: `0.5`, `[1,0]`.
fn literal(text: &str) -> Fact {
    let list = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let ints = list.map(|it| it.split(',').filter_map(|it| it.parse().ok()).collect());
    Fact { number: text.parse().ok(), ints, ..Fact::default() }
}

/// A list as a literal.
pub(crate) fn list_text(list: &[i64]) -> String {
    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
    format!("[{}]", words.join(","))
}

fn infer(egraph: &EGraph, term: &Term) -> Type {
    let Some((op, count)) = make_op(egraph, term) else { return Type::Unknown };
    let Some(operands) = term.children().get(..count) else { return Type::Unknown };
    let inputs: Vec<Option<Input<'_>>> = operands
        .iter()
        .map(|&id| {
            let class = &egraph[id];
            let is_absent = class.nodes.iter().any(|it| it.name() == "_");
            let fact = &class.data;
            (!is_absent).then_some(Input { ty: &fact.ty, value: fact.tensor.as_ref() })
        })
        .collect();
    op.infer(&inputs, 1).ok().and_then(|it| it.into_iter().next()).unwrap_or_default()
}

/// The operator that a term stands for, and how many of its children are operands. `None` for the
/// names of parts, and for operators that no rule makes and that are not in the graph.
pub(crate) fn make_op(egraph: &EGraph, term: &Term) -> Option<(OpRef, usize)> {
    let Term::Op(name, children) = term else { return None };
    if let Some(op) = egraph.analysis.ops.get(name) {
        return Some((op.clone(), children.len()));
    }
    if MARKS.contains(&&**name) {
        return None;
    }
    let fact = |idx: usize| children.get(idx).map(|&id| &egraph[id].data);
    let float = |idx: usize| Some(Attr::Float(fact(idx)?.number? as f32));
    let int = |idx: usize| Some(Attr::Int(fact(idx)?.number? as i64));
    let named = |name: &str, attr: Attr| (name.to_owned(), attr);
    let (op, count, attrs): (&str, usize, Attrs) = match (&**name, children.len()) {
        ("Transpose", 2) => (name, 1, vec![named("perm", Attr::Ints(fact(1)?.ints.clone()?))]),
        ("Swish", 2) => (name, 1, vec![named("alpha", float(1)?)]),
        ("GeluTanh", 1) => ("Gelu", 1, vec![named("approximate", "tanh".into())]),
        ("RMSNormalization" | "LayerNormalization", len @ 4..=5) => {
            let axis = named("axis", int(len - 2)?);
            (name, len - 2, vec![axis, named("epsilon", float(len - 1)?)])
        }
        ("Gemm", len @ 6..=7) => {
            let factors = [named("alpha", float(len - 4)?), named("beta", float(len - 3)?)];
            let turns = [named("transA", int(len - 2)?), named("transB", int(len - 1)?)];
            (name, len - 4, factors.into_iter().chain(turns).collect())
        }
        ("FusedMatMul", 5) => {
            let turns = [named("transA", int(3)?), named("transB", int(4)?)];
            (name, 2, [named("alpha", float(2)?)].into_iter().chain(turns).collect())
        }
        ("Cast" | "ReduceMean" | "Dropout", _) => return None,
        _ => (name, children.len(), Attrs::new()),
    };
    let domain = if &**name == "FusedMatMul" { "com.microsoft" } else { "" };
    let op = parse(domain, op, OPSET, attrs).ok()?;
    op.is_pure().then_some((op, count))
}

/// Types that forms are raised for: operators for whole forms compute in `f32`.
pub(crate) fn is_short_float(ty: &Type) -> bool {
    matches!(ty.dtype(), Some(DType::F32 | DType::F16 | DType::BF16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egg::RecExpr;

    fn fact(text: &str) -> Fact {
        let mut egraph = EGraph::new(Facts::default());
        let x = Fact { ty: Type::tensor(DType::F32, [2usize, 3]), ..Fact::default() };
        egraph.analysis.leaves.insert("x".into(), x);
        let term: RecExpr<Term> = text.parse().unwrap();
        let id = egraph.add_expr(&term);
        egraph[id].data.clone()
    }

    #[test]
    fn types_follow_terms() {
        assert_eq!(fact("(Transpose x [1,0])").ty.to_string(), "f32[3, 2]");
        assert_eq!(fact("(MatMul x (Swish (Transpose x [1,0]) 1))").ty.to_string(), "f32[2, 2]");
        assert_eq!(fact("(Rsqrt x)").ty, Type::Unknown);
    }

    #[test]
    fn literals_have_values() {
        assert_eq!(fact("-0.5").number, Some(-0.5));
        assert_eq!(fact("[1,-2]").ints, Some(vec![1, -2]));
        assert_eq!(fact("y").number, None);
        assert_eq!(list_text(&[1, -2]), "[1,-2]");
    }

    #[test]
    fn values_take_no_operands() {
        assert!("(x y)".parse::<RecExpr<Term>>().is_err());
    }
}
