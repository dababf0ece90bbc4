//! `com.microsoft.GroupQueryAttention` 1: causal attention with a cache, for decoders.
//!
//! `query` may hold queries, keys and values side by side. Each batch row has `seqlens_k + 1`
//! keys, the new ones last; with `do_rotary` queries and keys are rotated by their position. Not
//! evaluated: caches of codes or of a window, and scores as a result.
//! Source: ONNX Runtime docs/ContribOperators.md, contrib_ops/cpu/bert/gqa_attention_base.h.

mod past;

use std::sync::Arc;

use bytes::Bytes;
use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::attention_core::{Attention, Bias, Heads, Order};
use crate::contrib_norm::{Norm, Rows, result};
use crate::dims::{divided, len_of, times};
use crate::operands::{count, need, optional};
use crate::rotary::{Angles, Pairing};
use crate::{AttrError, AttrReader, OpDef};
use past::{PAST, Past};

const NAME: &str = "GroupQueryAttention";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: GroupQueryAttention::parse }];

/// Attention in which several heads of queries share one of keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupQueryAttention {
    /// Heads of queries.
    pub num_heads: usize,
    /// Heads of keys and values.
    pub kv_num_heads: usize,
    /// Factor of the scores; 0 for `1 / sqrt(head size)`.
    pub scale: f32,
    /// `c * tanh(score / c)` when positive.
    pub softcap: f32,
    /// Whether queries and keys are rotated, and which features are a pair.
    pub rotary: Option<Pairing>,
    /// Keys that a query sees, itself included; -1 for all.
    pub local_window_size: i64,
    /// 1 to add a score of 0 to each softmax; -1 is the default.
    pub smooth_softmax: i64,
    /// Whether a query sees later keys.
    pub causal: bool,
    /// Added to the mean square of queries and keys, when these have norms.
    pub qk_norm_epsilon: f32,
    /// Attributes about caches and results that are carried only.
    pub rest: Attrs,
}

/// Attributes that are carried, with the value under which evaluation may ignore them.
const CARRIED: [(&str, Attr); 5] = [
    ("qk_output", Attr::Int(0)),
    ("sliding_window_cache", Attr::Int(0)),
    ("kv_cache_bit_width", Attr::Int(0)),
    ("k_quant_type", Attr::Str(Bytes::from_static(b"NONE"))),
    ("v_quant_type", Attr::Str(Bytes::from_static(b"NONE"))),
];

impl GroupQueryAttention {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let heads = |name: &str| crate::nbits::size(reader, name);
        let (num_heads, kv_num_heads) = (heads("num_heads")?, heads("kv_num_heads")?);
        if !num_heads.is_multiple_of(kv_num_heads) {
            return Err(reader.error("kv_num_heads", "does not divide 'num_heads'"));
        }
        let is_interleaved = reader.flag("rotary_interleaved", false)?;
        let pairing = if is_interleaved { Pairing::Interleaved } else { Pairing::Halves };
        let mut rest = Attrs::new();
        for (name, default) in CARRIED {
            if let Some(it) = reader.get(name).filter(|&it| *it != default) {
                rest.push((name.to_owned(), it.clone()));
            }
        }
        Ok(Arc::new(Self {
            num_heads,
            kv_num_heads,
            scale: reader.float("scale", 0.0)?,
            softcap: reader.float("softcap", 0.0)?,
            rotary: reader.flag("do_rotary", false)?.then_some(pairing),
            local_window_size: reader.int("local_window_size", -1)?,
            smooth_softmax: reader.int("smooth_softmax", -1)?,
            causal: reader.flag("causal", true)?,
            qk_norm_epsilon: reader.float("qk_norm_epsilon", 1e-6)?,
            rest,
        }))
    }
}

/// Sizes of one evaluation.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    /// New positions.
    len: usize,
    /// Features of a head.
    size: usize,
    /// Positions of the past and present caches.
    past: usize,
    present: usize,
    /// Whether the query holds keys and values too.
    is_packed: bool,
}

