//! A tensor: element type, dimensions, bytes.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::pool::Lease;
use crate::{DType, Element, Origin, checked_len};

/// Why bytes are not a tensor, or a tensor is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The product of the dimensions does not fit into memory.
    #[error("shape {0:?} overflows")]
    Overflow(Vec<usize>),
    /// So many bytes, which the system does not give.
    #[error("there is no memory for {0} bytes")]
    Memory(usize),
    /// Another number of bytes than the shape needs.
    #[error("{dtype}{dims:?} needs {want} bytes, but there are {got}")]
    Size {
        /// Element type.
        dtype: DType,
        /// Dimensions.
        dims: Vec<usize>,
        /// Bytes that the shape needs.
        want: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// Strings have no packed bytes.
    #[error("strings have no packed form")]
    Strings,
    /// Another element type than was asked for.
    #[error("element type is {got}, not {want}")]
    DType {
        /// What was asked for.
        want: DType,
        /// What it is.
        got: DType,
    },
    /// A shape with another number of elements.
    #[error("{from:?} cannot be reshaped to {to:?}")]
    Reshape {
        /// Dimensions before.
        from: Vec<usize>,
        /// Dimensions asked for.
        to: Vec<usize>,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Packed(Bytes),
    Strings(Arc<[Bytes]>),
}

/// Element type, dimensions, and shared bytes in row-major order, little-endian.
///
/// Elements of less than 8 bits are packed over the flattened tensor, the first one lowest.
/// The clone is cheap. Equality is of type, dimensions and bytes; where they come from does not
/// count.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: Data,
    origin: Option<Origin>,
    /// The buffer of a pool that the bytes lie in.
    lease: Option<Lease>,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.dims == other.dims && self.data == other.data
    }
}

impl Tensor {
    /// A tensor over packed bytes.
    ///
    /// # Errors
    /// When the shape overflows or needs another number of bytes, and for strings.
    pub fn new(dtype: DType, dims: Vec<usize>, bytes: Bytes) -> Result<Self, TensorError> {
        let Some(len) = checked_len(&dims) else { return Err(TensorError::Overflow(dims)) };
        if dtype == DType::Str {
            return Err(TensorError::Strings);
        }
        let Some(want) = dtype.size_of(len) else { return Err(TensorError::Overflow(dims)) };
        if want != bytes.len() {
            return Err(TensorError::Size { dtype, dims, want, got: bytes.len() });
        }
        Ok(Self { dtype, dims, data: Data::Packed(bytes), origin: None, lease: None })
    }

