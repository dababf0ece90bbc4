//! Writing a model file.

mod data;
mod encode;
mod file;
mod function;
mod graph;
mod opset;
mod places;
mod region;
mod rope;
mod sidecar;
mod stable;
pub(crate) mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use onnx_protobuf::fields::model_proto as f;
use onnx_protobuf::{FunctionProto, Message, OperatorSetIdProto, StringStringEntryProto};
use qcc_ir::{Attr, Graph, Kind};
use qcc_tensor::{DType, MappedFile};

use crate::import::{key, records};
use crate::source::{GraphSource, What, called};
use crate::{Source, WriteError};
use file::Pending;
pub use file::{is_same_file, write_file};
use places::{data_name, free_data, free_model};
use rope::Rope;
use sidecar::Sidecar;
use upgrade::Upgrade;

pub use opset::check_opset;
pub use places::{check_places, check_stream, data_beside};

/// Models above this size keep their tensors in a file of their own: protobuf libraries refuse
/// messages of 2 GiB.
const MAX_INLINE_BYTES: u64 = 3 << 29;

/// What these libraries take at most.
const MAX_MESSAGE_BYTES: u64 = (1 << 31) - 1;

/// Whether tensors go into a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum External {
    /// When the input had one, or the model is too large for one file.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: data that the input has in other files comes into the model.
    Never,
}

/// The IR version from which on nodes have metadata.
const NODES_HAVE_METADATA: i64 = 10;

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Whether tensors go into a data file.
    pub external: External,
    /// Keys for `metadata_props`; those of the same name in the model are replaced. When there are
    /// any, the producer becomes `qcc`.
    pub metadata: Vec<(String, String)>,
    /// Keys for `metadata_props` of nodes that a pass made or changed, by the name of the node, or
    /// of its first output where it has none. Nodes have metadata from IR version 10 on: where any
    /// are given, the output has at least that.
    pub annotations: BTreeMap<String, Vec<(String, String)>>,
    /// Replace an output that exists.
    pub overwrite: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The model, then its data files; none of what went to a stream.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub size_bytes: u64,
    /// Default opset before and after, when it had to be raised.
    pub raised: Option<(i64, i64)>,
}

