//! Attention of heads: `softmax(softcap(scale * Q * K') + biases) * V`, row by row.
//!
//! A task is [`ROWS`] queries of one head. It computes their scores against all keys that one of
//! them sees, the softmax of each row, and their sum of values, so memory is `ROWS * keys` floats
//! for each thread. A row that sees no key gives zeros.

use std::ops::Range;

use pulp::NullaryFnOnce;
use qcc_ir::TypeError;
use rayon::prelude::*;

use crate::gemv::{gemv_here, gemv_turned_here};
use crate::product::{Mat, MatMut, product};
use crate::vector::{self, dispatch};

/// Queries of a task.
const ROWS: usize = 64;

/// Fewer products of numbers than this are computed by the calling thread: other threads take
/// longer to wake up.
const SMALL: usize = 1 << 19;

/// Vectors of heads in a slice: the features of one vector lie side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads<'a> {
    /// All of it.
    pub(crate) data: &'a [f32],
    /// Elements from one batch row, head or position to the next.
    pub(crate) strides: [usize; 3],
    /// Heads.
    pub(crate) heads: usize,
    /// Positions.
    pub(crate) len: usize,
    /// Features.
    pub(crate) size: usize,
}

impl<'a> Heads<'a> {
    /// `[batch, heads, len, size]`.
    pub(crate) fn bnsh(data: &'a [f32], heads: usize, len: usize, size: usize) -> Self {
        Self { data, strides: [heads * len * size, len * size, size], heads, len, size }
    }

    /// `[batch, len, width]`, where the heads begin at feature `first`.
    pub(crate) fn bsnh(
        data: &'a [f32],
        [len, width, first]: [usize; 3],
        heads: usize,
        size: usize,
    ) -> Self {
        let data = data.get(first..).unwrap_or(&[]);
        Self { data, strides: [len * width, size, width], heads, len, size }
    }

    /// One vector.
    pub(crate) fn vector(&self, batch: usize, head: usize, pos: usize) -> &'a [f32] {
        let [b, h, s] = self.strides;
        &self.data[batch * b + head * h + pos * s..][..self.size]
    }

    fn mat(&self, batch: usize, head: usize, range: Range<usize>) -> Mat<'a> {
        let [b, h, s] = self.strides;
        let data = self.data.get(batch * b + head * h + range.start * s..).unwrap_or(&[]);
        Mat::strided(data, [range.len(), self.size], [s, 1])
    }
}

/// Numbers added to the scores: `[batch, heads, queries, keys]`, where a stride of 0 repeats.
#[derive(Clone, Debug)]
pub(crate) struct Bias<'a> {
    data: std::borrow::Cow<'a, [f32]>,
    strides: [usize; 4],
    keys: usize,
}

impl<'a> Bias<'a> {
    /// A bias of any rank up to 4, aligned at its last dimension. Keys beyond a last dimension
    /// that is neither 1 nor `keys` are not seen.
    ///
    /// # Errors
    /// When a dimension is neither 1 nor that of the scores.
    pub(crate) fn new(
        op: &str,
        data: std::borrow::Cow<'a, [f32]>,
        dims: &[usize],
        scores: [usize; 4],
    ) -> Result<Self, TypeError> {
        let fits = dims.len() <= 4 && data.len() == dims.iter().product::<usize>();
        let mut full = [1; 4];
        if fits {
            full[4 - dims.len()..].copy_from_slice(dims);
        }
        let keys = if full[3] == 1 { scores[3] } else { full[3] };
        let ok = |i: usize| full[i] == 1 || full[i] == scores[i];
        if !fits || keys > scores[3] || !(0..3).all(ok) {
            let what = format!("mask {dims:?} does not fit scores {scores:?}");
            return Err(TypeError::other(op, what));
        }
        let mut strides = [0; 4];
        let mut stride = 1;
        for i in (0..4).rev() {
            strides[i] = if full[i] == 1 { 0 } else { stride };
            stride *= full[i];
        }
        Ok(Self { data, strides, keys })
    }

