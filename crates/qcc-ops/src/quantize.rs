//! `QuantizeLinear` (ONNX opset 10 to 25, and `com.microsoft` 1): `y = round(x / scale) + zero`,
//! saturated; `DynamicQuantizeLinear` (opset 11): the same to uint8, with a scale from the data.
//!
//! Ties round to even. Integers of 2 to 16 bits. Floats of 4 and 8 bits are carried, but not
//! evaluated.
//! Source: onnx/defs/quantization/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Tensor};

use crate::dequantize::{parse_axis, parse_dtype, shared_attrs};
use crate::operands::{count, need, optional};
use crate::quant_params::{Spread, from_integers, integers, range};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "QuantizeLinear";
const DYNAMIC: &str = "DynamicQuantizeLinear";

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: NAME, parse: |reader| QuantizeLinear::parse(reader, "") },
    OpDef {
        domain: "com.microsoft",
        name: NAME,
        parse: |reader| QuantizeLinear::parse(reader, "com.microsoft"),
    },
    OpDef { domain: "", name: DYNAMIC, parse: |_| Ok(Arc::new(DynamicQuantizeLinear)) },
];

/// Integers from floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizeLinear {
    /// ONNX's or Microsoft's operator.
    pub domain: &'static str,
    /// The axis that scales vary along.
    pub axis: Option<i64>,
    /// Elements of the axis that share a scale; 0 when scales are not blocked.
    pub block_size: usize,
    /// Element type of the result, when there are no zero points to tell it.
    pub output_dtype: Option<DType>,
    /// What becomes of floats of 8 bits that are out of range; integers always saturate.
    pub saturate: bool,
    /// ONNX code of the type that the division is done in; 0 for that of the scale.
    pub precision: i64,
}

impl QuantizeLinear {
    fn parse(reader: &mut AttrReader<'_>, domain: &'static str) -> Result<OpRef, AttrError> {
        let (axis, block_size) = parse_axis(reader, domain)?;
        Ok(Arc::new(Self {
            domain,
            axis,
            block_size,
            output_dtype: parse_dtype(reader)?,
            saturate: reader.flag("saturate", true)?,
            precision: reader.int("precision", 0)?,
        }))
    }
}

/// `round(x / scale) + zero` within a range.
fn code(x: f32, scale: f32, zero: i32, (low, high): (i64, i64)) -> i32 {
    // The cast saturates, and is 0 for NaN.
    let steps = (x / scale).round_ties_even() as i64;
    steps.saturating_add(zero.into()).clamp(low, high) as i32
}

impl Op for QuantizeLinear {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        self.domain
    }

    fn attrs(&self) -> Attrs {
        let axis = self.axis.filter(|&it| !self.domain.is_empty() || it != 1);
        let mut attrs = shared_attrs(axis, self.block_size, self.output_dtype);
        if !self.saturate {
            attrs.push(("saturate".into(), Attr::Int(0)));
        }
        if self.precision != 0 {
            attrs.push(("precision".into(), Attr::Int(self.precision)));
        }
        attrs
    }

    /// `x: F[..S], scale: F, zero: T` gives `T[..S]`; `u8` without zero points.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 2, 3)?;
        let dtype = match optional(inputs, 2) {
            Some(zero) => self.output_dtype.or(zero.ty.dtype()),
            None => Some(self.output_dtype.unwrap_or(DType::U8)),
        };
        Ok(vec![need(NAME, inputs, 0)?.ty.with_dtype(dtype)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale, zero) =
            (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?, optional(inputs, 2));
        let dtype = self.output_dtype.or(zero.map(Tensor::dtype)).unwrap_or(DType::U8);
        let Some(range) = range(dtype) else {
            return Err(EvalError::unsupported(self, format!("to {dtype}")));
        };
        let spread = Spread::new(NAME, x.dims(), scale.dims(), self.axis, self.block_size)?;
        let (values, steps) = (x.to_f32()?, scale.to_f32()?);
        let zeros = zero.map(|it| integers(NAME, it)).transpose()?;
        let zeros = zeros.unwrap_or_else(|| vec![0; steps.len()]);
        if zeros.len() != steps.len() {
            return Err(TypeError::other(NAME, "zero points do not fit the scales").into());
        }
        let mut codes = Vec::with_capacity(values.len());
        for (row, values) in values.chunks(spread.inner.max(1)).enumerate() {
            let at = spread.of_row(row);
            let params = steps[at.clone()].iter().zip(&zeros[at]).cycle();
            codes.extend(values.iter().zip(params).map(|(&x, (&s, &z))| code(x, s, z, range)));
        }
        Ok(vec![from_integers(NAME, dtype, x.dims().to_vec(), &codes)?])
    }
}

/// Results: codes, their scale and their zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicQuantizeLinear;

impl Op for DynamicQuantizeLinear {
    fn name(&self) -> &str {
        DYNAMIC
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `x: f32[..S]` gives `u8[..S]`, `f32[]`, `u8[]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(DYNAMIC, inputs, 1, 1)?;
        let none: [usize; 0] = [];
        Ok(vec![
            need(DYNAMIC, inputs, 0)?.ty.with_dtype(Some(DType::U8)),
            Type::tensor(DType::F32, none),
            Type::tensor(DType::U8, none),
        ])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = need(DYNAMIC, inputs, 0)?;
        let values = x.as_slice::<f32>()?;
        // The range is made to hold 0.
        let (low, high) =
            values.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let scale = (high - low) / 255.0;
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
        let codes = values.iter().map(|&x| code(x, scale, zero.into(), (0, 255)) as u8).collect();
        let codes = Tensor::from_vec::<u8>(x.dims().to_vec(), codes)?;
        Ok(vec![codes, Tensor::scalar(scale), Tensor::scalar(zero)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(x: &[f32], dtype: DType) -> Vec<i32> {
        let attrs = vec![("output_dtype".into(), Attr::Int(dtype.onnx_code().into()))];
        let op = crate::parse("", NAME, 25, attrs).unwrap();
        let (x, s) = (Tensor::vector(x.to_vec()), Tensor::scalar(0.5f32));
        let y = op.eval(&EvalCx::default(), &[Some(&x), Some(&s)], 1).unwrap();
        assert_eq!(op.infer(&[], 1).ok(), None);
        integers(NAME, &y[0]).unwrap()
    }

    #[test]
    fn ties_go_to_even_and_ends_saturate() {
        let x = [0.25, 0.75, -0.25, 1e30, -1e30, f32::NAN];
        assert_eq!(quantize(&x, DType::I4), [0, 2, 0, 7, -8, 0]);
        assert_eq!(quantize(&x, DType::U2), [0, 2, 0, 3, 0, 0]);
        assert_eq!(quantize(&x, DType::I16), [0, 2, 0, 32767, -32768, 0]);
    }

    #[test]
    fn ranges_of_data_hold_zero() {
        let run = |x: Vec<f32>| {
            let x = Tensor::vector(x);
            DynamicQuantizeLinear.eval(&EvalCx::default(), &[Some(&x)], 3).unwrap()
        };
        let it = run(vec![1.0, 2.0, 255.0]);
        assert_eq!(
            it,
            [Tensor::vector(vec![1u8, 2, 255]), Tensor::scalar(1f32), Tensor::scalar(0u8)]
        );
        assert_eq!(run(vec![0.0])[1], Tensor::scalar(1f32));
        assert_eq!(run(Vec::new())[0].dims(), [0]);
    }
}
