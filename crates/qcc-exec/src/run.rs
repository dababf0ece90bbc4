//! Running a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use qcc_ir::{Scope, Type, Value};
use qcc_tensor::Tensor;

use crate::bind::check;
use crate::error::ExecError;
use crate::plan::{Fed, Held, Plan, Reg, Step, Work};

/// Values to show to a caller while a plan runs, by graph.
pub(crate) struct Taps<'a> {
    pub(crate) wanted: BTreeMap<Scope, BTreeSet<Value>>,
    pub(crate) sink: &'a mut dyn FnMut(&Scope, Value, &Tensor),
}

/// The values of one run that are alive.
pub(crate) struct State(Vec<Option<Tensor>>);

impl Plan {
    /// Runs the graph: its outputs, or those of the options, by name.
    ///
    /// `inputs` must have a tensor for each input that was bound by shape; what it has besides is
    /// not read. Each value of `taps` is given to `sink` once, when it is computed; constants
    /// first.
    ///
    /// # Errors
    /// When an input or tap is not that of the plan, or a node cannot be run.
    pub fn run(
        &self,
        inputs: &BTreeMap<String, Tensor>,
        taps: &[Value],
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<Vec<(String, Tensor)>, ExecError> {
        let taps: Vec<_> = taps.iter().map(|&it| (self.scope.clone(), it)).collect();
        self.run_scoped(inputs, &taps, &mut |_, value, tensor| sink(value, tensor))
    }

    /// As [`Plan::run`], with taps in the regions of nodes too: those are given each time that
    /// their region runs, and never if it does not.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run_scoped(
        &self,
        inputs: &BTreeMap<String, Tensor>,
        taps: &[(Scope, Value)],
        sink: &mut dyn FnMut(&Scope, Value, &Tensor),
    ) -> Result<Vec<(String, Tensor)>, ExecError> {
        let fed = self.fed(|name| inputs.get(name).cloned())?;
        let mut wanted: BTreeMap<Scope, BTreeSet<Value>> = BTreeMap::new();
        for (scope, value) in taps {
            if *scope == self.scope && !self.index.contains_key(value) {
                return Err(ExecError::NotPlanned(format!("{value:?}")));
            }
            wanted.entry(scope.clone()).or_default().insert(*value);
        }
        let outputs = self.execute(fed, &mut Taps { wanted, sink })?;
        Ok(self.output_names.iter().cloned().zip(outputs).collect())
    }

