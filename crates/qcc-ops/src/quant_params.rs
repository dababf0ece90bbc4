//! Integers of 2 to 32 bits, and the scales that lie over them.
//!
//! A scale is one number for the tensor, one for each index of an axis, or one for each block of
//! an axis, in which case its shape is that of the tensor with `ceil(d / block)` on the axis.

use qcc_ir::{EvalError, TypeError};
use qcc_tensor::{DType, Tensor};

use crate::operands;

/// Range of an integer element type of at most 32 bits; `None` for others.
pub(crate) fn range(dtype: DType) -> Option<(i64, i64)> {
    let bits = dtype.bits();
    match dtype {
        DType::U2 | DType::U4 | DType::U8 | DType::U16 => Some((0, (1 << bits) - 1)),
        DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 => {
            Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
        }
        _ => None,
    }
}

/// The elements of a tensor of such a type.
///
/// # Errors
/// For other types.
pub(crate) fn integers(op: &str, tensor: &Tensor) -> Result<Vec<i32>, TypeError> {
    let bytes = tensor.bytes();
    let fields = |bits: usize, signed: bool| {
        let mask = (1u8 << bits) - 1;
        let (shift, per_byte) = (32 - bits, 8 / bits);
        let field = |byte: u8, i: usize| {
            let code = i32::from(byte >> (i * bits) & mask);
            if signed { code << shift >> shift } else { code }
        };
        let all = bytes.iter().flat_map(|&byte| (0..per_byte).map(move |i| field(byte, i)));
        all.take(tensor.len()).collect()
    };
    let wide = |tensor: &Tensor| {
        let list = tensor.to_i64();
        list.map(|it| it.iter().map(|&it| it as i32).collect())
            .map_err(|it| TypeError::other(op, it.to_string()))
    };
    Ok(match tensor.dtype() {
        DType::U2 => fields(2, false),
        DType::I2 => fields(2, true),
        DType::U4 => fields(4, false),
        DType::I4 => fields(4, true),
        DType::U8 => bytes.iter().map(|&it| i32::from(it)).collect(),
        DType::I8 => bytes.iter().map(|&it| i32::from(it as i8)).collect(),
        DType::U16 | DType::I16 | DType::I32 => wide(tensor)?,
        other => return Err(TypeError::DType { op: op.into(), got: other.to_string() }),
    })
}

/// Integers as a tensor of such a type; they must lie in its range.
///
/// # Errors
/// For other types, and when the shape has another number of elements.
pub(crate) fn from_integers(
    op: &str,
    dtype: DType,
    dims: Vec<usize>,
    values: &[i32],
) -> Result<Tensor, EvalError> {
    if range(dtype).is_none() {
        return Err(TypeError::DType { op: op.into(), got: dtype.to_string() }.into());
    }
    let bits = dtype.bits();
    let bytes: Vec<u8> = if bits < 8 {
        let mask = (1u8 << bits) - 1;
        let pack = |part: &[i32]| {
            part.iter().rev().fold(0u8, |byte, &it| byte << bits | (it as u8 & mask))
        };
        values.chunks(8 / bits).map(pack).collect()
    } else {
        values.iter().flat_map(|it| it.to_le_bytes().into_iter().take(bits / 8)).collect()
    };
    Ok(Tensor::new(dtype, dims, bytes.into())?)
}

/// Where the scale of an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Indices of the axis, for each row.
    pub(crate) axis: usize,
    /// Elements of a row: those after the axis.
    pub(crate) inner: usize,
    /// Indices of the axis that share a scale; 0 when one scale serves all.
    block: usize,
    /// Whether each element of a row has its own scale.
    is_blocked: bool,
}

impl Spread {
    /// How a scale of shape `scale` lies over a tensor of shape `dims`.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn new(
        op: &str,
        dims: &[usize],
        scale: &[usize],
        axis: Option<i64>,
        block_size: usize,
    ) -> Result<Self, TypeError> {
        if scale.iter().product::<usize>() == 1 && scale.len() <= 1 && block_size == 0 {
            let inner = dims.iter().product();
            return Ok(Self { axis: 1, inner, block: 0, is_blocked: false });
        }
        let wrong = || TypeError::other(op, format!("scale {scale:?} does not fit {dims:?}"));
        let axis = operands::axis(op, axis.ok_or_else(wrong)?, dims.len())?;
        let inner = dims[axis + 1..].iter().product();
        if block_size == 0 {
            return match scale {
                [len] if *len == dims[axis] => {
                    Ok(Self { axis: dims[axis], inner, block: 1, is_blocked: false })
                }
                _ => Err(wrong()),
            };
        }
        let fits = scale.len() == dims.len()
            && (0..dims.len()).all(|i| {
                let want = if i == axis { dims[i].div_ceil(block_size) } else { dims[i] };
                scale[i] == want
            });
        if !fits {
            return Err(wrong());
        }
        Ok(Self { axis: dims[axis], inner, block: block_size, is_blocked: true })
    }

    /// Scales of row `row`: one for the row, or one for each of its elements.
    pub(crate) fn of_row(&self, row: usize) -> std::ops::Range<usize> {
        if self.block == 0 {
            return 0..1;
        }
        let (outer, index) = (row / self.axis, row % self.axis);
        if self.is_blocked {
            let at = (outer * self.axis.div_ceil(self.block) + index / self.block) * self.inner;
            at..at + self.inner
        } else {
            index..index + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_integers_come_back(seed: u64, len in 0usize..20) {
            for dtype in [DType::U2, DType::I2, DType::U4, DType::I4, DType::U8, DType::I8,
                DType::U16, DType::I16, DType::I32]
            {
                let (low, high) = range(dtype).unwrap();
                let value = |i: usize| {
                    let random = seed.wrapping_mul(6_364_136_223_846_793_005 + i as u64) >> 20;
                    (low + (random % (high - low + 1) as u64) as i64) as i32
                };
                let values: Vec<i32> = (0..len).map(value).collect();
                let tensor = from_integers("X", dtype, vec![len], &values).unwrap();
                prop_assert_eq!(integers("X", &tensor).unwrap(), values);
            }
        }
    }

    #[test]
    fn spreads() {
        let one = Spread::new("X", &[2, 3], &[], None, 0).unwrap();
        assert_eq!((one.inner, one.of_row(0)), (6, 0..1));
        let axis = Spread::new("X", &[2, 3, 4], &[3], Some(-2), 0).unwrap();
        assert_eq!((axis.inner, axis.of_row(4)), (4, 1..2));
        let block = Spread::new("X", &[2, 5, 4], &[2, 3, 4], Some(1), 2).unwrap();
        assert_eq!((block.of_row(4), block.of_row(5)), (8..12, 12..16));
        assert!(Spread::new("X", &[2, 3], &[2], Some(1), 0).is_err());
        assert!(Spread::new("X", &[2, 3], &[2, 2], Some(1), 1).is_err());
        assert!(integers("X", &Tensor::scalar(1u64)).is_err());
    }
}
