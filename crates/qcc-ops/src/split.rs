//! `Split` (sizes are an operand since opset 13, an attribute before; `num_outputs` since 18):
//! consecutive parts along an axis.
//!
//! Without sizes the parts are equal, the last one smaller when they do not go in evenly.
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::cells::moved;
use crate::concat::Concat;
use crate::emit::Emit;
use crate::ints::{const_ints, ints, sizes};
use crate::operands::{self, count, need, optional};
use crate::strided::View;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Split", parse: Split::parse }];

/// `Split(input, split?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Axis that is cut; negative counts from the end.
    pub axis: i64,
    /// Sizes of the parts, when they are an attribute (before opset 13).
    pub split: Option<Vec<i64>>,
    /// Number of parts, when it is given (since opset 18).
    pub num_outputs: Option<i64>,
}

impl Split {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let split = if reader.opset() < 13 { reader.opt_ints("split")? } else { None };
        let num_outputs = reader.opt_int("num_outputs")?;
        if num_outputs.is_some_and(|it| it < 1) {
            return Err(reader.error("num_outputs", "is not positive"));
        }
        let axis = reader.int("axis", 0)?;
        Ok(Arc::new(Self { axis, split: split.map(<[i64]>::to_vec), num_outputs }))
    }

    /// Sizes of equal parts; those of the first ones are symbols when `dim` is.
    fn equal(dim: &Dim, parts: usize) -> Vec<Dim> {
        match dim {
            Dim::Known(dim) => {
                let size = dim.div_ceil(parts.max(1));
                let part = |it: usize| size.min(dim.saturating_sub(it.saturating_mul(size)));
                (0..parts).map(|it| part(it).into()).collect()
            }
            whole if parts == 1 => vec![whole.clone()],
            _ => vec![Dim::Unknown; parts],
        }
    }

    /// Sizes of the parts of `dim`; `sizes` are those of the attribute or operand.
    fn parts(&self, dim: &Dim, given: Option<&[i64]>, n: usize) -> Result<Vec<Dim>, TypeError> {
        let Some(given) = given else {
            if self.num_outputs.is_some_and(|it| it != n as i64) {
                return Err(TypeError::other("Split", format!("num_outputs is not {n}")));
            }
            return Ok(Self::equal(dim, n));
        };
        let sizes = sizes("Split", given)?;
        if sizes.len() != n {
            return Err(TypeError::other("Split", format!("{given:?} is not {n} parts")));
        }
        let sum = sizes.iter().try_fold(0usize, |sum, &it| sum.checked_add(it));
        if let Some(dim) = dim.known()
            && sum != Some(dim)
        {
            return Err(TypeError::other("Split", format!("{given:?} does not add up to {dim}")));
        }
        Ok(sizes.into_iter().map(Dim::Known).collect())
    }
}

impl Op for Split {
    fn name(&self) -> &str {
        "Split"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("axis".into(), self.axis.into())];
        attrs.extend(self.split.clone().map(|it| ("split".into(), it.into())));
        attrs.extend(self.num_outputs.map(|it| ("num_outputs".into(), it.into())));
        attrs
    }

    /// `input: T[..]`, `split: i64[N]` give N results `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        count("Split", inputs, 1, 2)?;
        let input = need("Split", inputs, 0)?;
        let Some(dims) = input.ty.shape() else { return Ok(vec![input.ty.clone(); n]) };
        let axis = operands::axis("Split", self.axis, dims.len())?;
        let given = const_ints("Split", optional(inputs, 1))?;
        let parts = if optional(inputs, 1).is_some() && given.is_none() {
            vec![Dim::Unknown; n]
        } else {
            self.parts(&dims[axis], given.as_deref().or(self.split.as_deref()), n)?
        };
        let part = |it| {
            let mut dims = dims.to_vec();
            dims[axis] = it;
            input.ty.with_shape(Some(dims))
        };
        Ok(parts.into_iter().map(part).collect())
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Split", inputs, 1, 2)?;
        let input = need("Split", inputs, 0)?;
        let axis = operands::axis("Split", self.axis, input.rank())?;
        let given = optional(inputs, 1).map(|it| ints("Split", it)).transpose()?;
        let given = given.as_deref().or(self.split.as_deref());
        let mut view = View::of(input.dims());
        let mut out = Vec::with_capacity(n);
        for size in self.parts(&input.dims()[axis].into(), given, n)? {
            let size = size.known().unwrap_or_default();
            view.dims[axis] = size;
            out.push(moved("Split", cx, input, view.dims.clone(), |from, width, to| {
                view.copy(from, width, to);
            })?);
            view.start += view.strides[axis] * size as isize;
        }
        Ok(out)
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let mut parts = Vec::new();
        for (at, &y) in io.outputs.iter().enumerate() {
            let part = dy.get(at).copied().flatten();
            parts.push(part.unwrap_or_else(|| b.zeros_like(y)));
        }
        Ok(vec![Some(b.apply(Concat { axis: self.axis }, &parts))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn split(op: &Split, len: i32, sizes: Option<Vec<i64>>, n: usize) -> Option<Vec<Vec<i32>>> {
        let x = Tensor::vector((0..len).collect::<Vec<_>>());
        let sizes = sizes.map(Tensor::vector);
        let out = op.eval(&EvalCx::default(), &[Some(&x), sizes.as_ref()], n).ok()?;
        Some(out.iter().map(|it| it.as_slice::<i32>().unwrap().to_vec()).collect())
    }

    #[test]
    fn last_part_is_what_remains() {
        let op = Split { axis: -1, split: None, num_outputs: Some(3) };
        assert_eq!(split(&op, 7, None, 3), Some(vec![vec![0, 1, 2], vec![3, 4, 5], vec![6]]));
        assert_eq!(split(&op, 1, None, 3), Some(vec![vec![0], vec![], vec![]]));
        assert_eq!(split(&op, 6, None, 2), None);
    }

    #[test]
    fn sizes_add_up() {
        let op = Split { axis: 0, split: None, num_outputs: None };
        assert_eq!(split(&op, 3, Some(vec![0, 3]), 2), Some(vec![vec![], vec![0, 1, 2]]));
        assert_eq!(split(&op, 3, Some(vec![1, 1]), 2), None);
        assert_eq!(split(&op, 3, Some(vec![4, -1]), 2), None);
        assert_eq!(split(&op, 3, Some(vec![3]), 2), None);
        let old = Split { axis: 0, split: Some(vec![1, 2]), num_outputs: None };
        assert_eq!(split(&old, 3, None, 2), Some(vec![vec![0], vec![1, 2]]));
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = Split { axis: -1, split: None, num_outputs: None };
        check_vjp(&op, &[values(&[2, 7]), ints(&[3, 0, 4])], 3);
        check_vjp(&op, &[values(&[2, 6])], 2);
    }
}
