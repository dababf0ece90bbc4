//! The weights of a block while they are tuned.

use qcc_ir::Value;
use qcc_ops::quant::{Form, floats};
use qcc_pass::PassError;
use qcc_quant::codes::Codes;
use qcc_quant::rows::{FloatKind, WeightRows};
use qcc_quant::search::{SearchKind, search};
use qcc_quant::tuner::{GradientError, Scales, Tuner};
use qcc_tensor::{DType, Tensor};

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
    /// Sum of the gradients of a step, in the order of the bytes of the weight.
    gradient: Vec<f32>,
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
            gradient: vec![0.0; weights.len()],
            weights,
            best: start.clone(),
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
    pub(super) fn rounded(&self) -> Result<Tensor, PassError> {
        tensor(self.form, &self.dims, &self.codes)
    }

    /// The best weight so far.
    pub(super) fn best(&self) -> Result<Tensor, PassError> {
        tensor(self.form, &self.dims, &self.best)
    }

    /// The codes now are the best ones.
    pub(super) fn keep(&mut self) {
        self.best.clone_from(&self.codes);
    }

    /// Adds the gradient of one sample.
    pub(super) fn add(&mut self, gradient: &Tensor) -> Result<(), PassError> {
        let gradient = gradient.as_slice::<f32>()?;
        for (sum, x) in self.gradient.iter_mut().zip(gradient.iter()) {
            *sum += x;
        }
        Ok(())
    }

    /// Moves by one step against the gradient that was added up, and begins a new sum.
    pub(super) fn step(&mut self) -> Result<(), GradientError> {
        let Form { n, k, order } = self.form;
        let bytes = bytemuck::cast_slice(&self.gradient);
        if let Ok(rows) = WeightRows::new(bytes, FloatKind::F32, n, k, order) {
            let mut turned = vec![0.0; n * k];
            rows.read(0, &mut turned);
            self.tuner.step(&self.weights, &turned)?;
        }
        self.gradient.fill(0.0);
        self.tuner.encode(&self.weights, &mut self.codes);
        Ok(())
    }
}

fn tensor(form: Form, dims: &[usize], codes: &Codes) -> Result<Tensor, PassError> {
    let fill = &mut |row: usize, out: &mut [f32]| codes.dequantize(row, out);
    Ok(floats(form, DType::F32, dims.into(), fill)?)
}
