//! `TypeProto` to [`Type`].

use onnx_protobuf::{TypeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto};
use qcc_ir::Type;
use qcc_tensor::{DType, Dim};

/// The type of a value; unknown when the message has none.
pub(super) fn type_of(info: &ValueInfoProto) -> Type {
    info.r#type.as_ref().map_or(Type::Unknown, read)
}

fn read(ty: &TypeProto) -> Type {
    let Some(value) = &ty.value else { return Type::Unknown };
    match value {
        type_proto::Value::TensorType(it) => {
            let dtype = DType::from_onnx_code(it.elem_type());
            let shape = it.shape.as_ref().map(|it| it.dim.iter().map(dim).collect());
            Type::partial(dtype, shape)
        }
        other => Type::Other(in_words(other)),
    }
}

fn dim(it: &onnx_protobuf::tensor_shape_proto::Dimension) -> Dim {
    match &it.value {
        Some(dimension::Value::DimValue(it)) => {
            usize::try_from(*it).map_or(Dim::Unknown, Dim::Known)
        }
        Some(dimension::Value::DimParam(it)) if !it.is_empty() => Dim::symbol(it),
        Some(dimension::Value::DimParam(_)) | None => Dim::Unknown,
    }
}

fn in_words(value: &type_proto::Value) -> String {
    let inner =
        |it: Option<&TypeProto>| it.map_or_else(|| "?".to_owned(), |it| read(it).to_string());
    match value {
        type_proto::Value::TensorType(_) => "tensor".to_owned(),
        type_proto::Value::SequenceType(it) => format!("seq({})", inner(it.elem_type.as_deref())),
        type_proto::Value::OptionalType(it) => {
            format!("optional({})", inner(it.elem_type.as_deref()))
        }
        type_proto::Value::MapType(it) => format!("map({})", inner(it.value_type.as_deref())),
        type_proto::Value::SparseTensorType(it) => {
            let dtype = DType::from_onnx_code(it.elem_type());
            format!("sparse({})", dtype.map_or("?", DType::text))
        }
        type_proto::Value::OpaqueType(it) => format!("opaque({}, {})", it.domain(), it.name()),
    }
}
