//! Elements of any type as cells of equal width, for operators that only move them.
//!
//! Types of whole bytes are their own cells. Types of less than 8 bits take a byte each while they
//! are moved, and strings are moved as their positions in a table.

use std::borrow::Cow;

use bytes::Bytes;
use qcc_ir::{EvalCx, EvalError, TypeError};
use qcc_tensor::{DType, Tensor, TensorError, checked_len};

use crate::ints;

/// Results above this size are only allocated after asking whether there is room for them.
const PROBE_BYTES: usize = 1 << 30;

/// The cells of tensors of one element type.
pub(crate) struct Cells {
    dtype: DType,
    strings: Vec<Bytes>,
}

impl Cells {
    /// Cells of this element type.
    pub(crate) fn new(dtype: DType) -> Self {
        Self { dtype, strings: Vec::new() }
    }

    /// Bytes of one cell.
    pub(crate) fn width(&self) -> usize {
        match self.dtype.bits() {
            0 => size_of::<u64>(),
            bits => bits.div_ceil(8),
        }
    }

    /// The cells of a tensor, borrowed where the bytes are cells already.
    ///
    /// # Errors
    /// When the tensor has another element type.
    pub(crate) fn read<'a>(
        &mut self,
        op: &str,
        tensor: &'a Tensor,
    ) -> Result<Cow<'a, [u8]>, TypeError> {
        if tensor.dtype() != self.dtype {
            let what = format!("mixes {} and {}", self.dtype, tensor.dtype());
            return Err(TypeError::other(op, what));
        }
        if let Some(strings) = tensor.as_strings() {
            let first = self.strings.len() as u64;
            self.strings.extend_from_slice(strings);
            let cells = (0..strings.len() as u64).flat_map(|it| (first + it).to_le_bytes());
            return Ok(Cow::Owned(cells.collect()));
        }
        Ok(match self.dtype.bits() {
            bits if bits % 8 == 0 => Cow::Borrowed(&tensor.bytes()[..]),
            bits => Cow::Owned(unpack(tensor.bytes(), bits, tensor.len())),
        })
    }

    /// The cell of zero, `false` or the empty string.
    pub(crate) fn zero(&mut self) -> Vec<u8> {
        if self.dtype == DType::Str {
            self.strings.push(Bytes::new());
            return (self.strings.len() as u64 - 1).to_le_bytes().to_vec();
        }
        vec![0; self.width()]
    }

    /// Room for the cells of a result, with arbitrary contents.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(crate) fn room(&self, cx: &EvalCx, dims: &[usize]) -> Result<Room, EvalError> {
        let overflow = || TensorError::Overflow(dims.to_vec());
        let len = checked_len(dims).ok_or_else(overflow)?;
        if self.dtype == DType::F32 {
            return Ok(Room::F32(cx.pool.take(len)?));
        }
        let size = len.checked_mul(self.width()).ok_or_else(overflow)?;
        let full = |()| TensorError::Memory(size);
        Ok(Room::Other(bytemuck::allocation::try_zeroed_vec(size).map_err(full)?))
    }

    /// The tensor of these cells.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub(crate) fn tensor(
        &self,
        cx: &EvalCx,
        dims: Vec<usize>,
        room: Room,
    ) -> Result<Tensor, EvalError> {
        let cells = match room {
            Room::F32(it) => return Ok(cx.pool.tensor(dims, it)?),
            Room::Other(it) => it,
        };
        Ok(match self.dtype.bits() {
            0 => {
                let (cells, _) = cells.as_chunks::<8>();
                let string = |it: &[u8; 8]| {
                    self.strings.get(u64::from_le_bytes(*it) as usize).cloned().unwrap_or_default()
                };
                Tensor::strings(dims, cells.iter().map(string).collect())?
            }
            bits if bits % 8 == 0 => Tensor::new(self.dtype, dims, Bytes::from(cells))?,
            bits => Tensor::new(self.dtype, dims, Bytes::from(pack(&cells, bits)))?,
        })
    }
}

/// Checks that there is room for a result of this shape, each element of which takes whole bytes.
///
/// # Errors
/// When there is not enough memory.
pub(crate) fn check_room(dtype: DType, dims: &[usize]) -> Result<(), EvalError> {
    let full = || EvalError::Tensor(TensorError::Overflow(dims.to_vec()));
    let len = checked_len(dims).ok_or_else(full)?;
    let size = len.checked_mul(Cells::new(dtype).width()).ok_or_else(full)?;
    if size > PROBE_BYTES {
        let full = |_| TensorError::Memory(size);
        Vec::<u8>::new().try_reserve_exact(size).map_err(full)?;
    }
    Ok(())
}

