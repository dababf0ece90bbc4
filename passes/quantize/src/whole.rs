//! The model as one function of its weights: how far what it gives is from the float model, and the
//! derivative of that.
//!
//! For logits, `loss = mean KL(p || q)` in nats over the tokens that count, with `p` of the float
//! model and `q` of the model with other weights; its adjoint at the logits is `q - p` for each
//! token, by the number of tokens. For a model without logits, an encoder say,
//! `loss = |y - y'|^2 / |y|^2` over the rows that count, for each output, and the mean of those.
//!
//! At the float weights the loss and its gradient are 0. What they do next to it is its curvature, the
//! Fisher information `F`: [`Target::Drawn`] pulls the model not to what it gives but to a token drawn
//! from it, and the gradients `g` of that have `E[g g^T] = F` and `loss = dW F dW / 2` to second order,
//! so `E[(g dW)^2] / 2` is the loss of a change `dW` of the weights.
//!
//! One sample runs at a time, so memory is that of one sample.

mod goal;
mod gradient;

use std::collections::{BTreeMap, BTreeSet};

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, Type, Value};
use qcc_pass::{PassError, SampleSource, Session, Tap, WorkingCopy};
use qcc_tensor::{DType, Tensor};

use crate::activations::{self, in_float};
use crate::planned::{Feed, Planned};
use crate::room::bytes;
use crate::sites::{Role, Site, find_sites};

use goal::Goal;
pub use goal::Kind;
use gradient::Gradients;

/// What the float model gives for samples that run again is kept up to this size, and computed again
/// beyond it.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// What the outputs are pulled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What the float model gives: gradients of the loss.
    Float,
    /// A draw from what the float model gives, the same for the same number: gradients whose
    /// squares have the curvature of the loss as their mean.
    Drawn(u64),
}

/// The loss of one sample and its derivatives.
#[derive(Debug)]
pub struct Pulled {
    /// Which sample.
    pub sample: usize,
    /// The loss against the float model, whatever the target.
    pub loss: f64,
    /// How many tokens count in it: the loss of several samples is their mean under these.
    pub tokens: f64,
    /// For each weight that has one, by its place in the list that was asked for: the gradient, of
    /// the shape of the weight, in f32.
    pub gradients: Vec<(usize, Tensor)>,
}

/// Weights to be used in place of those of the model: which of the list that was asked for, and the
/// tensor in f32, of the same shape.
pub type Replaced<'a> = &'a [(usize, Tensor)];

/// A weight of the copy that is run.
#[derive(Clone, Debug)]
struct Wrt {
    /// Which of the list that was asked for.
    index: usize,
    value: Value,
    name: String,
}

/// The model as a function of some of its weights.
pub struct Whole<'a> {
    graph: Graph,
    goals: Vec<Goal>,
    /// Weights that can be replaced.
    open: Vec<Wrt>,
    /// Those of them that have gradients.
    wrt: Vec<Wrt>,
    left: BTreeMap<usize, String>,
    /// Weights that are others than in the float model, by name.
    fixed: Feed,
    gradients: Gradients,
    forward: Planned,
    backward: Planned,
    samples: &'a dyn SampleSource,
    session: &'a Session,
    /// Samples that have run.
    seen: BTreeSet<usize>,
    /// What the float model gives, by sample: kept from the second run on.
    kept: BTreeMap<usize, Vec<Tensor>>,
    kept_bytes: u64,
}

impl<'a> Whole<'a> {
    /// Of `root`, whose marked weights are floats again, and its constants `wrt`.
    ///
    /// Weights without a gradient are no error: see [`Whole::left`].
    ///
    /// # Errors
    /// When the run is cancelled, or the model has no output of floats.
    pub fn new(
        root: &Graph,
        session: &'a Session,
        samples: &'a dyn SampleSource,
        wrt: &[Tap],
    ) -> Result<Self, PassError> {
        let copy = WorkingCopy::through(&in_float(root)?, wrt, &session.tuning_copy, session)?;
        let sites = find_sites(&copy.graph);
        let goals = goals(&copy.graph, &sites);
        if goals.is_empty() {
            let text = "the model gives no floats, so weights cannot be judged by what it gives";
            return Err(Diagnostic::error(codes::QCC0402, text).into());
        }
        let mut left = BTreeMap::new();
        let mut found: Vec<Wrt> = Vec::new();
        let mut taken = BTreeSet::new();
        for (index, tap) in wrt.iter().enumerate() {
            let value = copy.tap(tap).filter(|it| it.0.0.is_empty()).map(|it| it.1);
            let same = |value: &Value| {
                let old = root.at(&tap.0).and_then(|it| it.constant(tap.1));
                let new = copy.graph.constant(*value);
                old.zip(new).is_some_and(|(a, b)| a.dims() == b.dims() && b.dtype() == DType::F32)
            };
            match value.filter(same) {
                None => _ = left.insert(index, "it is in a branch, or no constant".to_owned()),
                Some(value) if !taken.insert(value) => {
                    left.insert(index, "another weight is the same value".to_owned());
                }
                Some(value) => {
                    let name = copy.graph.value_name(value).to_owned();
                    found.push(Wrt { index, value, name });
                }
            }
        }
        let open = found.clone();
        let gradients = Gradients::new(&copy.graph, &goals, &mut found, &mut left);
        Ok(Self {
            graph: copy.graph,
            goals,
            open,
            wrt: found,
            left,
            fixed: Feed::new(),
            gradients,
            forward: Planned::default(),
            backward: Planned::default(),
            samples,
            session,
            seen: BTreeSet::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
        })
    }

