//! Models that hold codes already, of qcc or of another tool.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, OpRef};
use qcc_ops::matmul_q;
use qcc_pass::Ctx;

/// Operators that hold or make codes, beside those of `ai.qcc`.
const QUANTIZED: &[&str] = &[
    "MatMulNBits",
    "MatMulBnb4",
    "MatMulFpQ4",
    "GatherBlockQuantized",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearMatMul",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QMoE",
    "QAttention",
    "QGemm",
];

/// Says when a model holds codes already. They stay as they are.
pub(crate) fn note_quantized(root: &Graph, ctx: &mut Ctx<'_>) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for scope in root.scopes() {
        for (_, node) in root.at(&scope).into_iter().flat_map(Graph::nodes) {
            let has_codes =
                |op: &&OpRef| QUANTIZED.contains(&op.name()) || op.domain() == matmul_q::DOMAIN;
            if let Some(op) = node.op().filter(has_codes) {
                *counts.entry(op.name().to_owned()).or_default() += 1;
            }
        }
    }
    if counts.is_empty() {
        return;
    }
    let list: Vec<String> = counts.iter().map(|(op, count)| format!("{count} {op}")).collect();
    let text = format!("the model is quantized already: it has {}", list.join(", "));
    let left = match ctx.session.producer.as_str() {
        "" => "these nodes are left as they are".to_owned(),
        tool => format!("these nodes are left as they are; the file was written by {tool}"),
    };
    let warning = Diagnostic::warning(codes::QCC0604, text).with_note(left);
    ctx.note(warning.with_help("quantize the float model instead"));
}
