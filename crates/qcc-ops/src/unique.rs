//! `Unique` (opset 11): elements, or slices of an axis, once each.
//!
//! Results: the distinct ones, the first position of each, for each position the number of its
//! distinct one, and how often each comes. In order when `sorted`, else by first position.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::cells::moved;
use crate::operands;
use crate::order::keys;
use crate::strided::take;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Unique", parse: Unique::parse }];

/// `Unique(X)`: distinct ones, first positions, inverse positions, counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    /// The axis whose slices are compared; single elements when absent.
    pub axis: Option<i64>,
    /// Whether the distinct ones are in ascending order.
    pub sorted: bool,
}

impl Unique {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let sorted = reader.flag("sorted", true)?;
        Ok(Arc::new(Self { axis: reader.opt_int("axis")?, sorted }))
    }
}

impl Op for Unique {
    fn name(&self) -> &str {
        "Unique"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("sorted".into(), i64::from(self.sorted).into())];
        attrs.extend(self.axis.map(|it| ("axis".into(), it.into())));
        attrs
    }

    /// `X: T[A.., D, B..]` gives `T[A.., n, B..]`, or `T[n]`, and three of `i64[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        let ty = operands::one("Unique", inputs)?.ty;
        let dims = match (self.axis, ty.shape()) {
            (None, _) => Some(vec![Dim::Unknown]),
            (Some(_), None) => None,
            (Some(axis), Some(dims)) => {
                let mut dims = dims.to_vec();
                let axis = operands::axis("Unique", axis, dims.len())?;
                dims[axis] = Dim::Unknown;
                Some(dims)
            }
        };
        let mut out = vec![ty.with_shape(dims)];
        out.resize(n.max(1), Type::tensor(DType::I64, [Dim::Unknown]));
        Ok(out)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = operands::one("Unique", inputs)?;
        let (mut dims, axis) = match self.axis {
            None => (vec![x.len()], 0),
            Some(it) => (x.dims().to_vec(), operands::axis("Unique", it, x.rank())?),
        };
        let len = dims[axis];
        let inner: usize = dims[axis + 1..].iter().product();
        let keys = keys("Unique", x)?;
        let slice = |at: usize| {
            let blocks = keys.chunks_exact((len * inner).max(1));
            blocks.flat_map(move |it| &it[at * inner..][..inner])
        };
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| slice(a).cmp(slice(b)));
        // The sort is stable: the first of equals is the first position.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for at in order {
            match groups.last_mut() {
                Some(group) if slice(group[0]).eq(slice(at)) => group.push(at),
                _ => groups.push(vec![at]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|it| it[0]);
        }
        let mut inverse = vec![0i64; len];
        for (number, group) in groups.iter().enumerate() {
            for &at in group {
                inverse[at] = number as i64;
            }
        }
        let first: Vec<usize> = groups.iter().map(|it| it[0]).collect();
        dims[axis] = first.len();
        let distinct = moved("Unique", cx, x, dims, |from, width, to| {
            take(from, len, inner * width, &first, to);
        })?;
        let vector = |it: Vec<i64>| Tensor::vector(it);
        let mut out = vec![
            distinct,
            vector(first.iter().map(|&it| it as i64).collect()),
            vector(inverse),
            vector(groups.iter().map(|it| it.len() as i64).collect()),
        ];
        out.truncate(n.max(1));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &Unique, x: &Tensor) -> Vec<Vec<i64>> {
        let out = op.eval(&EvalCx::default(), &[Some(x)], 4).unwrap();
        out.iter().map(|it| it.to_i64().unwrap().to_vec()).collect()
    }

    #[test]
    fn elements_and_slices() {
        let x = Tensor::vector(vec![2i32, 1, 1, 3, 2]);
        let op = |axis, sorted| Unique { axis, sorted };
        let want = vec![vec![1, 2, 3], vec![1, 0, 3], vec![1, 0, 0, 2, 1], vec![2, 2, 1]];
        assert_eq!(run(&op(None, true), &x), want);
        let want = vec![vec![2, 1, 3], vec![0, 1, 3], vec![0, 1, 1, 2, 0], vec![2, 2, 1]];
        assert_eq!(run(&op(None, false), &x), want);
        let x = Tensor::from_vec(vec![2, 3], vec![5i32, 1, 5, 0, 7, 0]).unwrap();
        let want = vec![vec![1, 5, 7, 0], vec![1, 0], vec![1, 0, 1], vec![1, 2]];
        assert_eq!(run(&op(Some(1), true), &x), want);
    }
}
