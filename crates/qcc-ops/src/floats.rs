//! f32 results as tensors of a float type.
//!
//! Operators compute in f32 whatever the float type of their operands; a result is rounded once.

use half::{bf16, f16};
use qcc_ir::{EvalError, TypeError};
use qcc_tensor::{DType, Tensor};

/// `values` as a tensor of this float type.
///
/// # Errors
/// When the shape has another number of elements, or the type is no float.
pub(crate) fn float_tensor(
    op: &str,
    dtype: DType,
    dims: Vec<usize>,
    values: Vec<f32>,
) -> Result<Tensor, EvalError> {
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(dims, values)?,
        DType::F16 => {
            Tensor::from_vec(dims, values.into_iter().map(f16::from_f32).collect::<Vec<_>>())?
        }
        DType::BF16 => {
            Tensor::from_vec(dims, values.into_iter().map(bf16::from_f32).collect::<Vec<_>>())?
        }
        DType::F64 => {
            Tensor::from_vec(dims, values.into_iter().map(f64::from).collect::<Vec<_>>())?
        }
        other => return Err(TypeError::DType { op: op.into(), got: other.to_string() }.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_types_round_to_even() {
        let x = vec![1.0 + 1.0 / 2048.0, -65504.0];
        let it = float_tensor("X", DType::F16, vec![2], x).unwrap();
        assert_eq!(&*it.to_f32().unwrap(), [1.0, -65504.0]);
        assert!(float_tensor("X", DType::I32, vec![1], vec![0.0]).is_err());
    }
}
