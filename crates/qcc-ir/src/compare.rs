//! Comparing graphs.

use std::fmt::Debug;

use crate::{Attr, Function, Graph, Kind, Node, NodeId, Op, Region, Value};

impl Graph {
    /// Whether two graphs are the same: names, inputs, outputs, nodes in topological order with
    /// their operators, attributes, operands and regions, types, and the contents of constants.
    /// Ids, places as numbers and where the bytes of constants lie do not count.
    ///
    /// Floats are compared as bits, so a NaN equals itself and 0.0 is not -0.0.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn same_as(&self, other: &Self) -> Result<(), String> {
        same("name", &self.name(), &other.name())?;
        let (a, b) = (Numbered::of(self), Numbered::of(other));
        same("number of inputs", &self.inputs().len(), &other.inputs().len())?;
        same("number of captures", &self.captures().len(), &other.captures().len())?;
        same("number of nodes", &a.order.len(), &b.order.len())?;
        for (&left, &right) in a.order.iter().zip(&b.order) {
            let (Some(left), Some(right)) = (self.node(left), other.node(right)) else { continue };
            same_node(&a, left, &b, right).map_err(|it| format!("{}: {it}", label(left)))?;
        }
        if a.values(self.outputs()) != b.values(other.outputs()) {
            let names = |it: &Self| -> Vec<String> {
                it.outputs().iter().map(|&value| it.value_name(value).to_owned()).collect()
            };
            return same("outputs", &names(self), &names(other))
                .and(Err("the outputs differ".into()));
        }
        same("number of functions", &self.functions().len(), &other.functions().len())?;
        for (left, right) in self.functions().iter().zip(other.functions().iter()) {
            same_function(left, right).map_err(|it| format!("function '{}': {it}", left.name))?;
        }
        Ok(())
    }
}

fn same_function(left: &Function, right: &Function) -> Result<(), String> {
    same("domain", &left.domain, &right.domain)?;
    same("name", &left.name, &right.name)?;
    same("imports", &left.imports, &right.imports)?;
    let names = |it: &Function| {
        it.attrs.iter().map(|it| (it.0.clone(), it.1.is_some())).collect::<Vec<_>>()
    };
    same("attributes", &names(left), &names(right))?;
    for ((name, x), (_, y)) in left.attrs.iter().zip(&right.attrs) {
        if !x.iter().zip(y).all(|(x, y)| same_attr(x, y)) {
            return Err(format!("the attribute '{name}' differs"));
        }
    }
    left.body.same_as(&right.body)
}

/// The nodes of a graph in the order in which they are compared.
struct Numbered {
    order: Vec<NodeId>,
    /// Position in `order` by id.
    position: Vec<Option<usize>>,
}

impl Numbered {
    /// Inputs and captures first, since other nodes may stand between them; nodes on a cycle last.
    fn of(graph: &Graph) -> Self {
        let mut it = Self { order: Vec::new(), position: vec![None; graph.id_bound()] };
        let ids = graph.inputs().iter().chain(graph.captures()).copied();
        for id in ids.chain(graph.topo()).chain(graph.nodes().map(|it| it.0)) {
            if let Some(position @ None) = it.position.get_mut(id.index()) {
                *position = Some(it.order.len());
                it.order.push(id);
            }
        }
        it
    }

    /// Values as position of the node and slot; `None` for one that does not exist.
    fn values(&self, values: &[Value]) -> Vec<Option<(usize, u32)>> {
        values.iter().map(|it| self.value(*it)).collect()
    }

    fn value(&self, value: Value) -> Option<(usize, u32)> {
        self.position.get(value.node.index()).copied().flatten().map(|it| (it, value.slot))
    }
}

fn same_node(a: &Numbered, left: &Node, b: &Numbered, right: &Node) -> Result<(), String> {
    same("name of the node", &left.name, &right.name)?;
    same("number of outputs", &left.outputs.len(), &right.outputs.len())?;
    for (x, y) in left.outputs.iter().zip(&right.outputs) {
        same("name", &x.name, &y.name)?;
        if x.ty != y.ty {
            return Err(format!("type of '{}': {} and {}", x.name, x.ty, y.ty));
        }
    }
    match (&left.kind, &right.kind) {
        (Kind::Input(x), Kind::Input(y)) if x != y => Err("the defaults differ".to_owned())?,
        (Kind::Const(x), Kind::Const(y)) if x != y => Err("the contents differ".to_owned())?,
        (Kind::Op(x), Kind::Op(y)) => same_op(&**x, &**y)?,
        (Kind::Input(_), Kind::Input(_))
        | (Kind::Const(_), Kind::Const(_))
        | (Kind::Capture, Kind::Capture) => {}
        _ => Err("the kinds of nodes differ".to_owned())?,
    }
    let operands = |it: &Numbered, node: &Node| -> Vec<Option<Option<(usize, u32)>>> {
        node.inputs.iter().map(|operand| operand.map(|value| it.value(value))).collect()
    };
    if operands(a, left) != operands(b, right) {
        return Err("the operands differ".to_owned());
    }
    same("number of regions", &left.regions.len(), &right.regions.len())?;
    for (x, y) in left.regions.iter().zip(&right.regions) {
        same_region(a, x, b, y).map_err(|it| format!("{}: {it}", x.attr))?;
    }
    Ok(())
}

