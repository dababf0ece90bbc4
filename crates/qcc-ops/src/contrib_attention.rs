//! `com.microsoft.Attention` 1: projections of one input, then attention of heads.
//!
//! `Q|K|V = input * weights + bias`; the cache is `[2, b, n, l, h]`, keys first. Not evaluated:
//! rotation inside the operator and caches that share a buffer.
//! Source: ONNX Runtime docs/ContribOperators.md, contrib_ops/cpu/bert/attention.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::attention_core::{Attention, Bias, Heads, Order};
use crate::contrib_norm::result;
use crate::dims::len_of;
use crate::multi_head::{MultiHeadAttention, joined};
use crate::operands::{count, need, optional};
use crate::padding_mask::padding;
use crate::product::{Mat, MatMut, par_product};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "Attention";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: ContribAttention::parse }];

/// Attention with its projections.
#[derive(Clone, Debug, PartialEq)]
pub struct ContribAttention {
    /// Heads.
    pub num_heads: usize,
    /// Widths of Q, K and V; empty when they are equal.
    pub qkv_hidden_sizes: Vec<i64>,
    /// Added to the scores of keys that the mask hides.
    pub mask_filter_value: f32,
    /// Factor of the scores; 0 for `1 / sqrt(head size)`.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub unidirectional: bool,
    /// Whether queries and keys are rotated; not evaluated.
    pub do_rotary: bool,
    /// Features that are rotated; 0 for all.
    pub rotary_embedding_dim: i64,
    /// Whether the caches are one buffer; not evaluated.
    pub past_present_share_buffer: bool,
}

/// An [`ContribAttention`] in parts: the product `MatMul(input, weights)`, the bias added to it, its
/// columns as queries, keys and values, and attention of those, with the same mask and attention bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Parted {
    /// Columns of the queries, of the keys and of the values, in this order.
    pub widths: [usize; 3],
    /// What attends to them.
    pub heads: MultiHeadAttention,
}

impl ContribAttention {
    /// The operator in parts. `types` are those of its operands, `is_cached` says whether its second
    /// result is read.
    ///
    /// # Errors
    /// What it has that `MultiHeadAttention` cannot be given.
    pub fn parted(&self, types: &[Option<&Type>], is_cached: bool) -> Result<Parted, &'static str> {
        let ty = |index: usize| types.get(index).copied().flatten();
        let dim = |index: usize, axis: usize| ty(index)?.shape()?.get(axis);
        if self.do_rotary {
            return Err("rotation");
        }
        if is_cached || self.past_present_share_buffer || ty(4).is_some() || ty(6).is_some() {
            return Err("a cache");
        }
        let is_matrix = ty(1).and_then(Type::rank) == Some(2);
        let columns = dim(1, 1).filter(|_| is_matrix).and_then(Dim::known);
        let columns = columns.ok_or("weights of unknown width")?;
        let [qk, v] =
            self.widths(columns).map_err(|_| "weights of another width than its heads")?;
        if let Some(mask) = ty(3) {
            // A number for all keys of a sequence hides nothing, and is no mask elsewhere.
            let is_dummy = |axis: usize| {
                dim(3, axis) == Some(&Dim::Known(1)) && dim(0, axis) != Some(&Dim::Known(1))
            };
            match mask.rank() {
                // Behind the numbers of keys there may be those of the first ones.
                Some(1) if is_same(dim(3, 0), dim(0, 0)) => {}
                Some(1) => return Err("a mask of one axis that is not known to be the batch"),
                Some(2) if is_dummy(0) || is_dummy(1) => {
                    return Err("a mask of one number for all keys");
                }
                Some(2 | 3) => {}
                Some(_) => return Err("a mask of four axes"),
                None => return Err("a mask of unknown rank"),
            }
        }
        let heads = MultiHeadAttention {
            num_heads: self.num_heads,
            mask_filter_value: self.mask_filter_value,
            scale: self.scale,
            unidirectional: self.unidirectional,
        };
        Ok(Parted { widths: [qk, qk, v], heads })
    }

    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let qkv_hidden_sizes = reader.ints("qkv_hidden_sizes")?;
        let is_good = match *qkv_hidden_sizes {
            [] => true,
            [q, k, v] => q > 0 && q == k && v > 0,
            _ => false,
        };
        if !is_good {
            return Err(reader.error("qkv_hidden_sizes", "is not three sizes, two of them equal"));
        }
        Ok(Arc::new(Self {
            num_heads: crate::nbits::size(reader, "num_heads")?,
            qkv_hidden_sizes,
            mask_filter_value: reader.float("mask_filter_value", -10000.0)?,
            scale: reader.float("scale", 0.0)?,
            unidirectional: reader.flag("unidirectional", false)?,
            do_rotary: reader.flag("do_rotary", false)?,
            rotary_embedding_dim: reader.int("rotary_embedding_dim", 0)?,
            past_present_share_buffer: reader.flag("past_present_share_buffer", false)?,
        }))
    }

    /// Widths of Q (or K) and of V within weights of `width` columns.
    fn widths(&self, width: usize) -> Result<[usize; 2], TypeError> {
        let n = self.num_heads;
        let sizes = match *self.qkv_hidden_sizes {
            [q, _, v] => [q, v].map(|it| usize::try_from(it).unwrap_or(0)),
            _ => [width / 3; 2],
        };
        let [q, v] = sizes;
        if q.checked_mul(2).and_then(|it| it.checked_add(v)) == Some(width)
            && sizes.iter().all(|it| it.is_multiple_of(n))
        {
            return Ok(sizes);
        }
        Err(TypeError::other(NAME, format!("{width} columns are not Q, K and V of {n} heads")))
    }
}

