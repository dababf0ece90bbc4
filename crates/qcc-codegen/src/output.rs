//! Forms in which kernels are emitted.

/// What [`emit`](crate::emit) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text of LLVM, after the passes.
    LlvmIr,
    /// Assembly.
    Asm,
    /// A relocatable object file.
    Object,
}
