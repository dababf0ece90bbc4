//! Times of a model on kernels: of each product, and of the whole.
//!
//! A product is timed as the node that computes it, with what is fused into it, between values of
//! its own; products of one kind run one after another, so that weights come from where they come
//! from in the model. The limit is what the CPU at hand can do ([`qcc_kernels::limits`]).
//! A reference model runs in the same engine.

mod asked;
mod feed;
mod layers;
mod time;
mod whole;

use qcc_diag::{Diagnostic, codes};
use qcc_exec::Profile;
use qcc_ir::Graph;
use qcc_kernels::{KernelSource as _, Planes, Pool, limits};
use qcc_pass::{Cancel, Progress};
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::kernels::{Kernels, lowered};
use crate::{Error, Model};

use whole::Whole;

pub use layers::{Layer, LayerTime};

/// What is timed, and how.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// Tokens, or rows, of a run; none: 1, 4, 16 and 128, as far as the model has positions.
    pub rows: Vec<usize>,
    /// Tokens that a model with a cache has seen already.
    pub past: usize,
    /// How often each time is taken; `None`: for a fifth of a second, and three times at least.
    pub runs: Option<usize>,
    /// How exactly activations are kept, instead of what the model asks for.
    pub planes: Option<Planes>,
    /// Each product on its own, instead of those of one kind together.
    pub each: bool,
    /// Only the whole model.
    pub whole: bool,
    /// Time of each operator as well.
    pub profile: bool,
}

/// What the CPU at hand can do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes a second, by the bytes that are read again and again.
    pub read: Vec<(usize, f64)>,
    /// Products a second, with codes of up to 4 bits; `None` where it is not known how to find out.
    pub dot: Option<f64>,
    /// Threads that did it.
    pub threads: usize,
}

impl Limits {
    /// Measures them: half a second, with the threads of the kernels, but at most one for each
    /// CPU: more would measure how they take turns.
    pub fn measure(kernels: &Kernels) -> Self {
        let threads = &*measuring(kernels);
        let sizes = [1 << 17, 1 << 19, 1 << 23, 1 << 27];
        Self {
            read: sizes.map(|bytes| (bytes, limits::read_rate(threads, bytes))).into(),
            dot: limits::dot_rate(threads, kernels.source.isa()),
            threads: threads.threads(),
        }
    }

    /// Seconds that a product needs at least, which reads `bytes` at `rate` bytes a second; `None`
    /// where the time of multiplications is not known, which may be the longer one.
    fn least(&self, bytes: usize, rate: f64, products: f64) -> Option<f64> {
        Some((bytes as f64 / rate).max(products / self.dot?))
    }
}

