//! `rtn`: rounds each weight to the nearest code of a grid that spans its group.
//!
//! Replaces a `Quant` without numbers by one with them. Needs: `select`. Keeps: the float weight
//! beside its numbers, so that a pass after it may improve on them.

use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_quant::rtn::rtn_into;

use crate::choose::{for_each, weights};

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "rtn",
    summary: "round to nearest on the range of each group",
    options: &[],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let weights = weights(graph);
    for_each(graph, ctx, INFO.name, &weights, |weight, rows, out| {
        rtn_into(rows, &weight.quant.spec, out)
    })
}
