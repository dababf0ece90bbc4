//! `qcc version`.

use clap::Args;
use qcc::Error;
use qcc_codegen::{Target, llvm_version};

use super::exit::{Ended, show};

/// Options of `version`.
#[derive(Args, Debug)]
pub(super) struct VersionArgs {
    /// Also the version of LLVM, and what target code for this CPU is
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Runs the command.
pub(super) fn run(args: &VersionArgs) -> Result<Ended, Error> {
    let mut text = format!("qcc {}\n", qcc::version());
    if args.verbose {
        let llvm = llvm_version().unwrap_or_else(|| "none: kernels are plain Rust".to_owned());
        let cpu = match Target::native() {
            Ok(it) => it.named().to_string(),
            Err(why) => why.to_string(),
        };
        text += &format!("  LLVM  {llvm}\n  CPU   {cpu}\n");
    }
    show(&text)
}
