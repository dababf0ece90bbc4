//! Causal attention with a cache, in which several heads of queries share one of keys and values.
//!
//! A row of the batch has `seqlens_k + 1` keys, the new ones last; in a prompt the new ones come
//! first, and rows that are shorter are padded behind.

use qcc_ir::{Attr, Attrs, Value};

use super::attention::{Scores, heads, n_heads};
use super::rotary::{Turn, turned_heads};
use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] =
    &[Lowering { name: "GroupQueryAttention", since: 16, lower: group_query }];

/// Where the new positions of each row stand.
struct Rows {
    /// How many new positions there are.
    len: Value,
    /// Positions of the cache before, if there is one.
    past: Option<Value>,
    /// Where the new ones begin, `[batch, 1]`; nothing without a cache.
    first: Option<Value>,
    /// The last key, `[batch, 1]`.
    last: Value,
    /// Positions of the new ones, `[batch, len]` or `[len]`.
    positions: Value,
    /// `0 .. present`.
    keys: Value,
}

/// Operands: query, key, value, past key, past value, lengths, total length, cosines, sines,
/// positions, attention bias, and more that is declined.
fn group_query(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    if (11..16).any(|it| site.input(it).is_some()) || site.int("smooth_softmax") == 1 {
        return Err("it has sinks, norms or a cache of codes".to_owned());
    }
    let is_given = |name: &str, default: Attr| site.attr(name).is_some_and(|it| it != default);
    let ints = [("causal", 1), ("qk_output", 0), ("sliding_window_cache", 0)];
    let words = ["k_quant_type", "v_quant_type"];
    if ints.iter().any(|it| is_given(it.0, Attr::Int(it.1)))
        || words.iter().any(|it| is_given(it, Attr::from("NONE")))
    {
        return Err("it is not causal, or has a cache of another form".to_owned());
    }
    let n = n_heads(site)?;
    let kv = usize::try_from(site.int("kv_num_heads")).ok();
    let kv = kv.filter(|&it| it > 0 && n.is_multiple_of(it)).ok_or("its heads do not fit")?;
    let query = site.need(0)?;
    let is_packed = site.input(1).is_none();
    let all = if is_packed { n + 2 * kv } else { n };
    let size = site.dim(0, -1)? / all;
    let [mut q, mut k, v] = if is_packed {
        let x = heads(site, query, all)?;
        let (n, kv) = (n as i64, kv as i64);
        let mut part = |from: i64, to: i64| site.slice(x, 1, from, to);
        [part(0, n)?, part(n, n + kv)?, part(n + kv, n + 2 * kv)?]
    } else {
        let operands = [site.need(1)?, site.need(2)?];
        [heads(site, query, n)?, heads(site, operands[0], kv)?, heads(site, operands[1], kv)?]
    };
    let rows = rows(site, q)?;
    if site.int("do_rotary") != 0 {
        let turn = turn(site, &rows, size)?;
        let is_interleaved = site.int("rotary_interleaved") != 0;
        q = turned_heads(site, &turn, q, is_interleaved)?;
        k = turned_heads(site, &turn, k, is_interleaved)?;
    }
    let k = present(site, &rows, 3, k)?;
    let v = present(site, &rows, 4, v)?;
    let visible = visible(site, &rows)?;
    let (all_k, all_v) = (repeated(site, k, n / kv)?, repeated(site, v, n / kv)?);
    let biases = site.input(10).into_iter().collect();
    let scores = Scores { q, k: all_k, v: all_v, size, biases, visible: Some(visible) };
    let out = scores.run(site)?;
    Ok(vec![Some(out), site.handed_on(1, k)?, site.handed_on(2, v)?])
}

fn to_i64(site: &mut Site<'_>, x: Value) -> Result<Value, String> {
    site.op("Cast", &[Some(x)], vec![("to".into(), Attr::Int(7))])
}

fn range(site: &mut Site<'_>, end: Value) -> Result<Value, String> {
    let (zero, one) = (site.int_scalar(0), site.int_scalar(1));
    site.plain("Range", [zero, end, one])
}

fn rows(site: &mut Site<'_>, q: Value) -> Result<Rows, String> {
    let len = site.size(q, 2)?;
    let steps = range(site, len)?;
    let last = site.need(5)?;
    let last = site.reshape(last, &[-1, 1])?;
    let last = to_i64(site, last)?;
    let Some(cache) = site.input(3) else {
        // Without a cache, every row is a prompt.
        return Ok(Rows { len, past: None, first: None, last, positions: steps, keys: steps });
    };
    let past = site.size(cache, 2)?;
    let total = site.need(6)?;
    let total = site.reshape(total, &[1])?;
    let total = to_i64(site, total)?;
    let total = site.pick(total, 0, 0)?;
    let present = site.plain("Max", [past, total])?;
    let keys = range(site, present)?;
    let one = site.int_scalar(1);
    let count = site.plain("Add", [last, one])?;
    let before = site.plain("Sub", [count, len])?;
    let is_prompt = site.plain("Equal", [total, len])?;
    let zero = site.int_scalar(0);
    let first = site.plain("Where", [is_prompt, zero, before])?;
    let positions = site.plain("Add", [first, steps])?;
    Ok(Rows { len, past: Some(past), first: Some(first), last, positions, keys })
}

