//! Operators: attributes, shape rules and evaluation.
//!
//! One file per family. An operator is a struct whose fields are its attributes; [`parse`] makes
//! it from the attributes of an ONNX node or of the text form. What no file knows becomes
//! [`qcc_ir::Opaque`] and is carried, never an error.

mod attention_core;
mod attrs;
mod broadcast;
mod cells;
mod coded_rows;
pub mod concat;
pub mod contrib_activation;
mod def;
pub mod dequantize;
mod dims;
pub mod expand;
mod floats;
pub mod fused_matmul;
pub mod gather_quant;
mod ints;
pub mod matmul_q;
pub mod nbits;
mod operands;
mod product;
pub mod quant;
mod quant_params;
pub mod quantize;
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
    nbits::OPS,
    matmul_q::OPS,
    gather_quant::OPS,
    dequantize::OPS,
    quantize::OPS,
    contrib_activation::OPS,
    fused_matmul::OPS,
];
