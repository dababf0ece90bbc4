//! `com.microsoft.MatMulNBits` 1: `Y = A * deq(B)' + bias`, `deq = (code - zero) * scale`.
//!
//! B is `u8[N, blocks, block_size * bits / 8]`, see `qcc_quant::layout::nbits`. Zero points are
//! packed the same way, or floats `[N, blocks]`; without them they are `2^(bits - 1)`. Evaluation
//! multiplies floats whatever `accuracy_level` allows. Not evaluated: `g_idx`, which is deprecated
//! and which ONNX Runtime gets wrong, and weights that are prepacked for a device.
//! Source: ONNX Runtime docs/ContribOperators.md.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::coded_rows::{CodedRows, Zeros};
use crate::dims::len_of;
use crate::floats::float_tensor;
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: "MatMulNBits", parse: MatMulNBits::parse }];

/// A product with a weight of 2, 4 or 8 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMulNBits {
    /// Inputs of the product.
    pub k: usize,
    /// Outputs of the product.
    pub n: usize,
    /// Width of a code.
    pub bits: u8,
    /// Codes that share a scale, along K.
    pub block_size: usize,
    /// What a runtime may do to A: 0 as it likes, 1 f32, 2 f16, 3 bf16, 4 round it to int8.
    pub accuracy_level: i64,
    /// Not 0 when B is in the order of some device.
    pub weight_prepacked: i64,
}

/// A size that an attribute gives.
pub(crate) fn size(reader: &AttrReader<'_>, name: &str) -> Result<usize, AttrError> {
    let value = reader.need_int(name)?;
    usize::try_from(value)
        .ok()
        .filter(|&it| it > 0)
        .ok_or_else(|| reader.error(name, "is not positive"))
}

impl MatMulNBits {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let bits = match reader.int("bits", 4)? {
            it @ (2 | 4 | 8) => it as u8,
            _ => return Err(reader.error("bits", "is not 2, 4 or 8")),
        };
        let block_size = size(reader, "block_size")?;
        if block_size < 16 || !block_size.is_power_of_two() {
            return Err(reader.error("block_size", "is not a power of two from 16 on"));
        }
        Ok(Arc::new(Self {
            k: size(reader, "K")?,
            n: size(reader, "N")?,
            bits,
            block_size,
            accuracy_level: reader.int("accuracy_level", 0)?,
            weight_prepacked: reader.int("weight_prepacked", 0)?,
        }))
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block_size)
    }
}

/// The type of a product `a[.., k]` with `n` outputs.
pub(crate) fn product_type(op: &str, a: &Type, k: usize, n: usize) -> Result<Type, TypeError> {
    let Some(shape) = a.shape() else { return Ok(a.with_shape(None)) };
    let Some((last, outer)) = shape.split_last() else {
        let (op, want) = (op.into(), "at least 1".into());
        return Err(TypeError::Rank { op, index: 0, want, got: 0 });
    };
    if last.known().is_some_and(|it| it != k) {
        return Err(TypeError::shapes(op, shape, &[Dim::Known(n), Dim::Known(k)]));
    }
    let out = outer.iter().cloned().chain([Dim::Known(n)]).collect();
    Ok(a.with_shape(Some(out)))
}

/// `a[.., k]` times the rows, plus a bias, in the float type of `a`.
pub(crate) fn multiply(
    op: &str,
    cx: &EvalCx,
    a: &Tensor,
    rows: &CodedRows<'_>,
    bias: Option<&Tensor>,
) -> Result<Tensor, EvalError> {
    let wrong = |what: &str| EvalError::from(TypeError::other(op, what));
    let Some((&last, outer)) = a.dims().split_last() else {
        return Err(wrong("A has no dimensions"));
    };
    if last != rows.k || !rows.is_whole() {
        return Err(wrong("A, the codes and the scales do not fit K, N and the block size"));
    }
    let bias = bias.map(Tensor::to_f32).transpose()?;
    if bias.as_ref().is_some_and(|it| it.len() != rows.n) {
        return Err(wrong("the bias has not N elements"));
    }
    let dims: Vec<usize> = outer.iter().copied().chain([rows.n]).collect();
    let mut out = cx.pool.take(len_of(op, &dims)?)?;
    let m = len_of(op, outer)?;
    rows.multiply(&a.to_f32()?, bias.as_deref(), m, &mut out);
    if a.dtype() == DType::F32 {
        return Ok(cx.pool.tensor(dims, out)?);
    }
    float_tensor(op, a.dtype(), dims, out)
}

