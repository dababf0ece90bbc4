//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Runs passes over graphs in text form.
#[derive(Debug, Parser)]
#[command(name = "qcc-opt", version, about)]
pub(crate) struct Args {
    /// A .qir or .onnx file; stdin, as text, when it is absent or -
    pub(crate) file: Option<PathBuf>,

    /// Where the files are that constants of a text lie in; beside the text when absent
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,

    /// Pipeline text: a,b{option=value}
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) passes: String,

    /// After the passes, add what computes the gradient; its other options say of what by what
    #[arg(long)]
    pub(crate) differentiate: bool,

    /// Values whose adjoints are given; the outputs of floats when absent
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "differentiate")]
    pub(crate) seeds: Vec<String>,

    /// Values to differentiate by; the inputs of floats when absent
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "differentiate")]
    pub(crate) wrt: Vec<String>,

    /// Pipeline text: passes over the gradient
    #[arg(long, value_name = "TEXT", default_value = "", requires = "differentiate")]
    pub(crate) gradient_passes: String,

    /// At the end, put kernels in the place of products with low-bit weights; what stays, and why,
    /// goes to stderr. Types should be known: infer-types
    #[arg(long)]
    pub(crate) kernels: bool,

    /// Opset of the model, for passes that ask; the latest unless an .onnx file says another
    #[arg(long, value_name = "N")]
    pub(crate) opset: Option<i64>,

    /// Largest constant that folding may make where the model grows by it, in bytes
    #[arg(long, value_name = "BYTES")]
    pub(crate) fold_limit: Option<usize>,

    /// Seed of random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// Print graphs only when a check fails or an option asks
    #[arg(long)]
    pub(crate) no_output: bool,

    /// Print all bytes of constants
    #[arg(long)]
    pub(crate) all_bytes: bool,

    /// Run the graph before and after on random inputs; floats may differ by TOL times the
    /// largest of their output
    #[arg(long, value_name = "TOL", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub(crate) check_equal: Option<f32>,

    /// Verify the graph before the first pass and after every patch
    #[arg(long)]
    pub(crate) verify_each: bool,

    /// Print the graph to stderr before these passes
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    pub(crate) print_before: Vec<String>,

    /// Print the graph to stderr after these passes
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    pub(crate) print_after: Vec<String>,

    /// Print the graph to stderr before every pass
    #[arg(long)]
    pub(crate) print_before_all: bool,

    /// Print the graph to stderr after every pass
    #[arg(long)]
    pub(crate) print_after_all: bool,

    /// Print the graph to stderr after every pass that changed it
    #[arg(long)]
    pub(crate) print_changed: bool,

    /// Write the graph after each pass into a directory; of several graphs the last one stays
    #[arg(long, value_name = "DIR")]
    pub(crate) dump_ir: Option<PathBuf>,

    /// End after this pass
    #[arg(long, value_name = "PASS")]
    pub(crate) stop_after: Option<String>,

    /// Apply only the first patches
    #[arg(long, value_name = "N")]
    pub(crate) bisect_limit: Option<u64>,

    /// Where to write graph and pipeline when a pass fails by a bug
    #[arg(long, value_name = "FILE")]
    pub(crate) reproducer: Option<PathBuf>,

    /// Print how long passes took to stderr
    #[arg(long)]
    pub(crate) time_passes: bool,

    /// Print counters of passes to stderr
    #[arg(long)]
    pub(crate) statistics: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
