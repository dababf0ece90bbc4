//! Arithmetic on dimensions that may be symbols.

use qcc_ir::TypeError;
use qcc_tensor::{Dim, checked_len};

/// Number of elements of a result.
///
/// # Errors
/// When it does not fit the address space.
pub(crate) fn len_of(op: &str, dims: &[usize]) -> Result<usize, TypeError> {
    checked_len(dims).ok_or_else(|| TypeError::other(op, format!("shape {dims:?} overflows")))
}

/// The quotient of a dimension by a number that must divide it; unknown for symbols.
///
/// # Errors
/// When the number is 0 or does not divide it.
pub(crate) fn divided(op: &str, dim: &Dim, by: usize) -> Result<Dim, TypeError> {
    match dim {
        Dim::Known(it) if by > 0 && it.is_multiple_of(by) => Ok(Dim::Known(it / by)),
        Dim::Known(it) => Err(TypeError::other(op, format!("{it} is not a multiple of {by}"))),
        Dim::Symbol(_) | Dim::Unknown => Ok(Dim::Unknown),
    }
}

/// The product of a dimension and a number; unknown for symbols.
pub(crate) fn times(dim: &Dim, by: usize) -> Dim {
    dim.known().and_then(|it| it.checked_mul(by)).map_or(Dim::Unknown, Dim::Known)
}

/// The sum of two dimensions, if both are numbers or one is 0.
pub(crate) fn sum(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), it) | (it, Dim::Known(0)) => it.clone(),
        (Dim::Known(a), Dim::Known(b)) => a.checked_add(*b).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_stay_unknown() {
        let (n, six) = (Dim::symbol("n"), Dim::Known(6));
        assert_eq!(divided("X", &six, 3), Ok(Dim::Known(2)));
        assert_eq!(divided("X", &n, 3), Ok(Dim::Unknown));
        assert!(divided("X", &six, 4).is_err() && divided("X", &six, 0).is_err());
        assert_eq!((times(&six, 2), times(&n, 2)), (Dim::Known(12), Dim::Unknown));
        assert_eq!((sum(&six, &six), sum(&n, &six)), (Dim::Known(12), Dim::Unknown));
        assert_eq!(sum(&n, &Dim::Known(0)), n);
        assert_eq!(times(&Dim::Known(usize::MAX), 2), Dim::Unknown);
    }
}
