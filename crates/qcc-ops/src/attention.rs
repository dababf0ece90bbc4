//! `Attention` (ONNX opset 23 to 25): `softmax(softcap(scale * Q * K') + mask) * V`.
//!
//! Q, K and V are `[b, n, s, h]`, or `[b, s, n * h]` with the numbers of heads as attributes. A
//! causal query `i` sees keys up to `i + past`; with `nonpad_kv_seqlen` (opset 24) up to
//! `i + nonpad - queries`. Windows (opset 25) bound the distance of a query to its keys. A query
//! that sees nothing gives zeros. Computed in f32 whatever `softmax_precision` asks for.
//! Source: onnx/defs/nn/defs.cc, Attention-25.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::attention_core::{self, Bias, Heads, Order, Stage};
use crate::contrib_norm::result;
use crate::dims::{divided, len_of, sum, times};
use crate::multi_head::joined;
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

const NAME: &str = "Attention";

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: NAME, parse: Attention::parse }];

/// Attention of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Heads of Q of rank 3; 0 when not given.
    pub q_num_heads: usize,
    /// Heads of K and V of rank 3; 0 when not given.
    pub kv_num_heads: usize,
    /// Factor of the scores; `1 / sqrt(h)` when not given.
    pub scale: Option<f32>,
    /// `c * tanh(score / c)` when positive.
    pub softcap: f32,
    /// Whether a query sees only keys up to its own position.
    pub is_causal: bool,
    /// Keys that a query sees before its own position; -1 for all.
    pub left_window_size: i64,
    /// Keys that a query sees after its own position; -1 for all.
    pub right_window_size: i64,
    /// Which scores are result 3: 0 products, 1 after the softcap, 2 after the mask, 3 softmax.
    pub qk_matmul_output_mode: i64,
    /// ONNX code of the type of the softmax; carried.
    pub softmax_precision: Option<i64>,
}

impl Attention {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let heads = |name: &str| -> Result<usize, AttrError> {
            usize::try_from(reader.int(name, 0)?).map_err(|_| reader.error(name, "is negative"))
        };
        let window = |name: &str| match reader.int(name, -1)? {
            it @ -1.. => Ok(it),
            _ => Err(reader.error(name, "is less than -1")),
        };
        let qk_matmul_output_mode = reader.int("qk_matmul_output_mode", 0)?;
        if !(0..=3).contains(&qk_matmul_output_mode) {
            return Err(reader.error("qk_matmul_output_mode", "is not 0 to 3"));
        }
        Ok(Arc::new(Self {
            q_num_heads: heads("q_num_heads")?,
            kv_num_heads: heads("kv_num_heads")?,
            scale: reader.opt_float("scale")?,
            softcap: reader.float("softcap", 0.0)?,
            is_causal: reader.flag("is_causal", false)?,
            left_window_size: window("left_window_size")?,
            right_window_size: window("right_window_size")?,
            qk_matmul_output_mode,
            softmax_precision: reader.opt_int("softmax_precision")?,
        }))
    }

    fn stage(&self) -> Stage {
        match self.qk_matmul_output_mode {
            0 => Stage::Product,
            1 => Stage::Capped,
            2 => Stage::Biased,
            _ => Stage::Softmax,
        }
    }
}

/// Batch, heads, positions and features of an operand.
fn split(shape: &[Dim], heads: usize) -> Result<[Dim; 4], TypeError> {
    match shape {
        [b, n, s, h] => Ok([b.clone(), n.clone(), s.clone(), h.clone()]),
        [b, s, width] => {
            let size = divided(NAME, width, heads)?;
            Ok([b.clone(), Dim::Known(heads), s.clone(), size])
        }
        other => {
            let (op, want) = (NAME.into(), "3 or 4".into());
            Err(TypeError::Rank { op, index: 0, want, got: other.len() })
        }
    }
}

fn heads<'a>(
    data: &'a [f32],
    dims: &[usize],
    count: usize,
) -> Result<(usize, Heads<'a>), TypeError> {
    match *dims {
        [b, n, s, h] => Ok((b, Heads::bnsh(data, n, s, h))),
        [b, s, width] if count > 0 && width.is_multiple_of(count) => {
            Ok((b, Heads::bsnh(data, [s, width, 0], count, width / count)))
        }
        _ => Err(TypeError::other(NAME, format!("{dims:?} is not {count} heads"))),
    }
}

