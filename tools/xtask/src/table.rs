//! The field table of the walker, from the same descriptors as the message types.
//!
//! One row per field: number, name, kind of payload, and for singular fields a slot. Members of
//! one oneof share a slot, because setting a second member drops the first just as a repeated
//! singular field does.

use crate::Outcome;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;
use std::fmt::Write;

const HEADER: &str = "\
//! Field numbers and the table of the walker, from `proto/*.proto`.
//!
//! Written by `cargo xtask gen`; change the schema and run it again.

use crate::schema::{Kind::{Bytes, Fixed32, Fixed64, Sub, Varint}, MessageSpec, many, one};
";

/// A message by its full name without the package: `TypeProto.Tensor`.
struct Message<'a> {
    name: String,
    descriptor: &'a DescriptorProto,
}

/// The text of `fields.rs`, not yet formatted.
///
/// # Errors
/// When a field has a kind that ONNX does not use (groups) or a message of no known name.
pub(crate) fn write(set: &FileDescriptorSet) -> Outcome<String> {
    let mut messages = Vec::new();
    for file in &set.file {
        for message in &file.message_type {
            collect("", message, &mut messages);
        }
    }
    let index: BTreeMap<&str, usize> =
        messages.iter().enumerate().map(|(i, message)| (message.name.as_str(), i)).collect();

    let mut text = HEADER.to_owned();
    text.push_str("\n#[rustfmt::skip]\npub(crate) static MESSAGES: &[MessageSpec] = &[\n");
    for message in &messages {
        writeln!(text, "    MessageSpec {{ name: \"{}\", fields: &[", message.name)?;
        for (field, slot) in slots(message.descriptor) {
            let (number, name) = (field.number(), field.name());
            let kind = kind(field, &index)?;
            match slot {
                Some(slot) => writeln!(text, "        one({number}, \"{name}\", {kind}, {slot}),")?,
                None => writeln!(text, "        many({number}, \"{name}\", {kind}),")?,
            }
        }
        text.push_str("    ] },\n");
    }
    text.push_str("];\n");
    for (i, message) in messages.iter().enumerate() {
        constants(&mut text, i, message)?;
    }
    Ok(text)
}

fn collect<'a>(prefix: &str, descriptor: &'a DescriptorProto, messages: &mut Vec<Message<'a>>) {
    let name = format!("{prefix}{}", descriptor.name());
    let inner = format!("{name}.");
    messages.push(Message { name, descriptor });
    for nested in &descriptor.nested_type {
        collect(&inner, nested, messages);
    }
}

/// Fields by number, each with its slot: a running count, shared inside a oneof.
fn slots(message: &DescriptorProto) -> Vec<(&FieldDescriptorProto, Option<usize>)> {
    let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    let mut oneofs = BTreeMap::new();
    let mut used = 0;
    let mut fresh = || {
        used += 1;
        used - 1
    };
    fields
        .into_iter()
        .map(|field| {
            let slot = match (field.label(), field.oneof_index) {
                (Label::Repeated, _) => None,
                (_, Some(oneof)) => Some(*oneofs.entry(oneof).or_insert_with(&mut fresh)),
                (_, None) => Some(fresh()),
            };
            (field, slot)
        })
        .collect()
}

fn kind(field: &FieldDescriptorProto, index: &BTreeMap<&str, usize>) -> Outcome<String> {
    let kind = match field.r#type() {
        Type::Int32
        | Type::Int64
        | Type::Uint32
        | Type::Uint64
        | Type::Sint32
        | Type::Sint64
        | Type::Bool
        | Type::Enum => "Varint".to_owned(),
        Type::Float | Type::Fixed32 | Type::Sfixed32 => "Fixed32".to_owned(),
        Type::Double | Type::Fixed64 | Type::Sfixed64 => "Fixed64".to_owned(),
        Type::String | Type::Bytes => "Bytes".to_owned(),
        Type::Message => {
            let name = field.type_name().trim_start_matches(".onnx.");
            let message = index.get(name).ok_or_else(|| format!("no message '{name}'"))?;
            format!("Sub({message})")
        }
        Type::Group => return Err(format!("field '{}' is a group", field.name()).into()),
    };
    Ok(kind)
}

/// A module with the field numbers of one message, for code that works on raw bytes.
fn constants(text: &mut String, index: usize, message: &Message<'_>) -> Outcome {
    let module = snake_case(&message.name);
    let name = &message.name;
    write!(
        text,
        "\n/// Field numbers of `{name}`.\npub mod {module} {{\n\
         /// The message itself.\n\
         pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId({index});\n"
    )?;
    for (field, _) in slots(message.descriptor) {
        let (constant, number) = (field.name().to_uppercase(), field.number());
        writeln!(text, "/// `{name}.{}`.\npub const {constant}: u32 = {number};", field.name())?;
    }
    text.push_str("}\n");
    Ok(())
}

/// `TypeProto.SparseTensor` to `type_proto_sparse_tensor`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (i, c) in name.chars().enumerate() {
        if c == '.' {
            continue;
        }
        if c.is_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: i32, label: Label, oneof: Option<i32>) -> FieldDescriptorProto {
        FieldDescriptorProto {
            number: Some(number),
            label: Some(label as i32),
            oneof_index: oneof,
            ..Default::default()
        }
    }

    #[test]
    fn members_of_a_oneof_share_a_slot() {
        let message = DescriptorProto {
            field: vec![
                field(9, Label::Optional, Some(0)),
                field(2, Label::Repeated, None),
                field(3, Label::Optional, None),
                field(1, Label::Optional, Some(0)),
            ],
            ..Default::default()
        };
        let rows: Vec<_> =
            slots(&message).into_iter().map(|(field, slot)| (field.number(), slot)).collect();
        assert_eq!(rows, [(1, Some(0)), (2, None), (3, Some(1)), (9, Some(0))]);
    }

    #[test]
    fn module_names() {
        assert_eq!(snake_case("ModelProto"), "model_proto");
        assert_eq!(snake_case("TypeProto.SparseTensor"), "type_proto_sparse_tensor");
    }
}
