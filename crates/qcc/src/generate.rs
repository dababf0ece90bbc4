//! Text from a language model, token by token.
//!
//! The prompt is run at once; then each token is chosen from the logits of the last one
//! ([`Sampling`]) by a random number of its own, so that neither threads nor the cache change what
//! is written. With a cache of keys and values a step runs one token, without one the whole row. One
//! plan serves all of them.

mod config;
mod decoder;
mod draw;
mod last;
mod sampling;
mod stream;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use qcc_data::{Role, role, token_input};
use qcc_diag::{Diagnostic, codes};
use qcc_exec::Profile;
use qcc_pass::Rng;
use qcc_tensor::Tensor;

pub use config::TextConfig;
pub(crate) use decoder::{Cache, DecodeError, Decoder};
pub(crate) use draw::draw;
pub use sampling::Sampling;
pub use stream::{StopWords, TextStream};

use crate::runner::diagnosed;
use crate::{Error, Executor, Model};

/// What is written, and how.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens that are written at most.
    pub max_new_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text.
    pub stop: Vec<i64>,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, sampling: Sampling::default(), stop: Vec::new(), seed: 42 }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A token that ends it.
    Stop(i64),
    /// There are as many tokens as were asked for.
    Length,
    /// The model takes no more.
    Context,
    /// Who was told of the tokens wanted no more.
    Told,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens; one that ends the text is not among them.
    pub ids: Vec<i64>,
    /// Why there are no more.
    pub end: End,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Time until the first token was chosen.
    pub prefill: Duration,
    /// Time of the steps after it.
    pub decode: Duration,
    /// How many steps these were.
    pub steps: usize,
    /// Whether the model keeps keys and values between steps.
    pub has_cache: bool,
}

