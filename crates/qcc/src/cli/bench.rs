//! `qcc bench`: how fast a model runs on qcc's kernels.

use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::{Args, ValueEnum};
use qcc::bench::{Bench, BenchOptions, Layer, WholeTime, bench};
use qcc::{Error, Kernels, Model};
use qcc_kernels::Planes;
use qcc_report::{Note, bytes, columns, line};
use serde_json::{Value, json};

use super::command::Progress;
use super::exit::{Ended, say, show};
use super::stays::told;
use super::words::{positive, threads};
use super::{stop, streams, watch};

/// Options of `bench`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qcc bench model.q4.onnx                        products and whole runs of 1, 4, 16, 128 tokens
  qcc bench model.q4.onnx --ref model.onnx       beside the float model, in the same engine
  qcc bench model.q4.onnx -m1 --past 512 -t1     a step of decoding behind 512 tokens, one thread
  qcc bench model.q4.onnx --profile --json       time of each operator as well, as JSON

The whole model is timed, and each product with weights of 2 to 8 bits. Where there is none, as in
a float model and one of --format fake, that is the whole model alone.

A product is timed with what is fused into its kernel; those of one kind run in turn, so that
weights come from memory where they do so in the model. GB/s are packed weights, GOP/s
multiplications and additions. 'limit' is the least time that this CPU needs to read the weights,
or to multiply, over the time that was taken; both are measured first. 'ref' is the time of the
reference over that of the model: above 1 the model is faster.")]
pub(super) struct BenchArgs {
    /// The model, float or quantized: in any format that qcc writes, or with MatMulNBits of another
    /// tool
    pub(super) input: PathBuf,

    /// A model to compare with, the float one say
    #[arg(long = "ref", value_name = "MODEL")]
    pub(super) reference: Option<PathBuf>,

    /// Tokens, or rows, of a run; several separated by commas [default: 1,4,16,128, as far as the
    /// model has positions]
    #[arg(short = 'm', long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    pub(super) rows: Vec<usize>,

    /// Tokens that the cache of the model holds before the run
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) past: usize,

    /// Threads, 1024 at most [default: all cores]
    #[arg(short, long, env = "QCC_THREADS", hide_env_values = true, value_name = "N", value_parser = threads)]
    pub(super) threads: Option<usize>,

    /// How often each time is taken [default: for a fifth of a second, 3 times at least]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(super) runs: Option<usize>,

    /// How exactly activations are kept [default: as each product asks]
    #[arg(long, value_enum, value_name = "PLANES")]
    pub(super) activations: Option<Activations>,

    /// A row for each product, instead of one for each kind
    #[arg(long)]
    pub(super) each: bool,

    /// Only the whole model, not each product
    #[arg(long, conflicts_with = "each")]
    pub(super) whole: bool,

    /// Time of each operator too
    #[arg(long)]
    pub(super) profile: bool,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    /// How progress is told; auto is a bar on a terminal and lines elsewhere
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "KIND")]
    pub(super) progress: Progress,
}

/// How exactly activations are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Activations {
    /// 8 bits: relative error of about 5e-3
    A8,
    /// 15 bits: 4e-5
    A15,
    /// 22 bits: 3e-7, that of float32
    A22,
}

/// Runs the command.
pub(super) fn run(args: &BenchArgs) -> Result<Ended, Error> {
    let model = streams::open(&args.input)?;
    let reference = args.reference.as_ref().map(streams::open).transpose()?;
    let threads = args.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    // Operators beside the kernels take their threads from here. A pool that exists already stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let kernels = Kernels::new(threads);
    let options = BenchOptions {
        rows: args.rows.clone(),
        past: args.past,
        runs: args.runs,
        planes: args.activations.map(|it| match it {
            Activations::A8 => Planes::A8,
            Activations::A15 => Planes::A15,
            Activations::A22 => Planes::A22,
        }),
        each: args.each,
        whole: args.whole,
        profile: args.profile,
    };
    let told = kernels.notes();
    model.warnings().iter().chain(&told).for_each(say);
    let progress = watch::progress(args.progress, false);
    let cancel = stop::cancel();
    // On a thread of that pool: from outside each operator would wait for one to wake up.
    let work = || bench(&model, reference.as_ref(), &kernels, &options, &progress, &cancel);
    let found = rayon::scope(|_| work())?;
    found.notes.iter().filter(|it| !told.contains(it)).for_each(say);
    if args.json {
        return show(&format!("{:#}\n", to_json(args, &model, &found)));
    }
    show(&to_text(args, &found))
}

fn to_text(args: &BenchArgs, found: &Bench) -> String {
    let limits = &found.limits;
    let threads = if limits.threads == 1 { "thread" } else { "threads" };
    let mut rows = vec![
        vec!["model".to_owned(), args.input.display().to_string()],
        vec![
            "products".to_owned(),
            format!(
                "{} on {} kernels, weights of {}",
                found.products.0,
                found.isa,
                bytes(found.products.1 as u64)
            ),
        ],
    ];
    let read = limits.read.iter().map(|it| format!("{:.0}", it.1 / 1e9)).collect::<Vec<_>>();
    let sizes = limits.read.iter().map(|it| bytes(it.0 as u64)).collect::<Vec<_>>();
    let dot = limits.dot.map_or(String::new(), |it| format!(", {:.0} GOP/s of 8 bits", 2e-9 * it));
    rows.push(vec![
        "limits".to_owned(),
        format!(
            "{} {threads}: {} GB/s from {}{dot}",
            limits.threads,
            read.join(", "),
            sizes.join(", ")
        ),
    ]);
    let mut text = columns(&rows, &[]);
    for (label, list) in [("stays", &found.stays), ("apart", &found.apart)] {
        for (count, name, why) in told(list) {
            let others = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            text.push_str(&format!("  {label}   {}{others}: {}\n", line(&name), line(&why)));
        }
    }
    text.push('\n');
    text.push_str(&whole(&found.whole));
    if !found.layers.is_empty() {
        text.push('\n');
        text.push_str(&layers(&found.layers));
    }
    for it in &found.whole {
        if let Some(profile) = &it.profile {
            text.push_str(&format!("\n  operators, {} tokens, all runs\n{profile}", it.rows));
        }
    }
    text
}

