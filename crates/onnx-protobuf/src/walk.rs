//! What decoding and encoding a message would lose.
//!
//! prost drops fields that are not in the schema without a word. Of a singular field that comes
//! twice it keeps the last value, or merges two messages, and of a oneof it keeps one member. All
//! of this is legal protobuf, so it is reported and not refused. The scan follows the table in
//! `fields` through the raw bytes: it reads tags and lengths and skips payloads, and its cost is
//! linear in the number of records.

use crate::fields::{MESSAGES, model_proto};
use crate::schema::{FieldSpec, Kind, MessageId};
use crate::wire::{Fields, MAX_DEPTH, Wire, WireError};
use std::collections::BTreeMap;

/// At most this many findings are listed: a hostile file could hold one per byte.
const MAX_FINDINGS: usize = 1000;

/// No message of the schema has more fields.
const MAX_FIELDS: usize = 32;

/// Data that is in the bytes and would not be in the decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The first message that holds it: `model.graph.node[3].attribute[0]`.
    pub path: String,
    /// Its field number there.
    pub number: u32,
    /// How many of its records would be lost, in all messages reached through the same fields.
    pub count: usize,
    /// Why it would be lost.
    pub loss: Loss,
}

/// Why a record is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The schema has no field of this number.
    Unknown,
    /// A singular field, or a oneof, that was set before: the values are merged or replaced.
    Repeated,
}

/// Why bytes cannot be a message of this schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The bytes are not protobuf records. The offset counts from the start of the scanned bytes.
    #[error("in {path}: {source}")]
    Wire {
        /// The message that holds the bytes at fault.
        path: String,
        /// What is wrong and where.
        source: WireError,
    },
    /// A known field whose payload has the wrong form.
    #[error("in {path}: field {name} ({number}) has wire type {}, at byte {at}", wire.number())]
    WireType {
        /// The message that holds the field.
        path: String,
        /// Field name.
        name: &'static str,
        /// Field number.
        number: u32,
        /// The form found.
        wire: Wire,
        /// Offset of the record from the start of the scanned bytes.
        at: usize,
    },
    /// Messages nested more than 100 deep; 33 subgraphs inside each other are possible.
    #[error("messages are nested deeper than {MAX_DEPTH} levels, at byte {at}")]
    TooDeep {
        /// Offset of the message from the start of the scanned bytes.
        at: usize,
    },
}

/// Fields of a model file that decoding it would drop or merge, in order of first appearance.
/// Empty for a file that this schema holds entirely. Lists at most 1000.
///
/// # Errors
/// When the bytes are not a message; decoding them fails too. The converse does not hold: strings
/// and packed numbers are not looked into.
pub fn unknown_fields(bytes: &[u8]) -> Result<Vec<UnknownField>, WalkError> {
    unknown_fields_of(model_proto::MESSAGE, bytes)
}

/// [`unknown_fields`] for bytes that are another message, such as a `TensorProto` file.
///
/// # Errors
/// As [`unknown_fields`].
pub fn unknown_fields_of(message: MessageId, bytes: &[u8]) -> Result<Vec<UnknownField>, WalkError> {
    let root = MESSAGES.get(message.0).map_or("", |message| message.name);
    let mut walk = Walk { root, path: Vec::new(), found: Vec::new(), index: BTreeMap::new() };
    walk.message(message.0, bytes, 0)?;
    Ok(walk.found)
}

/// One step down: the field and which of its messages, counted from 0.
struct Step {
    field: &'static FieldSpec,
    nth: u32,
}

/// The message's path by field numbers, the record's number, and the loss.
type Place = (Vec<u32>, u32, Loss);

struct Walk {
    root: &'static str,
    path: Vec<Step>,
    found: Vec<UnknownField>,
    /// Where in `found` a place is counted.
    index: BTreeMap<Place, usize>,
}