    /// Weights that have no gradient, by their place in the list that was asked for, and why.
    pub fn left(&self) -> &BTreeMap<usize, String> {
        &self.left
    }

    /// From now on a weight is another than in the float model where it is not replaced; it need not
    /// have a gradient. One in a branch stays as it is.
    pub fn fix(&mut self, index: usize, tensor: Tensor) {
        if let Some(it) = self.open.iter().find(|it| it.index == index) {
            self.fixed.insert(it.name.clone(), tensor);
        }
    }

    /// What each output that is looked at is taken for, by its name.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.goals.iter().map(|it| (it.name.as_str(), it.kind))
    }

    /// The loss of a sample with other weights; 0 without. Tokens that count, besides.
    ///
    /// # Errors
    /// When the model cannot be run on the sample.
    pub fn loss(&mut self, sample: usize, replaced: Replaced<'_>) -> Result<(f64, f64), PassError> {
        let wanted = self.float(sample)?;
        let mut feed = self.feed(sample)?;
        self.replace(&mut feed, replaced);
        let found = self.forward(&feed)?;
        self.measure(sample, &found, &wanted)
    }

    /// The loss of a sample, and its derivatives at other weights.
    ///
    /// # Errors
    /// As [`Whole::loss`].
    pub fn pull(
        &mut self,
        sample: usize,
        replaced: Replaced<'_>,
        target: Target,
    ) -> Result<Pulled, PassError> {
        let wanted = self.float(sample)?;
        let mut feed = self.feed(sample)?;
        self.replace(&mut feed, replaced);
        let counted = self.samples.counted(sample)?;
        for (goal, (wanted, names)) in self.goals.iter().zip(wanted.iter().zip(&self.gradients.fed))
        {
            let mut rng = self.session.rng(&match target {
                Target::Float => String::new(),
                Target::Drawn(number) => format!("draw {number} of sample {sample}: {}", goal.name),
            });
            let rng = (target != Target::Float).then_some(&mut rng);
            let (goal, shares) = goal.pull(wanted, counted.as_ref(), rng, self.goals.len())?;
            feed.insert(names.wanted.clone(), goal);
            feed.insert(names.shares.clone(), shares);
        }
        let outputs = self.goals.iter().map(|it| it.value);
        let options = self.options(outputs.chain(self.gradients.weights.iter().copied()).collect());
        let found = self.backward.run(&self.gradients.graph, &options, &feed, &mut |_, _| ());
        let mut found = found.map_err(activations::error)?;
        let gradients = found.split_off(self.goals.len());
        let (loss, tokens) = self.measure(sample, &found, &wanted)?;
        let gradients = self.wrt.iter().map(|it| it.index).zip(gradients).collect();
        Ok(Pulled { sample, loss, tokens, gradients })
    }

    /// Gives the derivatives of each sample to `sink`, one after the other.
    ///
    /// # Errors
    /// As [`Whole::loss`], what the sink fails with, and when the run is cancelled.
    pub fn each(
        &mut self,
        replaced: Replaced<'_>,
        target: Target,
        sink: &mut dyn FnMut(Pulled) -> Result<(), PassError>,
    ) -> Result<(), PassError> {
        for sample in 0..self.samples.len() {
            if self.session.cancel.is_set() {
                return Err(PassError::Cancelled);
            }
            let found = self.pull(sample, replaced, target)?;
            sink(found)?;
        }
        Ok(())
    }

    /// Bytes that the derivatives of a sample take beside the model, what the float model gives for
    /// all samples included; `None` when that cannot be told before they run.
    ///
    /// # Errors
    /// When the sample cannot be read.
    pub fn memory(&self, sample: usize) -> Result<Option<u64>, PassError> {
        let feed = self.feed(sample)?;
        let mut bounds: BTreeMap<String, Bound> =
            feed.iter().map(|it| (it.0.clone(), Bound::like(it.1))).collect();
        let given =
            |bounds: &BTreeMap<String, Bound>| bounds.clone().into_iter().collect::<Vec<_>>();
        let outputs: Vec<Value> = self.goals.iter().map(|it| it.value).collect();
        let options = self.options(outputs.clone());
        let Ok(forward) = Plan::new(&self.graph, &given(&bounds), &options) else {
            return Ok(None);
        };
        let mut kept = 0;
        for (goal, names) in self.goals.iter().zip(&self.gradients.fed) {
            let Some(dims) = forward.ty(goal.value).and_then(Type::known_dims) else {
                return Ok(None);
            };
            kept += 4 * dims.iter().product::<usize>();
            bounds.insert(names.wanted.clone(), Bound::Shape(DType::F32, dims.clone()));
            let rows = dims.split_last().map_or(&[][..], |it| it.1);
            let rows = rows.iter().copied().chain([1]).collect();
            bounds.insert(names.shares.clone(), Bound::Shape(DType::F32, rows));
        }
        for it in &self.open {
            let Some(tensor) = self.graph.constant(it.value) else { return Ok(None) };
            bounds.insert(it.name.clone(), Bound::like(tensor));
        }
        let fed: u64 = bounds.values().map(bytes).sum();
        let options = self.options([outputs, self.gradients.weights.clone()].concat());
        let Ok(plan) = Plan::new(&self.gradients.graph, &given(&bounds), &options) else {
            return Ok(None);
        };
        let kept = (kept * self.samples.len()) as u64;
        Ok(Some(plan.peak_bytes() as u64 + fed + kept.min(self.most_kept())))
    }

    /// What the float model gives is kept up to this many bytes.
    fn most_kept(&self) -> u64 {
        self.session.max_mem.map_or(MAX_KEPT_BYTES, |it| MAX_KEPT_BYTES.min(it / 4))
    }

    fn feed(&self, sample: usize) -> Result<Feed, PassError> {
        Ok(self.samples.batch(sample)?.into_iter().collect())
    }

    fn replace(&self, feed: &mut Feed, replaced: Replaced<'_>) {
        feed.extend(self.fixed.clone());
        for (index, tensor) in replaced {
            if let Some(it) = self.open.iter().find(|it| it.index == *index) {
                feed.insert(it.name.clone(), tensor.clone());
            }
        }
    }

    /// The outputs that are looked at.
    fn forward(&mut self, feed: &Feed) -> Result<Vec<Tensor>, PassError> {
        let options = self.options(self.goals.iter().map(|it| it.value).collect());
        let found = self.forward.run(&self.graph, &options, feed, &mut |_, _| ());
        found.map_err(activations::error)
    }

    fn options(&self, outputs: Vec<Value>) -> PlanOptions {
        let pool = self.session.pool.clone();
        PlanOptions { outputs: Some(outputs), pool, ..PlanOptions::default() }
    }

    /// What the float model gives.
    fn float(&mut self, sample: usize) -> Result<Vec<Tensor>, PassError> {
        if let Some(found) = self.kept.get(&sample) {
            return Ok(found.clone());
        }
        let feed = self.feed(sample)?;
        let found = self.forward(&feed)?;
        let size: u64 = found.iter().map(|it| it.bytes().len() as u64).sum();
        if !self.seen.insert(sample) && self.kept_bytes + size <= self.most_kept() {
            self.kept_bytes += size;
            self.kept.insert(sample, found.clone());
        }
        Ok(found)
    }

    /// The loss of what was found, and the tokens that count.
    fn measure(
        &self,
        sample: usize,
        found: &[Tensor],
        wanted: &[Tensor],
    ) -> Result<(f64, f64), PassError> {
        let counted = self.samples.counted(sample)?;
        let (mut loss, mut tokens) = (0.0, 0.0);
        for (goal, (found, wanted)) in self.goals.iter().zip(found.iter().zip(wanted)) {
            let (each, count) = goal.loss(found, wanted, counted.as_ref())?;
            loss += each / self.goals.len() as f64;
            tokens = count;
        }
        Ok((loss, tokens))
    }
}

