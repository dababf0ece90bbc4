//! `lower-fused`: replaces fused operators of ONNX Runtime by operators of ONNX.
//!
//! For what knows the operators of ONNX only, as taking gradients does. Results are equal up to
//! the rounding of floats. Needs: types, for ranks and sizes of heads. Keeps: names and types of
//! results. Left alone, each with a note: forms that a rule does not know, results that it does
//! not make, and operators of a newer opset than the model has.
//! Source: ONNX Runtime docs/ContribOperators.md.

mod activations;
mod attention;
mod group_query;
mod norms;
mod products;
mod rotary;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, Attrs, Graph, Node, NodeId, Patch, Scope, Type, Value, text};
use qcc_ops::parse;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_tensor::{DType, Dim, Tensor};

/// The row of the table.
pub static INFO: PassInfo = PassInfo {
    name: "lower-fused",
    summary: "replace fused operators of ONNX Runtime by operators of ONNX",
    options: &[OptionInfo {
        name: "only",
        kind: OptionKind::Text,
        default: "",
        help: "names of the operators to replace, [a,b]; all when empty",
    }],
    run,
};

/// Domain of the operators.
const DOMAIN: &str = "com.microsoft";

/// How one operator is replaced.
struct Lowering {
    name: &'static str,
    /// Opset that knows what replaces it.
    since: i64,
    /// A value for each result that it makes, or why not.
    lower: fn(&mut Site<'_>) -> Result<Vec<Option<Value>>, String>,
}

/// Every operator, by theme.
const TABLES: &[&[Lowering]] = &[
    activations::TABLE,
    norms::TABLE,
    products::TABLE,
    rotary::TABLE,
    attention::TABLE,
    group_query::TABLE,
];

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let only = ctx.options.text("only").to_owned();
    let only: Vec<&str> =
        only.trim_matches(['[', ']']).split([',', ' ']).filter(|it| !it.is_empty()).collect();
    let mut patches = Vec::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        for id in inner.topo() {
            ctx.check_cancelled()?;
            let Some(node) = inner.node(id) else { continue };
            let Some(op) = node.op().filter(|it| it.domain() == DOMAIN) else { continue };
            let mut rows = TABLES.iter().flat_map(|it| it.iter());
            let Some(row) = rows.find(|it| it.name == op.name()) else { continue };
            if !only.is_empty() && !only.contains(&row.name) {
                continue;
            }
            let (code, why) = if row.since > ctx.session.opset {
                let text =
                    format!("opset {} is needed, the model has {}", row.since, ctx.session.opset);
                (codes::QCC0203, text)
            } else {
                match Site::new(&scope, inner, id, node).lower(row) {
                    Ok(patch) => {
                        patches.push(patch);
                        ctx.count("lower-fused.replaced", 1);
                        continue;
                    }
                    Err(why) => (codes::QCC0201, why),
                }
            };
            let name = inner.value_name(Value { node: id, slot: 0 });
            let text = format!("{} '{name}' is not lowered: {why}", row.name);
            ctx.note(Diagnostic::note(code, text));
        }
    }
    Ok(patches)
}

/// An operator that is replaced, and the patch that does it.
struct Site<'a> {
    graph: &'a Graph,
    id: NodeId,
    node: &'a Node,
    patch: Patch,
    /// With which names of new values begin.
    name: String,
}

impl<'a> Site<'a> {
    fn new(scope: &Scope, graph: &'a Graph, id: NodeId, node: &'a Node) -> Self {
        let mut patch = Patch::within(INFO.name, scope.clone());
        patch.at(id);
        let name = graph.value_name(Value { node: id, slot: 0 }).to_owned();
        Self { graph, id, node, patch, name }
    }

    fn lower(mut self, row: &Lowering) -> Result<Patch, String> {
        let made = (row.lower)(&mut self)?;
        let mut made = made.into_iter().chain(std::iter::repeat(None));
        for (slot, old) in self.graph.values_of(self.id).enumerate() {
            match made.next().flatten() {
                Some(new) => self.patch.replace(old, new),
                None if self.graph.n_uses(old) == 0 => {}
                None => return Err(format!("its result {slot} is read")),
            }
        }
        Ok(self.patch)
    }

    /// Whether anything reads a result.
    fn is_read(&self, slot: u32) -> bool {
        self.graph.n_uses(Value { node: self.id, slot }) > 0
    }

    /// A value as a result of its own, where the result is read: what is handed on unchanged
    /// cannot take its name.
    fn handed_on(&mut self, slot: u32, value: Value) -> Result<Option<Value>, String> {
        if self.is_read(slot) { self.plain("Identity", [value]).map(Some) } else { Ok(None) }
    }

    /// An operand, if it is there.
    fn input(&self, index: usize) -> Option<Value> {
        self.node.inputs.get(index).copied().flatten()
    }

    fn need(&self, index: usize) -> Result<Value, String> {
        self.input(index).ok_or_else(|| format!("its input {index} is absent"))
    }

