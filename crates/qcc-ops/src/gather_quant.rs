//! `com.microsoft.GatherBlockQuantized` 1: `Gather` from a table of codes, as floats.
//!
//! A `uint8` table holds fields of 2, 4 or 8 bits along its last axis; zero points are packed the
//! same way and are `2^(bits - 1)` when absent. An `int4` or `uint4` table has zero points of its
//! type, 0 when absent. An index out of range gives zeros, as in ONNX Runtime. Tables of small
//! floats are carried, but not evaluated.
//! Source: ONNX Runtime docs/ContribOperators.md.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor, TensorError};
use rayon::prelude::*;

use crate::dims::{len_of, times};
use crate::floats::float_tensor;
use crate::operands::{self, count, need, optional};
use crate::quant_params::integers;
use crate::vector::PARALLEL_LEN;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "GatherBlockQuantized";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: GatherBlockQuantized::parse }];

/// Rows of a table of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherBlockQuantized {
    /// Width of a code in a `uint8` table.
    pub bits: u8,
    /// Codes that share a scale.
    pub block_size: usize,
    /// The axis of the indices.
    pub gather_axis: i64,
    /// The axis that blocks lie on.
    pub quantize_axis: i64,
}

impl GatherBlockQuantized {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let bits = match reader.int("bits", 4)? {
            it @ (2 | 4 | 8) => it as u8,
            _ => return Err(reader.error("bits", "is not 2, 4 or 8")),
        };
        let block_size = usize::try_from(reader.int("block_size", 128)?)
            .map_err(|_| reader.error("block_size", "is negative"))?;
        if block_size != 0 && (block_size < 16 || !block_size.is_power_of_two()) {
            return Err(reader.error("block_size", "is not a power of two from 16 on"));
        }
        Ok(Arc::new(Self {
            bits,
            block_size,
            gather_axis: reader.int("gather_axis", 0)?,
            quantize_axis: reader.int("quantize_axis", 1)?,
        }))
    }

    /// Codes in a byte of a table of this type, if it is known.
    fn per_byte(&self, dtype: Option<DType>) -> Option<usize> {
        match dtype? {
            DType::U8 => Some(usize::from(8 / self.bits)),
            _ => Some(1),
        }
    }
}

/// A table whose sizes were checked.
struct Table<'a> {
    bytes: &'a [u8],
    bits: usize,
    is_signed: bool,
    /// Elements after the quantized axis, length of that axis, blocks on it.
    inner: usize,
    axis: usize,
    blocks: usize,
    block_size: usize,
    scales: Scales<'a>,
    zeros: Points<'a>,
}

impl Table<'_> {
    /// The code at a position of the flattened table.
    #[inline(always)]
    fn code(&self, i: usize) -> f32 {
        let per_byte = 8 / self.bits;
        let byte = self.bytes[i / per_byte] >> (i % per_byte * self.bits);
        let unused = 8 - self.bits;
        if self.is_signed {
            f32::from((byte << unused) as i8 >> unused)
        } else {
            f32::from(byte << unused >> unused)
        }
    }

    /// The element at a position of the flattened table.
    fn at(&self, i: usize) -> f32 {
        let (rest, last) = (i / self.inner, i % self.inner);
        let (outer, on_axis) = (rest / self.axis, rest % self.axis);
        let block = (outer * self.blocks + on_axis / self.block_size) * self.inner + last;
        (self.code(i) - self.zeros.at(block)) * self.scales.at(block)
    }

    /// The elements from a position on.
    fn read(&self, first: usize, out: &mut [f32]) {
        if self.inner != 1 {
            out.iter_mut().zip(first..).for_each(|(y, at)| *y = self.at(at));
            return;
        }
        // Elements of a block have a scale and a zero point in common.
        let mut done = 0;
        while done < out.len() {
            let i = first + done;
            let (outer, on_axis) = (i / self.axis, i % self.axis);
            let block = outer * self.blocks + on_axis / self.block_size;
            let to_end = self.axis - on_axis;
            let count = (self.block_size - on_axis % self.block_size).min(to_end);
            let (zero, scale) = (self.zeros.at(block), self.scales.at(block));
            let end = (done + count).min(out.len());
            for (y, at) in out[done..end].iter_mut().zip(i..) {
                *y = (self.code(at) - zero) * scale;
            }
            done = end;
        }
    }
}

/// Scales, of which a run reads those of a few rows.
enum Scales<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
}

