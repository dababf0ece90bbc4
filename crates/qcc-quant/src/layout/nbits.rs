//! `MatMulNBits` weight bytes: `u8[N][ceil(K / block)][block * field / 8]`.
//!
//! Codes of a block run along K, low bits first (4 bits: code 2i in the low nibble of byte i).
//! The last block of a row is padded with its zero point, so that padding decodes to 0. Zero
//! points are packed the same way, each row starting a new byte: `u8[N][ceil(blocks * field / 8)]`.
//! 3 bits are stored in fields of 4, 5 to 7 bits in fields of 8.
//! Source: ONNX Runtime docs/ContribOperators.md, com.microsoft.MatMulNBits.

use rayon::prelude::*;

use super::{LayoutError, check_bits, rows_per_task};
use crate::fields::{field_at, field_bits, field_bytes, pack_fields};

/// Block sizes that the operator accepts.
pub const BLOCKS: [usize; 5] = [16, 32, 64, 128, 256];

/// Shape of a `MatMulNBits` weight. `code(bytes, n, k)` defines its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NBits {
    n: usize,
    k: usize,
    field: u8,
    block: usize,
}

/// The block size under which a weight of `bits` with groups of `group_len` along K (at least
/// `k` for one group per row) can be stored; `None` if there is none.
///
/// A group may be several blocks: see [`expand`](super::expand). Whole rows take the block with
/// the least bytes of codes, padding and scales. With 2 bits ONNX Runtime 1.31 runs blocks of 16
/// and 256 without its fast kernel, so that these are taken only where no other fits.
#[must_use]
pub fn block_for(bits: u8, group_len: usize, k: usize) -> Option<usize> {
    let fast = |b: &usize| bits != 2 || (32..=128).contains(b);
    if BLOCKS.contains(&group_len) && fast(&group_len) {
        return Some(group_len);
    }
    if group_len >= k {
        const SCALE_BYTES: usize = 4;
        let bytes = |&b: &usize| {
            k.div_ceil(b).checked_mul(b * usize::from(field_bits(bits)) / 8 + SCALE_BYTES)
        };
        // Of equal sizes the larger block.
        return BLOCKS
            .into_iter()
            .rev()
            .filter(fast)
            .min_by_key(|b| bytes(b).unwrap_or(usize::MAX));
    }
    let divides = |b: &usize| group_len > 0 && group_len.is_multiple_of(*b);
    let of = |ok: &dyn Fn(&usize) -> bool| BLOCKS.into_iter().rev().find(|b| divides(b) && ok(b));
    of(&fast).or_else(|| of(&|_| true))
}

impl NBits {
    /// A weight `[n][k]` of `bits` in blocks of `block`.
    ///
    /// # Errors
    /// Widths outside 2 to 8, blocks not in [`BLOCKS`], sizes beyond the address space.
    pub fn new(n: usize, k: usize, bits: u8, block: usize) -> Result<Self, LayoutError> {
        check_bits(bits)?;
        if !BLOCKS.contains(&block) {
            return Err(LayoutError::Block { block });
        }
        let field = field_bits(bits);
        k.checked_next_multiple_of(block)
            .and_then(|row| field_bytes(row.checked_mul(n)?, field))
            .ok_or(LayoutError::TooLarge { n, k })?;
        Ok(Self { n, k, field, block })
    }

    /// Width of a stored code in bits: the operator's attribute `bits`.
    #[must_use]
    pub fn field(&self) -> u8 {
        self.field
    }

