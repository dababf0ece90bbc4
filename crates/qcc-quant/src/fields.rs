//! Codes in fields of 2, 4 or 8 bits, the first code in the lowest bits of a byte.

use crate::simd::{Kernel, dispatch};

/// Width of the field of 2, 4 or 8 bits that stores a code of `bits`.
#[must_use]
pub const fn field_bits(bits: u8) -> u8 {
    match bits {
        0..=2 => 2,
        3..=4 => 4,
        _ => 8,
    }
}

/// Bytes of `count` fields; `None` beyond the address space.
#[must_use]
pub fn field_bytes(count: usize, field: u8) -> Option<usize> {
    Some(count.checked_mul(usize::from(field))?.div_ceil(8))
}

/// Packs codes into fields of 2, 4 or 8 bits; the rest of the last byte is 0.
///
/// # Panics
/// If `out` is not [`field_bytes`] of them.
pub fn pack_fields(codes: &[u8], field: u8, out: &mut [u8]) {
    assert_eq!(Some(out.len()), field_bytes(codes.len(), field), "a field for each code");
    dispatch(Pack { codes, field, out });
}

/// Codes of the first fields of `bytes`, as many as `codes` holds.
///
/// # Panics
/// If `bytes` holds fewer.
pub fn unpack_fields(bytes: &[u8], field: u8, codes: &mut [u8]) {
    let used = field_bytes(codes.len(), field).unwrap_or(usize::MAX);
    dispatch(Unpack { bytes: &bytes[..used], field, codes });
}

/// The `i`-th field of `bytes`.
#[must_use]
pub fn field_at(bytes: &[u8], field: u8, i: usize) -> u8 {
    let per_byte = usize::from(8 / field);
    let mask = u8::MAX >> (8 - field);
    (bytes[i / per_byte] >> ((i % per_byte) * usize::from(field))) & mask
}

struct Pack<'a> {
    codes: &'a [u8],
    field: u8,
    out: &'a mut [u8],
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { codes, field, out } = self;
        let rest = match field {
            2 => {
                let (quads, rest) = codes.as_chunks();
                for (byte, &quad) in out.iter_mut().zip(quads) {
                    let x = u32::from_le_bytes(quad);
                    *byte = (x | x >> 6 | x >> 12 | x >> 18) as u8;
                }
                rest
            }
            4 => {
                let (pairs, rest) = codes.as_chunks();
                for (byte, &pair) in out.iter_mut().zip(pairs) {
                    let x = u16::from_le_bytes(pair);
                    *byte = (x | x >> 4) as u8;
                }
                rest
            }
            _ => {
                out.copy_from_slice(codes);
                &[]
            }
        };
        if let (false, Some(last)) = (rest.is_empty(), out.last_mut()) {
            *last = rest.iter().rev().fold(0, |byte, &code| byte << field | code);
        }
    }
}

struct Unpack<'a> {
    bytes: &'a [u8],
    field: u8,
    codes: &'a mut [u8],
}

impl Kernel for Unpack<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { bytes, field, codes } = self;
        match field {
            2 => {
                let (quads, rest) = codes.as_chunks_mut();
                for (quad, &byte) in quads.iter_mut().zip(bytes) {
                    *quad = [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6];
                }
                let first = 4 * quads.len();
                for (i, code) in rest.iter_mut().enumerate() {
                    *code = field_at(bytes, field, first + i);
                }
            }
            4 => {
                let (pairs, rest) = codes.as_chunks_mut();
                for (pair, &byte) in pairs.iter_mut().zip(bytes) {
                    *pair = [byte & 15, byte >> 4];
                }
                if let (Some(code), Some(byte)) = (rest.first_mut(), bytes.last()) {
                    *code = byte & 15;
                }
            }
            _ => codes.copy_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn widths_are_the_narrowest_known() {
        let fields: Vec<u8> = (2..=8).map(field_bits).collect();
        assert_eq!(fields, [2, 4, 4, 8, 8, 8, 8]);
    }

    #[test]
    fn bytes_by_hand() {
        let mut out = [0xff; 2];
        pack_fields(&[1, 2, 3], 4, &mut out);
        assert_eq!(out, [0x21, 0x03]);
        pack_fields(&[3, 0, 1, 2, 1], 2, &mut out);
        assert_eq!(out, [0b10_01_00_11, 1]);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(
            field in prop::sample::select(vec![2u8, 4, 8]),
            codes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let codes: Vec<u8> = codes.iter().map(|it| it & (u8::MAX >> (8 - field))).collect();
            let mut bytes = vec![0xff; field_bytes(codes.len(), field).unwrap()];
            pack_fields(&codes, field, &mut bytes);
            for (i, &code) in codes.iter().enumerate() {
                prop_assert_eq!(field_at(&bytes, field, i), code);
            }
            let mut again = vec![0xff; codes.len()];
            unpack_fields(&bytes, field, &mut again);
            prop_assert_eq!(again, codes);
        }
    }
}
