//! Operands that hold axes, dimensions and positions.

use qcc_ir::{Input, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::operands;

/// Distinct axes of `rank` dimensions, in the order given; negative ones count from the end.
///
/// # Errors
/// When there is no such axis, or one comes twice.
pub(crate) fn axes(op: &str, list: &[i64], rank: usize) -> Result<Vec<usize>, TypeError> {
    let mut seen = vec![false; rank];
    list.iter()
        .map(|&it| {
            let index = operands::axis(op, it, rank)?;
            if std::mem::replace(&mut seen[index], true) {
                return Err(TypeError::other(op, format!("axis {it} comes twice")));
            }
            Ok(index)
        })
        .collect()
}

/// A position among `len`, counted from the end when negative.
pub(crate) fn wrap(index: i64, len: usize) -> Option<usize> {
    let size = i64::try_from(len).unwrap_or(i64::MAX);
    let index = if index < 0 { index.checked_add(size)? } else { index };
    usize::try_from(index).ok().filter(|&it| it < len)
}

/// The elements of an integer tensor.
///
/// # Errors
/// When the element type is no integer.
pub(crate) fn ints(op: &str, tensor: &Tensor) -> Result<Vec<i64>, TypeError> {
    match tensor.to_i64() {
        Ok(it) => Ok(it.into_owned()),
        Err(_) => Err(dtype(op, tensor.dtype())),
    }
}

/// The elements of an operand that is a constant; `None` when it is absent or no constant.
///
/// # Errors
/// When the element type is no integer.
pub(crate) fn const_ints(
    op: &str,
    input: Option<Input<'_>>,
) -> Result<Option<Vec<i64>>, TypeError> {
    input.and_then(|it| it.value).map(|it| ints(op, it)).transpose()
}

/// Positions among `len`, each counted from the end when negative.
///
/// # Errors
/// When one is out of bounds, or the element type is no integer.
pub(crate) fn positions(op: &str, tensor: &Tensor, len: usize) -> Result<Vec<usize>, TypeError> {
    ints(op, tensor)?.into_iter().map(|it| position(op, it, len)).collect()
}

/// A position among `len`, counted from the end when negative.
///
/// # Errors
/// When it is out of bounds.
pub(crate) fn position(op: &str, index: i64, len: usize) -> Result<usize, TypeError> {
    wrap(index, len).ok_or_else(|| TypeError::other(op, format!("no index {index} among {len}")))
}

/// The only element of an integer tensor.
///
/// # Errors
/// When the element type is no integer, or there is another number of elements.
pub(crate) fn int(op: &str, tensor: &Tensor) -> Result<i64, TypeError> {
    match ints(op, tensor)?.as_slice() {
        &[it] => Ok(it),
        other => Err(TypeError::other(op, format!("wants one element, not {}", other.len()))),
    }
}

/// A dimension or count.
///
/// # Errors
/// When it is negative.
pub(crate) fn size(op: &str, value: i64) -> Result<usize, TypeError> {
    usize::try_from(value).map_err(|_| TypeError::other(op, format!("size {value} is negative")))
}

/// Dimensions.
///
/// # Errors
/// When one is negative.
pub(crate) fn sizes(op: &str, values: &[i64]) -> Result<Vec<usize>, TypeError> {
    values.iter().map(|&it| size(op, it)).collect()
}

/// An element type that the operator does not take.
pub(crate) fn dtype(op: &str, got: DType) -> TypeError {
    TypeError::DType { op: op.into(), got: got.to_string() }
}

/// The number of elements of a vector, such as one that holds axes or dimensions, if known.
pub(crate) fn vector_len(input: Input<'_>) -> Option<usize> {
    match input.ty.shape()? {
        [Dim::Known(it)] => Some(*it),
        _ => None,
    }
}

/// As many unknown dimensions; `None` for an unknown rank.
pub(crate) fn unknown_dims(rank: Option<usize>) -> Option<Vec<Dim>> {
    // Nothing has so many dimensions; a hostile vector of dimensions may claim to.
    rank.filter(|&it| it <= 64).map(|it| vec![Dim::Unknown; it])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!(axes("Op", &[-1, 0], 3), Ok(vec![2, 0]));
        assert!(axes("Op", &[3], 3).is_err());
        assert!(axes("Op", &[0, -3], 3).is_err());
        assert_eq!(wrap(i64::MIN, 3), None);
    }

    #[test]
    fn one_integer_of_any_width() {
        assert_eq!(int("Op", &Tensor::scalar(-3i32)), Ok(-3));
        assert!(int("Op", &Tensor::vector(vec![1i64, 2])).is_err());
        assert!(int("Op", &Tensor::scalar(1.0f32)).is_err());
    }
}
