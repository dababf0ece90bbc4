//! Where two models part: both run on the same samples, and values of the same name are compared.
//!
//! Over all elements of all samples, `a` of the first model and `b` of the second:
//! `relative = |a - b| / |a|` in the Euclidean norm, `SNR = -20 log10 relative` in decibels,
//! `cosine = sum a b / (|a| |b|)`. Sums are added up as the values are computed, so memory does not
//! grow with samples: the values of the first model are kept until the second one has computed its
//! own, and no more of them at a time than fit.

mod choose;
mod first;
mod sums;

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Type, Value};
use qcc_pass::{Cancel, Progress, SampleSource};
use qcc_tensor::Pool;

use crate::runner::Feed;
use crate::{Error, Model};
use choose::choose;
use sums::{Side, Sums};

pub use first::FirstDifference;

/// How models are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareOptions {
    /// Compare every value of floats whose name is in both models, not only the results of blocks.
    pub all: bool,
}

/// Which inner values were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Results of the [blocks](qcc_quantize::blocks) of the first model.
    Blocks,
    /// Outputs of normalizations, where no result of a block is in both models.
    Norms,
    /// All that are in both models: when asked for, or where there is nothing else.
    All,
}

impl Inner {
    /// One word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Norms => "norms",
            Self::All => "all",
        }
    }
}

/// A value that both models have.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Whether it is an output of both.
    pub is_output: bool,
    /// The block that it is a result of, `layer 3`, where blocks were looked for.
    pub block: Option<String>,
    /// Whether it is of floats; `unequal` is the only figure of others.
    pub is_float: bool,
    /// Elements, over all samples.
    pub elements: u64,
    /// Largest `|a - b|`; infinite where an element is finite in one model only.
    pub max_abs: f64,
    /// `|a - b| / |a|`.
    pub relative: f64,
    /// Cosine of the angle between both; NaN where an element is finite in one model only.
    pub cosine: f64,
    /// Signal to noise in decibels; infinite for equal values.
    pub snr_db: f64,
    /// Elements that differ, of values that are not floats.
    pub unequal: u64,
    /// Elements that are NaN or infinite, in the first model and in the second.
    pub not_finite: [u64; 2],
    /// Elements that are finite in one model only, or not finite in another way.
    pub not_finite_differ: u64,
}

impl Compared {
    /// Whether no element differs.
    pub fn is_exact(&self) -> bool {
        // Without a finite element there is no difference, and it is NaN.
        let is_equal = self.max_abs == 0.0 || self.max_abs.is_nan();
        is_equal && self.unequal == 0 && self.not_finite_differ == 0
    }

    /// Share of elements that differ, of values that are not floats.
    pub fn unequal_share(&self) -> f64 {
        self.unequal as f64 / self.elements.max(1) as f64
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Samples that ran.
    pub samples: usize,
    /// Which inner values were looked at.
    pub inner: Inner,
    /// Outputs in the order of the first model, then inner values in the order of depth.
    pub values: Vec<Compared>,
    /// Where the models part; `None` when all is equal.
    pub first: Option<FirstDifference>,
    /// Outputs of the first model, and of the second, that the other one has not.
    pub outputs_of_one: [Vec<String>; 2],
    /// How many inner values of the kind are in the first model only, and in the second; the latter
    /// are counted where all are compared.
    pub inner_of_one: [usize; 2],
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// Runs two models on samples of the first one, and compares values of the same name.
///
/// # Errors
/// When a model cannot be run, the second one takes other inputs, no value is in both, or an output
/// has another shape.
pub fn compare(
    a: &Model,
    b: &Model,
    samples: &dyn SampleSource,
    options: &CompareOptions,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Comparison, Error> {
    check_names(a, b)?;
    let mut sides = [Side::new(a, cancel)?, Side::new(b, cancel)?];
    let chosen = choose(sides[0].graph(), sides[1].graph(), options.all);
    let [of_a, of_b] = &chosen.outputs_of_one;
    if chosen.pairs.is_empty() {
        return Err(cannot("no value has the same name in both models")
            .with_note(format!("outputs of the first one are {}", list(of_a)))
            .with_note(format!("outputs of the second one are {}", list(of_b)))
            .with_help("compare a model with one that was made from it")
            .into());
    }
    let pool = Pool::default();
    sides[0].show(chosen.pairs.iter().map(|it| it.a).collect(), &pool);
    sides[1].show(chosen.pairs.iter().map(|it| it.b).collect(), &pool);
    let mut sums = Sums::new(&chosen.pairs);
    progress.start("compare", samples.len() as u64);
    for idx in 0..samples.len() {
        let feed = samples.batch(idx).map_err(|it| Error::from(it.into_diagnostic()))?;
        let feed: Feed = feed.into_iter().collect();
        check_types(sides[1].graph(), &feed)?;
        let mut at = 0;
        while at < chosen.pairs.len() {
            if cancel.is_set() {
                return Err(Diagnostic::error(codes::QCC0509, "interrupted").into());
            }
            at = sums.add(&mut sides, &feed, at)?;
        }
        progress.step(1, "");
    }
    progress.finish();
    let (values, pairs, notes) = sums.finish();
    Ok(Comparison {
        samples: samples.len(),
        inner: chosen.inner,
        first: first::find(sides[0].graph(), sides[1].graph(), &pairs, &values),
        values,
        outputs_of_one: chosen.outputs_of_one,
        inner_of_one: chosen.inner_of_one,
        notes,
    })
}

/// Every input that the second model needs is one that samples of the first one give.
fn check_names(a: &Model, b: &Model) -> Result<(), Error> {
    let names = |it: &Model| -> Vec<String> { it.inputs().into_iter().map(|it| it.name).collect() };
    let (of_a, of_b) = (names(a), names(b));
    match of_b.iter().find(|it| !of_a.contains(it)) {
        None => Ok(()),
        Some(name) => {
            Err(cannot(format!("the second model takes '{name}', the first one does not"))
                .with_note(format!("inputs of the first one are {}", list(&of_a)))
                .with_note(format!("inputs of the second one are {}", list(&of_b)))
                .with_help("compare a model with one that was made from it")
                .into())
        }
    }
}

/// What the first model takes is what the second one does.
fn check_types(b: &Graph, feed: &Feed) -> Result<(), Error> {
    for &node in b.inputs() {
        let value = Value { node, slot: 0 };
        let Some(tensor) = feed.get(b.value_name(value)) else { continue };
        let (given, taken) = (Type::of(tensor), b.ty(value));
        if taken.meet(&given).is_none() {
            let name = b.value_name(value);
            let text =
                format!("input '{name}' of the second model is {taken}, but {given} is given");
            return Err(cannot(text)
                .with_help("give samples that both models take, or compare models of equal inputs")
                .into());
        }
    }
    Ok(())
}

fn cannot(text: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::QCC0405, text)
}

/// The first names, and how many more there are.
fn list(names: &[String]) -> String {
    const MOST: usize = 5;
    let shown: Vec<String> = names.iter().take(MOST).map(|it| format!("'{it}'")).collect();
    match names.len().saturating_sub(MOST) {
        _ if names.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