    /// As [`Plan::run`] without taps. The inputs are given away: where an operator can, it writes
    /// its result over one that nobody else holds, as a cache that grows by a token.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run_giving(
        &self,
        mut inputs: BTreeMap<String, Tensor>,
    ) -> Result<Vec<(String, Tensor)>, ExecError> {
        let fed = self.fed(|name| inputs.remove(name))?;
        drop(inputs);
        let mut taps = Taps { wanted: BTreeMap::new(), sink: &mut |_, _, _| {} };
        let outputs = self.execute(fed, &mut taps)?;
        Ok(self.output_names.iter().cloned().zip(outputs).collect())
    }

    /// The values that each run brings, in the order of `self.fed`.
    fn fed(&self, mut get: impl FnMut(&str) -> Option<Tensor>) -> Result<Vec<Tensor>, ExecError> {
        self.fits()?;
        let find = |it: &Fed| {
            let tensor = get(&it.name);
            tensor.ok_or_else(|| ExecError::input(&it.name, "is missing"))
        };
        let fed: Vec<Tensor> = self.fed.iter().map(find).collect::<Result<_, _>>()?;
        let all = self.fed.iter().zip(&fed).map(|(it, tensor)| (it.name.as_str(), &it.ty, tensor));
        check(all)?;
        Ok(fed)
    }

    /// Runs with the values that each run brings, in the order of `self.fed`.
    pub(crate) fn execute(
        &self,
        fed: Vec<Tensor>,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let mut state = State(vec![None; self.regs.len()]);
        for (it, tensor) in self.fed.iter().zip(fed) {
            if let Some(slot) = it.reg.and_then(|reg| state.0.get_mut(reg)) {
                *slot = Some(tensor);
            }
        }
        let mut tapped = self.tapped(taps);
        let is_later = |state: &State, reg: Reg| {
            matches!(self.regs.get(reg), Some(Held::Live)) && self.peek(state, reg).is_none()
        };
        for (&reg, &value) in tapped.iter().filter(|it| !is_later(&state, *it.0)) {
            let tensor = self.get(&state, reg)?;
            (taps.sink)(&self.scope, value, &tensor);
        }
        tapped.retain(|&reg, _| is_later(&state, reg));
        for step in &self.steps {
            let start = self.env.clock.as_ref().map(|_| Instant::now());
            for reg in step.inputs.iter().copied().flatten() {
                if let Some(&Held::Lazy { node, .. }) = self.regs.get(reg) {
                    self.force(node)?;
                }
            }
            let results = self.step(step, &mut state, taps)?;
            if let (Some(clock), Some(start)) = (&self.env.clock, start) {
                clock.add(&step.label.op, start.elapsed(), step.flops);
            }
            let count = results.len();
            let mut results = results.into_iter();
            for (slot, reg) in step.outputs.iter().enumerate() {
                let (result, Some(reg)) = (results.next(), *reg) else { continue };
                let Some(result) = result else {
                    let what = format!("gave {count} results, but result {slot} is read");
                    return Err(ExecError::bug(&step.label, what));
                };
                if cfg!(debug_assertions) {
                    self.check(step, reg, &result)?;
                }
                if let Some(&value) = tapped.get(&reg) {
                    (taps.sink)(&self.scope, value, &result);
                }
                if let Some(slot) = state.0.get_mut(reg) {
                    *slot = Some(result);
                }
            }
            for &reg in &step.frees {
                if let Some(slot) = state.0.get_mut(reg) {
                    *slot = None;
                }
            }
        }
        self.outputs.iter().map(|&reg| self.get(&state, reg)).collect()
    }

    fn tapped(&self, taps: &Taps<'_>) -> BTreeMap<Reg, Value> {
        let wanted = taps.wanted.get(&self.scope).into_iter().flatten();
        wanted.filter_map(|value| Some((*self.index.get(value)?, *value))).collect()
    }

    fn step(
        &self,
        step: &Step,
        state: &mut State,
        taps: &mut Taps<'_>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let taken = self.taken(step, state);
        let state = &*state;
        let inputs: Vec<Option<&Tensor>> =
            step.inputs.iter().map(|it| it.and_then(|reg| self.peek(state, reg))).collect();
        if let Some(at) =
            inputs.iter().zip(&step.inputs).position(|(a, b)| a.is_none() && b.is_some())
            && taken.iter().all(|it| it.0 != at)
        {
            return Err(ExecError::bug(&step.label, format!("its input {at} was not kept")));
        }
        match &step.work {
            Work::Control(it) => it.run(self, step, &inputs, state, taps),
            Work::Op(op) => {
                let fail = |error| {
                    let types: Vec<_> = inputs.iter().map(|it| it.map(Type::of)).collect();
                    ExecError::node(&step.label, &types, error)
                };
                let (cx, count) = (&self.env.cx, step.outputs.len());
                if taken.is_empty() {
                    op.eval(cx, &inputs, count).map_err(fail)
                } else {
                    op.eval_taking(cx, &inputs, taken, count).map_err(fail)
                }
            }
        }
    }

    /// Takes the operands out of the state that the operator may write over: those that it is the
    /// last to read.
    fn taken(&self, step: &Step, state: &mut State) -> Vec<(usize, Tensor)> {
        let Work::Op(op) = &step.work else { return Vec::new() };
        let mut taken = Vec::new();
        for &at in op.takes() {
            let Some(&Some(reg)) = step.inputs.get(at) else { continue };
            let reads = step.inputs.iter().filter(|it| **it == Some(reg)).count();
            if reads == 1 && step.frees.contains(&reg) {
                let tensor = state.0.get_mut(reg).and_then(Option::take);
                taken.extend(tensor.map(|it| (at, it)));
            }
        }
        taken
    }

    /// A value that is there: lazy ones only after [`Plan::force`].
    fn peek<'a>(&'a self, state: &'a State, reg: Reg) -> Option<&'a Tensor> {
        match self.regs.get(reg)? {
            Held::Live => state.0.get(reg)?.as_ref(),
            Held::Fixed(it) => Some(it),
            Held::Lazy { node, slot } => self.lazies.get(*node)?.results.get()?.get(*slot),
        }
    }

    /// A value, computed first if it is a lazy constant.
    pub(crate) fn get(&self, state: &State, reg: Reg) -> Result<Tensor, ExecError> {
        if let Some(&Held::Lazy { node, .. }) = self.regs.get(reg) {
            self.force(node)?;
        }
        let tensor = self.peek(state, reg).cloned();
        tensor.ok_or_else(|| ExecError::NotPlanned(format!("{reg}")))
    }

    /// What was inferred must hold, since shapes were folded by it.
    fn check(&self, step: &Step, reg: Reg, result: &Tensor) -> Result<(), ExecError> {
        let ty = Type::of(result);
        match self.types.get(reg) {
            Some(inferred) if inferred.meet(&ty).is_none() => {
                let what = format!("gave {ty}, but its rule says {inferred}");
                Err(ExecError::bug(&step.label, what))
            }
            _ => Ok(()),
        }
    }
}
