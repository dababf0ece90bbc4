//! Rotary position embedding, as operator and as step of others.
//!
//! Features `i` and `i + d / 2` of the first `d` of a head (or `2i` and `2i + 1` when
//! interleaved) are rotated: `(x cos - y sin, x sin + y cos)`, with the angle of the position.
//! Operators: `RotaryEmbedding` of ONNX opset 23 and of `com.microsoft` 1, which differ in the
//! order of their operands and in how positions are given.
//! Sources: onnx/defs/nn/defs.cc; ONNX Runtime docs/ContribOperators.md.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::Tensor;
use rayon::prelude::*;

use crate::contrib_norm::result;
use crate::emit::{args, no_vjp};
use crate::operands::{count, need, optional};
use crate::unary::Unary;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "RotaryEmbedding";

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: NAME, parse: |reader| RotaryEmbedding::parse(reader, "") },
    OpDef {
        domain: "com.microsoft",
        name: NAME,
        parse: |reader| RotaryEmbedding::parse(reader, "com.microsoft"),
    },
];

/// Which features are a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// One of each half.
    Halves,
    /// Neighbors.
    Interleaved,
}

/// Cosines and sines of positions, `[positions, d / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct Angles<'a> {
    cos: Cow<'a, [f32]>,
    sin: Cow<'a, [f32]>,
    half: usize,
}

impl<'a> Angles<'a> {
    /// The caches of an operator: the last dimension is `d / 2`.
    ///
    /// # Errors
    /// When the two differ or have no dimension.
    pub(crate) fn new(op: &str, cos: &'a Tensor, sin: &'a Tensor) -> Result<Self, EvalError> {
        match cos.dims().last() {
            Some(&half) if half > 0 && cos.dims() == sin.dims() => {
                Ok(Self { cos: cos.to_f32()?, sin: sin.to_f32()?, half })
            }
            _ => Err(TypeError::other(op, "caches of cosines and sines do not fit").into()),
        }
    }

    /// Features that are rotated.
    pub(crate) fn size(&self) -> usize {
        2 * self.half
    }

    /// Checks a position.
    ///
    /// # Errors
    /// When the caches do not have it.
    pub(crate) fn position(&self, op: &str, it: i64) -> Result<usize, TypeError> {
        usize::try_from(it)
            .ok()
            .filter(|&it| it < self.cos.len() / self.half)
            .ok_or_else(|| TypeError::other(op, format!("position {it} is not in the cache")))
    }

    /// Rotates one head in place, by the angles of a position that was checked.
    pub(crate) fn rotate(&self, pairing: Pairing, position: usize, head: &mut [f32]) {
        let at = position * self.half..(position + 1) * self.half;
        let angles = self.cos[at.clone()].iter().zip(&self.sin[at]);
        let turn = |x: &mut f32, y: &mut f32, cos: f32, sin: f32| {
            (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
        };
        match pairing {
            Pairing::Halves => {
                let (x, y) = head[..2 * self.half].split_at_mut(self.half);
                for ((x, y), (&cos, &sin)) in x.iter_mut().zip(y).zip(angles) {
                    turn(x, y, cos, sin);
                }
            }
            Pairing::Interleaved => {
                let (pairs, _) = head.as_chunks_mut::<2>();
                for ([x, y], (&cos, &sin)) in pairs.iter_mut().zip(angles) {
                    turn(x, y, cos, sin);
                }
            }
        }
    }
}

/// Rotation of heads by their position.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryEmbedding {
    /// ONNX's or Microsoft's operator.
    pub domain: &'static str,
    /// Which features are a pair.
    pub pairing: Pairing,
    /// Features that are rotated; 0 for all.
    pub rotary_embedding_dim: usize,
    /// Heads of an input of rank 3; 0 when the caches tell it.
    pub num_heads: usize,
    /// Whether batch rows are packed; Microsoft's only, not evaluated.
    pub is_packed_batching: i64,
    /// Not used by ONNX Runtime's CPU kernel, nor here; Microsoft's only.
    pub scale: f32,
}

