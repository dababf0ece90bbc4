//! `com.microsoft.MultiHeadAttention` 1: attention after its projections.
//!
//! Forms: query, key and value `[b, s, d]`; key and value as heads `[b, n, l, h]`, with no query
//! bias for them; key packed with value `[b, l, n, 2, h]`; all packed in the query
//! `[b, s, n, 3, h]`. The bias is that of the three projections, joined. Not evaluated: caches
//! that share a buffer, and `cache_indirection`.
//! Source: ONNX Runtime docs/ContribOperators.md, contrib_ops/cpu/bert/multihead_attention.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::attention_core::{Attention, Bias, Heads, Order, Stage};
use crate::contrib_norm::result;
use crate::dims::{len_of, times};
use crate::operands::{count, need, optional};
use crate::padding_mask::padding;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "MultiHeadAttention";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: MultiHeadAttention::parse }];

/// Attention of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadAttention {
    /// Heads.
    pub num_heads: usize,
    /// Added to the scores of keys that the mask hides.
    pub mask_filter_value: f32,
    /// Factor of the scores; 0 for `1 / sqrt(head size)`.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub unidirectional: bool,
}

impl MultiHeadAttention {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            num_heads: crate::nbits::size(reader, "num_heads")?,
            mask_filter_value: reader.float("mask_filter_value", -10000.0)?,
            scale: reader.float("scale", 0.0)?,
            unidirectional: reader.flag("unidirectional", false)?,
        }))
    }
}

/// `[batch, heads, past + new, size]`: the past, then new vectors with a bias `[heads, size]`.
pub(crate) fn joined(
    cx: &EvalCx,
    op: &str,
    batch: usize,
    past: Option<&Tensor>,
    new: Heads<'_>,
    bias: Option<&[f32]>,
) -> Result<(Vec<f32>, usize), EvalError> {
    let (heads, size) = (new.heads, new.size);
    let past_len = match past.map(Tensor::dims) {
        None => 0,
        Some(&[b, h, past, s]) if (b, h, s) == (batch, heads, size) => past,
        Some(other) => {
            return Err(TypeError::other(op, format!("past {other:?} does not fit")).into());
        }
    };
    let past = past.map(Tensor::to_f32).transpose()?;
    let len = past_len + new.len;
    let mut out = cx.pool.take(len_of(op, &[batch, heads, len, size])?)?;
    for (i, out) in out.chunks_exact_mut((len * size).max(1)).enumerate() {
        let (row, head) = (i / heads, i % heads);
        let (old, fresh) = out.split_at_mut(past_len * size);
        if let Some(past) = &past {
            old.copy_from_slice(&past[i * old.len()..][..old.len()]);
        }
        for (pos, x) in fresh.chunks_exact_mut(size).enumerate() {
            x.copy_from_slice(new.vector(row, head, pos));
            if let Some(bias) = bias {
                let bias = &bias[head * size..][..size];
                x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
    Ok((out, len))
}

/// Where queries, keys and values are, before the bias.
struct Parts<'a> {
    batch: usize,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    /// Whether keys and values are those of another step: they get no bias.
    is_cross: bool,
}

impl MultiHeadAttention {
    fn parts<'a>(
        &self,
        dims: [Option<&[usize]>; 3],
        data: [&'a [f32]; 3],
    ) -> Result<Parts<'a>, TypeError> {
        let n = self.num_heads;
        let wrong = || TypeError::other(NAME, format!("operands {dims:?} do not fit {n} heads"));
        // Parts of one buffer `[b, s, n, parts, h]`.
        let part = |data: &'a [f32], len: usize, parts: usize, size: usize, at: usize| Heads {
            data: data.get(at * size..).unwrap_or(&[]),
            strides: [len * n * parts * size, parts * size, n * parts * size],
            heads: n,
            len,
            size,
        };
        let flat = |data: &'a [f32], len: usize, width: usize| {
            Heads::bsnh(data, [len, width, 0], n, width / n)
        };
        let [q, k, v] = data;
        let parts = match dims {
            [Some(&[b, s, heads, 3, h]), None, None] if heads == n => Parts {
                batch: b,
                q: part(q, s, 3, h, 0),
                k: part(q, s, 3, h, 1),
                v: part(q, s, 3, h, 2),
                is_cross: false,
            },
            [Some(&[b, s, width]), Some(&[kb, l, heads, 2, h]), None]
                if (kb, heads, n * h) == (b, n, width) =>
            {
                let (k, v) = (part(k, l, 2, h, 0), part(k, l, 2, h, 1));
                Parts { batch: b, q: flat(q, s, width), k, v, is_cross: false }
            }
            [Some(&[b, s, width]), Some(&[kb, l, kd]), Some(&[vb, vl, vd])]
                if (kb, vb, vl, kd) == (b, b, l, width)
                    && width.is_multiple_of(n)
                    && vd.is_multiple_of(n) =>
            {
                let (k, v) = (flat(k, l, width), flat(v, l, vd));
                Parts { batch: b, q: flat(q, s, width), k, v, is_cross: false }
            }
            [Some(&[b, s, width]), Some(&[kb, kn, l, h]), Some(&[vb, vn, vl, vh])]
                if (kb, vb, kn, vn, vl, n * h) == (b, b, n, n, l, width) =>
            {
                let (k, v) = (Heads::bnsh(k, n, l, h), Heads::bnsh(v, n, l, vh));
                Parts { batch: b, q: flat(q, s, width), k, v, is_cross: true }
            }
            _ => return Err(wrong()),
        };
        Ok(parts)
    }
}

