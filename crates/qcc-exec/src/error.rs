//! Why a graph cannot be run.

use std::collections::BTreeMap;
use std::fmt;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{EvalError, Graph, Node, NodeId, Scope, Type};
use qcc_tensor::TensorError;

use crate::compile::reach;

/// A node as messages name it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Label {
    /// Operator, with its domain if it is not the default one.
    pub op: String,
    /// Name of the node, or of its first output if it has none.
    pub name: String,
}

impl Label {
    /// How messages name a node.
    pub fn of(node: &Node) -> Self {
        let op = node.op().map_or_else(String::new, |op| match op.domain() {
            "" => op.name().to_owned(),
            domain => format!("{domain}::{}", op.name()),
        });
        let output = || node.outputs.iter().map(|it| &it.name).find(|it| !it.is_empty());
        let name = if node.name.is_empty() { output() } else { Some(&node.name) };
        Self { op, name: name.cloned().unwrap_or_default() }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.op, self.name)
    }
}

/// A node whose operator is not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The graph that it is in.
    pub scope: Scope,
    /// The node.
    pub node: NodeId,
    /// Its operator and name.
    pub label: Label,
}

/// Why a graph cannot be planned or run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExecError {
    /// Operators that are not executed: all of those that the outputs need.
    #[error("{} cannot be executed", kinds(.0))]
    Unsupported(Vec<Unsupported>),
    /// A node whose operands do not fit, or of a form that is not executed.
    #[error("{node}: {error}")]
    Node {
        /// The node.
        node: Label,
        /// Types of its operands; `-` for absent ones.
        inputs: Vec<String>,
        /// What is wrong.
        error: Box<EvalError>,
    },
    /// An input that is missing or does not fit.
    #[error("input '{name}' {what}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// Results of operators that the system has no memory for.
    #[error("a run needs {}, and {} of memory are left", size(*.needs as u64), size(*.room))]
    Memory {
        /// Bytes that are alive at one time.
        needs: usize,
        /// Bytes that the system can give.
        room: u64,
    },
    /// A value that the plan does not compute was asked for.
    #[error("value {0} is not computed by this plan")]
    NotPlanned(String),
    /// An operator does not do what it says: a mistake in its implementation.
    #[error("{node}: {what}")]
    Bug {
        /// The node.
        node: Label,
        /// What it did.
        what: String,
    },
}

impl ExecError {
    pub(crate) fn node(node: &Label, inputs: &[Option<Type>], error: EvalError) -> Self {
        let text = |it: &Option<Type>| it.as_ref().map_or("-".to_owned(), ToString::to_string);
        Self::Node {
            node: node.clone(),
            inputs: inputs.iter().map(text).collect(),
            error: error.into(),
        }
    }

    pub(crate) fn input(name: &str, what: impl Into<String>) -> Self {
        Self::Input { name: name.to_owned(), what: what.into() }
    }

    pub(crate) fn bug(node: &Label, what: impl Into<String>) -> Self {
        Self::Bug { node: node.clone(), what: what.into() }
    }
}

/// Operators with how often they occur: `Foo (2 nodes), my.domain::Bar (1 node)`.
fn kinds(list: &[Unsupported]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for it in list {
        *counts.entry(&it.label.op).or_default() += 1;
    }
    let text = |(op, count): (&str, usize)| {
        format!("{op} ({count} {})", if count == 1 { "node" } else { "nodes" })
    };
    counts.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Bytes as a text.
fn size(bytes: u64) -> String {
    match bytes as f64 / f64::from(1u32 << 30) {
        it if it >= 1.0 => format!("{it:.1} GiB"),
        it => format!("{:.0} MiB", it * 1024.0),
    }
}

/// The way out where memory does not suffice.
const LESS: &str = "give the model fewer tokens or rows at a time";

/// Nodes that a message lists before it only counts them.
const LISTED: usize = 8;

impl From<ExecError> for Diagnostic {
    fn from(error: ExecError) -> Self {
        let message = error.to_string();
        match error {
            ExecError::Unsupported(list) => {
                let mut it = Self::error(codes::QCC0201, message);
                for node in list.iter().take(LISTED) {
                    it = it.with_note(node.label.to_string());
                }
                if list.len() > LISTED {
                    it = it.with_note(format!("and {} more", list.len() - LISTED));
                }
                it
            }
            ExecError::Node { node, inputs, error } => {
                let code = match *error {
                    EvalError::Unsupported { .. } => codes::QCC0201,
                    EvalError::Tensor(TensorError::Memory(_)) => codes::QCC0503,
                    EvalError::Type(_) | EvalError::Tensor(_) => codes::QCC0202,
                };
                let note = format!("its inputs are {}", inputs.join(", "));
                let it = Self::error(code, message).at(node.to_string()).with_note(note);
                if code == codes::QCC0503 { it.with_help(LESS) } else { it }
            }
            ExecError::Input { .. } => Self::error(codes::QCC0402, message)
                .with_help("compare the samples with `qcc inspect` of the model"),
            ExecError::Memory { .. } => Self::error(codes::QCC0503, message)
                .with_note("that is what results of operators hold at one time")
                .with_help(LESS),
            ExecError::NotPlanned(_) => Self::error(codes::QCC0901, message),
            ExecError::Bug { node, .. } => {
                Self::error(codes::QCC0901, message).at(node.to_string())
            }
        }
    }
}

/// Every operator that is not executed, of a graph and of the regions of its nodes, as far as the
/// outputs of the graph need it.
pub fn unsupported(graph: &Graph) -> Vec<Unsupported> {
    let mut found = Vec::new();
    collect(graph, &Scope::root(), &reachable(graph), &mut found);
    found
}

/// Adds what is not executed of `nodes` and of their regions.
pub(crate) fn collect(
    graph: &Graph,
    scope: &Scope,
    nodes: &[NodeId],
    found: &mut Vec<Unsupported>,
) {
    for &id in nodes {
        let Some(node) = graph.node(id) else { continue };
        if node.op().is_some_and(|op| op.is::<qcc_ir::Opaque>().is_some()) {
            found.push(Unsupported { scope: scope.clone(), node: id, label: Label::of(node) });
        }
        for (idx, region) in node.regions.iter().enumerate() {
            let inner = reachable(&region.graph);
            collect(&region.graph, &scope.inner(id, idx), &inner, found);
        }
    }
}

/// Nodes that the outputs need, in topological order.
fn reachable(graph: &Graph) -> Vec<NodeId> {
    let needed = reach(graph, graph.outputs(), |_| false);
    graph.topo().into_iter().filter(|it| needed.contains(it)).collect()
}
