//! A packed weight in memory.

use crate::pages::Region;
use qcc_quant::panel::{PanelError, PanelLayout, PanelWeight, UnpackedWeight};
use std::fmt;
use std::io;
use std::ops::Range;

/// Columns of a panel.
const COLUMNS: usize = 32;

/// A packed weight, in huge pages where the system has them, or in a mapped file.
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
    /// The file cannot be read.
    #[error("a file of packed weights")]
    File(#[source] io::Error),
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

    /// Maps the record that begins at byte `at` of a file, without a copy: its header, then its
    /// panels. The file must not change while the matrix lives.
    ///
    /// # Errors
    /// Those of [`PanelLayout::from_header`]; [`PanelError::Damaged`] for a file that ends before
    /// the panels do, or `at` that is no multiple of 4096; [`MatrixError::File`].
    pub fn map(file: &std::fs::File, at: u64) -> Result<Self, MatrixError> {
        if !at.is_multiple_of(PanelLayout::FIRST_PANEL as u64) {
            return Err(PanelError::Damaged("a record that does not begin with a page").into());
        }
        let cut = || MatrixError::Panel(PanelError::Damaged("panels that are cut off"));
        let length = file.metadata().map_err(MatrixError::File)?.len();
        let have = length.checked_sub(at).filter(|it| *it > 0).ok_or_else(cut)?;
        let map = |from: usize, len: usize| {
            Region::map(file, at + from as u64, len).map_err(MatrixError::File)
        };
        let head = usize::try_from(have).unwrap_or(usize::MAX).min(PanelLayout::HEADER);
        let layout = PanelLayout::from_header(map(0, head)?.bytes())?;
        let end = PanelLayout::FIRST_PANEL.checked_add(layout.bytes());
        end.filter(|it| *it as u64 <= have).ok_or_else(cut)?;
        Ok(Self { layout, region: map(PanelLayout::FIRST_PANEL, layout.bytes())? })
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

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_quant::panel::{PanelBits, PanelScale};
    use std::fs::File;
    use std::io::Write as _;

    fn layout() -> PanelLayout {
        PanelLayout::new(PanelBits::B4, 32, 100, 40, PanelScale::F16, false).unwrap()
    }

    /// A file without a name: a page of something else, then a record that lacks `less` bytes.
    fn file(less: usize) -> File {
        let layout = layout();
        let mut bytes = vec![7; 4096];
        bytes.extend(layout.header());
        bytes.resize(2 * 4096, 0);
        bytes.extend((0..layout.bytes()).map(|i| i as u8));
        let path = std::env::temp_dir().join(format!("qcc-matrix-{}-{less}", std::process::id()));
        let mut file = File::options();
        let mut file = file.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(&bytes[..bytes.len() - less]).unwrap();
        file
    }

    #[test]
    fn a_mapped_record_is_the_packed_bytes() {
        let matrix = Matrix::map(&file(0), 4096).unwrap();
        assert_eq!(*matrix.layout(), layout());
        let want: Vec<u8> = (0..layout().bytes()).map(|i| i as u8).collect();
        assert_eq!(matrix.bytes(), want);
        assert!(matrix.bytes().as_ptr().addr().is_multiple_of(4096));
        assert_eq!(Matrix::from_bytes(layout(), &want).unwrap().bytes(), want);
    }

    #[test]
    fn other_files_are_refused() {
        let text = |less, at| Matrix::map(&file(less), at).unwrap_err().to_string();
        assert_eq!(text(1, 4096), "damaged packed matrix: panels that are cut off");
        assert_eq!(text(0, 1 << 40), "damaged packed matrix: panels that are cut off");
        assert_eq!(text(0, 0), "damaged packed matrix: no QPK1 at the start");
        assert_eq!(text(0, 64), "damaged packed matrix: a record that does not begin with a page");
        let all = 4096 + layout().bytes();
        assert_eq!(text(all - 10, 4096), "damaged packed matrix: a header that is cut off");
    }
}
