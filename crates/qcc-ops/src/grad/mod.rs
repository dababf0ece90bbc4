//! Operators of derivatives, in the compiler's own domain: a derivative is made of these and of
//! those of ONNX. None is exported.
//!
//! [`SumTo`] undoes broadcasting; [`SoftmaxGrad`] and [`NormGrad`] are derivatives that read each
//! row once instead of once for each term; [`ScatterAdd`], [`SliceGrad`] and [`ExtremeGrad`] put
//! elements where they came from; [`MatMulGradW`] is the product over all rows that the derivative
//! of a weight is; [`Unfold`] writes the windows of an image as columns for that of a kernel, and
//! `Fold` adds such columns up where ONNX's `Col2Im` cannot say how the image was padded.

mod extreme;
mod norm;
mod place;
mod softmax;
mod sum_to;
mod unfold;
mod weight;

pub use extreme::ExtremeGrad;
pub use norm::NormGrad;
pub use place::{ScatterAdd, SliceGrad};
pub use softmax::SoftmaxGrad;
pub use sum_to::SumTo;
pub use unfold::Unfold;
pub use weight::MatMulGradW;

use std::sync::Arc;

use crate::OpDef;
use crate::col2im::Col2Im;
use crate::quant::DOMAIN;

/// The operators of this folder.
pub const OPS: &[OpDef] = &[
    OpDef { domain: DOMAIN, name: "SumTo", parse: |_| Ok(Arc::new(SumTo)) },
    OpDef { domain: DOMAIN, name: "SoftmaxGrad", parse: SoftmaxGrad::parse },
    OpDef { domain: DOMAIN, name: "LogSoftmaxGrad", parse: SoftmaxGrad::parse },
    OpDef { domain: DOMAIN, name: "LayerNormGrad", parse: NormGrad::parse },
    OpDef { domain: DOMAIN, name: "RmsNormGrad", parse: NormGrad::parse },
    OpDef { domain: DOMAIN, name: "ScatterAdd", parse: ScatterAdd::parse },
    OpDef { domain: DOMAIN, name: "SliceGrad", parse: |_| Ok(Arc::new(SliceGrad)) },
    OpDef { domain: DOMAIN, name: "ExtremeGrad", parse: ExtremeGrad::parse },
    OpDef { domain: DOMAIN, name: "MatMulGradW", parse: |_| Ok(Arc::new(MatMulGradW)) },
    OpDef { domain: DOMAIN, name: "Unfold", parse: Unfold::parse },
    OpDef { domain: DOMAIN, name: "Fold", parse: Col2Im::parse_fold },
];
