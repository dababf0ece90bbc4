//! Operators against ONNX Runtime, on made-up operands.
//!
//! Each case is a model of one node, run here and by `tools/py/ort_run.py`. Without Python the
//! tests skip, but not where the variable CI is set.

#[cfg(test)]
mod attention;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod dense;
#[cfg(test)]
mod ort;
#[cfg(test)]
mod quantized;
