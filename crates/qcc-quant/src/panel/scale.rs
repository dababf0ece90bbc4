//! Numbers as scales and zero points are stored.

use super::PanelScale;
use half::{bf16, f16};

impl PanelScale {
    /// The shortest kind that holds all scales exactly.
    #[must_use]
    pub fn holding(scales: &[f32]) -> Self {
        let all = |exact: fn(f32) -> bool| scales.iter().all(|&it| exact(it));
        if all(|it| f16::from_f32(it).to_f32().to_bits() == it.to_bits()) {
            Self::F16
        } else if all(|it| it.to_bits() & 0xffff == 0) {
            Self::Bf16
        } else {
            Self::F32
        }
    }

    /// The number of this kind next to `x`.
    #[must_use]
    pub fn nearest(self, x: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F32 => x,
        }
    }

    /// Writes numbers and fills up with zeros.
    pub(super) fn write(self, numbers: impl Iterator<Item = f32>, out: &mut [u8]) {
        out.fill(0);
        for (x, to) in numbers.zip(out.chunks_exact_mut(self.bytes())) {
            match self {
                Self::F16 => to.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                Self::Bf16 => to.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                Self::F32 => to.copy_from_slice(&x.to_le_bytes()),
            }
        }
    }

    /// The number in its bytes; 0 if they are too many or too few.
    #[must_use]
    #[inline]
    pub fn read(self, bytes: &[u8]) -> f32 {
        match *bytes {
            [a, b] if self == Self::F16 => f16::from_le_bytes([a, b]).to_f32(),
            [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_scales() {
        assert_eq!(PanelScale::holding(&[0.5, -0.0, 6e-8, 65504.0]), PanelScale::F32);
        assert_eq!(PanelScale::holding(&[0.5, -0.0, 5.960_464_5e-8, 65504.0]), PanelScale::F16);
        assert_eq!(PanelScale::holding(&[0.1, f32::from_bits(0x7149_0000)]), PanelScale::F32);
        assert_eq!(PanelScale::holding(&[0.5, f32::from_bits(0x7149_0000)]), PanelScale::Bf16);
        assert_eq!(PanelScale::holding(&[]), PanelScale::F16);
    }
}
