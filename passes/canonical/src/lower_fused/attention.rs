//! Attention of heads as products, masks and a softmax.
//!
//! Heads are `[batch, heads, positions, size]` throughout. A row in which a bias of `-inf` hides
//! every key gives zeros in ONNX Runtime and NaN here.

use qcc_ir::{Attr, Value};
use qcc_tensor::Dim;

use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] = &[
    Lowering { name: "Attention", since: 16, lower: attention },
    Lowering { name: "MultiHeadAttention", since: 16, lower: multi_head },
];

/// Queries, keys and values, and what is done to the scores.
pub(super) struct Scores {
    pub(super) q: Value,
    pub(super) k: Value,
    pub(super) v: Value,
    /// Features of a head of queries.
    pub(super) size: usize,
    /// Added to the scaled products.
    pub(super) biases: Vec<Value>,
    /// Keys that a query sees, `bool[.., queries, keys]`; all without it.
    pub(super) visible: Option<Value>,
}

impl Scores {
    /// `[batch, queries, heads * size]`.
    pub(super) fn run(self, site: &mut Site<'_>) -> Result<Value, String> {
        let turned = site.transpose(self.k, &[0, 1, 3, 2])?;
        let product = site.plain("MatMul", [self.q, turned])?;
        let scale = match site.float("scale", 0.0) {
            0.0 => 1.0 / (self.size as f32).sqrt(),
            scale => scale,
        };
        let scale = site.number(scale, site.need(0)?)?;
        let mut scores = site.plain("Mul", [product, scale])?;
        let softcap = site.float("softcap", 0.0);
        if softcap > 0.0 {
            let cap = site.number(softcap, site.need(0)?)?;
            let part = site.plain("Div", [scores, cap])?;
            let part = site.plain("Tanh", [part])?;
            scores = site.plain("Mul", [part, cap])?;
        }
        for bias in self.biases {
            scores = site.plain("Add", [scores, bias])?;
        }
        if let Some(visible) = self.visible {
            let hidden = site.number(f32::NEG_INFINITY, site.need(0)?)?;
            scores = site.plain("Where", [visible, scores, hidden])?;
        }
        let softmax = site.op("Softmax", &[Some(scores)], vec![("axis".into(), Attr::Int(-1))])?;
        let out = site.plain("MatMul", [softmax, self.v])?;
        let out = site.transpose(out, &[0, 2, 1, 3])?;
        site.reshape(out, &[0, 0, -1])
    }
}

pub(super) fn n_heads(site: &Site<'_>) -> Result<usize, String> {
    usize::try_from(site.int("num_heads")).ok().filter(|&it| it > 0).ok_or("no heads".to_owned())
}

/// Heads of `[batch, positions, heads * size]`.
pub(super) fn heads(site: &mut Site<'_>, x: Value, count: usize) -> Result<Value, String> {
    let x = site.reshape(x, &[0, 0, count as i64, -1])?;
    site.transpose(x, &[0, 2, 1, 3])
}

/// Heads of one of several parts that lie in dimension 3 of `[batch, positions, heads, parts, size]`.
fn part(site: &mut Site<'_>, x: Value, index: i64) -> Result<Value, String> {
    let x = site.pick(x, 3, index)?;
    site.transpose(x, &[0, 2, 1, 3])
}

/// Up to its own position, a query sees the keys; the last query sees them all.
fn causal(site: &mut Site<'_>, q: Value, k: Value) -> Result<Value, String> {
    let (queries, keys) = (site.size(q, 2)?, site.size(k, 2)?);
    let (zero, one) = (site.int_scalar(0), site.int_scalar(1));
    let first = site.plain("Sub", [keys, queries])?;
    let rows = site.plain("Range", [first, keys, one])?;
    let rows = site.unsqueeze(rows, 1)?;
    let columns = site.plain("Range", [zero, keys, one])?;
    site.plain("LessOrEqual", [columns, rows])
}

/// What a mask of integers adds to the scores of keys: those that it hides are 0, or lie behind as
/// many keys as it says.
fn padding(site: &mut Site<'_>, index: usize, k: Value) -> Result<Option<Value>, String> {
    let Some(mask) = site.input(index) else { return Ok(None) };
    let batch = |value: Value| site.ty(value).shape().and_then(|it| it.first()).cloned();
    let is_hidden = match site.rank(index)? {
        // There is a form with twice as many numbers.
        1 if batch(mask).filter(|it| *it != Dim::Unknown) == batch(site.need(0)?) => {
            let counts = site.reshape(mask, &[-1, 1, 1, 1])?;
            let counts = site.op("Cast", &[Some(counts)], vec![("to".into(), Attr::Int(7))])?;
            let keys = site.size(k, 2)?;
            let (zero, one) = (site.int_scalar(0), site.int_scalar(1));
            let columns = site.plain("Range", [zero, keys, one])?;
            site.plain("GreaterOrEqual", [columns, counts])?
        }
        rank @ (2 | 3) => {
            let axes = site.ints(if rank == 2 { &[1, 2] } else { &[1] });
            let mask = site.plain("Unsqueeze", [mask, axes])?;
            let none = site.int_scalar(0);
            let none = site.plain("CastLike", [none, mask])?;
            site.plain("LessOrEqual", [mask, none])?
        }
        rank => return Err(format!("its mask has rank {rank}, and another form")),
    };
    let like = site.need(0)?;
    let filter = site.number(site.float("mask_filter_value", -10000.0), like)?;
    let zero = site.number(0.0, like)?;
    site.plain("Where", [is_hidden, filter, zero]).map(Some)
}

