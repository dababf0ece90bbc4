//! Copying the body of a function to where it is called.
//!
//! Operands of the call stand for the inputs of the body, arguments for the attributes that it
//! refers to. Calls in the body are expanded on the way, graphs inside its nodes are built anew.

use std::collections::{BTreeMap, BTreeSet};

use qcc_ir::{
    Attr, Attrs, EvalCx, Function, Functions, Graph, GraphBuilder, Kind, Node, NodeId, OpRef,
    Opaque, Output, Patch, Region, Type, Value,
};
use qcc_ops::parse;
use qcc_tensor::Tensor;

/// Nodes that all calls together may become. What grows beyond is a mistake, or an attack.
const MAX_NODES: usize = 1 << 18;

/// Calls and graphs inside of each other.
const MAX_DEPTH: usize = 64;

/// Which nodes are calls, and of what.
pub(super) struct Calls<'a> {
    pub(super) functions: &'a Functions,
    /// Domains of which functions are inlined; all when empty.
    pub(super) domains: &'a BTreeSet<&'a str>,
    /// Opset of the model.
    pub(super) opset: i64,
    pub(super) any_opset: bool,
}

impl Calls<'_> {
    /// The function that an operator calls, if it is to be inlined.
    pub(super) fn callee(&self, op: &OpRef) -> Option<&Function> {
        let function = self.functions.get(op.domain(), op.name())?;
        let is_chosen = if self.domains.is_empty() {
            op.is::<Opaque>().is_some()
        } else {
            self.domains.contains(op.domain())
        };
        is_chosen.then_some(function)
    }
}

/// Where copies go.
trait Sink {
    fn constant(&mut self, name: &str, tensor: Tensor) -> Value;
    fn op(&mut self, name: &str, op: OpRef, parts: Parts) -> NodeId;
}

/// Of an operator, what is not the operator.
struct Parts {
    inputs: Vec<Option<Value>>,
    outputs: Vec<Output>,
    regions: Vec<Region>,
}

impl Sink for Patch {
    fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        Self::constant(self, name, tensor)
    }

    fn op(&mut self, name: &str, op: OpRef, parts: Parts) -> NodeId {
        self.op_with_regions(name, op, parts.inputs, parts.outputs, parts.regions)
    }
}

impl Sink for GraphBuilder {
    fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        Self::constant(self, name, tensor)
    }

    fn op(&mut self, name: &str, op: OpRef, parts: Parts) -> NodeId {
        let id = Self::op(self, name, op, parts.inputs, parts.outputs);
        self.set_regions(id, parts.regions);
        id
    }
}

/// What the values of a body have become; `None` for an operand that the call leaves out.
type Map = BTreeMap<Value, Option<Value>>;

/// One function being copied.
struct Frame<'a> {
    function: &'a Function,
    /// Arguments by name, defaults included.
    given: Attrs,
    /// With which names of copies begin.
    prefix: String,
}

/// The expansion of calls, one after the other.
pub(super) struct Expand<'a> {
    calls: &'a Calls<'a>,
    /// Names of the functions that are being copied, outermost first.
    stack: Vec<(&'a str, &'a str)>,
    depth: usize,
    n_nodes: usize,
}

impl<'a> Expand<'a> {
    pub(super) fn new(calls: &'a Calls<'a>) -> Self {
        Self { calls, stack: Vec::new(), depth: 0, n_nodes: 0 }
    }

    /// Copies the body of `function` into the patch, for the call `node`. One value for each
    /// result of the call, each a value of the patch and no two the same.
    ///
    /// # Errors
    /// Why the call must stay.
    pub(super) fn call(
        &mut self,
        patch: &mut Patch,
        function: &'a Function,
        node: &Node,
    ) -> Result<Vec<Value>, String> {
        let attrs = node.op().map(|it| it.attrs()).unwrap_or_default();
        self.stack.clear();
        self.depth = 0;
        let results = self.expand(patch, function, node, attrs, &node.inputs, label(node))?;
        // Names of results may be fixed; a value that has a name, or gets one, needs another node.
        let mut taken: BTreeSet<Value> = node.inputs.iter().flatten().copied().collect();
        results
            .into_iter()
            .map(|value| {
                if taken.insert(value) {
                    return Ok(value);
                }
                let identity = parse("", "Identity", self.calls.opset, Attrs::new());
                let identity = identity.map_err(|it| it.to_string())?;
                let name = format!("{}/Identity", label(node));
                Ok(patch.op1(&name, identity, vec![Some(value)], Type::Unknown))
            })
            .collect()
    }

