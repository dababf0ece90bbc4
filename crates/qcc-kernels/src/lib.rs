//! Products with packed low-bit weights.
//!
//! `y[M][N] = x[M][K] W^T`, where W is packed in [panels](qcc_quant::panel) and x is quantized to
//! planes of 8 bits as it comes. The inner loops are [kernels](Kernel), one per [`KernelSpec`];
//! they come from a [`KernelSource`]. Beside them is what surrounds products in decoders:
//! [attention] over a cache, and the [norm](RmsNorm) before products.

mod abi;
mod act;
pub mod attention;
pub mod ends;
pub mod epilogue;
pub mod limits;
mod matrix;
mod norm;
mod or_scalar;
mod overlay;
mod pages;
mod pool;
mod product;
mod scalar;
mod shared;
mod spec;
mod threads;

pub use abi::{Kernel, KernelArgs, KernelError, KernelSource};
pub use act::{ActLayout, Activations};
pub use matrix::{Matrix, MatrixError};
pub use norm::RmsNorm;
pub use or_scalar::OrScalar;
pub use overlay::{Apart, Overlay, OverlayError, OverlayParts};
pub use pool::Pool;
pub use product::{Factor, Operands, Product, ProductError, Share};
pub use qcc_quant::panel::{PanelBits as KernelBits, PanelScale as ScaleKind};
pub use scalar::Scalar;
pub use spec::{Epilogue, Isa, KernelGroup, KernelSpec, Planes, SpecError};
pub use threads::{Alone, Threads, claim};
