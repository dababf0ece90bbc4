//! Object files loaded into this process, by LLVM's ORC.

use crate::CodegenError;
use inkwell::llvm_sys::core::LLVMCreateMemoryBufferWithMemoryRangeCopy;
use inkwell::llvm_sys::error::{LLVMDisposeErrorMessage, LLVMErrorRef, LLVMGetErrorMessage};
use inkwell::llvm_sys::orc2::lljit::{
    LLVMOrcCreateLLJIT, LLVMOrcDisposeLLJIT, LLVMOrcLLJITAddObjectFile,
    LLVMOrcLLJITGetMainJITDylib, LLVMOrcLLJITLookup, LLVMOrcLLJITRef,
};
use qcc_kernels::Kernel;
use std::ffi::{CStr, CString};
use std::ptr;

/// Loaded code. It goes when the engine does.
pub(crate) struct Engine {
    jit: LLVMOrcLLJITRef,
}

// SAFETY: LLJIT has its own locks; any thread may add objects and look up symbols.
#[allow(unsafe_code)]
unsafe impl Send for Engine {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Engine {}

#[allow(unsafe_code)]
impl Engine {
    pub(crate) fn new() -> Result<Self, CodegenError> {
        crate::emit::backends()?;
        let mut jit = ptr::null_mut();
        // SAFETY: a null builder means defaults, and `jit` outlives the call.
        check(unsafe { LLVMOrcCreateLLJIT(&raw mut jit, ptr::null_mut()) })?;
        Ok(Engine { jit })
    }

    /// Loads an object file and gives the function `name` of it.
    pub(crate) fn load(&self, object: &[u8], name: &str) -> Result<Kernel, CodegenError> {
        let symbol = CString::new(name).map_err(|e| CodegenError::Internal(e.to_string()))?;
        let mut address = 0;
        // SAFETY: the buffer is a copy that the engine takes over, also when it fails; `symbol`
        // and `address` outlive the calls.
        unsafe {
            let buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(
                object.as_ptr().cast(),
                object.len(),
                symbol.as_ptr(),
            );
            let library = LLVMOrcLLJITGetMainJITDylib(self.jit);
            check(LLVMOrcLLJITAddObjectFile(self.jit, library, buffer))?;
            check(LLVMOrcLLJITLookup(self.jit, &raw mut address, symbol.as_ptr()))?;
        }
        let address = usize::try_from(address).unwrap_or(0) as *const ();
        if address.is_null() {
            return Err(CodegenError::Internal(format!("{name} has no address")));
        }
        // SAFETY: the symbol is a function that `emit` made, of this signature.
        Ok(unsafe { std::mem::transmute::<*const (), Kernel>(address) })
    }
}

#[allow(unsafe_code)]
impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: made by LLVMOrcCreateLLJIT and given up here only. An error changes nothing.
        let _ = check(unsafe { LLVMOrcDisposeLLJIT(self.jit) });
    }
}

/// The message of an error of LLVM.
#[allow(unsafe_code)]
fn check(error: LLVMErrorRef) -> Result<(), CodegenError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the message is of the error, which it consumes, and is read before it is freed.
    unsafe {
        let message = LLVMGetErrorMessage(error);
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeErrorMessage(message);
        Err(CodegenError::Internal(text))
    }
}
