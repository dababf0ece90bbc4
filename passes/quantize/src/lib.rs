//! Passes that choose the numbers of quantized weights.
//!
//! `select` decides which weights are quantized and to what; the passes after it choose codes,
//! scales and zero points for them. Each is one file and one line in [`PASSES`].

mod choose;
mod head;
mod overrides;
pub mod rtn;
pub mod select;
mod sites;

use qcc_pass::PassInfo;

pub use sites::{Role, Site, Skip, find_sites};

/// The passes of this crate.
pub const PASSES: &[&PassInfo] = &[&select::INFO, &rtn::INFO];
