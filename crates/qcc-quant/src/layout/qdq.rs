//! `DequantizeLinear` weight bytes: `[K][N]` of (u)int2, (u)int4 or (u)int8.
//!
//! The codes are transposed, because the product that reads them is `x[M][K] * W[K][N]` and
//! blocks run along axis 0. Elements of 2 and 4 bits are packed low bits first over the whole
//! flattened tensor: a byte may span two rows. Scales are `[ceil(K / block)][N]` (see
//! [`transpose`](super::transpose)) and zero points have their shape and the weight's type.
//! Unsigned types store the code; signed ones store `code - 2^(bits - 1)` in two's complement,
//! which needs no zero points if the weight is symmetric. 3 bits are stored in 4, 5 to 7 in 8.
//! Source: ONNX operators DequantizeLinear 21 and 25, onnx.proto `TensorProto.DataType`.

use rayon::prelude::*;

use super::{LayoutError, check_bits};
use crate::fields::{field_at, field_bits, field_bytes, pack_fields};

/// Whether the stored element type is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// uint2, uint4, uint8: the code itself; zero points are needed.
    Unsigned,
    /// int2, int4, int8: the code less `2^(bits - 1)`; symmetric weights need no zero points.
    Signed,
}

/// Shape of a `DequantizeLinear` weight of `n` outputs and `k` inputs, stored `[k][n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qdq {
    n: usize,
    k: usize,
    bits: u8,
    sign: Sign,
}

/// Rows of K transposed at a time; a multiple of 4, so that a panel begins on a byte.
const PANEL: usize = 64;

impl Qdq {
    /// A weight `[n][k]` of `bits`.
    ///
    /// # Errors
    /// Widths outside 2 to 8, sizes beyond the address space.
    pub fn new(n: usize, k: usize, bits: u8, sign: Sign) -> Result<Self, LayoutError> {
        check_bits(bits)?;
        n.checked_mul(k)
            .and_then(|codes| field_bytes(codes, field_bits(bits)))
            .ok_or(LayoutError::TooLarge { n, k })?;
        Ok(Self { n, k, bits, sign })
    }

    /// Width of the stored element type in bits.
    #[must_use]
    pub fn field(&self) -> u8 {
        field_bits(self.bits)
    }

