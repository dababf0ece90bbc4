//! Element types: from what a file holds to what the model takes.
//!
//! Integers become integers that hold them, floats become floats; nothing else is converted,
//! since an array of floats for an input of integers is a mistake. Types that files of numpy lack
//! come as unsigned integers of the same bits.

use half::{bf16, f16};
use qcc_tensor::{DType, Tensor, TensorError};

/// The same elements as `dtype`.
///
/// # Errors
/// When the types are not of one kind, or an integer does not fit.
pub(crate) fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor, String> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor.clone());
    }
    let dims = tensor.dims().to_vec();
    let lacking = matches!(
        dtype,
        DType::BF16 | DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ
    );
    let bits = matches!(from, DType::U16 | DType::U8) && from.bits() == dtype.bits();
    let made = if lacking && bits {
        Tensor::new(dtype, dims, tensor.bytes().clone())
    } else if from.is_int() && dtype.is_int() {
        let values = tensor.to_i64().map_err(|it| it.to_string())?;
        let wrapped = from == DType::U64 && values.iter().any(|&it| it < 0);
        return if wrapped { None } else { integers(dtype, dims, &values) }
            .ok_or_else(|| format!("there are {from} numbers that {dtype} does not hold"));
    } else if from.is_float() && dtype.is_float() {
        floats(dtype, dims, tensor)
    } else {
        return Err(format!("{from} cannot be used as {dtype}"));
    };
    made.map_err(|it| it.to_string())
}

fn floats(dtype: DType, dims: Vec<usize>, tensor: &Tensor) -> Result<Tensor, TensorError> {
    let values = tensor.to_f32()?;
    match dtype {
        DType::F32 => Tensor::from_vec(dims, values.into_owned()),
        DType::F64 => Tensor::from_vec(dims, values.iter().map(|&it| f64::from(it)).collect()),
        DType::F16 => Tensor::from_vec(dims, values.iter().map(|&it| f16::from_f32(it)).collect()),
        _ => Tensor::from_vec(dims, values.iter().map(|&it| bf16::from_f32(it)).collect()),
    }
}

/// A tensor of `dtype`, which may be any number or `bool`, with whole values; `None` when one of
/// them does not fit, or the shape does not.
pub(crate) fn integers(dtype: DType, dims: Vec<usize>, values: &[i64]) -> Option<Tensor> {
    fn to<T: qcc_tensor::Element + TryFrom<i64>>(dims: Vec<usize>, from: &[i64]) -> Option<Tensor> {
        let values: Option<Vec<T>> = from.iter().map(|&it| T::try_from(it).ok()).collect();
        Tensor::from_vec(dims, values?).ok()
    }
    match dtype {
        DType::I64 => to::<i64>(dims, values),
        DType::I32 => to::<i32>(dims, values),
        DType::I16 => to::<i16>(dims, values),
        DType::I8 => to::<i8>(dims, values),
        DType::U64 => to::<u64>(dims, values),
        DType::U32 => to::<u32>(dims, values),
        DType::U16 => to::<u16>(dims, values),
        DType::U8 => to::<u8>(dims, values),
        DType::Bool => {
            let bools: Vec<bool> = values.iter().map(|&it| it != 0).collect();
            Tensor::from_bools(dims, &bools).ok()
        }
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            let values = values.iter().map(|&it| it as f32).collect();
            let tensor = Tensor::from_vec::<f32>(dims, values).ok()?;
            if dtype == DType::F32 { Some(tensor) } else { cast(&tensor, dtype).ok() }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_that_fit_are_converted() {
        let ids = Tensor::vector(vec![0i32, 7, 300]);
        assert_eq!(cast(&ids, DType::I64).unwrap(), Tensor::vector(vec![0i64, 7, 300]));
        assert_eq!(cast(&ids, DType::U16).unwrap(), Tensor::vector(vec![0u16, 7, 300]));
        assert!(cast(&ids, DType::U8).unwrap_err().contains("u8 does not hold"));
        let large = Tensor::vector(vec![u64::MAX]);
        assert!(cast(&large, DType::I64).is_err() && cast(&large, DType::I32).is_err());
        assert!(cast(&ids, DType::F32).unwrap_err().contains("i32 cannot be used as f32"));
        assert!(cast(&Tensor::scalar(1f32), DType::I64).is_err());
    }

    #[test]
    fn floats_are_rounded() {
        let wide = Tensor::vector(vec![0.5f64, 1.0 / 3.0]);
        assert_eq!(cast(&wide, DType::F32).unwrap(), Tensor::vector(vec![0.5f32, 1.0 / 3.0]));
        let half = Tensor::vector(vec![f16::from_f32(0.5), f16::from_f32(1.0 / 3.0)]);
        assert_eq!(cast(&wide, DType::F16).unwrap(), half);
    }

    #[test]
    fn missing_types_come_as_bits() {
        let bits = Tensor::scalar(0x3f80u16);
        assert_eq!(cast(&bits, DType::BF16).unwrap(), Tensor::scalar(bf16::ONE));
        assert!(cast(&bits, DType::F16).is_err());
    }

    #[test]
    fn whole_values_of_any_number_type() {
        let made = integers(DType::F16, vec![2], &[1, 0]).unwrap();
        assert_eq!(made, Tensor::vector(vec![f16::ONE, f16::ZERO]));
        assert_eq!(integers(DType::Bool, vec![1], &[1]), Tensor::from_bools(vec![1], &[true]).ok());
        assert_eq!(integers(DType::I8, vec![1], &[128]), None);
        assert_eq!(integers(DType::I8, vec![2], &[1]), None);
    }
}
