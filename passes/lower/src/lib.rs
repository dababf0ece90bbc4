//! Passes that choose how quantized weights are written.
//!
//! `pack` gives the codes of each weight the bytes of a layout; an output format then rewrites the
//! operators that read the weight. A format is one file and one line in [`FORMATS`].

mod attention;
mod carried;
pub mod pack;
mod product;
mod readers;
pub mod to_fake;
pub mod to_function;
pub mod to_nbits;
pub mod to_qdq;

use qcc_pass::PassInfo;

pub use carried::{PRODUCTS, check_layout, check_readers, needed_opset};

/// The passes of this crate.
pub const PASSES: &[&PassInfo] =
    &[&pack::INFO, &to_nbits::INFO, &to_qdq::INFO, &to_function::INFO, &to_fake::INFO];

/// One output format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Name, as `--format` takes it.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// Element types of the weights that it can carry, as `select` takes them.
    pub types: &'static str,
    /// The end of the pipeline, after the numbers are chosen.
    pub passes: &'static str,
}

/// Every output format.
pub const FORMATS: &[Format] = &[
    Format {
        name: "nbits",
        summary: "MatMulNBits and GatherBlockQuantized of com.microsoft",
        types: "f32,f16", // runtimes have no bfloat16 kernel
        passes: "pack{layout=nbits},to-nbits",
    },
    Format {
        name: "qdq",
        summary: "DequantizeLinear: standard ONNX of opset 21, for 2 bits of opset 25",
        types: "f32,f16,bf16",
        passes: "pack{layout=qdq},to-qdq",
    },
    Format {
        name: "function",
        summary: "operators of ai.qcc with a body: true 3, 5 and 6 bits, any group of 8",
        types: "f32,f16,bf16",
        passes: "pack{layout=dense},to-function",
    },
    Format {
        name: "fake",
        summary: "float weights after rounding: every tool reads it, nothing is smaller",
        types: "f32,f16,bf16",
        passes: "to-fake",
    },
];
