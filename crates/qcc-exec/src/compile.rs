//! From a graph to a plan: facts about all values, then the nodes that are needed, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use qcc_ir::{Graph, Kind, Node, NodeId, OpRef, Scope, Type, Value};
use qcc_ops::fused_matmul::FusedMatMul;
use qcc_ops::grad::MatMulGradW;
use qcc_ops::matmul::{Gemm, MatMul};
use qcc_ops::nbits::MatMulNBits;

use crate::bind::Given;
use crate::control::{Control, is_control};
use crate::error::{ExecError, Label, collect};
use crate::facts::{Fact, Facts, Hold};
use crate::lazy::LazyNode;
use crate::memory;
use crate::plan::{Env, Fed, Held, Plan, Reg, Step, Work};
use crate::turned::turned;

/// What to plan.
pub(crate) struct Job<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) scope: Scope,
    pub(crate) given: Given,
    pub(crate) outputs: &'a [Value],
    /// Values to compute besides.
    pub(crate) tapped: &'a [Value],
    pub(crate) env: &'a Env,
}

pub(crate) fn compile(job: &Job<'_>) -> Result<Plan, ExecError> {
    let graph = job.graph;
    let mut facts = Facts::default();
    for (value, ty) in &job.given.fed {
        facts.values.insert(*value, Fact::live(ty.clone()));
    }
    for (value, tensor) in &job.given.fixed {
        facts.values.insert(*value, Fact::fixed(tensor.clone()));
    }
    let given: BTreeSet<Value> = facts.values.keys().copied().collect();
    let roots: Vec<Value> = job.outputs.iter().chain(job.tapped).copied().collect();
    let order = graph.topo();

    // Facts about all that the roots reach; then, going back again, what has to run: nothing
    // before a value that is known.
    let reached = reach(graph, &roots, |it| given.contains(&it));
    for &id in order.iter().filter(|it| reached.contains(it)) {
        if let Some(node) = graph.node(id) {
            facts.settle(graph, id, node);
        }
    }
    let is_known = |it: Value| matches!(facts.get(it).map(|it| &it.hold), Some(Hold::Fixed(_)));
    let needed = reach(graph, &roots, |it| given.contains(&it) || is_known(it));
    let needed: Vec<NodeId> = order.into_iter().filter(|it| needed.contains(it)).collect();

    let mut unsupported = Vec::new();
    collect(graph, &job.scope, &needed, &mut unsupported);
    if !unsupported.is_empty() {
        return Err(ExecError::Unsupported(unsupported));
    }
    if let Some(error) = needed.iter().find_map(|it| facts.errors.get(it)) {
        return Err(error.clone());
    }
    Planner::new(job, &facts).plan(&needed)
}

/// Nodes that the roots need, up to values at which to stop.
pub(crate) fn reach(
    graph: &Graph,
    roots: &[Value],
    stop: impl Fn(Value) -> bool,
) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    let mut stack = roots.to_vec();
    while let Some(value) = stack.pop() {
        if !stop(value)
            && let Some(node) = graph.node(value.node)
            && found.insert(value.node)
        {
            stack.extend(node.uses());
        }
    }
    found
}

struct Planner<'a> {
    job: &'a Job<'a>,
    facts: &'a Facts,
    plan: Plan,
    /// Lazy nodes by the node of the graph.
    lazies: BTreeMap<NodeId, usize>,
}

impl<'a> Planner<'a> {
    fn new(job: &'a Job<'a>, facts: &'a Facts) -> Self {
        let plan = Plan {
            scope: job.scope.clone(),
            fed: Vec::new(),
            outputs: Vec::new(),
            output_names: Vec::new(),
            regs: Vec::new(),
            types: Vec::new(),
            index: BTreeMap::new(),
            steps: Vec::new(),
            lazies: Vec::new(),
            env: job.env.clone(),
            peak: 0,
            flops: 0,
        };
        Self { job, facts, plan, lazies: BTreeMap::new() }
    }

