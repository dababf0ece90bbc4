//! The weights of a block while they are tuned.

use qcc_ir::Value;
use qcc_ops::quant::Form;
use qcc_pass::PassError;
use qcc_quant::codes::Codes;
use qcc_quant::rows::{FloatKind, WeightRows};
use qcc_quant::search::{SearchKind, search};
use qcc_quant::tuner::{Scales, Tuner};
use qcc_tensor::{Pool, Tensor};
use rayon::prelude::*;

use super::{Options, Start};
use crate::choose::Weight;

/// A weight of the block.
pub(super) struct Tuned {
    /// Which of the weights of the pass.
    pub(super) index: usize,
    /// Its float value in the graph that is run.
    pub(super) value: Value,
    /// The name of that value.
    pub(super) name: String,
    form: Form,
    dims: Vec<usize>,
    /// `f32[n][k]`.
    weights: Vec<f32>,
    scales: Scales,
    rate: Option<f32>,
    tuner: Tuner,
    /// What the parameters give now.
    codes: Codes,
    /// The best codes so far.
    pub(super) best: Codes,
    /// What it began with, as soon as others are better.
    start: Option<Codes>,
    /// Sum of the gradients of a step, of the shape of the weight in the graph.
    gradient: Option<Tensor>,
}

impl Tuned {
    /// Begins from what the options say. `d: [k]` are the mean squares of the inputs.
    pub(super) fn new(
        (index, weight): (usize, &Weight),
        graph: (Value, String),
        d: Option<&[f32]>,
        options: Options,
    ) -> Result<Self, PassError> {
        let given = if options.start == Start::Given { weight.codes() } else { None };
        let start = match given {
            Some(codes) => codes,
            None => search(&weight.rows()?, &weight.quant.spec, SearchKind::Grid, d),
        };
        Self::from_codes((index, weight), graph, start, options)
    }

    /// Begins from codes. `value` has the `name` in the graph that is run.
    pub(super) fn from_codes(
        (index, weight): (usize, &Weight),
        (value, name): (Value, String),
        start: Codes,
        options: Options,
    ) -> Result<Self, PassError> {
        let (rows, scales) = (weight.rows()?, options.scales);
        let mut weights = vec![0.0; rows.n() * rows.k()];
        rows.read(0, &mut weights);
        Ok(Self {
            index,
            value,
            name,
            form: weight.quant.form,
            dims: weight.tensor.dims().into(),
            tuner: Tuner::new(&start, &weights, 1, scales),
            scales,
            rate: options.rate,
            gradient: None,
            weights,
            best: start.clone(),
            start: None,
            codes: start,
        })
    }

    /// Begins `steps` steps from what it starts with.
    pub(super) fn begin(&mut self, steps: u16) {
        self.tuner = Tuner::new(&self.best, &self.weights, steps, self.scales).with_rate(self.rate);
        if self.scales == Scales::Ends {
            self.tuner.encode(&self.weights, &mut self.codes);
        }
    }

    /// The weight after rounding, as the graph reads it.
    pub(super) fn rounded(&self, pool: &Pool) -> Result<Tensor, PassError> {
        self.tensor(&self.codes, pool)
    }

    /// The best weight so far.
    pub(super) fn best(&self, pool: &Pool) -> Result<Tensor, PassError> {
        self.tensor(&self.best, pool)
    }

    /// The codes now are the best ones.
    pub(super) fn keep(&mut self) {
        if self.start.is_some() {
            self.best.clone_from(&self.codes);
        } else {
            self.start = Some(std::mem::replace(&mut self.best, self.codes.clone()));
        }
    }

    /// The best codes are again those that it began with.
    pub(super) fn restart(&mut self) {
        if let Some(start) = self.start.take() {
            self.best = start;
        }
    }

    /// Adds the gradient of some samples.
    pub(super) fn add(&mut self, gradient: Tensor, pool: &Pool) -> Result<(), PassError> {
        self.gradient = Some(match self.gradient.take() {
            None => gradient,
            Some(before) => sum(&before, &gradient, pool)?,
        });
        Ok(())
    }

    /// Moves by one step against the gradient that was added up, and begins a new sum. The inner
    /// error says why it cannot.
    pub(super) fn step(&mut self) -> Result<Result<(), String>, PassError> {
        let Form { n, k, order } = self.form;
        let Some(gradient) = self.gradient.take() else { return Ok(Ok(())) };
        let Ok(rows) = WeightRows::new(gradient.bytes(), FloatKind::F32, n, k, order) else {
            return Err(PassError::internal("a gradient is not of the shape of its weight"));
        };
        let moved = self.tuner.step(&self.weights, &rows, &mut self.codes);
        Ok(moved.map_err(|it| it.to_string()))
    }

    fn tensor(&self, codes: &Codes, pool: &Pool) -> Result<Tensor, PassError> {
        let mut out = pool.take(self.weights.len())?;
        codes.fill(self.form.order, &mut out);
        Ok(pool.tensor(self.dims.clone(), out)?)
    }
}

fn sum(a: &Tensor, b: &Tensor, pool: &Pool) -> Result<Tensor, PassError> {
    let dims = a.dims().into();
    let (a, b) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
    let mut out = pool.take(a.len())?;
    let terms = a.par_iter().zip(b.par_iter());
    out.par_iter_mut().zip(terms).for_each(|(sum, (a, b))| *sum = a + b);
    Ok(pool.tensor(dims, out)?)
}
