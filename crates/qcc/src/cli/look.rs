//! Options that look into a run, and the instruments they stand for. What they print goes to the
//! error stream: the output stream is for results.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use qcc_diag::Diagnostic;
use qcc_ir::Patch;
use qcc_ir::text::print;
use qcc_pass::{
    Before, BisectLimit, Dump, Instrument, Passes, Print, Record, Reproducer, Statistics,
    StopAfter, Timing, VerifyEach, When,
};

/// Options that look into a run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Looking inside")]
pub(super) struct LookArgs {
    /// Print the graph before a pass; repeatable
    #[arg(long, value_name = "PASS")]
    print_before: Vec<String>,

    /// Print the graph before each pass
    #[arg(long)]
    print_before_all: bool,

    /// Print the graph after a pass; repeatable
    #[arg(long, value_name = "PASS")]
    print_after: Vec<String>,

    /// Print the graph after each pass
    #[arg(long)]
    print_after_all: bool,

    /// Print the graph after each pass that changed it
    #[arg(long)]
    print_changed: bool,

    /// Write the graph after each pass to a file of this directory
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,

    /// End after a pass: its graph is printed to the output stream, and no model is written
    #[arg(long, value_name = "PASS")]
    pub(super) stop_after: Option<String>,

    /// Check the graph after every single change, not only after each pass
    #[arg(long)]
    verify_each: bool,

    /// Print how long each pass took
    #[arg(long)]
    time_passes: bool,

    /// Print what passes counted
    #[arg(long)]
    statistics: bool,

    /// Make only the first N changes up to the choice of weights, and with them quantize only the
    /// first weights, to find the one that does harm
    #[arg(long, value_name = "N")]
    pub(super) bisect_limit: Option<u64>,
}

impl LookArgs {
    /// The instruments for a run that writes to `output`.
    pub(super) fn instruments(&self, output: &Path) -> Vec<Box<dyn Instrument>> {
        let mut list: Vec<Box<dyn Instrument>> = Vec::new();
        let mut add_print = |passes: Passes, when: When| {
            list.push(Box::new(Print::new(passes, when, print, io::stderr())));
        };
        match (self.print_before_all, self.print_before.as_slice()) {
            (true, _) => add_print(Passes::All, When::Before),
            (false, []) => {}
            (false, names) => add_print(Passes::named(names), When::Before),
        }
        match (self.print_after_all, self.print_after.as_slice()) {
            (true, _) => add_print(Passes::All, When::After),
            (false, []) => {}
            (false, names) => add_print(Passes::named(names), When::After),
        }
        if self.print_changed && !self.print_after_all {
            add_print(Passes::All, When::Changed);
        }
        if let Some(limit) = self.bisect_limit {
            let limit = BisectLimit::new(limit, io::stderr());
            list.push(Box::new(Bisect { limit, is_chosen: false }));
        }
        if let Some(dir) = &self.dump_ir {
            list.push(Box::new(Dump::new(dir, print)));
        }
        if self.verify_each {
            list.push(Box::new(VerifyEach));
        }
        if self.time_passes {
            list.push(Box::new(Timing::new(io::stderr())));
        }
        if self.statistics {
            list.push(Box::new(Statistics::new(io::stderr())));
        }
        if let Some(pass) = &self.stop_after {
            list.push(Box::new(StopAfter::new(pass)));
        }
        let mut path = output.as_os_str().to_owned();
        path.push(".qcc-repro.qir");
        list.push(Box::new(Reproducer::new(path, print)));
        list
    }
}

/// A limit on the changes up to the choice of weights. What was chosen has to go all the way: half a
/// quantized weight has no form in a model.
struct Bisect {
    limit: BisectLimit<'static>,
    is_chosen: bool,
}

impl Instrument for Bisect {
    fn select(&mut self, at: &Before<'_>, patches: &mut Vec<Patch>) {
        if !self.is_chosen {
            self.limit.select(at, patches);
        }
        self.is_chosen |= at.step.pass.name == "select";
    }

    fn end(&mut self, record: &Record) -> Result<(), Box<Diagnostic>> {
        self.limit.end(record)
    }
}