    /// A tensor of strings.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn strings(dims: Vec<usize>, strings: Vec<Bytes>) -> Result<Self, TensorError> {
        match checked_len(&dims) {
            Some(len) if len == strings.len() => {
                let data = Data::Strings(strings.into());
                Ok(Self { dtype: DType::Str, dims, data, origin: None, lease: None })
            }
            Some(want) => {
                Err(TensorError::Size { dtype: DType::Str, dims, want, got: strings.len() })
            }
            None => Err(TensorError::Overflow(dims)),
        }
    }

    /// A tensor that owns `values`, without a copy.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn from_vec<T: Element>(dims: Vec<usize>, values: Vec<T>) -> Result<Self, TensorError> {
        Self::new(T::DTYPE, dims, owned_bytes(values))
    }

    /// A `bool` tensor.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn from_bools(dims: Vec<usize>, values: &[bool]) -> Result<Self, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&it| u8::from(it)).collect();
        Self::new(DType::Bool, dims, Bytes::from(bytes))
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self {
            dtype: T::DTYPE,
            dims: Vec::new(),
            data: Data::Packed(Bytes::copy_from_slice(bytemuck::bytes_of(&value))),
            origin: None,
            lease: None,
        }
    }

    /// A tensor of one dimension.
    pub fn vector<T: Element>(values: Vec<T>) -> Self {
        let dims = vec![values.len()];
        Self {
            dtype: T::DTYPE,
            dims,
            data: Data::Packed(owned_bytes(values)),
            origin: None,
            lease: None,
        }
    }

    /// Notes where in a file the bytes lie.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Takes the bytes out of the memory of this process if a mapped file has them: they come back
    /// when they are read. For those who have read a large weight and will not soon again.
    pub fn release(&self) {
        if let Data::Packed(bytes) = &self.data {
            crate::mapped::release(bytes);
        }
    }

    /// Notes the buffer of a pool that the bytes lie in.
    pub(crate) fn with_lease(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The buffer of a tensor of [`Pool::tensor`](crate::Pool::tensor), to be written over, if
    /// nothing else shares its bytes; its elements are still in it.
    ///
    /// # Errors
    /// Gives the tensor back when its bytes are shared or come from no pool.
    pub fn into_buffer(self) -> Result<Vec<f32>, Self> {
        let Self { dtype, dims, data, origin, lease } = self;
        let Some(lease) = lease else { return Err(Self { dtype, dims, data, origin, lease }) };
        drop(data);
        lease.take().map_err(|lease| {
            let data = Data::Packed(lease.bytes());
            Self { dtype, dims, data, origin, lease: Some(lease) }
        })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, the last one fastest.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Packed bytes; empty for strings.
    pub fn bytes(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.data {
            Data::Packed(bytes) => bytes,
            Data::Strings(_) => &NONE,
        }
    }

    /// The strings; `None` for other types.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(it) => Some(it),
            Data::Packed(_) => None,
        }
    }

    /// Where in a file the bytes lie, if they do.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The elements: borrowed when the bytes are aligned, else copied.
    ///
    /// # Errors
    /// When the element type is another one.
    pub fn as_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { want: T::DTYPE, got: self.dtype });
        }
        Ok(cast(self.bytes()))
    }

    /// The elements of a `bool` tensor, one byte each.
    ///
    /// # Errors
    /// When the element type is another one.
    pub fn as_bools(&self) -> Result<&[u8], TensorError> {
        if self.dtype != DType::Bool {
            return Err(TensorError::DType { want: DType::Bool, got: self.dtype });
        }
        Ok(self.bytes())
    }

    /// The elements as f32: borrowed for aligned f32, converted from other floats and integers.
    ///
    /// # Errors
    /// For `bool`, strings, complex and types of less than 16 bits that are not integers.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, TensorError> {
        let bytes = self.bytes();
        Ok(match self.dtype {
            DType::F32 => cast(bytes),
            DType::F16 => cast::<f16>(bytes).iter().map(|it| it.to_f32()).collect(),
            DType::BF16 => cast::<bf16>(bytes).iter().map(|it| it.to_f32()).collect(),
            DType::F64 => cast::<f64>(bytes).iter().map(|&it| it as f32).collect(),
            DType::I64 => cast::<i64>(bytes).iter().map(|&it| it as f32).collect(),
            DType::I32 => cast::<i32>(bytes).iter().map(|&it| it as f32).collect(),
            DType::I16 => cast::<i16>(bytes).iter().map(|&it| f32::from(it)).collect(),
            DType::I8 => cast::<i8>(bytes).iter().map(|&it| f32::from(it)).collect(),
            DType::U64 => cast::<u64>(bytes).iter().map(|&it| it as f32).collect(),
            DType::U32 => cast::<u32>(bytes).iter().map(|&it| it as f32).collect(),
            DType::U16 => cast::<u16>(bytes).iter().map(|&it| f32::from(it)).collect(),
            DType::U8 => cast::<u8>(bytes).iter().map(|&it| f32::from(it)).collect(),
            got => return Err(TensorError::DType { want: DType::F32, got }),
        })
    }

    /// The elements as i64, for shapes and indices.
    ///
    /// # Errors
    /// When the element type is no integer.
    pub fn to_i64(&self) -> Result<Cow<'_, [i64]>, TensorError> {
        let bytes = self.bytes();
        Ok(match self.dtype {
            DType::I64 => cast(bytes),
            DType::I32 => cast::<i32>(bytes).iter().map(|&it| i64::from(it)).collect(),
            DType::I16 => cast::<i16>(bytes).iter().map(|&it| i64::from(it)).collect(),
            DType::I8 => cast::<i8>(bytes).iter().map(|&it| i64::from(it)).collect(),
            DType::U64 => cast::<u64>(bytes).iter().map(|&it| it as i64).collect(),
            DType::U32 => cast::<u32>(bytes).iter().map(|&it| i64::from(it)).collect(),
            DType::U16 => cast::<u16>(bytes).iter().map(|&it| i64::from(it)).collect(),
            DType::U8 | DType::Bool => bytes.iter().map(|&it| i64::from(it)).collect(),
            got => return Err(TensorError::DType { want: DType::I64, got }),
        })
    }

    /// The same bytes under other dimensions.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, dims: Vec<usize>) -> Result<Self, TensorError> {
        if checked_len(&dims) != Some(self.len()) {
            return Err(TensorError::Reshape { from: self.dims.clone(), to: dims });
        }
        Ok(Self { dims, ..self.clone() })
    }
}

/// Keeps a vector alive behind `Bytes`, so that its bytes need no copy.
struct Owned<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn owned_bytes<T: Element>(values: Vec<T>) -> Bytes {
    if values.is_empty() { Bytes::new() } else { Bytes::from_owner(Owned(values)) }
}

fn cast<T: Element>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(slice) => Cow::Borrowed(slice),
        Err(_) => {
            bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_vector_are_not_copied() {
        let values = vec![1.0f32, 2.0, 3.0];
        let start = values.as_ptr().cast::<u8>();
        let tensor = Tensor::from_vec(vec![3], values).unwrap();
        assert_eq!(tensor.bytes().as_ptr(), start);
        assert!(matches!(tensor.to_f32().unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn unaligned_bytes_are_copied_and_right() {
        let mut raw = vec![0u8];
        raw.extend_from_slice(bytemuck::cast_slice(&[1.5f32, -2.0]));
        for skip in [0, 1] {
            // One of the two starts is not a multiple of four.
            let bytes = Bytes::from(raw.clone()).slice(1..);
            let padded = Bytes::from([vec![0; skip], bytes.to_vec()].concat()).slice(skip..);
            let tensor = Tensor::new(DType::F32, vec![2], padded).unwrap();
            assert_eq!(&*tensor.to_f32().unwrap(), [1.5, -2.0]);
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let bytes = Bytes::from_static(&[0; 7]);
        assert!(Tensor::new(DType::F32, vec![2], bytes.clone()).is_err());
        assert!(Tensor::new(DType::F32, vec![usize::MAX, 2], bytes).is_err());
        assert!(Tensor::scalar(1i64).reshape(vec![2]).is_err());
        assert!(Tensor::scalar(1i64).reshape(vec![1, 1]).is_ok());
    }

    #[test]
    fn halves_widen() {
        let tensor = Tensor::vector(vec![f16::from_f32(0.5), f16::from_f32(-3.0)]);
        assert_eq!(&*tensor.to_f32().unwrap(), [0.5, -3.0]);
        assert!(tensor.to_i64().is_err());
    }
}