/// Writes a graph that was read from `source`. With no change and no metadata, the output has the
/// bytes of the input. It appears whole or not at all.
///
/// # Errors
/// When the output exists, is the input, or cannot be written; when the graph holds what has no
/// form in ONNX.
pub fn write(
    graph: &Graph,
    source: &Source,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written, WriteError> {
    let data = &source.0;
    free_model(source, path, options.overwrite)?;
    let needs = Needs::of(graph, source, options);
    let (model, sidecar) = parts(graph, source, path, options, &needs)?;

    // Data first: a model without its data would be a broken one.
    let mut pending = Vec::new();
    let mut size_bytes = model.rope.len();
    let mut files = vec![path.to_owned()];
    if let Some(sidecar) = &sidecar {
        let beside = path.with_file_name(sidecar.location());
        free_data(source, &beside, path)?;
        pending.push(Pending::write(&beside, |out| sidecar.write_to(out))?);
        size_bytes += sidecar.len();
        files.push(beside);
    } else if !model.is_changed {
        for (location, file) in &data.data_files {
            let copy = path.parent().unwrap_or(Path::new("")).join(location);
            size_bytes += file.bytes().len() as u64;
            files.push(copy.clone());
            if is_same_file(&copy, &data.path_of(location)) {
                continue;
            }
            free_data(source, &copy, path)?;
            if let Some(folder) = copy.parent() {
                let wrong = |source| WriteError::Io { path: copy.clone(), source };
                fs::create_dir_all(folder).map_err(wrong)?;
            }
            pending.push(Pending::write(&copy, |out| out.write_all(file.bytes()))?);
        }
    }
    let bytes = data.file.bytes();
    pending.push(Pending::write(path, |out| model.rope.write_to(bytes, out))?);
    for it in pending {
        it.finish()?;
    }
    Ok(Written { files, size_bytes, raised: needs.raised(source) })
}

/// As [`write()`], to a stream. Nothing goes there before all of the model is known, but a stream that
/// ends early has a part of it.
///
/// # Errors
/// When the model does not fit into one file; when the graph holds what has no form in ONNX; when
/// the stream takes no more.
pub fn write_stream(
    graph: &Graph,
    source: &Source,
    out: &mut impl Write,
    options: &WriteOptions,
) -> Result<Written, WriteError> {
    check_stream(source, options.external)?;
    let needs = Needs::of(graph, source, options);
    let model = message(graph, source, options, &needs, (None, &[]))?;
    if model.rope.len() > MAX_INLINE_BYTES {
        let what = "the output has more than 1.5 GiB".to_owned();
        return Err(WriteError::OneFile { what });
    }
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let written = model.rope.write_to(source.0.file.bytes(), &mut out);
    written.and_then(|()| out.flush()).map_err(WriteError::Stream)?;
    let (files, size_bytes, raised) = (Vec::new(), model.rope.len(), needs.raised(source));
    Ok(Written { files, size_bytes, raised })
}

/// Bytes of what [`write()`] would write, data files included.
///
/// # Errors
/// When the graph holds what has no form in ONNX.
pub fn size(
    graph: &Graph,
    source: &Source,
    path: &Path,
    options: &WriteOptions,
) -> Result<u64, WriteError> {
    let needs = Needs::of(graph, source, options);
    let (model, sidecar) = parts(graph, source, path, options, &needs)?;
    let copies = || source.0.data_files.iter().map(|it| it.1.bytes().len() as u64).sum();
    let data = match &sidecar {
        Some(sidecar) => sidecar.len(),
        None if !model.is_changed => copies(),
        None => 0,
    };
    Ok(model.rope.len() + data)
}

/// The model, and its data file where tensors go into one.
fn parts(
    graph: &Graph,
    source: &Source,
    path: &Path,
    options: &WriteOptions,
    needs: &Needs,
) -> Result<(ModelRope, Option<Sidecar>), WriteError> {
    let files = source.data_files();
    let left = if options.external == External::Never { files } else { &[] };
    let mut model = message(graph, source, options, needs, (None, left))?;
    let mut sidecar = None;
    let moves = match options.external {
        External::Always => true,
        External::Never if model.rope.len() > MAX_MESSAGE_BYTES => {
            return Err(WriteError::TooLarge { bytes: model.rope.len() });
        }
        External::Never => false,
        External::Auto => {
            model.is_changed && !source.0.data_files.is_empty()
                || model.rope.len() > MAX_INLINE_BYTES
        }
    };
    if moves {
        let mut new = Sidecar::new(data_name(path));
        model = message(graph, source, options, needs, (Some(&mut new), files))?;
        sidecar = Some(new).filter(|it| !it.is_empty());
    }
    Ok((model, sidecar))
}

struct ModelRope {
    rope: Rope,
    is_changed: bool,
}

fn message(
    graph: &Graph,
    source: &Source,
    options: &WriteOptions,
    needs: &Needs,
    (sidecar, left): (Option<&mut Sidecar>, &[(String, MappedFile)]),
) -> Result<ModelRope, WriteError> {
    let data = &source.0;
    let mut cx = graph::Context {
        file: &data.file,
        ir_version: needs.ir_version,
        sidecar,
        left,
        upgrade: Upgrade::new(source.opset("").unwrap_or(needs.opset), needs.opset),
        captured: BTreeMap::new(),
        annotations: &options.annotations,
    };
    let (inner, mut is_changed) = graph::graph(&mut cx, graph, &data.graph)?;
    is_changed |= !options.metadata.is_empty();
    let mut rope = Rope::default();
    let bytes = data.file.bytes();
    let whole = 0..bytes.len();
    if !is_changed {
        rope.push_source(whole);
        return Ok(ModelRope { rope, is_changed });
    }
    let mut inner = Some(inner);
    let still_called = called(graph);
    let has_provenance = !options.metadata.is_empty();
    for record in records(bytes, &whole) {
        match record.number {
            f::IR_VERSION if needs.ir_version > data.ir_version => {
                rope.push_varint(f::IR_VERSION, needs.ir_version);
            }
            f::PRODUCER_NAME | f::PRODUCER_VERSION if has_provenance => {}
            f::GRAPH => {
                if has_provenance {
                    rope.push_encoded(f::PRODUCER_NAME, b"qcc");
                    rope.push_encoded(f::PRODUCER_VERSION, env!("CARGO_PKG_VERSION").as_bytes());
                }
                rope.push_message(f::GRAPH, inner.take().unwrap_or_default());
            }
            f::OPSET_IMPORT => {
                let it = OperatorSetIdProto::decode(bytes.slice(record.value.clone()))
                    .map_err(|_| WriteError::Changed { at: record.span.start })?;
                let is_default = matches!(it.domain(), "" | "ai.onnx");
                if is_default && it.version() < needs.opset {
                    let raised = OperatorSetIdProto { version: Some(needs.opset), ..it };
                    rope.push_encoded(f::OPSET_IMPORT, &raised.encode_to_vec());
                } else {
                    rope.push_source(record.span);
                }
            }
            f::METADATA_PROPS => {
                let it = StringStringEntryProto::decode(bytes.slice(record.value.clone()))
                    .map_err(|_| WriteError::Changed { at: record.span.start })?;
                if !options.metadata.iter().any(|new| new.0 == it.key()) {
                    rope.push_source(record.span);
                }
            }
            f::FUNCTIONS => {
                let mut function = FunctionProto::decode(bytes.slice(record.value.clone()))
                    .map_err(|_| WriteError::Changed { at: record.span.start })?;
                let brings = data::bring_all(&mut function.node, left);
                let it = &function;
                let domain = if it.domain() == "ai.onnx" { "" } else { it.domain() };
                let it = (domain.to_owned(), key(it.name(), it.overload()));
                // What nobody called before is not ours to remove.
                if still_called.contains(&it) || !data.called.contains(&it) {
                    match brings {
                        true => rope.push_encoded(f::FUNCTIONS, &function.encode_to_vec()),
                        false => rope.push_source(record.span),
                    }
                }
            }
            _ => rope.push_source(record.span),
        }
    }
    for (domain, version) in &needs.domains {
        let import = OperatorSetIdProto { domain: Some(domain.clone()), version: Some(*version) };
        rope.push_encoded(f::OPSET_IMPORT, &import.encode_to_vec());
    }
    for (key, value) in &options.metadata {
        let entry = StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
        rope.push_encoded(f::METADATA_PROPS, &entry.encode_to_vec());
    }
    for name in &needs.functions {
        if let Some(body) = function::body(name, needs.opset) {
            rope.push_encoded(f::FUNCTIONS, &body.encode_to_vec());
        }
    }
    Ok(ModelRope { rope, is_changed })
}

/// The opset, and the IR version it came with, for a model that has no operator of ONNX yet: the
/// first in which all that passes add has the form that they give it.
const NEW_OPSET: (i64, i64) = (13, 7);

/// What the new nodes of a graph need from the model around them.
struct Needs {
    opset: i64,
    ir_version: i64,
    /// Domains that are not imported yet.
    domains: Vec<(String, i64)>,
    /// Operators of `ai.qcc` that need their bodies.
    functions: BTreeSet<String>,
}

impl Needs {
    /// The opset before and after, when it has to be raised.
    fn raised(&self, source: &Source) -> Option<(i64, i64)> {
        source.opset("").filter(|&it| self.opset > it).map(|it| (it, self.opset))
    }

    fn of(graph: &Graph, source: &Source, options: &WriteOptions) -> Self {
        let least = if options.annotations.is_empty() { 0 } else { NODES_HAVE_METADATA };
        let mut needs = Self {
            opset: source.opset("").unwrap_or(1),
            ir_version: source.ir_version().max(least),
            domains: Vec::new(),
            functions: BTreeSet::new(),
        };
        let mut domains = BTreeSet::new();
        for scope in graph.scopes() {
            let Some(inner) = graph.at(&scope) else { continue };
            let known = source.graph(&scope).map(GraphSource::ids).unwrap_or_default();
            for (id, node) in inner.nodes() {
                if known.contains(&id) {
                    continue;
                }
                match &node.kind {
                    Kind::Const(tensor) => needs.for_type(tensor.dtype()),
                    Kind::Op(op) => {
                        domains.insert(op.domain().to_owned());
                        let is_blocked = op
                            .attrs()
                            .iter()
                            .any(|it| it.0 == "block_size" && matches!(it.1, Attr::Int(1..)));
                        if op.is_named("DequantizeLinear") {
                            needs.at_least(13, 7); // per axis
                            if is_blocked {
                                needs.at_least(21, 10);
                            }
                        }
                        if op.is_named("Expand") {
                            needs.at_least(8, 3);
                        }
                        if op.is_named("Slice") {
                            needs.at_least(10, 5); // starts and ends are inputs
                        }
                        if op.domain() == function::DOMAIN {
                            needs.at_least(function::NEEDS.0, function::NEEDS.1);
                            needs.functions.insert(op.name().to_owned());
                        }
                    }
                    Kind::Input(_) | Kind::Capture => {}
                }
            }
        }
        // Bodies of functions are made of operators of ONNX.
        if !needs.functions.is_empty() {
            domains.insert(String::new());
        }
        for domain in domains {
            if domain == qcc_ops::quant::DOMAIN || source.opset(&domain).is_some() {
                continue;
            }
            let version = match domain.as_str() {
                "" => {
                    needs.at_least(NEW_OPSET.0, NEW_OPSET.1);
                    needs.opset
                }
                function::DOMAIN => function::VERSION,
                _ => 1,
            };
            needs.domains.push((domain, version));
        }
        needs
    }

    /// The versions that brought an element type.
    fn for_type(&mut self, dtype: DType) {
        match dtype {
            DType::U4 | DType::I4 => self.at_least(21, 10),
            DType::U2 | DType::I2 => self.at_least(25, 13),
            _ => {}
        }
    }

    fn at_least(&mut self, opset: i64, ir_version: i64) {
        self.opset = self.opset.max(opset);
        self.ir_version = self.ir_version.max(ir_version);
    }
}

impl GraphSource {
    /// Every node that came from the source.
    fn ids(&self) -> BTreeSet<qcc_ir::NodeId> {
        self.records
            .iter()
            .filter_map(|it| match it.what {
                What::Node(node) | What::Initializer { node, .. } => Some(node),
                What::About(_) | What::Input(_) | What::Other => None,
            })
            .collect()
    }
}
