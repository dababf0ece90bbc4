//! `to-fake`: weights become floats again, after rounding.
//!
//! Replaces `Quant(W)` with numbers by the constant that it stands for, in the shape and element
//! type of W and under its name. Needs: a pass that chose numbers. Keeps: every operator.
//! The result is what the other formats are compared with.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch, Value};
use qcc_ops::quant::{Quant, decoded};
use qcc_pass::{Ctx, PassError, PassInfo};

use crate::readers::weight_name;

/// The pass.
pub const INFO: PassInfo =
    PassInfo { name: "to-fake", summary: "write float weights after rounding", options: &[], run };

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            ctx.check_cancelled()?;
            let Some(node) = graph.node(id) else { continue };
            let Some(quant) = node.op().and_then(|it| it.is::<Quant>()) else { continue };
            let old = Value { node: id, slot: 0 };
            let name = weight_name(graph, id);
            let source = node.inputs.first().copied().flatten();
            let tensor = source.and_then(|it| graph.constant(it));
            let (Some(numbers), Some(tensor)) = (&quant.numbers, tensor) else {
                let text = format!("'{name}' has no codes yet");
                return Err(Diagnostic::error(codes::QCC0302, text)
                    .at("pass 'to-fake'")
                    .with_help("put a pass that chooses them before it: rtn, kl-precalibrate, gptq or signround")
                    .into());
            };
            let dims = tensor.dims().to_vec();
            let value = decoded(numbers, quant.form.order, tensor.dtype(), dims)?;
            let row = ctx.record.weight(&name);
            row.layout = "float".to_owned();
            row.bytes_after = value.bytes().len() as u64;
            let mut patch = Patch::within(INFO.name, scope.clone());
            patch.at(source.map_or(id, |it| it.node));
            let new = patch.constant(&name, value);
            patch.replace(old, new);
            patches.push(patch);
        }
    }
    Ok(patches)
}