impl Op for MultiHeadAttention {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![
            ("num_heads".into(), Attr::Int(self.num_heads as i64)),
            ("mask_filter_value".into(), Attr::Float(self.mask_filter_value)),
        ];
        if self.scale != 0.0 {
            attrs.push(("scale".into(), Attr::Float(self.scale)));
        }
        if self.unidirectional {
            attrs.push(("unidirectional".into(), Attr::Int(1)));
        }
        attrs
    }

    /// `query: T[b, s, d], value: T[b, l, e]` gives `T[b, s, e]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 1, 10)?;
        let query = need(NAME, inputs, 0)?.ty;
        let value = optional(inputs, 2).map(|it| it.ty.shape());
        let width = match (query.shape(), value) {
            (Some([_, _, heads, _, size]), _) | (_, Some(Some([_, heads, _, size]))) => {
                heads.known().map_or(Dim::Unknown, |it| times(size, it))
            }
            (_, Some(Some([_, _, width]))) | (Some([_, _, width]), None) => width.clone(),
            _ => Dim::Unknown,
        };
        let shape = match query.shape() {
            Some([batch, len, ..]) => Some(vec![batch.clone(), len.clone(), width]),
            _ => None,
        };
        let mut types = vec![query.with_shape(shape)];
        types.resize(n_outputs.max(1), query.with_shape(None));
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        if optional(inputs, 8).is_some() || optional(inputs, 9).is_some() {
            return Err(EvalError::unsupported(self, "with a cache that shares its buffer"));
        }
        let query = need(NAME, inputs, 0)?;
        let floats = |index: usize| optional(inputs, index).map(Tensor::to_f32).transpose();
        let (q, k, v) = (query.to_f32()?, floats(1)?, floats(2)?);
        let dims = [0, 1, 2].map(|it| optional(inputs, it).map(Tensor::dims));
        let none: &[f32] = &[];
        let data = [&*q, k.as_deref().unwrap_or(none), v.as_deref().unwrap_or(none)];
        let Parts { batch, q, k, v, is_cross } = self.parts(dims, data)?;
        let (n, size, v_size, len) = (self.num_heads, q.size, v.size, q.len);
        let bias = floats(3)?;
        let bias = match &bias {
            None => [None; 3],
            Some(it) if it.len() == n * (2 * size + v_size) => {
                let (q, rest) = it.split_at(n * size);
                let (k, v) = rest.split_at(n * size);
                if is_cross { [Some(q), None, None] } else { [Some(q), Some(k), Some(v)] }
            }
            Some(_) => return Err(TypeError::other(NAME, "the bias does not fit").into()),
        };
        let biased;
        let q = match bias[0] {
            None => q,
            some => {
                biased = joined(cx, NAME, batch, None, q, some)?.0;
                Heads::bnsh(&biased, n, len, size)
            }
        };
        let (keys, total) = joined(cx, NAME, batch, optional(inputs, 6), k, bias[1])?;
        let (values, v_total) = joined(cx, NAME, batch, optional(inputs, 7), v, bias[2])?;
        if v_total != total {
            return Err(TypeError::other(NAME, "keys and values do not fit together").into());
        }
        let past = total - k.len;
        let score_dims = [batch, n, len, total];
        let mut biases = Vec::new();
        if let Some(it) = optional(inputs, 5) {
            biases.push(Bias::new(NAME, it.to_f32()?, it.dims(), score_dims)?);
        }
        if let Some(mask) = optional(inputs, 4) {
            biases.push(padding(NAME, mask, score_dims, self.mask_filter_value)?);
        }
        let is_causal = self.unidirectional && len > 1;
        let dims = vec![batch, len, n * v_size];
        let mut out = cx.pool.take(len_of(NAME, &dims)?)?;
        let mut scores = if n_outputs > 3 { vec![0.0; len_of(NAME, &score_dims)?] } else { vec![] };
        let attention = Attention {
            q,
            k: Heads::bnsh(&keys, n, total, size),
            v: Heads::bnsh(&values, n, total, v_size),
            scale: if self.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { self.scale },
            softcap: 0.0,
            biases,
            visible: |_, query| 0..if is_causal { past + query + 1 } else { total },
            sink: None,
            scores: (n_outputs > 3).then_some((Stage::Biased, &mut scores[..])),
        };
        attention.run(NAME, &mut out, Order::Bsnh)?;
        let mut results = vec![result(cx, NAME, query.dtype(), dims, out)?];
        if n_outputs > 1 {
            let dtype = query.dtype();
            results.push(result(cx, NAME, dtype, vec![batch, n, total, size], keys)?);
            results.push(result(cx, NAME, dtype, vec![batch, n, total, v_size], values)?);
        }
        if n_outputs > 3 {
            results.push(result(cx, NAME, query.dtype(), score_dims.to_vec(), scores)?);
        }
        results.truncate(n_outputs.max(1));
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(inputs: &[Option<&Tensor>], n_outputs: usize) -> Result<Vec<Tensor>, EvalError> {
        let attrs = vec![("num_heads".to_owned(), Attr::Int(2))];
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        let again = crate::parse("com.microsoft", NAME, 1, op.attrs()).unwrap();
        assert_eq!(again.is::<MultiHeadAttention>(), op.is::<MultiHeadAttention>());
        op.eval(&EvalCx::default(), inputs, n_outputs)
    }

    #[test]
    fn packed_forms_are_the_plain_one() {
        let (s, n, h) = (3usize, 2usize, 2usize);
        let at = |part: usize, i: usize| ((part * 17 + i * 5) % 13) as f32 / 6.0;
        let plain = [0, 1, 2].map(|part| {
            let values = (0..s * n * h).map(|i| at(part, i)).collect::<Vec<_>>();
            Tensor::from_vec(vec![1, s, n * h], values).unwrap()
        });
        let packed = |parts: std::ops::Range<usize>| {
            let mut values = Vec::new();
            for vector in 0..s * n {
                for part in parts.clone() {
                    values.extend((0..h).map(|i| at(part, vector * h + i)));
                }
            }
            Tensor::from_vec(vec![1, s, n, parts.len(), h], values).unwrap()
        };
        let want = run(&plain.each_ref().map(Some), 3).unwrap();
        assert_eq!(run(&[Some(&packed(0..3))], 3).unwrap(), want);
        assert_eq!(run(&[Some(&plain[0]), Some(&packed(1..3))], 3).unwrap(), want);
        let cross = run(&[Some(&plain[0]), Some(&want[1]), Some(&want[2])], 1).unwrap();
        assert_eq!(cross[0], want[0]);
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let x = Tensor::from_vec(vec![1, 2, 3], vec![0f32; 6]).unwrap();
        assert!(run(&[Some(&x), Some(&x), Some(&x)], 1).is_err());
        let y = Tensor::from_vec(vec![1, 2, 4], vec![0f32; 8]).unwrap();
        assert!(run(&[Some(&y), Some(&x), Some(&y)], 1).is_err());
        assert!(run(&[Some(&y)], 1).is_err());
    }
}
