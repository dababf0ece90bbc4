//! The shape of the field table in `fields`: what the walker knows of each message.

/// A message of the schema, for functions that take the kind of message as an argument. The
/// constants are in [`crate::fields`], one per message: `fields::tensor_proto::MESSAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(pub(crate) usize);

pub(crate) struct MessageSpec {
    /// Without the package: `TypeProto.Tensor`.
    pub(crate) name: &'static str,
    /// Ascending by number.
    pub(crate) fields: &'static [FieldSpec],
}

pub(crate) struct FieldSpec {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// A bit position for fields of which the last one wins, `None` for repeated fields.
    /// Members of one oneof share it.
    pub(crate) slot: Option<u32>,
}

/// How a field's payload is written. Repeated numbers may also come packed, as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    Bytes,
    /// A message, by its place in the table.
    Sub(usize),
}

pub(crate) const fn one(number: u32, name: &'static str, kind: Kind, slot: u32) -> FieldSpec {
    FieldSpec { number, name, kind, slot: Some(slot) }
}

pub(crate) const fn many(number: u32, name: &'static str, kind: Kind) -> FieldSpec {
    FieldSpec { number, name, kind, slot: None }
}
