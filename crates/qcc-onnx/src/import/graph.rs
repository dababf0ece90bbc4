//! `GraphProto` to [`Graph`], with the table of where each part came from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use onnx_protobuf::{
    Message, NodeProto, SparseTensorProto, TensorAnnotation, TensorProto, ValueInfoProto,
    fields::graph_proto as f,
};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Functions, Graph, GraphBuilder, NodeId, Opaque, Output, Region, Type, Value};
use qcc_tensor::{MappedFile, Tensor};

use super::external::DataFiles;
use super::node::{self, label, records};
use super::{tensor, types};
use crate::ReadError;
use crate::source::{GraphSource, Record, RegionSource, What};

/// What reading a graph needs beside its bytes.
pub(super) struct Context<'a> {
    pub(super) file: &'a MappedFile,
    pub(super) opsets: &'a [(String, i64)],
    pub(super) functions: &'a [(String, String, String)],
    /// IR version of the file.
    pub(super) file_ir_version: i64,
    /// IR version whose rule for initializers that are inputs too holds.
    pub(super) ir_version: i64,
    pub(super) data: DataFiles,
    pub(super) warnings: &'a mut Vec<Diagnostic>,
}

impl Context<'_> {
    pub(super) fn opset(&self, domain: &str) -> i64 {
        let plain = |it: &str| it.is_empty() || it == "ai.onnx";
        let same = |it: &str| it == domain || (plain(it) && plain(domain));
        self.opsets.iter().find(|it| same(&it.0)).map_or(1, |it| it.1)
    }

    pub(super) fn is_function(&self, domain: &str, name: &str, overload: &str) -> bool {
        let plain = |it: &str| it.is_empty() || it == "ai.onnx";
        let same = |it: &str| it == domain || (plain(it) && plain(domain));
        self.functions.iter().any(|it| same(&it.0) && it.1 == name && it.2 == overload)
    }

    fn decode<M: Message + Default>(
        &self,
        span: &Range<usize>,
        what: &str,
    ) -> Result<M, ReadError> {
        M::decode(self.file.bytes().slice(span.clone())).map_err(|error| {
            ReadError::rule(format!("byte {}", span.start), format!("{what} is damaged: {error}"))
        })
    }
}

/// Names that a graph may read from those around it.
struct Outer<'a> {
    names: &'a BTreeMap<String, Value>,
    next: Option<&'a Outer<'a>>,
}

impl Outer<'_> {
    fn sees(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.next.is_some_and(|it| it.sees(name))
    }
}

pub(super) fn read_outermost(
    cx: &mut Context<'_>,
    span: Range<usize>,
    functions: Functions,
) -> Result<(Graph, GraphSource), ReadError> {
    let (graph, table, _) = read(cx, span, None, functions)?;
    Ok((graph, table))
}

/// The graph, its table, and the names that it reads from outside in order of its captures.
fn read(
    cx: &mut Context<'_>,
    span: Range<usize>,
    outer: Option<&Outer<'_>>,
    functions: Functions,
) -> Result<(Graph, GraphSource, Vec<String>), ReadError> {
    let file = cx.file.clone();
    let bytes = file.bytes();
    let mut reader = Reader {
        builder: GraphBuilder::new(&graph_name(bytes, &span)),
        names: BTreeMap::new(),
        types: BTreeMap::new(),
        captured: Vec::new(),
        records: Vec::new(),
        outer,
    };
    for record in records(bytes, &span) {
        let (number, span, value) = (record.number, record.span, record.value);
        reader.records.push(Record { number, span, value, what: What::Other });
    }
    reader.read_types(cx)?;
    reader.read_initializers(cx)?;
    let nodes = reader.read_nodes(cx)?;
    reader.connect(cx, &nodes)?;
    let regions = reader.read_regions(cx, &nodes)?;
    reader.set_outputs(cx)?;

    let Reader { mut builder, records, captured, .. } = reader;
    if !functions.is_empty() {
        builder.set_functions(Arc::new(functions));
    }
    let graph = builder.finish().map_err(|cycle| {
        let what = format!("the graph has a cycle through {}", quoted(&cycle));
        ReadError::rule(format!("'{}'", cycle.first().map_or("", |it| it)), what)
    })?;
    Ok((graph, GraphSource { span, records, regions }, captured))
}