/// Operands: input, weights, bias, mask, past, attention bias.
fn attention(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let is_odd = ["do_rotary", "past_present_share_buffer"].iter().any(|it| site.int(it) != 0);
    if is_odd || site.input(4).is_some() || site.input(6).is_some() {
        return Err("it rotates, or has a cache".to_owned());
    }
    let n = n_heads(site)?;
    let width = site.dim(1, -1)?;
    let [q, v] = match site.attr("qkv_hidden_sizes") {
        Some(Attr::Ints(sizes)) => match sizes[..] {
            [q, _, v] => [q, v],
            _ => return Err("its sizes are not three".to_owned()),
        },
        _ => [(width / 3) as i64; 2],
    };
    let operands = [site.need(0)?, site.need(1)?];
    let mut qkv = site.plain("MatMul", operands)?;
    if let Some(bias) = site.input(2) {
        qkv = site.plain("Add", [qkv, bias])?;
    }
    let bounds = [(0, q), (q, 2 * q), (2 * q, 2 * q + v)];
    let mut parts = Vec::new();
    for (from, to) in bounds {
        let x = site.slice(qkv, -1, from, to)?;
        parts.push(heads(site, x, n)?);
    }
    let [q_heads, k, v_heads] = parts[..] else { return Err("no parts".to_owned()) };
    let mut biases: Vec<Value> = site.input(5).into_iter().collect();
    biases.extend(padding(site, 3, k)?);
    let is_causal = site.int("unidirectional") != 0;
    let visible = if is_causal { Some(causal(site, q_heads, k)?) } else { None };
    let size = usize::try_from(q).unwrap_or(0) / n;
    let scores = Scores { q: q_heads, k, v: v_heads, size, biases, visible };
    Ok(vec![Some(scores.run(site)?)])
}

/// Operands: query, key, value, bias, mask, attention bias, past key, past value.
fn multi_head(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    if site.input(8).is_some() || site.input(9).is_some() {
        return Err("its cache shares a buffer".to_owned());
    }
    let n = n_heads(site)?;
    let query = site.need(0)?;
    let ranks = [0, 1, 2].map(|it| site.input(it).and_then(|it| site.ty(it).rank()));
    let is_there = [1, 2].map(|it| site.input(it).is_some());
    let mut is_cross = false;
    let (parts, size, v_size) = match (ranks, is_there) {
        ([Some(5), ..], [false, false]) => {
            let size = site.dim(0, -1)?;
            ([part(site, query, 0)?, part(site, query, 1)?, part(site, query, 2)?], size, size)
        }
        ([Some(3), Some(5), _], [true, false]) => {
            let (kv, size) = (site.need(1)?, site.dim(1, -1)?);
            ([heads(site, query, n)?, part(site, kv, 0)?, part(site, kv, 1)?], size, size)
        }
        ([Some(3), Some(3), Some(3)], _) => {
            let (k, v) = (site.need(1)?, site.need(2)?);
            let sizes = [site.dim(0, -1)? / n, site.dim(2, -1)? / n];
            ([heads(site, query, n)?, heads(site, k, n)?, heads(site, v, n)?], sizes[0], sizes[1])
        }
        ([Some(3), Some(4), Some(4)], _) => {
            is_cross = true;
            let sizes = [site.dim(0, -1)? / n, site.dim(2, -1)?];
            ([heads(site, query, n)?, site.need(1)?, site.need(2)?], sizes[0], sizes[1])
        }
        _ => return Err("the ranks of its operands are not known".to_owned()),
    };
    let mut parts = parts;
    if let Some(bias) = site.input(3) {
        let n = n as i64;
        let (size, v_size) = (n * size as i64, n * v_size as i64);
        let bounds = [(0, size), (size, 2 * size), (2 * size, 2 * size + v_size)];
        let biased = if is_cross { 1 } else { 3 };
        for (x, (from, to)) in parts.iter_mut().zip(bounds).take(biased) {
            let part = site.slice(bias, 0, from, to)?;
            let part = site.reshape(part, &[n, 1, -1])?;
            *x = site.plain("Add", [*x, part])?;
        }
    }
    for (index, x) in [(6, 1), (7, 2)] {
        if let (Some(past), Some(x)) = (site.input(index), parts.get_mut(x)) {
            *x = site.concat(&[past, *x], 2)?;
        }
    }
    let [q, k, v] = parts;
    let mut biases: Vec<Value> = site.input(5).into_iter().collect();
    biases.extend(padding(site, 4, k)?);
    let is_causal = site.int("unidirectional") != 0;
    let visible = if is_causal { Some(causal(site, q, k)?) } else { None };
    let out = Scores { q, k, v, size, biases, visible }.run(site)?;
    Ok(vec![Some(out), site.handed_on(1, k)?, site.handed_on(2, v)?])
}
