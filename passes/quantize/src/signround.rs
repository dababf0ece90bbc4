//! `signround`: tunes rounding and scales of one weight at a time for the error of its outputs.
//!
//! Replaces a `Quant` by one with numbers. The objective is `E H E^T` with H the second moments of
//! the inputs; each row keeps the best of its candidates, so the result is never worse than searched
//! scales. Needs: `select`, and samples or pseudo samples. Keeps: the float weight beside its
//! numbers.
//! Source: the objective and the sign descent of arXiv 2309.05516 in Gram form. The candidates that
//! are on by default measured better: see `qcc_quant::signround`.

use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::signround::{Moves, SignRoundOptions, signround_gram};

use crate::by_gram;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "signround",
    summary: "tune rounding and scales for the error of the outputs of each weight",
    options: &[
        OptionInfo {
            name: "iters",
            kind: OptionKind::Int { min: 0, max: 10_000 },
            default: "0",
            help: "steps of sign descent, one more candidate; 0 leaves it out",
        },
        OptionInfo {
            name: "moves",
            kind: OptionKind::Choice(&["pairs", "single"]),
            default: "pairs",
            help: "what the line searches change: one code, or also two at a time",
        },
        OptionInfo {
            name: "sweeps",
            kind: OptionKind::Int { min: 0, max: 1000 },
            default: "10",
            help: "line searches over all codes and scales, at most",
        },
        OptionInfo {
            name: "damp",
            kind: OptionKind::Float { min: 0.0, max: 1.0 },
            default: "auto",
            help: "part of the mean of diag(H) added to it; auto is 0.01, more for few tokens",
        },
    ],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let options = SignRoundOptions {
        steps: u16::try_from(ctx.options.int("iters")).unwrap_or(u16::MAX),
        moves: if ctx.options.text("moves") == "single" { Moves::Single } else { Moves::Pairs },
        sweeps: usize::try_from(ctx.options.int("sweeps")).unwrap_or(0),
        damp: ctx.options.opt_float("damp"),
        ..SignRoundOptions::default()
    };
    by_gram::for_each(graph, ctx, INFO.name, |weight, rows, gram| {
        signround_gram(rows, &weight.quant.spec, gram, &options)
    })
}
