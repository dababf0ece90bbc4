//! Times of products, each between values of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use qcc_diag::Diagnostic;
use qcc_engine::KernelProduct;
use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::{Graph, NodeId, Value};
use qcc_kernels::{Epilogue, Planes, Product};
use qcc_quant::panel::PanelLayout;
use qcc_tensor::{DType, Pool, Tensor, checked_len};

use super::feed::elements;
use super::{BenchOptions, Limits, asked, time};
use crate::Error;
use crate::runner::Feed;

/// A node of kernels, or several of one kind.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The first of them.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Inputs of the products.
    pub k: usize,
    /// Outputs of each product of a node.
    pub n: Vec<usize>,
    /// Bits of the codes of each product.
    pub bits: Vec<u32>,
    /// Codes that share a scale, of each product.
    pub group: Vec<usize>,
    /// How exactly activations are kept.
    pub planes: Planes,
    /// What is done to each output before it is stored.
    pub epilogues: Vec<Epilogue>,
    /// Bytes of the weights of one node; of the mean one where outliers differ in number.
    pub bytes: usize,
    /// By rows.
    pub times: Vec<LayerTime>,
}

/// Time of one node.
#[derive(Clone, Copy, Debug)]
pub struct LayerTime {
    /// Rows of activations.
    pub rows: usize,
    /// Seconds: the median, of all nodes of the kind.
    pub seconds: f64,
    /// Bytes of packed weights a second.
    pub bytes_per_second: f64,
    /// Multiplications and additions a second.
    pub ops_per_second: f64,
    /// Least time that the CPU at hand needs, over this time; `None` where that is not known.
    pub share: Option<f64>,
    /// Seconds of the same values in the reference, where it has them.
    pub reference: Option<f64>,
}

/// Nodes that are timed together.
pub(super) struct Kind {
    name: String,
    nodes: Vec<NodeId>,
    /// Bytes of the weights of all nodes.
    bytes: usize,
    /// Those of one node without overlays.
    packed: usize,
    has_overlay: bool,
    layer: Layer,
}

impl Kind {
    /// Bytes of the weights of all its nodes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of what all its nodes read besides weights, for so many rows.
    pub(super) fn needs(&self, graph: &Graph, rows: usize) -> usize {
        let of = |&id: &NodeId| shapes(graph, id, rows);
        self.nodes.iter().flat_map(of).map(|it| asked::bytes(&it.1)).fold(0, usize::saturating_add)
    }
}

impl Layer {
    /// Without times.
    pub(super) fn new(kind: &Kind) -> Self {
        let layer = kind.layer.clone();
        Self { name: kind.name.clone(), count: kind.nodes.len(), ..layer }
    }
}

/// Bytes of the weight of a product: packed, and single ones beside it.
pub(super) fn bytes(product: &Product) -> usize {
    product.layout().bytes() + product.overlay().map_or(0, |it| it.bytes())
}

/// The nodes of kernels of the outermost graph.
pub(super) fn kinds(graph: &Graph, each: bool) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for id in graph.topo() {
        let Some(node) = graph.node(id) else { continue };
        let Some(op) = node.op().and_then(|it| it.is::<KernelProduct>()) else { continue };
        let layouts: Vec<_> = op.products().map(|it| *it.layout()).collect();
        let layer = Layer {
            name: String::new(),
            count: 0,
            k: layouts.first().map_or(0, PanelLayout::k),
            n: layouts.iter().map(PanelLayout::n).collect(),
            bits: layouts.iter().map(|it| it.bits().bits()).collect(),
            group: layouts.iter().map(PanelLayout::group).collect(),
            planes: op.planes(),
            epilogues: op.epilogues().collect(),
            bytes: op.products().map(|it| bytes(it)).sum(),
            times: Vec::new(),
        };
        // How many outliers there are differs from node to node.
        let packed = layouts.iter().map(PanelLayout::bytes).sum::<usize>();
        let has_overlay = op.products().any(|it| it.overlay().is_some());
        let is_same = |it: &&mut Kind| {
            let is_packed_so = (it.packed, it.has_overlay) == (packed, has_overlay);
            let it = &it.layer;
            is_packed_so
                && (it.k, &it.n, &it.bits, &it.group)
                    == (layer.k, &layer.n, &layer.bits, &layer.group)
                && (it.planes, &it.epilogues) == (layer.planes, &layer.epilogues)
        };
        match kinds.iter_mut().find(|it| !each && is_same(it)) {
            Some(kind) => {
                kind.nodes.push(id);
                kind.bytes += layer.bytes;
                kind.layer.bytes = kind.bytes / kind.nodes.len();
            }
            None => {
                let (name, nodes, bytes) = (node.name.clone(), vec![id], layer.bytes);
                kinds.push(Kind { name, nodes, bytes, packed, has_overlay, layer });
            }
        }
    }
    kinds
}

/// A part of a graph with what it reads.
struct Part {
    plan: Plan,
    feed: Feed,
}

impl Part {
    /// From some values, brought, to others.
    fn new(
        graph: &Graph,
        feed: &Feed,
        outputs: Vec<Value>,
        pool: &Pool,
    ) -> Result<Self, ExecError> {
        let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let outputs = Some(outputs);
        let options = PlanOptions { outputs, pool: pool.clone(), ..PlanOptions::default() };
        Ok(Self { plan: Plan::new(graph, &bound, &options)?, feed: feed.clone() })
    }

