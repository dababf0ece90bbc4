//! Products with low-bit weights become kernels: [`lower()`].
//!
//! 1. Every graph is searched for products ([`crate::weights`]), and their weights are packed; one
//!    that several products read is packed once.
//! 2. What the graph does with a result is taken into the kernel where the kernel can do it
//!    ([`crate::fuse`]).
//! 3. Products of the same value whose activations are quantized alike become one node, so that
//!    they are quantized once and all kernels are one job for the threads. Products that add
//!    another value stay alone, since that value may depend on the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use qcc_ir::{Graph, NodeId, Output, Patch, PatchError, Scope, Value};
use qcc_kernels::{Epilogue, KernelSource, Matrix, MatrixError, Overlay, Planes, Product, Threads};

use crate::fuse::{self, Candidate};
use crate::machine::Machine;
use crate::product::{KernelProduct, Part, Up};
use crate::weights::{WeightSource, low_bit};

/// How a graph is lowered.
#[derive(Clone)]
pub struct LowerOptions {
    /// Where kernels come from.
    pub source: Arc<dyn KernelSource>,
    /// What does the work of products.
    pub threads: Arc<dyn Threads + Send + Sync>,
    /// How exactly activations are kept, instead of what each product asks for.
    pub planes: Option<Planes>,
    /// Whether products take in what follows them, and share activations.
    pub fuse: bool,
}

impl LowerOptions {
    /// With kernels of a source on some threads, as the model asks for, fused.
    pub fn new(source: Arc<dyn KernelSource>, threads: Arc<dyn Threads + Send + Sync>) -> Self {
        Self { source, threads, planes: None, fuse: true }
    }
}

impl fmt::Debug for LowerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LowerOptions")
            .field("isa", &self.source.isa())
            .field("threads", &self.threads.threads())
            .field("planes", &self.planes)
            .field("fuse", &self.fuse)
            .finish()
    }
}

/// What became of the products of a graph.
#[derive(Debug, Default)]
pub struct Report {
    /// Those that are kernels now, in the order of the graph.
    pub products: Vec<Lowered>,
    /// Those that stay as they were, and why.
    pub stays: Vec<Stays>,
    /// What follows a product and was not taken into its kernel, and why.
    pub apart: Vec<Stays>,
}

/// A product that a kernel computes.
#[derive(Debug)]
pub struct Lowered {
    /// The node, or its result where it has no name.
    pub name: String,
    /// The operator that it was.
    pub op: String,
    /// The kernel, with its weight.
    pub product: Arc<Product>,
    /// What is done to a result before it is stored.
    pub epilogue: Epilogue,
    /// The result that the node which computes it now stands for.
    pub result: String,
    /// Which of the nodes of kernels computes it, counted from 0: products with the same number
    /// share their activations.
    pub node: usize,
}

/// A node that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stays {
    /// The node, or its result where it has no name.
    pub name: String,
    /// A sentence.
    pub why: String,
}

/// Why a graph cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// There is no memory for a weight.
    #[error("'{name}': {error}")]
    Pack {
        /// The product.
        name: String,
        /// What failed.
        error: MatrixError,
    },
    /// The changes do not fit the graph.
    #[error(transparent)]
    Patch(#[from] PatchError),
}

/// Puts kernels in the place of products with low-bit weights, in a graph and those inside it.
///
/// Types should be known (`infer-types`); without them less is fused. The result runs wherever the
/// graph did, and cannot be written to a file.
///
/// # Errors
/// [`LowerError`]; then the graph is unspecified. A product that has no kernel is no error: the
/// report says why it stays.
pub fn lower(graph: &mut Graph, options: &LowerOptions) -> Result<Report, LowerError> {
    let mut report = Report::default();
    let machine = Arc::new(Machine::new(Arc::clone(&options.threads)));
    let mut packed = BTreeMap::new();
    let mut patches = Vec::new();
    for scope in graph.scopes() {
        let mut all = candidates(graph, &scope, options, &mut packed, &mut report)?;
        let Some(inner) = graph.at(&scope) else { continue };
        if options.fuse {
            fuse::ends(inner, &mut all, &mut report.apart);
        }
        for group in groups(&all, options.fuse) {
            let patch = patch(inner, &scope, &all, &group, options, &machine, &mut report);
            patches.push(patch);
        }
    }
    graph.apply(patches)?;
    Ok(report)
}

/// Matrices, with the weights beside them, by what they are made of.
type Packed = BTreeMap<WeightSource, (Arc<Matrix>, Option<Arc<Overlay>>)>;

