//! ONNX messages as tensors and attributes.

use bytes::Bytes;
use onnx_protobuf::{AttributeProto, AttributeType, TensorProto, ValueInfoProto, type_proto};
use qcc_ir::Attr;
use qcc_tensor::{DType, Tensor};

/// A tensor, from raw bytes or from the field of its type.
pub(crate) fn tensor(it: &TensorProto) -> Tensor {
    let dims: Vec<usize> = it.dims.iter().map(|&it| usize::try_from(it).unwrap()).collect();
    let dtype = DType::from_onnx_code(it.data_type.unwrap_or(0)).unwrap();
    if dtype == DType::Str {
        let strings = it.string_data.iter().cloned().map(Bytes::from).collect();
        return Tensor::strings(dims, strings).unwrap();
    }
    if let Some(raw) = &it.raw_data {
        return Tensor::new(dtype, dims, raw.clone()).unwrap();
    }
    let bytes: Vec<u8> = match dtype {
        DType::F32 | DType::C64 => bytemuck::cast_slice(&it.float_data).to_vec(),
        DType::F64 | DType::C128 => bytemuck::cast_slice(&it.double_data).to_vec(),
        DType::I64 => bytemuck::cast_slice(&it.int64_data).to_vec(),
        DType::U64 => bytemuck::cast_slice(&it.uint64_data).to_vec(),
        DType::U32 => it.uint64_data.iter().flat_map(|&it| (it as u32).to_le_bytes()).collect(),
        DType::I32 => bytemuck::cast_slice(&it.int32_data).to_vec(),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
            it.int32_data.iter().flat_map(|&it| (it as u16).to_le_bytes()).collect()
        }
        _ => it.int32_data.iter().map(|&it| it as u8).collect(),
    };
    Tensor::new(dtype, dims, bytes.into()).unwrap()
}

/// An attribute; `None` for graphs and for references to those of a function.
pub(crate) fn attribute(it: &AttributeProto) -> Option<(String, Attr)> {
    let attr = match AttributeType::try_from(it.r#type.unwrap_or(0)).unwrap() {
        AttributeType::Float => Attr::Float(it.f.unwrap_or(0.0)),
        AttributeType::Int => Attr::Int(it.i.unwrap_or(0)),
        AttributeType::String => Attr::Str(it.s.clone().unwrap_or_default().into()),
        AttributeType::Tensor => Attr::Tensor(tensor(it.t.as_ref().unwrap())),
        AttributeType::Floats => Attr::Floats(it.floats.clone()),
        AttributeType::Ints => Attr::Ints(it.ints.clone()),
        AttributeType::Strings => Attr::Strs(it.strings.iter().cloned().map(Bytes::from).collect()),
        AttributeType::Tensors => Attr::Tensors(it.tensors.iter().map(tensor).collect()),
        _ => return None,
    };
    Some((it.name.clone().unwrap_or_default(), attr))
}

/// Whether an input or output of a graph is a tensor.
pub(crate) fn is_tensor(it: &ValueInfoProto) -> bool {
    let ty = it.r#type.as_ref().and_then(|it| it.value.as_ref());
    matches!(ty, Some(type_proto::Value::TensorType(_)))
}
