//! Error codes, severities and diagnostics.
//!
//! Every message that a user sees is a [`Diagnostic`]: a code, one line that stands alone, the
//! place, notes, and a way out. This crate knows neither terminals nor files: the binary prints.

pub mod codes;
mod diagnostic;

pub use codes::Code;
pub use diagnostic::{Diagnostic, Severity};