impl Op for MatMulNBits {
    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![
            ("K".into(), Attr::Int(self.k as i64)),
            ("N".into(), Attr::Int(self.n as i64)),
            ("bits".into(), Attr::Int(self.bits.into())),
            ("block_size".into(), Attr::Int(self.block_size as i64)),
        ];
        if self.accuracy_level != 0 {
            attrs.push(("accuracy_level".into(), Attr::Int(self.accuracy_level)));
        }
        if self.weight_prepacked != 0 {
            attrs.push(("weight_prepacked".into(), Attr::Int(self.weight_prepacked)));
        }
        attrs
    }

    /// `a: T[.., K]` gives `T[.., N]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("MatMulNBits", inputs, 3, 6)?;
        Ok(vec![product_type("MatMulNBits", need("MatMulNBits", inputs, 0)?.ty, self.k, self.n)?])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = "MatMulNBits";
        if optional(inputs, 4).is_some() {
            return Err(EvalError::unsupported(self, "with g_idx"));
        }
        if self.weight_prepacked != 0 {
            return Err(EvalError::unsupported(self, "with a prepacked weight"));
        }
        let (codes, scales) = (need(op, inputs, 1)?, need(op, inputs, 2)?);
        let blocks = self.blocks();
        let middle = f32::from(1u8 << (self.bits - 1));
        let zeros = match optional(inputs, 3) {
            None => Zeros::All(middle),
            Some(it) if it.dtype().is_float() => Zeros::Each(it.to_f32()?),
            Some(it) => Zeros::Each(
                unpack_fields(it.bytes(), self.bits, self.n, blocks)
                    .ok_or_else(|| TypeError::other(op, "zero points do not fit N and K"))?
                    .into(),
            ),
        };
        let row_bytes = (self.block_size * usize::from(self.bits) / 8).checked_mul(blocks);
        let rows = CodedRows {
            bits: self.bits,
            n: self.n,
            k: self.k,
            block: self.block_size,
            row_bytes: row_bytes.ok_or_else(|| TypeError::other(op, "K is too large"))?,
            codes: codes.bytes(),
            scales: scales.to_f32()?,
            zeros,
            outliers: None,
        };
        Ok(vec![multiply(op, cx, need(op, inputs, 0)?, &rows, optional(inputs, 5))?])
    }
}

/// Fields of `bits` as floats `[n][count]`, each row starting a byte; `None` for another size.
pub(crate) fn unpack_fields(bytes: &[u8], bits: u8, n: usize, count: usize) -> Option<Vec<f32>> {
    let (per_byte, mask) = (usize::from(8 / bits), u8::MAX >> (8 - bits));
    let row_bytes = count.div_ceil(per_byte);
    if n.checked_mul(row_bytes)? != bytes.len() {
        return None;
    }
    let field = |row: &[u8], i: usize| {
        f32::from(row[i / per_byte] >> (i % per_byte * usize::from(bits)) & mask)
    };
    let rows = bytes.chunks_exact(row_bytes.max(1));
    Some(rows.flat_map(|row| (0..count).map(move |i| field(row, i))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(attrs: &[(&str, i64)]) -> Result<OpRef, AttrError> {
        let attrs = attrs.iter().map(|&(name, it)| (name.to_owned(), Attr::Int(it))).collect();
        crate::parse("com.microsoft", "MatMulNBits", 1, attrs)
    }

    #[test]
    fn attributes_come_back() {
        let good = op(&[("K", 20), ("N", 1), ("block_size", 16), ("accuracy_level", 4)]).unwrap();
        assert_eq!(good.is::<MatMulNBits>().unwrap().bits, 4);
        let again = crate::parse("com.microsoft", "MatMulNBits", 1, good.attrs()).unwrap();
        assert_eq!(again.is::<MatMulNBits>(), good.is::<MatMulNBits>());
        assert!(op(&[("K", 20), ("N", 1), ("block_size", 17)]).is_err());
        assert!(op(&[("K", 20), ("N", 1), ("block_size", 16), ("bits", 3)]).is_err());
        assert!(op(&[("K", 0), ("N", 1), ("block_size", 16)]).is_err());
        assert!(op(&[("N", 1), ("block_size", 16)]).is_err());
    }

    #[test]
    fn ragged_row_by_hand() {
        let it = op(&[("K", 18), ("N", 1), ("block_size", 16)]).unwrap();
        let mut codes = vec![0x99u8; 16];
        (codes[0], codes[8]) = (0x9f, 0x27);
        let a = Tensor::vector((0..18).map(|it| it as f32).collect::<Vec<_>>());
        let b = Tensor::from_vec(vec![1, 2, 8], codes).unwrap();
        let scales = Tensor::from_vec(vec![1, 2], vec![0.5f32, 2.0]).unwrap();
        let zeros = Tensor::from_vec(vec![1, 1], vec![0x19u8]).unwrap();
        let bias = Tensor::vector(vec![100.0f32]);
        let inputs = [Some(&a), Some(&b), Some(&scales), Some(&zeros), None, Some(&bias)];
        let y = it.eval(&EvalCx::default(), &inputs, 1).unwrap();
        // 0 * 3, then 16 * 2 * (7 - 1) + 17 * 2 * (2 - 1).
        assert_eq!(y, [Tensor::vector(vec![326.0f32])]);
        let short = Tensor::from_vec(vec![1, 1, 8], vec![0u8; 8]).unwrap();
        let inputs = [Some(&a), Some(&short), Some(&scales)];
        assert!(it.eval(&EvalCx::default(), &inputs, 1).is_err());
    }
}
