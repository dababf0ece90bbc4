//! `CenterCropPad` (opset 18): the middle of each axis, or zeros on both sides of it.
//!
//! An odd one goes to the end: `(dim - size) / 2` is rounded down before the middle.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::ints::{axes, const_ints, ints, sizes};
use crate::operands;
use crate::pad::pad_constant;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "CenterCropPad";

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: NAME, parse: CenterCropPad::parse }];

/// `CenterCropPad(input_data, shape)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CenterCropPad {
    /// The axes that `shape` is about; all when absent.
    pub axes: Option<Vec<i64>>,
}

impl CenterCropPad {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axes: reader.opt_ints("axes")?.map(<[i64]>::to_vec) }))
    }

    fn axes(&self, rank: usize) -> Result<Vec<usize>, TypeError> {
        let all: Vec<i64> = (0..rank as i64).collect();
        axes(NAME, self.axes.as_ref().unwrap_or(&all), rank)
    }

    /// The axes and the sizes that they get.
    fn targets(&self, rank: usize, shape: &[i64]) -> Result<Vec<(usize, usize)>, TypeError> {
        let list = self.axes(rank)?;
        if list.len() != shape.len() {
            let what = format!("{} sizes for {} axes", shape.len(), list.len());
            return Err(TypeError::other(NAME, what));
        }
        Ok(list.into_iter().zip(sizes(NAME, shape)?).collect())
    }
}

impl Op for CenterCropPad {
    fn name(&self) -> &str {
        NAME
    }

    fn attrs(&self) -> Attrs {
        self.axes.iter().map(|it| ("axes".into(), it.clone().into())).collect()
    }

    /// `input_data: T[..]`, `shape: i64[A]` give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, shape) = operands::two(NAME, inputs)?;
        let Some(dims) = data.ty.shape() else { return Ok(vec![data.ty.clone()]) };
        let Some(shape) = const_ints(NAME, Some(shape))? else {
            let mut dims = dims.to_vec();
            for axis in self.axes(dims.len())? {
                dims[axis] = Dim::Unknown;
            }
            return Ok(vec![data.ty.with_shape(Some(dims))]);
        };
        let mut out = dims.to_vec();
        for (axis, size) in self.targets(dims.len(), &shape)? {
            out[axis] = size.into();
        }
        Ok(vec![data.ty.with_shape(Some(out))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, shape) = operands::two(NAME, inputs)?;
        let mut amounts = vec![[0i64; 2]; data.rank()];
        for (axis, size) in self.targets(data.rank(), &ints(NAME, shape)?)? {
            let more = size as i64 - data.dims()[axis] as i64;
            let before = more / 2;
            amounts[axis] = [before, more - before];
        }
        Ok(vec![pad_constant(NAME, cx, data, &amounts, None)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ones_go_to_the_end() {
        let op = CenterCropPad { axes: None };
        let run = |len: i32, size: i64| {
            let (x, shape) = (Tensor::vector((1..=len).collect()), Tensor::vector(vec![size]));
            let out = op.eval(&EvalCx::default(), &[Some(&x), Some(&shape)], 1).unwrap();
            out[0].as_slice::<i32>().unwrap().to_vec()
        };
        assert_eq!(run(4, 1), [2]);
        assert_eq!(run(1, 4), [0, 1, 0, 0]);
        assert_eq!(run(2, 2), [1, 2]);
        assert_eq!(run(2, 0), [0; 0]);
    }

    #[test]
    fn no_elements_of_any_size() {
        let op = CenterCropPad { axes: None };
        let x = Tensor::new(qcc_tensor::DType::U8, vec![2, 3, 2], vec![7u8; 12].into()).unwrap();
        let shape = Tensor::vector(vec![0, i64::MAX, 3]);
        let out = op.eval(&EvalCx::default(), &[Some(&x), Some(&shape)], 1).unwrap();
        assert_eq!(out[0].dims(), [0, i64::MAX as usize, 3]);
    }
}
