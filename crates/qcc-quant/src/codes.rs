//! A quantized weight before it is packed: one byte a code, one f32 a scale.

use crate::spec::WeightSpec;

/// Codes, scales and zero points of a weight `[n][k]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// Rows.
    pub n: usize,
    /// Weights in a row.
    pub k: usize,
    /// What the weight was rounded to.
    pub spec: WeightSpec,
    /// `[n][k]`, each below `2^bits`.
    pub codes: Vec<u8>,
    /// `[n][groups]`, already rounded to the stored type, never zero.
    pub scales: Vec<f32>,
    /// `[n][groups]`, on the symmetric grid all `2^(bits - 1)`.
    pub zeros: Vec<u8>,
}

impl Codes {
    /// Zeros: every code its zero point, every scale 1.
    pub fn zeroed(n: usize, k: usize, spec: WeightSpec) -> Self {
        let (middle, groups) = (spec.bits.middle(), spec.group.count(k));
        Self {
            n,
            k,
            spec,
            codes: vec![middle; n * k],
            scales: vec![1.0; n * groups],
            zeros: vec![middle; n * groups],
        }
    }

    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.spec.group.count(self.k)
    }

    /// Row `row` as floats, `out: [k]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dequantize(&self, row: usize, out: &mut [f32]) {
        let (groups, size) = (self.groups(), self.spec.group.len(self.k));
        let codes = &self.codes[row * self.k..(row + 1) * self.k];
        let scales = &self.scales[row * groups..(row + 1) * groups];
        let zeros = &self.zeros[row * groups..(row + 1) * groups];
        for (((out, codes), &scale), &zero) in
            out.chunks_mut(size).zip(codes.chunks(size)).zip(scales).zip(zeros)
        {
            for (x, &code) in out.iter_mut().zip(codes) {
                *x = decode(code, scale, zero);
            }
        }
    }
}

/// The float a code stands for, `scale * (code - zero)`.
#[inline(always)]
pub fn decode(code: u8, scale: f32, zero: u8) -> f32 {
    scale * f32::from(i16::from(code) - i16::from(zero))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Bits, Grid, GroupSize, ScaleType};

    #[test]
    fn dequantize_uses_the_scale_and_zero_point_of_each_group() {
        let spec = WeightSpec {
            bits: Bits::new(4).unwrap(),
            group: GroupSize::of(2).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F32,
        };
        let mut codes = Codes::zeroed(2, 3, spec);
        let mut row = [f32::NAN; 3];
        codes.dequantize(1, &mut row);
        assert_eq!(row.map(f32::to_bits), [0; 3]);
        codes.codes[3..].copy_from_slice(&[0, 15, 7]);
        codes.scales[2..].copy_from_slice(&[0.5, -2.0]);
        codes.zeros[2..].copy_from_slice(&[3, 8]);
        codes.dequantize(1, &mut row);
        assert_eq!(row, [-1.5, 6.0, 2.0]);
    }
}
