//! Slices of tensors along an axis, and tensors stacked from slices: what `Loop` and `Scan` read
//! and give.

use qcc_tensor::{DType, Tensor, TensorError, checked_len};

/// Bytes of one element; `None` for strings and for elements that share bytes.
fn width(dtype: DType) -> Option<usize> {
    match dtype.bits() {
        0 => None,
        bits => bits.is_multiple_of(8).then_some(bits / 8),
    }
}

/// Slice `index` along `axis`, which it lacks. `None` when there is no such slice, and for element
/// types that are not whole bytes.
pub(crate) fn take(x: &Tensor, axis: usize, index: usize) -> Option<Tensor> {
    let mut dims = x.dims().to_vec();
    if index >= *dims.get(axis)? {
        return None;
    }
    let count = dims.remove(axis);
    let inner = checked_len(dims.get(axis..)?)?.checked_mul(width(x.dtype())?)?;
    let range = index * inner..(index + 1) * inner;
    let bytes = x.bytes();
    let part = if bytes.is_empty() {
        bytes.clone()
    } else if bytes.len() == count * inner {
        bytes.slice(range)
    } else {
        let rows = bytes.chunks_exact(count * inner);
        rows.filter_map(|row| row.get(range.clone())).flatten().copied().collect::<Vec<u8>>().into()
    };
    Tensor::new(x.dtype(), dims, part).ok()
}

/// Tensors of equal types side by side along a new axis, which is at most their rank; `dtype` and
/// `dims` are those of one slice, for when there are none.
///
/// # Errors
/// When the slices differ in type, for element types that are not whole bytes, or when the result
/// is too large.
pub(crate) fn stack(
    slices: &[Tensor],
    axis: usize,
    dtype: DType,
    dims: &[usize],
) -> Result<Tensor, TensorError> {
    let (dtype, dims) = slices.first().map_or((dtype, dims), |it| (it.dtype(), it.dims()));
    let width = width(dtype).ok_or(TensorError::Strings)?;
    for it in slices {
        if it.dtype() != dtype {
            return Err(TensorError::DType { want: dtype, got: it.dtype() });
        }
        if it.dims() != dims {
            return Err(TensorError::Reshape { from: it.dims().to_vec(), to: dims.to_vec() });
        }
    }
    let axis = axis.min(dims.len());
    let mut whole = dims.to_vec();
    whole.insert(axis, slices.len());
    let len = checked_len(&whole).and_then(|it| it.checked_mul(width));
    let len = len.ok_or_else(|| TensorError::Overflow(whole.clone()))?;
    let mut bytes = Vec::with_capacity(len);
    if len > 0 {
        let inner = dims.iter().skip(axis).product::<usize>() * width;
        for start in (0..len / slices.len()).step_by(inner) {
            let parts = slices.iter().filter_map(|it| it.bytes().get(start..start + inner));
            parts.for_each(|it| bytes.extend_from_slice(it));
        }
    }
    Tensor::new(dtype, whole, bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stack_to_what_they_came_from() {
        let x = Tensor::from_vec(vec![2, 3, 4], (0..24i32).collect()).unwrap();
        for axis in 0..3 {
            let slices: Vec<Tensor> =
                (0..x.dims()[axis]).map(|it| take(&x, axis, it).unwrap()).collect();
            assert_eq!(stack(&slices, axis, DType::I32, &[]).unwrap(), x);
        }
        let middle = take(&x, 1, 2).unwrap();
        assert_eq!(&*middle.as_slice::<i32>().unwrap(), [8, 9, 10, 11, 20, 21, 22, 23]);
    }

    #[test]
    fn nothing_stacks_to_an_empty_axis() {
        let none = stack(&[], 1, DType::F32, &[2, 3]).unwrap();
        assert_eq!(none.dims(), [2, 0, 3]);
        let x = Tensor::from_vec(vec![2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(take(&x, 0, 1).unwrap().dims(), [0]);
        assert_eq!(take(&x, 1, 0), None);
    }

    #[test]
    fn slices_that_differ_are_refused() {
        let (a, b) = (Tensor::vector(vec![1f32]), Tensor::vector(vec![1f32, 2.0]));
        assert!(stack(&[a, b], 0, DType::F32, &[1]).is_err());
    }
}
