//! `TopK` (`k` is an operand since opset 10, an attribute before): the largest or smallest elements
//! along an axis, in order, and their positions.
//!
//! Of equal elements the first ones are taken. They are sorted even when they need not be.
//! Source: onnx/defs/math/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::cells::moved;
use crate::combine::Combine;
use crate::emit::{Emit, args, no_vjp};
use crate::ints::{const_ints, int, size};
use crate::operands::{self, count, need};
use crate::order::keys;
use crate::scatter::ScatterElements;
use crate::strided::take;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "TopK", parse: TopK::parse }];

/// `TopK(X, K)`: values and indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// Whether the largest elements are taken, or the smallest.
    pub largest: bool,
    /// Whether the result must be in order.
    pub sorted: bool,
    /// How many, when it is an attribute (before opset 10).
    pub k: Option<i64>,
}

impl TopK {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let k = if reader.opset() < 10 { Some(reader.need_int("k")?) } else { None };
        Ok(Arc::new(Self {
            axis: reader.int("axis", -1)?,
            largest: reader.flag("largest", true)?,
            sorted: reader.flag("sorted", true)?,
            k,
        }))
    }

    /// Positions along the axis of the `k` first elements of a line of keys.
    fn best(&self, line: &[u64], k: usize) -> Vec<usize> {
        let mut list: Vec<(u64, usize)> = line.iter().copied().zip(0..).collect();
        let rank = |it: &(u64, usize)| (if self.largest { !it.0 } else { it.0 }, it.1);
        if k < list.len() && k > 0 {
            list.select_nth_unstable_by_key(k - 1, rank);
        }
        list.truncate(k);
        list.sort_unstable_by_key(rank);
        list.into_iter().map(|it| it.1).collect()
    }
}

impl Op for TopK {
    fn name(&self) -> &str {
        "TopK"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("axis".into(), self.axis.into())];
        if !self.largest {
            attrs.push(("largest".into(), 0.into()));
        }
        if !self.sorted {
            attrs.push(("sorted".into(), 0.into()));
        }
        attrs.extend(self.k.map(|it| ("k".into(), it.into())));
        attrs
    }

    /// `X: T[A.., D, B..]`, `K: i64[1]` give `T[A.., K, B..]` and `i64[A.., K, B..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("TopK", inputs, 1, 2)?;
        let x = need("TopK", inputs, 0)?.ty;
        let k = match self.k {
            Some(it) => Some(it),
            None => match const_ints("TopK", Some(need("TopK", inputs, 1)?))?.as_deref() {
                None => None,
                Some(&[it]) => Some(it),
                Some(_) => return Err(TypeError::other("TopK", "k is not one element")),
            },
        };
        let k = k.map(|it| size("TopK", it)).transpose()?.map_or(Dim::Unknown, Dim::Known);
        let dims = match x.shape() {
            None => None,
            Some(dims) => {
                let mut dims = dims.to_vec();
                let axis = operands::axis("TopK", self.axis, dims.len())?;
                if let (Dim::Known(dim), Dim::Known(k)) = (&dims[axis], &k)
                    && k > dim
                {
                    return Err(TypeError::other("TopK", format!("{k} of {dim}")));
                }
                dims[axis] = k;
                Some(dims)
            }
        };
        Ok(vec![x.with_shape(dims.clone()), Type::partial(Some(DType::I64), dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("TopK", inputs, 1, 2)?;
        let x = need("TopK", inputs, 0)?;
        let axis = operands::axis("TopK", self.axis, x.rank())?;
        let k = match self.k {
            Some(it) => it,
            None => int("TopK", need("TopK", inputs, 1)?)?,
        };
        let (k, len) = (size("TopK", k)?, x.dims()[axis]);
        if k > len {
            return Err(TypeError::other("TopK", format!("{k} of {len}")).into());
        }
        let mut dims = x.dims().to_vec();
        dims[axis] = k;
        let inner: usize = dims[axis + 1..].iter().product();
        let keys = keys("TopK", x)?;
        // Places in the operand and positions along the axis, in the order of the result.
        let total = dims.iter().product();
        let (mut places, mut positions) = (vec![0usize; total], vec![0i64; total]);
        let mut line = Vec::with_capacity(len);
        for (outer, block) in keys.chunks_exact((len * inner).max(1)).enumerate() {
            for lane in 0..inner {
                line.clear();
                line.extend(block.iter().skip(lane).step_by(inner));
                for (rank, position) in self.best(&line, k).into_iter().enumerate() {
                    let at = (outer * k + rank) * inner + lane;
                    places[at] = (outer * len + position) * inner + lane;
                    positions[at] = position as i64;
                }
            }
        }
        let values = moved("TopK", cx, x, dims.clone(), |from, width, to| {
            take(from, 0, width, &places, to);
        })?;
        Ok(vec![values, Tensor::from_vec(dims, positions)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let at = io.outputs.get(1).filter(|it| !b.graph().value_name(**it).is_empty());
        let at = *at.ok_or_else(|| no_vjp(self, "without its positions"))?;
        let (zeros, reduction) = (b.zeros_like(x), Some(Combine::Add));
        let scatter = ScatterElements { legacy: false, axis: self.axis, reduction };
        Ok(vec![Some(b.apply(scatter, &[zeros, at, g]))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn run(op: &TopK, x: &Tensor, k: i64) -> Option<(Vec<f32>, Vec<i64>)> {
        let k = Tensor::vector(vec![k]);
        let out = op.eval(&EvalCx::default(), &[Some(x), Some(&k)], 2).ok()?;
        Some((out[0].to_f32().unwrap().to_vec(), out[1].to_i64().unwrap().to_vec()))
    }

    #[test]
    fn first_of_equals() {
        let op = |largest| TopK { axis: 0, largest, sorted: true, k: None };
        let x = Tensor::vector(vec![1f32, 3.0, 2.0, 3.0, 1.0]);
        assert_eq!(run(&op(true), &x, 3), Some((vec![3.0, 3.0, 2.0], vec![1, 3, 2])));
        assert_eq!(run(&op(false), &x, 3), Some((vec![1.0, 1.0, 2.0], vec![0, 4, 2])));
        assert_eq!(run(&op(true), &x, 0), Some((vec![], vec![])));
        assert_eq!(run(&op(true), &x, 6), None);
        assert_eq!(run(&op(true), &x, -1), None);
    }

    #[test]
    fn lanes_are_apart() {
        let x = Tensor::from_vec(vec![2, 2], vec![1f32, 9.0, 5.0, 2.0]).unwrap();
        let op = TopK { axis: 0, largest: true, sorted: true, k: None };
        assert_eq!(run(&op, &x, 1), Some((vec![5.0, 9.0], vec![1, 0])));
    }

    #[test]
    fn count_is_an_attribute_before_10() {
        let attrs: Attrs = vec![("axis".into(), 0.into()), ("k".into(), 2.into())];
        let op = crate::parse("", "TopK", 9, attrs.clone()).unwrap();
        assert_eq!(op.attrs(), attrs);
        assert!(crate::parse("", "TopK", 11, attrs).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        for (axis, largest) in [(-1, true), (0, false)] {
            let op = TopK { axis, largest, sorted: true, k: None };
            check_vjp(&op, &[values(&[3, 4, 5]), ints(&[2])], 2);
        }
    }
}
