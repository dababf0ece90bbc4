//! What a run did, as plain data, and its views.
//!
//! [`RunRecord`] is that data, and what `--json` prints; [`read`] reads it back. [`summary`] and
//! [`left`] are the tables of the terminal, [`report`] is the page for a browser. This crate knows
//! no graph and no pass: the command fills the record in.

mod chart;
mod figures;
mod html_table;
mod page;
mod read;
mod record;
mod run;
mod size;
mod speed;
mod table;

pub use page::{Report, report};
pub use read::{Document, ReadError, read};
pub use record::{
    ActivationRow, BlockRow, BudgetRow, CandidateRow, Environment, ErrorRecord, EstimateRow, Gate,
    HeatMap, Histogram, Note, OutputQuality, PassRow, Quality, RunRecord, SCHEMA, WeightRow,
};
pub use run::Run;
pub use size::{bytes, parse_bytes};
pub use speed::{LayerSpeed, LayerTime, Speed, SpeedLimits, WholeSpeed};
pub use table::{apart, columns, left, line, summary};
