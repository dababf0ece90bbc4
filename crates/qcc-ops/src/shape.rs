//! `Shape` (opset 1, `start` and `end` since 15) and `Size`: dimensions as values.
//!
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::operands;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Shape", parse: Shape::parse },
    OpDef { domain: "", name: "Size", parse: |_| Ok(Arc::new(Size)) },
];

/// Dimensions `start..end` of the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// First dimension; negative counts from the end, out of range is clamped.
    pub start: i64,
    /// After the last one, as `start`; all when absent.
    pub end: Option<i64>,
}

impl Shape {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { start: reader.int("start", 0)?, end: reader.opt_int("end")? }))
    }

    /// The dimensions that are taken from a shape of this rank.
    pub fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let signed = rank as i64;
        let clamp = |it: i64| {
            let from_front = if it < 0 { it.saturating_add(signed) } else { it };
            from_front.clamp(0, signed) as usize
        };
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(signed)));
        start..end.max(start)
    }

    /// The result, when the type of the operand already tells it.
    pub fn value_of(&self, ty: &Type) -> Option<Tensor> {
        let dims = ty.shape()?;
        let taken = dims[self.range(dims.len())].iter();
        Some(Tensor::vector(taken.map(|it| Some(it.known()? as i64)).collect::<Option<Vec<_>>>()?))
    }
}

impl Op for Shape {
    fn name(&self) -> &str {
        "Shape"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        if self.start != 0 {
            attrs.push(("start".into(), self.start.into()));
        }
        if let Some(end) = self.end {
            attrs.push(("end".into(), end.into()));
        }
        attrs
    }

    /// `x: T[..]` of rank R gives `i64[R]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = operands::one("Shape", inputs)?;
        let count = x.ty.rank().map_or(Dim::Unknown, |it| self.range(it).len().into());
        Ok(vec![Type::tensor(DType::I64, [count])])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = operands::one("Shape", inputs)?;
        let taken = x.dims()[self.range(x.rank())].iter();
        Ok(vec![Tensor::vector(taken.map(|&it| it as i64).collect())])
    }
}

/// The number of elements of the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size;

impl Op for Size {
    fn name(&self) -> &str {
        "Size"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `x: T[..]` gives `i64[]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        operands::one("Size", inputs)?;
        Ok(vec![Type::tensor(DType::I64, [0usize; 0])])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![Tensor::scalar(operands::one("Size", inputs)?.len() as i64)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_clamped() {
        let range = |start, end| Shape { start, end }.range(3);
        assert_eq!(range(0, None), 0..3);
        assert_eq!(range(-1, None), 2..3);
        assert_eq!(range(-9, Some(-1)), 0..2);
        assert_eq!(range(2, Some(1)), 2..2);
        assert_eq!(range(i64::MIN, Some(i64::MAX)), 0..3);
    }

    #[test]
    fn known_part_of_a_type_is_a_value() {
        let ty = Type::tensor(DType::F32, [Dim::symbol("batch"), Dim::Known(5)]);
        let value = |start| Shape { start, end: None }.value_of(&ty);
        assert_eq!(value(1), Some(Tensor::vector(vec![5i64])));
        assert_eq!(value(0), None);
    }
}
