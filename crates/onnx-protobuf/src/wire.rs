//! The protobuf wire format on raw bytes: records without a schema.
//!
//! A message is a run of records, each a tag (`number << 3 | wire type`, as varint) and a payload.
//! [`Fields`] walks them and gives byte ranges, so that a caller can copy, replace or drop a record
//! and leave its neighbours as they are. Payloads are not looked into and nothing is allocated in
//! proportion to the input, whatever lengths it claims.
//!
//! Source: the encoding chapter of the Protocol Buffers guide. Limits as in prost 0.14: field
//! numbers from 1 to 2^29 - 1, varints of 64 bits in at most ten bytes.

use std::ops::Range;

/// How deep messages or groups may nest, as in prost.
pub(crate) const MAX_DEPTH: usize = 100;

/// The largest field number.
const MAX_NUMBER: u64 = (1 << 29) - 1;

/// The form of a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Wire type 0: integers, booleans, enums.
    Varint,
    /// Wire type 1: eight bytes, little-endian.
    Fixed64,
    /// Wire type 2: a length and as many bytes: strings, bytes, messages, packed numbers.
    Bytes,
    /// Wire types 3 and 4: records between a start and an end tag. Deprecated, not in ONNX.
    Group,
    /// Wire type 5: four bytes, little-endian.
    Fixed32,
}

impl Wire {
    /// The number in the low three bits of the tag; for a group that of its start.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Wire::Varint => 0,
            Wire::Fixed64 => 1,
            Wire::Bytes => 2,
            Wire::Group => 3,
            Wire::Fixed32 => 5,
        }
    }
}

/// One record of a message. Ranges count from the start of the slice given to [`Fields::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Field number, from 1 to 2^29 - 1.
    pub number: u32,
    /// Form of the payload.
    pub wire: Wire,
    /// The whole record, tag and length included.
    pub span: Range<usize>,
    /// The payload: the varint itself, the fixed bytes, the bytes after the length, or the records
    /// between the tags of a group.
    pub value: Range<usize>,
}

impl Field {
    /// The integer of a varint record, given the slice the record was read from. `None` for other
    /// wire types.
    #[must_use]
    pub fn varint(&self, bytes: &[u8]) -> Option<u64> {
        if self.wire != Wire::Varint {
            return None;
        }
        read_varint(bytes, self.value.start).ok().map(|(value, _)| value)
    }
}

/// What is wrong with the bytes and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {at}")]
pub struct WireError {
    /// Offset of the tag, length or varint at fault.
    pub at: usize,
    /// What is wrong there.
    pub kind: WireErrorKind,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireErrorKind {
    /// A varint or a payload runs past the end.
    #[error("data ends in the middle of a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("varint is longer than 64 bits")]
    VarintOverflow,
    /// Field number 0 or above 2^29 - 1.
    #[error("field number is out of range")]
    FieldNumber,
    /// Wire type 6 or 7.
    #[error("unknown wire type {0}")]
    WireType(u8),
    /// An end tag without its start, or with another number.
    #[error("end of a group that is not open")]
    EndGroup,
    /// Groups nested more than 100 deep.
    #[error("groups are nested too deep")]
    TooDeep,
}

/// The records of one message, in order. After an error the iterator is finished.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Records of the message whose payload is `bytes`: no tag and length of its own.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Fields { bytes, at: 0 }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = read_field(self.bytes, self.at);
        self.at = match &field {
            Ok(field) => field.span.end,
            Err(_) => self.bytes.len(),
        };
        Some(field)
    }
}

impl std::iter::FusedIterator for Fields<'_> {}

/// Reads the varint that starts at `at` and gives it with the offset behind it.
///
/// # Errors
/// When the bytes end inside it, or it holds more than 64 bits.
pub fn read_varint(bytes: &[u8], at: usize) -> Result<(u64, usize), WireError> {
    let mut value = 0;
    let tail = bytes.get(at..).unwrap_or(&[]);
    for (i, &byte) in tail.iter().take(10).enumerate() {
        let low = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if i == 9 && byte > 1 {
            return Err(WireError { at, kind: WireErrorKind::VarintOverflow });
        }
        value |= low << (7 * i);
        if byte < 0x80 {
            return Ok((value, at + i + 1));
        }
    }
    Err(WireError { at, kind: WireErrorKind::Truncated })
}

