//! Which nodes of a graph run as one: products of the same activations, each with what the graph
//! does with its result where its kernel can do that.
//!
//! | Graph | Kernel |
//! |---|---|
//! | `Add(y, c)`, c a constant of N values | bias |
//! | `Gelu(y)` with erf | gelu |
//! | `Mul(Mul(y, Sigmoid(y)), up)`, or with a SiLU in one node | silumul; `up` is a product of the same activations |
//!
//! What such a graph must look like is found by [`qcc_kernels::ends`]. A group reads its
//! activations and constants only, so that nothing outside of it lies between its nodes.

use crate::api::Failure;
use crate::claim::{Claim, claim};
use crate::graph::{Graph, Node, ValueInfo};
use crate::options::Options;
use qcc_kernels::Epilogue;
use qcc_kernels::ends::{self, Gated, Readers, Step};
use std::collections::BTreeMap;

/// What runs in the place of some nodes of a graph.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// Products by their activations.
    pub(crate) groups: Vec<Vec<Unit<'a>>>,
    /// Products that are not taken, and why.
    pub(crate) left: Vec<(Node<'a>, String)>,
}

/// A product with its end.
pub(crate) struct Unit<'a> {
    pub(crate) claim: Claim<'a>,
    pub(crate) epilogue: Epilogue,
    /// What is added, if that is not an operand of the product.
    pub(crate) bias: Option<ValueInfo<'a>>,
    /// The other factor of SiLU.
    pub(crate) up: Option<Box<Unit<'a>>>,
    /// The result.
    pub(crate) y: ValueInfo<'a>,
    /// All nodes that it stands for, the product first.
    pub(crate) nodes: Vec<Node<'a>>,
}

impl<'a> Unit<'a> {
    /// The constant that is added.
    pub(crate) fn added(&self) -> Option<ValueInfo<'a>> {
        self.bias.or(self.claim.bias)
    }

    /// This and the other factor, if there is one.
    pub(crate) fn products(&self) -> impl Iterator<Item = &Self> {
        [Some(self), self.up.as_deref()].into_iter().flatten()
    }

    /// Nodes of all products.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = Node<'a>> {
        self.products().flat_map(|it| it.nodes.iter().copied())
    }
}

impl<'a> Plan<'a> {
    /// Finds products.
    pub(crate) fn of(graph: &Graph<'a>, options: &Options) -> Result<Self, Failure> {
        let mut plan = Self::default();
        let (nodes, mut units) = (graph.nodes()?, Vec::new());
        for (at, node) in nodes.iter().enumerate() {
            match claim(node, options)? {
                None => {}
                Some(Ok(claim)) => {
                    let given = if claim.bias.is_some() { Epilogue::Bias } else { Epilogue::None };
                    let (y, nodes) = (claim.y, vec![*node]);
                    let unit = Unit { claim, epilogue: given, bias: None, up: None, y, nodes };
                    units.push((at, Some(unit)));
                }
                Some(Err(why)) => plan.left.push((*node, why)),
            }
        }
        if !units.is_empty() {
            Around::new(nodes)?.ends(&mut units)?;
        }
        let mut by_input = BTreeMap::new();
        for unit in units.into_iter().filter_map(|it| it.1) {
            let next = plan.groups.len();
            let at = *by_input.entry(unit.claim.x.name()?).or_insert(next);
            if at == next {
                plan.groups.push(Vec::new());
            }
            plan.groups[at].push(unit);
        }
        Ok(plan)
    }

    /// Products that are taken.
    pub(crate) fn products(&self) -> usize {
        self.groups.iter().flatten().map(|it| it.products().count()).sum()
    }

    /// Nodes after products that are taken with them.
    pub(crate) fn ends(&self) -> usize {
        let nodes: usize = self.groups.iter().flatten().map(|it| it.all_nodes().count()).sum();
        nodes - self.products()
    }
}

/// A unit by the number of its product; None where another one has it.
type Units<'a> = Vec<(usize, Option<Unit<'a>>)>;