    /// Adds it to the scores of one query against the keys of a range.
    fn add(&self, batch: usize, head: usize, query: usize, keys: Range<usize>, row: &mut [f32]) {
        let [b, h, q, k] = self.strides;
        let base = batch * b + head * h + query * q;
        let seen = self.keys.min(keys.end).saturating_sub(keys.start);
        let (near, far) = row.split_at_mut(seen.min(row.len()));
        if k == 0 {
            near.iter_mut().for_each(|it| *it += self.data[base]);
        } else if !near.is_empty() {
            let data = &self.data[base + keys.start..][..near.len()];
            near.iter_mut().zip(data).for_each(|(it, bias)| *it += bias);
        }
        far.fill(f32::NEG_INFINITY);
    }
}

/// Which scores are a result too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The scaled products.
    Product,
    /// After the softcap.
    Capped,
    /// After the biases; keys that are not seen are `-inf`.
    Biased,
    /// After the softmax.
    Softmax,
}

/// One computation.
pub(crate) struct Attention<'a, F> {
    /// Queries.
    pub(crate) q: Heads<'a>,
    /// Keys; a head of them serves `q.heads / k.heads` heads of queries.
    pub(crate) k: Heads<'a>,
    /// Values, of as many heads and positions.
    pub(crate) v: Heads<'a>,
    /// Factor of the products.
    pub(crate) scale: f32,
    /// `c * tanh(x / c)` when positive.
    pub(crate) softcap: f32,
    /// Added in this order.
    pub(crate) biases: Vec<Bias<'a>>,
    /// The keys that a query of a batch row sees: `f(batch, query)`, within the keys.
    pub(crate) visible: F,
    /// One more score of each head in the denominator: of this many heads, or one for all.
    pub(crate) sink: Option<&'a [f32]>,
    /// Scores to give out, `[batch, heads, queries, keys]`.
    pub(crate) scores: Option<(Stage, &'a mut [f32])>,
}

/// Order of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[batch, heads, queries, features]`.
    Bnsh,
    /// `[batch, queries, heads * features]`.
    Bsnh,
}

struct Task<'a> {
    batch: usize,
    head: usize,
    first: usize,
    out: MatMut<'a>,
    scores: Option<&'a mut [f32]>,
}

impl<'a, F: Fn(usize, usize) -> Range<usize> + Sync> Attention<'a, F> {
    /// Computes the result into `out`.
    ///
    /// # Errors
    /// When the operands do not fit together.
    pub(crate) fn run(mut self, op: &str, out: &mut [f32], order: Order) -> Result<(), TypeError> {
        let (heads, len, size) = (self.q.heads, self.q.len, self.v.size);
        let (kv_heads, keys) = (self.k.heads, self.k.len);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || self.v.heads != kv_heads {
            let what = format!(
                "{heads} heads of queries, {kv_heads} and {} of keys and values",
                self.v.heads
            );
            return Err(TypeError::other(op, what));
        }
        if self.q.size != self.k.size || self.v.len != keys {
            return Err(TypeError::other(op, "queries, keys and values do not fit together"));
        }
        if out.is_empty() {
            return Ok(());
        }
        let mut tasks = Vec::new();
        for (batch, out) in out.chunks_exact_mut(heads * len * size).enumerate() {
            let per_head: Vec<_> = match order {
                Order::Bnsh => {
                    out.chunks_exact_mut(len * size).map(|it| MatMut::new(it, len, size)).collect()
                }
                Order::Bsnh => MatMut::new(out, len, heads * size).split_cols(size),
            };
            for (head, out) in per_head.into_iter().enumerate() {
                for (block, out) in out.split_rows(ROWS).into_iter().enumerate() {
                    tasks.push(Task { batch, head, first: block * ROWS, out, scores: None });
                }
            }
        }
        let stage = match self.scores.take() {
            Some((stage, scores)) if keys > 0 => {
                let mut rest = scores;
                for task in &mut tasks {
                    let (part, tail) =
                        std::mem::take(&mut rest).split_at_mut(task.out.rows() * keys);
                    (task.scores, rest) = (Some(part), tail);
                }
                Some(stage)
            }
            _ => None,
        };
        let products = tasks.len() * len.min(ROWS) * keys * (self.q.size + size);
        if products < SMALL {
            let mut scratch = Vec::new();
            tasks.into_iter().for_each(|task| self.task(task, stage, &mut scratch));
        } else {
            tasks.into_par_iter().for_each_init(Vec::new, |scratch, task| {
                self.task(task, stage, scratch);
            });
        }
        Ok(())
    }

