//! Generates committed files and checks the rules of the house.
//!
//! `cargo xtask gen` writes what is generated from a source in this repository, `gen --check`
//! fails when a committed file is not what its source gives, and `tidy` checks what the compiler
//! and its lints cannot see.

mod generate;
mod licenses;
mod table;
mod tidy;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the generated files
    Gen {
        /// Write nothing; fail if a committed file is stale
        #[arg(long)]
        check: bool,
    },
    /// Check crate edges, file lengths, licences, links, lit tests and manifests
    Tidy,
}

fn main() -> ExitCode {
    let root = workspace_root();
    let outcome = match Cli::parse().task {
        Task::Gen { check: false } => generate::write(&root),
        Task::Gen { check: true } => generate::check(&root),
        Task::Tidy => tidy::run(&root),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a task gives: nothing, or a message for the developer who ran it.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The folder of the root manifest, two above this package.
fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
