//! Operators: attributes, shape rules and evaluation.
//!
//! One file per family. An operator is a struct whose fields are its attributes; [`parse`] makes
//! it from the attributes of an ONNX node or of the text form. What no file knows becomes
//! [`qcc_ir::Opaque`] and is carried, never an error.

mod attrs;
mod broadcast;
mod def;
mod operands;
pub mod quant;
mod registry;
mod vector;

pub use attrs::{AttrError, AttrReader};
pub use def::OpDef;
pub use registry::{find, parse};

/// Every family of operators; a new one is one file and one line here.
const OPS: &[&[OpDef]] = &[quant::OPS];
