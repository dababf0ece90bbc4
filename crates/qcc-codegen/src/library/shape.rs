//! Sizes of a product, as the driver reads them.

use qcc_kernels::{KernelSpec, Planes};
use qcc_quant::panel::PanelLayout;

/// What codes of activations are aligned to, and how far planes are apart beyond their length:
/// rows of 4096 would all lie in the same sets of the first cache.
const APART: u64 = 64;

/// Bytes of weights that stay in the second cache beside the activations.
const CACHED: u64 = 384 << 10;

/// Most panels of a block: more gain nothing.
pub(crate) const MOST_PANELS: u64 = 8;

/// Sizes of a product. A row of the workspace
/// is codes by plane, then `f32` scales and sums and `i32` starts by plane, each by group; then,
/// for outliers, the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub k: u64,
    pub n: u64,
    pub group: u64,
    /// Groups of a row that are stored.
    pub groups: u64,
    pub planes: u64,
    /// The middle code, `2^(bits - 1)`.
    pub middle: u64,
    /// Bytes from one plane of a row to the next.
    pub plane: u64,
    /// Bytes from one row to the next.
    pub row: u64,
    /// Where scales begin in a row; sums and starts follow.
    pub scales_at: u64,
    pub most_rows: u64,
    pub panels: u64,
    /// Bytes from one panel to the next.
    pub panel_stride: u64,
    /// Blocks of 32 k of a group.
    pub group_blocks: u64,
    /// Panels of a block of panels.
    pub block_panels: u64,
    /// Number of the last panel if it has one tile, else the number of panels.
    pub whole_panels: u64,
    /// Where the activations themselves begin in a row; 0 if they are not kept.
    pub floats_at: u64,
}

/// Bytes of a field of the descriptor.
pub(crate) const FIELD: u64 = 8;

impl Shape {
    /// Of a weight and activations of `planes`, which are kept as they came as well if `keeps`.
    pub(crate) fn new(layout: &PanelLayout, planes: Planes, keeps: bool) -> Self {
        let (group, groups) = (layout.group() as u64, layout.stored_groups() as u64);
        let (k, n, count) = (layout.k() as u64, layout.n() as u64, u64::from(planes.count()));
        let plane = (groups * group).next_multiple_of(APART) + APART;
        let scales_at = count * plane;
        let floats = (scales_at + groups * (8 + 4 * count)).next_multiple_of(APART);
        let (floats_at, more) = if keeps { (floats, 4 * k) } else { (0, 0) };
        let row = (floats + more).next_multiple_of(APART);
        let row = if row.is_multiple_of(4096) { row + APART } else { row };
        let panels = layout.panels() as u64;
        let single = layout.tiles(layout.panels() - 1) == 1;
        let panel_stride = layout.panel_stride() as u64;
        Self {
            k,
            n,
            group,
            groups,
            planes: count,
            middle: u64::from(layout.bits().middle()),
            plane,
            row,
            scales_at,
            most_rows: (i64::MAX as u64 / row.max(4 * n).max(4 * k)).min(1 << 31),
            panels,
            panel_stride,
            group_blocks: group.div_ceil(32),
            block_panels: (CACHED / panel_stride).clamp(1, MOST_PANELS),
            whole_panels: panels - u64::from(single),
            floats_at,
        }
    }

    /// What the driver reads, in the order of the fields.
    pub(crate) fn numbers(&self) -> [u64; 15] {
        let Self { k, n, group, groups, middle, plane, row, scales_at, .. } = *self;
        let Self { most_rows, panels, panel_stride, group_blocks, .. } = *self;
        let Self { block_panels, whole_panels, floats_at, .. } = *self;
        [
            k,
            n,
            group,
            groups,
            middle,
            plane,
            row,
            scales_at,
            most_rows,
            panels,
            panel_stride,
            group_blocks,
            block_panels,
            whole_panels,
            floats_at,
        ]
    }

    /// What quantized rows depend on.
    pub(crate) fn class(&self) -> [u64; 4] {
        [self.k, self.group, self.planes, self.middle]
    }

    /// Kernels of a descriptor: by tiles and rows.
    pub(crate) const KERNELS: usize = 2 * KernelSpec::MOST_ROWS as usize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_quant::panel::{PanelBits, PanelScale};

    #[test]
    fn rows_by_hand() {
        let shape = |k, n, planes| {
            let layout = PanelLayout::new(PanelBits::B4, 32, k, n, PanelScale::F16, false);
            Shape::new(&layout.unwrap(), planes, false)
        };
        let it = shape(100, 40, Planes::A15);
        assert_eq!((it.groups, it.plane, it.scales_at), (4, 192, 384));
        assert_eq!((it.row, it.panels, it.whole_panels), (384 + 4 * 16, 2, 1));
        let it = shape(3520, 32, Planes::A8);
        assert_eq!((it.groups, it.scales_at, it.row), (110, 3584, 4928));
        let layout = PanelLayout::new(PanelBits::B4, 32, 100, 40, PanelScale::F16, false).unwrap();
        let kept = Shape::new(&layout, Planes::A15, true);
        assert_eq!((kept.floats_at, kept.row), (448, 448 + 448));
        for k in 1..5000 {
            assert!(!shape(k, 1, Planes::A8).row.is_multiple_of(4096));
        }
    }
}
