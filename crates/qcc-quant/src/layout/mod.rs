//! Orders of codes in bytes, one file each.
//!
//! A layout is defined by one function, `code(bytes, n, k)`; packing is tested against it.
//! All take codes `[N][K]` (K fastest) in `0 .. 2^bits` and zero points `[N][blocks]`. A width
//! that a format does not know is stored in the next wider field it knows.

pub mod dense;
pub mod gaps;
pub mod nbits;
pub mod outliers;
pub mod qdq;

pub use crate::fields::field_bits;
pub use dense::Dense;
pub use nbits::NBits;
pub use outliers::{Outliers, OutliersError};
pub use qdq::{Qdq, Sign};

/// One row of [`LAYOUTS`].
#[derive(Clone, Copy, Debug)]
pub struct LayoutInfo {
    /// Name in options and in printed graphs.
    pub name: &'static str,
    /// What the bytes are, in one line.
    pub doc: &'static str,
    /// Width in bits of the field that stores a code of the given width.
    pub field: fn(u8) -> u8,
}

/// All layouts, in the order they are documented.
pub const LAYOUTS: [LayoutInfo; 3] = [
    LayoutInfo {
        name: "nbits",
        doc: "com.microsoft.MatMulNBits and, where rows are whole blocks, GatherBlockQuantized",
        field: field_bits,
    },
    LayoutInfo {
        name: "dense",
        doc: "bits as given: u8[N][blocks][block * bits / 8], 8 codes in `bits` bytes",
        field: dense::dense_bits,
    },
    LayoutInfo {
        name: "qdq",
        doc: "ONNX DequantizeLinear: [K][N] of (u)int2, (u)int4 or (u)int8, axis 0",
        field: field_bits,
    },
];

/// Why a layout cannot hold a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The width is outside `2 ..= 8`.
    #[error("no layout stores codes of {bits} bits (2 to 8 are possible)")]
    Bits {
        /// The width asked for.
        bits: u8,
    },
    /// The layout does not know this block size.
    #[error("the layout has no block of {block} codes")]
    Block {
        /// The block size asked for.
        block: usize,
    },
    /// Rows of this length do not end on a byte, which the format needs.
    #[error("a row of {k} codes in fields of {field} bits does not end on a byte")]
    RaggedRow {
        /// Codes in a row.
        k: usize,
        /// Width of the field in bits.
        field: u8,
    },
    /// The bytes would not fit the address space.
    #[error("a weight of {n} x {k} codes is too large")]
    TooLarge {
        /// Rows.
        n: usize,
        /// Codes in a row.
        k: usize,
    },
}

/// What to add to the codes and zero points of a symmetric weight of `bits` so that its zero
/// point `2^(bits - 1)` becomes the default `2^(field - 1)` of the field it is stored in: then
/// the zero points need not be stored. 0 for widths that have their own field.
#[must_use]
pub const fn centering(bits: u8) -> u8 {
    (1 << (field_bits(bits) - 1)) - (1 << (bits - 1))
}

/// Values per group, `[n][groups]`, as values per block, `[n][ceil(k / block)]`.
///
/// `group_len` is the length of a group along K (`k` for one group per row) and a multiple of
/// `block`, or at least `k`: then each block lies in one group and takes its value.
#[must_use]
pub fn expand<T: Copy>(per_group: &[T], k: usize, group_len: usize, block: usize) -> Vec<T> {
    let (groups, blocks) = (k.div_ceil(group_len.max(1)).max(1), k.div_ceil(block));
    debug_assert!(group_len >= k || group_len.is_multiple_of(block));
    per_group
        .chunks_exact(groups)
        .flat_map(|row| (0..blocks).map(move |j| row[(j * block / group_len).min(groups - 1)]))
        .collect()
}

/// `rows[n][cols]` as `[cols][n]`.
#[must_use]
pub fn transpose<T: Copy>(rows: &[T], cols: usize) -> Vec<T> {
    let n = rows.len().checked_div(cols).unwrap_or(0);
    (0..cols).flat_map(|c| (0..n).map(move |r| rows[r * cols + c])).collect()
}

fn check_bits(bits: u8) -> Result<(), LayoutError> {
    if (2..=8).contains(&bits) { Ok(()) } else { Err(LayoutError::Bits { bits }) }
}

/// Rows of about this many codes are packed by one task: enough to hide its cost.
const CODES_PER_TASK: usize = 1 << 16;

/// Rows that one task packs.
fn rows_per_task(k: usize) -> usize {
    (CODES_PER_TASK / k.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes below `2^bits` that follow from the seed.
    pub(super) fn random_codes(count: usize, bits: u8, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8 & (u8::MAX >> (8 - bits))
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn symmetric_codes_are_moved_to_the_middle_of_the_field() {
        let shifts: Vec<u8> = (2..=8).map(centering).collect();
        assert_eq!(shifts, [0, 4, 0, 112, 96, 64, 0]);
    }

    #[test]
    fn expand_repeats_groups_and_keeps_ragged_ends() {
        // K = 80 in groups of 32 (3 groups), blocks of 16 (5 blocks).
        assert_eq!(expand(&[1, 2, 3, 4, 5, 6], 80, 32, 16), [1, 1, 2, 2, 3, 4, 4, 5, 5, 6]);
        // One group per row.
        assert_eq!(expand(&[7, 8], 70, 70, 32), [7, 7, 7, 8, 8, 8]);
        assert_eq!(expand(&[7, 8], 10, 32, 32), [7, 8]);
    }

    #[test]
    fn transpose_swaps() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
        assert!(transpose::<u8>(&[], 0).is_empty());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = LAYOUTS.iter().map(|l| l.name).collect();
        names.dedup();
        assert_eq!(names.len(), LAYOUTS.len());
        assert_eq!(LAYOUTS.map(|l| (l.field)(7)), [8, 8, 8]);
    }
}
