//! `If`, `Loop` and `Scan`: running the regions of a node.
//!
//! A region is planned when it first runs, for the types that it then gets, and the plan is kept.
//! Captured constants stay constants, so weights outside a region are prepared once.
//! Source: onnx/defs/controlflow/defs.cc.

use std::sync::{Arc, Mutex, PoisonError};

use qcc_ir::{EvalError, Node, NodeId, OpRef, Region, Scope, Type, TypeError, Value};
use qcc_ops::control::{If, Loop, Scan};
use qcc_tensor::{DType, Tensor};

use crate::bind::Given;
use crate::compile::{Job, compile};
use crate::error::ExecError;
use crate::facts::{Facts, Hold};
use crate::plan::{Env, Held, Plan, Reg, Step};
use crate::run::{State, Taps};
use crate::slices::{stack, take};

/// Plans of a region that are kept; a loop whose values grow needs a new one each time.
const KEPT: usize = 16;
/// Iterations after which a loop is taken for endless.
const ENDLESS: i64 = 10_000_000;

/// A node with regions.
#[derive(Debug)]
pub(crate) struct Control {
    op: OpRef,
    bodies: Vec<Body>,
}

/// A region and its plans.
#[derive(Debug)]
struct Body {
    region: Region,
    scope: Scope,
    captures: Vec<Reg>,
    plans: Mutex<Vec<(Vec<Type>, Arc<Plan>)>>,
}

/// Whether the operator is run here.
pub(crate) fn is_control(op: &OpRef) -> bool {
    op.is::<If>().is_some() || op.is::<Loop>().is_some() || op.is::<Scan>().is_some()
}

/// Types of the outputs: those of the branch that an `If` takes when that is known, else nothing.
pub(crate) fn types(facts: &Facts, node: &Node) -> Vec<Type> {
    let unknown = || vec![Type::Unknown; node.outputs.len()];
    let of_branch = || {
        node.op()?.is::<If>()?;
        let condition = match &facts.get((*node.inputs.first()?)?)?.hold {
            Hold::Fixed(it) => flag(it)?,
            Hold::Live | Hold::Lazy => return None,
        };
        let region = branch(&node.regions, condition)?;
        let mut given = Given::default();
        for (&inner, &outer) in region.graph.captures().iter().zip(&region.captures) {
            let (value, fact) = (Value { node: inner, slot: 0 }, facts.get(outer)?);
            match &fact.hold {
                Hold::Fixed(it) => given.fixed.push((value, it.clone())),
                Hold::Live | Hold::Lazy => {
                    fact.ty.known_dims()?;
                    given.fed.push((value, fact.ty.clone()));
                }
            }
        }
        let (outputs, env) = (region.graph.outputs(), Env::default());
        let scope = Scope::root();
        let job = Job { graph: &region.graph, scope, given, outputs, tapped: &[], env: &env };
        let plan = compile(&job).ok()?;
        plan.outputs.iter().map(|&it| plan.types.get(it).cloned()).collect::<Option<Vec<_>>>()
    };
    of_branch().unwrap_or_else(unknown)
}

fn branch(regions: &[Region], condition: bool) -> Option<&Region> {
    let attr = if condition { "then_branch" } else { "else_branch" };
    regions.iter().find(|it| it.attr == attr)
}

/// The one element of a `bool` tensor.
fn flag(tensor: &Tensor) -> Option<bool> {
    match tensor.as_bools() {
        Ok(&[it]) => Some(it != 0),
        _ => None,
    }
}

/// What runs a region: the plan and the state around it.
struct Around<'a> {
    control: &'a Control,
    plan: &'a Plan,
    step: &'a Step,
    state: &'a State,
}

impl Control {
    pub(crate) fn new(
        op: &OpRef,
        node: &Node,
        id: NodeId,
        scope: &Scope,
        mut reg: impl FnMut(Value) -> Reg,
    ) -> Self {
        let body = |(idx, region): (usize, &Region)| Body {
            region: region.clone(),
            scope: scope.inner(id, idx),
            captures: region.captures.iter().map(|&it| reg(it)).collect(),
            plans: Mutex::default(),
        };
        Self { op: op.clone(), bodies: node.regions.iter().enumerate().map(body).collect() }
    }

    /// Every value that the regions capture.
    pub(crate) fn captures(&self) -> Vec<Reg> {
        self.bodies.iter().flat_map(|it| it.captures.iter().copied()).collect()
    }

    pub(crate) fn run(
        &self,
        plan: &Plan,
        step: &Step,
        inputs: &[Option<&Tensor>],
        state: &State,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let around = Around { control: self, plan, step, state };
        let n_outputs = step.outputs.len();
        if self.op.is::<If>().is_some() {
            around.run_if(inputs, taps)
        } else if let Some(scan) = self.op.is::<Scan>() {
            around.run_scan(scan, inputs, n_outputs, taps)
        } else {
            around.run_loop(inputs, n_outputs, taps)
        }
    }
}

