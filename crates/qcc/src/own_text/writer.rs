//! Lets a language model write token ids.
//!
//! Each token is drawn from the distribution that the model gives after those before it, by a
//! number of its own, so that rows do not depend on how they are computed. With a cache of keys and
//! values a row is written token by token. Without one, all tokens of a row are drawn at once, from
//! what the model gives for those of the round before (Jacobi iteration; Santilli et al., arXiv
//! 2305.10427). After r rounds the first r tokens that were drawn are those of writing token by
//! token; the later ones follow what stands before them more and more.

use std::borrow::Cow;

use qcc_data::{CacheShape, ModelInput, Role, role, token_input};
use qcc_exec::PlanOptions;
use qcc_ir::Graph;
use qcc_pass::{Rng, Session};
use qcc_tensor::Tensor;

use crate::evaluate::logits;
use crate::generate::{Cache, DecodeError, Decoder, draw};

/// What the cache of the rows that are written at a time takes at most, unless the session caps
/// memory lower.
const MAX_CACHE_BYTES: u64 = 256 << 20;

/// Tokens that are written at most.
const MAX_TOKENS: usize = 1 << 24;

/// Tokens of a row that tries whether a model can write.
const TRIED_TOKENS: usize = 8;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    /// Tokens of a row, at least 2.
    pub(super) length: usize,
    /// Rounds over a row where there is no cache.
    pub(super) rounds: usize,
}

/// Token ids `[rows, length]`, and how they came about.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) ids: Tensor,
    pub(super) has_cache: bool,
}

/// A model that writes.
pub(super) struct Writer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) inputs: &'a [ModelInput],
    /// Tokens that the model knows.
    pub(super) vocab: usize,
    pub(super) cache: Option<CacheShape>,
    pub(super) session: &'a Session,
}

