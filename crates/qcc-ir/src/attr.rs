//! Attributes as data: what an operator's fields look like in text and in ONNX.

use bytes::Bytes;
use qcc_tensor::Tensor;

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A byte string, usually UTF-8.
    Str(Bytes),
    /// A tensor.
    Tensor(Tensor),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Byte strings.
    Strs(Vec<Bytes>),
    /// Tensors.
    Tensors(Vec<Tensor>),
    /// In the body of a function: what a call gives for the attribute of this name.
    Ref(String),
    /// Anything else (types, sparse tensors): the bytes of the whole ONNX message.
    Raw(Bytes),
}

/// Attributes in the order of the file or of the operator's definition.
pub type Attrs = Vec<(String, Attr)>;

impl From<i64> for Attr {
    fn from(it: i64) -> Self {
        Self::Int(it)
    }
}

impl From<f32> for Attr {
    fn from(it: f32) -> Self {
        Self::Float(it)
    }
}

impl From<&str> for Attr {
    fn from(it: &str) -> Self {
        Self::Str(Bytes::copy_from_slice(it.as_bytes()))
    }
}

impl From<Vec<i64>> for Attr {
    fn from(it: Vec<i64>) -> Self {
        Self::Ints(it)
    }
}

impl From<Tensor> for Attr {
    fn from(it: Tensor) -> Self {
        Self::Tensor(it)
    }
}