impl Around<'_> {
    fn wrong(&self, what: impl Into<String>) -> ExecError {
        let error = EvalError::from(TypeError::other(self.control.op.name(), what));
        ExecError::node(&self.step.label, &[], error)
    }

    fn body(&self, attr: &str) -> Result<&Body, ExecError> {
        let body = self.control.bodies.iter().find(|it| it.region.attr == attr);
        body.ok_or_else(|| self.wrong(format!("it has no '{attr}'")))
    }

    /// Runs a region with values for its inputs.
    fn call(
        &self,
        body: &Body,
        args: Vec<Tensor>,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let graph = &body.region.graph;
        if graph.inputs().len() != args.len() {
            let (want, got) = (graph.inputs().len(), args.len());
            return Err(self.wrong(format!("its region takes {want} values, not {got}")));
        }
        let mut fed = args;
        let mut values: Vec<Value> =
            graph.inputs().iter().map(|&node| Value { node, slot: 0 }).collect();
        let mut constants = Vec::new();
        for (&inner, &reg) in graph.captures().iter().zip(&body.captures) {
            let value = Value { node: inner, slot: 0 };
            if let Some(Held::Live) = self.plan.regs.get(reg) {
                fed.push(self.plan.get(self.state, reg)?);
                values.push(value);
            } else {
                constants.push((value, reg));
            }
        }
        let types: Vec<Type> = fed.iter().map(Type::of).collect();
        let kept = |plans: &[(Vec<Type>, Arc<Plan>)]| {
            plans.iter().find(|it| it.0 == types).map(|it| it.1.clone())
        };
        let found = kept(&body.plans.lock().unwrap_or_else(PoisonError::into_inner));
        let plan = if let Some(plan) = found {
            plan
        } else {
            let mut fixed = Vec::with_capacity(constants.len());
            for (value, reg) in constants {
                fixed.push((value, self.plan.get(self.state, reg)?));
            }
            let given = Given { fed: values.into_iter().zip(types.clone()).collect(), fixed };
            let plan = Arc::new(compile(&Job {
                graph,
                scope: body.scope.clone(),
                given,
                outputs: graph.outputs(),
                tapped: &[],
                env: &self.plan.env,
            })?);
            let mut plans = body.plans.lock().unwrap_or_else(PoisonError::into_inner);
            if plans.len() >= KEPT {
                plans.remove(0);
            }
            plans.push((types, plan.clone()));
            plan
        };
        plan.execute(fed, taps)
    }

    fn run_if(
        &self,
        inputs: &[Option<&Tensor>],
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let condition = inputs.first().copied().flatten().and_then(flag);
        let condition = condition.ok_or_else(|| self.wrong("its condition is not one bool"))?;
        let body = self.body(if condition { "then_branch" } else { "else_branch" })?;
        self.call(body, Vec::new(), taps)
    }

    fn run_loop(
        &self,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let [count, condition, carried @ ..] = inputs else {
            return Err(self.wrong("it takes at least 2 inputs"));
        };
        let most = match count {
            None => i64::MAX,
            Some(it) => match it.to_i64().as_deref() {
                Ok(&[it]) => it,
                _ => return Err(self.wrong("its trip count is not one integer")),
            },
        };
        let is_on =
            |it: &Tensor| flag(it).ok_or_else(|| self.wrong("its condition is not one bool"));
        let mut goes_on = condition.map_or(Ok(true), is_on)?;
        let carried: Option<Vec<Tensor>> = carried.iter().map(|it| it.cloned()).collect();
        let mut carried = carried.ok_or_else(|| self.wrong("an initial value is absent"))?;
        let body = self.body("body")?;
        let n_slices = body.region.graph.outputs().len().checked_sub(1 + carried.len());
        let n_slices = n_slices.ok_or_else(|| self.wrong("its region gives too few values"))?;
        let mut slices: Vec<Vec<Tensor>> = vec![Vec::new(); n_slices];
        // Some exporters declare the counter and the condition as vectors of one element.
        let shaped = |index: usize, it: Tensor| {
            let input = body.region.graph.inputs().get(index);
            let ty = input.map(|&node| body.region.graph.ty(Value { node, slot: 0 }));
            match ty.and_then(Type::rank) {
                Some(1) => it.reshape(vec![1]).unwrap_or(it),
                _ => it,
            }
        };
        let mut index = 0i64;
        while goes_on && index < most {
            if index >= ENDLESS {
                return Err(self.wrong(format!("it did not end after {ENDLESS} iterations")));
            }
            let on = Tensor::from_bools(Vec::new(), &[true]);
            let on = on.map_err(|it| self.wrong(it.to_string()))?;
            let mut args = vec![shaped(0, Tensor::scalar(index)), shaped(1, on)];
            args.append(&mut carried);
            let mut results = self.call(body, args, taps)?.into_iter();
            let on = results.next().ok_or_else(|| self.wrong("its region gives no condition"))?;
            goes_on = is_on(&on)?;
            let n_carried = results.len().saturating_sub(n_slices);
            carried = results.by_ref().take(n_carried).collect();
            for (list, slice) in slices.iter_mut().zip(results) {
                list.push(slice);
            }
            index += 1;
        }
        let first = 1 + carried.len();
        for (at, list) in slices.iter().enumerate() {
            carried.push(self.stacked(body, first + at, list, 0)?);
        }
        carried.truncate(n_outputs);
        Ok(carried)
    }

    fn run_scan(
        &self,
        scan: &Scan,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        if scan.batched {
            let error = EvalError::unsupported(&*self.control.op, "of opset 8");
            return Err(ExecError::node(&self.step.label, &[], error));
        }
        let inputs: Option<Vec<Tensor>> = inputs.iter().map(|it| it.cloned()).collect();
        let inputs = inputs.ok_or_else(|| self.wrong("an input is absent"))?;
        let n_states = inputs.len().checked_sub(scan.num_scan_inputs);
        let n_states = n_states.ok_or_else(|| self.wrong("it has too few inputs"))?;
        let (states, sliced) = inputs.split_at(n_states);
        let option = |list: &Option<Vec<i64>>, at: usize| {
            list.as_ref().and_then(|it| it.get(at).copied()).unwrap_or(0)
        };
        let axis_of = |axis: i64, rank: usize| {
            let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
            let at = usize::try_from(at).ok().filter(|&it| it < rank);
            at.ok_or_else(|| self.wrong(format!("axis {axis} is outside of rank {rank}")))
        };
        let mut axes = Vec::new();
        let mut count = None;
        for (at, tensor) in sliced.iter().enumerate() {
            let axis = axis_of(option(&scan.input_axes, at), tensor.rank())?;
            let len = tensor.dims().get(axis).copied().unwrap_or(0);
            if count.replace(len).is_some_and(|it| it != len) {
                return Err(self.wrong("its inputs have different numbers of slices"));
            }
            axes.push((tensor, axis, option(&scan.input_directions, at) == 1));
        }
        let count = count.ok_or_else(|| self.wrong("it scans nothing"))?;
        let body = self.body("body")?;
        let n_slices = body.region.graph.outputs().len().checked_sub(n_states);
        let n_slices = n_slices.ok_or_else(|| self.wrong("its region gives too few values"))?;
        let mut slices: Vec<Vec<Tensor>> = vec![Vec::new(); n_slices];
        let mut states = states.to_vec();
        for index in 0..count {
            let mut args = states;
            for &(tensor, axis, is_reverse) in &axes {
                let at = if is_reverse { count - 1 - index } else { index };
                let slice = take(tensor, axis, at);
                let dtype = tensor.dtype();
                args.push(slice.ok_or_else(|| self.wrong(format!("cannot slice {dtype}")))?);
            }
            let mut results = self.call(body, args, taps)?.into_iter();
            states = results.by_ref().take(n_states).collect();
            for (list, slice) in slices.iter_mut().zip(results) {
                list.push(slice);
            }
        }
        for (at, list) in slices.iter_mut().enumerate() {
            if option(&scan.output_directions, at) == 1 {
                list.reverse();
            }
            let slot = n_states + at;
            let rank = list.first().map_or_else(|| slice_type(body, slot).1.len(), Tensor::rank);
            let axis = axis_of(option(&scan.output_axes, at), rank + 1)?;
            states.push(self.stacked(body, slot, list, axis)?);
        }
        states.truncate(n_outputs);
        Ok(states)
    }

    fn stacked(
        &self,
        body: &Body,
        output: usize,
        list: &[Tensor],
        axis: usize,
    ) -> Result<Tensor, ExecError> {
        let (dtype, dims) = slice_type(body, output);
        let stacked = stack(list, axis, dtype, &dims);
        stacked.map_err(|error| ExecError::node(&self.step.label, &[], error.into()))
    }
}

/// Element type and dimensions that a region declares for an output; what it leaves open is 0.
fn slice_type(body: &Body, output: usize) -> (DType, Vec<usize>) {
    let graph = &body.region.graph;
    let ty = graph.outputs().get(output).map(|&it| graph.ty(it).clone()).unwrap_or_default();
    let dims = ty.shape().unwrap_or(&[]).iter().map(|it| it.known().unwrap_or(0)).collect();
    (ty.dtype().unwrap_or(DType::F32), dims)
}