/// Logits where the model has them, else all outputs of floats that are no cache.
fn goals(graph: &Graph, sites: &[Site]) -> Vec<Goal> {
    let is_float = |it: &Value| graph.ty(*it).dtype().is_some_and(DType::is_float);
    let outputs: Vec<Value> = graph.outputs().iter().copied().filter(is_float).collect();
    let is_head = |n: usize| {
        let fits = |it: &Site| it.form.as_ref().is_ok_and(|form| form.n == n);
        sites.iter().any(|it| it.role == Role::Head && fits(it))
    };
    let is_logits = |it: &&Value| {
        let (name, ty) = (graph.value_name(**it), graph.ty(**it));
        let last = ty.shape().and_then(|it| it.last()?.known());
        name == "logits" && ty.rank().is_none_or(|it| it >= 2)
            || ty.rank() == Some(3) && !name.contains("hidden") && last.is_some_and(is_head)
    };
    let goal = |value: Value, kind: Kind| {
        let name = graph.value_name(value).to_owned();
        Goal { value, name, kind }
    };
    if let Some(logits) = outputs.iter().find(is_logits) {
        return vec![goal(*logits, Kind::Logits)];
    }
    let is_cache = |it: &&Value| {
        let name = graph.value_name(**it);
        name.contains("present") || name.contains("past")
    };
    let rest = outputs.iter().filter(|it| !is_cache(it));
    rest.map(|it| goal(*it, Kind::Values)).collect()
}

#[cfg(test)]
mod tests;
