//! What goes in comes out: bytes of another protobuf library, absent and empty fields, tensors
//! that are not copied, and bytes that are no message at all.
//!
//! `every-field.bin` is the output of `every_field.py`.

use bytes::Bytes;
use onnx_protobuf::type_proto::{Opaque, Value};
use onnx_protobuf::wire::{Fields, Wire, write_bytes, write_tag, write_varint};
use onnx_protobuf::{
    GraphProto, Loss, Message, ModelProto, NodeProto, OptionalProto, TensorProto, TypeProto,
    fields, unknown_fields, unknown_fields_of,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The model and the `OptionalProto` of the file, each after its length.
fn every_field() -> (&'static [u8], &'static [u8]) {
    let (model, rest) = part(include_bytes!("../every-field.bin"));
    let (optional, rest) = part(rest);
    assert!(rest.is_empty());
    (model, optional)
}

fn part(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = bytes.split_first_chunk::<4>().unwrap();
    rest.split_at(u32::from_le_bytes(*len) as usize)
}

#[test]
fn bytes_of_the_python_library_survive() {
    let (model, optional) = every_field();
    assert_eq!(ModelProto::decode(model).unwrap().encode_to_vec(), model);
    assert_eq!(OptionalProto::decode(optional).unwrap().encode_to_vec(), optional);
    assert_eq!(unknown_fields(model), Ok(vec![]));
    assert_eq!(unknown_fields_of(fields::optional_proto::MESSAGE, optional), Ok(vec![]));
}

/// Number, name and type of the fields of every message.
type Schema = BTreeMap<String, Vec<(u32, String, String)>>;

fn schema() -> Schema {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../onnx-1.23.2.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let row = |f: &serde_json::Value| {
        let number = u32::try_from(f["number"].as_u64().unwrap()).unwrap();
        (number, text(&f["name"]), text(&f["type"]))
    };
    let messages = json["messages"].as_object().unwrap();
    messages
        .iter()
        .map(|(name, fields)| (name.clone(), fields.as_array().unwrap().iter().map(row).collect()))
        .collect()
}

fn collect(schema: &Schema, message: &str, bytes: &[u8], seen: &mut BTreeSet<String>) {
    for field in Fields::new(bytes) {
        let field = field.unwrap();
        let row = schema[message].iter().find(|(number, ..)| *number == field.number);
        let (_, name, kind) = row.unwrap();
        seen.insert(format!("{message}.{name}"));
        if schema.contains_key(kind) {
            collect(schema, kind, &bytes[field.value], seen);
        }
    }
}

#[test]
fn the_file_holds_every_field() {
    let schema = schema();
    let (model, optional) = every_field();
    let mut seen = BTreeSet::new();
    collect(&schema, "ModelProto", model, &mut seen);
    collect(&schema, "OptionalProto", optional, &mut seen);
    let all = schema
        .iter()
        .flat_map(|(message, fields)| fields.iter().map(move |f| format!("{message}.{}", f.1)));
    assert_eq!(seen, all.collect());
    for value in [&[1, 0, 0xc0, 0x7f][..], &[0, 0, 0, 0x80], &[0xc3, 0x28], &[0xff, 0xfe, 0]] {
        assert!(model.windows(value.len()).any(|window| window == value), "{value:02x?}");
    }
}

#[test]
fn empty_and_absent_are_two_things() {
    let absent = NodeProto { op_type: Some("Add".into()), ..Default::default() };
    let empty = NodeProto { domain: Some(String::new()), ..absent.clone() };
    let again = |node: &NodeProto| NodeProto::decode(&node.encode_to_vec()[..]).unwrap();
    assert_eq!(again(&absent).domain, None);
    assert_eq!(again(&empty).domain.as_deref(), Some(""));
    let tensor = TensorProto { raw_data: Some(Bytes::new()), ..Default::default() };
    assert_eq!(tensor.encode_to_vec(), [0x4a, 0]);
    assert_eq!(TensorProto::decode(&[0x4a, 0][..]).unwrap().raw_data, Some(Bytes::new()));
}

/// The one place where prost orders fields differently: members of a oneof stand where its lowest
/// number would. Readers accept any order.
#[test]
fn type_goes_before_denotation() {
    let opaque = Opaque { domain: None, name: Some("T".into()) };
    let ty = TypeProto { value: Some(Value::OpaqueType(opaque)), denotation: Some("D".into()) };
    let bytes = ty.encode_to_vec();
    let numbers: Vec<u32> = Fields::new(&bytes).map(|field| field.unwrap().number).collect();
    assert_eq!(numbers, [fields::type_proto::OPAQUE_TYPE, fields::type_proto::DENOTATION]);
    let by_number = [&bytes[5..], &bytes[..5]].concat();
    assert_eq!(TypeProto::decode(&by_number[..]).unwrap(), ty);
}

#[test]
fn decoding_copies_no_tensor() {
    let raw = vec![7; 1 << 16];
    let tensor = TensorProto { raw_data: Some(raw.clone().into()), ..Default::default() };
    let graph = GraphProto { initializer: vec![tensor], ..Default::default() };
    let input =
        Bytes::from(ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec());
    let model = ModelProto::decode(input.clone()).unwrap();
    let data = model.graph.unwrap().initializer.remove(0).raw_data.unwrap();
    assert_eq!(data, raw);
    assert!(input.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn what_decoding_drops_is_found() {
    let mut node = Vec::new();
    write_bytes(&mut node, fields::node_proto::OP_TYPE, b"Add");
    write_tag(&mut node, 9999, Wire::Varint);
    write_varint(&mut node, 1);
    let mut graph = Vec::new();
    write_bytes(&mut graph, fields::graph_proto::NODE, &node);
    let mut model = Vec::new();
    write_bytes(&mut model, fields::model_proto::GRAPH, &graph);

    let encoded = ModelProto::decode(&model[..]).unwrap().encode_to_vec();
    assert!(encoded.len() < model.len());
    let found = unknown_fields(&model).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].number), ("model.graph.node[0]", 9999));
    assert_eq!((found[0].count, found[0].loss), (1, Loss::Unknown));
    assert_eq!(unknown_fields(&encoded), Ok(vec![]));
}

