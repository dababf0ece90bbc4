//! `to-function`: products become `ai.qcc::MatMulQ<b>`, which brings its own body, or
//! `ai.qcc::MatMulQ<b>Outliers` where the weight has outliers.
//!
//! Replaces `MatMul(A, W)`, `Gemm(A, W, C)`, `FusedMatMul(A, W)`, an `Einsum` that is a `MatMul`,
//! and the product in an `Attention` of `com.microsoft`, whose W is `Packed` in layout `dense`.
//! Needs: `pack{layout=dense}`. Keeps: names of results. A bias keeps an `Add`.
//! Fails for table lookups, naming the node. The bodies are written on export: docs/ai-qcc.md.

use std::sync::Arc;

use qcc_ir::{Graph, OpRef, Patch};
use qcc_ops::matmul_q::MatMulQ;
use qcc_ops::outliers::MatMulQOutliers;
use qcc_ops::quant::{Layout, Packed};
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_quant::spec::Grid;

use crate::product::{self, Product, packed_for_another};
use crate::readers::{Chosen, Reader, readers};

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
    for reader in readers::<Packed>(root) {
        let packed = reader.chosen;
        if packed.layout != Layout::Dense {
            return Err(packed_for_another(&reader, FORMAT, Layout::Dense));
        }
        carries(root, &reader)?;
        let product = Product::of(root, &reader)?;
        let mut patch = product.patch(INFO.name);
        let mut inputs = vec![product.left];
        for tensor in reader.tensors(root) {
            inputs.push(Some(patch.capture(&reader.weight.scope, tensor)));
        }
        let (bits, is_symmetric) = (packed.spec.bits.get(), packed.spec.grid == Grid::Sym);
        let (n, k, block_size) = (packed.form.n, packed.form.k, packed.block);
        // Codes, scales, and where there are any scales and places of outliers, behind A.
        let op: OpRef = if is_symmetric && inputs.len() == 5 {
            Arc::new(MatMulQOutliers { bits, k, n, block_size })
        } else {
            Arc::new(MatMulQ { bits, is_symmetric, k, n, block_size })
        };
        let bias = product.bias(&mut patch);
        product.finish(&mut patch, op, inputs, bias);
        ctx.count("to-function.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}

/// Whether the format has a form for a node that reads a weight.
///
/// # Errors
/// QCC0305 with the node and a way out.
pub(crate) fn carries<W: Chosen>(root: &Graph, reader: &Reader<'_, W>) -> Result<(), PassError> {
    product::carries(root, reader, FORMAT)
}
