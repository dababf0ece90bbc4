//! `DequantizeLinear` (ONNX opset 10 to 25, and `com.microsoft` 1): `y = (x - zero) * scale`.
//!
//! Integers of 2 to 32 bits. Floats of 4 and 8 bits are carried, but not evaluated.
//! Source: onnx/defs/quantization/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::dims::len_of;
use crate::floats::float_tensor;
use crate::operands::{count, need, optional};
use crate::quant_params::{Spread, integers};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "DequantizeLinear";

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: NAME, parse: |reader| DequantizeLinear::parse(reader, "") },
    OpDef {
        domain: "com.microsoft",
        name: NAME,
        parse: |reader| DequantizeLinear::parse(reader, "com.microsoft"),
    },
];

/// Floats from integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DequantizeLinear {
    /// ONNX's or Microsoft's operator.
    pub domain: &'static str,
    /// The axis that scales vary along.
    pub axis: Option<i64>,
    /// Elements of the axis that share a scale; 0 when scales are not blocked.
    pub block_size: usize,
    /// Element type of the result, when it is not that of the scale.
    pub output_dtype: Option<DType>,
}

/// The attributes `axis` and `block_size`; ONNX's axis is 1 by default.
pub(crate) fn parse_axis(
    reader: &AttrReader<'_>,
    domain: &str,
) -> Result<(Option<i64>, usize), AttrError> {
    let default = if domain.is_empty() { Some(1) } else { None };
    let axis = reader.opt_int("axis")?.or(default);
    let block = usize::try_from(reader.int("block_size", 0)?)
        .map_err(|_| reader.error("block_size", "is negative"))?;
    Ok((axis, block))
}

/// The attribute `output_dtype`.
pub(crate) fn parse_dtype(reader: &AttrReader<'_>) -> Result<Option<DType>, AttrError> {
    match reader.int("output_dtype", 0)? {
        0 => Ok(None),
        code => i32::try_from(code)
            .ok()
            .and_then(DType::from_onnx_code)
            .map(Some)
            .ok_or_else(|| reader.error("output_dtype", "is no element type")),
    }
}

/// What [`parse_axis`] and [`parse_dtype`] read.
pub(crate) fn shared_attrs(
    axis: Option<i64>,
    block_size: usize,
    output_dtype: Option<DType>,
) -> Attrs {
    let mut attrs = Attrs::new();
    if let Some(axis) = axis {
        attrs.push(("axis".into(), Attr::Int(axis)));
    }
    if block_size != 0 {
        attrs.push(("block_size".into(), Attr::Int(block_size as i64)));
    }
    if let Some(dtype) = output_dtype {
        attrs.push(("output_dtype".into(), Attr::Int(dtype.onnx_code().into())));
    }
    attrs
}

impl DequantizeLinear {
    fn parse(reader: &mut AttrReader<'_>, domain: &'static str) -> Result<OpRef, AttrError> {
        let (axis, block_size) = parse_axis(reader, domain)?;
        Ok(Arc::new(Self { domain, axis, block_size, output_dtype: parse_dtype(reader)? }))
    }
}

impl Op for DequantizeLinear {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        self.domain
    }

    fn attrs(&self) -> Attrs {
        let axis = self.axis.filter(|&it| !self.domain.is_empty() || it != 1);
        shared_attrs(axis, self.block_size, self.output_dtype)
    }

    /// `x: T[..S], scale: F` gives `F[..S]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 2, 3)?;
        let dtype = self.output_dtype.or(need(NAME, inputs, 1)?.ty.dtype());
        Ok(vec![need(NAME, inputs, 0)?.ty.with_dtype(dtype)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale) = (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?);
        if x.dtype().bits() <= 8 && crate::quant_params::range(x.dtype()).is_none() {
            return Err(EvalError::unsupported(self, format!("on {}", x.dtype())));
        }
        let dims = x.dims().to_vec();
        let spread = Spread::new(NAME, &dims, scale.dims(), self.axis, self.block_size)?;
        let steps = scale.to_f32()?;
        let codes = integers(NAME, x)?;
        let zeros = match optional(inputs, 2) {
            Some(it) if it.len() == steps.len() => integers(NAME, it)?,
            Some(it) => {
                let what = format!("zero points {:?} for scales {:?}", it.dims(), scale.dims());
                return Err(TypeError::other(NAME, what).into());
            }
            None => vec![0; steps.len()],
        };
        let mut out = vec![0f32; len_of(NAME, &dims)?];
        let inner = spread.inner.max(1);
        let work = out.par_chunks_mut(inner).zip(codes.par_chunks(inner)).enumerate();
        work.with_min_len(((1 << 14) / inner).max(1)).for_each(|(row, (out, codes))| {
            let at = spread.of_row(row);
            // Wrapping: only 32-bit codes can, and they have no zero point.
            let value = |q: i32, zero: i32, step: f32| q.wrapping_sub(zero) as f32 * step;
            if let ([step], [zero]) = (&steps[at.clone()], &zeros[at.clone()]) {
                out.iter_mut().zip(codes).for_each(|(y, &q)| *y = value(q, *zero, *step));
            } else {
                let params = zeros[at.clone()].iter().zip(&steps[at]);
                for ((y, &q), (&zero, &step)) in out.iter_mut().zip(codes).zip(params) {
                    *y = value(q, zero, step);
                }
            }
        });
        let dtype = self.output_dtype.unwrap_or(scale.dtype());
        Ok(vec![float_tensor(NAME, dtype, dims, out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant_params::from_integers;

    #[test]
    fn blocks_and_zero_points_by_hand() {
        let attrs = vec![("axis".into(), Attr::Int(0)), ("block_size".into(), Attr::Int(2))];
        let op = crate::parse("", NAME, 21, attrs.clone()).unwrap();
        assert_eq!(op.attrs(), attrs);
        let x = from_integers(NAME, DType::U4, vec![3, 2], &[1, 2, 3, 4, 15, 6]).unwrap();
        let s = Tensor::from_vec(vec![2, 2], vec![1.0f32, 2.0, 0.5, 4.0]).unwrap();
        let z = from_integers(NAME, DType::U4, vec![2, 2], &[1, 0, 8, 7]).unwrap();
        let y = op.eval(&EvalCx::default(), &[Some(&x), Some(&s), Some(&z)], 1).unwrap();
        let want = Tensor::from_vec(vec![3, 2], vec![0f32, 4.0, 2.0, 8.0, 3.5, -4.0]).unwrap();
        assert_eq!(y, [want]);
        let z = from_integers(NAME, DType::U4, vec![1], &[1]).unwrap();
        assert!(op.eval(&EvalCx::default(), &[Some(&x), Some(&s), Some(&z)], 1).is_err());
    }

    #[test]
    fn small_floats_are_carried_only() {
        let op = crate::parse("", NAME, 23, Vec::new()).unwrap();
        let x = Tensor::new(DType::F8E4M3FN, vec![1], vec![0u8].into()).unwrap();
        let s = Tensor::scalar(1f32);
        let error = op.eval(&EvalCx::default(), &[Some(&x), Some(&s)], 1).unwrap_err();
        assert!(matches!(error, EvalError::Unsupported { .. }));
    }
}
