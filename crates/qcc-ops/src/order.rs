//! Elements of any type as numbers that compare as they do.

use std::collections::BTreeMap;

use bytes::Bytes;
use qcc_ir::TypeError;
use qcc_tensor::{DType, Tensor};

use crate::ints::dtype;

/// One number per element, equal for equal elements and ordered as they are. NaN is above all.
///
/// # Errors
/// For complex numbers and for types of less than 16 bits that are no integers.
pub(crate) fn keys(op: &str, tensor: &Tensor) -> Result<Vec<u64>, TypeError> {
    if let Some(strings) = tensor.as_strings() {
        let mut ranks: BTreeMap<&Bytes, u64> = strings.iter().map(|it| (it, 0)).collect();
        for (rank, slot) in ranks.values_mut().enumerate() {
            *slot = rank as u64;
        }
        return Ok(strings.iter().map(|it| ranks.get(it).copied().unwrap_or(0)).collect());
    }
    let kind = tensor.dtype();
    let refused = |_| dtype(op, kind);
    Ok(match kind {
        DType::U64 => tensor.as_slice::<u64>().map_err(refused)?.into_owned(),
        DType::F64 => {
            tensor.as_slice::<f64>().map_err(refused)?.iter().copied().map(float_key).collect()
        }
        DType::F32 | DType::F16 | DType::BF16 => {
            let list = tensor.to_f32().map_err(refused)?;
            list.iter().map(|&it| float_key(it.into())).collect()
        }
        _ => {
            let list = tensor.to_i64().map_err(refused)?;
            list.iter().map(|&it| it as u64 ^ 1 << 63).collect()
        }
    })
}

fn float_key(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    // Adding zero makes negative zero positive. Negative numbers have their bits turned around.
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_elements() {
        let sorted = [f32::NEG_INFINITY, -2.0, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY, f32::NAN];
        assert!(keys("Op", &Tensor::vector(sorted.to_vec())).unwrap().is_sorted_by(|a, b| a < b));
        let zeros = keys("Op", &Tensor::vector(vec![0.0f64, -0.0])).unwrap();
        assert_eq!(zeros[0], zeros[1]);
        let ints = Tensor::vector(vec![i64::MIN, -1, 0, i64::MAX]);
        assert!(keys("Op", &ints).unwrap().is_sorted_by(|a, b| a < b));
        let words = ["", "a", "b", "ba"].map(|it| Bytes::from_static(it.as_bytes()));
        let words = Tensor::strings(vec![4], words.to_vec()).unwrap();
        assert_eq!(keys("Op", &words).unwrap(), [0, 1, 2, 3]);
    }
}
