//! NEON with dot products: `sdot` by lane on 4 columns. 16 k of activations are one register.

use super::by_lane::ByLane;

/// `sdot` takes codes as signed bytes.
pub(crate) const NEON_DOT: ByLane = ByLane { name: "llvm.aarch64.neon.sdot", wide_codes: false };
