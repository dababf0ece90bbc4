//! `AttributeProto` to [`Attr`].

use onnx_protobuf::{AttributeProto, AttributeType, Message};
use prost::bytes::Bytes;
use qcc_ir::Attr;
use qcc_tensor::MappedFile;

use super::external::DataFiles;
use super::tensor;
use crate::ReadError;

/// The value of an attribute; `None` for graphs, which become regions. What has no form of its
/// own keeps its whole message.
pub(super) fn read(
    proto: &AttributeProto,
    file: &MappedFile,
    data: &mut DataFiles,
) -> Result<Option<Attr>, ReadError> {
    if proto.ref_attr_name.as_ref().is_some_and(|it| !it.is_empty()) {
        return Ok(Some(Attr::Ref(proto.ref_attr_name().to_owned())));
    }
    Ok(Some(match kind(proto) {
        AttributeType::Float => Attr::Float(proto.f()),
        AttributeType::Int => Attr::Int(proto.i()),
        AttributeType::String => Attr::Str(Bytes::copy_from_slice(proto.s())),
        AttributeType::Floats => Attr::Floats(proto.floats.clone()),
        AttributeType::Ints => Attr::Ints(proto.ints.clone()),
        AttributeType::Strings => {
            Attr::Strs(proto.strings.iter().cloned().map(Bytes::from).collect())
        }
        AttributeType::Tensor => match &proto.t {
            Some(it) => Attr::Tensor(tensor::read(it, file, data)?.0),
            None => raw(proto),
        },
        AttributeType::Tensors => {
            let tensors = proto.tensors.iter().map(|it| Ok(tensor::read(it, file, data)?.0));
            Attr::Tensors(tensors.collect::<Result<_, ReadError>>()?)
        }
        AttributeType::Graph | AttributeType::Graphs => return Ok(None),
        AttributeType::Undefined
        | AttributeType::SparseTensor
        | AttributeType::SparseTensors
        | AttributeType::TypeProto
        | AttributeType::TypeProtos => raw(proto),
    }))
}

/// The stated type, or for files of IR version 1 that which has a value.
fn kind(proto: &AttributeProto) -> AttributeType {
    match proto.r#type.and_then(|it| AttributeType::try_from(it).ok()) {
        Some(kind) if kind != AttributeType::Undefined => kind,
        _ if proto.f.is_some() => AttributeType::Float,
        _ if proto.i.is_some() => AttributeType::Int,
        _ if proto.s.is_some() => AttributeType::String,
        _ if proto.t.is_some() => AttributeType::Tensor,
        _ if proto.g.is_some() => AttributeType::Graph,
        _ if !proto.floats.is_empty() => AttributeType::Floats,
        _ if !proto.ints.is_empty() => AttributeType::Ints,
        _ if !proto.strings.is_empty() => AttributeType::Strings,
        _ if !proto.tensors.is_empty() => AttributeType::Tensors,
        _ if !proto.graphs.is_empty() => AttributeType::Graphs,
        _ => AttributeType::Undefined,
    }
}

fn raw(proto: &AttributeProto) -> Attr {
    Attr::Raw(Bytes::from(proto.encode_to_vec()))
}