/// The rotation of each new position; padding stands at position 1.
fn turn(site: &mut Site<'_>, rows: &Rows, size: usize) -> Result<Turn, String> {
    let positions = match site.input(9) {
        Some(it) => to_i64(site, it)?,
        None => {
            let is_padding = site.plain("Greater", [rows.positions, rows.last])?;
            let one = site.int_scalar(1);
            site.plain("Where", [is_padding, one, rows.positions])?
        }
    };
    let half = site.dim(7, -1)?;
    if 2 * half > size {
        return Err("its caches are wider than a head".to_owned());
    }
    let tables = [site.need(7)?, site.need(8)?];
    let mut angles = |table: Value| {
        let rows = site.plain("Gather", [table, positions])?;
        site.unsqueeze(rows, 1)
    };
    let (cos, sin) = (angles(tables[0])?, angles(tables[1])?);
    Ok(Turn { cos, sin, half: half as i64, size: size as i64 })
}

/// The cache with the new heads in it: `[batch, heads, present, size]`.
fn present(site: &mut Site<'_>, rows: &Rows, index: usize, new: Value) -> Result<Value, String> {
    let (Some(past), Some(first)) = (rows.past, rows.first) else { return Ok(new) };
    let cache = site.need(index)?;
    let all = site.concat(&[cache, new], 2)?;
    // Before the first new one the cache, from it on what is new, and zeros behind.
    let step = site.plain("Sub", [rows.keys, first])?;
    let is_old = site.plain("Less", [rows.keys, first])?;
    let is_there = site.plain("Less", [step, rows.len])?;
    let zero = site.int_scalar(0);
    let kept = site.plain("Where", [is_there, step, zero])?;
    let moved = site.plain("Add", [kept, past])?;
    let from = site.plain("Where", [is_old, rows.keys, moved])?;
    let axes = site.ints(&[1, 3]);
    let from = site.plain("Unsqueeze", [from, axes])?;
    let shape = site.plain("Shape", [new])?;
    let (outer, inner) = (site.slice(shape, 0, 0, 2)?, site.slice(shape, 0, 3, 4)?);
    let one = site.ints(&[1]);
    let shape = site.concat(&[outer, one, inner], 0)?;
    let from = site.plain("Expand", [from, shape])?;
    let axis = vec![("axis".into(), Attr::Int(2))];
    let found = site.op("GatherElements", &[Some(all), Some(from)], axis)?;
    let is_there = site.plain("Unsqueeze", [is_there, axes])?;
    let zero = site.number(0.0, new)?;
    site.plain("Where", [is_there, found, zero])
}

/// Keys up to the position of a query, within the window and the row: `[.., queries, keys]`.
fn visible(site: &mut Site<'_>, rows: &Rows) -> Result<Value, String> {
    // `[batch, 1, queries, 1]`, and `[batch, 1, 1, 1]` for rows.
    let axes: &[i64] = if rows.first.is_some() { &[1, 3] } else { &[1] };
    let axes = site.ints(axes);
    let queries = site.plain("Unsqueeze", [rows.positions, axes])?;
    let axes = site.ints(&[2, 3]);
    let last = site.plain("Unsqueeze", [rows.last, axes])?;
    let is_seen = site.plain("LessOrEqual", [rows.keys, queries])?;
    let is_real = site.plain("LessOrEqual", [rows.keys, last])?;
    let visible = site.plain("And", [is_seen, is_real])?;
    let window = match site.attr("local_window_size") {
        Some(Attr::Int(it)) if it >= 0 => it,
        _ => return Ok(visible),
    };
    let window = site.int_scalar(window);
    let before = site.plain("Sub", [queries, window])?;
    let is_near = site.plain("Greater", [rows.keys, before])?;
    site.plain("And", [visible, is_near])
}

/// Each head `count` times.
fn repeated(site: &mut Site<'_>, x: Value, count: usize) -> Result<Value, String> {
    if count == 1 {
        return Ok(x);
    }
    let heads = site.unsqueeze(x, 2)?;
    let shape = site.ints(&[1, 1, count as i64, 1, 1]);
    let heads = site.plain("Expand", [heads, shape])?;
    // `[batch, kv heads, count, positions, size]`: the two of heads become one.
    let shape = site.plain("Shape", [x])?;
    let (outer, inner) = (site.slice(shape, 0, 0, 1)?, site.slice(shape, 0, 2, 4)?);
    let middle = site.ints(&[-1]);
    let shape = site.concat(&[outer, middle, inner], 0)?;
    site.op("Reshape", &[Some(heads), Some(shape)], Attrs::new())
}
