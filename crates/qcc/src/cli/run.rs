//! `qcc run`: a model on arrays, or text that it writes.

mod arrays;
mod idle;
mod text;

use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::{Args, ValueEnum};
use qcc::{Error, ExecuteOptions, Executor, Kernels, Model};
use qcc_exec::Profile;
use serde_json::{Value, json};

use super::exit::{Ended, say};
use super::words::{positive, threads};
use super::{stays, streams};

/// Options of `run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qcc run model.onnx --prompt 'Once upon a time'    text as it comes, the likeliest token each time
  qcc run model.onnx --prompt-file - -n 200 --temperature 0.8 --top-p 0.95 --seed 7
  qcc run model.onnx --ids 1,5,42 -n 20             token ids, without a tokenizer
  qcc run model.onnx --input x=x.npy                a table of the outputs
  qcc run model.onnx --inputs all.npz --outputs out.npz

Float and quantized models run alike; products with weights of 2 to 8 bits run on compiled kernels
(--kernels). Where the model has a cache of keys and values, each token costs one step; without one
the whole text is run again for each. Inputs that follow from token ids are made: masks, positions,
an empty cache. Text goes to the output stream, times to the error stream.")]
pub(super) struct RunArgs {
    /// The model
    pub(super) input: PathBuf,

    /// Arrays for the inputs, by their names
    #[arg(long, value_name = "FILE.npz", help_heading = "Arrays")]
    pub(super) inputs: Option<PathBuf>,

    /// An array for one input; repeatable
    #[arg(long = "input", value_name = "NAME=FILE.npy", help_heading = "Arrays")]
    pub(super) arrays: Vec<String>,

    /// Write the outputs to a file, instead of a table to the screen
    #[arg(long, value_name = "FILE.npz", help_heading = "Arrays")]
    pub(super) outputs: Option<PathBuf>,

    /// Replace a file that exists
    #[arg(short, long, requires = "outputs", help_heading = "Arrays")]
    pub(super) force: bool,

    /// What to write on
    #[command(flatten)]
    pub(super) text: TextArgs,

    /// Threads, 1024 at most; the result does not depend on it [default: all cores]
    #[arg(short = 't', long, env = "QCC_THREADS", hide_env_values = true, value_name = "N", value_parser = threads)]
    pub(super) threads: Option<usize>,

    /// What runs products with weights of 2 to 8 bits
    #[arg(long, value_enum, default_value_t = Source::Auto, value_name = "KIND")]
    pub(super) kernels: Source,

    /// Print the time of each operator to the error stream
    #[arg(long)]
    pub(super) profile: bool,

    /// Print JSON: the outputs, or the text with its tokens and times
    #[arg(long)]
    pub(super) json: bool,

    /// Print neither times nor which products run without kernels
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Options about text.
#[derive(Args, Debug)]
#[command(next_help_heading = "Text")]
pub(super) struct TextArgs {
    /// The text to go on with
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["inputs", "arrays", "outputs"])]
    pub(super) prompt: Option<String>,

    /// A file with the text to go on with; - for the input stream
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "inputs", "arrays", "outputs"])]
    pub(super) prompt_file: Option<PathBuf>,

    /// The token ids to go on with, separated by commas; prints ids
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true,
        conflicts_with_all = ["prompt", "prompt_file", "inputs", "arrays", "outputs"]
    )]
    pub(super) ids: Vec<i64>,

    /// tokenizer.json [default: that beside the model]
    #[arg(long, value_name = "FILE")]
    pub(super) tokenizer: Option<PathBuf>,

    /// Tokens that are written at most [default: 128]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) max_new_tokens: Option<usize>,

    /// Logits are divided by it; 0 takes the likeliest token each time [default: 0, and 1 with
    /// another option of drawing]
    #[arg(long, value_name = "X", value_parser = temperature)]
    pub(super) temperature: Option<f32>,

    /// Draw from the N likeliest tokens only
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(super) top_k: Option<usize>,

    /// Draw from the likeliest tokens only that together have this probability
    #[arg(long, value_name = "P", value_parser = share)]
    pub(super) top_p: Option<f64>,

    /// Draw from tokens only that are at least so likely, as a share of the likeliest
    #[arg(long, value_name = "P", value_parser = share)]
    pub(super) min_p: Option<f64>,

    /// Make tokens that are there already less likely; 1 does nothing [default: 1]
    #[arg(long, value_name = "X", value_parser = penalty)]
    pub(super) repetition_penalty: Option<f32>,

    /// Seed of the random numbers of drawing; the same seed gives the same text [default: 42]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,

    /// End where this text comes, and leave it out; repeatable
    #[arg(long, value_name = "TEXT")]
    pub(super) stop: Vec<String>,

    /// End at this token; repeatable [default: eos_token_id of generation_config.json, config.json
    /// or genai_config.json beside the model]
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(super) stop_id: Vec<i64>,

    /// Go on behind tokens that end a text
    #[arg(long, conflicts_with = "stop_id")]
    pub(super) ignore_eos: bool,
}

