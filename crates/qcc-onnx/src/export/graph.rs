//! A graph as a message: the records of the source for what is as it was, new ones for the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use onnx_protobuf::fields::{attribute_proto, graph_proto as f, node_proto};
use onnx_protobuf::wire::Field;
use onnx_protobuf::{AttributeProto, Message, NodeProto, StringStringEntryProto, TensorProto};
use qcc_ir::{Graph, Kind, Node, NodeId, Region, Value};
use qcc_tensor::MappedFile;

use super::data;
use super::encode;
use super::region;
use super::rope::Rope;
use super::sidecar::Sidecar;
use super::upgrade::Upgrade;
use crate::WriteError;
use crate::import::records;
use crate::source::{GraphSource, Record, RegionSource, What};

/// What writing a graph needs beside it.
pub(super) struct Context<'a> {
    pub(super) file: &'a MappedFile,
    /// IR version of the output.
    pub(super) ir_version: i64,
    /// Where tensors go that do not stay in the model.
    pub(super) sidecar: Option<&'a mut Sidecar>,
    /// Data files of the input that the output does not read: what tensors have there comes along.
    pub(super) left: &'a [(String, MappedFile)],
    /// How nodes of the default domain become those of a newer opset.
    pub(super) upgrade: Upgrade,
    /// In a region: the names outside of what it captures. A value may have been replaced there by
    /// one with another name.
    pub(super) captured: BTreeMap<NodeId, String>,
    /// Metadata for nodes, by name.
    pub(super) annotations: &'a BTreeMap<String, Vec<(String, String)>>,
}

