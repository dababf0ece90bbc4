//! `qcc-opt`: runs passes over graphs in text form, for tests and for people who write passes.
//!
//! Reads a `.qir` file of any number of graphs, or an `.onnx` model, and prints each graph after
//! the pipeline. Everything else goes to stderr. Exit codes are those of `qcc`: 0 done, 1 failed,
//! 2 wrong usage, 4 results differ, 70 a bug.

mod args;
mod gradient;
mod input;
mod kernels;
mod stored;
mod work;

use std::process::ExitCode;

use args::Args;
use clap::Parser;
use qcc_diag::{Diagnostic, codes};

fn main() -> ExitCode {
    match work::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Diagnostic) -> u8 {
    match error.code.family() {
        "03" if error.code != codes::QCC0306 => 2,
        "08" if error.code == codes::QCC0802 => 4,
        "08" | "09" => 70,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_exit_code() {
        let code = |it| exit_code(&Diagnostic::error(it, ""));
        assert_eq!(code(codes::QCC0101), 1);
        assert_eq!(code(codes::QCC0301), 2);
        assert_eq!(code(codes::QCC0306), 1);
        assert_eq!(code(codes::QCC0801), 70);
        assert_eq!(code(codes::QCC0802), 4);
        assert_eq!(code(codes::QCC0901), 70);
    }
}
