//! Operators: attributes, shape rules and evaluation.
//!
//! One file per family. An operator is a struct whose fields are its attributes; [`parse`] makes
//! it from the attributes of an ONNX node or of the text form. What no file knows becomes
//! [`qcc_ir::Opaque`] and is carried, never an error.

mod attrs;
mod broadcast;
mod cells;
pub mod concat;
mod def;
pub mod expand;
mod ints;
mod operands;
pub mod quant;
mod registry;
pub mod reshape;
pub mod shape;
pub mod slice;
pub mod split;
pub mod squeeze;
mod strided;
pub mod transpose;
mod vector;

pub use attrs::{AttrError, AttrReader};
pub use def::OpDef;
pub use registry::{find, parse};

/// Every family of operators; a new one is one file and one line here.
const OPS: &[&[OpDef]] = &[
    quant::OPS,
    shape::OPS,
    reshape::OPS,
    squeeze::OPS,
    transpose::OPS,
    slice::OPS,
    split::OPS,
    concat::OPS,
    expand::OPS,
];