impl Writer<'_> {
    /// Writes rows of token ids.
    ///
    /// # Errors
    /// Why the model cannot write, as the second half of a sentence.
    pub(super) fn write(&self, size: Size) -> Result<Text, String> {
        let tokens = token_input(self.inputs).and_then(|at| self.inputs.get(at));
        let dims = tokens.and_then(|it| it.dims.as_deref());
        let [batch, time] = dims.ok_or("it takes no token ids")? else {
            return Err(NO_ROWS.into());
        };
        let length = time.known().unwrap_or(size.length);
        let has = |want: Role| self.inputs.iter().any(|it| role(it) == Some(want));
        if has(Role::TokenTypes) && !has(Role::Past) {
            return Err("it is an encoder".into());
        }
        if length < 2 {
            return Err("a row of one token is no text".into());
        }
        let batch = batch.known();
        let rows = size.rows.checked_next_multiple_of(batch.unwrap_or(1).max(1));
        let rows = rows.filter(|it| it.checked_mul(length).is_some_and(|it| it <= MAX_TOKENS));
        let rows = rows.ok_or("its rows are too many or too long")?;
        let size = Size { rows, length, ..size };
        let mut ids = Rows::random(size, self.vocab, self.session);
        if self.decoder().pairs().is_some() && time.known().is_none() {
            let mut tried = ids.clone();
            match self.by_token(&mut tried, batch) {
                Ok(()) => return Ok(Text { ids: tried.tensor()?, has_cache: true }),
                Err(why) if self.session.cancel.is_set() => return Err(why),
                // It may still run on whole rows.
                Err(_) => {}
            }
        }
        self.by_round(&mut ids, batch.unwrap_or(1))?;
        Ok(Text { ids: ids.tensor()?, has_cache: false })
    }

    /// Random tokens in the shape of what [`Writer::write`] gives, after a short try whether the
    /// model can write.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub(super) fn stand_in(&self, size: Size) -> Result<Text, String> {
        let short = Size { rows: 1, length: size.length.min(TRIED_TOKENS), rounds: 2 };
        let tried = self.write(short)?;
        let &[batch, length] = tried.ids.dims() else { return Err(NO_ROWS.into()) };
        // The length is that of the try only where the model fixes it.
        let length = if length == short.length { size.length } else { length };
        let rows = size.rows.checked_next_multiple_of(batch.max(1)).unwrap_or(size.rows);
        let ids = Rows::random(Size { rows, length, ..size }, self.vocab, self.session);
        Ok(Text { ids: ids.tensor()?, has_cache: tried.has_cache })
    }

    /// Draws all tokens of a row at once, round after round.
    pub(super) fn by_round(&self, ids: &mut Rows, batch: usize) -> Result<(), String> {
        let Size { rows, length, rounds } = ids.size;
        let mut decoder = self.decoder();
        self.session.progress.start("own text", (rows / batch.max(1) * rounds) as u64);
        for first in (0..rows).step_by(batch.max(1)) {
            let mut start: Option<Vec<f32>> = None;
            for _ in 0..rounds {
                let part = ids.part(first, batch, 0, length)?;
                let outputs = self.run(&mut decoder, &part, &mut Cache::default())?;
                let (logits, width) = self.logits(&outputs, [batch, length])?;
                let logits = logits.to_f32().map_err(|it| it.to_string())?;
                // Nothing but the first token, which stays, may decide what follows it.
                let head = logits.get(..width).unwrap_or_default();
                let is_same = start.as_deref().is_none_or(|it| is_near(it, head));
                if !is_same {
                    return Err("what it gives for a token depends on later tokens".into());
                }
                start.get_or_insert_with(|| head.to_vec());
                for row in 0..batch {
                    let from = row * length * width;
                    let these = logits.get(from..from + (length - 1) * width).unwrap_or_default();
                    let at = ids.numbers(first + row, 1, length - 1);
                    let drawn = draw(these, width, self.vocab, at).ok_or(NO_NUMBERS)?;
                    ids.put(first + row, 1, &drawn);
                }
                self.session.progress.step(1, "");
            }
        }
        Ok(())
    }

    /// Draws one token after the other, each from a run on the one before.
    pub(super) fn by_token(&self, ids: &mut Rows, batch: Option<usize>) -> Result<(), String> {
        let Size { rows, length, .. } = ids.size;
        let mut decoder = self.decoder();
        let batch = match batch {
            Some(it) => it.max(1),
            None => self.batch(rows, length, &decoder)?,
        };
        self.session.progress.start("own text", rows as u64 * (length as u64 - 1));
        for first in (0..rows).step_by(batch) {
            let count = batch.min(rows - first);
            let mut cache = Cache::expecting(length - 1);
            for at in 0..length - 1 {
                let part = ids.part(first, count, at, 1)?;
                let outputs = self.run(&mut decoder, &part, &mut cache)?;
                let (logits, width) = self.logits(&outputs, [count, 1])?;
                let logits = logits.to_f32().map_err(|it| it.to_string())?;
                let numbers: Vec<f64> =
                    (0..count).flat_map(|it| ids.numbers(first + it, at + 1, 1)).copied().collect();
                let drawn = draw(&logits, width, self.vocab, &numbers).ok_or(NO_NUMBERS)?;
                for (row, token) in drawn.iter().enumerate() {
                    ids.put(first + row, at + 1, std::slice::from_ref(token));
                }
                self.session.progress.step(count as u64, "");
            }
        }
        Ok(())
    }

    /// How many rows are written at a time: as many as the cache has room for.
    fn batch(&self, rows: usize, length: usize, decoder: &Decoder<'_>) -> Result<usize, String> {
        let cap = self.session.max_mem.map_or(MAX_CACHE_BYTES, |it| (it / 8).min(MAX_CACHE_BYTES));
        let one = Tensor::from_vec(vec![1, 1], vec![0i64]).map_err(|it| it.to_string())?;
        let empty = decoder.feed(&one, 0).map_err(|it| it.to_string())?;
        let of_token: u64 = decoder
            .pairs()
            .unwrap_or_default()
            .iter()
            .filter_map(|(name, _)| empty.get(name))
            .map(|it| {
                let sizes = it.dims().iter().filter(|&&it| it > 0).map(|&it| it as u64);
                sizes.fold(it.dtype().bits() as u64 / 8, u64::saturating_mul)
            })
            .sum();
        let of_row = of_token.saturating_mul(length as u64).max(1);
        Ok(usize::try_from(cap / of_row).unwrap_or(rows).clamp(1, rows))
    }

    fn decoder(&self) -> Decoder<'_> {
        // Buffers of its own: a pool that outlives the plan would keep them all.
        let options = PlanOptions::default();
        Decoder::new(Cow::Borrowed(self.graph), self.inputs, self.cache, options)
    }

    fn run(
        &self,
        decoder: &mut Decoder<'_>,
        ids: &Tensor,
        cache: &mut Cache,
    ) -> Result<Vec<(String, Tensor)>, String> {
        if self.session.cancel.is_set() {
            return Err("it was interrupted".into());
        }
        decoder.run(ids, cache).map_err(|it: DecodeError| it.to_string())
    }

    /// Logits of a run on `[batch, length]` tokens, and their number for each.
    fn logits<'a>(
        &self,
        outputs: &'a [(String, Tensor)],
        [batch, length]: [usize; 2],
    ) -> Result<(&'a Tensor, usize), String> {
        let found = logits(outputs, length).and_then(|at| outputs.get(at));
        let width = |it: &Tensor| it.dims().get(2).copied().unwrap_or(0);
        found
            .filter(|(_, it)| it.dims().first() == Some(&batch))
            .filter(|(name, it)| {
                width(it) == self.vocab || (name == "logits" && width(it) > self.vocab)
            })
            .map(|(_, it)| (it, width(it)))
            .ok_or_else(|| "it gives no logits over its vocabulary".to_owned())
    }
}

