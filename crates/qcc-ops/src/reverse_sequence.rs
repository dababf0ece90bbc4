//! `ReverseSequence` (opset 10): the first elements along time in reverse order, for each sequence
//! of a batch as many as it is long.
//!
//! Source: onnx/defs/sequence/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::Tensor;

use crate::cells::moved;
use crate::emit::{Emit, args};
use crate::ints::ints;
use crate::operands;
use crate::strided::take;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "ReverseSequence";

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: NAME, parse: ReverseSequence::parse }];

/// Which of the two first axes is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[time, batch, ..]`.
    TimeMajor,
    /// `[batch, time, ..]`.
    BatchMajor,
}

/// `ReverseSequence(input, sequence_lens)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReverseSequence {
    /// Which of the two first axes is which.
    pub layout: Layout,
}

impl ReverseSequence {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let layout = match (reader.int("time_axis", 0)?, reader.int("batch_axis", 1)?) {
            (0, 1) => Layout::TimeMajor,
            (1, 0) => Layout::BatchMajor,
            _ => return Err(reader.error("time_axis", "and 'batch_axis' are not 0 and 1")),
        };
        Ok(Arc::new(Self { layout }))
    }
}

impl Op for ReverseSequence {
    fn name(&self) -> &str {
        NAME
    }

    fn attrs(&self) -> Attrs {
        let (time, batch) = match self.layout {
            Layout::TimeMajor => (0, 1),
            Layout::BatchMajor => (1, 0),
        };
        vec![("time_axis".into(), time.into()), ("batch_axis".into(), batch.into())]
    }

    /// `input: T[..]`, `sequence_lens: i64[batch]` give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![operands::two(NAME, inputs)?.0.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (input, lens) = operands::two(NAME, inputs)?;
        let &[rows, columns, ref rest @ ..] = input.dims() else {
            let (op, want) = (NAME.into(), "2 or more".into());
            return Err(TypeError::Rank { op, index: 0, want, got: input.rank() }.into());
        };
        let (time, batch) = match self.layout {
            Layout::TimeMajor => (rows, columns),
            Layout::BatchMajor => (columns, rows),
        };
        let lens: Vec<usize> =
            ints(NAME, lens)?.into_iter().filter_map(|it| usize::try_from(it).ok()).collect();
        if lens.len() != batch || lens.iter().any(|&it| it > time) {
            let what = format!("{batch} lengths of at most {time} are needed");
            return Err(TypeError::other(NAME, what).into());
        }
        let mirrored = |at: usize, len: usize| if at < len { len - 1 - at } else { at };
        let list: Vec<usize> = match self.layout {
            Layout::TimeMajor => (0..rows * columns)
                .map(|it| mirrored(it / columns, lens[it % columns]) * columns + it % columns)
                .collect(),
            Layout::BatchMajor => (0..rows * columns)
                .map(|it| it / columns * columns + mirrored(it % columns, lens[it / columns]))
                .collect(),
        };
        let block: usize = rest.iter().product();
        let out = moved(NAME, cx, input, input.dims().to_vec(), |from, width, to| {
            take(from, 0, block * width, &list, to);
        })?;
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_, lens]) = args(self, io, dy)?;
        Ok(vec![Some(b.apply(self.clone(), &[g, lens]))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, ints, values};

    #[test]
    fn each_sequence_has_its_length() {
        let x = Tensor::from_vec(vec![2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap();
        let run = |layout, lens: Vec<i64>| {
            let (op, lens) = (ReverseSequence { layout }, Tensor::vector(lens));
            let out = op.eval(&EvalCx::default(), &[Some(&x), Some(&lens)], 1).ok()?;
            Some(out[0].bytes().to_vec())
        };
        assert_eq!(run(Layout::BatchMajor, vec![2, 3]), Some(vec![2, 1, 3, 6, 5, 4]));
        assert_eq!(run(Layout::TimeMajor, vec![2, 1, 2]), Some(vec![4, 2, 6, 1, 5, 3]));
        assert_eq!(run(Layout::BatchMajor, vec![2]), None);
        assert_eq!(run(Layout::BatchMajor, vec![2, 4]), None);
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = ReverseSequence { layout: Layout::BatchMajor };
        check_vjp(&op, &[values(&[2, 4, 1]), ints(&[3, 1])], 1);
    }
}
