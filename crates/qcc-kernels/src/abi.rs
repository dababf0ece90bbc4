//! What a kernel is called with.

use crate::spec::{Isa, KernelSpec};
use std::error::Error;
use std::ptr;
use std::sync::Arc;

/// Operands of a kernel: some panels of packed weights, and `rows` rows of activations.
///
/// `groups`, `group_blocks` and `panels` are at least 1. Groups of 16 come in pairs: `groups` is
/// even then. All panels are of the spec's number of tiles, so that a last panel of one tile has
/// a call of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelArgs {
    /// First byte of the first panel, aligned to 64 bytes.
    pub weights: *const u8,
    /// Panels, one after another.
    pub panels: u64,
    /// Bytes from one panel to the next.
    pub panel_stride: u64,
    /// Groups along K that are stored.
    pub groups: u64,
    /// Blocks of 32 k of a group; kernels whose spec does not tell it read it.
    pub group_blocks: u64,
    /// Activations: row 0, plane 0, k = 0. `i8`, as many along K as codes are stored.
    pub acts: *const i8,
    /// Bytes from one row to the next.
    pub act_row: u64,
    /// Bytes from one plane of a row to the next.
    pub act_plane: u64,
    /// Scales `[rows][groups]` of the activations.
    pub act_scales: *const f32,
    /// Symmetric kernels: `-2^(bits - 1) S` of each row, plane and group, where S is the sum of
    /// the plane over the group.
    pub act_init: *const i32,
    /// Asymmetric kernels: activation scale times sum of the activations (of all planes together)
    /// as `[rows][groups]`.
    pub act_sums: *const f32,
    /// Elements from one row to the next of `act_scales`, `act_init` and `act_sums`.
    pub act_group_row: u64,
    /// Elements from one plane of `act_init` to the next.
    pub act_group_plane: u64,
    /// Results: row 0, first column of the first panel.
    pub y: *mut f32,
    /// Elements from one row of results to the next.
    pub y_row: u64,
    /// Columns of the last panel, 1 to 32; the other panels are full.
    pub columns: u64,
    /// One value per column, from the first column of the first panel on; epilogues with a bias.
    pub bias: *const f32,
    /// One value per result: what is added or multiplied, by the epilogue.
    pub extra: *const f32,
    /// Elements from one row of `extra` to the next.
    pub extra_row: u64,
    /// The spec that the kernel was asked for with; kernels that serve several read it.
    pub spec: *const KernelSpec,
}

impl KernelArgs {
    /// Nothing: numbers are 0, pointers null.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            weights: ptr::null(),
            panels: 0,
            panel_stride: 0,
            groups: 0,
            group_blocks: 0,
            acts: ptr::null(),
            act_row: 0,
            act_plane: 0,
            act_scales: ptr::null(),
            act_init: ptr::null(),
            act_sums: ptr::null(),
            act_group_row: 0,
            act_group_plane: 0,
            y: ptr::null_mut(),
            y_row: 0,
            columns: 0,
            bias: ptr::null(),
            extra: ptr::null(),
            extra_row: 0,
            spec: ptr::null(),
        }
    }
}

/// A kernel: computes `y` of a tile of rows and some panels.
///
/// # Safety
/// The arguments point at what [`KernelArgs`] says, for the spec of the kernel: as many rows,
/// planes, groups, columns. Nothing else writes there meanwhile, and nothing else reads `y`. The
/// CPU has the instruction set of the spec.
pub type Kernel = unsafe extern "C" fn(*const KernelArgs);

/// Where kernels come from.
pub trait KernelSource: Send + Sync {
    /// The kernel of a spec. The pointer is valid as long as the source is.
    ///
    /// # Errors
    /// If there is no such kernel.
    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError>;

    /// The instruction set that specs for this source name.
    fn isa(&self) -> Isa;
}

/// Why there is no kernel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KernelError {
    /// The source does not make kernels of this kind.
    #[error("no kernel {0} here")]
    Unknown(KernelSpec),
    /// The source failed.
    #[error(transparent)]
    Source(Arc<dyn Error + Send + Sync>),
}