fn ratio(reference: Option<f64>, own: f64) -> String {
    reference.map_or(String::new(), |it| format!("{:.2}", it / own))
}

fn whole(times: &[WholeTime]) -> String {
    let head = ["whole model: tokens", "ms", "best", "tokens/s", "ref"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for it in times {
        cells.push(vec![
            it.rows.to_string(),
            format!("{:.2}", 1e3 * it.seconds),
            format!("{:.2}", 1e3 * it.least),
            format!("{:.1}", it.rows as f64 / it.seconds),
            ratio(it.reference, it.seconds),
        ]);
    }
    columns(&cells, &[0, 1, 2, 3, 4])
}

/// Numbers of several products: once, if all are the same.
fn list<T: PartialEq + ToString>(of: &[T]) -> String {
    match of {
        [first, rest @ ..] if rest.iter().all(|it| it == first) => first.to_string(),
        _ => of.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
    }
}

fn layers(layers: &[Layer]) -> String {
    let head = [
        "product", "K x N", "bits", "group", "acts", "end", "rows", "µs", "GB/s", "GOP/s", "limit",
        "ref",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for layer in layers {
        let name = line(&layer.name);
        let n = layer.n.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let ends: Vec<String> =
            layer.epilogues.iter().map(ToString::to_string).filter(|it| it != "none").collect();
        let mut about = vec![
            if layer.count > 1 { format!("{name} (x{})", layer.count) } else { name },
            format!("{} x {n}", layer.k),
            list(&layer.bits),
            list(&layer.group),
            layer.planes.to_string(),
            list(&ends),
        ];
        for it in &layer.times {
            let mut row = std::mem::replace(&mut about, vec![String::new(); 6]);
            row.extend([
                it.rows.to_string(),
                format!("{:.1}", 1e6 * it.seconds),
                format!("{:.1}", 1e-9 * it.bytes_per_second),
                format!("{:.0}", 1e-9 * it.ops_per_second),
                it.share.map_or(String::new(), |it| format!("{:.0} %", 100.0 * it)),
                ratio(it.reference, it.seconds),
            ]);
            cells.push(row);
        }
    }
    columns(&cells, &[6, 7, 8, 9, 10, 11])
}

fn to_json(args: &BenchArgs, model: &Model, found: &Bench) -> Value {
    let pairs = |list: &[(String, String)]| -> Vec<Value> {
        list.iter().map(|(name, why)| json!({"node": name, "why": why})).collect()
    };
    let whole = found.whole.iter().map(|it| {
        let mut row = json!({
            "rows": it.rows,
            "seconds": it.seconds,
            "best_seconds": it.least,
            "tokens_per_second": it.rows as f64 / it.seconds,
            "reference_seconds": it.reference,
        });
        if let Some(profile) = &it.profile {
            let rows = profile.rows.iter().map(
                |it| json!({"op": it.op, "count": it.count, "seconds": it.time.as_secs_f64(), "flops": it.flops}),
            );
            row["operators"] = rows.collect();
        }
        row
    });
    let layers = found.layers.iter().map(|layer| {
        let times = layer.times.iter().map(|it| {
            json!({
                "rows": it.rows,
                "seconds": it.seconds,
                "bytes_per_second": it.bytes_per_second,
                "ops_per_second": it.ops_per_second,
                "share_of_limit": it.share,
                "reference_seconds": it.reference,
            })
        });
        json!({
            "name": layer.name,
            "count": layer.count,
            "k": layer.k,
            "n": layer.n,
            "bits": layer.bits,
            "group": layer.group,
            "activations": layer.planes.to_string(),
            "epilogues": layer.epilogues.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "bytes": layer.bytes,
            "times": times.collect::<Vec<_>>(),
        })
    });
    let read = found.limits.read.iter();
    let notes = model.warnings().iter().chain(&found.notes);
    json!({
        "input": args.input.display().to_string(),
        "reference": args.reference.as_ref().map(|it| it.display().to_string()),
        "past": args.past,
        "limits": {
            "threads": found.limits.threads,
            "read": read.map(|it| json!({"bytes": it.0, "bytes_per_second": it.1})).collect::<Vec<_>>(),
            "dot_ops_per_second": found.limits.dot.map(|it| 2.0 * it),
        },
        "isa": found.isa,
        "products": found.products.0,
        "weight_bytes": found.products.1,
        "stays": pairs(&found.stays),
        "apart": pairs(&found.apart),
        "whole": whole.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "notes": notes.map(Note::from).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_are_written_once() {
        assert_eq!(list(&[4, 4]), "4");
        assert_eq!(list(&[4, 8]), "4+8");
        assert_eq!(list::<u8>(&[]), "");
    }
}
