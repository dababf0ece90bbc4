//! Tensors of ONNX Runtime in memory of the CPU.

use crate::api::{Api, Failure, ort};
use half::{bf16, f16};
use ort_sys::OrtValue;
use std::borrow::Cow;
use std::ptr;
use std::slice;

/// Types of elements, as far as products need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    U8,
    I8,
    U4,
    I4,
    U2,
    I2,
    I32,
    Other,
}

impl Kind {
    /// That of a number of `ONNXTensorElementDataType`.
    pub(crate) fn of(number: i32) -> Self {
        match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            6 => Self::I32,
            21 => Self::U4,
            22 => Self::I4,
            24 => Self::U2,
            25 => Self::I2,
            10 => Self::F16,
            16 => Self::Bf16,
            _ => Self::Other,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Width of codes that a tensor of it holds, and whether they are signed.
    pub(crate) fn codes(self) -> Option<(u8, bool)> {
        match self {
            Self::U8 => Some((8, false)),
            Self::I8 => Some((8, true)),
            Self::U4 => Some((4, false)),
            Self::I4 => Some((4, true)),
            Self::U2 => Some((2, false)),
            Self::I2 => Some((2, true)),
            Self::F32 | Self::F16 | Self::Bf16 | Self::I32 | Self::Other => None,
        }
    }

    /// Bytes of so many elements; None beyond the address space.
    fn bytes(self, count: usize) -> Option<usize> {
        let bits = match self {
            Self::F32 | Self::I32 => 32,
            Self::F16 | Self::Bf16 => 16,
            _ => self.codes().map_or(0, |it| it.0),
        };
        Some(count.checked_mul(usize::from(bits))?.div_ceil(8))
    }
}

/// Memory of a tensor, which may be written while it is known.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    kind: Kind,
    pub(crate) dims: &'a [i64],
    pub(crate) data: *const u8,
    len: usize,
}

impl<'a> Memory<'a> {
    /// # Errors
    /// If the value is not a tensor in memory.
    ///
    /// # Safety
    /// `value` is null or a value of the runtime that nobody frees during `'a`.
    pub(crate) unsafe fn new(api: &'a Api, value: *const OrtValue) -> Result<Self, Failure> {
        if value.is_null() {
            return Err(Failure::wrong("an operand is missing"));
        }
        let (mut kind, mut shape, mut rank, mut data) = (0i32, ptr::null(), 0, ptr::null());
        // The runtime may be newer than the names that this library has for types.
        let number = (&raw mut kind).cast();
        ort!(
            api,
            GetTensorElementTypeAndShapeDataReference(value, number, &raw mut shape, &raw mut rank)
        )?;
        let kind = Kind::of(kind);
        // SAFETY: the shape is part of the value.
        let dims = if rank == 0 { &[] } else { unsafe { slice::from_raw_parts(shape, rank) } };
        let count = count(dims)?;
        ort!(api, GetTensorData(value, &raw mut data))?;
        let len = kind.bytes(count).ok_or_else(too_large)?;
        let len = if data.is_null() { 0 } else { len };
        Ok(Self { kind, dims, data: data.cast(), len })
    }

    /// The tensor.
    ///
    /// # Safety
    /// Nobody writes it during `'a`.
    pub(crate) unsafe fn read(self) -> Tensor<'a> {
        let Self { kind, dims, data, len } = self;
        if len == 0 {
            return Tensor { kind, dims, bytes: &[] };
        }
        // SAFETY: the data of a tensor are as many elements as its shape says.
        Tensor { kind, dims, bytes: unsafe { slice::from_raw_parts(data, len) } }
    }
}

/// A tensor that is read.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a> {
    pub(crate) kind: Kind,
    pub(crate) dims: &'a [i64],
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// # Errors
    /// If the value is not a tensor in memory.
    ///
    /// # Safety
    /// `value` is null or a value of the runtime that nobody writes or frees during `'a`.
    pub(crate) unsafe fn new(api: &'a Api, value: *const OrtValue) -> Result<Self, Failure> {
        // SAFETY: what the caller promises.
        unsafe { Ok(Memory::new(api, value)?.read()) }
    }

    /// Bytes of a tensor of codes, low bits first over the whole tensor.
    pub(crate) fn bytes(&self) -> Result<&'a [u8], Failure> {
        self.kind.codes().map(|_| self.bytes).ok_or_else(|| other("integer"))
    }

    /// Elements of a tensor of int32.
    pub(crate) fn ints(&self) -> Result<Vec<i32>, Failure> {
        if self.kind != Kind::I32 {
            return Err(other("int32"));
        }
        let ints = self.bytes.chunks_exact(4);
        Ok(ints.map(|it| i32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect())
    }

    /// Elements as f32, exact.
    pub(crate) fn floats(&self) -> Result<Cow<'a, [f32]>, Failure> {
        floats(self.kind, self.bytes)
    }
}

