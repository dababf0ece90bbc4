//! A weight as codes, one row per output, and products with it.
//!
//! `w[n][k] = (code - zero) * scale`, with one scale and zero point for each block of a row. Rows
//! are decoded to f32 a tile at a time and multiplied there, so the float weight never exists as a
//! whole. The sums are those of f32 weights.

use std::borrow::Cow;

use pulp::NullaryFnOnce;
use qcc_quant::layout::Outliers;
use rayon::prelude::*;

use crate::product::{Mat, MatMut, product};
use crate::vector::dispatch;

/// Zero points, one for each block.
#[derive(Clone, Debug)]
pub(crate) enum Zeros<'a> {
    /// The same one for all.
    All(f32),
    /// `[n][blocks]`.
    Each(Cow<'a, [f32]>),
}

/// Codes of `bits`, low bits first: `u8[n][blocks * block * bits / 8]`.
#[derive(Clone, Debug)]
pub(crate) struct CodedRows<'a> {
    /// Width of a code.
    pub(crate) bits: u8,
    /// Rows.
    pub(crate) n: usize,
    /// Codes in a row, padding not counted.
    pub(crate) k: usize,
    /// Codes that share a scale: a multiple of 8, or a row that ends on a byte.
    pub(crate) block: usize,
    /// Bytes of a row.
    pub(crate) row_bytes: usize,
    /// All rows.
    pub(crate) codes: &'a [u8],
    /// `[n][blocks]`.
    pub(crate) scales: Cow<'a, [f32]>,
    /// Zero points.
    pub(crate) zeros: Zeros<'a>,
    /// Codes with another scale than that of their block.
    pub(crate) outliers: Option<Outliers>,
}

impl CodedRows<'_> {
    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Whether bytes and scales have the sizes that the shape needs.
    pub(crate) fn is_whole(&self) -> bool {
        let scales = self.n.checked_mul(self.blocks());
        let zeros = match &self.zeros {
            Zeros::All(_) => scales,
            Zeros::Each(it) => Some(it.len()),
        };
        self.n.checked_mul(self.row_bytes) == Some(self.codes.len())
            && scales == Some(self.scales.len())
            && scales == zeros
            && (self.k * usize::from(self.bits)).div_ceil(8) <= self.row_bytes
            && (self.block * usize::from(self.bits)).is_multiple_of(8)
    }

    /// A code of a whole weight.
    fn code(&self, row: usize, column: usize) -> u8 {
        let at = column * usize::from(self.bits);
        let bytes = &self.codes[row * self.row_bytes + at / 8..];
        let word = u16::from_le_bytes([bytes[0], bytes.get(1).copied().unwrap_or(0)]);
        (word >> (at % 8)) as u8 & (u8::MAX >> (8 - self.bits))
    }

    /// Rows `first ..` as floats, as many as `out` holds.
    pub(crate) fn decode(&self, first: usize, out: &mut [f32]) {
        dispatch(Decode { rows: self, first, out });
    }

    /// `out[m][n] = a[m][k] * w` and then `+ bias[n]`, on all threads.
    ///
    /// # Panics
    /// If the slices do not have these sizes.
    pub(crate) fn multiply(&self, a: &[f32], bias: Option<&[f32]>, m: usize, out: &mut [f32]) {
        let width = tile_width(self.k);
        let tiles = MatMut::new(out, m, self.n).split_cols(width);
        let a = Mat::new(a, m, self.k);
        let run = |scratch: &mut Vec<f32>, (tile, mut out): (usize, MatMut<'_>)| {
            let (first, cols) = (tile * width, out.cols());
            scratch.resize(cols * self.k, 0.0);
            self.decode(first, scratch);
            product(&mut out, a, Mat::new(scratch, cols, self.k).t(), 1.0);
            if let Some(bias) = bias {
                for row in 0..m {
                    for (y, b) in out.row(row).iter_mut().zip(&bias[first..first + cols]) {
                        *y += b;
                    }
                }
            }
        };
        tiles.into_par_iter().enumerate().for_each_init(Vec::new, run);
    }
}

/// Rows decoded at a time: they fit the second-level cache, and are enough that packing the left
/// operand once per tile costs little.
fn tile_width(k: usize) -> usize {
    const TILE_ELEMENTS: usize = 1 << 17;
    (TILE_ELEMENTS / k.max(1)).clamp(32, 256) / 16 * 16
}