impl TextArgs {
    /// Whether there is something to go on with, so that the model writes text.
    fn is_asked(&self) -> bool {
        self.prompt.is_some() || self.prompt_file.is_some() || !self.ids.is_empty()
    }

    /// Whether an option limits what is drawn from.
    fn is_limited(&self) -> bool {
        self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()
    }

    /// Logits are divided by it; 0 where nothing is drawn.
    fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(if self.is_limited() { 1.0 } else { 0.0 })
    }
}

/// What runs products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// Kernels compiled for this CPU.
    Auto,
    /// Kernels in plain Rust: slow, with the same results.
    Scalar,
    /// No kernels: weights are decoded to floats.
    None,
}

fn number<T: std::str::FromStr + PartialOrd>(
    text: &str,
    is_right: impl Fn(&T) -> bool,
    what: &str,
) -> Result<T, String> {
    text.parse().ok().filter(is_right).ok_or_else(|| format!("it takes {what}"))
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |it: &f32| it.is_finite() && *it >= 0.0, "a number from 0 on, such as 0.8")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |it: &f64| (0.0..=1.0).contains(it), "a number from 0 to 1, such as 0.95")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |it: &f32| it.is_finite() && *it > 0.0, "a number above 0, such as 1.1")
}

/// Runs the command.
pub(super) fn run(args: &RunArgs) -> Result<Ended, Error> {
    idle::check(&args.text)?;
    let model = streams::open(&args.input)?;
    arrays::check(args, &model)?;
    model.warnings().iter().for_each(say);
    let threads = args.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    // On a thread of the pool, so that an operator hands nothing over that is done by one thread.
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(|| on_threads(args, &model, threads)),
        Err(_) => on_threads(args, &model, threads),
    }
}

fn on_threads(args: &RunArgs, model: &Model, threads: usize) -> Result<Ended, Error> {
    let kernels = match args.kernels {
        Source::Auto => Some(Kernels::new(threads)),
        Source::Scalar => Some(Kernels::scalar(threads)),
        Source::None => None,
    };
    let options = ExecuteOptions { kernels, profile: args.profile };
    let executor = Executor::new(model, &options)?;
    let told = executor.notes();
    told.iter().for_each(say);
    if !args.quiet {
        stays::warnings(executor.stays()).iter().for_each(say);
    }
    let ended = if args.text.is_asked() {
        text::run(args, model, executor)
    } else {
        arrays::run(args, model, executor)
    };
    // What became known while it ran.
    let notes = options.kernels.as_ref().map(Kernels::notes).unwrap_or_default();
    notes.iter().filter(|it| !told.contains(it)).for_each(say);
    ended
}

/// Time of each operator, for JSON.
fn profile_json(profile: &Profile) -> Value {
    let row = |it: &qcc_exec::ProfileRow| json!({"operator": it.op, "nodes": it.count, "seconds": it.time.as_secs_f64(), "flops": it.flops});
    profile.rows.iter().map(row).collect()
}