/// Elements of a kind of float as f32, exact.
pub(crate) fn floats(kind: Kind, bytes: &[u8]) -> Result<Cow<'_, [f32]>, Failure> {
    let halves = || bytes.chunks_exact(2).map(|it| u16::from_le_bytes([it[0], it[1]]));
    match kind {
        Kind::F32 => Ok(match bytemuck::try_cast_slice(bytes) {
            Ok(floats) => Cow::Borrowed(floats),
            Err(_) => {
                let floats = bytes.chunks_exact(4);
                floats.map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect()
            }
        }),
        Kind::F16 => Ok(halves().map(|it| f16::from_bits(it).to_f32()).collect()),
        Kind::Bf16 => Ok(halves().map(|it| bf16::from_bits(it).to_f32()).collect()),
        _ => Err(other("float")),
    }
}

/// A tensor of floats that is written.
pub(crate) enum Output<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16], Vec<f32>),
    Bf16(&'a mut [bf16], Vec<f32>),
}

impl<'a> Output<'a> {
    /// Results of so many elements, of the type of the activations.
    ///
    /// # Safety
    /// `value` is a tensor of the runtime that is of this kind, has `count` elements, and that
    /// nobody else uses during `'a`.
    pub(crate) unsafe fn new(
        api: &Api,
        value: *mut OrtValue,
        kind: Kind,
        count: usize,
    ) -> Result<Self, Failure> {
        let mut data = ptr::null_mut();
        ort!(api, GetTensorMutableData(value, &raw mut data))?;
        if count > 0 && data.is_null() {
            return Err(Failure::other("a result has no memory"));
        }
        let room = || vec![0.0; count];
        // SAFETY: what the caller promises; tensors of the runtime are aligned.
        unsafe {
            match kind {
                _ if count == 0 => Ok(Self::F32(&mut [])),
                Kind::F32 => Ok(Self::F32(slice::from_raw_parts_mut(data.cast(), count))),
                Kind::F16 => Ok(Self::F16(slice::from_raw_parts_mut(data.cast(), count), room())),
                Kind::Bf16 => Ok(Self::Bf16(slice::from_raw_parts_mut(data.cast(), count), room())),
                _ => Err(other("float")),
            }
        }
    }

    /// Where results go as f32.
    pub(crate) fn floats(&mut self) -> &mut [f32] {
        match self {
            Self::F32(floats) => floats,
            Self::F16(_, floats) | Self::Bf16(_, floats) => floats,
        }
    }

    /// Rounds results to the type of the tensor.
    pub(crate) fn finish(self) {
        match self {
            Self::F32(_) => {}
            Self::F16(to, from) => {
                to.iter_mut().zip(from).for_each(|(to, it)| *to = f16::from_f32(it));
            }
            Self::Bf16(to, from) => {
                to.iter_mut().zip(from).for_each(|(to, it)| *to = bf16::from_f32(it));
            }
        }
    }
}

/// Elements of a shape.
pub(crate) fn count(dims: &[i64]) -> Result<usize, Failure> {
    dims.iter().try_fold(1usize, |count, &dim| {
        usize::try_from(dim).ok().and_then(|dim| count.checked_mul(dim)).ok_or_else(too_large)
    })
}

fn too_large() -> Failure {
    Failure::wrong("a tensor is too large")
}

fn other(want: &str) -> Failure {
    Failure::wrong(format!("an operand is not of type {want}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_read_and_rounded() {
        let bytes = [0x00, 0x3c, 0x00, 0xc0];
        let floats = |kind| Tensor { kind, dims: &[2], bytes: &bytes }.floats();
        assert_eq!(*floats(Kind::F16).unwrap(), [1.0, -2.0]);
        assert_eq!(*floats(Kind::Bf16).unwrap(), [f32::from_bits(0x3c00_0000), -2.0]);
        assert!(floats(Kind::U8).is_err());
        let mut to = [f16::ZERO; 2];
        let mut out = Output::F16(&mut to, vec![0.0; 2]);
        out.floats().copy_from_slice(&[1.0001, -2.0]);
        out.finish();
        assert_eq!(to, [f16::ONE, f16::from_f32(-2.0)]);
    }

    #[test]
    fn shapes_are_counted() {
        assert_eq!(count(&[2, 3]).unwrap(), 6);
        assert_eq!(count(&[]).unwrap(), 1);
        assert_eq!((Kind::I4.bytes(5), Kind::U2.bytes(5)), (Some(3), Some(2)));
        assert_eq!((Kind::F32.bytes(usize::MAX), Kind::Other.bytes(5)), (None, Some(0)));
        assert!(count(&[-1]).is_err() && count(&[i64::MAX, 4]).is_err());
    }
}
