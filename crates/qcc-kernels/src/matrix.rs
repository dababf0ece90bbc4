//! A packed weight in memory.

use crate::pages::Region;
use qcc_quant::panel::{PanelError, PanelLayout, PanelWeight};
use std::fmt;
use std::io;

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
