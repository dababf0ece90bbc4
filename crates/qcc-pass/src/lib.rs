//! Passes, pipeline text, the pass manager and its instruments.
//!
//! A pass is a row of a table, [`PassInfo`]: a function that reads a graph and returns patches,
//! with the options it takes. A [`Pipeline`] is a list of passes with all options resolved, and is
//! read from and printed as text. [`run`] applies what the passes return, verifies the graph after
//! each of them, and lets [`Instrument`]s look on. What a run brings along is a [`Session`], what
//! it tells is a [`Record`]; neither files nor screens are known here, but for the places that an
//! instrument is told to write to.

mod error;
mod names;
mod options;
mod pass;
mod progress;
mod record;
mod rng;
mod samples;
mod session;
mod text;

pub use error::PassError;
pub use options::{OptionError, OptionInfo, OptionKind, Options};
pub use pass::{Ctx, PassInfo};
pub use progress::{Progress, Silent};
pub use record::{PassRecord, Record, WeightRecord};
pub use rng::Rng;
pub use samples::{SampleError, SampleSource};
pub use session::{Cancel, Session};