struct Reader<'a> {
    builder: GraphBuilder,
    /// Values that are defined in this graph, and those captured so far.
    names: BTreeMap<String, Value>,
    types: BTreeMap<String, Type>,
    captured: Vec<String>,
    records: Vec<Record>,
    outer: Option<&'a Outer<'a>>,
}

impl Reader<'_> {
    /// Types first, since nodes and inputs come with theirs.
    fn read_types(&mut self, cx: &Context<'_>) -> Result<(), ReadError> {
        for record in &mut self.records {
            match record.number {
                f::INPUT | f::OUTPUT | f::VALUE_INFO => {
                    let info: ValueInfoProto = cx.decode(&record.value, "a value")?;
                    let (name, ty) = (info.name().to_owned(), types::type_of(&info));
                    if record.number == f::INPUT {
                        record.what = What::Input(name.clone());
                    } else if record.number == f::VALUE_INFO {
                        record.what = What::About(name.clone());
                    }
                    // Inputs and outputs are more reliable than hints about values between them.
                    if record.number == f::VALUE_INFO {
                        self.types.entry(name).or_insert(ty);
                    } else {
                        self.types.insert(name, ty);
                    }
                }
                f::QUANTIZATION_ANNOTATION => {
                    let it: TensorAnnotation = cx.decode(&record.value, "an annotation")?;
                    record.what = What::About(it.tensor_name().to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_initializers(&mut self, cx: &mut Context<'_>) -> Result<(), ReadError> {
        let mut tensors: BTreeMap<String, (usize, Tensor, bool)> = BTreeMap::new();
        for position in self.positions(f::INITIALIZER) {
            let Some(record) = self.records.get(position) else { continue };
            let proto: TensorProto = cx.decode(&record.value, "an initializer")?;
            let (tensor, is_external) = tensor::read(&proto, cx.file, &mut cx.data)?;
            let name = proto.name().to_owned();
            if let Some((_, first, _)) = tensors.get(&name) {
                if *first != tensor {
                    let what = format!("initializer '{name}' comes twice with different values");
                    return Err(ReadError::rule(format!("initializer '{name}'"), what));
                }
                continue;
            }
            tensors.insert(name, (position, tensor, is_external));
        }
        self.note_unlisted(cx, &tensors);
        // Inputs in order. Before IR version 4 every initializer is listed among them and is a
        // constant; since then one that is listed is a default that callers may override.
        for position in self.positions(f::INPUT) {
            let Some(What::Input(name)) = self.records.get(position).map(|it| &it.what) else {
                continue;
            };
            let name = name.clone();
            if cx.ir_version < 4 && tensors.contains_key(&name) {
                continue;
            }
            let default = tensors.remove(&name);
            let ty = self.types.get(&name).cloned().unwrap_or_default();
            let tensor = default.as_ref().map(|it| it.1.clone());
            let value = self.builder.input(&name, ty, tensor);
            self.define(&name, value)?;
            if let Some((position, _, is_external)) = default
                && let Some(record) = self.records.get_mut(position)
            {
                record.what = What::Initializer { node: value.node, is_external };
            }
        }
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by_key(|it| it.1.0);
        for (name, (position, tensor, is_external)) in tensors {
            let value = self.builder.constant(&name, tensor);
            self.define(&name, value)?;
            if let Some(record) = self.records.get_mut(position) {
                record.what = What::Initializer { node: value.node, is_external };
            }
        }
        for position in self.positions(f::SPARSE_INITIALIZER) {
            let Some(record) = self.records.get(position) else { continue };
            let proto: SparseTensorProto = cx.decode(&record.value, "a sparse initializer")?;
            let name = proto.values.as_ref().map(|it| it.name().to_owned()).unwrap_or_default();
            let (domain, op_name) = (String::new(), "SparseInitializer".to_owned());
            let op = Arc::new(Opaque { domain, name: op_name, attrs: Vec::new() });
            let node = self.builder.op("", op, Vec::new(), vec![Output::new(&name, Type::Unknown)]);
            self.define(&name, Value { node, slot: 0 })?;
        }
        Ok(())
    }

    /// Says when initializers of a model of IR version 3 or older are not among its inputs, as the
    /// rules of that version ask for.
    fn note_unlisted(
        &self,
        cx: &mut Context<'_>,
        tensors: &BTreeMap<String, (usize, Tensor, bool)>,
    ) {
        if self.outer.is_some() || !(1..4).contains(&cx.file_ir_version) {
            return;
        }
        let listed: BTreeSet<&str> = self
            .records
            .iter()
            .filter_map(|it| match &it.what {
                What::Input(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let unlisted: Vec<String> =
            tensors.keys().filter(|it| !listed.contains(it.as_str())).cloned().collect();
        if unlisted.is_empty() {
            return;
        }
        let version = cx.file_ir_version;
        let (count, few) = (unlisted.len(), quoted(unlisted.get(..5).unwrap_or(&unlisted)));
        let text = format!("{count} initializers are not among the inputs of the model: {few}");
        let note = format!("IR version {version} asks for it; they are read as constants");
        cx.warnings.push(Diagnostic::warning(codes::QCC0109, text).with_note(note));
    }

    /// Adds every node, without its operands: a file may name them before they are defined.
    fn read_nodes(&mut self, cx: &mut Context<'_>) -> Result<Vec<Parsed>, ReadError> {
        let mut nodes = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for position in self.positions(f::NODE) {
            let Some(record) = self.records.get(position) else { continue };
            let span = record.value.clone();
            let proto: NodeProto = cx.decode(&span, "a node")?;
            if !proto.name().is_empty() {
                *seen.entry(proto.name().to_owned()).or_default() += 1;
            }
            let id = match node::constant(&proto, cx)? {
                Some(tensor) => {
                    let name = proto.output.first().map_or("", |it| it);
                    self.builder.constant(name, tensor).node
                }
                None => {
                    let op = node::operator(&proto, cx)?;
                    let outputs = proto.output.iter().map(|name| {
                        Output::new(name, self.types.get(name).cloned().unwrap_or_default())
                    });
                    let outputs = outputs.collect();
                    self.builder.op(proto.name(), op, Vec::new(), outputs)
                }
            };
            for (slot, name) in proto.output.iter().enumerate().filter(|it| !it.1.is_empty()) {
                if self.outer.is_some_and(|it| it.sees(name)) {
                    let what = format!("node '{}' hides the outer value '{name}'", label(&proto));
                    return Err(ReadError::rule(format!("node '{}'", label(&proto)), what));
                }
                self.define(name, Value { node: id, slot: slot as u32 })?;
            }
            if let Some(record) = self.records.get_mut(position) {
                record.what = What::Node(id);
            }
            nodes.push(Parsed { id, span, proto });
        }
        let double: Vec<String> =
            seen.into_iter().filter(|it| it.1 > 1).map(|it| it.0).take(5).collect();
        if !double.is_empty() {
            let text = format!("several nodes have the same name: {}", quoted(&double));
            let note = "ONNX Runtime refuses such a model";
            cx.warnings.push(Diagnostic::warning(codes::QCC0109, text).with_note(note));
        }
        Ok(nodes)
    }

    fn connect(&mut self, cx: &mut Context<'_>, nodes: &[Parsed]) -> Result<(), ReadError> {
        let mut is_sorted = true;
        for it in nodes {
            if it.proto.input.is_empty() {
                continue;
            }
            let mut inputs = Vec::with_capacity(it.proto.input.len());
            for name in &it.proto.input {
                if name.is_empty() {
                    inputs.push(None);
                    continue;
                }
                let Some(value) = self.lookup(name) else {
                    let label = label(&it.proto);
                    let what = format!("node '{label}' reads '{name}', which nothing defines");
                    return Err(ReadError::rule(format!("node '{label}'"), what));
                };
                is_sorted &= self.place(value) < self.place(Value { node: it.id, slot: 0 })
                    || self.captured.contains(name);
                inputs.push(Some(value));
            }
            self.builder.set_inputs(it.id, inputs);
        }
        if !is_sorted {
            let text = "the nodes of the model are not in topological order";
            let note = "they are sorted in memory; a file that passes change is written in order";
            cx.warnings.push(Diagnostic::warning(codes::QCC0109, text).with_note(note));
        }
        Ok(())
    }

    fn read_regions(
        &mut self,
        cx: &mut Context<'_>,
        nodes: &[Parsed],
    ) -> Result<BTreeMap<NodeId, Vec<RegionSource>>, ReadError> {
        let mut tables = BTreeMap::new();
        for it in nodes {
            let inner = node::inner_graphs(cx.file.bytes(), &it.span);
            if inner.is_empty() {
                continue;
            }
            let (mut regions, mut sources) = (Vec::new(), Vec::new());
            for node::Inner { attr, attribute, graph } in inner {
                // The names before this call: a capture that is made below belongs to a graph
                // around this one, where the inner graph sees it as well.
                let names = self.names.clone();
                let outer = Outer { names: &names, next: self.outer };
                let (graph, table, names) = read(cx, graph, Some(&outer), Functions::default())?;
                let captures = names.iter().filter_map(|it| self.lookup(it)).collect();
                regions.push(Region { attr, graph, captures });
                sources.push(RegionSource { attribute, graph: table });
            }
            self.builder.set_regions(it.id, regions);
            tables.insert(it.id, sources);
        }
        Ok(tables)
    }

    fn set_outputs(&mut self, cx: &Context<'_>) -> Result<(), ReadError> {
        let mut outputs = Vec::new();
        for position in self.positions(f::OUTPUT) {
            let Some(record) = self.records.get(position) else { continue };
            let info: ValueInfoProto = cx.decode(&record.value, "an output")?;
            let name = info.name();
            let Some(value) = self.lookup(name) else {
                let what = format!("output '{name}' of the graph is not defined");
                return Err(ReadError::rule(format!("output '{name}'"), what));
            };
            outputs.push(value);
        }
        self.builder.set_outputs(outputs);
        Ok(())
    }

    /// A value by name, captured from outside when it must be.
    fn lookup(&mut self, name: &str) -> Option<Value> {
        if let Some(&value) = self.names.get(name) {
            return Some(value);
        }
        if !self.outer.is_some_and(|it| it.sees(name)) {
            return None;
        }
        let value = self.builder.capture(name, Type::Unknown);
        self.names.insert(name.to_owned(), value);
        self.captured.push(name.to_owned());
        Some(value)
    }

    fn define(&mut self, name: &str, value: Value) -> Result<(), ReadError> {
        if self.names.insert(name.to_owned(), value).is_some() {
            let what = format!("the value '{name}' is defined twice");
            return Err(ReadError::rule(format!("value '{name}'"), what));
        }
        Ok(())
    }

    fn place(&self, value: Value) -> u32 {
        self.builder.graph().node(value.node).map_or(0, |it| it.place.position)
    }

    fn positions(&self, number: u32) -> Vec<usize> {
        let all = self.records.iter().enumerate();
        all.filter(|it| it.1.number == number).map(|it| it.0).collect()
    }
}

/// A node that was read, for the steps that follow.
struct Parsed {
    id: NodeId,
    span: Range<usize>,
    proto: NodeProto,
}

fn graph_name(bytes: &[u8], span: &Range<usize>) -> String {
    let name = records(bytes, span).filter(|it| it.number == f::NAME).last();
    let text = name.and_then(|it| bytes.get(it.value)).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|it| format!("'{it}'")).collect::<Vec<_>>().join(", ")
}
