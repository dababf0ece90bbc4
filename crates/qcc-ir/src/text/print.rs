//! The printer.
//!
//! It prints every graph, also one that the verifier refuses, since it is needed most then: a
//! value without a name or that does not exist is written `%<n3.0>`, and nodes on a cycle come
//! last. Neither reads back.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use bytes::Bytes;
use qcc_tensor::DType;

use super::element::Part;
use super::quote::{Hex, Name, Quoted, Word};
use super::tensor::{TensorText, list};
use crate::{Attr, Graph, Kind, Node, NodeId, Op, Region, Type, Value};

/// What the printer may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// Writes the bytes of all constants, so that the text stands alone. Otherwise those of more
    /// than 64 elements are named by their range of a file, or by their hash alone when they lie
    /// in none.
    pub inline_all: bool,
}

/// The text of a graph.
pub fn print(graph: &Graph) -> String {
    print_with(graph, &PrintOptions::default())
}

/// The text of a graph, with options.
pub fn print_with(graph: &Graph, options: &PrintOptions) -> String {
    ModuleText { graph, options }.to_string() + "\n"
}

/// Writes the text of a graph, with a line end behind it.
///
/// # Errors
/// When `out` cannot be written to.
pub fn write(out: &mut dyn fmt::Write, graph: &Graph, options: &PrintOptions) -> fmt::Result {
    writeln!(out, "{}", ModuleText { graph, options })
}

/// The text of the operator of a node with its attributes and regions, without operands, captures,
/// results and the name of the node; empty for a node that is none.
pub fn operator(graph: &Graph, id: NodeId) -> String {
    OperatorText(graph, id).to_string()
}

struct OperatorText<'a>(&'a Graph, NodeId);

impl Display for OperatorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(node) = self.0.node(self.1) else { return Ok(()) };
        let Some(op) = node.op() else { return Ok(()) };
        op_name(f, op.domain(), op.name())?;
        let options = &PrintOptions::default();
        let text = GraphText { graph: self.0, options, outer: None, indent: 0 };
        text.attributes(f, &**op, &node.regions)
    }
}

/// The text form, without a line end behind it.
impl Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &PrintOptions::default();
        ModuleText { graph: self, options }.fmt(f)
    }
}

/// A graph with its functions before it.
struct ModuleText<'a> {
    graph: &'a Graph,
    options: &'a PrintOptions,
}

impl Display for ModuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        for function in self.graph.functions().iter() {
            f.write_str("function ")?;
            op_name(f, &function.domain, &function.name)?;
            f.write_str(" {")?;
            for (idx, (name, default)) in function.attrs.iter().enumerate() {
                separate(f, idx)?;
                Word(name).fmt(f)?;
                if let Some(attr) = default {
                    write!(f, " = {}", AttrText { attr, options })?;
                }
            }
            f.write_str("} imports {")?;
            for (idx, (domain, version)) in function.imports.iter().enumerate() {
                separate(f, idx)?;
                write!(f, "{} = {version}", Quoted(domain.as_bytes()))?;
            }
            let graph = &function.body;
            writeln!(f, "}} {}", GraphText { graph, options, outer: None, indent: 0 })?;
        }
        GraphText { graph: self.graph, options, outer: None, indent: 0 }.fmt(f)
    }
}

struct GraphText<'a> {
    graph: &'a Graph,
    options: &'a PrintOptions,
    /// The graph around a region, and which of its values the region captures.
    outer: Option<(&'a Graph, &'a [Value])>,
    indent: usize,
}

impl Display for GraphText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let graph = self.graph;
        write!(f, "graph {}", Name('@', graph.name()))?;
        if !graph.captures().is_empty() {
            f.write_str(" captures(")?;
            for (idx, &id) in graph.captures().iter().enumerate() {
                self.capture(f, idx, id)?;
            }
            f.write_str(") ")?;
        }
        f.write_str("(")?;
        for (idx, &id) in graph.inputs().iter().enumerate() {
            separate(f, idx)?;
            self.typed(f, Value { node: id, slot: 0 })?;
            if let Some(Kind::Input(Some(tensor))) = graph.node(id).map(|it| &it.kind) {
                write!(f, " = default {}", TensorText { tensor, options: self.options })?;
            }
        }
        f.write_str(") -> (")?;
        for (idx, &value) in graph.outputs().iter().enumerate() {
            separate(f, idx)?;
            self.typed(f, value)?;
        }
        f.write_str(") {")?;
        let order = graph.topo();
        let outputs: BTreeSet<Value> = graph.outputs().iter().copied().collect();
        for &id in &order {
            self.statement(f, &outputs, id)?;
        }
        if order.len() < graph.len() {
            write!(f, "\n{:1$}// on a cycle, or reads what is not there:", "", self.indent + 2)?;
            let sorted: BTreeSet<NodeId> = order.into_iter().collect();
            for (id, _) in graph.nodes().filter(|it| !sorted.contains(&it.0)) {
                self.statement(f, &outputs, id)?;
            }
        }
        write!(f, "\n{:1$}}}", "", self.indent)
    }
}

