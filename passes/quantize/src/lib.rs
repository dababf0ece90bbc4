//! Passes that choose the numbers of quantized weights.
//!
//! `select` decides which weights are quantized and to what; the passes after it choose codes,
//! scales and zero points for them. Each is one file and one line in [`PASSES`].

mod activations;
pub mod adpq;
pub mod allocate_bits;
pub mod blocks;
mod blockwise;
mod by_gram;
mod choose;
mod coded;
pub mod dequantize_weights;
mod finite;
pub mod gptq;
mod head;
mod held;
pub mod kl_precalibrate;
mod overrides;
mod per_node;
mod planned;
pub mod probe_blocks;
mod products;
mod room;
pub mod rtn;
pub mod select;
pub mod signround;
mod sites;
pub mod tune_scales;
mod unfit;
pub mod whole;

use qcc_pass::PassInfo;

pub use sites::{Role, Site, Skip, find_sites};
pub use unfit::find_unfit;

/// The passes of this crate.
pub const PASSES: &[&PassInfo] = &[
    &dequantize_weights::INFO,
    &select::INFO,
    &allocate_bits::INFO,
    &rtn::INFO,
    &kl_precalibrate::INFO,
    &adpq::INFO,
    &gptq::INFO,
    &probe_blocks::INFO,
    &signround::INFO,
    &tune_scales::INFO,
    &tune_scales::probe::INFO,
];
