//! `adpq`: the literal method of AdpQ.
//!
//! The largest weights of a tensor, its outliers, and the others of each group are rounded with a
//! scale each. Replaces a `Quant` without numbers by one with them, on the symmetric grid. Only the
//! formats `function` and `fake` carry outliers. Needs: `select`. Keeps: the float weight beside its
//! numbers. The record counts the true bits: codes, both scales, and places of the outliers.
//! Source: arXiv 2405.13358.

use qcc_ir::{Graph, Patch};
use qcc_ops::quant::Numbers;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::adpq::{AdpqFit, AdpqSpec, adpq};
use qcc_quant::codes::Codes;
use qcc_quant::error::measure;
use qcc_quant::spec::Grid;

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
    let mut weights = choose::weights(root);
    ctx.session.progress.start(INFO.name, weights.len() as u64);
    let mut patches = Vec::new();
    for weight in &mut weights {
        ctx.check_cancelled()?;
        weight.quant.spec.grid = Grid::Sym;
        let weight = &*weight;
        let spec = weight.quant.spec;
        let rows = weight.rows()?;
        let split =
            AdpqSpec { bits: spec.bits, group: spec.group, scale: spec.scale, outliers, fit };
        let found = adpq(&rows, &split, None);
        let error = measure(&rows, None, &|row, out| found.dequantize(row, out)).plain();
        let row = ctx.record.weight(&weight.name);
        row.bpw = found.bpw();
        row.grid = "symmetric".to_owned();
        let zeros = vec![spec.bits.middle(); found.inlier_scales.len()];
        let (n, k) = (found.n, found.k);
        let codes = Codes { n, k, spec, codes: found.codes, scales: found.inlier_scales, zeros };
        let numbers = Numbers::from_codes(&codes, &ctx.session.store);
        let numbers = numbers.map_err(|it| choose::no_room(&weight.name, &it))?;
        let numbers = numbers.with_outliers(&found.outliers, &found.outlier_scales)?;
        patches.push(choose::patch(root, ctx, weight, numbers, error, INFO.name)?);
        ctx.session.progress.step(1, &weight.name);
    }
    ctx.session.progress.finish();
    Ok(patches)
}