/// Time of a whole run.
#[derive(Clone, Debug)]
pub struct WholeTime {
    /// Tokens, or rows, that the run had: those that were asked for, if the model leaves it open.
    pub rows: usize,
    /// Seconds: the median.
    pub seconds: f64,
    /// The shortest.
    pub least: f64,
    /// Seconds of the reference: the median.
    pub reference: Option<f64>,
    /// By operator, if that was asked for.
    pub profile: Option<Profile>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Bench {
    /// What the CPU can do.
    pub limits: Limits,
    /// The instruction set of the kernels.
    pub isa: String,
    /// Products that run on kernels, and bytes of their packed weights.
    pub products: (usize, usize),
    /// Products with low-bit weights that do not, and why.
    pub stays: Vec<(String, String)>,
    /// Operators behind products that are not part of their kernels, and why.
    pub apart: Vec<(String, String)>,
    /// Products, those of one kind together.
    pub layers: Vec<Layer>,
    /// Whole runs.
    pub whole: Vec<WholeTime>,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// Times a model, and a reference in the same engine.
///
/// # Errors
/// When a model cannot be run, or has inputs that cannot be made up; for tokens seen before when
/// it has no cache that could hold them; for more tokens than it takes or there is memory for.
pub fn bench(
    model: &Model,
    reference: Option<&Model>,
    kernels: &Kernels,
    options: &BenchOptions,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Bench, Error> {
    let both = || [Some(model), reference].into_iter().flatten();
    let usual = BenchOptions { rows: asked::usual(both(), options.past), ..options.clone() };
    let options = if options.rows.is_empty() { &usual } else { options };
    both().try_for_each(|it| asked::check(it, options))?;
    let (runner, report) = lowered(model, kernels, options.planes, cancel)?;
    let other = match reference {
        Some(it) => Some((it, lowered(it, kernels, options.planes, cancel)?.0)),
        None => None,
    };
    let graph = runner.graph();
    let other = other.as_ref().map(|it| (it.0, it.1.graph()));
    let (limits, threads) = (Limits::measure(kernels), measuring(kernels));
    let bytes = |it: &qcc_engine::Lowered| layers::bytes(&it.product);
    let products = (report.products.len(), report.products.iter().map(bytes).sum());
    let kinds = if options.whole { Vec::new() } else { layers::kinds(graph, options.each) };
    for &rows in &options.rows {
        asked::fits(graph, rows, options.past)?;
        other.map_or(Ok(()), |it| asked::fits(it.1, rows, options.past))?;
        kinds.iter().try_for_each(|it| asked::has_room(it.needs(graph, rows)))?;
    }
    progress.start("bench", ((kinds.len() + 1) * options.rows.len()) as u64);
    let mut whole = Vec::new();
    for &rows in &options.rows {
        stopped(cancel)?;
        let run = run((model, graph), other, rows, options)?;
        // A model of one length has the same run again.
        if whole.iter().all(|it: &WholeTime| it.rows != run.rows) {
            whole.push(run);
        }
        progress.step(1, "");
    }
    let mut layers = Vec::new();
    for kind in kinds {
        let mut layer = Layer::new(&kind);
        // Weights of a kind are read in turn, so all of them say which memory they come from.
        let rate = limits::read_rate(&*threads, kind.bytes());
        for &rows in &options.rows {
            stopped(cancel)?;
            let reference = other.map(|it| it.1);
            let time = layers::time(&kind, (graph, reference), rows, options, (&limits, rate))?;
            layer.times.push(time);
            progress.step(1, "");
        }
        layers.push(layer);
    }
    progress.finish();
    let pairs = |list: Vec<qcc_engine::Stays>| list.into_iter().map(|it| (it.name, it.why));
    Ok(Bench {
        limits,
        isa: kernels.isa(),
        products,
        stays: pairs(report.stays).collect(),
        apart: pairs(report.apart).collect(),
        layers,
        whole,
        notes: kernels.notes(),
    })
}

/// Threads that measure limits.
fn measuring(kernels: &Kernels) -> Arc<Pool> {
    let cpus = available_parallelism().map_or(1, usize::from);
    if kernels.threads.threads() <= cpus {
        return kernels.threads.clone();
    }
    Arc::new(Pool::new(cpus))
}

fn stopped(cancel: &Cancel) -> Result<(), Error> {
    if cancel.is_set() {
        return Err(Diagnostic::error(codes::QCC0509, "interrupted").into());
    }
    Ok(())
}

/// Times runs of the whole model, those of the reference in turn with its own.
fn run(
    own: (&Model, &Graph),
    other: Option<(&Model, &Graph)>,
    rows: usize,
    options: &BenchOptions,
) -> Result<WholeTime, Error> {
    let at = (rows, options.past);
    let mut whole = Whole::new(own.0, own.1, at, options.profile)?;
    let mut beside = other.map(|it| Whole::new(it.0, it.1, at, false)).transpose()?;
    let mut second = beside.as_mut().map(|it| move || it.run());
    let second = second.as_mut().map(|it| it as time::Timed<'_>);
    let (own, reference) = time::both(&mut || whole.run(), second, options.runs)?;
    Ok(WholeTime {
        rows: whole.rows(),
        seconds: own.median,
        least: own.least,
        reference: reference.map(|it| it.median),
        profile: options.profile.then(|| whole.profile()),
    })
}