/// Moves the cells of one tensor: `fill` writes the cells of the result from those of the operand
/// and the width of a cell.
///
/// # Errors
/// When there is not enough memory.
pub(crate) fn moved(
    op: &str,
    cx: &EvalCx,
    tensor: &Tensor,
    dims: Vec<usize>,
    fill: impl FnOnce(&[u8], usize, &mut [u8]),
) -> Result<Tensor, EvalError> {
    let mut cells = Cells::new(tensor.dtype());
    let source = cells.read(op, tensor)?;
    let mut room = cells.room(cx, &dims)?;
    fill(&source, cells.width(), room.bytes());
    cells.tensor(cx, dims, room)
}

/// Memory of a result; that of f32 comes from the pool.
pub(crate) enum Room {
    F32(Vec<f32>),
    Other(Vec<u8>),
}

impl Room {
    /// The cells.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::F32(it) => bytemuck::cast_slice_mut(it),
            Self::Other(it) => it,
        }
    }
}

/// Repeats one cell over all of them.
pub(crate) fn fill(cells: &mut [u8], cell: &[u8]) {
    if let Some(&first) = cell.first()
        && cell.iter().all(|&it| it == first)
    {
        return cells.fill(first);
    }
    for it in cells.chunks_exact_mut(cell.len().max(1)) {
        it.copy_from_slice(cell);
    }
}

/// The cell of one, for the types that have it in whole bytes.
///
/// # Errors
/// For strings, complex numbers and types of 8 bits or less that are not integers.
pub(crate) fn one(op: &str, dtype: DType) -> Result<Vec<u8>, TypeError> {
    Ok(match dtype {
        DType::F32 => 1f32.to_le_bytes().to_vec(),
        DType::F64 => 1f64.to_le_bytes().to_vec(),
        DType::F16 => half::f16::ONE.to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::ONE.to_le_bytes().to_vec(),
        it if it.is_int() || it == DType::Bool => {
            let mut cell = vec![0; it.bits() / 8];
            cell[0] = 1;
            cell
        }
        other => return Err(ints::dtype(op, other)),
    })
}

fn unpack(bytes: &[u8], bits: usize, len: usize) -> Vec<u8> {
    let mask = (1u16 << bits) - 1;
    let byte = |it: usize| u16::from(bytes.get(it).copied().unwrap_or(0));
    (0..len)
        .map(|it| {
            let bit = it * bits;
            let pair = byte(bit / 8) | byte(bit / 8 + 1) << 8;
            (pair >> (bit % 8) & mask) as u8
        })
        .collect()
}

fn pack(cells: &[u8], bits: usize) -> Vec<u8> {
    let mut out = vec![0u8; (cells.len() * bits).div_ceil(8)];
    for (index, &cell) in cells.iter().enumerate() {
        let bit = index * bits;
        let pair = u16::from(cell) << (bit % 8);
        out[bit / 8] |= pair as u8;
        if pair > 0xff {
            out[bit / 8 + 1] |= (pair >> 8) as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reversed(tensor: &Tensor) -> Tensor {
        moved("Op", &EvalCx::default(), tensor, tensor.dims().to_vec(), |from, width, to| {
            for (from, to) in from.chunks(width).zip(to.chunks_mut(width).rev()) {
                to.copy_from_slice(from);
            }
        })
        .unwrap()
    }

    #[test]
    fn packed_elements_move_alone() {
        let bytes = Bytes::from_static(&[0x21, 0x43, 0x05]);
        let nibbles = Tensor::new(DType::U4, vec![5], bytes).unwrap();
        assert_eq!(&reversed(&nibbles).bytes()[..], [0x45, 0x23, 0x01]);
        for dtype in [DType::U2, DType::F6E2M3, DType::I4] {
            let size = dtype.size_of(12).unwrap();
            let bytes: Vec<u8> = (0..size as u8).map(|it| it.wrapping_mul(83)).collect();
            let tensor = Tensor::new(dtype, vec![12], Bytes::from(bytes)).unwrap();
            assert_ne!(reversed(&tensor), tensor);
            assert_eq!(reversed(&reversed(&tensor)), tensor);
        }
    }

    #[test]
    fn strings_move() {
        let words = ["a", "", "long"].map(|it| Bytes::from_static(it.as_bytes()));
        let tensor = Tensor::strings(vec![3], words.to_vec()).unwrap();
        let got = reversed(&tensor);
        assert_eq!(got.as_strings().unwrap()[0], "long");
        assert_eq!(got.as_strings().unwrap()[2], "a");
    }

    #[test]
    fn hostile_sizes_are_refused() {
        let cells = Cells::new(DType::I64);
        assert!(cells.room(&EvalCx::default(), &[usize::MAX / 4]).is_err());
        assert!(cells.room(&EvalCx::default(), &[1 << 57]).is_err());
        assert!(Cells::new(DType::F32).room(&EvalCx::default(), &[1 << 58]).is_err());
    }
}
