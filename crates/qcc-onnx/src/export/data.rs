//! Tensors of attributes that the input has in data files which the output does not read.

use onnx_protobuf::{AttributeProto, NodeProto, TensorProto};
use prost::bytes::Bytes;
use qcc_tensor::MappedFile;

/// Gives the tensors of an attribute the bytes that they have in `files`. Whether there were any.
pub(super) fn bring(attribute: &mut AttributeProto, files: &[(String, MappedFile)]) -> bool {
    let mut has_any = false;
    for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
        if let Some(bytes) = find(tensor, files) {
            forget(tensor);
            tensor.raw_data = Some(bytes);
            has_any = true;
        }
    }
    has_any
}

/// As [`bring`], for all attributes of nodes and of graphs in them.
pub(super) fn bring_all(nodes: &mut [NodeProto], files: &[(String, MappedFile)]) -> bool {
    let mut has_any = false;
    for it in nodes.iter_mut().flat_map(|it| &mut it.attribute) {
        has_any |= bring(it, files);
        for graph in it.g.iter_mut().chain(&mut it.graphs) {
            has_any |= bring_all(&mut graph.node, files);
        }
    }
    has_any
}

/// The bytes of a tensor that lie in one of `files`: the reader has checked where they are.
fn find(tensor: &TensorProto, files: &[(String, MappedFile)]) -> Option<Bytes> {
    if tensor.data_location != Some(1) {
        return None;
    }
    let entry = |key: &str| Some(tensor.external_data.iter().find(|it| it.key() == key)?.value());
    let location = entry("location")?;
    let file = &files.iter().find(|it| it.0 == location)?.1;
    let number = |key: &str| entry(key)?.trim().parse::<usize>().ok();
    let start = number("offset").unwrap_or(0);
    let end = match number("length") {
        Some(length) => start.checked_add(length)?,
        None => start.checked_add(size(tensor)?)?,
    };
    Some(file.slice(start..end)?.0)
}

/// Bytes that the shape of a tensor needs.
fn size(tensor: &TensorProto) -> Option<usize> {
    let dims = tensor.dims.iter().map(|&it| usize::try_from(it).ok());
    let dims = dims.collect::<Option<Vec<usize>>>()?;
    let dtype = qcc_tensor::DType::from_onnx_code(tensor.data_type())?;
    dtype.size_of(qcc_tensor::checked_len(&dims)?)
}

/// Takes out of a message that its bytes are elsewhere.
pub(super) fn forget(tensor: &mut TensorProto) {
    tensor.external_data.clear();
    tensor.data_location = None;
}
