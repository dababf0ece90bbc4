//! The descriptor of a product: constants that the driver reads.

use super::scalars::{Int, Pointer};
use crate::code::{Code, Emitted};
use crate::library::{FIELD, Shape};

/// A number of the descriptor, by its place in [`Shape::numbers`].
#[derive(Clone, Copy)]
pub(super) enum Field {
    K,
    N,
    Group,
    Groups,
    Middle,
    Plane,
    Row,
    ScalesAt,
    MostRows,
    Panels,
    PanelStride,
    GroupBlocks,
    BlockPanels,
    WholePanels,
    /// In a row of the workspace, where the activations themselves begin; 0: they are not kept.
    FloatsAt,
    /// Of the file of weights, where the panels begin; 0 if they are in the object.
    WeightsAt,
    /// Whether the end reads a value for each result: 0 or 1.
    ReadsExtra,
}

/// A pointer of the descriptor; they follow the numbers.
#[derive(Clone, Copy)]
pub(super) enum Link {
    /// The panels; null if they are in a file.
    Weights,
    Bias,
    /// The parts of outliers, as [`qcc_kernels::OverlayParts`] has them; null if there are none.
    Order,
    /// Numbers of 32 bits.
    Starts,
    Inputs,
    Values,
    /// The function that quantizes rows for it. It and those that follow are there once for each
    /// version, the best first.
    Quantize,
    /// The function that multiplies.
    Multiply,
    /// Of panels of one tile, for 1 row; those for more rows and for two tiles follow.
    Kernels,
}

/// Numbers of a descriptor.
pub(super) const NUMBERS: u64 = Field::ReadsExtra as u64 + 1;

/// Pointers of a descriptor that are of one version.
pub(super) const OF_VERSION: usize = Link::Kernels as usize + Shape::KERNELS - FIRST;

/// Pointers of a descriptor that all versions read.
const FIRST: usize = Link::Quantize as usize;

/// Pointers of a descriptor for so many versions.
pub(super) fn links(versions: usize) -> usize {
    FIRST + versions * OF_VERSION
}

/// A descriptor at hand.
pub(super) struct Descriptor<'a, 'c> {
    pub code: &'a Code<'c>,
    pub at: Pointer<'c>,
}

impl<'c> Descriptor<'_, 'c> {
    pub(super) fn get(&self, field: Field) -> Emitted<Int<'c>> {
        self.code.read(self.at, FIELD * field as u64)
    }

    pub(super) fn link(&self, link: Link) -> Emitted<Pointer<'c>> {
        self.code.read_pointer(self.at, FIELD * (NUMBERS + link as u64))
    }

    /// A pointer of a version; none: of the only one.
    pub(super) fn of(&self, version: Option<Int<'c>>, link: Link) -> Emitted<Pointer<'c>> {
        let Some(version) = version else { return self.link(link) };
        let skip = self.code.scaled(version, FIELD * OF_VERSION as u64)?;
        let at = self.code.offset(self.at, skip)?;
        self.code.read_pointer(at, FIELD * (NUMBERS + link as u64))
    }

    /// The kernel of a version of `tiles` for so many rows; `rows` is 1 at least.
    pub(super) fn kernel(&self, version: usize, tiles: u64, rows: Int<'c>) -> Emitted<Pointer<'c>> {
        let code = self.code;
        let first = NUMBERS + Link::Kernels as u64 + (tiles - 1) * Shape::KERNELS as u64 / 2;
        let first = first + (version * OF_VERSION) as u64;
        let from = code.scaled(code.minus(rows, code.index(1))?, FIELD)?;
        code.read_pointer(code.offset(self.at, from)?, FIELD * first)
    }
}