impl GraphText<'_> {
    /// `%inner: f32[2] = %outer`, or `%w: f32[2]` when both have one name.
    fn capture(&self, f: &mut fmt::Formatter<'_>, idx: usize, id: NodeId) -> fmt::Result {
        let inner = Value { node: id, slot: 0 };
        separate(f, idx)?;
        self.typed(f, inner)?;
        match self.outer.and_then(|(outer, values)| Some((outer, *values.get(idx)?))) {
            None => f.write_str(" = %<none>"),
            Some((outer, value))
                if outer.value_name(value) == self.graph.value_name(inner)
                    && !outer.value_name(value).is_empty() =>
            {
                Ok(())
            }
            Some((outer, value)) => write!(f, " = {}", Operand(outer, value)),
        }
    }

    fn statement(
        &self,
        f: &mut fmt::Formatter<'_>,
        outputs: &BTreeSet<Value>,
        id: NodeId,
    ) -> fmt::Result {
        let Some(node) = self.graph.node(id) else { return Ok(()) };
        let (op, tensor) = match &node.kind {
            Kind::Input(_) | Kind::Capture => return Ok(()), // in the head
            Kind::Const(tensor) => (None, Some(tensor)),
            Kind::Op(op) => (Some(op), None),
        };
        write!(f, "\n{:1$}", "", self.indent + 2)?;
        if node.outputs.is_empty() {
            f.write_str("()")?;
        }
        for (idx, value) in self.graph.values_of(id).enumerate() {
            separate(f, idx)?;
            let name = self.graph.value_name(value);
            match &node.kind {
                Kind::Op(_) if name.is_empty() => f.write_str("_")?,
                _ => Name('%', name).fmt(f)?,
            }
            // The type of an output stands in the head, that of a constant behind `const`.
            if tensor.is_none() && !outputs.contains(&value) {
                annotation(f, self.graph.ty(value))?;
            }
        }
        f.write_str(" = ")?;
        if let Some(tensor) = tensor {
            write!(f, "const {}", TensorText { tensor, options: self.options })?;
        }
        if let Some(op) = op {
            self.op(f, node, &**op)?;
        }
        Ok(())
    }

    fn op(&self, f: &mut fmt::Formatter<'_>, node: &Node, op: &dyn Op) -> fmt::Result {
        op_name(f, op.domain(), op.name())?;
        f.write_str("(")?;
        for (idx, input) in node.inputs.iter().enumerate() {
            separate(f, idx)?;
            match input {
                Some(value) => Operand(self.graph, *value).fmt(f)?,
                None => f.write_str("_")?,
            }
        }
        f.write_str(")")?;
        self.attributes(f, op, &node.regions)?;
        if node.name.is_empty() { Ok(()) } else { write!(f, " {}", Name('@', &node.name)) }
    }

    /// Attributes on the line of the node; with regions, each on a line of its own.
    fn attributes(
        &self,
        f: &mut fmt::Formatter<'_>,
        op: &dyn Op,
        regions: &[Region],
    ) -> fmt::Result {
        let attrs = op.attrs();
        if attrs.is_empty() && regions.is_empty() {
            return Ok(());
        }
        let indent = self.indent + 4;
        let begin = |f: &mut fmt::Formatter<'_>, idx: usize| match (regions.is_empty(), idx) {
            (true, 0) => Ok(()),
            (true, _) => f.write_str(", "),
            (false, 0) => write!(f, "\n{:indent$}", ""),
            (false, _) => write!(f, ",\n{:indent$}", ""),
        };
        f.write_str(" {")?;
        for (idx, (name, attr)) in attrs.iter().enumerate() {
            begin(f, idx)?;
            write!(f, "{} = {}", Word(name), AttrText { attr, options: self.options })?;
        }
        for (idx, region) in regions.iter().enumerate() {
            begin(f, attrs.len() + idx)?;
            let (graph, options) = (&region.graph, self.options);
            let outer = Some((self.graph, &*region.captures));
            let text = GraphText { graph, options, outer, indent };
            write!(f, "{} = {text}", Word(&region.attr))?;
        }
        if !regions.is_empty() {
            write!(f, "\n{:1$}", "", self.indent + 2)?;
        }
        f.write_str("}")
    }

    fn typed(&self, f: &mut fmt::Formatter<'_>, value: Value) -> fmt::Result {
        let is_leaf = self.graph.node(value.node).is_some_and(|it| it.op().is_none());
        match self.graph.value_name(value) {
            "" if is_leaf => Name('%', "").fmt(f)?,
            _ => Operand(self.graph, value).fmt(f)?,
        }
        annotation(f, self.graph.ty(value))
    }
}

