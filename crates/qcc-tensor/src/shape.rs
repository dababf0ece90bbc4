//! Dimensions that may be symbols.

use std::fmt;
use std::sync::Arc;

/// One dimension of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A number.
    Known(usize),
    /// A name, such as `batch`: equal names are equal numbers.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// A symbol of this name.
    pub fn symbol(name: &str) -> Self {
        Self::Symbol(name.into())
    }

    /// The number, if it is one.
    pub fn known(&self) -> Option<usize> {
        match self {
            Self::Known(it) => Some(*it),
            Self::Symbol(_) | Self::Unknown => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(it: usize) -> Self {
        Self::Known(it)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(it) => write!(f, "{it}"),
            Self::Symbol(it) => f.write_str(it),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// Number of elements of a shape; `None` when the product overflows.
pub fn checked_len(dims: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product zero, whatever the others are.
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn len_of_hostile_shapes() {
        assert_eq!(checked_len(&[]), Some(1));
        assert_eq!(checked_len(&[usize::MAX, 2]), None);
        assert_eq!(checked_len(&[usize::MAX, 2, 0]), Some(0));
    }
}