    /// The values of the results of a call.
    fn expand(
        &mut self,
        sink: &mut dyn Sink,
        function: &'a Function,
        node: &Node,
        attrs: Attrs,
        operands: &[Option<Value>],
        prefix: String,
    ) -> Result<Vec<Value>, String> {
        let body = &function.body;
        self.check(function, node)?;
        let key = (function.domain.as_str(), function.name.as_str());
        if self.stack.contains(&key) {
            return Err(format!("'{}' calls itself", function.name));
        }
        let mut given = attrs;
        for (name, default) in &function.attrs {
            if let Some(attr) = default
                && given.iter().all(|it| it.0 != *name)
            {
                given.push((name.clone(), attr.clone()));
            }
        }
        let operands = operands.iter().copied().chain(std::iter::repeat(None));
        let mut map: Map =
            body.inputs().iter().map(|&node| Value { node, slot: 0 }).zip(operands).collect();
        self.stack.push(key);
        self.copy(sink, body, &mut map, &Frame { function, given, prefix })?;
        self.stack.pop();
        let results = body.outputs().iter().take(node.outputs.len());
        let absent = || format!("'{}' hands on an operand that is absent", function.name);
        results.map(|it| map.get(it).copied().flatten().ok_or_else(absent)).collect()
    }

    fn check(&self, function: &Function, node: &Node) -> Result<(), String> {
        let body = &function.body;
        if let Some(version) = function.version("")
            && version != self.calls.opset
            && !self.calls.any_opset
        {
            let opset = self.calls.opset;
            return Err(format!("its body is written for opset {version}, the model for {opset}"));
        }
        if !node.regions.is_empty() {
            return Err("an argument is a graph".to_owned());
        }
        let counts = [
            ("operands", node.inputs.len(), body.inputs().len()),
            ("results", node.outputs.len(), body.outputs().len()),
        ];
        match counts.into_iter().find(|it| it.1 > it.2) {
            Some((what, has, takes)) => {
                Err(format!("a call has {has} {what}, the function {takes}"))
            }
            None => Ok(()),
        }
    }

