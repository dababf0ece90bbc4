//! Structures of ONNX Runtime's interface for execution providers that `ort-sys` does not have.
//!
//! Those of `onnxruntime_ep_c_api.h`, members up to version 1.23: ONNX Runtime reads no others of
//! structures that say so. Members that qcc leaves null are pointers without a type here.

use ort_sys::{
    OrtEpDevice, OrtGraph, OrtHardwareDevice, OrtKernelContext, OrtKeyValuePairs, OrtLogger,
    OrtNode, OrtSessionOptions, OrtStatusPtr,
};
use std::ffi::{c_char, c_void};

/// What the structures say of themselves.
pub(crate) const VERSION: u32 = 23;

/// A member that is not there.
pub(crate) type Absent = *const c_void;

/// The first functions of `OrtEpApi`.
#[repr(C)]
pub(crate) struct EpApi {
    pub(crate) create_ep_device: unsafe extern "system" fn(
        factory: *mut EpFactory,
        device: *const OrtHardwareDevice,
        metadata: *const OrtKeyValuePairs,
        options: *const OrtKeyValuePairs,
        out: *mut *mut OrtEpDevice,
    ) -> OrtStatusPtr,
    pub(crate) release_ep_device: unsafe extern "system" fn(*mut OrtEpDevice),
    pub(crate) add_nodes_to_fuse: unsafe extern "system" fn(
        support: *mut SupportInfo,
        nodes: *const *const OrtNode,
        count: usize,
        options: *const FusionOptions,
    ) -> OrtStatusPtr,
}

/// `OrtEpGraphSupportInfo`, of which only pointers are known.
#[repr(C)]
pub(crate) struct SupportInfo {
    _unknown: [u8; 0],
}

/// `OrtNodeFusionOptions`.
#[repr(C)]
pub(crate) struct FusionOptions {
    pub(crate) version: u32,
    pub(crate) drop_constant_initializers: bool,
}

/// `OrtEpFactory`.
#[repr(C)]
pub(crate) struct EpFactory {
    pub(crate) version: u32,
    pub(crate) name: unsafe extern "system" fn(*const EpFactory) -> *const c_char,
    pub(crate) vendor: unsafe extern "system" fn(*const EpFactory) -> *const c_char,
    pub(crate) supported_devices: unsafe extern "system" fn(
        this: *mut EpFactory,
        devices: *const *const OrtHardwareDevice,
        count: usize,
        out: *mut *mut OrtEpDevice,
        most: usize,
        found: *mut usize,
    ) -> OrtStatusPtr,
    pub(crate) create_ep: unsafe extern "system" fn(
        this: *mut EpFactory,
        devices: *const *const OrtHardwareDevice,
        metadata: *const *const OrtKeyValuePairs,
        count: usize,
        options: *const OrtSessionOptions,
        logger: *const OrtLogger,
        out: *mut *mut Ep,
    ) -> OrtStatusPtr,
    pub(crate) release_ep: unsafe extern "system" fn(*mut EpFactory, *mut Ep),
    pub(crate) vendor_id: unsafe extern "system" fn(*const EpFactory) -> u32,
    pub(crate) own_version: unsafe extern "system" fn(*const EpFactory) -> *const c_char,
    pub(crate) validate_compiled_model: Absent,
    pub(crate) create_allocator: unsafe extern "system" fn(
        this: *mut EpFactory,
        info: *const c_void,
        options: *const OrtKeyValuePairs,
        out: *mut *mut c_void,
    ) -> OrtStatusPtr,
    pub(crate) release_allocator: unsafe extern "system" fn(*mut EpFactory, *mut c_void),
    pub(crate) create_data_transfer:
        unsafe extern "system" fn(*mut EpFactory, *mut *mut c_void) -> OrtStatusPtr,
    pub(crate) is_stream_aware: unsafe extern "system" fn(*const EpFactory) -> bool,
    pub(crate) create_stream: Absent,
}

/// `OrtEp`.
#[repr(C)]
pub(crate) struct Ep {
    pub(crate) version: u32,
    pub(crate) name: unsafe extern "system" fn(*const Ep) -> *const c_char,
    pub(crate) capability:
        unsafe extern "system" fn(*mut Ep, *const OrtGraph, *mut SupportInfo) -> OrtStatusPtr,
    pub(crate) compile: unsafe extern "system" fn(
        this: *mut Ep,
        graphs: *const *const OrtGraph,
        fused: *const *const OrtNode,
        count: usize,
        infos: *mut *mut ComputeInfo,
        contexts: *mut *mut OrtNode,
    ) -> OrtStatusPtr,
    pub(crate) release_infos: unsafe extern "system" fn(*mut Ep, *mut *mut ComputeInfo, usize),
    /// Layout, dynamic options, starts and ends of runs, allocator, stream, compiled models.
    pub(crate) absent: [Absent; 8],
}

/// `OrtNodeComputeInfo`.
#[repr(C)]
pub(crate) struct ComputeInfo {
    pub(crate) version: u32,
    pub(crate) create_state:
        unsafe extern "system" fn(*mut ComputeInfo, *mut c_void, *mut *mut c_void) -> OrtStatusPtr,
    pub(crate) compute: unsafe extern "system" fn(
        *mut ComputeInfo,
        *mut c_void,
        *mut OrtKernelContext,
    ) -> OrtStatusPtr,
    pub(crate) release_state: unsafe extern "system" fn(*mut ComputeInfo, *mut c_void),
}
