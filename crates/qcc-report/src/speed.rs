//! How fast a model is: what `qcc bench --json` found.

use serde::Deserialize;

/// Times of a model, and of a reference where there was one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Speed {
    /// The model that was timed.
    pub input: String,
    /// The model that it is compared with, the float one say.
    #[serde(default)]
    pub reference: Option<String>,
    /// Tokens that the cache held before the run.
    #[serde(default)]
    pub past: usize,
    /// The machine.
    #[serde(default)]
    pub limits: SpeedLimits,
    /// The whole model, for each number of rows.
    pub whole: Vec<WholeSpeed>,
    /// Each product, or each kind of them.
    pub layers: Vec<LayerSpeed>,
}

/// What a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SpeedLimits {
    /// Threads that worked.
    #[serde(default)]
    pub threads: usize,
}

/// Time of the whole model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct WholeSpeed {
    /// Tokens, or rows.
    pub rows: usize,
    /// The median, in seconds.
    pub seconds: f64,
    /// That of the reference.
    #[serde(default)]
    pub reference_seconds: Option<f64>,
}

/// Times of a product.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LayerSpeed {
    /// Its name, or that of the first of its kind.
    pub name: String,
    /// How many there are of the kind.
    pub count: usize,
    /// Number of inputs.
    pub k: usize,
    /// Numbers of outputs; several where products with one input are one.
    pub n: Vec<usize>,
    /// Bits of the codes of each.
    pub bits: Vec<u32>,
    /// For each number of rows.
    pub times: Vec<LayerTime>,
}

/// Time of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct LayerTime {
    /// Rows of activations.
    pub rows: usize,
    /// Of one product: the median, in seconds.
    pub seconds: f64,
    /// That of the reference.
    #[serde(default)]
    pub reference_seconds: Option<f64>,
    /// The least time that the machine needs, by that which was taken.
    #[serde(default)]
    pub share_of_limit: Option<f64>,
}
