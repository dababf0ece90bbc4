//! `Trilu` (opset 14): the upper or lower triangle of matrices, zeros in the other one.
//!
//! The upper one keeps `column - row >= k`, the lower one `column - row <= k`.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::Tensor;

use crate::cells::{Cells, fill};
use crate::emit::args;
use crate::ints::int;
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Trilu", parse: Trilu::parse }];

/// `Trilu(input, k?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trilu {
    /// Which triangle stays.
    pub upper: bool,
}

impl Trilu {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { upper: reader.flag("upper", true)? }))
    }

    /// The columns of a row that become zero.
    fn zeros(&self, row: usize, columns: usize, k: i64) -> std::ops::Range<usize> {
        let diagonal = (row as i64).saturating_add(k);
        let clamp = |it: i64| it.clamp(0, columns as i64) as usize;
        if self.upper { 0..clamp(diagonal) } else { clamp(diagonal.saturating_add(1))..columns }
    }
}

impl Op for Trilu {
    fn name(&self) -> &str {
        "Trilu"
    }

    fn attrs(&self) -> Attrs {
        vec![("upper".into(), i64::from(self.upper).into())]
    }

    /// `input: T[.., R, C]`, `k: i64[]` give `T[.., R, C]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Trilu", inputs, 1, 2)?;
        let ty = need("Trilu", inputs, 0)?.ty;
        match ty.rank() {
            Some(got @ 0..2) => {
                let (op, want) = ("Trilu".into(), "2 or more".into());
                Err(TypeError::Rank { op, index: 0, want, got })
            }
            _ => Ok(vec![ty.clone()]),
        }
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Trilu", inputs, 1, 2)?;
        let input = need("Trilu", inputs, 0)?;
        let k = optional(inputs, 1).map(|it| int("Trilu", it)).transpose()?.unwrap_or(0);
        let &[.., rows, columns] = input.dims() else {
            let (op, want) = ("Trilu".into(), "2 or more".into());
            return Err(TypeError::Rank { op, index: 0, want, got: input.rank() }.into());
        };
        let mut cells = Cells::new(input.dtype());
        let (width, from, zero) = (cells.width(), cells.read("Trilu", input)?, cells.zero());
        let mut room = cells.room(cx, input.dims())?;
        room.bytes().copy_from_slice(&from);
        if columns > 0 {
            for (at, row) in room.bytes().chunks_exact_mut(columns * width).enumerate() {
                let zeros = self.zeros(at % rows, columns, k);
                fill(&mut row[zeros.start * width..zeros.end * width], &zero);
            }
        }
        Ok(vec![cells.tensor(cx, input.dims().to_vec(), room)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_]) = args(self, io, dy)?;
        Ok(vec![Some(b.op_with(Arc::new(self.clone()), &[Some(g), io.input(1)]))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};

    fn run(upper: bool, k: i64) -> Vec<i32> {
        let x = Tensor::from_vec(vec![1, 2, 3], vec![1, 2, 3, 4, 5, 6]).unwrap();
        let k = Tensor::scalar(k);
        let out = Trilu { upper }.eval(&EvalCx::default(), &[Some(&x), Some(&k)], 1).unwrap();
        out[0].as_slice::<i32>().unwrap().to_vec()
    }

    #[test]
    fn triangles() {
        assert_eq!(run(true, 0), [1, 2, 3, 0, 5, 6]);
        assert_eq!(run(true, 2), [0, 0, 3, 0, 0, 0]);
        assert_eq!(run(false, 0), [1, 0, 0, 4, 5, 0]);
        assert_eq!(run(false, -1), [0, 0, 0, 4, 0, 0]);
        assert_eq!(run(true, i64::MIN), [1, 2, 3, 4, 5, 6]);
        assert_eq!(run(false, i64::MAX), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn gradients_match_central_differences() {
        for upper in [false, true] {
            let k = Tensor::scalar(1i64);
            check_vjp(&Trilu { upper }, &[values(&[2, 3, 4]), k.into()], 1);
            check_vjp(&Trilu { upper }, &[values(&[3, 1])], 1);
        }
    }
}