    /// Bytes of all codes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed_bytes(self.k)
    }

    /// Bytes of the zero points of `blocks` blocks a row, `[blocks][n]`.
    #[must_use]
    pub fn zero_bytes(&self, blocks: usize) -> usize {
        self.packed_bytes(blocks)
    }

    /// Packs `codes[n][k]` into `out[bytes()]`, transposed.
    pub fn pack(&self, codes: &[u8], out: &mut [u8]) {
        self.pack_columns(codes, self.k, out);
    }

    /// Packs `zeros[n][blocks]` into `out[zero_bytes(blocks)]`, transposed.
    pub fn pack_zeros(&self, zeros: &[u8], blocks: usize, out: &mut [u8]) {
        self.pack_columns(zeros, blocks, out);
    }

    /// The code of output `n`, input `k`, before the shift to a signed type.
    #[must_use]
    pub fn code(&self, bytes: &[u8], n: usize, k: usize) -> u8 {
        self.to_code(field_at(bytes, self.field(), k * self.n + n))
    }

    /// The zero point of output `n`, block `block`.
    #[must_use]
    pub fn zero(&self, bytes: &[u8], n: usize, block: usize) -> u8 {
        self.code(bytes, n, block)
    }

    fn packed_bytes(&self, cols: usize) -> usize {
        (self.n * cols * usize::from(self.field())).div_ceil(8)
    }

    fn pack_columns(&self, rows: &[u8], cols: usize, out: &mut [u8]) {
        debug_assert_eq!(rows.len(), self.n * cols);
        debug_assert_eq!(out.len(), self.packed_bytes(cols));
        if out.is_empty() {
            return;
        }
        let panel_bytes = PANEL * self.n * usize::from(self.field()) / 8;
        out.par_chunks_mut(panel_bytes).enumerate().for_each_init(Vec::new, |panel, (i, out)| {
            let first = i * PANEL;
            let height = PANEL.min(cols - first);
            panel.clear();
            panel.resize(height * self.n, 0);
            // Tiles keep both the rows read and the rows written in the cache.
            for (tile, rows) in rows.chunks(PANEL * cols).enumerate() {
                for (c, row) in panel.chunks_exact_mut(self.n).enumerate() {
                    let column = rows[first + c..].iter().step_by(cols);
                    for (to, &code) in row[tile * PANEL..].iter_mut().zip(column) {
                        *to = self.to_field(code);
                    }
                }
            }
            pack_fields(panel, self.field(), out);
        });
    }

    /// What to add, modulo the field, to turn a code into its stored value.
    fn shift(&self) -> u8 {
        match self.sign {
            Sign::Unsigned => 0,
            Sign::Signed => (1u8 << (self.bits - 1)).wrapping_neg(),
        }
    }

    fn to_field(self, code: u8) -> u8 {
        code.wrapping_add(self.shift()) & (u8::MAX >> (8 - self.field()))
    }

    fn to_code(self, stored: u8) -> u8 {
        stored.wrapping_sub(self.shift()) & (u8::MAX >> (8 - self.field()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::random_codes;
    use super::*;

    fn packed(layout: Qdq, codes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(codes, &mut bytes);
        bytes
    }

    #[test]
    fn four_bits_by_hand_span_rows() {
        // N = 3, K = 2: flattened [K][N] is 1 3 5 | 2 4 6.
        let codes = [1, 2, 3, 4, 5, 6];
        let unsigned = Qdq::new(3, 2, 4, Sign::Unsigned).unwrap();
        assert_eq!(packed(unsigned, &codes), [0x31, 0x25, 0x64]);
        // Signed: -7 -5 -3 | -6 -4 -2 as nibbles 9 b d | a c e.
        let signed = Qdq::new(3, 2, 4, Sign::Signed).unwrap();
        assert_eq!(packed(signed, &codes), [0xb9, 0xad, 0xec]);
    }

    #[test]
    fn narrow_signed_codes_are_sign_extended() {
        // 3 bits in int4: codes 0, 4, 7 are -4, 0, 3.
        let layout = Qdq::new(3, 1, 3, Sign::Signed).unwrap();
        assert_eq!(packed(layout, &[0, 4, 7]), [0x0c, 0x03]);
        // 5 bits in int8: codes 0, 16, 31 are -16, 0, 15.
        let layout = Qdq::new(3, 1, 5, Sign::Signed).unwrap();
        assert_eq!(packed(layout, &[0, 16, 31]), [0xf0, 0, 15]);
        let layout = Qdq::new(5, 1, 2, Sign::Signed).unwrap();
        assert_eq!(packed(layout, &[0, 1, 2, 3, 1]), [0b0100_1110, 0b11]);
    }

    #[test]
    fn hostile_shapes_are_refused() {
        let n = usize::MAX / 2;
        let error = LayoutError::TooLarge { n, k: 3 };
        assert_eq!(Qdq::new(n, 3, 4, Sign::Signed), Err(error));
        Qdq::new(0, 7, 4, Sign::Signed).unwrap().pack(&[], &mut []);
        Qdq::new(7, 0, 4, Sign::Signed).unwrap().pack(&[], &mut []);
    }

    proptest! {
        #[test]
        fn pack_then_code_is_identity(
            n in 1usize..140, k in 1usize..140, bits in 2u8..=8, signed in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let sign = if signed { Sign::Signed } else { Sign::Unsigned };
            let layout = Qdq::new(n, k, bits, sign).unwrap();
            let codes = random_codes(n * k, bits, seed);
            let bytes = packed(layout, &codes);
            let blocks = k.div_ceil(32);
            let zeros = random_codes(n * blocks, bits, seed ^ 0xabcd);
            let mut zero_bytes = vec![0xff; layout.zero_bytes(blocks)];
            layout.pack_zeros(&zeros, blocks, &mut zero_bytes);
            for row in 0..n {
                for col in 0..k {
                    prop_assert_eq!(layout.code(&bytes, row, col), codes[row * k + col]);
                    let zero = zeros[row * blocks + col / 32];
                    prop_assert_eq!(layout.zero(&zero_bytes, row, col / 32), zero);
                }
            }
        }
    }
}
