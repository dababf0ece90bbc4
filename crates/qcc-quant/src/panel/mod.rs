//! `QPK1`: codes in the order in which a kernel reads them, in panels of 32 columns.
//!
//! A column is an output of the product, a row of `[N][K]`. Two tiles of 16 columns are a panel;
//! the last panel has one tile if 16 columns or fewer are left. A panel is one run of bytes:
//!
//! ```text
//! for step along K:                                  # one group, or two of 16
//!     for block of 32 k in step:
//!         for vector 0..bits: tile 0, tile 1         # 64 bytes each
//!     for group in step:
//!         scales of the columns: f16, bf16 or f32    # filled up to 64 bytes
//!         zero points of the columns: f16            # filled up to 64 bytes; if there are any
//! ```
//!
//! Byte `4 c + i` of a vector belongs to column `c` of the tile and to `k = 4 chunk + i` of the
//! block, which has chunks 0 to 7:
//!
//! | bits | vector `j` |
//! |---|---|
//! | 8 | chunk `j` |
//! | 4 | chunk `2j`, chunk `2j + 1` from bit 4 |
//! | 2 | chunks `4j` to `4j + 3` from bits 0, 2, 4, 6 |
//! | 3 | `c0, c1<<3, (c6&3)<<6`; `c2, c3<<3, (c7&3)<<6`; `c4, c5<<3, (c7>>2)<<6, (c6>>2)<<7` |
//!
//! Columns beyond N and k beyond K are codes, scales and zero points of 0. Every part of a panel
//! begins at a multiple of 64 bytes.

mod header;
mod layout;
mod pack;
mod scale;
mod source;
mod spread;

pub use layout::{PanelBits, PanelError, PanelLayout, PanelScale};
pub use pack::{PanelWeight, UnpackedWeight};
pub use source::{GroupedWeight, LinearWeight, NBitsWeight};
pub use spread::{Spread, SpreadError};
