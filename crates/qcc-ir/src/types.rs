//! Types of values.

use std::fmt;

use qcc_tensor::{DType, Dim, Tensor};

use crate::text::{Quoted, Word};

/// What is known about a value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Type {
    /// Nothing.
    #[default]
    Unknown,
    /// A tensor.
    Tensor(TensorType),
    /// A sequence, map, optional, sparse or opaque value, in words. It is carried, never rewritten.
    Other(String),
}

/// Element type and shape of a tensor, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TensorType {
    /// Element type.
    pub dtype: Option<DType>,
    /// Dimensions; `None` when not even the rank is known.
    pub shape: Option<Vec<Dim>>,
}

impl Type {
    /// A tensor of this element type and shape.
    pub fn tensor(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        let shape = Some(shape.into_iter().map(Into::into).collect());
        Self::Tensor(TensorType { dtype: Some(dtype), shape })
    }

    /// A tensor of which only parts may be known.
    pub fn partial(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Self {
        if dtype.is_none() && shape.is_none() {
            Self::Unknown
        } else {
            Self::Tensor(TensorType { dtype, shape })
        }
    }

    /// The type of a tensor that is there.
    pub fn of(tensor: &Tensor) -> Self {
        Self::tensor(tensor.dtype(), tensor.dims().iter().copied())
    }

    /// Element type, if known.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Self::Tensor(it) => it.dtype,
            Self::Unknown | Self::Other(_) => None,
        }
    }

    /// Dimensions, if the rank is known.
    pub fn shape(&self) -> Option<&[Dim]> {
        match self {
            Self::Tensor(it) => it.shape.as_deref(),
            Self::Unknown | Self::Other(_) => None,
        }
    }

    /// Rank, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape().map(<[Dim]>::len)
    }

    /// Dimensions, if all are numbers.
    pub fn known_dims(&self) -> Option<Vec<usize>> {
        self.shape()?.iter().map(Dim::known).collect()
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: Option<DType>) -> Self {
        Self::partial(dtype, self.shape().map(<[Dim]>::to_vec))
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: Option<Vec<Dim>>) -> Self {
        Self::partial(self.dtype(), shape)
    }

    /// What both say together, `self` first where they differ only in how a dimension is spelled;
    /// `None` when they contradict each other.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Unknown, it) | (it, Self::Unknown) => Some(it.clone()),
            (Self::Other(a), Self::Other(b)) => (a == b).then(|| self.clone()),
            (Self::Tensor(a), Self::Tensor(b)) => {
                let dtype = match (a.dtype, b.dtype) {
                    (Some(a), Some(b)) if a != b => return None,
                    (a, b) => a.or(b),
                };
                let shape = match (&a.shape, &b.shape) {
                    (Some(a), Some(b)) if a.len() != b.len() => return None,
                    (Some(a), Some(b)) => {
                        Some(a.iter().zip(b).map(|(a, b)| meet_dim(a, b)).collect::<Option<_>>()?)
                    }
                    (a, b) => a.clone().or_else(|| b.clone()),
                };
                Some(Self::Tensor(TensorType { dtype, shape }))
            }
            (Self::Tensor(_), Self::Other(_)) | (Self::Other(_), Self::Tensor(_)) => None,
        }
    }
}

fn meet_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Known(x), Dim::Known(y)) if x != y => None,
        (Dim::Symbol(_), Dim::Known(_)) | (Dim::Unknown, _) => Some(b.clone()),
        (Dim::Known(_) | Dim::Symbol(_), _) => Some(a.clone()),
    }
}

/// `f32[2, batch, ?]`; `?` for an unknown type, `f32[*]` for an unknown rank.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("?"),
            Self::Other(text) => write!(f, "other<{}>", Quoted(text.as_bytes())),
            Self::Tensor(it) => {
                match it.dtype {
                    Some(dtype) => write!(f, "{dtype}")?,
                    None => f.write_str("any")?,
                }
                let Some(shape) = &it.shape else { return f.write_str("[*]") };
                f.write_str("[")?;
                for (idx, dim) in shape.iter().enumerate() {
                    if idx > 0 {
                        f.write_str(", ")?;
                    }
                    match dim {
                        Dim::Symbol(name) => write!(f, "{}", Word(name))?,
                        it => write!(f, "{it}")?,
                    }
                }
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meet_takes_what_is_known() {
        let a = Type::tensor(DType::F32, [Dim::symbol("batch"), Dim::Known(3)]);
        let b = Type::partial(None, Some(vec![Dim::Known(2), Dim::Unknown]));
        assert_eq!(a.meet(&b), Some(Type::tensor(DType::F32, [2usize, 3])));
        assert_eq!(a.meet(&Type::tensor(DType::F16, [2usize, 3])), None);
        assert_eq!(a.meet(&Type::tensor(DType::F32, [2usize])), None);
        assert_eq!(a.meet(&Type::Unknown), Some(a.clone()));
    }

    #[test]
    fn text() {
        let it = Type::tensor(DType::F32, [Dim::symbol("a b"), Dim::Known(3), Dim::Unknown]);
        assert_eq!(it.to_string(), "f32[\"a b\", 3, ?]");
        assert_eq!(Type::partial(Some(DType::I64), None).to_string(), "i64[*]");
    }
}
