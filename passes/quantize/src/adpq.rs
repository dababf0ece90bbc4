//! `adpq`: the literal method of AdpQ, to compare with.
//!
//! Replaces a `Quant` by a constant of the values after rounding: the largest weights of the tensor
//! and the others of each group are rounded with a scale each, which no format can carry, so only
//! `--format fake` follows it. The record counts the true bits: codes, both scales, and positions of
//! the large weights. Needs: `select`. Keeps: names and types.
//! Source: arXiv 2405.13358.

use qcc_ir::{Graph, Patch, Value};
use qcc_ops::quant::floats;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::adpq::{AdpqFit, AdpqSpec, adpq};
use qcc_quant::error::measure;

use crate::choose;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "adpq",
    summary: "round large and other weights of a group with a scale each; true bits counted",
    options: &[
        OptionInfo {
            name: "outliers",
            kind: OptionKind::Float { min: 0.0, max: 1.0 },
            default: "0.05",
            help: "share of the weights of a tensor that are large",
        },
        OptionInfo {
            name: "search",
            kind: OptionKind::Choice(&["minmax", "exact"]),
            default: "minmax",
            help: "scales from the range, as published, or searched",
        },
    ],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let outliers = ctx.options.float("outliers");
    let fit = match ctx.options.text("search") {
        "exact" => AdpqFit::Exact,
        _ => AdpqFit::MinMax,
    };
    let weights = choose::weights(root);
    ctx.session.progress.start(INFO.name, weights.len() as u64);
    let mut patches = Vec::new();
    for weight in &weights {
        ctx.check_cancelled()?;
        let rows = weight.rows()?;
        let spec = weight.quant.spec;
        let spec =
            AdpqSpec { bits: spec.bits, group: spec.group, scale: spec.scale, outliers, fit };
        let codes = adpq(&rows, &spec, None);
        let error = measure(&rows, None, &|row, out| codes.dequantize(row, out));
        let bpw = codes.bpw();
        let row = ctx.record.weight(&weight.name);
        row.pass = INFO.name;
        row.bpw = bpw;
        row.layout = "float".to_owned();
        row.relative_error = Some(error.relative());
        row.snr_db = Some(error.snr_db());
        row.bytes_after = weight.tensor.bytes().len() as u64;
        let dims = weight.tensor.dims().to_vec();
        let value = floats(weight.quant.form, weight.tensor.dtype(), dims, &mut |row, out| {
            codes.dequantize(row, out);
        })?;
        let mut patch = Patch::within(INFO.name, weight.scope.clone());
        patch.at(weight.node);
        let new = patch.constant(&weight.name, value);
        patch.replace(Value { node: weight.node, slot: 0 }, new);
        patches.push(patch);
        ctx.session.progress.step(1, &weight.name);
    }
    ctx.session.progress.finish();
    Ok(patches)
}
