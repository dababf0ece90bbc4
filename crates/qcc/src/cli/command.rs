//! Commands and options. Help, man page and completions are made from these types.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use qcc::{FORMATS, RECIPES};

use super::color::Color;
use super::verify::Verify;
pub(super) use super::watch::Kind as Progress;
use super::words::{OpType, ScaleType, Scheme, bits, bpw, positive, threads};

/// Quantizing compiler for ONNX models.
///
/// Reads a float ONNX model and writes one with 2 to 8 bit weights that other runtimes run.
/// Without a command, `qcc MODEL` quantizes it.
#[derive(Debug, Parser)]
#[command(name = "qcc", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "Examples:
  qcc model.onnx                     round with searched scales, no data needed
  qcc model.onnx -O rtn -b4 -g32     round to nearest, 4 bits, groups of 32")]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,

    /// Whether messages and help have colors: auto, always or never; auto is on a terminal, without
    /// NO_COLOR
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = Color::Auto,
        hide_possible_values = true,
        display_order = 900,
        value_name = "WHEN"
    )]
    pub(super) color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Quantize a model; the default command
    Quantize(Box<QuantizeArgs>),
    /// Run a model: arrays in and out, or text from a prompt
    Run(Box<super::run::RunArgs>),
    /// Perplexity of a model, and agreement with a reference
    Eval(super::eval::EvalArgs),
    /// Two models on the same inputs: outputs, inner values, and where they part
    Compare(super::compare::CompareArgs),
    /// How fast a model runs on qcc's kernels: each product, and the whole
    Bench(super::bench::BenchArgs),
    /// What is in a model, and what could be quantized
    Inspect(super::inspect::InspectArgs),
    /// Make a page for a browser from records of runs
    Report(super::report::ReportArgs),
    /// List passes, recipes and formats, or show one with its options
    Passes(super::passes::PassesArgs),
    /// Show the page of an error code
    Explain(super::explain::ExplainArgs),
    /// Print completions for a shell
    Completions(super::man::CompletionsArgs),
    /// Print the manual page
    Man(super::man::ManArgs),
    /// Print the version, and with -v what kernels are compiled by and for
    Version(super::version::VersionArgs),
}

/// Options that a pipeline has in its text.
pub(super) const OF_PASSES: [&str; 15] = [
    "recipe",
    "bits",
    "scheme",
    "group_size",
    "sym",
    "asym",
    "scale_type",
    "format",
    "accuracy_level",
    "embeddings",
    "lm_head",
    "include",
    "exclude",
    "set",
    "op_types",
];

/// Options of `quantize`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("data").multiple(true))]
pub(super) struct QuantizeArgs {
    /// The float model; - is the input stream
    pub(super) input: PathBuf,

    /// Where to write; - is the output stream [default: <INPUT without .onnx>.q<BITS>.onnx, or -
    /// where the input is]
    #[arg(short, long, alias = "output-path", alias = "output-model", value_name = "PATH")]
    pub(super) output: Option<PathBuf>,