const NO_ROWS: &str = "its token ids have no axis of rows and one of tokens";
const NO_NUMBERS: &str = "its logits are not finite";

/// Whether logits are equal but for rounding.
fn is_near(a: &[f32], b: &[f32]) -> bool {
    let top = a.iter().filter(|it| it.is_finite()).fold(0f32, |top, it| top.max(it.abs()));
    let near = |(a, b): (&f32, &f32)| a == b || (a - b).abs() <= 1e-3 * top;
    a.len() == b.len() && a.iter().zip(b).all(near)
}

/// Rows of tokens, and the number that each of them is drawn by.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    size: Size,
    ids: Vec<i64>,
    at: Vec<f64>,
}

impl Rows {
    /// Rows of random tokens. The first of each row stays.
    pub(super) fn random(size: Size, vocab: usize, session: &Session) -> Self {
        let len = size.rows.saturating_mul(size.length);
        let numbers = |rng: &mut Rng| (0..len).map(|_| rng.f64()).collect();
        let mut rng = session.rng("own text, first tokens");
        let ids = (0..len).map(|_| rng.below(vocab as u64) as i64).collect();
        Self { size, ids, at: numbers(&mut session.rng("own text")) }
    }

    fn range(&self, row: usize, first: usize, count: usize) -> std::ops::Range<usize> {
        let start = row * self.size.length + first;
        start..start + count
    }

    fn numbers(&self, row: usize, first: usize, count: usize) -> &[f64] {
        self.at.get(self.range(row, first, count)).unwrap_or_default()
    }

    fn put(&mut self, row: usize, first: usize, tokens: &[i64]) {
        let range = self.range(row, first, tokens.len());
        if let Some(it) = self.ids.get_mut(range) {
            it.copy_from_slice(tokens);
        }
    }

    /// Tokens `first ..` of some rows, `[rows, count]`.
    fn part(&self, row: usize, rows: usize, first: usize, count: usize) -> Result<Tensor, String> {
        let of = |row| self.ids.get(self.range(row, first, count)).unwrap_or_default();
        let ids: Vec<i64> = (row..row + rows).flat_map(of).copied().collect();
        Tensor::from_vec(vec![rows, count], ids).map_err(|it| it.to_string())
    }