impl GroupQueryAttention {
    fn sizes(
        &self,
        inputs: &[Option<&Tensor>],
        past: &[Option<Past<'_>>; 2],
    ) -> Result<Sizes, TypeError> {
        let wrong = |what: &str| TypeError::other(NAME, what);
        let query = need(NAME, inputs, 0)?;
        let [batch, len, width] = *query.dims() else {
            return Err(wrong("the query has rank 3"));
        };
        let (key, value) = (optional(inputs, 1), optional(inputs, 2));
        let (is_packed, heads) = match (key, value) {
            (None, None) => (true, self.num_heads + 2 * self.kv_num_heads),
            (Some(_), Some(_)) => (false, self.num_heads),
            _ => return Err(wrong("key and value come together")),
        };
        if !width.is_multiple_of(heads) {
            return Err(wrong("heads do not divide the query"));
        }
        let size = width / heads;
        let kv_dims = [batch, len, self.kv_num_heads * size];
        if [key, value].into_iter().flatten().any(|it| it.dims() != kv_dims) {
            return Err(wrong("key or value do not fit the query"));
        }
        let past = match past.each_ref().map(|it| it.as_ref().map(Past::tensor)) {
            [None, None] => 0,
            [Some(key), Some(value)] => match *key.dims() {
                [b, h, past, s]
                    if (b, h, s) == (batch, self.kv_num_heads, size)
                        && key.dims() == value.dims() =>
                {
                    past
                }
                _ => return Err(wrong("the past does not fit the query")),
            },
            _ => return Err(wrong("past key and value come together")),
        };
        let total = need(NAME, inputs, 6)?.to_i64().map_err(|it| wrong(&it.to_string()))?;
        let total = match *total {
            [it] => usize::try_from(it).map_err(|_| wrong("total_sequence_length is negative"))?,
            _ => return Err(wrong("total_sequence_length is one number")),
        };
        // New keys are at most `len` beyond the past, so a hostile total allocates nothing.
        if total > past.saturating_add(len) {
            return Err(wrong("total_sequence_length is beyond past and query"));
        }
        Ok(Sizes { batch, len, size, past, present: past.max(total), is_packed })
    }

    /// First position of the new tokens of each batch row, and its number of keys.
    fn spans(
        &self,
        inputs: &[Option<&Tensor>],
        at: &Sizes,
    ) -> Result<Vec<(usize, usize)>, EvalError> {
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        let lens = need(NAME, inputs, 5)?.to_i64()?;
        let total = need(NAME, inputs, 6)?.to_i64()?;
        if lens.len() != at.batch {
            return Err(wrong("seqlens_k has one number for each batch row"));
        }
        let is_prompt = total.first() == Some(&(at.len as i64));
        lens.iter()
            .map(|&last| {
                let keys = last.checked_add(1).and_then(|it| usize::try_from(it).ok());
                let keys = keys.filter(|&it| it <= at.present);
                let keys = keys.ok_or_else(|| wrong("seqlens_k is beyond the cache"))?;
                // Rows of a prompt that are shorter are padded behind.
                let first = if is_prompt { Some(0) } else { keys.checked_sub(at.len) };
                let first = first.filter(|it| it + at.len <= at.present);
                Ok((first.ok_or_else(|| wrong("seqlens_k is less than the query"))?, keys))
            })
            .collect()
    }
}

impl Op for GroupQueryAttention {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![
            ("num_heads".into(), Attr::Int(self.num_heads as i64)),
            ("kv_num_heads".into(), Attr::Int(self.kv_num_heads as i64)),
        ];
        let ints = [
            ("do_rotary", i64::from(self.rotary.is_some()), 0),
            ("rotary_interleaved", i64::from(self.rotary == Some(Pairing::Interleaved)), 0),
            ("local_window_size", self.local_window_size, -1),
            ("smooth_softmax", self.smooth_softmax, -1),
            ("causal", i64::from(self.causal), 1),
        ];
        let floats = [
            ("scale", self.scale, 0.0),
            ("softcap", self.softcap, 0.0),
            ("qk_norm_epsilon", self.qk_norm_epsilon, 1e-6),
        ];
        for (name, value, default) in ints {
            if value != default {
                attrs.push((name.into(), Attr::Int(value)));
            }
        }
        for (name, value, default) in floats {
            if value != default {
                attrs.push((name.into(), Attr::Float(value)));
            }
        }
        attrs.extend(self.rest.iter().cloned());
        attrs
    }