/// The walker refuses only what prost refuses too, and what it finds clean loses nothing: a second
/// round trip changes no byte.
fn check(bytes: &[u8]) {
    let walked = unknown_fields(bytes);
    let decoded = ModelProto::decode(bytes);
    match (walked, decoded) {
        (Err(error), Ok(_)) => panic!("prost reads it, the walker says: {error}"),
        (Ok(_), Ok(model)) => {
            let once = model.encode_to_vec();
            assert_eq!(unknown_fields(&once), Ok(vec![]));
            assert_eq!(ModelProto::decode(&once[..]).unwrap().encode_to_vec(), once);
        }
        (_, Err(_)) => {}
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let (model, _) = every_field();
    let ends: BTreeSet<usize> = Fields::new(model).map(|field| field.unwrap().span.start).collect();
    for end in 0..model.len() {
        check(&model[..end]);
        // Between two fields of the model a shorter file is a file.
        assert_eq!(unknown_fields(&model[..end]).is_ok(), ends.contains(&end), "{end}");
    }
}

proptest! {
    #[test]
    fn changed_bytes_do_no_harm(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6)
    ) {
        let mut bytes = every_field().0.to_vec();
        for (place, byte, edit) in edits {
            let place = place.index(bytes.len());
            match edit {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => {
                    bytes.remove(place);
                }
            }
        }
        check(&bytes);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        check(&bytes);
    }

    /// Length-preserving edits reach deeper than edits that break every enclosing length.
    #[test]
    fn flipped_bits_do_no_harm(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 1..4)
    ) {
        let mut bytes = every_field().0.to_vec();
        for (place, bit) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
        }
        check(&bytes);
    }
}