/// Appends `value` in its shortest form, one to ten bytes.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write_varint`] writes for `value`.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends the tag that starts a record. A [`Wire::Group`] tag is the start of the group.
pub fn write_tag(out: &mut Vec<u8>, number: u32, wire: Wire) {
    write_varint(out, tag(number, wire));
}

/// Bytes that [`write_tag`] writes.
#[must_use]
pub const fn tag_len(number: u32) -> usize {
    varint_len(tag(number, Wire::Varint))
}

/// Appends a whole record of wire type [`Wire::Bytes`]: tag, length, payload.
pub fn write_bytes(out: &mut Vec<u8>, number: u32, payload: &[u8]) {
    write_tag(out, number, Wire::Bytes);
    write_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

const fn tag(number: u32, wire: Wire) -> u64 {
    (number as u64) << 3 | wire.number() as u64
}

/// A tag as read, ends of groups included.
enum Tag {
    Field(Wire),
    EndGroup,
}

fn read_tag(bytes: &[u8], at: usize) -> Result<(u32, Tag, usize), WireError> {
    let (tag, end) = read_varint(bytes, at)?;
    let fail = |kind| Err(WireError { at, kind });
    let number = match tag >> 3 {
        number @ 1..=MAX_NUMBER => number as u32,
        _ => return fail(WireErrorKind::FieldNumber),
    };
    let kind = match tag & 7 {
        0 => Tag::Field(Wire::Varint),
        1 => Tag::Field(Wire::Fixed64),
        2 => Tag::Field(Wire::Bytes),
        3 => Tag::Field(Wire::Group),
        4 => Tag::EndGroup,
        5 => Tag::Field(Wire::Fixed32),
        wire => return fail(WireErrorKind::WireType(wire as u8)),
    };
    Ok((number, kind, end))
}

fn read_field(bytes: &[u8], at: usize) -> Result<Field, WireError> {
    let (number, kind, after_tag) = read_tag(bytes, at)?;
    let Tag::Field(wire) = kind else {
        return Err(WireError { at, kind: WireErrorKind::EndGroup });
    };
    if wire == Wire::Group {
        let (inner_end, end) = skip_group(bytes, at, after_tag, number)?;
        return Ok(Field { number, wire, span: at..end, value: after_tag..inner_end });
    }
    let value = payload(bytes, after_tag, wire)?;
    Ok(Field { number, wire, span: at..value.end, value })
}

/// The payload of any record but a group.
fn payload(bytes: &[u8], at: usize, wire: Wire) -> Result<Range<usize>, WireError> {
    let truncated = WireError { at, kind: WireErrorKind::Truncated };
    let (start, len) = match wire {
        Wire::Varint => return Ok(at..read_varint(bytes, at)?.1),
        Wire::Fixed64 => (at, 8),
        Wire::Fixed32 => (at, 4),
        Wire::Bytes => {
            let (len, start) = read_varint(bytes, at)?;
            (start, usize::try_from(len).map_err(|_| truncated)?)
        }
        Wire::Group => (at, 0),
    };
    match start.checked_add(len) {
        Some(end) if end <= bytes.len() => Ok(start..end),
        _ => Err(truncated),
    }
}

/// Finds the end tag of the group `number` whose records begin at `at`: where that tag starts and
/// where it ends. Inner groups are kept on a stack of their numbers, not by recursion.
fn skip_group(
    bytes: &[u8],
    start: usize,
    mut at: usize,
    number: u32,
) -> Result<(usize, usize), WireError> {
    let mut open = vec![number];
    while at < bytes.len() {
        let (number, kind, after_tag) = read_tag(bytes, at)?;
        match kind {
            Tag::Field(Wire::Group) if open.len() == MAX_DEPTH => {
                return Err(WireError { at, kind: WireErrorKind::TooDeep });
            }
            Tag::Field(Wire::Group) => {
                open.push(number);
                at = after_tag;
            }
            Tag::Field(wire) => at = payload(bytes, after_tag, wire)?.end,
            Tag::EndGroup => {
                if open.pop() != Some(number) {
                    return Err(WireError { at, kind: WireErrorKind::EndGroup });
                }
                if open.is_empty() {
                    return Ok((at, after_tag));
                }
                at = after_tag;
            }
        }
    }
    Err(WireError { at: start, kind: WireErrorKind::Truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only_error(bytes: &[u8]) -> WireErrorKind {
        let mut fields = Fields::new(bytes);
        let error = fields.find_map(Result::err).expect("an error");
        assert!(fields.next().is_none(), "finished after an error");
        error.kind
    }

    #[test]
    fn records_of_every_wire_type() {
        let mut bytes = Vec::new();
        write_tag(&mut bytes, 1, Wire::Varint);
        write_varint(&mut bytes, 300);
        write_tag(&mut bytes, 2, Wire::Fixed64);
        bytes.extend([0; 8]);
        write_bytes(&mut bytes, 16, b"abc");
        write_tag(&mut bytes, 4, Wire::Group);
        write_tag(&mut bytes, 9, Wire::Group);
        write_tag(&mut bytes, 1, Wire::Fixed32);
        bytes.extend([0x4c; 4]); // payload that looks like an end tag of 9
        bytes.extend([0x4c, 0x24]);
        write_tag(&mut bytes, 5, Wire::Fixed32);
        bytes.extend([0; 4]);
        let fields: Vec<Field> = Fields::new(&bytes).collect::<Result<_, _>>().unwrap();
        let row = |f: &Field| (f.number, f.wire, f.span.clone(), f.value.clone());
        assert_eq!(
            fields.iter().map(row).collect::<Vec<_>>(),
            [
                (1, Wire::Varint, 0..3, 1..3),
                (2, Wire::Fixed64, 3..12, 4..12),
                (16, Wire::Bytes, 12..18, 15..18),
                (4, Wire::Group, 18..27, 19..26),
                (5, Wire::Fixed32, 27..32, 28..32),
            ]
        );
        assert_eq!(fields[0].varint(&bytes), Some(300));
        assert_eq!(fields[2].varint(&bytes), None);
    }

    #[test]
    fn malformed_records() {
        use WireErrorKind::{EndGroup, FieldNumber, TooDeep, Truncated, VarintOverflow, WireType};
        let overlong = [&[0x08][..], &[0xff; 9], &[0x02]].concat();
        let deep = vec![0x0b; 101];
        for (bytes, want) in [
            (&[0x08][..], Truncated),
            (&[0x08, 0x80], Truncated),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], Truncated),
            (&[0x0d, 0, 0, 0], Truncated),
            (&[0x0a, 2, 0], Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Truncated),
            (&[0x0b, 0x08, 0x01], Truncated),
            (&overlong, VarintOverflow),
            (&[0x00, 0x00], FieldNumber),
            (&[0x80, 0x80, 0x80, 0x80, 0x10, 0x00], FieldNumber),
            (&[0x0e], WireType(6)),
            (&[0x0f], WireType(7)),
            (&[0x0c], EndGroup),
            (&[0x0b, 0x14], EndGroup),
            (&deep, TooDeep),
        ] {
            assert_eq!(only_error(bytes), want, "{bytes:02x?}");
        }
    }

    #[test]
    fn largest_values() {
        let mut bytes = Vec::new();
        write_tag(&mut bytes, (1 << 29) - 1, Wire::Varint);
        assert_eq!(bytes.len(), tag_len((1 << 29) - 1));
        write_varint(&mut bytes, u64::MAX);
        let field = Fields::new(&bytes).next().unwrap().unwrap();
        assert_eq!((field.number, field.varint(&bytes)), ((1 << 29) - 1, Some(u64::MAX)));
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            prop_assert_eq!(read_varint(&bytes, 0), Ok((value, bytes.len())));
            prop_assert!(read_varint(&bytes[..bytes.len() - 1], 0).is_err());
        }

        #[test]
        fn spans_tile_the_message(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut end = 0;
            for field in Fields::new(&bytes) {
                let Ok(field) = field else { break };
                prop_assert_eq!(field.span.start, end);
                prop_assert!(field.span.start < field.value.start + 1);
                prop_assert!(field.value.end <= field.span.end);
                end = field.span.end;
            }
            prop_assert!(end <= bytes.len());
        }
    }
}
