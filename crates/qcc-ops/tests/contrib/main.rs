//! Operators against ONNX Runtime, on made-up operands.
//!
//! Each case is a model of one node, run here and by `tools/py/ort_run.py`. Without Python the
//! tests skip, but not where the variable CI is set.

mod attention;
mod cases;
mod dense;
mod ort;
mod quantized;
