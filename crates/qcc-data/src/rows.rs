//! Which part of an array is one run.

use bytes::Bytes;
use qcc_tensor::{Tensor, checked_len};

use crate::ModelInput;

/// An array that is given for an input.
#[derive(Debug)]
pub(crate) struct Given {
    /// Index of the input.
    pub input: usize,
    array: Tensor,
    take: Take,
}

/// What one run takes of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    /// So many rows, which are the batch of the run.
    Rows(usize),
    /// One item of the first axis, without that axis.
    Item,
    /// All of it: every run has the same.
    All,
}

impl Given {
    /// The first axis counts samples. It is also the batch of the input when the ranks are equal,
    /// and one axis more than the input has otherwise.
    pub(crate) fn new(at: usize, input: &ModelInput, array: Tensor) -> Result<Self, String> {
        let take = match (array.rank(), input.rank()) {
            (0, Some(0)) => Take::All,
            (got, Some(want)) if got == want + 1 => Take::Item,
            (got, want) if got > 0 && want.is_none_or(|it| it == got) => {
                let rows = input.known(0).unwrap_or(1);
                if rows == 0 {
                    return Err(format!("input {input} takes nothing"));
                }
                Take::Rows(rows)
            }
            _ => {
                let (dtype, dims) = (array.dtype(), array.dims());
                return Err(format!("input {input} is given an array {dtype}{dims:?}"));
            }
        };
        Ok(Self { input: at, array, take })
    }

    /// How many runs it is for; `None` when it is for any number.
    pub(crate) fn runs(&self) -> Option<usize> {
        let first = self.array.dims().first().copied().unwrap_or(0);
        match self.take {
            Take::Rows(rows) => Some(first / rows),
            Take::Item => Some(first),
            Take::All => None,
        }
    }

    /// Samples in one run.
    pub(crate) fn per_run(&self) -> usize {
        if let Take::Rows(rows) = self.take { rows } else { 1 }
    }

    /// Length of the last axis.
    pub(crate) fn length(&self) -> usize {
        self.array.dims().last().copied().unwrap_or(1)
    }

    /// The part for a run.
    pub(crate) fn run(&self, index: usize) -> Result<Tensor, String> {
        match self.take {
            Take::All => Ok(self.array.clone()),
            Take::Item => {
                let row = rows(&self.array, index, 1)?;
                let dims = row.dims().get(1..).unwrap_or_default().to_vec();
                row.reshape(dims).map_err(|it| it.to_string())
            }
            Take::Rows(count) => {
                let start = index.checked_mul(count).ok_or("the index overflows")?;
                rows(&self.array, start, count)
            }
        }
    }
}

/// Rows of the first axis, without a copy.
fn rows(array: &Tensor, start: usize, count: usize) -> Result<Tensor, String> {
    let outside = || format!("rows {start} to {start} + {count} are not there");
    let (first, rest) = array.dims().split_first().ok_or_else(outside)?;
    let end = start.checked_add(count).filter(|end| end <= first).ok_or_else(outside)?;
    let size = checked_len(rest).and_then(|it| array.dtype().size_of(it)).ok_or_else(outside)?;
    let mut dims = array.dims().to_vec();
    dims[0] = count;
    let bytes =
        if size == 0 { Bytes::new() } else { array.bytes().slice(start * size..end * size) };
    Tensor::new(array.dtype(), dims, bytes).map_err(|it| it.to_string())
}

/// The first `length` of the last axis.
pub(crate) fn cut(tensor: &Tensor, length: usize) -> Result<Tensor, String> {
    let mut dims = tensor.dims().to_vec();
    let Some(last) = dims.last_mut().filter(|it| **it > length) else { return Ok(tensor.clone()) };
    let bits = tensor.dtype().bits();
    if bits == 0 || !bits.is_multiple_of(8) {
        return Err(format!("rows of {} cannot be cut", tensor.dtype()));
    }
    let size = bits / 8;
    let (row, kept) = (*last * size, length * size);
    *last = length;
    let bytes: Vec<u8> =
        tensor.bytes().chunks_exact(row.max(1)).flat_map(|it| &it[..kept]).copied().collect();
    Tensor::new(tensor.dtype(), dims, Bytes::from(bytes)).map_err(|it| it.to_string())
}

/// One row of token ids as windows `[count, length]`, without a copy. The rest that fills no
/// window is left out, unless it is all there is.
pub(crate) fn windows(ids: &Tensor, length: usize) -> Result<Tensor, String> {
    let total = ids.len();
    if total == 0 || length == 0 {
        return Err("there are no tokens".into());
    }
    let length = length.min(total);
    let count = total / length;
    let size = ids.dtype().bits() / 8;
    let bytes = ids.bytes().slice(..count * length * size);
    Tensor::new(ids.dtype(), vec![count, length], bytes).map_err(|it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_tensor::{DType, Dim};

    fn counted(dims: &[usize]) -> Tensor {
        let len = dims.iter().product::<usize>();
        Tensor::from_vec(dims.to_vec(), (0..len as i64).collect()).unwrap()
    }

    fn given(dims: &[usize], array: &[usize]) -> Given {
        // 9 stands for a symbol.
        let dim = |&it: &usize| if it == 9 { Dim::symbol("s") } else { Dim::Known(it) };
        let input = ModelInput::new("x", DType::I64, dims.iter().map(dim));
        Given::new(0, &input, counted(array)).unwrap()
    }

    #[test]
    fn the_first_axis_counts_samples() {
        let batch = given(&[9, 2], &[3, 2]);
        assert_eq!((batch.runs(), batch.per_run()), (Some(3), 1));
        assert_eq!(batch.run(2), Ok(Tensor::from_vec(vec![1, 2], vec![4i64, 5]).unwrap()));
        assert!(batch.run(3).is_err());
        let pairs = given(&[2, 2], &[5, 2]);
        assert_eq!((pairs.runs(), pairs.per_run()), (Some(2), 2));
        assert_eq!(
            pairs.run(1).unwrap(),
            Tensor::from_vec(vec![2, 2], vec![4i64, 5, 6, 7]).unwrap()
        );
        let items = given(&[2], &[3, 2]);
        assert_eq!(items.run(1), Ok(Tensor::vector(vec![2i64, 3])));
        assert_eq!(given(&[], &[3]).run(1), Ok(Tensor::scalar(1i64)));
        let same = given(&[], &[]);
        assert_eq!((same.runs(), same.run(7)), (None, Ok(Tensor::scalar(0i64))));
    }

    #[test]
    fn long_rows_are_cut() {
        let want = Tensor::from_vec(vec![2, 2], vec![0i64, 1, 3, 4]).unwrap();
        assert_eq!(cut(&counted(&[2, 3]), 2), Ok(want));
        assert_eq!(cut(&counted(&[2, 3]), 4), Ok(counted(&[2, 3])));
        assert_eq!(cut(&counted(&[2, 3]), 0).unwrap().dims(), [2, 0]);
    }

    #[test]
    fn windows_leave_out_the_rest() {
        assert_eq!(windows(&counted(&[7]), 3), Ok(counted(&[2, 3])));
        assert_eq!(windows(&counted(&[2]), 3), Ok(counted(&[1, 2])));
        assert!(windows(&counted(&[0]), 3).is_err());
    }
}
