//! `qcc explain`: the page of a code.

use clap::Args;
use qcc::Error;
use qcc_diag::{Code, Diagnostic, codes};
use qcc_pass::nearest;

use super::exit::{Ended, show};
use super::words::meant;

/// Options of `explain`.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// A code, QCC0305 say; a list of all codes without it
    pub(super) code: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &ExplainArgs) -> Result<Ended, Error> {
    let Some(name) = &args.code else {
        let rows: String =
            codes::ALL.iter().map(|it| format!("  {it}  {}\n", it.title())).collect();
        return show(&rows);
    };
    let code = Code::find(name).ok_or_else(|| {
        // Every code begins alike.
        let digits = name.trim_start_matches(['q', 'Q', 'c', 'C']);
        let error = Diagnostic::error(codes::QCC0304, format!("there is no code '{name}'"));
        let near = nearest(digits, codes::ALL.iter().map(|it| &it.name()[3..]));
        meant(error, near.map(|it| format!("QCC{it}"))).with_help("qcc explain lists all of them")
    })?;
    show(code.page())
}