    fn task(&self, task: Task<'_>, stage: Option<Stage>, scratch: &mut Vec<f32>) {
        let Task { batch, head, first, mut out, scores } = task;
        let kv_head = head / (self.q.heads / self.k.heads);
        let (rows, keys) = (out.rows(), self.k.len);
        let visible = |row: usize| {
            let seen = (self.visible)(batch, first + row);
            let end = seen.end.min(keys);
            seen.start.min(end)..end
        };
        // The keys that any of the queries sees, or all of them when the scores are a result.
        let hull = if stage.is_some() {
            0..keys
        } else {
            let seen = (0..rows).map(visible).filter(|it| !it.is_empty());
            seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
        };
        let width = hull.len();
        scratch.resize(rows * width, 0.0);
        // The vectors of one head one after another: a decoded token reads them in order.
        let is_single = rows == 1 && stage.is_none();
        let near = |of: &Heads<'a>| {
            let [b, h, s] = of.strides;
            let data = of.data.get(batch * b + kv_head * h + hull.start * s..)?;
            (is_single && s == of.size).then_some(data)
        };
        if let Some(keys) = near(&self.k) {
            gemv_turned_here(self.q.vector(batch, head, first), keys, scratch);
            scratch.iter_mut().for_each(|it| *it *= self.scale);
        } else {
            let q = self.q.mat(batch, head, first..first + rows);
            let k = self.k.mat(batch, kv_head, hull.clone());
            product(&mut MatMut::new(scratch, rows, width), q, k.t(), self.scale);
        }
        let mut scores = scores;
        let mut save = |now: Stage, row: usize, line: &[f32]| {
            if let (Some(stage), Some(scores)) = (stage, &mut scores)
                && stage == now
            {
                scores[row * keys..][..keys].copy_from_slice(line);
            }
        };
        let sink = self.sink.and_then(|it| it.get(head).or(it.first())).copied();
        for (row, line) in scratch.chunks_exact_mut(width.max(1)).enumerate() {
            save(Stage::Product, row, line);
            if self.softcap > 0.0 {
                dispatch(Softcap { row: line, cap: self.softcap });
            }
            save(Stage::Capped, row, line);
            for bias in &self.biases {
                bias.add(batch, head, first + row, hull.clone(), line);
            }
            let seen = visible(row);
            let (from, to) = (seen.start.max(hull.start), seen.end.max(hull.start));
            let (from, to) = (from - hull.start, to - hull.start);
            let hidden = if stage == Some(Stage::Biased) { f32::NEG_INFINITY } else { 0.0 };
            line[..from].fill(hidden);
            line[to.max(from)..].fill(hidden);
            save(Stage::Biased, row, line);
            if hidden != 0.0 {
                line[..from].fill(0.0);
                line[to.max(from)..].fill(0.0);
            }
            dispatch(Softmax { row: &mut line[from..to.max(from)], sink });
            save(Stage::Softmax, row, line);
        }
        if let Some(values) = near(&self.v) {
            gemv_here(scratch, values, out.row(0));
        } else {
            let weights = Mat::new(scratch, rows, width);
            product(&mut out, weights, self.v.mat(batch, kv_head, hull), 1.0);
        }
    }
}

struct Softcap<'a> {
    row: &'a mut [f32],
    cap: f32,
}

impl NullaryFnOnce for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for x in self.row {
            *x = self.cap * vector::tanh(*x / self.cap);
        }
    }
}