impl Generated {
    /// Tokens of the prompt in a second; 0 when it was not run, as where no new token is asked for.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt, self.prefill)
    }

    /// New tokens in a second, the first one left out; 0 when there are no others.
    pub fn decode_rate(&self) -> f64 {
        rate(self.steps, self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A model that writes.
pub struct Generator {
    decoder: Decoder<'static>,
    /// Tokens that the model knows, if that is known.
    vocab: Option<usize>,
    context: Option<usize>,
    /// Rows of a batch that the model always runs.
    batch: usize,
    /// Length of a row that the model always runs.
    length: Option<usize>,
}

impl Generator {
    /// A generator with the graph of an executor.
    ///
    /// # Errors
    /// When the model takes no token ids, or is an encoder.
    pub fn new(model: &Model, executor: Executor) -> Result<Self, Error> {
        let inputs = model.inputs();
        let tokens = token_input(&inputs).and_then(|at| inputs.get(at));
        let Some(dims) = tokens.and_then(|it| it.dims.as_deref()) else {
            let text = "the model takes no token ids, so it cannot write text";
            let help = "give it arrays: --input NAME=FILE.npy, or --inputs FILE.npz";
            return Err(fail(text).with_help(help).into());
        };
        let [batch, length] = dims else {
            let text = "its token ids have no axis of rows and one of tokens";
            return Err(fail(text).into());
        };
        let has = |want: Role| inputs.iter().any(|it| role(it) == Some(want));
        if has(Role::TokenTypes) && !has(Role::Past) {
            let text = "the model is an encoder, which writes no text";
            return Err(fail(text).with_help("give it arrays: --input NAME=FILE.npy").into());
        }
        let known = context(model);
        let sizes = model.cache_shape();
        let Executor { runner, options, .. } = executor;
        let mut graph = runner.into_graph();
        if length.known().is_none() {
            last::last_only(&mut graph)
                .map_err(|it| Diagnostic::error(codes::QCC0901, it.to_string()))?;
        }
        Ok(Self {
            vocab: model.vocabulary(),
            context: known.into_iter().chain(length.known()).min(),
            batch: batch.known().unwrap_or(1).max(1),
            length: length.known(),
            decoder: Decoder::new(Cow::Owned(graph), &inputs, sizes, options),
        })
    }

    /// Tokens that the model takes at most, if that is known.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// Time of each operator so far, where the options of the executor ask for it.
    pub fn profile(&self) -> Profile {
        self.decoder.profile()
    }

    /// Writes behind a prompt. `told` hears of each token as it comes, and may end the text.
    ///
    /// # Errors
    /// When the prompt is empty, too long or holds tokens that the model does not know, and when
    /// the model cannot be run or gives no logits.
    pub fn run(
        &mut self,
        prompt: &[i64],
        options: &GenerateOptions,
        told: &mut dyn FnMut(i64) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        self.check(prompt)?;
        let most = self.context.unwrap_or(usize::MAX) - prompt.len();
        // Behind the last place of the context one more token can be chosen, but not run.
        let count = options.max_new_tokens.min(most.saturating_add(1));
        let mut rng = Rng::new(options.seed, "generated text");
        let has_cache = self.decoder.pairs().is_some() && self.length.is_none();
        let expected = prompt.len().saturating_add(count);
        let mut cache = Cache::expecting(expected);
        let mut row = prompt.to_vec();
        let start = Instant::now();
        let mut written = Generated {
            ids: Vec::new(),
            end: End::Length,
            prompt: prompt.len(),
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            steps: 0,
            has_cache,
        };
        if count < options.max_new_tokens {
            written.end = End::Context;
        }
        let mut first = start;
        while written.ids.len() < count {
            let done = if has_cache && !written.ids.is_empty() { row.len() - 1 } else { 0 };
            let logits = self.logits(row.get(done..).unwrap_or_default(), &mut cache)?;
            let token = options.sampling.choose(&logits, &row, rng.f64());
            let token = token.ok_or_else(|| no_numbers(row.len()))?;
            if written.ids.is_empty() {
                first = Instant::now();
                written.prefill = first - start;
            } else {
                written.steps += 1;
                written.decode = first.elapsed();
            }
            if options.stop.contains(&token) {
                written.end = End::Stop(token);
                break;
            }
            row.push(token);
            written.ids.push(token);
            if told(token).is_break() {
                written.end = End::Told;
                break;
            }
        }
        Ok(written)
    }

    fn check(&self, prompt: &[i64]) -> Result<(), Error> {
        if prompt.is_empty() {
            let help = "give --prompt TEXT or --ids 1,2,3; a model with a token that begins a text \
                        starts with that one";
            return Err(fail("the prompt has no token").with_help(help).into());
        }
        if let Some(context) = self.context.filter(|&it| prompt.len() > it) {
            let text = format!(
                "the prompt has {} tokens, but the model takes at most {context}",
                prompt.len()
            );
            return Err(fail(&text).with_help("give it a shorter prompt").into());
        }
        let is_known = |it: &i64| {
            usize::try_from(*it).is_ok_and(|it| self.vocab.is_none_or(|vocab| it < vocab))
        };
        if let Some(it) = prompt.iter().find(|it| !is_known(it)) {
            let vocab = self.vocab.map_or(String::new(), |it| format!(" 0 to {}", it - 1));
            let text = format!("the model has no token {it}, only{vocab}");
            let help = "is the tokenizer that of this model?";
            return Err(fail(&text).with_help(help).into());
        }
        Ok(())
    }

    /// The logits behind the last token.
    fn logits(&mut self, ids: &[i64], cache: &mut Cache) -> Result<Vec<f32>, Error> {
        // A row of fixed length is filled up; no token sees those behind it.
        let length = self.length.unwrap_or(ids.len());
        let mut row = ids.to_vec();
        row.resize(length, 0);
        let rows = row.repeat(self.batch);
        let tensor =
            Tensor::from_vec(vec![self.batch, length], rows).map_err(|it| fail(&it.to_string()))?;
        let outputs = self.decoder.run(&tensor, cache).map_err(|it| match it {
            DecodeError::Exec(it) => Error::from(diagnosed(it)),
            DecodeError::Data(it) => Error::from(it.0),
            it => fail(&format!("the model cannot write text: {it}")).into(),
        })?;
        let none = || {
            let text = "the model gives no logits over its vocabulary";
            let help = "qcc inspect MODEL lists its outputs; logits are [batch, length, tokens]";
            fail(text).with_help(help)
        };
        let at = crate::evaluate::logits(&outputs, length)
            .or_else(|| crate::evaluate::logits(&outputs, 1));
        let (_, logits) = at.and_then(|it| outputs.get(it)).ok_or_else(none)?;
        let [_, places, width] = *logits.dims() else { return Err(none().into()) };
        let place = if places == length { ids.len().saturating_sub(1) } else { 0 };
        // Only one row of them is converted.
        let size = logits.dtype().bits() / 8;
        let from = place.saturating_mul(width).saturating_mul(size);
        let bytes = logits.bytes().get(from..).and_then(|it| it.get(..width * size));
        let bytes = bytes.map(|it| logits.bytes().slice_ref(it)).ok_or_else(none)?;
        let last = Tensor::new(logits.dtype(), vec![width], bytes);
        let last = last.and_then(|it| Ok(it.to_f32()?.into_owned()));
        let mut last = last.map_err(|it| fail(&it.to_string()))?;
        // Rows beyond the vocabulary are padding.
        last.truncate(self.vocab.unwrap_or(width).max(1));
        Ok(last)
    }
}

/// Tokens that a model takes at most, as far as its graph or a file beside it tells.
pub(crate) fn context(model: &Model) -> Option<usize> {
    let beside = TextConfig::beside(model.source().path());
    [beside.context, model.context()].into_iter().flatten().min()
}

fn fail(text: &str) -> Diagnostic {
    Diagnostic::error(codes::QCC0406, text)
}

fn no_numbers(place: usize) -> Error {
    let text = format!("the logits behind token {place} are not numbers");
    let help =
        "qcc compare MODEL REFERENCE finds the first value that differs from the float model";
    fail(&text).with_help(help).into()
}

#[cfg(test)]
mod tests {
    use qcc_data::ModelInput;
    use qcc_exec::PlanOptions;
    use qcc_ir::Graph;
    use qcc_tensor::{DType, Dim};

    use super::*;

    /// Constants of a layer: 7 tokens, 2 heads of queries and 1 of keys and values, of 4 features.
    fn attention() -> Graph {
        let list = |count: usize, by: usize| {
            let value = |it: usize| format!("{:.1}", ((it * by + 3) % 17) as f32 / 4.0 - 2.0);
            (0..count).map(value).collect::<Vec<_>>().join(", ")
        };
        let text = format!(
            "graph @gqa(%input_ids: i64[b, t], %attention_mask: i64[b, all], %past_0: f32[b, 1, p, 4], %past_1: f32[b, 1, p, 4]) -> (%logits: f32[b, t, 7], %present_0: f32[b, 1, q, 4], %present_1: f32[b, 1, q, 4]) {{
               %table = const f32[7, 16] [{}]
               %head = const f32[8, 7] [{}]
               %one = const i64[1] [1]
               %axis = const i64[] [1]
               %x = Gather(%table, %input_ids)
               %sum = ReduceSum(%attention_mask, %one) {{keepdims = 0}}
               %last = Sub(%sum, %one)
               %lens = Cast(%last) {{to = 6}}
               %shape = Shape(%attention_mask)
               %count = Gather(%shape, %axis)
               %total = Cast(%count) {{to = 6}}
               %y: f32[b, t, 8], %present_0, %present_1 = com.microsoft::GroupQueryAttention(%x, _, _, %past_0, %past_1, %lens, %total) {{num_heads = 2, kv_num_heads = 1}}
               %logits = MatMul(%y, %head)
             }}",
            list(7 * 16, 5),
            list(8 * 7, 7)
        );
        let make = |domain: &str, name: &str, opset, attrs| {
            qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
        };
        qcc_ir::text::parse(&text, &make, &qcc_ir::text::no_bytes).unwrap().remove(0)
    }

    fn generator(graph: Graph) -> Generator {
        let input = |name: &str, dtype, dims: &[&str]| {
            let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
            ModelInput::new(name, dtype, dims.iter().map(dim))
        };
        let inputs = [
            input("input_ids", DType::I64, &["b", "t"]),
            input("attention_mask", DType::I64, &["b", "all"]),
            input("past_0", DType::F32, &["b", "1", "p", "4"]),
            input("past_1", DType::F32, &["b", "1", "p", "4"]),
        ];
        let decoder = Decoder::new(Cow::Owned(graph), &inputs, None, PlanOptions::default());
        Generator { decoder, vocab: Some(7), context: None, batch: 1, length: None }
    }

    fn options(count: usize) -> GenerateOptions {
        let sampling = Sampling { temperature: 1.0, top_k: Some(5), ..Sampling::default() };
        GenerateOptions { max_new_tokens: count, sampling, ..GenerateOptions::default() }
    }

    fn go_on(_: i64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn neither_cache_nor_room_nor_the_head_change_a_token() {
        let run = |change: &dyn Fn(&mut Generator)| {
            let mut it = generator(attention());
            change(&mut it);
            it.run(&[1, 4, 2], &options(200), &mut go_on).unwrap()
        };
        let with = run(&|_| {});
        assert!(with.has_cache);
        assert_eq!((with.ids.len(), with.steps, with.end), (200, 199, End::Length));
        assert!((0..7).filter(|it| with.ids.contains(it)).count() > 3, "{:?}", with.ids);
        assert_eq!(run(&|it| it.decoder.forget_room()).ids, with.ids);
        let without = run(&|it| it.decoder.forget_cache());
        assert!(!without.has_cache);
        assert_eq!(without.ids, with.ids);
        let mut graph = attention();
        assert!(last::last_only(&mut graph).unwrap());
        let mut short = generator(graph);
        assert_eq!(short.run(&[1, 4, 2], &options(200), &mut go_on).unwrap().ids, with.ids);
        let ids = Tensor::from_vec(vec![1, 5], vec![0i64; 5]).unwrap();
        let outputs = short.decoder.run(&ids, &mut Cache::default()).unwrap();
        assert_eq!(outputs[0].1.dims(), [1, 1, 7]);
    }

    #[test]
    fn a_text_ends() {
        let mut it = generator(attention());
        let all = it.run(&[1], &options(20), &mut go_on).unwrap().ids;
        let stop = GenerateOptions { stop: vec![all[5]], ..options(20) };
        let first = all.iter().position(|it| *it == all[5]).unwrap();
        let stopped = it.run(&[1], &stop, &mut go_on).unwrap();
        assert_eq!((stopped.ids.as_slice(), stopped.end), (&all[..first], End::Stop(all[5])));
        let mut left = 3;
        let told = it.run(&[1], &options(20), &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(told.as_ref().unwrap().ids, all[..3]);
        assert_eq!(told.unwrap().end, End::Told);
        it.context = Some(4);
        let full = it.run(&[1], &options(20), &mut go_on).unwrap();
        assert_eq!((full.ids.as_slice(), full.end), (&all[..4], End::Context));
        assert!(it.run(&[1], &options(0), &mut go_on).unwrap().ids.is_empty());
    }

    #[test]
    fn prompts_that_cannot_be_run_are_refused() {
        let mut it = generator(attention());
        it.context = Some(4);
        let mut why = |prompt: &[i64]| {
            let error = it.run(prompt, &options(2), &mut go_on).unwrap_err();
            assert_eq!(error.code(), codes::QCC0406);
            error.to_string()
        };
        assert!(why(&[]).contains("no token"));
        assert!(why(&[7]).contains("no token 7, only 0 to 6"));
        assert!(why(&[-1]).contains("no token -1"));
        assert!(why(&[1; 5]).contains("5 tokens, but the model takes at most 4"));
    }
}
