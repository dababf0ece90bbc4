//! Low-bit products for ONNX Runtime: `libqcc_ort.so`.
//!
//! Two ways in, both without linking to ONNX Runtime:
//!
//! - `CreateEpFactories` and `ReleaseEpFactory` make it an execution provider, `QccExecutionProvider`,
//!   that takes `MatMulNBits`, the functions of `ai.qcc` and products over `DequantizeLinear`, with
//!   constant weights, and norms and attention over a cache beside them.
//! - `RegisterCustomOps` registers the operators of `ai.qcc`, which then stand for the functions
//!   of the same names in a model.
//!
//! `docs/onnxruntime.md` tells how to use it.

#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod abi;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod api;
mod around;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod attention;
mod claim;
mod constants;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod custom;
mod dequantized;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod factory;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod fused;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod graph;
mod kernels;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod linear;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod norms;
mod options;
mod plan;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod provider;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod tensor;
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
mod threads;
mod weight;

use ort_sys::{OrtApiBase, OrtLogger, OrtSessionOptions, OrtStatusPtr};
use std::ffi::{c_char, c_void};

/// The factory of the execution provider.
///
/// # Safety
/// As ONNX Runtime calls it: `base` leads to its functions, `factories` to room for `most`
/// pointers, `count` to a number.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CreateEpFactories(
    _registration: *const c_char,
    base: *const OrtApiBase,
    _logger: *const OrtLogger,
    factories: *mut *mut c_void,
    most: usize,
    count: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: what the caller promises.
    unsafe { factory::create(base, factories.cast(), most, count) }
}

/// Gives the factory back, which stays for sessions that are still there.
#[allow(unsafe_code, reason = "the interface of ONNX Runtime is one of C")]
#[unsafe(no_mangle)]
pub extern "system" fn ReleaseEpFactory(_factory: *mut c_void) -> OrtStatusPtr {
    OrtStatusPtr(std::ptr::null_mut())
}

/// Registers the operators of `ai.qcc` with the options of a session.
///
/// # Safety
/// As ONNX Runtime calls it: `options` are those of a session, `base` leads to its functions.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: what the caller promises.
    unsafe { custom::register(options, base) }
}
