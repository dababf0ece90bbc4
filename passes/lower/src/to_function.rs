//! `to-function`: products become `ai.qcc::MatMulQ<b>`, which brings its own body.
//!
//! Replaces `MatMul(A, W)`, `Gemm(A, W, C)` and `FusedMatMul(A, W)` whose W is `Packed` in layout
//! `dense`. Needs: `pack{layout=dense}`. Keeps: names of results. A bias keeps an `Add`.
//! Fails for table lookups, naming the node. The bodies are written on export: docs/ai-qcc.md.

use std::sync::Arc;

use qcc_ir::{Graph, Patch};
use qcc_ops::matmul_q::MatMulQ;
use qcc_ops::quant::Layout;
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_quant::spec::Grid;

use crate::product::{Product, no_form};
use crate::readers::readers;

const FORMAT: &str = "function";

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "to-function",
    summary: "write operators of ai.qcc with bodies of standard operators",
    options: &[],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    for reader in readers(root) {
        let packed = reader.packed;
        if packed.layout != Layout::Dense {
            return Err(no_form(&reader, FORMAT, "its codes are packed for another format").into());
        }
        let product = Product::of(root, &reader, FORMAT)?;
        let mut patch = product.patch(INFO.name);
        let op = Arc::new(MatMulQ {
            bits: packed.spec.bits.get(),
            is_symmetric: packed.spec.grid == Grid::Sym,
            k: packed.form.k,
            n: packed.form.n,
            block_size: packed.block,
        });
        let mut inputs = vec![product.left];
        for tensor in reader.tensors(root) {
            inputs.push(Some(patch.capture(&reader.weight.scope, tensor)));
        }
        let bias = product.bias(&mut patch);
        product.finish(&mut patch, op, inputs, bias);
        ctx.count("to-function.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}