struct Decode<'a> {
    rows: &'a CodedRows<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.rows;
        let blocks = rows.blocks();
        let block_bytes = rows.block * usize::from(rows.bits) / 8;
        for (i, line) in self.out.chunks_exact_mut(rows.k.max(1)).enumerate() {
            let row = self.first + i;
            let codes = &rows.codes[row * rows.row_bytes..][..rows.row_bytes];
            let parts = line.chunks_mut(rows.block).zip(codes.chunks(block_bytes));
            for (at, (out, codes)) in (row * blocks..).zip(parts) {
                let zero = match &rows.zeros {
                    Zeros::All(it) => *it,
                    Zeros::Each(it) => it[at],
                };
                decode_block(rows.bits, codes, zero, rows.scales[at], out);
            }
            let Some(outliers) = &rows.outliers else { continue };
            for (column, scale) in outliers.row(row) {
                let zero = match &rows.zeros {
                    Zeros::All(it) => *it,
                    Zeros::Each(it) => it[row * blocks + column / rows.block],
                };
                line[column] = (f32::from(rows.code(row, column)) - zero) * scale;
            }
        }
    }
}

#[inline(always)]
fn decode_block(bits: u8, codes: &[u8], zero: f32, scale: f32, out: &mut [f32]) {
    let value = |code: u8| (f32::from(code) - zero) * scale;
    match bits {
        8 => {
            for (x, &code) in out.iter_mut().zip(codes) {
                *x = value(code);
            }
        }
        4 => {
            let (pairs, rest) = out.as_chunks_mut::<2>();
            let whole = pairs.len();
            for (pair, &byte) in pairs.iter_mut().zip(codes) {
                *pair = [value(byte & 15), value(byte >> 4)];
            }
            if let ([x], Some(&byte)) = (rest, codes.get(whole)) {
                *x = value(byte & 15);
            }
        }
        2 => {
            let field = |byte: u8, i: usize| value(byte >> (2 * i) & 3);
            let (quads, rest) = out.as_chunks_mut::<4>();
            let whole = quads.len();
            for (quad, &byte) in quads.iter_mut().zip(codes) {
                *quad = [0, 1, 2, 3].map(|i| field(byte, i));
            }
            if let Some(&byte) = codes.get(whole) {
                rest.iter_mut().enumerate().for_each(|(i, x)| *x = field(byte, i));
            }
        }
        _ => {
            // Eight codes are one little-endian word of `bits` bytes.
            let mask = u64::from(u8::MAX >> (8 - bits));
            for (out, bytes) in out.chunks_mut(8).zip(codes.chunks(usize::from(bits))) {
                let word = bytes.iter().rev().fold(0u64, |word, &it| word << 8 | u64::from(it));
                for (i, x) in out.iter_mut().enumerate() {
                    *x = value((word >> (i * usize::from(bits)) & mask) as u8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qcc_quant::layout::Dense;

    use super::*;

    proptest! {
        #[test]
        fn rows_decode_as_the_layout_says(
            n in 1usize..5, k in 1usize..80, bits in 2u8..=8, eights in 1usize..5, seed: u8,
        ) {
            let layout = Dense::new(n, k, bits, 8 * eights).unwrap();
            let code = |i: usize| (i.wrapping_mul(31) as u8 ^ seed) & (u8::MAX >> (8 - bits));
            let codes: Vec<u8> = (0..n * k).map(code).collect();
            let zeros: Vec<u8> = (0..n * layout.blocks()).map(code).collect();
            let mut bytes = vec![0; layout.bytes()];
            layout.pack(&codes, &zeros, &mut bytes);
            let scales: Vec<f32> = (0..zeros.len()).map(|it| 1.0 + it as f32).collect();
            let rows = CodedRows {
                bits: layout.field(),
                n,
                k,
                block: 8 * eights,
                row_bytes: layout.bytes() / n,
                codes: &bytes,
                scales: scales.clone().into(),
                zeros: Zeros::Each(zeros.iter().map(|&it| f32::from(it)).collect()),
                outliers: None,
            };
            prop_assert!(rows.is_whole());
            for (at, &code) in codes.iter().enumerate() {
                prop_assert_eq!(rows.code(at / k, at % k), code);
            }
            let mut out = vec![0.0; n * k];
            rows.decode(0, &mut out);
            for (i, row) in out.chunks_exact(k).enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    let block = i * layout.blocks() + j / (8 * eights);
                    let q = f32::from(codes[i * k + j]) - f32::from(zeros[block]);
                    prop_assert_eq!(x, q * scales[block]);
                }
            }
        }
    }
}
