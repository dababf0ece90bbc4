//! Text that a model writes.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use qcc::{
    End, Error, Executor, GenerateOptions, Generated, Generator, Model, Sampling, StopWords,
    TextConfig, TextStream, Tokenizer,
};
use qcc_diag::{Diagnostic, codes};
use serde_json::json;

use super::{RunArgs, TextArgs, profile_json};
use crate::cli::exit::{Ended, show, tell};

/// Writes behind the prompt.
pub(super) fn run(args: &RunArgs, model: &Model, executor: Executor) -> Result<Ended, Error> {
    let text = &args.text;
    let products = executor.products();
    let mut generator = Generator::new(model, executor)?;
    let tokenizer = tokenizer(text, model)?;
    let prompt = prompt(text, tokenizer.as_ref())?;
    let options = options(text, model);
    let mut writer = Writer {
        tokenizer: tokenizer.as_ref(),
        stream: TextStream::default(),
        stop: StopWords::new(&text.stop),
        text: String::new(),
        is_shown: !args.json,
        error: None,
    };
    let written = generator.run(&prompt, &options, &mut |token| writer.push(token))?;
    writer.finish();
    if let Some(error) = writer.error.take() {
        return Err(error);
    }
    let profile = generator.profile();
    if args.json {
        let mut document = document(args, &written, products);
        if tokenizer.is_some() {
            document["text"] = json!(writer.text);
        }
        if args.profile {
            document["profile"] = profile_json(&profile);
        }
        return show(&format!("{document:#}\n"));
    }
    let ended = show("\n")?;
    if args.profile {
        tell(&profile.to_string());
    }
    if !args.quiet {
        tell(&times(&written, products));
    }
    Ok(ended)
}

fn fail(text: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::QCC0406, text)
}

/// The tokenizer, if text is asked for.
fn tokenizer(args: &TextArgs, model: &Model) -> Result<Option<Tokenizer>, Error> {
    if args.ids.is_empty() || args.tokenizer.is_some() {
        let beside = model.source().path().with_file_name("tokenizer.json");
        let path = args.tokenizer.as_deref().unwrap_or(&beside);
        if args.tokenizer.is_none() && !path.exists() {
            let error = fail("there is no tokenizer.json beside the model");
            let help = "give --tokenizer FILE, or token ids: --ids 1,2,3";
            return Err(error.with_help(help).into());
        }
        return open(path).map(Some);
    }
    if !args.stop.is_empty() {
        let error = fail("--stop takes text, but --ids prints token ids");
        return Err(error.with_help("give --tokenizer FILE, or --stop-id").into());
    }
    Ok(None)
}

fn open(path: &Path) -> Result<Tokenizer, Error> {
    Tokenizer::open(path).map_err(|it| {
        let shown = path.display();
        let error = Diagnostic::error(codes::QCC0401, format!("'{shown}' cannot be read: {it}"));
        let help = "it takes the tokenizer.json of Hugging Face tokenizers";
        error.at(shown.to_string()).with_help(help).into()
    })
}

fn prompt(args: &TextArgs, tokenizer: Option<&Tokenizer>) -> Result<Vec<i64>, Error> {
    if !args.ids.is_empty() {
        return Ok(args.ids.clone());
    }
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read(path)?,
        (None, None) => String::new(),
    };
    let Some(tokenizer) = tokenizer else { return Ok(Vec::new()) };
    tokenizer.encode(&text, true).map_err(|it| fail(it).into())
}

fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|it| text = it)
    };
    read.map_err(|error| {
        let shown = path.display();
        Diagnostic::error(codes::QCC0401, format!("'{shown}' cannot be read: {error}"))
            .at(shown.to_string())
            .with_help("the prompt is a file of UTF-8 text, or - for the input stream")
    })?;
    Ok(text)
}

