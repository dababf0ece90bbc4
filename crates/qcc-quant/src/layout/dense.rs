//! Codes at their true width: `u8[N][ceil(K / block)][block * bits / 8]`.
//!
//! Low bits first: 8 codes are one little-endian word of `bits` bytes, and a block is a multiple
//! of 8 codes. The last block of a row is padded with its zero point, so that padding decodes to
//! 0. Zero points are not packed: `u8[N][blocks]`. 7 bits are stored in 8: the function body
//! that decodes them on ONNX Runtime builds words with `ReduceSum`, which loses bits above 2^53.

use rayon::prelude::*;

use super::{LayoutError, check_bits, rows_per_task};

/// Shape of a dense weight. `code(bytes, n, k)` defines its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    n: usize,
    k: usize,
    bits: u8,
    block: usize,
}

/// Stored width of a code of `bits`: itself, but 8 for 7.
#[must_use]
pub const fn dense_bits(bits: u8) -> u8 {
    if bits == 7 { 8 } else { bits }
}

/// The block size for groups of `group_len` along K (at least `k` for one group per row): the
/// group itself, or the whole row filled up to 8. `None` if groups do not end on a word.
#[must_use]
pub fn block_for(group_len: usize, k: usize) -> Option<usize> {
    if group_len >= k {
        k.max(1).checked_next_multiple_of(8)
    } else {
        (group_len > 0 && group_len.is_multiple_of(8)).then_some(group_len)
    }
}

impl Dense {
    /// A weight `[n][k]` of `bits` in blocks of `block`.
    ///
    /// # Errors
    /// Widths outside 2 to 8, blocks that are not a multiple of 8, sizes beyond the address space.
    pub fn new(n: usize, k: usize, bits: u8, block: usize) -> Result<Self, LayoutError> {
        check_bits(bits)?;
        if block == 0 || !block.is_multiple_of(8) {
            return Err(LayoutError::Block { block });
        }
        let bits = dense_bits(bits);
        k.checked_next_multiple_of(block)
            .and_then(|row| row.checked_mul(n)?.checked_mul(usize::from(bits)))
            .ok_or(LayoutError::TooLarge { n, k })?;
        Ok(Self { n, k, bits, block })
    }

    /// Width of a stored code in bits.
    #[must_use]
    pub fn field(&self) -> u8 {
        self.bits
    }

    /// Blocks in a row.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block / 8 * usize::from(self.bits)
    }

    /// Bytes of all codes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.n * self.row_bytes()
    }

    /// Packs `codes[n][k]` into `out[bytes()]`; `zeros[n][blocks]` are what padding is made of.
    pub fn pack(&self, codes: &[u8], zeros: &[u8], out: &mut [u8]) {
        debug_assert_eq!(codes.len(), self.n * self.k);
        debug_assert_eq!(zeros.len(), self.n * self.blocks());
        debug_assert_eq!(out.len(), self.bytes());
        if out.is_empty() {
            return;
        }
        let bits = usize::from(self.bits);
        out.par_chunks_exact_mut(self.row_bytes())
            .with_min_len(rows_per_task(self.k))
            .zip(codes.par_chunks_exact(self.k))
            .zip(zeros.par_chunks_exact(self.blocks()))
            .for_each(|((out, codes), zeros)| {
                let zero = zeros.last().copied().unwrap_or(0);
                let (words, rest) = codes.as_chunks::<8>();
                let (whole, padded) = out.split_at_mut(words.len() * bits);
                for (bytes, word) in whole.chunks_exact_mut(bits).zip(words) {
                    bytes.copy_from_slice(&word_bytes(word, self.bits)[..bits]);
                }
                let mut last = [zero; 8];
                last[..rest.len()].copy_from_slice(rest);
                for bytes in padded.chunks_exact_mut(bits) {
                    bytes.copy_from_slice(&word_bytes(&last, self.bits)[..bits]);
                    last = [zero; 8];
                }
            });
    }

    /// The code at row `n`, column `k`; `k` may lie in the padding.
    #[must_use]
    pub fn code(&self, bytes: &[u8], n: usize, k: usize) -> u8 {
        let bit = k * usize::from(self.bits);
        let at = n * self.row_bytes() + bit / 8;
        let high = bytes.get(at + 1).copied().unwrap_or(0);
        let pair = u16::from_le_bytes([bytes[at], high]);
        (pair >> (bit % 8)) as u8 & (u8::MAX >> (8 - self.bits))
    }

    fn row_bytes(&self) -> usize {
        self.blocks() * self.block_bytes()
    }
}

/// 8 codes as one little-endian word: its first `bits` bytes are used.
fn word_bytes(codes: &[u8; 8], bits: u8) -> [u8; 8] {
    codes.iter().rev().fold(0u64, |word, &c| word << bits | u64::from(c)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::random_codes;
    use super::*;

    #[test]
    fn three_bits_by_hand() {
        // 0o7_6_5_4_3_2_1_0 = 0xfac688, then 1 and padding of 2: 0o22222221 = 0x492491.
        let layout = Dense::new(1, 9, 3, 8).unwrap();
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(&[0, 1, 2, 3, 4, 5, 6, 7, 1], &[5, 2], &mut bytes);
        assert_eq!(bytes, [0x88, 0xc6, 0xfa, 0x91, 0x24, 0x49]);
    }

    #[test]
    fn four_and_eight_bits_by_hand() {
        let layout = Dense::new(1, 8, 4, 8).unwrap();
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(&[1, 2, 3, 4, 5, 6, 7, 8], &[0], &mut bytes);
        assert_eq!(bytes, [0x21, 0x43, 0x65, 0x87]);
        let layout = Dense::new(1, 3, 7, 8).unwrap();
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(&[1, 2, 3], &[9], &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn hostile_shapes_are_refused() {
        assert_eq!(Dense::new(1, 1, 3, 12), Err(LayoutError::Block { block: 12 }));
        assert_eq!(Dense::new(1, 1, 3, 0), Err(LayoutError::Block { block: 0 }));
        let (n, k) = (usize::MAX / 4, 8);
        assert_eq!(Dense::new(n, k, 3, 8), Err(LayoutError::TooLarge { n, k }));
        Dense::new(3, 0, 3, 8).unwrap().pack(&[], &[], &mut []);
        Dense::new(0, 3, 3, 8).unwrap().pack(&[], &[], &mut []);
        assert_eq!(block_for(12, 96), None);
        assert_eq!(block_for(0, 96), None);
        assert_eq!(block_for(24, 96), Some(24));
        assert_eq!(block_for(97, 97), Some(104));
    }

    proptest! {
        #[test]
        fn pack_then_code_is_identity(
            n in 1usize..6, k in 1usize..150, bits in 2u8..=8, eights in 1usize..9,
            seed in any::<u64>(),
        ) {
            let block = 8 * eights;
            let layout = Dense::new(n, k, bits, block).unwrap();
            let codes = random_codes(n * k, bits, seed);
            let zeros = random_codes(n * layout.blocks(), bits, seed ^ 0xabcd);
            let mut bytes = vec![0xff; layout.bytes()];
            layout.pack(&codes, &zeros, &mut bytes);
            for row in 0..n {
                for col in 0..layout.blocks() * block {
                    let zero = zeros[row * layout.blocks() + col / block];
                    let want = if col < k { codes[row * k + col] } else { zero };
                    prop_assert_eq!(layout.code(&bytes, row, col), want);
                }
            }
        }
    }
}
