//! Grids, scale search, rounding, weight layouts and error measures over slices.

pub mod adpq;
mod candidates;
mod cholesky;
mod chunks;
pub mod codes;
mod descent;
pub mod error;
mod exact;
mod feedback;
pub mod fields;
mod fused;
pub mod gptq;
pub mod gram;
pub mod kl;
pub mod layout;
mod matmul;
pub mod numbers;
mod pairs;
pub mod panel;
pub mod quantize;
pub mod rows;
pub mod rtn;
mod rtn_lanes;
pub mod search;
pub mod signround;
pub mod simd;
pub mod spec;
#[cfg(test)]
mod testing;
pub mod tuner;
