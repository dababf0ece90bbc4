//! What the end of a pipeline can carry, asked before numbers are chosen: choosing may take long.

use std::str::FromStr as _;

use qcc_ir::Graph;
use qcc_ops::quant::{Layout, Quant};
use qcc_pass::{PassError, Step};
use qcc_quant::layout::field_bits;

use crate::readers::{Reader, readers};
use crate::{pack, to_function, to_nbits, to_qdq};

/// Whether the output format among `steps` has a form for each node that reads a weight that was
/// chosen. Widths and groups do not matter: see [`check_layout`].
///
/// # Errors
/// QCC0305 with the node and a way out.
pub fn check_readers(root: &Graph, steps: &[Step]) -> Result<(), PassError> {
    type Check = fn(&Graph, &Reader<'_, Quant>) -> Result<(), PassError>;
    let of = |name: &str| -> Option<Check> {
        match name {
            it if it == to_nbits::INFO.name => Some(to_nbits::carries),
            it if it == to_qdq::INFO.name => Some(to_qdq::carries),
            it if it == to_function::INFO.name => Some(to_function::carries),
            _ => None,
        }
    };
    for carries in steps.iter().filter_map(|it| of(it.pass.name)) {
        for reader in readers::<Quant>(root).iter().filter(|it| it.chosen.numbers.is_none()) {
            carries(root, reader)?;
        }
    }
    Ok(())
}

/// The operators whose nodes give way to products with codes.
pub const PRODUCTS: &[&str] = &["MatMul", "Gemm", "FusedMatMul", "Einsum", "Attention"];

/// The opset of ONNX that the weights that were chosen need in the format among `steps`; `None` where
/// any will do.
pub fn needed_opset(root: &Graph, steps: &[Step]) -> Option<i64> {
    let has = |name: &str| steps.iter().any(|it| it.pass.name == name);
    let of = |quant: &Quant| {
        if has(to_qdq::INFO.name) {
            let block = Layout::Qdq.block(quant.form, &quant.spec).ok()?;
            // Per axis, 8 bits; blocks or 4 bits; 2 bits.
            return Some(match field_bits(quant.spec.bits.get()) {
                2 => 25,
                8 if block >= quant.form.k => 13,
                _ => 21,
            });
        }
        has(to_function::INFO.name).then_some(13)
    };
    let scopes = root.scopes();
    let nodes = scopes.iter().filter_map(|it| root.at(it)).flat_map(Graph::nodes);
    nodes.filter_map(|it| of(it.1.op()?.is::<Quant>()?)).max()
}

/// Whether the layout among `steps` has a place for each weight that was chosen: for its bits, its
/// group and its shape.
///
/// # Errors
/// QCC0305 with the weight and a way out.
pub fn check_layout(root: &Graph, steps: &[Step]) -> Result<(), PassError> {
    for step in steps.iter().filter(|it| it.pass.name == pack::INFO.name) {
        if let Ok(layout) = Layout::from_str(step.options.text("layout")) {
            pack::check(root, layout)?;
        }
    }
    Ok(())
}