/// Nodes and values by number.
struct Around<'a> {
    nodes: Vec<Node<'a>>,
    steps: Vec<Step>,
    operands: Vec<Vec<Option<usize>>>,
    /// The first results of nodes.
    results: Vec<Option<usize>>,
    values: Vec<ValueInfo<'a>>,
    users: Vec<Vec<usize>>,
    uses: Vec<usize>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Around<'a> {
    fn new(nodes: Vec<Node<'a>>) -> Result<Self, Failure> {
        let mut it = Self {
            nodes: Vec::new(),
            steps: Vec::new(),
            operands: Vec::new(),
            results: Vec::new(),
            values: Vec::new(),
            users: Vec::new(),
            uses: Vec::new(),
            numbers: BTreeMap::new(),
        };
        for (at, node) in nodes.iter().enumerate() {
            it.steps.push(step(node)?);
            let mut operands = Vec::new();
            for value in node.inputs()? {
                operands.push(value.map(|value| it.read(value, at)).transpose()?);
            }
            it.operands.push(operands);
            for value in node.implicit_inputs()?.into_iter().flatten() {
                it.read(value, at)?;
            }
            let mut results = Vec::new();
            for value in node.outputs()?.into_iter().flatten() {
                let number = it.number(value)?;
                it.uses[number] += usize::from(value.is_graph_output()?);
                results.push(number);
            }
            it.results.push(results.first().copied());
        }
        it.nodes = nodes;
        Ok(it)
    }

    fn number(&mut self, value: ValueInfo<'a>) -> Result<usize, Failure> {
        let next = self.values.len();
        let number = *self.numbers.entry(value.name()?).or_insert(next);
        if number == next {
            self.values.push(value);
            self.users.push(Vec::new());
            self.uses.push(0);
        }
        Ok(number)
    }

    fn read(&mut self, value: ValueInfo<'a>, node: usize) -> Result<usize, Failure> {
        let number = self.number(value)?;
        self.uses[number] += 1;
        if self.users[number].last() != Some(&node) {
            self.users[number].push(node);
        }
        Ok(number)
    }

    /// Gives products the ends that their kernels can do.
    fn ends(&self, units: &mut Units<'a>) -> Result<(), Failure> {
        for (at, unit) in units.iter_mut() {
            if let (Some(y), Some(unit)) = (self.results[*at], unit) {
                self.bias(y, unit)?;
                self.gelu(y, unit)?;
            }
        }
        for at in 0..units.len() {
            self.gate(units, at)?;
        }
        Ok(())
    }

    /// Takes nodes in, of which the last one gives the result.
    fn take(&self, unit: &mut Unit<'a>, nodes: &[usize], epilogue: Epilogue) {
        let Some(y) = nodes.last().and_then(|&it| self.results[it]) else { return };
        unit.nodes.extend(nodes.iter().map(|&it| self.nodes[it]));
        unit.epilogue = epilogue;
        unit.y = self.values[y];
    }

    fn bias(&self, y: usize, unit: &mut Unit<'a>) -> Result<(), Failure> {
        let Some(added) = ends::added(self, y).filter(|_| unit.epilogue == Epilogue::None) else {
            return Ok(());
        };
        let value = self.values[added.other];
        // Of any other shape it may be added to other places.
        let fits = value.is_constant()?
            && value.kind()? == unit.claim.y.kind()?
            && value.tensor()?.dims == [unit.claim.shape.n as i64];
        if fits {
            unit.bias = Some(value);
            self.take(unit, &[added.node], Epilogue::Bias);
        }
        Ok(())
    }

    fn gelu(&self, y: usize, unit: &mut Unit<'a>) -> Result<(), Failure> {
        if let Some(node) = ends::gelu(self, y).filter(|_| unit.epilogue == Epilogue::None) {
            self.take(unit, &[node], Epilogue::Gelu);
        }
        Ok(())
    }

    fn gate(&self, units: &mut Units<'a>, at: usize) -> Result<(), Failure> {
        let plain = |unit: &Option<Unit<'a>>| {
            unit.as_ref().is_some_and(|it| it.epilogue == Epilogue::None && it.nodes.len() == 1)
        };
        let (node, gate) = &units[at];
        let Some(y) = self.results[*node].filter(|_| plain(gate)) else { return Ok(()) };
        let Some(Gated::Product { nodes, factor }) = ends::gated(self, y) else { return Ok(()) };
        let is_factor =
            |it: &(usize, Option<Unit<'a>>)| self.results[it.0] == Some(factor) && plain(&it.1);
        let Some(up) = units.iter().position(is_factor) else { return Ok(()) };
        let ([Some(a), Some(b)], 1) = ([at, up].map(|it| units[it].1.as_ref()), self.uses[factor])
        else {
            return Ok(());
        };
        let alike = a.claim.shape == b.claim.shape && a.claim.planes == b.claim.planes;
        if !alike || a.claim.x.name()? != b.claim.x.name()? {
            return Ok(());
        }
        let up = units[up].1.take();
        if let Some(gate) = &mut units[at].1 {
            gate.up = up.map(Box::new);
            self.take(gate, &nodes, Epilogue::SiluMul);
        }
        Ok(())
    }
}

impl Readers for Around<'_> {
    type Node = usize;
    type Value = usize;

    fn users(&self, value: usize) -> Vec<usize> {
        self.users[value].clone()
    }

    fn uses(&self, value: usize) -> usize {
        self.uses[value]
    }

    fn step(&self, node: usize) -> Step {
        self.steps[node]
    }

    fn operands(&self, node: usize) -> Vec<Option<usize>> {
        self.operands[node].clone()
    }

    /// Nodes of steps have a result; of others nobody asks.
    fn result(&self, node: usize) -> usize {
        self.results[node].unwrap_or(usize::MAX)
    }
}

fn step(node: &Node<'_>) -> Result<Step, Failure> {
    let is_one = |alpha: Option<f32>| if alpha == Some(1.0) { Step::Silu } else { Step::Other };
    Ok(match (node.domain()?, node.op()?) {
        ("" | "ai.onnx", "Add") => Step::Add,
        ("" | "ai.onnx", "Mul") => Step::Mul,
        ("" | "ai.onnx", "Sigmoid") => Step::Sigmoid,
        // Defaults are 1 and 1.702; the runtime writes them out.
        ("" | "ai.onnx", "Swish") => is_one(node.float("alpha")?.or(Some(1.0))),
        ("com.microsoft", "QuickGelu") => is_one(node.float("alpha")?),
        ("com.microsoft", "Gelu") => Step::Gelu,
        _ => Step::Other,
    })
}