impl Walk {
    /// Scans one message whose payload starts `base` bytes into the input.
    fn message(&mut self, id: usize, bytes: &[u8], base: usize) -> Result<(), WalkError> {
        let rows = MESSAGES.get(id).map_or(&[][..], |message| message.fields);
        let mut seen = 0_u64;
        let mut counts = [0_u32; MAX_FIELDS];
        for record in Fields::new(bytes) {
            let record = record.map_err(|WireError { at, kind }| WalkError::Wire {
                path: self.place(),
                source: WireError { at: base + at, kind },
            })?;
            let Ok(row) = rows.binary_search_by_key(&record.number, |row| row.number) else {
                self.report(record.number, Loss::Unknown);
                continue;
            };
            let field = &rows[row];
            if !accepts(field, record.wire) {
                return Err(WalkError::WireType {
                    path: self.place(),
                    name: field.name,
                    number: field.number,
                    wire: record.wire,
                    at: base + record.span.start,
                });
            }
            if let Some(slot) = field.slot {
                if seen >> slot & 1 == 1 {
                    self.report(record.number, Loss::Repeated);
                }
                seen |= 1 << slot;
            }
            if let Kind::Sub(child) = field.kind {
                if self.path.len() == MAX_DEPTH {
                    return Err(WalkError::TooDeep { at: base + record.span.start });
                }
                self.path.push(Step { field, nth: counts[row] });
                counts[row] += 1;
                let inner = bytes.get(record.value.clone()).unwrap_or(&[]);
                self.message(child, inner, base + record.value.start)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn report(&mut self, number: u32, loss: Loss) {
        let fields = self.path.iter().map(|step| step.field.number).collect();
        let place = (fields, number, loss);
        if let Some(found) = self.index.get(&place).and_then(|&i| self.found.get_mut(i)) {
            found.count += 1;
        } else if self.found.len() < MAX_FINDINGS {
            self.index.insert(place, self.found.len());
            self.found.push(UnknownField { path: self.place(), number, count: 1, loss });
        }
    }

    /// The current message: `model.graph.node[3]`.
    fn place(&self) -> String {
        let mut text = self.root.trim_end_matches("Proto").to_ascii_lowercase();
        for Step { field, nth } in &self.path {
            text.push('.');
            text.push_str(field.name);
            if field.slot.is_none() {
                text.push_str(&format!("[{nth}]"));
            }
        }
        text
    }
}

/// Whether a payload of this form can be the field: a repeated number may also come packed.
fn accepts(field: &FieldSpec, wire: Wire) -> bool {
    match field.kind {
        Kind::Bytes | Kind::Sub(_) => wire == Wire::Bytes,
        _ if wire == Wire::Bytes => field.slot.is_none(),
        Kind::Varint => wire == Wire::Varint,
        Kind::Fixed32 => wire == Wire::Fixed32,
        Kind::Fixed64 => wire == Wire::Fixed64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{attribute_proto, graph_proto, node_proto, tensor_proto, type_proto};
    use crate::wire::{WireErrorKind, write_bytes, write_tag, write_varint};

    fn record(number: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_bytes(&mut bytes, number, payload);
        bytes
    }

    fn integer(number: u32, value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_tag(&mut bytes, number, Wire::Varint);
        write_varint(&mut bytes, value);
        bytes
    }

    fn found(bytes: &[u8]) -> Vec<(String, u32, usize, Loss)> {
        let fields = unknown_fields(bytes).unwrap();
        fields.into_iter().map(|f| (f.path, f.number, f.count, f.loss)).collect()
    }

    #[test]
    fn rows_fit_the_counters() {
        for message in MESSAGES {
            assert!(message.fields.len() <= MAX_FIELDS, "{}", message.name);
            assert!(message.fields.is_sorted_by(|a, b| a.number < b.number), "{}", message.name);
            assert!(message.fields.iter().all(|f| f.slot.is_none_or(|slot| slot < 64)));
        }
    }

    #[test]
    fn unknown_fields_are_named_and_counted() {
        let node = record(graph_proto::NODE, &[]);
        let odd = record(graph_proto::NODE, &[integer(100, 1), integer(100, 2)].concat());
        let graph = record(model_proto::GRAPH, &[&node[..], &odd, &node, &odd].concat());
        let bytes = [graph, integer(9999, 0), record(model_proto::DOMAIN, b"x")].concat();
        assert_eq!(
            found(&bytes),
            [
                ("model.graph.node[1]".to_owned(), 100, 4, Loss::Unknown),
                ("model".to_owned(), 9999, 1, Loss::Unknown),
            ]
        );
    }

    #[test]
    fn repeated_singular_fields() {
        let name = record(graph_proto::NAME, b"g");
        let bytes = [record(model_proto::GRAPH, &name), record(model_proto::GRAPH, &[])].concat();
        assert_eq!(found(&bytes), [("model".to_owned(), 7, 1, Loss::Repeated)]);
        let twice = [integer(model_proto::IR_VERSION, 1), integer(model_proto::IR_VERSION, 1)];
        assert_eq!(found(&twice.concat()), [("model".to_owned(), 1, 1, Loss::Repeated)]);
    }

    #[test]
    fn second_member_of_a_oneof() {
        let both = [record(type_proto::TENSOR_TYPE, &[]), record(type_proto::MAP_TYPE, &[])];
        let found = unknown_fields_of(type_proto::MESSAGE, &both.concat()).unwrap();
        assert_eq!((found[0].path.as_str(), found[0].number), ("type", type_proto::MAP_TYPE));
        assert_eq!((found[0].count, found[0].loss), (1, Loss::Repeated));
    }

    #[test]
    fn packed_and_single_numbers_are_both_known() {
        let dims = [integer(tensor_proto::DIMS, 2), record(tensor_proto::DIMS, &[1, 2])].concat();
        assert_eq!(unknown_fields_of(tensor_proto::MESSAGE, &dims), Ok(vec![]));
        let kind = record(tensor_proto::DATA_TYPE, &[1]);
        let error = unknown_fields_of(tensor_proto::MESSAGE, &kind).unwrap_err();
        assert_eq!(error.to_string(), "in tensor: field data_type (2) has wire type 2, at byte 0");
    }

    #[test]
    fn errors_carry_path_and_absolute_offset() {
        let node = record(graph_proto::NODE, &[0x0a, 5, b'x']);
        let bytes = [integer(model_proto::IR_VERSION, 8), record(model_proto::GRAPH, &node)];
        let source = WireError { at: 7, kind: WireErrorKind::Truncated };
        let error = unknown_fields(&bytes.concat()).unwrap_err();
        assert_eq!(error, WalkError::Wire { path: "model.graph.node[0]".to_owned(), source });
    }

    /// `levels` subgraphs inside each other, innermost empty.
    fn subgraphs(levels: usize) -> Vec<u8> {
        let graph = (0..levels).fold(Vec::new(), |inner, _| {
            let attribute = record(attribute_proto::G, &inner);
            record(graph_proto::NODE, &record(node_proto::ATTRIBUTE, &attribute))
        });
        record(model_proto::GRAPH, &graph)
    }

    #[test]
    fn depth_is_limited_as_in_prost() {
        use prost::Message;
        assert_eq!(unknown_fields(&subgraphs(33)), Ok(vec![]));
        crate::ModelProto::decode(&subgraphs(33)[..]).unwrap();
        assert!(matches!(unknown_fields(&subgraphs(34)), Err(WalkError::TooDeep { .. })));
        crate::ModelProto::decode(&subgraphs(34)[..]).unwrap_err();
    }

    #[test]
    fn findings_are_limited() {
        let many: Vec<u8> = (1000..3000).flat_map(|number| integer(number, 0)).collect();
        assert_eq!(found(&many).len(), MAX_FINDINGS);
    }
}
