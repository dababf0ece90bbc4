//! `GatherBlockQuantized` table bytes: `u8[V][D * field / 8]`, quantized along D.
//!
//! Rows are packed low bits first without padding, so a row must end on a byte: D even for
//! fields of 4 bits, a multiple of 4 for 2 bits. Zero points are those of
//! [`NBits`](super::NBits): `u8[V][ceil(blocks * field / 8)]`. If D is a multiple of the block,
//! the codes are byte for byte those of `NBits` too and a tied head can share them.
//! Source: ONNX Runtime docs/ContribOperators.md, com.microsoft.GatherBlockQuantized.

use rayon::prelude::*;

use super::{
    LayoutError, check_bits, field_at, field_bits, field_bytes, pack_fields, rows_per_task,
};

/// Shape of a `GatherBlockQuantized` table of `V = n` rows of `D = k` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherRows {
    n: usize,
    k: usize,
    field: u8,
    block: usize,
}

impl GatherRows {
    /// A table `[n][k]` of `bits` in blocks of `block` along K.
    ///
    /// # Errors
    /// Widths outside 2 to 8, blocks that are not a power of two of at least 16, rows that do not
    /// end on a byte, sizes beyond the address space.
    pub fn new(n: usize, k: usize, bits: u8, block: usize) -> Result<Self, LayoutError> {
        check_bits(bits)?;
        if block < 16 || !block.is_power_of_two() {
            return Err(LayoutError::Block { block });
        }
        let field = field_bits(bits);
        if !k.is_multiple_of(usize::from(8 / field)) {
            return Err(LayoutError::RaggedRow { k, field });
        }
        n.checked_mul(k)
            .and_then(|codes| field_bytes(codes, field))
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

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.k * usize::from(self.field) / 8
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

    /// Whether an [`NBits`](super::NBits) weight of the same shape and block has the same bytes.
    #[must_use]
    pub fn shares_nbits(&self) -> bool {
        self.k.is_multiple_of(self.block)
    }

    /// Packs `codes[n][k]` into `out[bytes()]`.
    pub fn pack(&self, codes: &[u8], out: &mut [u8]) {
        debug_assert_eq!(codes.len(), self.n * self.k);
        debug_assert_eq!(out.len(), self.bytes());
        if out.is_empty() {
            return;
        }
        out.par_chunks_exact_mut(self.row_bytes())
            .with_min_len(rows_per_task(self.k))
            .zip(codes.par_chunks_exact(self.k))
            .for_each(|(out, codes)| pack_fields(codes, self.field, out));
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

    /// The code at row `n`, column `k`.
    #[must_use]
    pub fn code(&self, bytes: &[u8], n: usize, k: usize) -> u8 {
        field_at(&bytes[n * self.row_bytes()..], self.field, k)
    }

    /// The zero point of row `n`, block `block`.
    #[must_use]
    pub fn zero(&self, bytes: &[u8], n: usize, block: usize) -> u8 {
        field_at(&bytes[n * self.zero_row_bytes()..], self.field, block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::NBits;
    use super::super::tests::random_codes;
    use super::*;

    #[test]
    fn ragged_rows_have_no_padding() {
        let layout = GatherRows::new(2, 18, 4, 16).unwrap();
        let mut codes = vec![0u8; 36];
        codes[16..20].copy_from_slice(&[1, 2, 3, 4]);
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(&codes, &mut bytes);
        assert_eq!(bytes.len(), 18);
        assert_eq!(bytes[7..11], [0, 0x21, 0x43, 0]);
        let mut zeros = vec![0xff; layout.zero_bytes()];
        layout.pack_zeros(&[1, 2, 3, 4], &mut zeros);
        assert_eq!(zeros, [0x21, 0x43]);
    }

    #[test]
    fn rows_that_end_inside_a_byte_are_refused() {
        let error = LayoutError::RaggedRow { k: 17, field: 4 };
        assert_eq!(GatherRows::new(2, 17, 3, 16), Err(error));
        assert_eq!(GatherRows::new(2, 18, 4, 8), Err(LayoutError::Block { block: 8 }));
        let n = usize::MAX / 4;
        assert_eq!(GatherRows::new(n, 16, 4, 16), Err(LayoutError::TooLarge { n, k: 16 }));
        GatherRows::new(3, 0, 4, 16).unwrap().pack(&[], &mut []);
    }

    proptest! {
        #[test]
        fn pack_then_code_is_identity(
            n in 1usize..6, quads in 1usize..70, bits in 2u8..=8, seed in any::<u64>(),
        ) {
            let k = 4 * quads;
            let layout = GatherRows::new(n, k, bits, 32).unwrap();
            let codes = random_codes(n * k, bits, seed);
            let zeros = random_codes(n * layout.blocks(), bits, seed ^ 0xabcd);
            let (mut bytes, mut zb) = (vec![0xff; layout.bytes()], vec![0xff; layout.zero_bytes()]);
            layout.pack(&codes, &mut bytes);
            layout.pack_zeros(&zeros, &mut zb);
            for row in 0..n {
                for col in 0..k {
                    prop_assert_eq!(layout.code(&bytes, row, col), codes[row * k + col]);
                    let zero = zeros[row * layout.blocks() + col / 32];
                    prop_assert_eq!(layout.zero(&zb, row, col / 32), zero);
                }
            }
            if layout.shares_nbits() {
                let nbits = NBits::new(n, k, bits, 32).unwrap();
                let mut other = vec![0xff; nbits.bytes()];
                nbits.pack(&codes, &zeros, &mut other);
                prop_assert_eq!(other, bytes);
            }
        }
    }
}
