//! A packed weight in memory.

use crate::pages::Region;
use qcc_quant::panel::{PanelError, PanelLayout, PanelWeight, UnpackedWeight};
use std::fmt;
use std::io;
use std::ops::Range;

/// Columns of a panel.
const COLUMNS: usize = 32;

/// A packed weight, in huge pages where the system has them.
pub struct Matrix {
    layout: PanelLayout,
    region: Region,
}

/// Why a weight cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The weight is not one of the layout.
    #[error(transparent)]
    Panel(#[from] PanelError),
    /// No memory.
    #[error("memory for a packed weight")]
    Memory(#[from] io::Error),
}

impl Matrix {
    /// Packs a weight.
    ///
    /// # Errors
    /// Those of [`PanelLayout::pack`]; [`MatrixError::Memory`].
    pub fn pack(layout: PanelLayout, weight: &PanelWeight<'_>) -> Result<Self, MatrixError> {
        let mut region = Region::new(layout.bytes())?;
        layout.pack(weight, region.bytes_mut())?;
        Ok(Self { layout, region })
    }

    /// Packs a weight of which some columns at a time are given, so that there never are codes of
    /// all in memory. `columns` is asked for consecutive columns, at most `most` of them or 32.
    ///
    /// # Errors
    /// Those of [`Self::pack`] and of `columns`.
    pub fn pack_by_parts<E: From<MatrixError>>(
        layout: PanelLayout,
        most: usize,
        columns: impl Fn(Range<usize>) -> Result<UnpackedWeight, E>,
    ) -> Result<Self, E> {
        let failed = |error: PanelError| E::from(error.into());
        let region = Region::new(layout.bytes());
        let mut region = region.map_err(|error| E::from(MatrixError::Memory(error)))?;
        let panels = (most / COLUMNS).max(1);
        for first in (0..layout.panels()).step_by(panels) {
            let (from, to) = (first * COLUMNS, ((first + panels) * COLUMNS).min(layout.n()));
            let (bits, group, zeros) = (layout.bits(), layout.group(), layout.zeros());
            let part = PanelLayout::new(bits, group, layout.k(), to - from, layout.scale(), zeros);
            let part = part.map_err(failed)?;
            let start = first * layout.panel_stride();
            let weight = columns(from..to)?;
            let bytes = region.bytes_mut().get_mut(start..start + part.bytes());
            let bytes = bytes.ok_or(PanelError::TooLarge { k: layout.k(), n: layout.n() });
            part.pack(&weight.view(), bytes.map_err(failed)?).map_err(failed)?;
        }
        Ok(Self { layout, region })
    }

    /// Takes a weight that is packed already. Any bytes are some weight.
    ///
    /// # Errors
    /// [`PanelError::Length`]; [`MatrixError::Memory`].
    pub fn from_bytes(layout: PanelLayout, bytes: &[u8]) -> Result<Self, MatrixError> {
        if bytes.len() != layout.bytes() {
            let (got, want) = (bytes.len(), layout.bytes());
            return Err(PanelError::Length { what: "bytes", got, want }.into());
        }
        let mut region = Region::new(bytes.len())?;
        region.bytes_mut().copy_from_slice(bytes);
        Ok(Self { layout, region })
    }

    /// What the bytes are.
    #[must_use]
    pub fn layout(&self) -> &PanelLayout {
        &self.layout
    }

    /// The panels, aligned to 4096 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.region.bytes()
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matrix").field("layout", &self.layout).finish_non_exhaustive()
    }
}
