//! What a run did, as plain data, and its views.
//!
//! [`RunRecord`] is that data, and what `--json` prints; [`summary`] and [`left`] are the tables
//! of the terminal. This crate knows no graph and no pass: the command fills the record in.

mod record;
mod size;
mod table;

pub use record::{ErrorRecord, Note, PassRow, RunRecord, WeightRow};
pub use size::{bytes, parse_bytes};
pub use table::{columns, left, summary};