    fn plan(mut self, needed: &[NodeId]) -> Result<Plan, ExecError> {
        let graph = self.job.graph;
        // What is read gets its number when its reader is met, so results that nothing reads get
        // none: find those that are read first.
        let mut is_read: BTreeSet<Value> = self.job.outputs.iter().copied().collect();
        is_read.extend(self.job.tapped);
        is_read.extend(needed.iter().filter_map(|&it| graph.node(it)).flat_map(Node::uses));

        for &id in needed {
            let Some(node) = graph.node(id) else { continue };
            let Kind::Op(op) = &node.kind else { continue };
            let values: Vec<Value> = graph.values_of(id).collect();
            let is_lazy = |it: &Value| matches!(self.hold(*it), Some(Hold::Lazy));
            if values.iter().any(is_lazy) {
                self.lazy(id, op);
                continue;
            }
            let turned = turned(graph, self.facts, node);
            let (op, operands) =
                turned.as_ref().map_or((op, &node.inputs), |(op, operands)| (op, operands));
            let inputs: Vec<Option<Reg>> =
                operands.iter().map(|it| it.map(|it| self.reg(it))).collect();
            let work = if is_control(op) {
                let scope = &self.job.scope;
                Work::Control(Control::new(op, node, id, scope, |it| self.reg(it)))
            } else {
                Work::Op(op.clone())
            };
            let outputs: Vec<Option<Reg>> =
                values.iter().map(|it| is_read.contains(it).then(|| self.reg(*it))).collect();
            let types = |list: &[Option<Reg>]| -> Vec<Option<Type>> {
                list.iter().map(|it| it.and_then(|it| self.plan.types.get(it).cloned())).collect()
            };
            let flops = flops(op, &types(&inputs), &types(&outputs)).unwrap_or(0);
            self.plan.flops = self.plan.flops.saturating_add(flops);
            let label = Label::of(node);
            self.plan.steps.push(Step { label, work, inputs, outputs, frees: Vec::new(), flops });
        }
        for &value in self.job.outputs {
            let reg = self.reg(value);
            self.plan.outputs.push(reg);
            self.plan.output_names.push(graph.value_name(value).to_owned());
        }
        for &value in self.job.tapped {
            self.reg(value);
        }
        for (value, ty) in &self.job.given.fed {
            let name = graph.value_name(*value).to_owned();
            let reg = self.plan.index.get(value).copied();
            self.plan.fed.push(Fed { name, ty: ty.clone(), reg });
        }
        memory::settle(&mut self.plan);
        Ok(self.plan)
    }

    fn hold(&self, value: Value) -> Option<&'a Hold> {
        self.facts.get(value).map(|it| &it.hold)
    }

    fn lazy(&mut self, id: NodeId, op: &OpRef) {
        let Some(node) = self.job.graph.node(id) else { return };
        let inputs: Vec<Option<Reg>> =
            node.inputs.iter().map(|it| it.map(|it| self.reg(it))).collect();
        let readers: BTreeSet<NodeId> =
            self.job.graph.values_of(id).flat_map(|it| self.job.graph.users(it)).collect();
        self.lazies.insert(id, self.plan.lazies.len());
        self.plan.lazies.push(LazyNode {
            label: Label::of(node),
            op: op.clone(),
            inputs,
            n_outputs: node.outputs.len(),
            is_shared: readers.len() > 1,
            results: OnceLock::new(),
        });
    }

    /// The number of a value, a new one the first time.
    fn reg(&mut self, value: Value) -> Reg {
        if let Some(&reg) = self.plan.index.get(&value) {
            return reg;
        }
        let held = match self.hold(value) {
            Some(Hold::Fixed(tensor)) => Held::Fixed(tensor.clone()),
            Some(Hold::Lazy) => match self.lazies.get(&value.node) {
                Some(&node) => Held::Lazy { node, slot: value.slot as usize },
                None => Held::Live,
            },
            Some(Hold::Live) | None => Held::Live,
        };
        let reg = self.plan.regs.len();
        self.plan.regs.push(held);
        let ty = self.facts.get(value).map(|it| it.ty.clone());
        self.plan.types.push(ty.unwrap_or_default());
        self.plan.index.insert(value, reg);
        reg
    }
}

/// Additions and multiplications of a product of matrices; `None` for other operators, and when
/// shapes are not known.
fn flops(op: &OpRef, inputs: &[Option<Type>], outputs: &[Option<Type>]) -> Option<u64> {
    let dims = inputs.first()?.as_ref()?.known_dims()?;
    let (&last, before) = dims.split_last()?;
    let depth = if op.is::<MatMulGradW>().is_some() {
        before.iter().try_fold(1usize, |all, &it| all.checked_mul(it))?
    } else if let Some(op) = op.is::<MatMulNBits>() {
        op.k
    } else if op.is::<Gemm>().is_some_and(|it| it.trans_a)
        || op.is::<FusedMatMul>().is_some_and(|it| it.a.matrix)
    {
        *before.last()?
    } else if op.is::<MatMul>().is_some()
        || op.is::<Gemm>().is_some()
        || op.is::<FusedMatMul>().is_some()
    {
        last
    } else {
        return None;
    };
    let out = outputs.first()?.as_ref()?.known_dims()?;
    let count = out.iter().try_fold(2 * depth as u64, |all, &it| all.checked_mul(it as u64));
    Some(count.unwrap_or(u64::MAX))
}
