//! `gptq`: rounds each weight so that it makes up for the errors of those before it.
//!
//! Replaces a `Quant` by one with numbers, under the second moments of its inputs. Needs: `select`,
//! and samples or pseudo samples. Keeps: the float weight beside its numbers.
//! Source: arXiv 2210.17323, with searched scales and sweeps over codes after the rounding.

use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::gptq::{GptqOptions, gptq};

use crate::{by_gram, choose};

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "gptq",
    summary: "round with error feedback on the second moments of the inputs",
    options: &[
        OptionInfo {
            name: "damp",
            kind: OptionKind::Float { min: 0.0, max: 1.0 },
            default: "auto",
            help: "part of the mean of diag(H) added to it; auto is 0.01, more for few tokens",
        },
        OptionInfo {
            name: "sweeps",
            kind: OptionKind::Int { min: 0, max: 1000 },
            default: "10",
            help: "sweeps over codes and scales after the rounding; 0 is the method of the paper",
        },
    ],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let options = GptqOptions {
        damp: ctx.options.opt_float("damp"),
        sweeps: usize::try_from(ctx.options.int("sweeps")).unwrap_or(0),
    };
    let weights = choose::weights(graph);
    by_gram::for_each(graph, ctx, INFO.name, &weights, |weight, rows, gram| {
        gptq(rows, &weight.quant.spec, gram, &options)
    })
}
