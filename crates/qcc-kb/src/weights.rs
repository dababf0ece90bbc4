//! Weights as they come through the C interface.

use qcc_kernels::{KernelBits, Matrix, ScaleKind};
use qcc_quant::panel::{PanelLayout, PanelWeight};
use std::ffi::{c_int, c_long};

/// Numbers that were looked at: elements of `[n][k]` can be counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) k: usize,
    pub(crate) n: usize,
    bits: KernelBits,
    group: usize,
}

impl Shape {
    /// None for shapes and widths that there are no panels for.
    pub(crate) fn new(k: c_long, n: c_long, bits: c_int, group: c_int) -> Option<Self> {
        let (k, n) = (usize::try_from(k).ok()?, usize::try_from(n).ok()?);
        let bits = *KernelBits::ALL.iter().find(|it| it.bits().cast_signed() == bits)?;
        let group = usize::try_from(group).ok()?;
        PanelLayout::new(bits, group, k, n, ScaleKind::F32, true).ok()?;
        Some(Self { k, n, bits, group })
    }

    /// Groups of a column.
    pub(crate) fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }

    /// Packs codes, scales as f16 if that is exact.
    pub(crate) fn pack(
        &self,
        codes: &[u8],
        scales: &[f32],
        zeros: Option<&[u8]>,
    ) -> Option<Matrix> {
        let zeros: Option<Vec<f32>> =
            zeros.map(|zeros| zeros.iter().map(|&it| f32::from(it)).collect());
        let kind = ScaleKind::holding(scales);
        let layout =
            PanelLayout::new(self.bits, self.group, self.k, self.n, kind, zeros.is_some()).ok()?;
        Matrix::pack(layout, &PanelWeight { codes, scales, zeros: zeros.as_deref() }).ok()
    }

    /// Codes and scales of floats, rounded to nearest: the largest magnitude of a group is the
    /// largest code, at 2 bits halfway to it, and scales are numbers of f16.
    pub(crate) fn round(&self, w: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let middle = f32::from(self.bits.middle());
        // Adding it rounds to an integer, half to even.
        const ROUNDER: f32 = 12_582_912.0;
        let largest = if middle > 2.0 { middle - 1.0 } else { 1.5 };
        let (mut codes, mut scales) = (Vec::with_capacity(w.len()), Vec::new());
        for group in w.chunks_exact(self.k).flat_map(|row| row.chunks(self.group)) {
            let amax = group.iter().fold(0f32, |most, w| most.max(w.abs()));
            let scale = ScaleKind::F16.nearest(amax / largest);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            scales.push(scale);
            codes.extend(group.iter().map(|w| {
                let code = (w * inverse + ROUNDER) - ROUNDER + middle;
                code.clamp(0.0, 2.0 * middle - 1.0) as u8
            }));
        }
        (codes, scales)
    }
}
