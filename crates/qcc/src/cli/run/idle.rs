//! Options about text that would do nothing: where no text is written, and where nothing is drawn.
//! Options about arrays beside a prompt are refused by the parser.

use qcc::Error;
use qcc_diag::{Diagnostic, codes};

use super::TextArgs;

/// Whether each option that was given does something: what does nothing is not taken in silence.
///
/// # Errors
/// QCC0304 with the first that does nothing.
pub(super) fn check(args: &TextArgs) -> Result<(), Error> {
    let draws = [
        ("--top-k", args.top_k.is_some()),
        ("--top-p", args.top_p.is_some()),
        ("--min-p", args.min_p.is_some()),
        ("--seed", args.seed.is_some()),
    ];
    let others = [
        ("--tokenizer", args.tokenizer.is_some()),
        ("--max-new-tokens", args.max_new_tokens.is_some()),
        ("--temperature", args.temperature.is_some()),
        ("--repetition-penalty", args.repetition_penalty.is_some()),
        ("--stop", !args.stop.is_empty()),
        ("--stop-id", !args.stop_id.is_empty()),
        ("--ignore-eos", args.ignore_eos),
    ];
    let first = |list: &[(&'static str, bool)]| list.iter().find(|it| it.1).map(|it| it.0);
    let (option, why, help) = if !args.is_asked() {
        let Some(option) = first(&others).or(first(&draws)) else { return Ok(()) };
        (option, "no text is written", "--prompt TEXT or --ids 1,2,3 let the model write text")
    } else if args.temperature() == 0.0 {
        let Some(option) = first(&draws) else { return Ok(()) };
        let help = match args.temperature {
            Some(_) => "a --temperature above 0 lets it draw, 0.8 say",
            None => "--temperature 0.8 lets it draw; so do --top-k, --top-p and --min-p",
        };
        (option, "the likeliest token is taken each time", help)
    } else {
        return Ok(());
    };
    let text = format!("{option} does nothing: {why}");
    let error = Diagnostic::error(codes::QCC0304, text).at(format!("option {option}"));
    Err(error.with_help(help).into())
}