impl RotaryEmbedding {
    fn parse(reader: &mut AttrReader<'_>, domain: &'static str) -> Result<OpRef, AttrError> {
        let size = |name: &str| -> Result<usize, AttrError> {
            usize::try_from(reader.int(name, 0)?).map_err(|_| reader.error(name, "is negative"))
        };
        let (rotary_embedding_dim, num_heads) = (size("rotary_embedding_dim")?, size("num_heads")?);
        let is_interleaved = reader.flag("interleaved", false)?;
        let pairing = if is_interleaved { Pairing::Interleaved } else { Pairing::Halves };
        let (mut is_packed_batching, mut scale) = (0, 1.0);
        if !domain.is_empty() {
            is_packed_batching = reader.int("is_packed_batching", 0)?;
            scale = reader.float("scale", 1.0)?;
        }
        Ok(Arc::new(Self {
            domain,
            pairing,
            rotary_embedding_dim,
            num_heads,
            is_packed_batching,
            scale,
        }))
    }

    /// Operands in the order of ONNX: input, cosines, sines, positions.
    fn order(&self) -> [usize; 4] {
        if self.domain.is_empty() { [0, 1, 2, 3] } else { [0, 2, 3, 1] }
    }
}

impl Op for RotaryEmbedding {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        self.domain
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        let mut put = |name: &str, value: i64| {
            if value != 0 {
                attrs.push((name.into(), Attr::Int(value)));
            }
        };
        put("interleaved", i64::from(self.pairing == Pairing::Interleaved));
        put("rotary_embedding_dim", self.rotary_embedding_dim as i64);
        put("num_heads", self.num_heads as i64);
        put("is_packed_batching", self.is_packed_batching);
        if self.scale != 1.0 {
            attrs.push(("scale".into(), Attr::Float(self.scale)));
        }
        attrs
    }

    /// `x: T[..S]` gives `T[..S]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 3, 4)?;
        Ok(vec![need(NAME, inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        if self.is_packed_batching != 0 {
            return Err(EvalError::unsupported(self, "on packed batches"));
        }
        let [_, cos, sin, ids] = self.order();
        let x = need(NAME, inputs, 0)?;
        let angles = Angles::new(NAME, need(NAME, inputs, cos)?, need(NAME, inputs, sin)?)?;
        let dims = x.dims().to_vec();
        // Of rank 3, heads follow each other within a position.
        let (batch, len, size, heads_inside) = match *dims {
            [batch, _, len, size] => (batch, len, size, 1),
            [batch, len, width] => {
                let size = match width.checked_div(self.num_heads) {
                    Some(size) => size,
                    None => angles.size(),
                };
                if size == 0 || !width.is_multiple_of(size) {
                    return Err(wrong("heads do not fit the input"));
                }
                (batch, len, size, width / size)
            }
            _ => return Err(wrong("the input has rank 3 or 4")),
        };
        let rotated = if self.rotary_embedding_dim == 0 { size } else { self.rotary_embedding_dim };
        if rotated != angles.size() || rotated > size {
            return Err(wrong("caches do not fit the features that are rotated"));
        }
        let positions = match optional(inputs, ids) {
            // Without positions the caches hold the angles of each batch row.
            None => (0..(batch * len) as i64).collect(),
            Some(ids) if ids.len() == batch * len && ids.rank() == 2 => ids.to_i64()?.into_owned(),
            Some(ids) if ids.len() == 1 && !self.domain.is_empty() => {
                let first = ids.to_i64()?[0];
                (0..batch * len).map(|it| first.saturating_add((it % len) as i64)).collect()
            }
            Some(_) => return Err(wrong("positions do not fit the input")),
        };
        let positions = positions
            .into_iter()
            .map(|it| angles.position(NAME, it))
            .collect::<Result<Vec<_>, _>>()?;
        let values = x.to_f32()?;
        let mut out = cx.pool.take(values.len())?;
        out.copy_from_slice(&values);
        let heads_outside = if dims.len() == 4 { dims[1] } else { 1 };
        out.par_chunks_exact_mut((size * heads_inside).max(1))
            .with_min_len(64)
            .enumerate()
            .for_each(|(row, heads)| {
                let (batch, at) = (row / (heads_outside * len), row % len);
                for head in heads.chunks_exact_mut(size) {
                    angles.rotate(self.pairing, positions[batch * len + at], head);
                }
            });
        Ok(vec![result(cx, NAME, x.dtype(), dims, out)?])
    }

    /// The same rotation, back.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let [_, _, sin, _] = self.order();
        if io.wanted.iter().skip(1).any(|&it| it) {
            return Err(no_vjp(self, "by its angles"));
        }
        let (g, _, [_]) = args(self, io, dy)?;
        let mut inputs = io.inputs.to_vec();
        let angles = io.input(sin).ok_or_else(|| no_vjp(self, "an operand is absent"))?;
        inputs[sin] = Some(b.op(Arc::new(Unary::Neg), &[angles]));
        inputs[0] = Some(g);
        Ok(vec![Some(b.op_with(Arc::new(self.clone()), &inputs))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_against, values};

    fn eval(attrs: Attrs, x: &Tensor, first: i64) -> Result<Vec<f32>, EvalError> {
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        let ids = Tensor::vector(vec![first]);
        // A quarter turn at position 1.
        let cos = Tensor::from_vec(vec![2, 1], vec![1f32, 0.0]).unwrap();
        let sin = Tensor::from_vec(vec![2, 1], vec![0f32, 1.0]).unwrap();
        let inputs = [Some(x), Some(&ids), Some(&cos), Some(&sin)];
        Ok(op.eval(&EvalCx::default(), &inputs, 1)?[0].to_f32()?.to_vec())
    }

    #[test]
    fn quarter_turns() {
        let x = Tensor::from_vec(vec![1, 1, 4], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(eval(Attrs::new(), &x, 0).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(eval(Attrs::new(), &x, 1).unwrap(), [-2.0, 1.0, -4.0, 3.0]);
        let attrs = vec![
            ("num_heads".to_owned(), Attr::Int(1)),
            ("rotary_embedding_dim".to_owned(), Attr::Int(2)),
        ];
        assert_eq!(eval(attrs, &x, 1).unwrap(), [-2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn positions_outside_the_cache_are_refused() {
        let x = Tensor::from_vec(vec![1, 1, 2], vec![1f32, 2.0]).unwrap();
        for first in [2, -1, i64::MAX] {
            assert!(eval(Attrs::new(), &x, first).is_err());
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        let angles: Vec<f64> = (0..12).map(|it| f64::from(it) * 0.37 - 1.0).collect();
        let table = |f: fn(f64) -> f64| -> Vec<f64> { angles.iter().map(|&it| f(it)).collect() };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let tensor = |list: &[f64]| Tensor::from_vec(vec![6, 2], list.to_vec()).unwrap();
        let ids = Tensor::from_vec(vec![1, 3], vec![5i64, 0, 2]).unwrap();
        for pairing in [Pairing::Halves, Pairing::Interleaved] {
            let op = RotaryEmbedding {
                domain: "",
                pairing,
                rotary_embedding_dim: 4,
                num_heads: 2,
                is_packed_batching: 0,
                scale: 1.0,
            };
            // Two heads of 5 features, of which the last one stays.
            let forward = |it: &[&Tensor]| {
                let mut x = it[0].as_slice::<f64>().unwrap().into_owned();
                for (row, head) in x.chunks_exact_mut(5).enumerate() {
                    let at = [5, 0, 2][row / 2];
                    for i in 0..2 {
                        let (a, b) = if pairing == Pairing::Halves {
                            (i, i + 2)
                        } else {
                            (2 * i, 2 * i + 1)
                        };
                        let (c, s, p, q) = (cos[at * 2 + i], sin[at * 2 + i], head[a], head[b]);
                        (head[a], head[b]) = (p * c - q * s, p * s + q * c);
                    }
                }
                vec![Tensor::from_vec(it[0].dims().to_vec(), x).unwrap()]
            };
            let tables = [&cos, &sin].map(|it| tensor(it).into());
            let [cos, sin] = tables;
            let args = [values(&[1, 3, 10]), cos, sin, ids.clone().into()];
            check_against(&op, &args, &forward);
        }
    }
}