    /// Blocks in a row.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block * usize::from(self.field) / 8
    }

    /// Bytes of all codes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.n * self.row_bytes()
    }

    /// Bytes of one row of zero points.
    #[must_use]
    pub fn zero_row_bytes(&self) -> usize {
        (self.blocks() * usize::from(self.field)).div_ceil(8)
    }

    /// Bytes of all zero points.
    #[must_use]
    pub fn zero_bytes(&self) -> usize {
        self.n * self.zero_row_bytes()
    }

    /// The zero point that the operator takes when none are given.
    #[must_use]
    pub fn default_zero(&self) -> u8 {
        1 << (self.field - 1)
    }

    /// Packs `codes[n][k]` into `out[bytes()]`; `zeros[n][blocks]` are what padding is made of.
    pub fn pack(&self, codes: &[u8], zeros: &[u8], out: &mut [u8]) {
        debug_assert_eq!(codes.len(), self.n * self.k);
        debug_assert_eq!(zeros.len(), self.n * self.blocks());
        debug_assert_eq!(out.len(), self.bytes());
        if out.is_empty() {
            return;
        }
        let whole = self.k / self.block * self.block;
        let whole_bytes = whole / self.block * self.block_bytes();
        out.par_chunks_exact_mut(self.row_bytes())
            .with_min_len(rows_per_task(self.k))
            .zip(codes.par_chunks_exact(self.k))
            .zip(zeros.par_chunks_exact(self.blocks()))
            .for_each(|((out, codes), zeros)| {
                pack_fields(&codes[..whole], self.field, &mut out[..whole_bytes]);
                if let (true, Some(&zero)) = (whole < self.k, zeros.last()) {
                    let mut last = [zero; 256];
                    last[..self.k - whole].copy_from_slice(&codes[whole..]);
                    pack_fields(&last[..self.block], self.field, &mut out[whole_bytes..]);
                }
            });
    }

    /// Packs `zeros[n][blocks]` into `out[zero_bytes()]`.
    pub fn pack_zeros(&self, zeros: &[u8], out: &mut [u8]) {
        debug_assert_eq!(zeros.len(), self.n * self.blocks());
        debug_assert_eq!(out.len(), self.zero_bytes());
        if out.is_empty() {
            return;
        }
        let rows = zeros.chunks_exact(self.blocks());
        for (out, zeros) in out.chunks_exact_mut(self.zero_row_bytes()).zip(rows) {
            pack_fields(zeros, self.field, out);
        }
    }

    /// The code at row `n`, column `k`; `k` may lie in the padding.
    #[must_use]
    pub fn code(&self, bytes: &[u8], n: usize, k: usize) -> u8 {
        field_at(&bytes[n * self.row_bytes()..], self.field, k)
    }

    /// The zero point of row `n`, block `block`.
    #[must_use]
    pub fn zero(&self, bytes: &[u8], n: usize, block: usize) -> u8 {
        field_at(&bytes[n * self.zero_row_bytes()..], self.field, block)
    }

    fn row_bytes(&self) -> usize {
        self.blocks() * self.block_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::random_codes;
    use super::*;

    fn packed(layout: NBits, codes: &[u8], zeros: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut bytes, mut zero) = (vec![0xff; layout.bytes()], vec![0xff; layout.zero_bytes()]);
        layout.pack(codes, zeros, &mut bytes);
        layout.pack_zeros(zeros, &mut zero);
        (bytes, zero)
    }

    #[test]
    fn four_bits_by_hand() {
        let layout = NBits::new(1, 18, 4, 16).unwrap();
        let codes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2];
        let (bytes, zeros) = packed(layout, &codes, &[5, 9]);
        assert_eq!(bytes[..8], [0x21, 0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x0f]);
        assert_eq!(bytes[8..], [0x21, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99]);
        assert_eq!(zeros, [0x95]);
    }

    #[test]
    fn two_bits_by_hand() {
        let layout = NBits::new(2, 17, 2, 16).unwrap();
        let mut codes = vec![0, 1, 2, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 3];
        codes.extend([0; 17]);
        let (bytes, zeros) = packed(layout, &codes, &[3, 2, 1, 0]);
        assert_eq!(
            bytes,
            [0b1110_0100, 0b0100_0000, 0, 0xc0, 0b1010_1011, 0xaa, 0xaa, 0xaa]
                .iter()
                .chain(&[0; 8])
                .copied()
                .collect::<Vec<_>>()
        );
        assert_eq!(zeros, [0b1011, 0b0001]);
    }

    #[test]
    fn five_bits_take_a_byte_and_three_a_nibble() {
        assert_eq!(NBits::new(3, 32, 5, 32).unwrap().bytes(), 96);
        assert_eq!(NBits::new(3, 32, 3, 32).unwrap().bytes(), 48);
    }

    #[test]
    fn hostile_shapes_are_refused() {
        assert_eq!(NBits::new(1, 1, 9, 16), Err(LayoutError::Bits { bits: 9 }));
        assert_eq!(NBits::new(1, 1, 1, 16), Err(LayoutError::Bits { bits: 1 }));
        assert_eq!(NBits::new(1, 1, 4, 48), Err(LayoutError::Block { block: 48 }));
        let (n, k) = (usize::MAX / 2, 17);
        assert_eq!(NBits::new(n, k, 4, 16), Err(LayoutError::TooLarge { n, k }));
        assert_eq!(NBits::new(0, 0, 4, 16).unwrap().bytes(), 0);
        NBits::new(0, 5, 4, 16).unwrap().pack(&[], &[], &mut []);
        NBits::new(5, 0, 4, 16).unwrap().pack(&[], &[], &mut []);
        NBits::new(5, 0, 4, 16).unwrap().pack_zeros(&[], &mut []);
    }

    #[test]
    fn groups_find_their_block() {
        assert_eq!(block_for(4, 32, 384), Some(32));
        assert_eq!(block_for(4, 48, 384), Some(16));
        assert_eq!(block_for(4, 512, 4096), Some(256));
        assert_eq!(block_for(2, 512, 4096), Some(128));
        assert_eq!(block_for(2, 16, 4096), Some(16));
        assert_eq!(block_for(2, 256, 4096), Some(128));
        assert_eq!(block_for(2, 16, 16), Some(32));
        assert_eq!(block_for(4, 8, 384), None);
        assert_eq!(block_for(4, 0, 384), None);
        // Whole rows: 384 = 3 * 128 has no padding, 512 = 2 * 256, 30 fits 32.
        assert_eq!(block_for(4, 384, 384), Some(128));
        assert_eq!(block_for(4, 512, 512), Some(256));
        assert_eq!(block_for(2, 512, 512), Some(128));
        assert_eq!(block_for(4, 30, 30), Some(32));
    }

    proptest! {
        #[test]
        fn pack_then_code_is_identity(
            n in 1usize..6, k in 1usize..300, bits in 2u8..=8, size in 0usize..5,
            seed in any::<u64>(),
        ) {
            let layout = NBits::new(n, k, bits, BLOCKS[size]).unwrap();
            let codes = random_codes(n * k, bits, seed);
            let zeros = random_codes(n * layout.blocks(), bits, seed ^ 0xabcd);
            let (bytes, zero_bytes) = packed(layout, &codes, &zeros);
            for row in 0..n {
                for col in 0..layout.blocks() * BLOCKS[size] {
                    let zero = zeros[row * layout.blocks() + col / BLOCKS[size]];
                    let want = if col < k { codes[row * k + col] } else { zero };
                    prop_assert_eq!(layout.code(&bytes, row, col), want);
                    prop_assert_eq!(layout.zero(&zero_bytes, row, col / BLOCKS[size]), zero);
                }
            }
        }
    }
}