    /// `query: T[b, s, d]` gives `T[b, s, heads * size]` and caches `T[b, kv heads, ?, size]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 1, 16)?;
        let query = need(NAME, inputs, 0)?.ty;
        let mut types = vec![Type::Unknown; n_outputs.max(1)];
        let shape = match query.shape() {
            Some([batch, len, width]) => {
                let is_packed = optional(inputs, 1).is_none();
                let others = if is_packed { 2 * self.kv_num_heads } else { 0 };
                let size = divided(NAME, width, self.num_heads + others)?;
                let out = if is_packed { times(&size, self.num_heads) } else { width.clone() };
                let cache = |past: usize| {
                    let fallback =
                        [batch.clone(), Dim::Known(self.kv_num_heads), Dim::Unknown, size.clone()];
                    let past = optional(inputs, past).map(|it| it.ty.dtype());
                    Type::partial(past.unwrap_or(query.dtype()), Some(fallback.to_vec()))
                };
                for (output, past) in [(1, 3), (2, 4)] {
                    if let Some(ty) = types.get_mut(output) {
                        *ty = cache(past);
                    }
                }
                Some(vec![batch.clone(), len.clone(), out])
            }
            Some(other) => {
                let (op, want) = (NAME.into(), "3".into());
                return Err(TypeError::Rank { op, index: 0, want, got: other.len() });
            }
            None => None,
        };
        types[0] = query.with_shape(shape);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let past = PAST.map(|at| optional(inputs, at).map(Past::Read));
        self.run(cx, inputs, past, n_outputs)
    }

    fn takes(&self) -> &'static [usize] {
        &PAST
    }

    fn eval_taking(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        taken: Vec<(usize, Tensor)>,
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let mut past = PAST.map(|at| optional(inputs, at).map(Past::Read));
        for (at, tensor) in taken {
            if let Some(idx) = PAST.iter().position(|it| *it == at) {
                past[idx] = Some(Past::Taken(tensor));
            }
        }
        self.run(cx, inputs, past, n_outputs)
    }
}

