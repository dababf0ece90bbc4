//! A quantized weight before it is packed: one byte a code, one f32 a scale.

use rayon::prelude::*;

use crate::{
    rows::Order,
    simd::{Kernel, LANES, Vector, VectorKernel, dispatch, dispatch_vectors},
    spec::WeightSpec,
};

/// Columns of a weight that one task of [`Codes::fill`] writes: codes of a line of the cache.
const COLUMNS: usize = 64;

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
        dispatch(Row { codes: self, row, out });
    }

    /// All rows as floats, `out: [n * k]` in `order`, in parallel.
    ///
    /// # Panics
    /// If `out` holds another number of floats.
    pub fn fill(&self, order: Order, out: &mut [f32]) {
        assert_eq!(out.len(), self.n * self.k);
        if out.is_empty() {
            return;
        }
        match order {
            Order::Nk => {
                let rows = out.par_chunks_exact_mut(self.k).enumerate();
                rows.for_each(|(row, out)| self.dequantize(row, out));
            }
            Order::Kn => {
                let lines = out.par_chunks_mut(COLUMNS * self.n).enumerate();
                lines.for_each(|(chunk, out)| {
                    dispatch_vectors(Columns { codes: self, first: chunk * COLUMNS, out });
                });
            }
        }
    }

    /// Codes of `row` from `column` on as floats, as many as `out` holds.
    #[inline(always)]
    fn decode_part(&self, row: usize, column: usize, out: &mut [f32]) {
        let (size, at) = (self.spec.group.len(self.k), row * self.groups());
        let codes = &self.codes[row * self.k + column..][..out.len()];
        let (first, last) = (column / size, (column + out.len() - 1) / size);
        if first == last {
            let (scale, zero) = (self.scales[at + first], self.zeros[at + first]);
            out.iter_mut().zip(codes).for_each(|(x, code)| *x = decode(*code, scale, zero));
        } else {
            for (i, (x, code)) in out.iter_mut().zip(codes).enumerate() {
                let group = at + (column + i) / size;
                *x = decode(*code, self.scales[group], self.zeros[group]);
            }
        }
    }
}

/// A row as floats.
struct Row<'a> {
    codes: &'a Codes,
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let size = self.codes.spec.group.len(self.codes.k);
        for (group, out) in self.out.chunks_mut(size).enumerate() {
            self.codes.decode_part(self.row, group * size, out);
        }
    }
}

/// Columns from `first` on as floats, `out: [columns][n]`.
struct Columns<'a> {
    codes: &'a Codes,
    first: usize,
    out: &'a mut [f32],
}

impl VectorKernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { codes, first, out } = self;
        let (n, columns) = (codes.n, out.len() / codes.n);
        for top in (0..n).step_by(LANES) {
            let rows = LANES.min(n - top);
            for left in (0..columns).step_by(LANES) {
                let width = LANES.min(columns - left);
                let mut tile = [V::splat(0.0); LANES];
                for (i, line) in tile.iter_mut().enumerate().take(rows) {
                    let mut floats = [0.0; LANES];
                    if width == LANES {
                        codes.decode_part(top + i, first + left, &mut floats);
                    } else {
                        codes.decode_part(top + i, first + left, &mut floats[..width]);
                    }
                    *line = V::load(&floats);
                }
                for (j, line) in V::transpose(tile).into_iter().enumerate().take(width) {
                    let out = &mut out[(left + j) * n + top..][..rows];
                    match out.first_chunk_mut() {
                        Some(out) => line.store(out),
                        None => out.copy_from_slice(&line.lanes()[..rows]),
                    }
                }
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
    use crate::testing::specs;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_whole_weight_is_its_rows_in_both_orders(
            spec in specs(), n in 1usize..40, k in 1usize..150, seed in any::<u32>(),
        ) {
            let mut codes = Codes::zeroed(n, k, spec);
            let number = |at: usize| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8;
            let levels = spec.bits.levels() as u32;
            codes.codes.iter_mut().enumerate().for_each(|(at, it)| *it = (number(at) % levels) as u8);
            codes.scales.iter_mut().enumerate().for_each(|(at, it)| *it = number(at) as f32 - 4e6);
            codes.zeros.iter_mut().enumerate().for_each(|(at, it)| *it = (number(at) % levels) as u8);
            let (groups, size) = (codes.groups(), spec.group.len(k));
            let value = |at: usize| {
                let group = at / k * groups + at % k / size;
                decode(codes.codes[at], codes.scales[group], codes.zeros[group])
            };
            let rows: Vec<f32> = (0..n * k).map(value).collect();
            let mut out = vec![f32::NAN; n * k];
            out.chunks_exact_mut(k).enumerate().for_each(|(row, out)| codes.dequantize(row, out));
            prop_assert_eq!(&out, &rows);
            codes.fill(Order::Nk, &mut out);
            prop_assert_eq!(&out, &rows);
            codes.fill(Order::Kn, &mut out);
            let is_same = |at: usize| out[at % k * n + at / k] == rows[at];
            prop_assert!((0..n * k).all(is_same));
        }
    }

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