fn candidates(
    root: &Graph,
    scope: &Scope,
    options: &LowerOptions,
    packed: &mut Packed,
    report: &mut Report,
) -> Result<Vec<Candidate>, LowerError> {
    let mut all = Vec::new();
    let Some(graph) = root.at(scope) else { return Ok(all) };
    for id in graph.topo() {
        let found = match low_bit(root, scope, id) {
            None => continue,
            Some(Ok(found)) => found,
            Some(Err(why)) => {
                report.stays.push(Stays { name: name_of(graph, id), why: why.0 });
                continue;
            }
        };
        let name = name_of(graph, id);
        let weight = match packed.get(&found.source) {
            Some(weight) => weight.clone(),
            None => {
                let layout = match found.weight.layout() {
                    Ok(layout) => layout,
                    Err(error) => {
                        let why = format!("its weight has no packed form: {error}");
                        report.stays.push(Stays { name, why });
                        continue;
                    }
                };
                let matrix = match Matrix::pack(layout, &found.weight.weight.view()) {
                    Ok(matrix) => Arc::new(matrix),
                    Err(MatrixError::Panel(error)) => {
                        let why = format!("its weight has no packed form: {error}");
                        report.stays.push(Stays { name, why });
                        continue;
                    }
                    Err(error) => return Err(LowerError::Pack { name, error }),
                };
                let weight = (matrix, found.overlay.map(Arc::new));
                packed.insert(found.source.clone(), weight.clone());
                weight
            }
        };
        let planes = options.planes.unwrap_or(found.planes);
        all.push(Candidate::new(id, name, found.x, weight, planes, found.bias));
    }
    Ok(all)
}

fn name_of(graph: &Graph, id: NodeId) -> String {
    let Some(node) = graph.node(id) else { return String::new() };
    if node.name.is_empty() {
        graph.value_name(Value { node: id, slot: 0 }).to_owned()
    } else {
        node.name.clone()
    }
}

/// Which candidates are one node: positions, in order. Those that another takes in are not there.
fn groups(all: &[Candidate], share: bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, it) in all.iter().enumerate().filter(|it| !it.1.is_taken) {
        let mate = groups.iter_mut().find(|group| {
            let first = group.first().and_then(|&it| all.get(it));
            share
                && it.residual.is_none()
                && first.is_some_and(|first| {
                    first.residual.is_none() && first.x == it.x && first.acts().serves(&it.acts())
                })
        });
        match mate {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

fn patch(
    graph: &Graph,
    scope: &Scope,
    all: &[Candidate],
    group: &[usize],
    options: &LowerOptions,
    machine: &Arc<Machine>,
    report: &mut Report,
) -> Patch {
    let mut patch = Patch::within("lower", scope.clone());
    let members: Vec<&Candidate> = group.iter().filter_map(|&it| all.get(it)).collect();
    let (mut inputs, mut parts, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    let node = report.products.last().map_or(0, |it| it.node + 1);
    for it in &members {
        if inputs.is_empty() {
            patch.at(it.id);
            inputs.push(Some(it.x));
        }
        let kernel = |of: &Candidate, epilogue| {
            let (matrix, source) = (Arc::clone(&of.matrix), Arc::clone(&options.source));
            let product = Product::new(matrix, source, of.planes, epilogue);
            Arc::new(product.with_overlay(of.overlay.clone()))
        };
        let product = kernel(it, it.epilogue);
        let up = it.up.and_then(|up| all.get(up)).map(|up| (up, kernel(up, up.epilogue)));
        let result = graph.value_name(it.value).to_owned();
        let mut note = |of: &Candidate, product: &Arc<Product>, epilogue| {
            report.products.push(Lowered {
                name: of.name.clone(),
                op: graph.node(of.id).and_then(|it| it.op()).map_or("", |it| it.name()).to_owned(),
                product: Arc::clone(product),
                epilogue,
                result: result.clone(),
                node,
            });
        };
        note(it, &product, it.epilogue);
        if let Some((of, up)) = &up {
            note(of, up, of.epilogue);
        }
        let residual = it.residual.as_ref().map(|residual| {
            inputs.push(Some(residual.value));
            crate::product::Residual {
                operand: inputs.len() - 1,
                is_left: residual.is_left,
                add: Arc::clone(&residual.add),
                source: Arc::clone(&options.source),
            }
        });
        parts.push(Part {
            product,
            epilogue: it.epilogue,
            bias: it.bias.clone(),
            up: up.map(|(of, product)| Up { product, bias: of.bias.clone() }),
            residual,
        });
        outputs.push(Output::new(graph.value_name(it.value), graph.ty(it.value).clone()));
    }
    let name = members.first().map_or("", |it| it.name.as_str());
    let op = Arc::new(KernelProduct { parts, machine: Arc::clone(machine) });
    let id = patch.op(name, op, inputs, outputs);
    for (slot, it) in (0u32..).zip(&members) {
        patch.replace(it.value, Value { node: id, slot });
    }
    patch
}

#[cfg(test)]
mod tests;