impl GroupQueryAttention {
    fn run(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        past: [Option<Past<'_>>; 2],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        if let Some((name, _)) = self.rest.first() {
            return Err(EvalError::unsupported(self, format!("with {name}")));
        }
        if n_outputs > 3 || optional(inputs, 12).is_some() || optional(inputs, 13).is_some() {
            return Err(EvalError::unsupported(self, "with scores, or a cache of codes"));
        }
        let at = self.sizes(inputs, &past)?;
        let spans = self.spans(inputs, &at)?;
        let Sizes { batch, len, size, present, is_packed, .. } = at;
        let (heads, kv_heads) = (self.num_heads, self.kv_num_heads);
        let dtype = need(NAME, inputs, 0)?.dtype();
        let query = need(NAME, inputs, 0)?.to_f32()?;
        let (key, value) = match (optional(inputs, 1), optional(inputs, 2)) {
            (Some(key), Some(value)) => (key.to_f32()?, value.to_f32()?),
            _ => (query.clone(), query.clone()),
        };
        let kv_width = if is_packed { heads + 2 * kv_heads } else { kv_heads } * size;
        let (first_key, first_value) =
            if is_packed { (heads * size, (heads + kv_heads) * size) } else { (0, 0) };
        let new_keys = Heads::bsnh(&key, [len, kv_width, first_key], kv_heads, size);
        let new_values = Heads::bsnh(&value, [len, kv_width, first_value], kv_heads, size);
        let q_width = if is_packed { kv_width } else { heads * size };
        let plain = Heads::bsnh(&query, [len, q_width, 0], heads, size);

        let angles = match (self.rotary, optional(inputs, 7), optional(inputs, 8)) {
            (None, ..) => None,
            (Some(pairing), Some(cos), Some(sin)) => Some((pairing, Angles::new(NAME, cos, sin)?)),
            _ => return Err(TypeError::other(NAME, "rotation needs both caches").into()),
        };
        let mut positions = vec![0; batch * len];
        if let Some((_, angles)) = &angles {
            if angles.size() > size {
                return Err(TypeError::other(NAME, "caches are wider than a head").into());
            }
            let given = optional(inputs, 9).map(Tensor::to_i64).transpose()?;
            if given.as_ref().is_some_and(|it| it.len() != batch * len) {
                return Err(TypeError::other(NAME, "position ids do not fit the query").into());
            }
            for (i, to) in positions.iter_mut().enumerate() {
                let (first, keys) = spans[i / len];
                let position = match &given {
                    Some(it) => it[i],
                    // Padding behind a short row of a prompt is at position 1, in its own way.
                    None if first + i % len >= keys => 1,
                    None => (first + i % len) as i64,
                };
                *to = angles.position(NAME, position)?;
            }
        }
        let norms = match (optional(inputs, 14), optional(inputs, 15)) {
            (Some(q), Some(k)) => Some((q.to_f32()?, k.to_f32()?)),
            _ => None,
        };
        if norms.as_ref().is_some_and(|(q, k)| q.len() != size || k.len() != size) {
            return Err(TypeError::other(NAME, "norm weights do not fit a head").into());
        }
        let change = |scale: Option<&[f32]>, row: usize, pos: usize, head: &mut [f32]| {
            if let Some(scale) = scale {
                let epsilon = self.qk_norm_epsilon;
                let factor = Rows { norm: Norm::Rms, epsilon, scale, shift: None }.moments(head).1;
                head.iter_mut().zip(scale).for_each(|(x, scale)| *x = *x * factor * scale);
            }
            if let Some((pairing, angles)) = &angles {
                angles.rotate(*pairing, positions[row * len + pos], head);
            }
        };
        let [past_key, past_value] = past;
        let keys = self.present(cx, &at, &spans, past_key, new_keys, |row, pos, x| {
            change(norms.as_ref().map(|it| &*it.1), row, pos, x);
        })?;
        let values = self.present(cx, &at, &spans, past_value, new_values, |_, _, _| {})?;
        let mut turned = Vec::new();
        let q = if angles.is_some() || norms.is_some() {
            turned = cx.pool.take(len_of(NAME, &[batch, len, heads, size])?)?;
            for (i, x) in turned.chunks_exact_mut(size.max(1)).enumerate() {
                let (row, pos, head) = (i / (heads * len), i / heads % len, i % heads);
                x.copy_from_slice(plain.vector(row, head, pos));
                change(norms.as_ref().map(|it| &*it.0), row, pos, x);
            }
            Heads::bsnh(&turned, [len, heads * size, 0], heads, size)
        } else {
            plain
        };
        let scores_dims = [batch, heads, len, present];
        let biases = match optional(inputs, 10) {
            Some(it) => vec![Bias::new(NAME, it.to_f32()?, it.dims(), scores_dims)?],
            None => Vec::new(),
        };
        let sink = optional(inputs, 11).map(Tensor::to_f32).transpose()?;
        let sink = match sink {
            Some(it) => Some(it),
            None => (self.smooth_softmax == 1).then(|| vec![0.0].into()),
        };
        let window = usize::try_from(self.local_window_size).ok();
        let visible = |row: usize, pos: usize| {
            let (first, keys) = spans[row];
            let end = if self.causal { (first + pos + 1).min(keys) } else { keys };
            let start = window.map_or(0, |it| (first + pos + 1).saturating_sub(it));
            start.min(end)..end
        };
        let dims = vec![batch, len, heads * size];
        let mut out = cx.pool.take(len_of(NAME, &dims)?)?;
        let attention = Attention {
            q,
            k: Heads::bnsh(&keys, kv_heads, present, size),
            v: Heads::bnsh(&values, kv_heads, present, size),
            scale: if self.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { self.scale },
            softcap: self.softcap,
            biases,
            visible,
            sink: sink.as_deref(),
            scores: None,
        };
        attention.run(NAME, &mut out, Order::Bsnh)?;
        drop(turned);
        let mut results = vec![result(cx, NAME, dtype, dims, out)?];
        if n_outputs > 1 {
            let dims = vec![batch, kv_heads, present, size];
            results.push(result(cx, NAME, dtype, dims.clone(), keys)?);
            results.push(result(cx, NAME, dtype, dims, values)?);
        }
        results.truncate(n_outputs.max(1));
        Ok(results)
    }
}

#[cfg(test)]
mod tests;