/// `domain::name`, or `name` in the default domain.
fn op_name(f: &mut fmt::Formatter<'_>, domain: &str, name: &str) -> fmt::Result {
    if !domain.is_empty() {
        write!(f, "{}::", Word(domain))?;
    }
    match name {
        "const" if domain.is_empty() => Quoted(b"const").fmt(f),
        name => Word(name).fmt(f),
    }
}

fn separate(f: &mut fmt::Formatter<'_>, idx: usize) -> fmt::Result {
    if idx > 0 { f.write_str(", ") } else { Ok(()) }
}

fn annotation(f: &mut fmt::Formatter<'_>, ty: &Type) -> fmt::Result {
    if *ty == Type::Unknown { Ok(()) } else { write!(f, ": {ty}") }
}

/// A value where it is read.
struct Operand<'a>(&'a Graph, Value);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.value_name(self.1) {
            "" => write!(f, "%<{:?}>", self.1),
            name => Name('%', name).fmt(f),
        }
    }
}

struct AttrText<'a> {
    attr: &'a Attr,
    options: &'a PrintOptions,
}

impl Display for AttrText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        let float = |it: &f32| Part(DType::F32, u64::from(it.to_bits()));
        let quoted = |it: &'_ Bytes| Quoted(it).to_string();
        match self.attr {
            Attr::Int(it) => write!(f, "{it}"),
            Attr::Float(it) => float(it).fmt(f),
            Attr::Str(it) => Quoted(it).fmt(f),
            Attr::Tensor(tensor) => write!(f, "tensor {}", TensorText { tensor, options }),
            Attr::Ref(it) => write!(f, "ref {}", Word(it)),
            Attr::Raw(it) => write!(f, "raw \"{}\"", Hex(it)),
            // An empty list does not tell what it is a list of.
            Attr::Ints(it) => {
                f.write_str(if it.is_empty() { "ints " } else { "" })?;
                list(f, it)
            }
            Attr::Floats(it) => {
                f.write_str(if it.is_empty() { "floats " } else { "" })?;
                list(f, it.iter().map(float))
            }
            Attr::Strs(it) => {
                f.write_str(if it.is_empty() { "strs " } else { "" })?;
                list(f, it.iter().map(quoted))
            }
            Attr::Tensors(it) => {
                f.write_str("tensors ")?;
                list(f, it.iter().map(|tensor| TensorText { tensor, options }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qcc_tensor::{Dim, Tensor};

    use super::*;
    use crate::{Attrs, GraphBuilder, OpRef, Opaque, Output};

    fn op(domain: &str, name: &str, attrs: Attrs) -> OpRef {
        Arc::new(Opaque { domain: domain.into(), name: name.into(), attrs })
    }

    #[test]
    fn nodes_types_and_attributes() {
        let mut builder = GraphBuilder::new("main");
        let ty = Type::tensor(DType::F32, [Dim::symbol("batch"), Dim::Known(2)]);
        let x = builder.input("x", ty.clone(), None);
        let ids = Type::tensor(DType::I64, [Dim::Unknown]);
        builder.input("ids", ids, Some(Tensor::vector(vec![1i64, 2])));
        let w = builder.constant("a weight", Tensor::vector(vec![0.5f32, f32::INFINITY]));
        let attrs = vec![
            ("alpha".into(), Attr::Float(1.0)),
            ("to".into(), Attr::Int(-1)),
            ("mode".into(), Attr::from("linear")),
            ("axes".into(), Attr::Ints(vec![])),
            ("scales".into(), Attr::Floats(vec![1.0, f32::NAN])),
            ("keys".into(), Attr::Strs(vec![Bytes::from_static(b"\xff")])),
            ("value".into(), Attr::Tensor(Tensor::scalar(3i64))),
            ("values".into(), Attr::Tensors(vec![Tensor::scalar(0.5f32)])),
            ("type 1".into(), Attr::Raw(Bytes::from_static(&[1, 0xab]))),
        ];
        let s = Output::new("s", ty.clone());
        let mixed = builder.op(
            "/mix/Mix",
            op("", "Mix", attrs),
            vec![Some(x), None, Some(w)],
            vec![s, Output::default()],
        );
        let s = Value { node: mixed, slot: 0 };
        let y = builder.op(
            "",
            op("com.microsoft", "Gelu", vec![]),
            vec![Some(s)],
            vec![Output::new("y", ty)],
        );
        builder.set_outputs(vec![Value { node: y, slot: 0 }]);
        assert_eq!(operator(builder.graph(), y), "com.microsoft::Gelu");
        assert_eq!(operator(builder.graph(), w.node), "");
        assert!(operator(builder.graph(), mixed).starts_with("Mix {alpha = 1.0, to = -1, "));
        insta::assert_snapshot!(builder.finish().unwrap(), @r#"
        graph @main(%x: f32[batch, 2], %ids: i64[?] = default i64[2] [1, 2]) -> (%y: f32[batch, 2]) {
          %"a weight" = const f32[2] [0.5, inf]
          %s: f32[batch, 2], _ = Mix(%x, _, %"a weight") {alpha = 1.0, to = -1, mode = "linear", axes = ints [], scales = [1.0, nan], keys = ["\xff"], value = tensor i64[] [3], values = tensors [f32[] [0.5]], "type 1" = raw "01ab"} @/mix/Mix
          %y = com.microsoft::Gelu(%s)
        }
        "#);
    }

    #[test]
    fn regions_list_what_they_capture() {
        let mut body = GraphBuilder::new("then");
        let ty = Type::tensor(DType::F32, [2usize]);
        let w = body.capture("w", ty.clone());
        let inner = body.capture("inner", ty.clone());
        let t = body.op(
            "",
            op("", "Add", vec![]),
            vec![Some(w), Some(inner)],
            vec![Output::new("t", ty.clone())],
        );
        body.set_outputs(vec![Value { node: t, slot: 0 }]);
        let graph = body.finish().unwrap();

        let mut builder = GraphBuilder::new("main");
        let c = builder.input("c", Type::tensor(DType::Bool, [0usize; 0]), None);
        let w = builder.constant("w", Tensor::vector(vec![1.0f32, 2.0]));
        let x = builder.constant("x", Tensor::vector(vec![3.0f32, 4.0]));
        let attrs = vec![("note".into(), Attr::from("here"))];
        let id = builder.op("if", op("", "If", attrs), vec![Some(c)], vec![Output::new("y", ty)]);
        let captures = vec![w, x];
        builder.set_regions(id, vec![Region { attr: "then_branch".into(), graph, captures }]);
        builder.set_outputs(vec![Value { node: id, slot: 0 }]);
        insta::assert_snapshot!(builder.finish().unwrap(), @r#"
        graph @main(%c: bool[]) -> (%y: f32[2]) {
          %w = const f32[2] [1.0, 2.0]
          %x = const f32[2] [3.0, 4.0]
          %y = If(%c) {
            note = "here",
            then_branch = graph @then captures(%w: f32[2], %inner: f32[2] = %x) () -> (%t: f32[2]) {
              %t = Add(%w, %inner)
            }
          } @if
        }
        "#);
    }

    #[test]
    fn broken_graphs_are_printed_too() {
        let mut builder = GraphBuilder::new("broken");
        let unnamed = builder.input("", Type::Unknown, None);
        let a = builder.op("", op("", "A", vec![]), vec![], vec![Output::new("a", Type::Unknown)]);
        let gone = Value { node: a, slot: 7 };
        let inputs = vec![Some(unnamed), Some(gone), Some(Value { node: a, slot: 0 })];
        builder.set_inputs(a, inputs);
        builder.set_outputs(vec![gone]);
        insta::assert_snapshot!(builder.graph(), @r#"
        graph @broken(%"") -> (%<n1.7>) {
          // on a cycle, or reads what is not there:
          %a = A(%<n0.0>, %<n1.7>, %a)
        }
        "#);
    }
}
