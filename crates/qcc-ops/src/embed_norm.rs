//! `com.microsoft.EmbedLayerNormalization` 1: rows of embeddings, added and normalized.
//!
//! `LayerNorm(word[ids] + position[ids or 0 ..] + segment[ids])`; result 1 counts the set elements
//! of each row of the mask, result 2 is the sum.
//! Source: ONNX Runtime docs/ContribOperators.md.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::contrib_norm::{Norm, Rows, result};
use crate::dims::len_of;
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "EmbedLayerNormalization";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: EmbedLayerNorm::parse }];

/// Embeddings of BERT.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedLayerNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// What result 1 is for; only shape inference of other tools reads it.
    pub mask_index_type: Option<i64>,
}

impl EmbedLayerNorm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            epsilon: reader.float("epsilon", 1e-12)?,
            mask_index_type: reader.opt_int("mask_index_type")?,
        }))
    }
}

/// A table of rows, and which of them each position takes.
struct Lookup<'a> {
    table: Cow<'a, [f32]>,
    ids: Vec<usize>,
}

impl<'a> Lookup<'a> {
    fn new(table: &'a Tensor, width: usize, ids: &[i64]) -> Result<Self, EvalError> {
        let [rows, cols] = *table.dims() else {
            return Err(TypeError::other(NAME, "a table of embeddings has rank 2").into());
        };
        let ids = ids
            .iter()
            .map(|&id| usize::try_from(id).ok().filter(|&it| it < rows))
            .collect::<Option<Vec<_>>>();
        match ids {
            Some(ids) if cols == width => Ok(Self { table: table.to_f32()?, ids }),
            _ => Err(TypeError::other(NAME, "ids and embeddings do not fit together").into()),
        }
    }

    fn row(&self, position: usize, width: usize) -> &[f32] {
        &self.table[self.ids[position % self.ids.len()] * width..][..width]
    }
}

impl Op for EmbedLayerNorm {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![("epsilon".into(), Attr::Float(self.epsilon))];
        if let Some(it) = self.mask_index_type {
            attrs.push(("mask_index_type".into(), Attr::Int(it)));
        }
        attrs
    }

    /// `ids: I[b, s], word: T[v, n]` gives `T[b, s, n]`, `I[b]`, `T[b, s, n]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 1, 9)?;
        let (ids, gamma) = (need(NAME, inputs, 0)?.ty, need(NAME, inputs, 5)?.ty);
        let width = gamma.shape().and_then(<[Dim]>::first).cloned().unwrap_or(Dim::Unknown);
        let shape = ids.shape().map(|it| it.iter().cloned().chain([width]).collect::<Vec<_>>());
        let batch = ids.shape().and_then(<[Dim]>::first).map(|it| vec![it.clone()]);
        let out = gamma.with_shape(shape);
        let mut types = vec![out.clone(), ids.with_shape(batch), out];
        types.resize(n_outputs, Type::Unknown);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        let ids = need(NAME, inputs, 0)?;
        let [batch, len] = *ids.dims() else { return Err(wrong("ids have rank 2")) };
        let (gamma, beta) = (need(NAME, inputs, 5)?.to_f32()?, need(NAME, inputs, 6)?.to_f32()?);
        let width = gamma.len();
        if beta.len() != width || width == 0 {
            return Err(wrong("gamma and beta do not fit together"));
        }
        let word = need(NAME, inputs, 2)?;
        let mut lookups = vec![Lookup::new(word, width, &ids.to_i64()?)?];
        let positions = match optional(inputs, 8) {
            Some(it) => it.to_i64()?,
            None => (0..len as i64).collect(),
        };
        if positions.len() != len && positions.len() != batch * len {
            return Err(wrong("position ids do not fit the ids"));
        }
        lookups.push(Lookup::new(need(NAME, inputs, 3)?, width, &positions)?);
        if let (Some(segments), Some(table)) = (optional(inputs, 1), optional(inputs, 4)) {
            if segments.len() != batch * len {
                return Err(wrong("segment ids do not fit the ids"));
            }
            lookups.push(Lookup::new(table, width, &segments.to_i64()?)?);
        }
        let dims = vec![batch, len, width];
        let mut sum = cx.pool.take(len_of(NAME, &dims)?)?;
        for (position, sum) in sum.chunks_exact_mut(width).enumerate() {
            sum.fill(0.0);
            for it in &lookups {
                sum.iter_mut().zip(it.row(position, width)).for_each(|(sum, x)| *sum += x);
            }
        }
        let rows =
            Rows { norm: Norm::Layer, epsilon: self.epsilon, scale: &gamma, shift: Some(&beta) };
        let mut out = cx.pool.take(sum.len())?;
        rows.run(&sum, &mut out);
        let mut results = vec![result(cx, NAME, word.dtype(), dims.clone(), out)?];
        if n_outputs > 1 {
            let counts: Vec<i32> = match optional(inputs, 7) {
                None => vec![0; batch],
                Some(mask) if mask.len() == batch * len => {
                    let mask = mask.to_i64()?;
                    (0..batch)
                        .map(|it| {
                            mask[it * len..][..len].iter().filter(|&&it| it == 1).count() as i32
                        })
                        .collect()
                }
                Some(_) => return Err(wrong("the mask does not fit the ids")),
            };
            results.push(Tensor::vector(counts));
            results.push(result(cx, NAME, word.dtype(), dims, sum)?);
        }
        results.truncate(n_outputs.max(1));
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_table_are_refused() {
        let op = crate::parse("com.microsoft", NAME, 1, Vec::new()).unwrap();
        let table = Tensor::from_vec(vec![2, 2], vec![0f32, 2.0, 1.0, 5.0]).unwrap();
        let ones = Tensor::vector(vec![1f32, 1.0]);
        let run = |ids: Vec<i32>| {
            let ids = Tensor::from_vec(vec![1, 2], ids).unwrap();
            let inputs =
                [Some(&ids), None, Some(&table), Some(&table), None, Some(&ones), Some(&ones)];
            op.eval(&EvalCx::default(), &inputs, 3)
        };
        let y = run(vec![1, 0]).unwrap();
        assert_eq!(&*y[2].to_f32().unwrap(), [1.0, 7.0, 1.0, 7.0]);
        assert_eq!(&*y[0].to_f32().unwrap(), [0.0, 2.0, 0.0, 2.0]);
        assert!(run(vec![2, 0]).is_err());
        assert!(run(vec![-1, 0]).is_err());
    }
}
