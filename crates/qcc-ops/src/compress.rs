//! `Compress` (opset 9): the slices of an axis for which a condition holds.
//!
//! Without an axis the operand is flat. A short condition is `false` at the end.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::cells::moved;
use crate::operands;
use crate::strided::take;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Compress", parse: Compress::parse }];

/// `Compress(input, condition)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// The axis; the operand is flat when absent.
    pub axis: Option<i64>,
}

impl Compress {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.opt_int("axis")? }))
    }
}

impl Op for Compress {
    fn name(&self) -> &str {
        "Compress"
    }

    fn attrs(&self) -> Attrs {
        self.axis.map(|it| ("axis".into(), it.into())).into_iter().collect()
    }

    /// `input: T[A.., X, B..]`, `condition: bool[C]` give `T[A.., n, B..]`, or `T[n]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (input, condition) = operands::two("Compress", inputs)?;
        let count = condition.value.and_then(|it| it.as_bools().ok());
        let count = match count {
            Some(it) => Dim::Known(it.iter().filter(|it| **it != 0).count()),
            None => Dim::Unknown,
        };
        let dims = match (self.axis, input.ty.shape()) {
            (None, _) => Some(vec![count]),
            (Some(_), None) => None,
            (Some(axis), Some(dims)) => {
                let mut dims = dims.to_vec();
                let axis = operands::axis("Compress", axis, dims.len())?;
                dims[axis] = count;
                Some(dims)
            }
        };
        Ok(vec![input.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (input, condition) = operands::two("Compress", inputs)?;
        let (mut dims, axis) = match self.axis {
            None => (vec![input.len()], 0),
            Some(it) => (input.dims().to_vec(), operands::axis("Compress", it, input.rank())?),
        };
        let len = dims[axis];
        let set = condition.as_bools()?.iter().enumerate().filter(|it| *it.1 != 0);
        let list: Vec<usize> = set.map(|it| it.0).collect();
        if list.last().is_some_and(|&it| it >= len) {
            return Err(TypeError::other("Compress", format!("condition beyond {len}")).into());
        }
        dims[axis] = list.len();
        let block: usize = dims[axis + 1..].iter().product();
        let out = moved("Compress", cx, input, dims, |from, width, to| {
            take(from, len, block * width, &list, to);
        })?;
        Ok(vec![out])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_conditions_are_false_at_the_end() {
        let x = Tensor::from_vec(vec![2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap();
        let run = |axis, bits: &[bool]| {
            let condition = Tensor::from_bools(vec![bits.len()], bits).unwrap();
            let op = Compress { axis };
            let out = op.eval(&EvalCx::default(), &[Some(&x), Some(&condition)], 1).ok()?;
            Some(out[0].bytes().to_vec())
        };
        assert_eq!(run(Some(-1), &[false, true]), Some(vec![2, 5]));
        assert_eq!(run(None, &[true, false, false, true]), Some(vec![1, 4]));
        assert_eq!(run(Some(0), &[true, false, true]), None);
    }
}