    fn tensor(self) -> Result<Tensor, String> {
        Tensor::from_vec(vec![self.size.rows, self.size.length], self.ids)
            .map_err(|it| it.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_tensor::{DType, Dim};

    /// Each token is followed by the next one, modulo 5.
    const CHAIN: &str = "
graph @chain(%input_ids: i64[b, t]) -> (%logits: f32[b, t, 5]) {
  %table = const f32[5, 5] [0.0, 90.0, 0.0, 0.0, 0.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0, 0.0, 0.0, 90.0, 90.0, 0.0, 0.0, 0.0, 0.0]
  %logits = Gather(%table, %input_ids)
}";

    /// Logits are counts of all tokens so far, mixed; the counts are the cache.
    const CACHED: &str = "
graph @cached(%input_ids: i64[b, t], %past_0: f32[b, 1, p, 5]) -> (%logits: f32[b, t, 5], %present_0: f32[b, 1, q, 5]) {
  %table = const f32[5, 5] [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
  %mix = const f32[5, 5] [0.1, 0.9, 0.3, 0.2, 0.4, 0.8, 0.2, 0.1, 0.5, 0.3, 0.7, 0.1, 0.6, 0.2, 0.2, 0.3, 0.4, 0.2, 0.9, 0.1, 0.2, 0.6, 0.5, 0.1, 0.3]
  %one = const i64[1] [1]
  %two = const i64[1] [2]
  %three = const i64[1] [3]
  %axis = const i64[] [2]
  %end = const i64[1] [100000]
  %x = Gather(%table, %input_ids)
  %new = Unsqueeze(%x, %one)
  %present_0 = Concat(%past_0, %new) {axis = 2}
  %sums = CumSum(%present_0, %axis)
  %all = MatMul(%sums, %mix)
  %shape = Shape(%past_0)
  %start = Slice(%shape, %two, %three)
  %last = Slice(%all, %start, %end, %two)
  %logits = Squeeze(%last, %one)
}";

    fn graph(text: &str) -> Graph {
        let make = |domain: &str, name: &str, opset, attrs| {
            qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
        };
        qcc_ir::text::parse(text, &make, &qcc_ir::text::no_bytes).unwrap().remove(0)
    }

    fn inputs(text: &str, time: &str) -> Vec<ModelInput> {
        let dims = |names: &[&str]| -> Vec<Dim> {
            let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
            names.iter().map(dim).collect()
        };
        let mut all = vec![ModelInput::new("input_ids", DType::I64, dims(&["b", time]))];
        if text.contains("%past_0") {
            all.push(ModelInput::new("past_0", DType::F32, dims(&["b", "1", "p", "5"])));
        }
        all
    }

    fn written(text: &str, time: &str, vocab: usize, size: Size) -> Result<Text, String> {
        let (graph, inputs) = (graph(text), inputs(text, time));
        let session = Session { seed: 3, ..Session::default() };
        let writer =
            Writer { graph: &graph, inputs: &inputs, vocab, cache: None, session: &session };
        writer.write(size)
    }

    const SIZE: Size = Size { rows: 6, length: 9, rounds: 8 };

    #[test]
    fn a_stand_in_has_the_shape_of_the_text() {
        for (text, time) in [(CHAIN, "t"), (CHAIN, "4"), (CACHED, "t")] {
            let (graph, inputs) = (graph(text), inputs(text, time));
            let session = Session { seed: 3, ..Session::default() };
            let writer =
                Writer { graph: &graph, inputs: &inputs, vocab: 5, cache: None, session: &session };
            let size = Size { rows: 6, length: 12, rounds: 8 };
            let (want, got) = (writer.write(size).unwrap(), writer.stand_in(size).unwrap());
            assert_eq!(got.ids.dims(), want.ids.dims(), "{time}");
            assert_eq!(got.has_cache, want.has_cache);
            assert_ne!(got.ids, want.ids);
        }
    }

    #[test]
    fn rows_follow_the_model() {
        let text = written(CHAIN, "t", 5, SIZE).unwrap();
        assert!(!text.has_cache);
        let ids = text.ids.to_i64().unwrap();
        for row in ids.chunks(SIZE.length) {
            let want: Vec<i64> = (0..9).map(|it| (row[0] + it) % 5).collect();
            assert_eq!(row, want);
        }
        // After fewer rounds only the first tokens do.
        let text = written(CHAIN, "t", 5, Size { rounds: 3, ..SIZE }).unwrap();
        let ids = text.ids.to_i64().unwrap();
        let follows =
            |at: usize| ids.chunks(SIZE.length).all(|row| row[at] == (row[0] + at as i64) % 5);
        assert!((0..=3).all(follows) && !(4..9).all(follows));
        assert!(ids.iter().all(|it| (0..5).contains(it)));
    }

    #[test]
    fn a_cache_changes_no_token() {
        let (graph, inputs) = (graph(CACHED), inputs(CACHED, "t"));
        let session = Session { seed: 3, ..Session::default() };
        let writer =
            Writer { graph: &graph, inputs: &inputs, vocab: 5, cache: None, session: &session };
        let start = Rows::random(SIZE, 5, &session);
        let mut by_token = start.clone();
        writer.by_token(&mut by_token, None).unwrap();
        let mut few = start.clone();
        writer.by_token(&mut few, Some(2)).unwrap();
        let mut by_round = start.clone();
        writer.by_round(&mut by_round, 1).unwrap();
        assert_eq!(by_token.ids, by_round.ids);
        assert_eq!(by_token.ids, few.ids);
        assert_ne!(by_token.ids, start.ids);
        assert!(writer.write(SIZE).unwrap().has_cache);
    }

    #[test]
    fn neither_threads_nor_runs_change_a_token() {
        let ids = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| written(CACHED, "t", 5, SIZE).unwrap().ids)
        };
        assert_eq!(ids(1), ids(2));
        assert_eq!(ids(1), ids(1));
    }

    #[test]
    fn models_that_cannot_write_say_why() {
        let why = |text: &str, time: &str, vocab: usize, size: Size| {
            written(text, time, vocab, size).unwrap_err()
        };
        let not_finite = CHAIN.replace("%logits = Gather(%table, %input_ids)", "%x = Gather(%table, %input_ids)\n  %y = Neg(%x)\n  %z = Sub(%y, %x)\n  %logits = Sqrt(%z)");
        assert_eq!(why(&not_finite, "t", 5, SIZE), "its logits are not finite");
        let sees_all = CHAIN.replace("%logits = Gather(%table, %input_ids)", "%x = Gather(%table, %input_ids)\n  %axes = const i64[1] [1]\n  %m = ReduceMean(%x, %axes)\n  %logits = Add(%x, %m)");
        assert!(why(&sees_all, "t", 5, SIZE).contains("depends on later tokens"));
        let narrow = "graph @narrow(%input_ids: i64[b, t]) -> (%logits: f32[b, t, 2]) {
  %table = const f32[3, 2] [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
  %logits = Gather(%table, %input_ids)
}";
        assert_eq!(why(narrow, "t", 3, SIZE), "it gives no logits over its vocabulary");
        assert!(why(CHAIN, "t", 9, SIZE).starts_with("it cannot be run: "));
        let hidden = CHAIN.replace("%logits", "%hidden");
        assert_eq!(why(&hidden, "t", 4, SIZE), "it gives no logits over its vocabulary");
        assert_eq!(why(CHAIN, "1", 5, SIZE), "a row of one token is no text");
        let huge = Size { rows: usize::MAX, ..SIZE };
        assert_eq!(why(CHAIN, "t", 5, huge), "its rows are too many or too long");
        assert_eq!(why(CHAIN, "99999999999", 5, SIZE), "its rows are too many or too long");
    }

    #[test]
    fn a_stopped_run_writes_no_more() {
        let (graph, inputs) = (graph(CHAIN), inputs(CHAIN, "t"));
        let session = Session::default();
        session.cancel.set();
        let writer =
            Writer { graph: &graph, inputs: &inputs, vocab: 5, cache: None, session: &session };
        assert_eq!(writer.write(SIZE).unwrap_err(), "it was interrupted");
    }
}
