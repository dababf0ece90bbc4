//! The nodes of a graph by number: what each reads and gives, and who reads that.

use crate::api::Failure;
use crate::graph::{Node, ValueInfo};
use qcc_kernels::ends::{Readers, Step};
use std::collections::BTreeMap;

/// Nodes and values by number.
pub(crate) struct Around<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    steps: Vec<Step>,
    pub(crate) operands: Vec<Vec<Option<usize>>>,
    /// The first results of nodes.
    pub(crate) results: Vec<Option<usize>>,
    pub(crate) values: Vec<ValueInfo<'a>>,
    users: Vec<Vec<usize>>,
    /// Which node a value is the first result of.
    producers: Vec<Option<usize>>,
    pub(crate) uses: Vec<usize>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Around<'a> {
    pub(crate) fn new(nodes: Vec<Node<'a>>) -> Result<Self, Failure> {
        let mut it = Self {
            nodes: Vec::new(),
            steps: Vec::new(),
            operands: Vec::new(),
            results: Vec::new(),
            values: Vec::new(),
            users: Vec::new(),
            producers: Vec::new(),
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
            if let Some(&first) = results.first() {
                it.producers[first] = Some(at);
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
            self.producers.push(None);
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

    /// The number of a value, if a node of this graph reads or gives it.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The node that a value is the first result of, if it is one of this graph.
    pub(crate) fn producer(&self, value: usize) -> Option<usize> {
        self.producers[value]
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
        // With a bias it reads two values.
        ("com.microsoft", "FastGelu") if node.inputs()?.iter().flatten().count() == 1 => {
            Step::GeluTanh
        }
        _ => Step::Other,
    })
}
