//! LLVM, which is loaded when something is to be compiled, and not with the program.
//!
//! Loading it costs tens of milliseconds and of MiB, and most programs find their kernels in the
//! folder where they are kept. So its functions are not linked: each name is a jump through a
//! slot, and [`load`] fills the slots. Whatever touches LLVM calls it first.
//!
//! A function that is used and not in `names.rs` is an undefined symbol to the linker.

mod names;

use crate::CodegenError;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use names::functions;
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
compile_error!("kernels are compiled on Linux, for x86-64 and AArch64; build without `llvm`");

/// The library, by the names that it is installed under. They are of its interface.
pub(crate) const LIBRARIES: [&str; 2] = ["libLLVM.so.22.1", "libLLVM-22.so"];

/// For each name a slot and a function that jumps to what the slot holds.
macro_rules! jumps {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        std::arch::global_asm!(
            ".pushsection .bss.qcc_llvm_slots, \"aw\", %nobits",
            ".balign 8",
            ".globl qcc_llvm_slots",
            ".hidden qcc_llvm_slots",
            "qcc_llvm_slots:",
            $(concat!(".Lqcc_slot_", stringify!($name), ": .zero 8"),)*
            ".popsection",
            ".pushsection .text.qcc_llvm_jumps, \"ax\", %progbits",
            $(
                ".balign 4",
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ", %function"),
                concat!(stringify!($name), ":"),
                jump!($name),
            )*
            ".popsection",
        );
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    ($name:ident) => {
        concat!("jmp qword ptr [rip + .Lqcc_slot_", stringify!($name), "]")
    };
}

/// x16 is what such jumps may use.
#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    ($name:ident) => {
        concat!(
            "adrp x16, .Lqcc_slot_",
            stringify!($name),
            "\n",
            "ldr x16, [x16, :lo12:.Lqcc_slot_",
            stringify!($name),
            "]\n",
            "br x16"
        )
    };
}

functions!(jumps);

unsafe extern "C" {
    /// One for each of [`NAMES`], in their order.
    #[link_name = "qcc_llvm_slots"]
    static SLOTS: [AtomicPtr<c_void>; NAMES.len()];
}

/// Loads LLVM, if it is not there yet. It stays.
///
/// # Errors
/// [`CodegenError::Load`]: the system has no library of this name, or another one.
pub(crate) fn load() -> Result<(), CodegenError> {
    static LOADED: OnceLock<Result<(), CodegenError>> = OnceLock::new();
    LOADED.get_or_init(fill).clone()
}

/// Whether LLVM is loaded.
#[cfg(test)]
fn is_loaded() -> bool {
    // SAFETY: made above.
    let slots = unsafe { &SLOTS };
    slots.iter().all(|it| !it.load(Ordering::Acquire).is_null())
}

fn fill() -> Result<(), CodegenError> {
    let library = open()?;
    let mut found = Vec::with_capacity(NAMES.len());
    for name in NAMES {
        // SAFETY: it is a function of the library, which is called as what it is only.
        let function = unsafe { library.get::<*mut c_void>(name.as_bytes()) };
        found.push(function.map_err(|error| failed(&error))?.into_raw());
    }
    // SAFETY: made above.
    let slots = unsafe { &SLOTS };
    for (slot, function) in slots.iter().zip(found) {
        slot.store(function, Ordering::Release);
    }
    // It has threads, tables and handlers of its own, which nobody can take away again.
    std::mem::forget(library);
    Ok(())
}

fn open() -> Result<Library, CodegenError> {
    let mut first = None;
    for name in LIBRARIES {
        // SAFETY: what LLVM does when it is loaded asks for nothing.
        match unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_LOCAL) } {
            Ok(library) => return Ok(library),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or(CodegenError::Load(String::new()), |error| failed(&error)))
}

/// What the system says of it.
fn failed(error: &libloading::Error) -> CodegenError {
    let reason = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
    CodegenError::Load(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_all_are_found() {
        assert!(NAMES.is_sorted_by(|a, b| a < b));
        load().expect("LLVM");
        load().expect("again");
        assert!(is_loaded());
    }
}