impl<'a> Scales<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self, TensorError> {
        Ok(match tensor.dtype() {
            DType::F16 => Self::F16(tensor.as_slice()?),
            DType::BF16 => Self::Bf16(tensor.as_slice()?),
            _ => Self::F32(tensor.to_f32()?),
        })
    }

    fn at(&self, block: usize) -> f32 {
        match self {
            Self::F32(it) => it[block],
            Self::F16(it) => it[block].to_f32(),
            Self::Bf16(it) => it[block].to_f32(),
        }
    }
}

/// Zero points, one for each scale.
enum Points<'a> {
    /// The same for all.
    All(f32),
    /// Fields of `bits`, each row of so many blocks from a new byte.
    Packed { bytes: &'a [u8], bits: usize, blocks: usize },
    /// As numbers.
    Each(Vec<f32>),
}

impl Points<'_> {
    fn at(&self, block: usize) -> f32 {
        match self {
            Self::All(it) => *it,
            Self::Each(it) => it[block],
            Self::Packed { bytes, bits, blocks } => {
                let (per_byte, unused) = (8 / bits, 8 - bits);
                let (row, i) = (block / blocks, block % blocks);
                let byte = bytes[row * blocks.div_ceil(per_byte) + i / per_byte];
                f32::from(byte >> (i % per_byte * bits) << unused >> unused)
            }
        }
    }
}