    fn run(&self) -> Result<(), Error> {
        let outputs = self.plan.run(&self.feed, &[], &mut |_, _| {});
        outputs.map(drop).map_err(|it| Error::from(Diagnostic::from(it)))
    }
}

/// Times the nodes of a kind, one after another, for so many rows. `rate` is at how many bytes a
/// second their weights can be read.
pub(super) fn time(
    kind: &Kind,
    (graph, reference): (&Graph, Option<&Graph>),
    rows: usize,
    options: &BenchOptions,
    (limits, rate): (&Limits, f64),
) -> Result<LayerTime, Error> {
    let names = reference.map(names).unwrap_or_default();
    let pool = Pool::default();
    let (mut parts, mut others) = (Vec::new(), Vec::new());
    for &id in &kind.nodes {
        let feed = feed(graph, id, rows)?;
        let outputs: Vec<Value> = graph.values_of(id).collect();
        let same = outputs.iter().map(|it| names.get(graph.value_name(*it)).copied());
        let same: Option<Vec<Value>> = same.collect();
        if let (Some(reference), Some(same)) = (reference, same)
            && let Ok(part) = Part::new(reference, &feed, same, &pool)
        {
            others.push(part);
        }
        let part = Part::new(graph, &feed, outputs, &pool);
        parts.push(part.map_err(|it| Error::from(Diagnostic::from(it)))?);
    }
    let is_there = !others.is_empty() && others.len() == parts.len();
    let mut beside = || timed(&others);
    let second = is_there.then_some(&mut beside as time::Timed<'_>);
    let (own, other) = time::both(&mut || timed(&parts), second, options.runs)?;
    let count = kind.nodes.len().max(1);
    let (layer, seconds) = (&kind.layer, own.median / count as f64);
    let products = layer.n.iter().map(|&n| n as f64).sum::<f64>() * (layer.k * rows) as f64;
    let planes = f64::from(layer.planes.count());
    Ok(LayerTime {
        rows,
        seconds,
        bytes_per_second: layer.bytes as f64 / seconds,
        ops_per_second: 2.0 * products / seconds,
        share: limits.least(layer.bytes, rate, products * planes).map(|it| it / seconds),
        reference: other.map(|it| it.median / count as f64),
    })
}

fn timed(parts: &[Part]) -> Result<Duration, Error> {
    let start = Instant::now();
    parts.iter().try_for_each(Part::run)?;
    Ok(start.elapsed())
}

fn names(graph: &Graph) -> BTreeMap<&str, Value> {
    let mut names = BTreeMap::new();
    for (id, node) in graph.nodes() {
        for (value, output) in graph.values_of(id).zip(&node.outputs) {
            names.insert(output.name.as_str(), value);
        }
    }
    names
}

/// Values for what a node reads, of so many rows.
fn feed(graph: &Graph, id: NodeId, rows: usize) -> Result<Feed, Error> {
    let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32 / 512.0 - 1.0;
    let mut feed = Feed::new();
    for (name, bound) in shapes(graph, id, rows) {
        let Bound::Shape(dtype, dims) = bound else { continue };
        let len = checked_len(&dims).unwrap_or(usize::MAX);
        let tensor = match dtype {
            DType::F16 => elements(len, |it| f16::from_f32(number(it)))
                .and_then(|it| Tensor::from_vec(dims, it)),
            DType::BF16 => elements(len, |it| bf16::from_f32(number(it)))
                .and_then(|it| Tensor::from_vec(dims, it)),
            _ => elements(len, number).and_then(|it| Tensor::from_vec(dims, it)),
        };
        feed.insert(name, tensor.map_err(|it| asked::full(&it))?);
    }
    Ok(feed)
}

/// Element types and dimensions of what a node reads, of so many rows.
fn shapes(graph: &Graph, id: NodeId, rows: usize) -> Vec<(String, Bound)> {
    let Some(node) = graph.node(id) else { return Vec::new() };
    let Some(op) = node.op().and_then(|it| it.is::<KernelProduct>()) else { return Vec::new() };
    let first = op.products().next().map(|it| *it.layout());
    let (k, n) = first.map_or((0, 0), |it| (it.k(), it.n()));
    let shape = |(at, value): (usize, &Option<Value>)| {
        let value = (*value)?;
        let ty = graph.ty(value);
        let width = if at == 0 { k } else { n };
        let mut dims = vec![1; ty.rank().unwrap_or(3).max(1)];
        let rank = dims.len();
        if let Some(it) = dims.last_mut() {
            *it = width;
        }
        // Rows before the last dimension; a vector has but one.
        if let Some(it) = rank.checked_sub(2).and_then(|it| dims.get_mut(it)) {
            *it = rows;
        }
        let dtype = ty.dtype().filter(|it| matches!(it, DType::F16 | DType::BF16));
        let bound = Bound::Shape(dtype.unwrap_or(DType::F32), dims);
        Some((graph.value_name(value).to_owned(), bound))
    };
    node.inputs.iter().enumerate().filter_map(shape).collect()
}