impl Op for Attention {
    fn name(&self) -> &str {
        NAME
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        for (name, value) in [
            ("q_num_heads", self.q_num_heads as i64),
            ("kv_num_heads", self.kv_num_heads as i64),
            ("is_causal", i64::from(self.is_causal)),
            ("qk_matmul_output_mode", self.qk_matmul_output_mode),
        ] {
            if value != 0 {
                attrs.push((name.into(), Attr::Int(value)));
            }
        }
        for (name, value) in [
            ("left_window_size", self.left_window_size),
            ("right_window_size", self.right_window_size),
        ] {
            if value != -1 {
                attrs.push((name.into(), Attr::Int(value)));
            }
        }
        if let Some(it) = self.scale {
            attrs.push(("scale".into(), Attr::Float(it)));
        }
        if self.softcap != 0.0 {
            attrs.push(("softcap".into(), Attr::Float(self.softcap)));
        }
        if let Some(it) = self.softmax_precision {
            attrs.push(("softmax_precision".into(), Attr::Int(it)));
        }
        attrs
    }

    /// `q: T[b, n, s, h], k: T[b, m, l, h], v: U[b, m, l, e]` gives `T[b, n, s, e]`, caches
    /// `T[b, m, p + l, h]` and `U[b, m, p + l, e]`, and scores `T[b, n, s, p + l]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 3, 7)?;
        let [q, k, v] =
            [need(NAME, inputs, 0)?.ty, need(NAME, inputs, 1)?.ty, need(NAME, inputs, 2)?.ty];
        let (Some(q_dims), Some(k_dims), Some(v_dims)) = (q.shape(), k.shape(), v.shape()) else {
            let mut types = vec![q.with_shape(None), k.with_shape(None), v.with_shape(None)];
            types.resize(n_outputs.max(1), q.with_shape(None));
            return Ok(types);
        };
        let is_flat = q_dims.len() == 3;
        let [b, n, s, _] = split(q_dims, self.q_num_heads)?;
        let [_, m, l, h] = split(k_dims, self.kv_num_heads)?;
        let [_, _, _, e] = split(v_dims, self.kv_num_heads)?;
        let past = match optional(inputs, 4) {
            None => Dim::Known(0),
            Some(it) => match it.ty.shape() {
                Some([_, _, past, _]) => past.clone(),
                _ => Dim::Unknown,
            },
        };
        let total = sum(&past, &l);
        let out = if is_flat {
            vec![b.clone(), s.clone(), n.known().map_or(Dim::Unknown, |n| times(&e, n))]
        } else {
            vec![b.clone(), n.clone(), s.clone(), e.clone()]
        };
        let mut types = vec![
            q.with_shape(Some(out)),
            k.with_shape(Some(vec![b.clone(), m.clone(), total.clone(), h])),
            v.with_shape(Some(vec![b.clone(), m, total.clone(), e])),
            q.with_shape(Some(vec![b, n, s, total])),
        ];
        types.resize(n_outputs.max(1), Type::Unknown);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        let [q_in, k_in, v_in] =
            [need(NAME, inputs, 0)?, need(NAME, inputs, 1)?, need(NAME, inputs, 2)?];
        let (q_data, k_data, v_data) = (q_in.to_f32()?, k_in.to_f32()?, v_in.to_f32()?);
        let (batch, q) = heads(&q_data, q_in.dims(), self.q_num_heads)?;
        let (k_batch, k) = heads(&k_data, k_in.dims(), self.kv_num_heads)?;
        let (v_batch, v) = heads(&v_data, v_in.dims(), self.kv_num_heads)?;
        if (k_batch, v_batch, v.len) != (batch, batch, k.len) {
            return Err(wrong("queries, keys and values do not fit together"));
        }
        let (past_k, past_v) = (optional(inputs, 4), optional(inputs, 5));
        if past_k.is_some() != past_v.is_some() {
            return Err(wrong("past key and value come together"));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let (mut k, mut v) = (k, v);
        let mut past = 0;
        if past_k.is_some() || n_outputs > 1 {
            let (total, v_total);
            (keys, total) = joined(cx, NAME, batch, past_k, k, None)?;
            (values, v_total) = joined(cx, NAME, batch, past_v, v, None)?;
            if total != v_total {
                return Err(wrong("keys and values do not fit together"));
            }
            past = total - k.len;
            k = Heads::bnsh(&keys, k.heads, total, k.size);
            v = Heads::bnsh(&values, v.heads, total, v.size);
        }
        let total = k.len;
        let score_dims = [batch, q.heads, q.len, total];
        let mut biases = Vec::new();
        if let Some(mask) = optional(inputs, 3) {
            let data: Cow<'_, [f32]> = if mask.dtype() == DType::Bool {
                let hidden = |&it: &u8| if it == 0 { f32::NEG_INFINITY } else { 0.0 };
                mask.as_bools()?.iter().map(hidden).collect()
            } else {
                mask.to_f32()?
            };
            biases.push(Bias::new(NAME, data, mask.dims(), score_dims)?);
        }
        // Keys of each batch row, and how many of them come before the first query.
        let spans: Vec<(usize, i64)> = match optional(inputs, 6) {
            None => vec![(total, past as i64); batch],
            Some(it) => {
                let counts = it.to_i64()?;
                if counts.len() != batch {
                    return Err(wrong("nonpad_kv_seqlen has one number for each batch row"));
                }
                let span = |&count: &i64| {
                    let keys = usize::try_from(count).ok().filter(|&it| it <= total);
                    keys.map(|keys| {
                        (keys, if past > 0 { past as i64 } else { count - q.len as i64 })
                    })
                };
                let spans = counts.iter().map(span).collect::<Option<Vec<_>>>();
                spans.ok_or_else(|| wrong("nonpad_kv_seqlen is beyond the keys"))?
            }
        };
        let right = if self.is_causal { 0 } else { self.right_window_size };
        let visible = |row: usize, query: usize| {
            let (keys, before) = spans[row];
            let position = query as i64 + before;
            let cut = |it: i64| usize::try_from(it).unwrap_or(0).min(keys);
            let end = if right < 0 {
                keys
            } else {
                cut(position.saturating_add(right).saturating_add(1))
            };
            let start = match self.left_window_size {
                left @ 0.. => cut(position.saturating_sub(left)),
                _ => 0,
            };
            start.min(end)..end
        };
        let dims = match q_in.rank() {
            3 => vec![batch, q.len, q.heads * v.size],
            _ => vec![batch, q.heads, q.len, v.size],
        };
        let order = if q_in.rank() == 3 { Order::Bsnh } else { Order::Bnsh };
        let mut out = cx.pool.take(len_of(NAME, &dims)?)?;
        let mut scores = if n_outputs > 3 { vec![0.0; len_of(NAME, &score_dims)?] } else { vec![] };
        let (k_dims, v_dims) =
            (vec![batch, k.heads, total, k.size], vec![batch, v.heads, total, v.size]);
        let attention = attention_core::Attention {
            q,
            k,
            v,
            scale: self.scale.unwrap_or(1.0 / (q.size as f32).sqrt()),
            softcap: self.softcap,
            biases,
            visible,
            sink: None,
            scores: (n_outputs > 3).then_some((self.stage(), &mut scores[..])),
        };
        attention.run(NAME, &mut out, order)?;
        let mut results = vec![result(cx, NAME, q_in.dtype(), dims, out)?];
        if n_outputs > 1 {
            results.push(result(cx, NAME, k_in.dtype(), k_dims, keys)?);
            results.push(result(cx, NAME, v_in.dtype(), v_dims, values)?);
        }
        if n_outputs > 3 {
            results.push(result(cx, NAME, q_in.dtype(), score_dims.to_vec(), scores)?);
        }
        results.truncate(n_outputs.max(1));
        Ok(results)
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::attention(self, b, io, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(attrs: Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<f32>, EvalError> {
        let op = crate::parse("", NAME, 24, attrs).unwrap();
        let again = crate::parse("", NAME, 24, op.attrs()).unwrap();
        assert_eq!(again.is::<Attention>(), op.is::<Attention>());
        Ok(op.eval(&EvalCx::default(), inputs, 1)?[0].to_f32()?.to_vec())
    }

    #[test]
    fn causal_queries_before_all_keys_give_zeros() {
        let causal = vec![("is_causal".to_owned(), Attr::Int(1))];
        let x = Tensor::from_vec(vec![1, 1, 3, 1], vec![1f32, 2.0, 3.0]).unwrap();
        let zeros = Tensor::from_vec(vec![1, 1, 3, 1], vec![0f32; 3]).unwrap();
        let seen = Tensor::vector(vec![2i64]);
        let inputs = [Some(&zeros), Some(&zeros), Some(&x), None, None, None, Some(&seen)];
        assert_eq!(run(causal.clone(), &inputs).unwrap(), [0.0, 1.0, 1.5]);
        assert_eq!(run(causal, &inputs[..3]).unwrap(), [1.0, 1.5, 2.0]);
        assert_eq!(run(Attrs::new(), &inputs).unwrap(), [1.5, 1.5, 1.5]);
    }

    #[test]
    fn short_masks_hide_the_rest_and_wide_ones_are_refused() {
        let x = Tensor::from_vec(vec![1, 1, 3, 1], vec![1f32, 2.0, 3.0]).unwrap();
        let zeros = Tensor::from_vec(vec![1, 1, 3, 1], vec![0f32; 3]).unwrap();
        let mask =
            Tensor::from_bools(vec![3, 2], &[true, true, false, true, false, false]).unwrap();
        let inputs = [Some(&zeros), Some(&zeros), Some(&x), Some(&mask)];
        assert_eq!(run(Attrs::new(), &inputs).unwrap(), [1.5, 2.0, 0.0]);
        let mask = Tensor::from_bools(vec![4], &[true; 4]).unwrap();
        let inputs = [Some(&zeros), Some(&zeros), Some(&x), Some(&mask)];
        assert!(run(Attrs::new(), &inputs).is_err());
    }
}