struct Softmax<'a> {
    row: &'a mut [f32],
    sink: Option<f32>,
}

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let row = self.row;
        let max = vector::max(row).max(self.sink.unwrap_or(f32::NEG_INFINITY));
        if max == f32::NEG_INFINITY {
            row.fill(0.0);
            return;
        }
        for x in row.iter_mut() {
            *x = vector::exp(*x - max);
        }
        let sum = vector::sum_of(row, |x| x) + self.sink.map_or(0.0, |it| vector::exp(it - max));
        for x in row.iter_mut() {
            *x /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|it| ((it * 37 + seed * 11) % 101) as f32 / 25.0 - 2.0).collect()
    }

    /// The definition, in f64 and one query at a time.
    fn reference(
        (q, k, v): (Heads<'_>, Heads<'_>, Heads<'_>),
        batch: usize,
        visible: impl Fn(usize, usize) -> Range<usize>,
    ) -> Vec<f64> {
        let mut out = Vec::new();
        for b in 0..batch {
            for h in 0..q.heads {
                let kv = h / (q.heads / k.heads);
                for i in 0..q.len {
                    let seen = visible(b, i);
                    let dot = |j: usize| {
                        let terms = q.vector(b, h, i).iter().zip(k.vector(b, kv, j));
                        0.5 * terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                    };
                    let exps: Vec<f64> = seen.clone().map(|j| dot(j).exp()).collect();
                    let sum: f64 = exps.iter().sum();
                    for f in 0..v.size {
                        let weighted = seen.clone().zip(&exps);
                        let total: f64 =
                            weighted.map(|(j, e)| e * f64::from(v.vector(b, kv, j)[f])).sum();
                        out.push(if seen.is_empty() { 0.0 } else { total / sum });
                    }
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_the_definition(
            batch in 1usize..3, kv in 1usize..3, group in 1usize..3,
            len in prop_oneof![Just(1usize), 1usize..140],
            keys in 0usize..150, size in 1usize..9, window in 1usize..200, bsnh: bool,
        ) {
            let heads = kv * group;
            let (a, b, c) = (
                values(batch * heads * len * size, 1),
                values(batch * kv * keys * size, 2),
                values(batch * kv * keys * (size + 1), 3),
            );
            let q = Heads::bnsh(&a, heads, len, size);
            let k = Heads::bsnh(&b, [keys, kv * size, 0], kv, size);
            let v = Heads::bnsh(&c, kv, keys, size + 1);
            let visible = |_: usize, i: usize| {
                let end = (i + 1 + keys / 2).min(keys);
                end.saturating_sub(window)..end
            };
            let want = reference((q, k, v), batch, visible);
            let mut out = vec![f32::NAN; want.len()];
            let order = if bsnh { Order::Bsnh } else { Order::Bnsh };
            let attention = Attention {
                q, k, v, scale: 0.5, softcap: 0.0, biases: Vec::new(), visible, sink: None,
                scores: None,
            };
            attention.run("X", &mut out, order).unwrap();
            for (idx, want) in want.into_iter().enumerate() {
                let (rest, f) = (idx / (size + 1), idx % (size + 1));
                let (rest, s) = (rest / len, rest % len);
                let (b, h) = (rest / heads, rest % heads);
                let at = if bsnh { ((b * len + s) * heads + h) * (size + 1) + f } else { idx };
                prop_assert!((f64::from(out[at]) - want).abs() < 1e-5, "{} {want}", out[at]);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (len, heads, size) = (200, 3, 16);
        let x = values(len * heads * size, 5);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; x.len()];
            let it = Heads::bsnh(&x, [len, heads * size, 0], heads, size);
            let attention = Attention {
                q: it,
                k: it,
                v: it,
                scale: 0.25,
                softcap: 2.0,
                biases: Vec::new(),
                visible: |_, i| 0..i + 1,
                sink: Some(&[0.5]),
                scores: None,
            };
            pool.install(|| attention.run("X", &mut out, Order::Bsnh)).unwrap();
            out.iter().map(|it| it.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let x = [0.0; 12];
        let (q, k) = (Heads::bnsh(&x, 3, 2, 2), Heads::bnsh(&x, 2, 2, 2));
        let attention = Attention {
            q,
            k,
            v: k,
            scale: 1.0,
            softcap: 0.0,
            biases: Vec::new(),
            visible: |_, _| 0..2,
            sink: None,
            scores: None,
        };
        assert!(attention.run("X", &mut [0.0; 12], Order::Bnsh).is_err());
    }
}
