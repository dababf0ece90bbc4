//! NEON with the 8-bit matrix extension: `usdot` by lane, which takes codes as they are.
//!
//! `smmla` would want 8 k of a column side by side, another layout of the codes.

use super::by_lane::ByLane;

pub(crate) const NEON_I8MM: ByLane = ByLane { name: "llvm.aarch64.neon.usdot", wide_codes: true };