/// Whether two dimensions are known to be equal.
fn is_same(a: Option<&Dim>, b: Option<&Dim>) -> bool {
    a.is_some() && a == b && a != Some(&Dim::Unknown)
}

impl Op for ContribAttention {
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
        if !self.qkv_hidden_sizes.is_empty() {
            attrs.push(("qkv_hidden_sizes".into(), self.qkv_hidden_sizes.clone().into()));
        }
        if self.scale != 0.0 {
            attrs.push(("scale".into(), Attr::Float(self.scale)));
        }
        for (name, value) in [
            ("unidirectional", i64::from(self.unidirectional)),
            ("do_rotary", i64::from(self.do_rotary)),
            ("rotary_embedding_dim", self.rotary_embedding_dim),
            ("past_present_share_buffer", i64::from(self.past_present_share_buffer)),
        ] {
            if value != 0 {
                attrs.push((name.into(), Attr::Int(value)));
            }
        }
        attrs
    }

    /// `input: T[b, s, d], weights: T[d, 2q + v]` gives `T[b, s, v]` and `T[2, b, n, ?, h]`.
    fn infer(
        &self,
        inputs: &[Option<Input<'_>>],
        n_outputs: usize,
    ) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 2, 7)?;
        let (input, weights) = (need(NAME, inputs, 0)?.ty, need(NAME, inputs, 1)?.ty);
        let width = weights.shape().and_then(<[Dim]>::last).and_then(Dim::known);
        let width = width.map(|it| self.widths(it)).transpose()?.map(|it| it[1]);
        let (mut out, mut cache) = (input.with_shape(None), input.with_shape(None));
        if let (Some([batch, len, _]), Some(width)) = (input.shape(), width) {
            out = input.with_shape(Some(vec![batch.clone(), len.clone(), Dim::Known(width)]));
            cache = input.with_shape(Some(vec![
                Dim::Known(2),
                batch.clone(),
                Dim::Known(self.num_heads),
                Dim::Unknown,
                Dim::Known(width / self.num_heads),
            ]));
        }
        let mut types = vec![out, cache];
        types.resize(n_outputs.max(1), Type::Unknown);
        Ok(types)
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        n_outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        if self.do_rotary || self.past_present_share_buffer || optional(inputs, 6).is_some() {
            return Err(EvalError::unsupported(self, "with rotation or a shared buffer"));
        }
        let wrong = |what: &str| EvalError::from(TypeError::other(NAME, what));
        let (input, weights) = (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?);
        let ([batch, len, depth], [rows, width]) = (input.dims(), weights.dims()) else {
            return Err(wrong("input and weights have rank 3 and 2"));
        };
        let (batch, len, depth, width) = (*batch, *len, *depth, *width);
        if depth != *rows {
            return Err(wrong("input and weights do not fit together"));
        }
        let [qk, v] = self.widths(width)?;
        let (x, w) = (input.to_f32()?, weights.to_f32()?);
        let mut qkv = cx.pool.take(len_of(NAME, &[batch, len, width])?)?;
        let (x, w) = (Mat::new(&x, batch * len, depth), Mat::new(&w, depth, width));
        par_product(MatMut::new(&mut qkv, batch * len, width), x, w, 1.0);
        if let Some(bias) = optional(inputs, 2) {
            let bias = bias.to_f32()?;
            if bias.len() != width {
                return Err(wrong("bias and weights do not fit together"));
            }
            for row in qkv.chunks_exact_mut(width.max(1)) {
                row.iter_mut().zip(bias.iter()).for_each(|(x, b)| *x += b);
            }
        }
        let n = self.num_heads;
        let (size, v_size) = (qk / n, v / n);
        let heads = |first: usize, size: usize| Heads::bsnh(&qkv, [len, width, first], n, size);
        let halves = match optional(inputs, 4) {
            None => None,
            Some(past) => match *past.dims() {
                [2, b, heads, count, s] if (b, heads, s) == (batch, n, size) && size == v_size => {
                    let values = past.to_f32()?;
                    let (keys, rest) = values.split_at(values.len() / 2);
                    let half = |it: &[f32]| Tensor::from_vec(vec![b, heads, count, s], it.to_vec());
                    Some((half(keys)?, half(rest)?))
                }
                _ => return Err(wrong("the past does not fit")),
            },
        };
        let (old_keys, old_values) =
            (halves.as_ref().map(|it| &it.0), halves.as_ref().map(|it| &it.1));
        let (keys, total) = joined(cx, NAME, batch, old_keys, heads(qk, size), None)?;
        let (values, _) = joined(cx, NAME, batch, old_values, heads(2 * qk, v_size), None)?;
        let past = total - len;
        let score_dims = [batch, n, len, total];
        let mut biases = Vec::new();
        if let Some(it) = optional(inputs, 5) {
            biases.push(Bias::new(NAME, it.to_f32()?, it.dims(), score_dims)?);
        }
        if let Some(mask) = optional(inputs, 3) {
            biases.push(padding(NAME, mask, score_dims, self.mask_filter_value)?);
        }
        let is_causal = self.unidirectional && len > 1;
        let dims = vec![batch, len, v];
        let mut out = cx.pool.take(len_of(NAME, &dims)?)?;
        let attention = Attention {
            q: heads(0, size),
            k: Heads::bnsh(&keys, n, total, size),
            v: Heads::bnsh(&values, n, total, v_size),
            scale: if self.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { self.scale },
            softcap: 0.0,
            biases,
            visible: |_, query| 0..if is_causal { past + query + 1 } else { total },
            sink: None,
            scores: None,
        };
        attention.run(NAME, &mut out, Order::Bsnh)?;
        let mut results = vec![result(cx, NAME, input.dtype(), dims, out)?];
        if n_outputs > 1 {
            if size != v_size {
                return Err(EvalError::unsupported(self, "with a cache of two head sizes"));
            }
            let mut cache = keys;
            cache.extend_from_slice(&values);
            results.push(result(cx, NAME, input.dtype(), vec![2, batch, n, total, size], cache)?);
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use qcc_tensor::DType;

    use super::*;

    #[test]
    fn a_step_equals_the_last_row() {
        let attrs = vec![
            ("num_heads".to_owned(), Attr::Int(2)),
            ("unidirectional".to_owned(), Attr::Int(1)),
        ];
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        let again = crate::parse("com.microsoft", NAME, 1, op.attrs()).unwrap();
        assert_eq!(again.is::<ContribAttention>(), op.is::<ContribAttention>());
        let value = |it: usize| ((it * 7) % 11) as f32 / 4.0 - 1.0;
        let x: Vec<f32> = (0..12).map(value).collect();
        let w = Tensor::from_vec(vec![3, 12], (0..36).map(value).collect::<Vec<_>>()).unwrap();
        let bias = Tensor::vector((0..12).map(value).collect::<Vec<_>>());
        let run = |x: &[f32], past: Option<&Tensor>| {
            let x = Tensor::from_vec(vec![1, x.len() / 3, 3], x.to_vec()).unwrap();
            let inputs = [Some(&x), Some(&w), Some(&bias), None, past];
            op.eval(&EvalCx::default(), &inputs, 2).unwrap()
        };
        let all = run(&x, None);
        let step = run(&x[9..], Some(&run(&x[..9], None)[1]));
        assert_eq!(step[1], all[1]);
        let (a, b) = (all[0].to_f32().unwrap(), step[0].to_f32().unwrap());
        assert!(a[12..].iter().zip(b.iter()).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn widths_that_are_no_heads_are_refused() {
        let attrs = vec![("num_heads".to_owned(), Attr::Int(2))];
        let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
        let x = Tensor::from_vec(vec![1, 1, 2], vec![0f32; 2]).unwrap();
        for width in [9, 8, 0] {
            let w = Tensor::from_vec(vec![2, width], vec![0f32; 2 * width]).unwrap();
            let got = op.eval(&EvalCx::default(), &[Some(&x), Some(&w)], 1);
            assert_eq!(got.is_ok(), width == 0);
        }
        let attrs = vec![
            ("num_heads".to_owned(), Attr::Int(2)),
            ("qkv_hidden_sizes".to_owned(), Attr::Ints(vec![4, 2, 4])),
        ];
        assert!(crate::parse("com.microsoft", NAME, 1, attrs).is_err());
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        let value = |it: usize| ((it * 7) % 11) as f32 / 4.0 - 1.0;
        let floats = |dims: &[usize]| {
            let values = (0..dims.iter().product()).map(value).collect::<Vec<_>>();
            Tensor::from_vec(dims.to_vec(), values).unwrap()
        };
        let mask = |dims: &[usize]| {
            let len = dims.iter().product();
            let bits = (0..len).map(|it| if dims.len() == 1 { 2 } else { (it % 3 != 1).into() });
            Tensor::from_vec(dims.to_vec(), bits.collect::<Vec<i32>>()).unwrap()
        };
        let attrs = |scale: f32, causal: i64| {
            vec![
                ("num_heads".to_owned(), Attr::Int(2)),
                ("qkv_hidden_sizes".to_owned(), Attr::Ints(vec![4, 4, 6])),
                ("scale".to_owned(), Attr::Float(scale)),
                ("unidirectional".to_owned(), Attr::Int(causal)),
                ("mask_filter_value".to_owned(), Attr::Float(-50.0)),
            ]
        };
        let (x, w, bias) = (floats(&[2, 3, 5]), floats(&[5, 14]), floats(&[14]));
        let added = floats(&[2, 2, 3, 3]);
        let cx = EvalCx::default();
        for (dims, scale, causal) in
            [(&[][..], 0.0, 0), (&[2], 0.3, 0), (&[2, 3], 0.0, 1), (&[2, 3, 3], 0.0, 0)]
        {
            let op = crate::parse("com.microsoft", NAME, 1, attrs(scale, causal)).unwrap();
            let mask = (!dims.is_empty()).then(|| mask(dims));
            let inputs = [Some(&x), Some(&w), Some(&bias), mask.as_ref(), None, Some(&added)];
            let types = inputs.map(|it| it.map(|it| Type::tensor(it.dtype(), it.dims().to_vec())));
            let types = types.each_ref().map(Option::as_ref);
            let parted = op.is::<ContribAttention>().unwrap().parted(&types, false).unwrap();
            let matmul = crate::parse("", "MatMul", 13, Vec::new()).unwrap();
            let product = matmul.eval(&cx, &inputs[..2], 1).unwrap().remove(0);
            let product = product.to_f32().unwrap();
            let mut first = 0;
            let parts = parted.widths.map(|width| {
                let rows = product.chunks_exact(14);
                let columns = first..first + width;
                let bias = bias.to_f32().unwrap();
                let part = rows.flat_map(|row| columns.clone().map(|it| row[it] + bias[it]));
                let part = part.collect::<Vec<_>>();
                first += width;
                Tensor::from_vec(vec![2, 3, width], part).unwrap()
            });
            let [q, k, v] = parts.each_ref().map(Some);
            let got = parted.heads.eval(&cx, &[q, k, v, None, inputs[3], inputs[5]], 1).unwrap();
            assert_eq!(got, op.eval(&cx, &inputs, 1).unwrap(), "{dims:?}");
        }
    }

    #[test]
    fn what_has_no_parts_says_why() {
        let given = [("num_heads".to_owned(), Attr::Int(2))];
        let parted = |name: &str, mask: Option<Vec<Dim>>, is_cached: bool| {
            let mut attrs = given.to_vec();
            attrs.extend((!name.is_empty()).then(|| (name.to_owned(), Attr::Int(1))));
            let op = crate::parse("com.microsoft", NAME, 1, attrs).unwrap();
            let dims = vec![Dim::symbol("b"), Dim::symbol("s"), Dim::Known(4)];
            let x = Type::tensor(DType::F32, dims);
            let w = Type::tensor(DType::F32, [4, 12]);
            let mask = mask.map(|it| Type::tensor(DType::I32, it));
            let types = [Some(&x), Some(&w), None, mask.as_ref()];
            op.is::<ContribAttention>().unwrap().parted(&types, is_cached).map(|it| it.widths)
        };
        let (b, s, one) = (|| Dim::symbol("b"), || Dim::symbol("s"), Dim::Known(1));
        assert_eq!(parted("", None, false), Ok([4, 4, 4]));
        for mask in [vec![b()], vec![b(), s()], vec![Dim::Unknown, Dim::Unknown]] {
            assert_eq!(parted("", Some(mask), false), Ok([4, 4, 4]));
        }
        assert_eq!(parted("", None, true), Err("a cache"));
        assert_eq!(parted("past_present_share_buffer", None, false), Err("a cache"));
        assert_eq!(parted("do_rotary", None, false), Err("rotation"));
        let why = "a mask of one axis that is not known to be the batch";
        assert_eq!(parted("", Some(vec![s()]), false), Err(why));
        assert_eq!(parted("", Some(vec![Dim::Unknown]), false), Err(why));
        assert_eq!(
            parted("", Some(vec![b(), one.clone()]), false),
            Err("a mask of one number for all keys")
        );
        let four = vec![b(), one, s(), s()];
        assert_eq!(parted("", Some(four), false), Err("a mask of four axes"));
    }
}
