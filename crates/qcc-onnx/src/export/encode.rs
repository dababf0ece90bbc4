//! New messages: nodes, tensors, types.

use onnx_protobuf::{
    AttributeProto, AttributeType, Message, NodeProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension, type_proto,
};
use prost::bytes::Bytes;
use qcc_ir::{Attr, Attrs, Type};
use qcc_tensor::{Dim, Tensor};

use super::rope::Rope;
use super::sidecar::Sidecar;

/// A node of the given operator.
pub(super) fn node(
    name: &str,
    (domain, op_type): (&str, &str),
    inputs: Vec<String>,
    outputs: Vec<String>,
    attrs: &Attrs,
) -> NodeProto {
    // An operator without a definition may be a call, with the overload behind its name.
    let (op_type, overload) = op_type.split_once(':').unwrap_or((op_type, ""));
    NodeProto {
        overload: (!overload.is_empty()).then(|| overload.to_owned()),
        input: inputs,
        output: outputs,
        name: (!name.is_empty()).then(|| name.to_owned()),
        op_type: Some(op_type.to_owned()),
        domain: (!domain.is_empty()).then(|| domain.to_owned()),
        attribute: attrs.iter().map(|(name, attr)| attribute(name, attr)).collect(),
        ..NodeProto::default()
    }
}

fn attribute(name: &str, attr: &Attr) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match attr {
        Attr::Float(it) => {
            proto.f = Some(*it);
            AttributeType::Float
        }
        Attr::Int(it) => {
            proto.i = Some(*it);
            AttributeType::Int
        }
        Attr::Str(it) => {
            proto.s = Some(it.to_vec());
            AttributeType::String
        }
        Attr::Tensor(it) => {
            proto.t = Some(inline_tensor("", it));
            AttributeType::Tensor
        }
        Attr::Floats(it) => {
            proto.floats.clone_from(it);
            AttributeType::Floats
        }
        Attr::Ints(it) => {
            proto.ints.clone_from(it);
            AttributeType::Ints
        }
        Attr::Strs(it) => {
            proto.strings = it.iter().map(|it| it.to_vec()).collect();
            AttributeType::Strings
        }
        Attr::Tensors(it) => {
            proto.tensors = it.iter().map(|it| inline_tensor("", it)).collect();
            AttributeType::Tensors
        }
        // Its kind is that of the definition, which callers of the function know.
        Attr::Ref(it) => {
            proto.ref_attr_name = Some(it.clone());
            return proto;
        }
        Attr::Raw(bytes) => return AttributeProto::decode(bytes.clone()).unwrap_or(proto),
    };
    proto.r#type = Some(kind as i32);
    proto
}

pub(super) fn inline_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = tensor_header(name, tensor);
    match tensor.as_strings() {
        Some(strings) => proto.string_data = strings.iter().map(|it| it.to_vec()).collect(),
        None => proto.raw_data = Some(tensor.bytes().clone()),
    }
    proto
}

fn tensor_header(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        dims: tensor.dims().iter().map(|&it| it as i64).collect(),
        data_type: Some(tensor.dtype().onnx_code()),
        name: (!name.is_empty()).then(|| name.to_owned()),
        ..TensorProto::default()
    }
}

/// A tensor as a message: with its bytes, or with their place in the sidecar.
pub(super) fn tensor(name: &str, tensor: &Tensor, sidecar: Option<&mut Sidecar>) -> Rope {
    let mut rope = Rope::default();
    if tensor.as_strings().is_some() {
        rope.push_own(inline_tensor(name, tensor).encode_to_vec());
        return rope;
    }
    let mut proto = tensor_header(name, tensor);
    if let Some(sidecar) = sidecar.filter(|it| it.takes(tensor.bytes().len())) {
        place(&mut proto, tensor.bytes(), sidecar);
        rope.push_own(proto.encode_to_vec());
        return rope;
    }
    push_with_bytes(&mut rope, &proto, tensor.bytes());
    rope
}

/// Adds a tensor of which `proto` has all but the bytes.
pub(super) fn push_with_bytes(rope: &mut Rope, proto: &TensorProto, bytes: &Bytes) {
    rope.push_own(proto.encode_to_vec());
    let mut head = Vec::new();
    let number = onnx_protobuf::fields::tensor_proto::RAW_DATA;
    onnx_protobuf::wire::write_tag(&mut head, number, onnx_protobuf::wire::Wire::Bytes);
    onnx_protobuf::wire::write_varint(&mut head, bytes.len() as u64);
    rope.push_own(head);
    rope.push_tensor(bytes.clone());
}

/// Puts bytes into the sidecar, and their place into the message. Keys that say something else
/// about the data are kept.
pub(super) fn place(proto: &mut TensorProto, bytes: &Bytes, sidecar: &mut Sidecar) {
    let offset = sidecar.add(bytes);
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    let replaced = ["location", "offset", "length", "basepath", "checksum"];
    let kept = proto.external_data.drain(..).filter(|it| !replaced.contains(&it.key()));
    let mut entries = vec![
        entry("location", sidecar.location().to_owned()),
        entry("offset", offset.to_string()),
        entry("length", bytes.len().to_string()),
    ];
    entries.extend(kept);
    proto.external_data = entries;
    proto.raw_data = None;
    proto.data_location = Some(1);
}

/// Name and type of a value.
pub(super) fn value_info(name: &str, ty: &Type) -> Option<ValueInfoProto> {
    let dtype = ty.dtype()?;
    let dim = |it: &Dim| Dimension {
        value: match it {
            Dim::Known(it) => Some(dimension::Value::DimValue(*it as i64)),
            Dim::Symbol(it) => Some(dimension::Value::DimParam(it.to_string())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    let shape = ty.shape().map(|it| TensorShapeProto { dim: it.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx_code()), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    Some(ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, denotation: None }),
        ..ValueInfoProto::default()
    })
}