    fn ty(&self, value: Value) -> &'a Type {
        self.graph.ty(value)
    }

    /// Rank of an operand.
    fn rank(&self, index: usize) -> Result<usize, String> {
        let rank = self.ty(self.need(index)?).rank();
        rank.ok_or_else(|| format!("the rank of its input {index} is not known"))
    }

    /// A dimension of an operand, the last ones counted from -1.
    fn dim(&self, index: usize, axis: isize) -> Result<usize, String> {
        let shape = self.ty(self.need(index)?).shape().unwrap_or_default();
        let at = if axis < 0 { shape.len().checked_add_signed(axis) } else { axis.try_into().ok() };
        let dim = at.and_then(|it| shape.get(it)).and_then(Dim::known);
        dim.ok_or_else(|| format!("dimension {axis} of its input {index} is not known"))
    }

    fn attr(&self, name: &str) -> Option<Attr> {
        let attrs = self.node.op().map(|it| it.attrs()).unwrap_or_default();
        attrs.into_iter().find(|it| it.0 == name).map(|it| it.1)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        match self.attr(name) {
            Some(Attr::Float(it)) => it,
            _ => default,
        }
    }

    fn int(&self, name: &str) -> i64 {
        match self.attr(name) {
            Some(Attr::Int(it)) => it,
            _ => 0,
        }
    }

    /// An operator of ONNX with one result.
    fn op(&mut self, name: &str, inputs: &[Option<Value>], attrs: Attrs) -> Result<Value, String> {
        let op = parse("", name, text::DEFAULT_OPSET, attrs).map_err(|it| it.to_string())?;
        let name = format!("{}/{name}", self.name);
        Ok(self.patch.op1(&name, op, Vec::from(inputs), Type::Unknown))
    }

    /// An operator without attributes, all of whose operands are there.
    fn plain<const N: usize>(&mut self, name: &str, inputs: [Value; N]) -> Result<Value, String> {
        self.op(name, &inputs.map(Some), Attrs::new())
    }

    fn ints(&mut self, values: &[i64]) -> Value {
        self.patch.constant(&format!("{}/ints", self.name), Tensor::vector(Vec::from(values)))
    }

    fn int_scalar(&mut self, value: i64) -> Value {
        self.patch.constant(&format!("{}/int", self.name), Tensor::scalar(value))
    }

    /// A number of the element type of an operand.
    fn number(&mut self, value: f32, like: Value) -> Result<Value, String> {
        let number = self.patch.constant(&format!("{}/number", self.name), Tensor::scalar(value));
        if self.ty(like).dtype() == Some(DType::F32) {
            return Ok(number);
        }
        self.plain("CastLike", [number, like])
    }

    fn reshape(&mut self, x: Value, shape: &[i64]) -> Result<Value, String> {
        let shape = self.ints(shape);
        self.plain("Reshape", [x, shape])
    }

    fn transpose(&mut self, x: Value, perm: &[i64]) -> Result<Value, String> {
        self.op("Transpose", &[Some(x)], vec![("perm".into(), Attr::Ints(perm.into()))])
    }

    /// Elements `from..to` along an axis.
    fn slice(&mut self, x: Value, axis: i64, from: i64, to: i64) -> Result<Value, String> {
        let bounds = [self.ints(&[from]), self.ints(&[to]), self.ints(&[axis])];
        self.plain("Slice", [x, bounds[0], bounds[1], bounds[2]])
    }

    /// The part of `x` at one index of an axis, which goes.
    fn pick(&mut self, x: Value, axis: i64, index: i64) -> Result<Value, String> {
        let index = self.int_scalar(index);
        self.op("Gather", &[Some(x), Some(index)], vec![("axis".into(), Attr::Int(axis))])
    }

    fn unsqueeze(&mut self, x: Value, axis: i64) -> Result<Value, String> {
        let axis = self.ints(&[axis]);
        self.plain("Unsqueeze", [x, axis])
    }

    fn concat(&mut self, parts: &[Value], axis: i64) -> Result<Value, String> {
        let parts: Vec<Option<Value>> = parts.iter().copied().map(Some).collect();
        self.op("Concat", &parts, vec![("axis".into(), Attr::Int(axis))])
    }

    /// A dimension of a value when it runs, a scalar.
    fn size(&mut self, x: Value, axis: i64) -> Result<Value, String> {
        let shape = self.plain("Shape", [x])?;
        self.pick(shape, 0, axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{graph, notes};

    #[test]
    fn rows_name_operators_once() {
        let mut names: Vec<&str> =
            TABLES.iter().flat_map(|it| it.iter()).map(|it| it.name).collect();
        for name in &names {
            assert!(qcc_ops::find(DOMAIN, name).is_some(), "{name}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn what_is_declined_says_why() {
        let text = "graph @g(%x: f32[2, 4], %w: f32[4], %u) -> (%y, %m, %p) {
          %y, %m = com.microsoft::SkipLayerNormalization(%x, %x, %w)
          %p = com.microsoft::FusedMatMul(%u, %w) {transA = 1}
        }";
        graph(text);
        assert_eq!(
            notes(text, "lower-fused"),
            [
                "SkipLayerNormalization 'y' is not lowered: its result 1 is read",
                "FusedMatMul 'p' is not lowered: the rank of its input 0 is not known",
            ]
        );
        let (_, record) = crate::testing::run_on(&graph(text), "lower-fused", 13);
        assert!(record.notes[0].message.ends_with("opset 17 is needed, the model has 13"));
    }
}
