//! Passes, pipeline text, the pass manager and its instruments.
//!
//! A pass is a row of a table, [`PassInfo`]: a function that reads a graph and returns patches,
//! with the options it takes. A [`Pipeline`] is a list of passes with all options resolved, and is
//! read from and printed as text. [`run`] applies what the passes return, verifies the graph after
//! each of them, and lets [`Instrument`]s look on. What a run brings along is a [`Session`], what
//! it tells is a [`Record`]; neither files nor screens are known here, but for the places that an
//! instrument is told to write to, and the folder in which work is kept, [`WorkDir`].

mod describe;
mod error;
mod instrument;
mod instruments;
mod names;
mod options;
mod pass;
mod pipeline;
mod progress;
mod record;
mod rng;
mod run;
mod samples;
mod session;
#[cfg(test)]
mod testing;
mod text;
mod work;
mod working_copy;

pub use error::PassError;
pub use instrument::{After, Before, Failed, Flow, Instrument};
pub use instruments::bisect::BisectLimit;
pub use instruments::print::{Dump, Passes, Print, When};
pub use instruments::reproducer::Reproducer;
pub use instruments::stop::StopAfter;
pub use instruments::tables::{Statistics, Timing};
pub use instruments::verify::VerifyEach;
pub use names::nearest;
pub use options::{OptionError, OptionInfo, OptionKind, Options};
pub use pass::{Ctx, PassInfo};
pub use pipeline::{Pipeline, Recipe, Step};
pub use progress::{Progress, Silent};
pub use record::{
    ActivationRecord, BlockRecord, BudgetRecord, Candidate, Estimate, PassRecord, Record, StandIn,
    WeightRecord,
};
pub use rng::Rng;
pub use run::{Outcome, run};
pub use samples::{SampleError, SampleSource};
pub use session::{Cancel, FileSize, Session};
pub use work::{Plan, WorkDir};
pub use working_copy::{Tap, WorkingCopy};