fn options(args: &TextArgs, model: &Model) -> GenerateOptions {
    let stop = if args.ignore_eos {
        Vec::new()
    } else if args.stop_id.is_empty() {
        TextConfig::beside(model.source().path()).stop
    } else {
        args.stop_id.clone()
    };
    let default = GenerateOptions::default();
    GenerateOptions {
        max_new_tokens: args.max_new_tokens.unwrap_or(default.max_new_tokens),
        sampling: Sampling {
            temperature: args.temperature(),
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args
                .repetition_penalty
                .unwrap_or(default.sampling.repetition_penalty),
        },
        stop,
        seed: args.seed.unwrap_or(default.seed),
    }
}

/// Shows tokens as they come.
struct Writer<'a> {
    tokenizer: Option<&'a Tokenizer>,
    stream: TextStream,
    stop: StopWords,
    text: String,
    is_shown: bool,
    error: Option<Error>,
}

impl Writer<'_> {
    fn push(&mut self, token: i64) -> ControlFlow<()> {
        let piece = match self.tokenizer {
            None => {
                let between = if self.text.is_empty() { "" } else { " " };
                Ok(format!("{between}{token}"))
            }
            Some(it) => self.stream.push(token, |ids| it.decode(ids)),
        };
        self.put(piece, false);
        let is_over = self.error.is_some() || self.stop.is_over();
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn finish(&mut self) {
        let rest = match self.tokenizer {
            None => Ok(String::new()),
            Some(it) => self.stream.finish(|ids| it.decode(ids)),
        };
        self.put(rest, true);
    }

    fn put(&mut self, piece: Result<String, String>, is_last: bool) {
        match piece {
            Err(it) => self.error = Some(fail(format!("a token has no text: {it}")).into()),
            Ok(piece) => {
                let mut piece = self.stop.push(&piece);
                if is_last {
                    piece.push_str(&self.stop.finish());
                }
                self.text.push_str(&piece);
                if self.is_shown && !piece.is_empty() {
                    self.show(&piece);
                }
            }
        }
    }

    fn show(&mut self, piece: &str) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has seen enough is no error, but ends the text.
            self.error = self.error.take().or_else(|| {
                let text = format!("the output stream cannot be written: {error}");
                (error.kind() != ErrorKind::BrokenPipe)
                    .then(|| Diagnostic::error(codes::QCC0105, text).into())
            });
            self.stop.end();
        }
    }
}

fn end(it: End) -> &'static str {
    match it {
        End::Stop(_) => "stop",
        End::Length => "length",
        End::Context => "context",
        End::Told => "stop-text",
    }
}

fn times(it: &Generated, products: usize) -> String {
    let mut text = if it.prefill.is_zero() {
        format!("prompt {} tokens, not run", it.prompt)
    } else {
        let (time, rate) = (1e3 * it.prefill.as_secs_f64(), it.prefill_rate());
        format!("prompt {} tokens, {time:.0} ms, {rate:.1} tokens/s", it.prompt)
    };
    if it.steps > 0 {
        text.push_str(&format!(
            "; {} new tokens, {:.2} ms each, {:.1} tokens/s",
            it.ids.len(),
            1e3 * it.decode.as_secs_f64() / it.steps as f64,
            it.decode_rate()
        ));
    }
    if !it.has_cache {
        text.push_str("; no cache: each token runs the whole text");
    }
    if products > 0 {
        text.push_str(&format!("; {products} products on kernels"));
    }
    if it.end == End::Context {
        text.push_str("; the context is full");
    }
    text
}

fn document(args: &RunArgs, it: &Generated, products: usize) -> serde_json::Value {
    json!({
        "model": args.input.display().to_string(),
        "kernels": products,
        "cache": it.has_cache,
        "prompt_tokens": it.prompt,
        "tokens": it.ids,
        "end": end(it.end),
        "prefill_seconds": it.prefill.as_secs_f64(),
        "prefill_tokens_per_second": it.prefill_rate(),
        "decode_steps": it.steps,
        "decode_seconds": it.decode.as_secs_f64(),
        "decode_tokens_per_second": it.decode_rate(),
    })
}