impl Op for GatherBlockQuantized {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("bits".into(), Attr::Int(self.bits.into())),
            ("block_size".into(), Attr::Int(self.block_size as i64)),
            ("gather_axis".into(), Attr::Int(self.gather_axis)),
            ("quantize_axis".into(), Attr::Int(self.quantize_axis)),
        ]
    }

    /// `data: T[..A, V, ..B], indices: I[..S], scales: F` gives `F[..A, ..S, ..B]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 3, 4)?;
        let [data, indices, scales] =
            [need(NAME, inputs, 0)?.ty, need(NAME, inputs, 1)?.ty, need(NAME, inputs, 2)?.ty];
        let (Some(table), Some(picked), Some(per_byte)) =
            (data.shape(), indices.shape(), self.per_byte(data.dtype()))
        else {
            return Ok(vec![Type::partial(scales.dtype(), None)]);
        };
        let axis = operands::axis(NAME, self.gather_axis, table.len())?;
        let mut table = table.to_vec();
        if let Some(last) = table.last_mut()
            && per_byte != 1
        {
            *last = times(last, per_byte);
        }
        let shape: Vec<Dim> = [&table[..axis], picked, &table[axis + 1..]].concat();
        Ok(vec![Type::partial(scales.dtype(), Some(shape))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        let (data, indices, scales) =
            (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?, need(NAME, inputs, 2)?);
        let mut dims = data.dims().to_vec();
        let gather = operands::axis(NAME, self.gather_axis, dims.len())?;
        let axis = operands::axis(NAME, self.quantize_axis, dims.len())?;
        let is_packed = match data.dtype() {
            DType::U8 => true,
            DType::U4 | DType::I4 => false,
            other => return Err(EvalError::unsupported(self, format!("on {other}"))),
        };
        if self.block_size == 0 {
            return Err(wrong("blocks have no size"));
        }
        let bits = if is_packed { self.bits } else { 4 };
        if is_packed {
            if axis + 1 != dims.len() || axis == gather {
                return Err(wrong("blocks of a uint8 table lie on its last axis"));
            }
            dims[axis] = dims[axis]
                .checked_mul(usize::from(8 / bits))
                .ok_or_else(|| wrong("the table is too large"))?;
        }
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let blocks = dims[axis].div_ceil(self.block_size);
        if scales.len() != outer * blocks * inner {
            return Err(wrong("scales do not fit the table"));
        }
        let zeros = match optional(inputs, 3) {
            None => Points::All(if is_packed { f32::from(1u8 << (bits - 1)) } else { 0.0 }),
            Some(it) if is_packed => {
                let row = blocks.div_ceil(usize::from(8 / bits));
                if outer.checked_mul(row) != Some(it.bytes().len()) {
                    return Err(wrong("zero points do not fit the table"));
                }
                Points::Packed { bytes: it.bytes(), bits: usize::from(bits), blocks: blocks.max(1) }
            }
            Some(it) if it.dtype() == data.dtype() && it.len() == scales.len() => {
                Points::Each(integers(NAME, it)?.into_iter().map(|it| it as f32).collect())
            }
            Some(_) => return Err(wrong("zero points do not fit the table")),
        };
        let table = Table {
            bytes: data.bytes(),
            bits: usize::from(bits),
            is_signed: data.dtype() == DType::I4,
            inner: inner.max(1),
            axis: dims[axis].max(1),
            blocks,
            block_size: self.block_size,
            scales: Scales::of(scales)?,
            zeros,
        };
        let out_dims = [&dims[..gather], indices.dims(), &dims[gather + 1..]].concat();
        let picked = indices.to_i64()?;
        let (len, row) = (dims[gather], dims[gather + 1..].iter().product::<usize>());
        let mut out = cx.pool.take(len_of(NAME, &out_dims)?)?;
        let task = |(i, out): (usize, &mut [f32])| {
            let index = picked[i % picked.len()];
            let index = if index < 0 { index.saturating_add(len as i64) } else { index };
            match usize::try_from(index).ok().filter(|&it| it < len) {
                None => out.fill(0.0),
                Some(index) => {
                    let first = (i / picked.len() * len + index) * row;
                    table.read(first, out);
                }
            }
        };
        if out.len() < PARALLEL_LEN {
            out.chunks_mut(row.max(1)).enumerate().for_each(task);
        } else {
            out.par_chunks_mut(row.max(1)).enumerate().with_min_len(16).for_each(task);
        }
        if scales.dtype() == DType::F32 {
            return Ok(vec![cx.pool.tensor(out_dims, out)?]);
        }
        Ok(vec![float_tensor(NAME, scales.dtype(), out_dims, out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_and_half_scales_by_hand() {
        let attrs = vec![("block_size".to_owned(), Attr::Int(16))];
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        // Two rows of 3 blocks: 16, 16 and 8 codes, each code its block.
        let row: Vec<u8> = [vec![0x11u8; 8], vec![0x22; 8], vec![0x33; 4]].concat();
        let data = Tensor::from_vec(vec![2, 20], [row.clone(), row].concat()).unwrap();
        let halves: Vec<f16> = (1..7).map(|it| f16::from_f32(it as f32)).collect();
        let scales = Tensor::from_vec(vec![2, 3], halves).unwrap();
        let zeros = Tensor::from_vec(vec![2, 2], vec![0x21u8, 0x03, 0x54, 0x06]).unwrap();
        let indices = Tensor::vector(vec![1i64, 0]);
        let inputs = [Some(&data), Some(&indices), Some(&scales), Some(&zeros)];
        let y = op.eval(&EvalCx::default(), &inputs, 1).unwrap();
        assert_eq!((y[0].dtype(), y[0].dims()), (DType::F16, &[2, 40][..]));
        let y = y[0].to_f32().unwrap();
        // (code - zero) * scale of the blocks of row 1, then of row 0.
        let want = |at: usize| match at {
            0..16 => (1.0 - 4.0) * 4.0,
            16..32 => (2.0 - 5.0) * 5.0,
            32..40 => (3.0 - 6.0) * 6.0,
            _ => 0.0,
        };
        assert!(y.iter().enumerate().all(|(at, &it)| it == want(at)), "{y:?}");
    }

    #[test]
    fn nibbles_by_hand() {
        let attrs = vec![("block_size".to_owned(), Attr::Int(16))];
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        let again = crate::parse("com.microsoft", NAME, 1, op.attrs()).unwrap();
        assert_eq!(op.is::<GatherBlockQuantized>(), again.is::<GatherBlockQuantized>());
        let mut bytes = vec![0x88u8; 18];
        bytes[9] = 0x9f;
        bytes[17] = 0x0a;
        let data = Tensor::from_vec(vec![2, 9], bytes).unwrap();
        let scales = Tensor::from_vec(vec![2, 2], vec![1f32, 1.0, 0.5, 2.0]).unwrap();
        let indices = Tensor::vector(vec![-1i64, 7]);
        let inputs = [Some(&data), Some(&indices), Some(&scales)];
        let y = op.eval(&EvalCx::default(), &inputs, 1).unwrap();
        assert_eq!(y[0].dims(), [2, 18]);
        let y = y[0].to_f32().unwrap();
        assert_eq!((y[0], y[1], y[2], y[16], y[17]), (3.5, 0.5, 0.0, 4.0, -16.0));
        assert!(y[18..].iter().all(|&it| it == 0.0), "index 7 is out of range");
        let short = Tensor::from_vec(vec![2, 1], vec![1f32; 2]).unwrap();
        let inputs = [Some(&data), Some(&indices), Some(&short)];
        assert!(op.eval(&EvalCx::default(), &inputs, 1).is_err());
    }
}
