//! The figures of a report, one file each. A new figure is a file and a line in [`ALL`].

mod activations;
mod budget;
mod compare;
mod error;
mod headline;
mod heat;
mod histograms;
mod left;
mod provenance;
mod sensitivity;
mod size;
mod speed;
mod tuning;

use maud::Markup;

use crate::Run;
use crate::chart::{Chart, Ink};
use crate::html_table::Table;

/// A figure.
pub(crate) struct Figure {
    /// Its name in the page, and of its files.
    pub(crate) id: &'static str,
    /// Its heading.
    pub(crate) title: &'static str,
    /// The question that it answers.
    pub(crate) question: &'static str,
    /// What a record must hold for it.
    pub(crate) needs: &'static str,
    /// How it is drawn.
    pub(crate) draw: Draw,
}

/// How a figure is drawn; nothing where the records do not hold what it shows.
pub(crate) enum Draw {
    /// For each run by itself.
    Each(fn(&Run, Ink) -> Option<Drawing>),
    /// Of all runs together.
    All(fn(&[Run], Ink) -> Option<Drawing>),
}

/// What a figure consists of.
#[derive(Default)]
pub(crate) struct Drawing {
    /// What there is to say first.
    pub(crate) lead: Option<Markup>,
    /// Charts, in order.
    pub(crate) charts: Vec<Chart>,
    /// How many of them stay beside each other; 0 is 1.
    pub(crate) beside: usize,
    /// The numbers behind them.
    pub(crate) tables: Vec<Table>,
}

/// Every figure, in the order of the page.
pub(crate) const ALL: &[Figure] = &[
    headline::FIGURE,
    compare::FIGURE,
    size::FIGURE,
    error::FIGURE,
    sensitivity::FIGURE,
    budget::FIGURE,
    histograms::FIGURE,
    heat::FIGURE,
    activations::FIGURE,
    tuning::FIGURE,
    speed::FIGURE,
    left::FIGURE,
    provenance::FIGURE,
];
