//! The text form of graphs, `.qir`: for tests, for debugging, and for reading what a pass did.
//!
//! ```text
//! // a comment
//! graph @main(%x: f32[batch, 2]) -> (%y: f32[batch, 2]) {
//!   %w = const f32[2, 2] [0.0, 1.0, 2.0, 3.0]
//!   %s: f32[batch, 2] = MatMul(%x, %w) @projection
//!   %y = Swish(%s) {alpha = 1.0}
//! }
//! ```
//!
//! The grammar is in `docs/qir.md`. Printer and parser are each other's inverse: what is printed
//! reads back as a graph that [`Graph::same_as`](crate::Graph::same_as) finds equal, and prints as
//! the same text. Large constants are named by file range and hash instead of written out, so
//! reading them back takes somebody who has their bytes: the files, and what [`hash_alone`] gives.

mod by_hash;
mod element;
mod error;
mod lex;
mod parse;
mod print;
mod quote;
#[cfg(test)]
mod round_trip;
mod tensor;

pub use by_hash::hash_alone;
pub use error::ParseError;
pub use parse::{DEFAULT_OPSET, Load, MAX_DEPTH, MakeOp, Stored, no_bytes, parse};
pub use print::{PrintOptions, operator, print, print_with, write};
pub(crate) use quote::{Quoted, Word};
