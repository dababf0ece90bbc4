//! `TensorProto` to [`Tensor`]: raw bytes stay where they are, typed fields are decoded.

use half::{bf16, f16};
use onnx_protobuf::TensorProto;
use prost::bytes::Bytes;
use qcc_tensor::{DType, MappedFile, Origin, Tensor, checked_len};

use super::external::DataFiles;
use crate::ReadError;

/// A tensor and whether its bytes lie in another file.
pub(super) fn read(
    proto: &TensorProto,
    file: &MappedFile,
    data: &mut DataFiles,
) -> Result<(Tensor, bool), ReadError> {
    let name = proto.name();
    let rule = |what: String| ReadError::rule(format!("tensor '{name}'"), what);
    let code = proto.data_type();
    let dtype = DType::from_onnx_code(code).ok_or_else(|| {
        rule(format!("tensor '{name}' has element type {code}, which is unknown"))
    })?;
    let dims: Vec<usize> = proto
        .dims
        .iter()
        .map(|&it| usize::try_from(it))
        .collect::<Result<_, _>>()
        .map_err(|_| rule(format!("tensor '{name}' has a negative dimension")))?;
    let len = checked_len(&dims)
        .ok_or_else(|| rule(format!("the shape {dims:?} of tensor '{name}' overflows")))?;

    if dtype == DType::Str {
        let strings: Vec<Bytes> = proto.string_data.iter().cloned().map(Bytes::from).collect();
        let tensor = Tensor::strings(dims, strings).map_err(|it| rule(it.to_string()))?;
        return Ok((tensor, false));
    }
    let want = dtype
        .size_of(len)
        .ok_or_else(|| rule(format!("the shape {dims:?} of tensor '{name}' overflows")))?;
    let make = |bytes: Bytes| {
        Tensor::new(dtype, dims.clone(), bytes)
            .map_err(|error| rule(format!("tensor '{name}': {error}")))
    };
    if proto.data_location.is_some_and(|it| it == 1) {
        let (bytes, origin) = data.slice(proto, want)?;
        return Ok((make(bytes)?.with_origin(origin), true));
    }
    if let Some(raw) = &proto.raw_data {
        let tensor = make(raw.clone())?;
        return Ok((
            match offset_in(file, raw) {
                Some(offset) => {
                    let len = raw.len() as u64;
                    tensor.with_origin(Origin { file: file.name().clone(), offset, len })
                }
                None => tensor,
            },
            false,
        ));
    }
    if len == 0 {
        return Ok((make(Bytes::new())?, false));
    }
    let bytes = typed(proto, dtype, len, want)
        .ok_or_else(|| rule(format!("tensor '{name}' has no data that fits its shape {dims:?}")))?;
    Ok((make(Bytes::from(bytes))?, false))
}

/// Where in the file a slice of it starts.
fn offset_in(file: &MappedFile, part: &Bytes) -> Option<u64> {
    let start = (part.as_ptr() as usize).checked_sub(file.bytes().as_ptr() as usize)?;
    (!part.is_empty() && start.checked_add(part.len())? <= file.bytes().len())
        .then_some(start as u64)
}

/// Little-endian packed bytes of a typed field. Types of less than 32 bits come one to an entry of
/// `int32_data`, those of less than 8 bits one byte to an entry.
fn typed(proto: &TensorProto, dtype: DType, len: usize, want: usize) -> Option<Vec<u8>> {
    fn flat<T, const N: usize>(
        values: &[T],
        len: usize,
        bytes: impl Fn(&T) -> [u8; N],
    ) -> Option<Vec<u8>> {
        (values.len() == len).then(|| values.iter().flat_map(bytes).collect())
    }
    let ints = &proto.int32_data;
    match dtype {
        DType::F32 => flat(&proto.float_data, len, |it| it.to_le_bytes()),
        DType::C64 => flat(&proto.float_data, len.checked_mul(2)?, |it| it.to_le_bytes()),
        DType::F64 => flat(&proto.double_data, len, |it| it.to_le_bytes()),
        DType::C128 => flat(&proto.double_data, len.checked_mul(2)?, |it| it.to_le_bytes()),
        DType::I64 => flat(&proto.int64_data, len, |it| it.to_le_bytes()),
        DType::U64 => flat(&proto.uint64_data, len, |it| it.to_le_bytes()),
        DType::U32 => flat(&proto.uint64_data, len, |&it| (it as u32).to_le_bytes()),
        DType::I32 => flat(ints, len, |it| it.to_le_bytes()),
        DType::I16 | DType::U16 => flat(ints, len, |&it| (it as i16).to_le_bytes()),
        DType::F16 => flat(ints, len, |&it| f16::from_bits(it as u16).to_le_bytes()),
        DType::BF16 => flat(ints, len, |&it| bf16::from_bits(it as u16).to_le_bytes()),
        DType::F6E2M3 | DType::F6E3M2 => {
            let mut bytes = vec![0u8; want];
            for (idx, &it) in (ints.len() == len).then_some(ints)?.iter().enumerate() {
                let (bit, code) = (idx * 6, (it as u16) & 0x3f);
                let wide = code << (bit % 8);
                *bytes.get_mut(bit / 8)? |= wide as u8;
                if bit % 8 > 2 {
                    *bytes.get_mut(bit / 8 + 1)? |= (wide >> 8) as u8;
                }
            }
            Some(bytes)
        }
        // One byte to an entry: one element of 8 bits, or two or four smaller ones.
        _ => flat(ints, want, |&it| [it as u8]),
    }
}
