//! `--bpw`, `--target-size` and what goes with them.

use std::collections::BTreeMap;
use std::path::Path;

use qcc::{Compiler, Error};
use qcc_diag::{Diagnostic, codes};
use qcc_report::{RunRecord, bytes};

use super::command::QuantizeArgs;

/// Sizes of groups that runtimes are fast with.
const GROUPS: &str = "32,64,128";

/// Whether bits are chosen for each weight.
pub(super) fn is_asked(args: &QuantizeArgs) -> bool {
    args.bpw.is_some() || args.target_size.is_some()
}

/// Gives the compiler the budget. `output` is what will be written.
///
/// # Errors
/// When an option that belongs to a budget stands without one, or has no meaning.
pub(super) fn add(
    compiler: Compiler,
    args: &QuantizeArgs,
    output: &Path,
) -> Result<Compiler, Error> {
    if !is_asked(args) {
        let without = [("tie", !args.tie.is_empty()), ("candidates", args.candidates.is_some())];
        let Some((name, _)) = without.iter().find(|it| it.1) else { return Ok(compiler) };
        let text = format!("--{name} does nothing without a budget");
        return Err(Diagnostic::error(codes::QCC0304, text)
            .at(format!("option --{name}"))
            .with_help("add --bpw 4.5, or --target-size 60MB")
            .into());
    }
    let mut compiler = compiler.setting("allocate-bits", "set", &args.set.join("\n"))?.setting(
        "allocate-bits",
        "tie",
        &args.tie.join("\n"),
    )?;
    if args.group_size.is_none() {
        compiler = compiler.setting("allocate-bits", "groups", GROUPS)?;
    }
    if let Some(list) = &args.candidates {
        compiler = compiler.setting("allocate-bits", "candidates", list)?;
    }
    if let Some(bpw) = args.bpw {
        compiler = compiler.bits_per_weight(bpw)?;
    }
    match args.target_size {
        Some(size) => compiler.target_size(size, output, super::quantize::save_options(args)),
        None => Ok(compiler),
    }
}

/// What was chosen: `5 weights at 8 bits, 20 at 4, 3 at 2: 4.49 bpw (asked at most 4.5)`.
pub(super) fn line(args: &QuantizeArgs, record: &RunRecord) -> Option<String> {
    let rows = || record.weights.iter().filter(|it| it.bits.is_some());
    let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
    let (mut stored, mut elements) = (0.0, 0.0);
    for row in rows() {
        *counts.entry(row.bits.unwrap_or(0)).or_default() += 1;
        let len = row.n as f64 * row.k as f64;
        stored += row.bpw * len;
        elements += len;
    }
    if !is_asked(args) || elements == 0.0 {
        return None;
    }
    let list: Vec<String> =
        counts.iter().rev().map(|(bits, count)| format!("{count} at {bits} bits")).collect();
    let asked = [
        args.bpw.map(|it| format!("{it} bpw")),
        args.target_size.map(|it| format!("{} in all", bytes(it))),
    ];
    let asked: Vec<String> = asked.into_iter().flatten().collect();
    let reached = stored / elements;
    Some(format!(
        "weights: {}; {reached:.3} bpw (at most {} asked)",
        list.join(", "),
        asked.join(", ")
    ))
}
