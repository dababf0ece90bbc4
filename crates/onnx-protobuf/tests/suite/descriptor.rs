//! The schema against the descriptors of the `onnx` Python package 1.23.2, field by field.
//!
//! `onnx-1.23.2.json` is the output of `tools/dump_onnx_descriptor.py`.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const THEIRS: &str = include_str!("../onnx-1.23.2.json");

/// One entry per field and per enum value: `GraphProto 5 initializer` and what is known of it.
type Facts = BTreeMap<String, Value>;

#[test]
fn schema_is_that_of_the_python_package() {
    let (ours, theirs) = (ours(), theirs());
    assert!(theirs.len() > 200, "{} facts", theirs.len());
    let different: Vec<String> = ours
        .keys()
        .chain(theirs.keys())
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(|key| format!("{key}: ours {:?}, theirs {:?}", ours.get(key), theirs.get(key)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn theirs() -> Facts {
    let json: Value = serde_json::from_str(THEIRS).unwrap();
    let mut facts = Facts::new();
    for (message, fields) in json["messages"].as_object().unwrap() {
        for field in fields.as_array().unwrap() {
            add_field(&mut facts, message, field.clone());
        }
    }
    for (name, values) in json["enums"].as_object().unwrap() {
        for (value, number) in values.as_object().unwrap() {
            facts.insert(format!("{name} {value}"), number.clone());
        }
    }
    facts
}

fn ours() -> Facts {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let set = protox::compile(["onnx.proto", "onnx-data.proto"], [folder]).unwrap();
    let mut facts = Facts::new();
    for file in &set.file {
        assert_eq!((file.package(), file.syntax()), ("onnx", ""), "proto2 is the default syntax");
        file.enum_type.iter().for_each(|e| add_enum(&mut facts, "", e));
        file.message_type.iter().for_each(|m| add_message(&mut facts, "", m));
    }
    facts
}

fn add_message(facts: &mut Facts, prefix: &str, message: &DescriptorProto) {
    let name = format!("{prefix}{}", message.name());
    for field in &message.field {
        add_field(facts, &name, row(message, field));
    }
    let inner = format!("{name}.");
    message.enum_type.iter().for_each(|e| add_enum(facts, &inner, e));
    message.nested_type.iter().for_each(|m| add_message(facts, &inner, m));
}

fn add_enum(facts: &mut Facts, prefix: &str, e: &EnumDescriptorProto) {
    for value in &e.value {
        facts.insert(format!("{prefix}{} {}", e.name(), value.name()), json!(value.number()));
    }
}

fn add_field(facts: &mut Facts, message: &str, row: Value) {
    let key = format!("{message} {} {}", row["number"], row["name"]);
    assert!(facts.insert(key, row).is_none());
}

fn row(message: &DescriptorProto, field: &FieldDescriptorProto) -> Value {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches(".onnx."),
        Type::Double => "double",
        Type::Float => "float",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::String => "string",
        Type::Bytes => "bytes",
        other => panic!("{} is {other:?}", field.name()),
    };
    let label = match field.label() {
        Label::Optional => "optional",
        Label::Required => "required",
        Label::Repeated => "repeated",
    };
    let mut row = Map::new();
    row.insert("number".into(), json!(field.number()));
    row.insert("name".into(), json!(field.name()));
    row.insert("type".into(), json!(kind));
    row.insert("label".into(), json!(label));
    if field.options.as_ref().is_some_and(prost_types::FieldOptions::packed) {
        row.insert("packed".into(), json!(true));
    }
    if let Some(oneof) = field.oneof_index {
        let oneof = &message.oneof_decl[usize::try_from(oneof).unwrap()];
        row.insert("oneof".into(), json!(oneof.name()));
    }
    if let Some(default) = &field.default_value {
        row.insert("default".into(), json!(default));
    }
    Value::Object(row)
}
