//! Operators: attributes, shape rules, evaluation and derivatives.
//!
//! One file per family. An operator is a struct whose fields are its attributes; [`parse`] makes
//! it from the attributes of an ONNX node or of the text form. What no file knows becomes
//! [`qcc_ir::Opaque`] and is carried, never an error.

pub mod activation;
pub mod along_axis;
pub mod arith;
pub mod attention;
mod attention_core;
mod attrs;
mod broadcast;
pub mod cast;
mod cells;
pub mod center_crop_pad;
pub mod channel_norm;
mod coded_rows;
pub mod col2im;
mod combine;
pub mod compare;
pub mod compress;
pub mod concat;
pub mod constant;
pub mod contrib_activation;
pub mod contrib_attention;
pub mod contrib_norm;
pub mod control;
pub mod conv;
mod def;
pub mod depth;
pub mod dequantize;
mod dims;
pub mod einsum;
pub mod embed_norm;
mod emit;
pub mod expand;
mod floats;
pub mod fused_matmul;
pub mod gather;
pub mod gather_quant;
pub mod gather_turned;
mod gemv;
pub mod grad;
pub mod group_query;
pub mod identity;
mod ints;
pub mod matmul;
pub mod matmul_q;
mod minifloat;
pub mod multi_head;
pub mod nbits;
pub mod nonzero;
pub mod norm;
mod numeric;
pub mod one_hot;
mod operands;
mod order;
pub mod outliers;
pub mod pad;
mod padding_mask;
mod product;
pub mod quant;
mod quant_params;
pub mod quantize;
pub mod random;
pub mod range;
pub mod reduce;
mod registry;
pub mod reshape;
pub mod reverse_sequence;
pub mod rotary;
pub mod scatter;
pub mod select;
pub mod shape;
pub mod slice;
pub mod softmax;
pub mod split;
pub mod squeeze;
mod strided;
pub mod tensor_scatter;
#[cfg(test)]
mod testing;
pub mod topk;
pub mod transpose;
pub mod trilu;
pub mod unary;
pub mod unique;
mod vector;
pub mod weight;
pub mod windows;

pub use attrs::{AttrError, AttrReader};
pub use def::OpDef;
pub use registry::{find, parse};

/// Every family of operators; a new one is one file and one line here.
const OPS: &[&[OpDef]] = &[
    activation::OPS,
    along_axis::OPS,
    arith::OPS,
    attention::OPS,
    cast::OPS,
    center_crop_pad::OPS,
    channel_norm::OPS,
    col2im::OPS,
    compare::OPS,
    compress::OPS,
    concat::OPS,
    constant::OPS,
    contrib_activation::OPS,
    contrib_attention::OPS,
    contrib_norm::OPS,
    control::OPS,
    conv::OPS,
    depth::OPS,
    dequantize::OPS,
    einsum::OPS,
    embed_norm::OPS,
    expand::OPS,
    fused_matmul::OPS,
    gather::OPS,
    gather_quant::OPS,
    gather_turned::OPS,
    grad::OPS,
    group_query::OPS,
    identity::OPS,
    matmul::OPS,
    matmul_q::OPS,
    multi_head::OPS,
    nbits::OPS,
    nonzero::OPS,
    norm::OPS,
    one_hot::OPS,
    outliers::OPS,
    pad::OPS,
    quant::OPS,
    quantize::OPS,
    random::OPS,
    range::OPS,
    reduce::OPS,
    reshape::OPS,
    reverse_sequence::OPS,
    rotary::OPS,
    scatter::OPS,
    select::OPS,
    shape::OPS,
    slice::OPS,
    softmax::OPS,
    split::OPS,
    squeeze::OPS,
    tensor_scatter::OPS,
    topk::OPS,
    transpose::OPS,
    trilu::OPS,
    unary::OPS,
    unique::OPS,
];
