//! `qcc version`.

use clap::Args;
use qcc::Error;
use qcc_codegen::{Target, llvm_version};

use super::exit::{Ended, show};

/// Name, version and licence of each crate; `cargo xtask gen` writes it.
const LICENSES: &str = include_str!("licenses.txt");

/// Options of `version`.
#[derive(Args, Debug)]
pub(super) struct VersionArgs {
    /// Also the version of LLVM, and what target code for this CPU is
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Also the licences of qcc and of all that it is built from
    #[arg(long)]
    pub(super) licenses: bool,
}

/// Runs the command.
pub(super) fn run(args: &VersionArgs) -> Result<Ended, Error> {
    let mut text = format!("qcc {}\n", qcc::version());
    let llvm = llvm_version();
    if args.verbose {
        let llvm = llvm.as_deref().unwrap_or("none: kernels are plain Rust");
        let cpu = match Target::native() {
            Ok(it) => it.named().to_string(),
            Err(why) => why.to_string(),
        };
        text += &format!("  LLVM  {llvm}\n  CPU   {cpu}\n");
    }
    if args.licenses {
        text += &format!(
            "\nqcc is licensed under {}. It is built from:\n\n",
            env!("CARGO_PKG_LICENSE")
        );
        text += LICENSES;
        if let Some(version) = llvm {
            text +=
                &format!("LLVM {version}, a library of its own: Apache-2.0 WITH LLVM-exception\n");
        }
    }
    show(&text)
}
