//! `--tokenizer`, which is for text alone.

use std::path::Path;

use qcc::Error;
use qcc_diag::{Diagnostic, codes};

/// Whether there is text for a tokenizer in what samples are read from.
///
/// # Errors
/// QCC0304 where one is given and does nothing.
pub(super) fn check(tokenizer: Option<&Path>, data: &[Option<&Path>]) -> Result<(), Error> {
    let is_text = |path: &&Path| {
        let kind = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        kind.eq_ignore_ascii_case("txt") || kind.eq_ignore_ascii_case("jsonl")
    };
    if tokenizer.is_none() || data.iter().flatten().any(is_text) {
        return Ok(());
    }
    let text = "--tokenizer does nothing: samples are text in .txt and .jsonl files alone";
    Err(Diagnostic::error(codes::QCC0304, text)
        .at("option --tokenizer")
        .with_help("leave it out, or give text")
        .into())
}