fn same_region(a: &Numbered, left: &Region, b: &Numbered, right: &Region) -> Result<(), String> {
    same("attribute of the region", &left.attr, &right.attr)?;
    if a.values(&left.captures) != b.values(&right.captures) {
        return Err("the captured values differ".to_owned());
    }
    left.graph.same_as(&right.graph)
}

fn same_op(left: &dyn Op, right: &dyn Op) -> Result<(), String> {
    same("domain", &left.domain(), &right.domain())?;
    same("operator", &left.name(), &right.name())?;
    let (x, y) = (left.attrs(), right.attrs());
    let names = |it: &[(String, Attr)]| it.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
    same("attributes", &names(&x), &names(&y))?;
    for ((name, x), (_, y)) in x.iter().zip(&y) {
        if !same_attr(x, y) {
            return Err(format!("the attribute '{name}' differs"));
        }
    }
    Ok(())
}

fn same_attr(left: &Attr, right: &Attr) -> bool {
    match (left, right) {
        (Attr::Float(x), Attr::Float(y)) => x.to_bits() == y.to_bits(),
        (Attr::Floats(x), Attr::Floats(y)) => {
            x.iter().map(|it| it.to_bits()).eq(y.iter().map(|it| it.to_bits()))
        }
        (x, y) => x == y,
    }
}

fn same<T: PartialEq + Debug>(what: &str, left: &T, right: &T) -> Result<(), String> {
    if left == right { Ok(()) } else { Err(format!("{what}: {left:?} and {right:?}")) }
}

fn label(node: &Node) -> String {
    let output = node.outputs.iter().find(|it| !it.name.is_empty());
    match (output, node.op()) {
        (Some(output), _) => format!("'{}'", output.name),
        (None, Some(op)) => format!("{} '{}'", op.name(), node.name),
        (None, None) => "a node without a name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::text::{no_bytes, parse};
    use crate::{Attrs, Graph, OpRef, Opaque};

    fn read(text: &str) -> Graph {
        let make_op = |domain: &str, name: &str, _, attrs: Attrs| -> Result<OpRef, String> {
            Ok(Arc::new(Opaque { domain: domain.into(), name: name.into(), attrs }))
        };
        parse(text, &make_op, &no_bytes).unwrap().remove(0)
    }

    #[test]
    fn every_difference_is_found() {
        let text = "graph @g(%c: bool[], %x: f32[2] = default f32[2] [0.0, 1.0]) -> (%y: f32[2]) {
            %w = const f32[2] [0.0, nan]
            %s, %t = d::Split(%x, _, %w) {axis = 1, low = nan} @split
            %y = If(%c) {
              then_branch = graph @then captures(%a = %s, %b = %t) () -> (%r) { %r = Add(%a, %b) }
            }
          }";
        let graph = read(text);
        assert_eq!(graph.same_as(&graph.clone()), Ok(()));
        let mut differences = String::new();
        for (from, to) in [
            ("@g", "@h"),
            ("bool[]", "bool[1]"),
            ("[0.0, 1.0]", "[-0.0, 1.0]"),
            (" = default f32[2] [0.0, 1.0]", ""),
            ("[0.0, nan]", "[0.0, nan(0x7fc00001)]"),
            ("%s, %t = d", "%s, %t, _ = d"),
            ("%s, %t = d", "%t, %s = d"),
            ("d::Split", "e::Split"),
            ("Split(", "Join("),
            ("(%x, _, %w)", "(%x, %w)"),
            ("(%x, _, %w)", "(%x, _, %x)"),
            ("axis = 1", "axis = 1.0"),
            ("axis = 1", "axes = 1"),
            ("low = nan", "low = nan(0x7fc00001)"),
            ("@split", "@cut"),
            ("then_branch", "else_branch"),
            ("%a = %s", "%a = %x"),
            ("@then", "@other"),
            ("Add(%a, %b)", "Add(%b, %a)"),
            ("(%y: f32[2])", "(%y: f32[2], %w)"),
            ("%s, %t = d", "%v = const f32[1] [0.0] %s, %t = d"),
        ] {
            assert!(text.contains(from), "{from}");
            let difference = graph.same_as(&read(&text.replacen(from, to, 1))).unwrap_err();
            differences += &format!("{difference}\n");
        }
        insta::assert_snapshot!(differences, @r#"
        name: "g" and "h"
        'c': type of 'c': bool[] and bool[1]
        'x': the defaults differ
        'x': the defaults differ
        'w': the contents differ
        's': number of outputs: 2 and 3
        's': name: "s" and "t"
        's': domain: "d" and "e"
        's': operator: "Split" and "Join"
        's': the operands differ
        's': the operands differ
        's': the attribute 'axis' differs
        's': attributes: ["axis", "low"] and ["axes", "low"]
        's': the attribute 'low' differs
        's': name of the node: "split" and "cut"
        'y': then_branch: attribute of the region: "then_branch" and "else_branch"
        'y': then_branch: the captured values differ
        'y': then_branch: name: "then" and "other"
        'y': then_branch: 'r': the operands differ
        outputs: ["y"] and ["y", "w"]
        number of nodes: 5 and 6
        "#);
    }
}
