//! Text from a language model, token by token.
//!
//! The prompt is run at once; then each token is chosen from the logits of the last one
//! ([`Sampling`]) by a random number of its own, so that neither threads nor the cache change what
//! is written. With a cache of keys and values a step runs one token, without one the whole row. One
//! plan serves all of them.

mod config;
mod decoder;
mod draw;
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
    /// Tokens of the prompt in a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt, self.prefill)
    }

    /// New tokens in a second, the first one left out; 0 when there are no others.
    pub fn decode_rate(&self) -> f64 {
        rate(self.steps, self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 { 0.0 } else { count as f64 / time.as_secs_f64().max(1e-9) }
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
        let config = TextConfig::beside(model.source().path());
        let known = [config.context, model.context()].into_iter().flatten().min();
        let sizes = model.cache_shape();
        let Executor { runner, options, .. } = executor;
        Ok(Self {
            vocab: model.vocabulary(),
            context: known.into_iter().chain(length.known()).min(),
            batch: batch.known().unwrap_or(1).max(1),
            length: length.known(),
            decoder: Decoder::new(Cow::Owned(runner.into_graph()), &inputs, sizes, options),
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
            DecodeError::Exec(it) => Error::from(Diagnostic::from(it)),
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
        let size = logits.dtype().bits() as usize / 8;
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

fn fail(text: &str) -> Diagnostic {
    Diagnostic::error(codes::QCC0406, text)
}

fn no_numbers(place: usize) -> Error {
    let text = format!("the logits behind token {place} are not numbers");
    let help =
        "qcc compare MODEL REFERENCE finds the first value that differs from the float model";
    fail(&text).with_help(help).into()
}