    #[arg(
        short = 'O',
        long,
        alias = "algorithm",
        alias = "quant-method",
        value_name = "NAME",
        help = format!(
            "How numbers are chosen: {}, or a level: 0 is rtn, 1 kl, 2 signround, 3 signround with preset best; \
             options of its pass in braces \
             [default: signround with samples or --calib self, else kl]",
            names(RECIPES.iter().map(|it| it.name))
        )
    )]
    pub(super) recipe: Option<String>,

    /// Bits of a code, 2 to 8
    #[arg(short, long, default_value_t = 4, value_parser = bits)]
    pub(super) bits: u8,

    /// Bits of weights and of activations in one word: W4A16, W8A16, W4A8; A8 is accuracy level 4
    #[arg(long, value_name = "WxAy", value_parser = Scheme::parse, conflicts_with = "bits")]
    pub(super) scheme: Option<Scheme>,

    /// Stored bits for each weight, scales and zero points included, at most: each weight gets bits
    /// of its own
    #[arg(long, alias = "target-bpw", alias = "avg-bits", value_name = "X", value_parser = bpw, conflicts_with_all = ["bits", "scheme", "passes"])]
    pub(super) bpw: Option<f64>,

    /// Size of the output and its data files, at most: 60MB, 55MiB or a number of bytes; each weight
    /// gets bits of its own
    #[arg(long, value_name = "SIZE", value_parser = qcc_report::parse_bytes, conflicts_with_all = ["bits", "scheme", "passes"])]
    pub(super) target_size: Option<u64>,

    /// Bits that --bpw and --target-size choose from [default: all that the format has fields for]
    #[arg(long, value_name = "LIST", conflicts_with = "passes")]
    pub(super) candidates: Option<String>,

    /// Weights that a pattern matches share their bits, where its parentheses hold the same:
    /// 'layers.([0-9]+).attn.*'; repeatable
    #[arg(long, value_name = "RE", conflicts_with = "passes")]
    pub(super) tie: Vec<String>,

    /// Weights along K that share a scale; 0 or 'row' for the whole row [default: 32; with a budget
    /// one of 32, 64 and 128 for each weight]
    #[arg(short, long, alias = "block-size", value_name = "N")]
    pub(super) group_size: Option<String>,

    /// Fix the zero point at the middle code
    #[arg(long, overrides_with = "asym", alias = "symmetric")]
    pub(super) sym: bool,

    /// Choose a zero point for each group (default)
    #[arg(long, overrides_with = "sym")]
    pub(super) asym: bool,

    /// Type of the scales; auto is that of the weights
    #[arg(long, alias = "scale-dtype", value_enum, default_value_t = ScaleType::Auto, ignore_case = true, value_name = "TYPE")]
    pub(super) scale_type: ScaleType,

    #[arg(
        long,
        alias = "quant-format",
        default_value = "nbits",
        value_name = "FORMAT",
        help = format!("What the output is made of: {}", names(FORMATS.iter().map(|it| it.name)))
    )]
    pub(super) format: String,

    /// Arithmetic asked of the runtime (nbits): 1 f32, 2 f16, 3 bf16, 4 int8 activations, 0 unset
    /// [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=4), value_name = "N")]
    pub(super) accuracy_level: Option<u8>,

    /// Bits of embedding tables, which stay in float without it
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(super) embeddings: Option<u8>,

    /// Bits of the head, which stays in float without it
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(super) lm_head: Option<u8>,

    /// Take only weights whose name, or whose node's, a pattern matches whole; repeatable
    #[arg(long, value_name = "RE")]
    pub(super) include: Vec<String>,

    /// Leave weights whose name, or whose node's, a pattern matches whole; repeatable
    #[arg(long, alias = "nodes-to-exclude", value_name = "RE")]
    pub(super) exclude: Vec<String>,

    /// Settings for some weights: 'RE:bits=8,group=64' or 'RE:skip'; the last match wins
    #[arg(long, value_name = "RE:SETTINGS")]
    pub(super) set: Vec<String>,

    /// Operators whose weights are taken
    #[arg(
        long,
        alias = "op-types-to-quantize",
        value_enum,
        value_delimiter = ',',
        ignore_case = true,
        default_value = "MatMul,Gemm,FusedMatMul",
        hide_possible_values = true,
        value_name = "LIST"
    )]
    pub(super) op_types: Vec<OpType>,

    /// Take weights that are quantized to 8 bits already as if they were in float
    #[arg(long, conflicts_with = "passes")]
    pub(super) requantize: bool,

    /// Put the bodies of functions where they are called, and quantize the weights in them
    #[arg(long, conflicts_with = "passes")]
    pub(super) inline_functions: bool,

    /// Store constants once that are equal byte for byte
    #[arg(long, conflicts_with = "passes")]
    pub(super) merge_equal: bool,

    /// Calibration samples: .npy or .npz of token ids or named inputs, a folder of ONNX test data,
    /// .txt or .jsonl with --tokenizer; 'self' is text that the model writes, 'random' random tokens
    /// [default: self]
    #[arg(
        long,
        alias = "dataset",
        alias = "calibration-data-path",
        value_name = "PATH",
        group = "data"
    )]
    pub(super) calib: Option<PathBuf>,

    /// tokenizer.json, for text [default: that beside the model]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(super) tokenizer: Option<PathBuf>,

    /// Samples that are used at most [default: all]
    #[arg(short = 'n', long, alias = "nsamples", value_name = "N", value_parser = positive)]
    pub(super) samples: Option<usize>,

    /// Tokens of a sample
    #[arg(long, alias = "seqlen", value_name = "N", value_parser = positive)]
    pub(super) seq_len: Option<usize>,

    /// A whole pipeline instead of a recipe: 'infer-types,select,rtn,pack,to-nbits'
    #[arg(long, value_name = "TEXT", conflicts_with_all = OF_PASSES)]
    pub(super) passes: Option<String>,

    /// Options from a TOML file, named as here: bits = 4; what is typed wins
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Seed of all random numbers
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub(super) seed: u64,

    /// Threads, 1024 at most; the result does not depend on it [default: all cores]
    #[arg(short = 'j', long, env = "QCC_THREADS", hide_env_values = true, value_name = "N", value_parser = threads)]
    pub(super) threads: Option<usize>,

    /// Memory that may be used at most: 700MB, 1.5GiB, or a number of bytes
    #[arg(long, value_name = "SIZE", value_parser = qcc_report::parse_bytes)]
    pub(super) max_mem: Option<u64>,

    /// How long signround tunes: fast, light, std or best
    #[arg(long, value_name = "NAME", value_parser = ["fast", "light", "std", "best"])]
    pub(super) preset: Option<String>,

    /// Steps that tune each block [default: those of the preset]
    #[arg(long, value_name = "N")]
    pub(super) iters: Option<u16>,

    /// Rate of the first of these steps, at most 1: an offset moves by so much of a code at most
    /// [default: one over their number]
    #[arg(long, value_name = "X")]
    pub(super) lr: Option<f32>,

    /// Samples of a step that tunes a block [default: those of the preset]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(super) batch_size: Option<usize>,

    /// Steps that train the scales of all weights for what the whole model gives, after signround
    /// [default: 50 with std, 150 with best, else none]
    #[arg(long, value_name = "STEPS")]
    pub(super) tune_scales: Option<u16>,

    /// Train the weights of norms together with the scales [default: 50 steps]
    #[arg(long)]
    pub(super) tune_norms: bool,

    /// Time for all tuning, in place of the steps of a preset: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) budget: Option<std::time::Duration>,

    /// Where finished blocks are kept: the same command goes on from them after a stop [default:
    /// <OUTPUT>.work, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,

    /// Begin anew: remove the finished blocks that earlier runs have left in that folder
    #[arg(long)]
    pub(super) fresh: bool,

    /// Whether weight bytes go into a data file beside the model
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(super) external_data: When,

    /// Replace an output that exists
    #[arg(short, long)]
    pub(super) force: bool,

    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Unknown fields and damaged weights are errors
    #[arg(long)]
    pub(super) strict: bool,

    /// Follow symbolic links to data files outside of the model's folder
    #[arg(long)]
    pub(super) allow_external_symlinks: bool,

    /// Take initializers as constants that are inputs too, so that a caller could override them
    #[arg(long)]
    pub(super) treat_as_constant: bool,

    /// Read the output back, decode every weight in it, and compare it with what was chosen
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) verify: Option<Verify>,

    /// Samples to evaluate the output on beside the input, as 'qcc eval' does; not those of --calib
    #[arg(long, value_name = "PATH", group = "data", conflicts_with = "stop_after")]
    pub(super) eval: Option<PathBuf>,

    /// Limits of what --eval finds, and exit code 3 beyond them, with the output written: kl:0.02,
    /// top1:90%, ppl:+2% (above that of the input), perplexity:20, snr:15dB, cosine:0.99, max:0.5;
    /// repeatable
    #[arg(long, value_name = "FIGURE:LIMIT", value_delimiter = ',', value_parser = qcc::Gate::of_evaluation, requires = "eval")]
    pub(super) fail_above: Vec<qcc::Gate>,

    /// Read files as a whole instead of mapping them, as is safe where they may change meanwhile
    #[arg(long)]
    pub(super) no_mmap: bool,

    /// Say in the metadata of each quantized node what became of its weight; raises the IR version to 10
    #[arg(long)]
    pub(super) annotate: bool,

    /// Leave out the metadata that says how the model was made
    #[arg(long)]
    pub(super) no_provenance: bool,

    /// Print what was done to each weight as JSON, instead of a table; or write it to a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(super) json: Option<PathBuf>,

    /// Write the record of the run with what `qcc report` draws: JSON with histograms, time, memory
    #[arg(long, value_name = "FILE", conflicts_with = "stop_after")]
    pub(super) record: Option<PathBuf>,

    /// Write a page for a browser on what was done: sizes, errors, reasons
    #[arg(long, value_name = "FILE", conflicts_with = "stop_after")]
    pub(super) report: Option<PathBuf>,

    /// How progress is told; auto is a bar on a terminal and lines elsewhere
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "KIND")]
    pub(super) progress: Progress,

    /// Print only errors
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Print every note
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Machine code.
    #[command(flatten)]
    pub(super) code: super::emit::EmitArgs,

    /// Looking inside.
    #[command(flatten)]
    pub(super) look: super::look::LookArgs,
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// When the input does, or the output is above 1.5 GiB.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