impl Context<'_> {
    /// The metadata to be added to a node.
    fn annotations(&self, node: &Node) -> &[(String, String)] {
        let output = node.outputs.first().map_or("", |it| it.name.as_str());
        let name = if node.name.is_empty() { output } else { &node.name };
        self.annotations.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Adds metadata to a node.
fn annotate(payload: &mut Rope, entries: &[(String, String)]) {
    for (key, value) in entries {
        let it = StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
        payload.push_encoded(node_proto::METADATA_PROPS, &it.encode_to_vec());
    }
}

/// Whether a field of a node is metadata that is given anew.
fn is_given(cx: &Context<'_>, field: &Field, entries: &[(String, String)]) -> bool {
    field.number == node_proto::METADATA_PROPS
        && decode::<StringStringEntryProto>(cx.file, &field.value)
            .is_ok_and(|old| entries.iter().any(|it| it.0 == old.key()))
}

/// The payload of the graph message, and whether it differs from the source.
pub(super) fn graph(
    cx: &mut Context<'_>,
    graph: &Graph,
    source: &GraphSource,
) -> Result<(Rope, bool), WriteError> {
    let plan = Plan::of(cx, graph, source)?;
    let mut rope = Rope::default();
    if !plan.is_changed {
        rope.push_source(source.span.clone());
        return Ok((rope, false));
    }
    // Nodes and initializers are written where the first of them stands.
    let mut nodes = Some(plan.nodes);
    let mut tensors = Some(plan.tensors);
    for record in &source.records {
        match record.number {
            f::NODE => {
                if let Some(nodes) = nodes.take() {
                    push_all(&mut rope, f::NODE, nodes);
                }
            }
            f::INITIALIZER => {
                if let Some(tensors) = tensors.take() {
                    push_all(&mut rope, f::INITIALIZER, tensors);
                }
            }
            _ if plan.dropped.contains(&record.span.start) => {}
            _ => rope.push_source(record.span.clone()),
        }
    }
    push_all(&mut rope, f::NODE, nodes.unwrap_or_default());
    push_all(&mut rope, f::INITIALIZER, tensors.unwrap_or_default());
    for info in plan.inputs {
        rope.push_encoded(f::INPUT, &info);
    }
    Ok((rope, true))
}

/// A record of the source, or the payload of a new one.
enum Item {
    Source(Range<usize>),
    New(Rope),
}

fn push_all(rope: &mut Rope, number: u32, items: Vec<Item>) {
    for item in items {
        match item {
            Item::Source(span) => rope.push_source(span),
            Item::New(payload) => rope.push_message(number, payload),
        }
    }
}

#[derive(Default)]
struct Plan {
    nodes: Vec<Item>,
    tensors: Vec<Item>,
    /// Before IR version 4 new initializers are inputs too.
    inputs: Vec<Vec<u8>>,
    /// Records about values that are gone, by where they start.
    dropped: BTreeSet<usize>,
    is_changed: bool,
}

impl Plan {
    fn of(cx: &mut Context<'_>, graph: &Graph, source: &GraphSource) -> Result<Self, WriteError> {
        let mut plan = Self::default();
        let mut known: BTreeMap<NodeId, &Record> = BTreeMap::new();
        let mut gone = Gone::default();
        let inputs = graph_inputs(graph);
        for record in &source.records {
            // What was read as a constant is no input any more.
            if let What::Input(name) = &record.what
                && cx.ir_version >= 4
                && !inputs.contains(name.as_str())
            {
                plan.is_changed = true;
                plan.dropped.insert(record.span.start);
            }
            let (What::Node(id) | What::Initializer { node: id, .. }) = &record.what else {
                continue;
            };
            if graph.node(*id).is_some() {
                known.insert(*id, record);
            } else {
                plan.is_changed = true;
                gone.add(cx, record)?;
            }
        }
        plan.plan_nodes(cx, graph, source, &known, &gone)?;
        plan.plan_tensors(cx, graph, source, &known)?;
        plan.plan_rest(cx, graph, source, &gone);
        Ok(plan)
    }

    fn plan_nodes(
        &mut self,
        cx: &mut Context<'_>,
        graph: &Graph,
        source: &GraphSource,
        known: &BTreeMap<NodeId, &Record>,
        gone: &Gone,
    ) -> Result<(), WriteError> {
        let mut before = 0;
        for id in graph.topo() {
            let Some(node) = graph.node(id) else { continue };
            match (&node.kind, known.get(&id)) {
                (Kind::Op(_) | Kind::Const(_), Some(record)) if record.number == f::NODE => {
                    self.is_changed |= record.span.start < before; // was not in order
                    before = record.span.start;
                    let regions = source.regions.get(&id).map_or(&[][..], Vec::as_slice);
                    let item = known_node(cx, graph, node, record, regions)?;
                    self.is_changed |= matches!(item, Item::New(_));
                    self.nodes.push(item);
                }
                (Kind::Op(op), None) if !op.is_named("SparseInitializer") => {
                    self.is_changed = true;
                    self.nodes.push(Item::New(new_node(cx, graph, id, node, gone)?));
                }
                _ => {}
            }
        }
        self.nodes.splice(
            0..0,
            cx.upgrade.take_nodes().into_iter().map(|it| {
                let mut rope = Rope::default();
                rope.push_own(it.encode_to_vec());
                Item::New(rope)
            }),
        );
        Ok(())
    }

    fn plan_tensors(
        &mut self,
        cx: &mut Context<'_>,
        graph: &Graph,
        source: &GraphSource,
        known: &BTreeMap<NodeId, &Record>,
    ) -> Result<(), WriteError> {
        let mut nodes: Vec<(NodeId, &Node)> = graph
            .nodes()
            .filter(|(id, node)| {
                let is_node = known.get(id).is_some_and(|it| it.number == f::NODE);
                matches!(node.kind, Kind::Const(_) | Kind::Input(Some(_))) && !is_node
            })
            .collect();
        nodes.sort_by_key(|it| it.1.place);
        for (id, node) in nodes {
            let (Kind::Const(tensor) | Kind::Input(Some(tensor))) = &node.kind else { continue };
            let Some(output) = node.outputs.first() else { continue };
            let Some(record) = known.get(&id) else {
                self.is_changed = true;
                let sidecar = cx.sidecar.as_deref_mut();
                self.tensors.push(Item::New(encode::tensor(&output.name, tensor, sidecar)));
                if cx.ir_version < 4
                    && let Some(info) = encode::value_info(&output.name, &output.ty)
                {
                    self.inputs.push(info.encode_to_vec());
                }
                continue;
            };
            let is_external = matches!(record.what, What::Initializer { is_external: true, .. });
            let moves = cx.sidecar.as_ref().is_some_and(|it| {
                is_external || it.takes(tensor.bytes().len()) && tensor.as_strings().is_none()
            });
            let comes = is_external && !cx.left.is_empty();
            let mut proto: TensorProto = decode(cx.file, &record.value)?;
            let is_renamed = proto.name() != output.name;
            if !moves && !comes && !is_renamed {
                self.tensors.push(Item::Source(record.span.clone()));
                continue;
            }
            self.is_changed = true;
            proto.name = Some(output.name.clone());
            let mut payload = Rope::default();
            if moves && let Some(sidecar) = cx.sidecar.as_deref_mut() {
                encode::place(&mut proto, tensor.bytes(), sidecar);
                clear_typed(&mut proto);
                payload.push_own(proto.encode_to_vec());
            } else if comes {
                data::forget(&mut proto);
                encode::push_with_bytes(&mut payload, &proto, tensor.bytes());
            } else {
                payload.push_own(proto.encode_to_vec());
            }
            self.tensors.push(Item::New(payload));
        }
        // A second initializer of the same name and value has no node of its own.
        let doubles = source
            .records
            .iter()
            .filter(|it| it.number == f::INITIALIZER && matches!(it.what, What::Other));
        if !self.is_changed {
            self.tensors.extend(doubles.map(|it| Item::Source(it.span.clone())));
        }
        Ok(())
    }

    fn plan_rest(&mut self, cx: &Context<'_>, graph: &Graph, source: &GraphSource, gone: &Gone) {
        let current: BTreeSet<&str> =
            graph.nodes().flat_map(|it| &it.1.outputs).map(|it| it.name.as_str()).collect();
        for record in &source.records {
            let is_dead = match &record.what {
                What::About(name) => gone.names.contains(name) && !current.contains(name.as_str()),
                What::Input(name) => cx.ir_version < 4 && !current.contains(name.as_str()),
                What::Node(_) | What::Initializer { .. } | What::Other => false,
            };
            if is_dead {
                self.dropped.insert(record.span.start);
            }
        }
    }
}

fn graph_inputs(graph: &Graph) -> BTreeSet<&str> {
    let nodes = graph.inputs().iter().filter_map(|&it| graph.node(it));
    nodes.flat_map(|it| &it.outputs).map(|it| it.name.as_str()).collect()
}

/// What the source has and the graph has no more.
#[derive(Default)]
struct Gone {
    names: BTreeSet<String>,
    /// Payloads of nodes by the names of their outputs.
    nodes: BTreeMap<String, Range<usize>>,
}

impl Gone {
    fn add(&mut self, cx: &Context<'_>, record: &Record) -> Result<(), WriteError> {
        if record.number == f::NODE {
            let proto: NodeProto = decode(cx.file, &record.value)?;
            for name in proto.output {
                self.nodes.insert(name.clone(), record.value.clone());
                self.names.insert(name);
            }
        } else {
            let proto: TensorProto = decode(cx.file, &record.value)?;
            self.names.insert(proto.name().to_owned());
        }
        Ok(())
    }
}

/// A node that was in the source: its record, unless names or graphs inside it have changed.
fn known_node(
    cx: &mut Context<'_>,
    graph: &Graph,
    node: &Node,
    record: &Record,
    regions: &[RegionSource],
) -> Result<Item, WriteError> {
    let mut proto: NodeProto = decode(cx.file, &record.value)?;
    let mut inner = Vec::new();
    let mut is_changed = false;
    for it in &mut proto.attribute {
        is_changed |= data::bring(it, cx.left);
    }
    for (region, source) in node.regions.iter().zip(regions) {
        let names = region.graph.captures().iter().copied().zip(captured_names(cx, graph, region));
        let outer = std::mem::replace(&mut cx.captured, names.collect());
        let (rope, changed) = self::graph(cx, &region.graph, &source.graph)?;
        cx.captured = outer;
        is_changed |= changed;
        inner.push(rope);
    }
    let (inputs, outputs) = if matches!(node.kind, Kind::Const(_)) {
        (Vec::new(), names_of(node))
    } else {
        (input_names(cx, graph, node), names_of(node))
    };
    if inner.is_empty() {
        let renamed = NodeProto { input: inputs.clone(), output: outputs.clone(), ..proto.clone() };
        if let Some(raised) = cx.upgrade.raise(renamed)? {
            let mut payload = Rope::default();
            payload.push_own(raised.encode_to_vec());
            return Ok(Item::New(payload));
        }
    }
    if !is_changed && inputs == proto.input && outputs == proto.output {
        return Ok(Item::Source(record.span.clone()));
    }
    let mut payload = Rope::default();
    for name in inputs {
        payload.push_encoded(node_proto::INPUT, name.as_bytes());
    }
    for name in outputs {
        payload.push_encoded(node_proto::OUTPUT, name.as_bytes());
    }
    let mut inner = inner.into_iter();
    let entries = cx.annotations(node);
    annotate(&mut payload, entries);
    for field in records(cx.file.bytes(), &record.value) {
        if is_given(cx, &field, entries) {
            continue;
        }
        let has_graph = regions.iter().any(|it| it.attribute == field.span);
        match field.number {
            node_proto::INPUT | node_proto::OUTPUT => {}
            node_proto::ATTRIBUTE if has_graph && is_changed => {
                let mut attribute = Rope::default();
                for part in records(cx.file.bytes(), &field.value) {
                    match part.number {
                        attribute_proto::G | attribute_proto::GRAPHS => {
                            let graph = inner.next().unwrap_or_default();
                            attribute.push_message(part.number, graph);
                        }
                        _ => attribute.push_source(part.span),
                    }
                }
                payload.push_message(node_proto::ATTRIBUTE, attribute);
            }
            node_proto::ATTRIBUTE if !cx.left.is_empty() => {
                let mut attribute: AttributeProto = decode(cx.file, &field.value)?;
                match data::bring(&mut attribute, cx.left) {
                    true => payload.push_encoded(field.number, &attribute.encode_to_vec()),
                    false => payload.push_source(field.span),
                }
            }
            _ => payload.push_source(field.span),
        }
    }
    Ok(Item::New(payload))
}

/// A node that a pass made. It inherits documentation and metadata of the node whose output it
/// has taken over.
fn new_node(
    cx: &mut Context<'_>,
    graph: &Graph,
    id: NodeId,
    node: &Node,
    gone: &Gone,
) -> Result<Rope, WriteError> {
    let value = graph.value_name(Value { node: id, slot: 0 }).to_owned();
    let Some(op) = node.op().filter(|it| it.domain() != qcc_ops::quant::DOMAIN) else {
        let op = node.op().map_or(String::new(), |it| it.name().to_owned());
        return Err(WriteError::NoForm { op, value });
    };
    let names = (input_names(cx, graph, node), names_of(node));
    let kind = (op.domain(), op.name());
    let mut proto = encode::node(&node.name, kind, names.0, names.1, &op.attrs());
    for it in &node.regions {
        let captured = captured_names(cx, graph, it);
        let inner = region::graph(cx, &it.graph, &captured)?;
        proto.attribute.push(region::attribute(&it.attr, inner));
    }
    if let Some(raised) = cx.upgrade.raise(proto.clone())? {
        proto = raised;
    }
    let mut payload = Rope::default();
    payload.push_own(proto.encode_to_vec());
    let entries = cx.annotations(node);
    annotate(&mut payload, entries);
    if let Some(old) = gone.nodes.get(&value) {
        for field in records(cx.file.bytes(), old) {
            if matches!(field.number, node_proto::DOC_STRING | node_proto::METADATA_PROPS)
                && !is_given(cx, &field, entries)
            {
                payload.push_source(field.span);
            }
        }
    }
    Ok(payload)
}

fn name_of(cx: &Context<'_>, graph: &Graph, value: Value) -> String {
    let outer = cx.captured.get(&value.node).cloned();
    outer.unwrap_or_else(|| graph.value_name(value).to_owned())
}

fn input_names(cx: &Context<'_>, graph: &Graph, node: &Node) -> Vec<String> {
    let name = |it: &Option<Value>| it.map_or(String::new(), |it| name_of(cx, graph, it));
    node.inputs.iter().map(name).collect()
}

/// The names of what a region captures.
fn captured_names(cx: &Context<'_>, graph: &Graph, region: &Region) -> Vec<String> {
    region.captures.iter().map(|&it| name_of(cx, graph, it)).collect()
}

fn names_of(node: &Node) -> Vec<String> {
    node.outputs.iter().map(|it| it.name.clone()).collect()
}

fn clear_typed(proto: &mut TensorProto) {
    proto.float_data.clear();
    proto.double_data.clear();
    proto.int32_data.clear();
    proto.int64_data.clear();
    proto.uint64_data.clear();
}

fn decode<M: Message + Default>(file: &MappedFile, span: &Range<usize>) -> Result<M, WriteError> {
    M::decode(file.bytes().slice(span.clone())).map_err(|_| WriteError::Changed { at: span.start })
}