    /// Copies the nodes of a body, or of a graph inside of it.
    fn copy(
        &mut self,
        sink: &mut dyn Sink,
        graph: &'a Graph,
        map: &mut Map,
        frame: &Frame<'a>,
    ) -> Result<(), String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("its body is nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        for id in graph.topo() {
            let Some(node) = graph.node(id) else { continue };
            self.n_nodes += 1;
            if self.n_nodes > MAX_NODES {
                return Err(format!("bodies have more than {MAX_NODES} nodes"));
            }
            match &node.kind {
                Kind::Input(_) | Kind::Capture => {}
                Kind::Const(tensor) => {
                    let name = frame.name_of(node.outputs.first().map_or("", |it| &it.name));
                    let value = sink.constant(&name, tensor.clone());
                    map.insert(Value { node: id, slot: 0 }, Some(value));
                }
                Kind::Op(op) => self.copy_op(sink, graph, id, op, map, frame)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn copy_op(
        &mut self,
        sink: &mut dyn Sink,
        graph: &'a Graph,
        id: NodeId,
        op: &OpRef,
        map: &mut Map,
        frame: &Frame<'a>,
    ) -> Result<(), String> {
        let Some(node) = graph.node(id) else { return Ok(()) };
        let inputs = node.inputs.iter().map(|it| it.and_then(|it| map.get(&it).copied().flatten()));
        let inputs: Vec<Option<Value>> = inputs.collect();
        let attrs = frame.attrs(op);
        let name = frame.name_of(&label(node));
        if let Some(callee) = self.calls.callee(op) {
            let calls: &'a Calls<'a> = self.calls;
            let callee = calls.functions.get(&callee.domain, &callee.name).unwrap_or(callee);
            let results = self.expand(sink, callee, node, attrs, &inputs, name)?;
            map.extend(graph.values_of(id).zip(results.into_iter().map(Some)));
            return Ok(());
        }
        let op = match op.attrs().iter().any(|it| matches!(it.1, Attr::Ref(_))) {
            false => op.clone(),
            true => {
                let opset = frame.function.version(op.domain());
                let opset = opset.unwrap_or(self.calls.opset);
                parse(op.domain(), op.name(), opset, attrs).map_err(|it| it.to_string())?
            }
        };
        if op.is_named("Constant")
            && let Ok([tensor]) = <[Tensor; 1]>::try_from(
                op.eval(&EvalCx::default(), &[], 1).map_err(|it| it.to_string())?,
            )
        {
            let name = frame.name_of(node.outputs.first().map_or("", |it| &it.name));
            let value = sink.constant(&name, tensor);
            map.insert(Value { node: id, slot: 0 }, Some(value));
            return Ok(());
        }
        let regions =
            node.regions.iter().map(|it| self.region(it, map, frame)).collect::<Result<_, _>>()?;
        let output = |it: &Output| match it.name.as_str() {
            "" => Output::default(),
            name => Output::new(frame.name_of(name), Type::Unknown),
        };
        let outputs = node.outputs.iter().map(output).collect();
        let new = sink.op(&name, op, Parts { inputs, outputs, regions });
        let values = graph.values_of(id);
        map.extend(values.map(|it| (it, Some(Value { node: new, slot: it.slot }))));
        Ok(())
    }

    /// A graph inside a node of a body, with what it captures there.
    fn region(
        &mut self,
        region: &'a Region,
        outer: &Map,
        frame: &Frame<'a>,
    ) -> Result<Region, String> {
        let graph = &region.graph;
        let mut builder = GraphBuilder::new(graph.name());
        let mut map = Map::new();
        let mut seen: BTreeMap<Value, Value> = BTreeMap::new();
        let mut captures = Vec::new();
        for (&node, value) in graph.captures().iter().zip(&region.captures) {
            let inner = Value { node, slot: 0 };
            let value = outer.get(value).copied().flatten();
            // One operand may stand for two; one name for two values would not do.
            let new = value.map(|value| {
                *seen.entry(value).or_insert_with(|| {
                    captures.push(value);
                    builder.capture(&frame.name_of(graph.value_name(inner)), Type::Unknown)
                })
            });
            map.insert(inner, new);
        }
        for &node in graph.inputs() {
            let inner = Value { node, slot: 0 };
            let name = frame.name_of(graph.value_name(inner));
            let default = match graph.node(node).map(|it| &it.kind) {
                Some(Kind::Input(default)) => default.clone(),
                _ => None,
            };
            map.insert(inner, Some(builder.input(&name, graph.ty(inner).clone(), default)));
        }
        self.copy(&mut builder, graph, &mut map, frame)?;
        let absent = || "a branch gives an operand that is absent".to_owned();
        let outputs = graph.outputs().iter();
        let outputs = outputs.map(|it| map.get(it).copied().flatten().ok_or_else(absent));
        builder.set_outputs(outputs.collect::<Result<_, _>>()?);
        let graph = builder.finish().map_err(|_| "a branch has a cycle".to_owned())?;
        Ok(Region { attr: region.attr.clone(), graph, captures })
    }
}

impl Frame<'_> {
    fn name_of(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// The attributes of an operator, with those of the call in place of references; one that the
    /// call leaves out is left out as well.
    fn attrs(&self, op: &OpRef) -> Attrs {
        let argument = |name: &str| self.given.iter().find(|it| it.0 == *name).map(|it| &it.1);
        let value = |attr: Attr| match attr {
            Attr::Ref(name) => argument(&name).cloned(),
            attr => Some(attr),
        };
        op.attrs().into_iter().filter_map(|it| Some((it.0, value(it.1)?))).collect()
    }
}

/// What names of copies of a node begin with.
pub(super) fn label(node: &Node) -> String {
    let output = || node.outputs.iter().find(|it| !it.name.is_empty()).map(|it| it.name.clone());
    let op = || node.op().map_or(String::new(), |it| it.name().to_owned());
    if node.name.is_empty() { output().unwrap_or_else(op) } else { node.name.clone() }
}
