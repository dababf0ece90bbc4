//! The CPU at hand, as LLVM sees it.

use crate::error::CodegenError;
use std::collections::BTreeSet;

/// LLVM's name of the CPU, and what it has.
#[cfg(feature = "llvm")]
pub(crate) fn cpu_and_features() -> Result<(String, BTreeSet<String>), CodegenError> {
    use inkwell::targets::TargetMachine;
    let cpu = TargetMachine::get_host_cpu_name();
    let features = TargetMachine::get_host_cpu_features();
    let has = |text: &str| text.strip_prefix('+').map(str::to_string);
    let features = features.to_string_lossy().split(',').filter_map(has).collect();
    Ok((cpu.to_string_lossy().into_owned(), features))
}

/// Without LLVM nothing is known of the CPU.
#[cfg(not(feature = "llvm"))]
pub(crate) fn cpu_and_features() -> Result<(String, BTreeSet<String>), CodegenError> {
    Err(CodegenError::NoLlvm)
}
