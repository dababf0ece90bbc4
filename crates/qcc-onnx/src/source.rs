//! Where everything in a graph came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, NodeId, Scope};
use qcc_tensor::MappedFile;

use crate::export::is_same_file;

/// A model that was read.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph that passes work on.
    pub graph: Graph,
    /// Where it came from.
    pub source: Source,
    /// What the user should know about the file.
    pub warnings: Vec<Diagnostic>,
}

/// The file behind a graph. Its clone is cheap.
#[derive(Clone, Debug)]
pub struct Source(pub(crate) Arc<SourceData>);

#[derive(Debug)]
pub(crate) struct SourceData {
    pub(crate) path: PathBuf,
    pub(crate) file: MappedFile,
    pub(crate) ir_version: i64,
    /// Domain as it is spelled, and version.
    pub(crate) opsets: Vec<(String, i64)>,
    pub(crate) producer: String,
    pub(crate) metadata: Vec<(String, String)>,
    /// Domain, name and overload of local functions.
    pub(crate) functions: Vec<(String, String, String)>,
    /// Those of them that the graph calls, or that one of these does.
    pub(crate) called: BTreeSet<(String, String)>,
    pub(crate) graph: GraphSource,
    /// The other files that hold tensors, by location, in order of first use.
    pub(crate) data_files: Vec<(String, MappedFile)>,
}

impl SourceData {
    /// Where a data file is, which the model names by `location`.
    pub(crate) fn path_of(&self, location: &str) -> PathBuf {
        let real = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        real.parent().unwrap_or(Path::new("")).join(location)
    }
}

/// The records of one graph message.
#[derive(Debug, Default)]
pub(crate) struct GraphSource {
    /// The payload of the message in the file.
    pub(crate) span: Range<usize>,
    /// Its fields in order.
    pub(crate) records: Vec<Record>,
    /// Node messages with graphs inside.
    pub(crate) regions: BTreeMap<NodeId, Vec<RegionSource>>,
}

/// One field of a graph message.
#[derive(Debug)]
pub(crate) struct Record {
    /// Field number.
    pub(crate) number: u32,
    /// Tag, length and payload in the file.
    pub(crate) span: Range<usize>,
    /// The payload.
    pub(crate) value: Range<usize>,
    pub(crate) what: What,
}

/// What a record stands for in the graph.
#[derive(Debug)]
pub(crate) enum What {
    /// A node, or a `Constant` that became a constant.
    Node(NodeId),
    /// An initializer, and whether its bytes lie in another file.
    Initializer { node: NodeId, is_external: bool },
    /// Something about a value of this name: type, annotation.
    About(String),
    /// An input.
    Input(String),
    /// Anything else.
    Other,
}

/// A graph inside an attribute of a node.
#[derive(Debug)]
pub(crate) struct RegionSource {
    /// Tag, length and payload of the attribute in the file.
    pub(crate) attribute: Range<usize>,
    pub(crate) graph: GraphSource,
}

/// Domain and name of the functions that a graph calls, or that one of these does.
pub(crate) fn called(graph: &Graph) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    if graph.functions().is_empty() {
        return found;
    }
    let mut stack = vec![graph];
    while let Some(it) = stack.pop() {
        for (_, node) in it.nodes() {
            stack.extend(node.regions.iter().map(|it| &it.graph));
            let function = node.op().and_then(|op| graph.functions().get(op.domain(), op.name()));
            if let Some(function) = function
                && found.insert((function.domain.clone(), function.name.clone()))
            {
                stack.push(&function.body);
            }
        }
    }
    found
}

impl Source {
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// `ir_version` of the model.
    pub fn ir_version(&self) -> i64 {
        self.0.ir_version
    }

    /// Version of a domain that the model imports; empty and `ai.onnx` are the same.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let plain = |it: &str| if it == "ai.onnx" { String::new() } else { it.to_owned() };
        let domain = plain(domain);
        self.0.opsets.iter().find(|it| plain(&it.0) == domain).map(|it| it.1)
    }

    /// Every import as it is spelled.
    pub fn opsets(&self) -> &[(String, i64)] {
        &self.0.opsets
    }

    /// Name and version of the tool that wrote the model; may be empty.
    pub fn producer(&self) -> &str {
        &self.0.producer
    }

    /// `metadata_props` of the model.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.0.metadata
    }

    /// Domain, name and overload of local functions.
    pub fn functions(&self) -> &[(String, String, String)] {
        &self.0.functions
    }

    /// The model file, mapped.
    pub fn file(&self) -> &MappedFile {
        &self.0.file
    }

    /// Other files that hold tensors: location as the model spells it, and the mapped file.
    pub fn data_files(&self) -> &[(String, MappedFile)] {
        &self.0.data_files
    }

    /// Whether a path is that of the model or of one of its data files, through links too.
    pub fn is_of(&self, path: &Path) -> bool {
        is_same_file(path, &self.0.path) || self.has_data(path)
    }

    /// Whether a path is that of a data file of the model, through links too.
    pub fn has_data(&self, path: &Path) -> bool {
        let data = &self.0;
        data.data_files.iter().any(|it| is_same_file(path, &data.path_of(&it.0)))
    }

    /// Bytes of the model and of its data files.
    pub fn size_bytes(&self) -> u64 {
        let data: usize = self.0.data_files.iter().map(|it| it.1.bytes().len()).sum();
        (self.0.file.bytes().len() + data) as u64
    }

    /// The records of the graph at a scope.
    pub(crate) fn graph(&self, scope: &Scope) -> Option<&GraphSource> {
        scope.0.iter().try_fold(&self.0.graph, |graph, step| {
            graph.regions.get(&step.node)?.get(step.region).map(|it| &it.graph)
        })
    }
}
