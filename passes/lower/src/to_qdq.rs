//! `to-qdq`: weights become `DequantizeLinear` of integer initializers.
//!
//! Replaces the W of `MatMul(A, W)`, `Gemm(A, W, C)`, `FusedMatMul(A, W)`, an `Einsum` that is a
//! `MatMul`, and the product in an `Attention` of `com.microsoft`, that is `Packed` in layout `qdq`
//! by `DequantizeLinear(codes, scales, zeros?)` of shape `[K, N]`, blocks along axis 0; a group that
//! is the whole row becomes a scale for each column.
//! Needs: `pack{layout=qdq}`. Keeps: names of results.
//! Each product has codes of its own, in the graph that it stands in, since ONNX Runtime 1.31 fuses
//! no others and does not load a branch whose codes lie around it. `pack` counts them.
//! Fails for table lookups, naming the node.

use std::collections::BTreeSet;
use std::sync::Arc;

use qcc_ir::{Graph, Patch, Type, Value};
use qcc_ops::dequantize::DequantizeLinear;
use qcc_ops::quant::{Layout, Packed};
use qcc_pass::{Ctx, PassError, PassInfo};

use crate::product::{self, Product, packed_for_another, plain};
use crate::readers::{Chosen, Reader, readers};

const FORMAT: &str = "qdq";

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "to-qdq",
    summary: "write DequantizeLinear, which any runtime of opset 21 reads",
    options: &[],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    let mut seen = BTreeSet::new();
    for reader in readers::<Packed>(root) {
        if reader.chosen.layout != Layout::Qdq {
            return Err(packed_for_another(&reader, FORMAT, Layout::Qdq));
        }
        carries(root, &reader)?;
        let product = Product::of(root, &reader)?;
        let is_local = reader.scope == reader.weight.scope;
        let is_first = is_local && seen.insert((reader.scope.clone(), reader.weight.source));
        let mut patch = product.patch(INFO.name);
        let weight = dequantize(root, &reader, &mut patch, is_first)?;
        let bias = product.bias(&mut patch);
        // The weight is [K, N] now, so that a plain product reads it whatever it was before.
        product.finish(&mut patch, plain("MatMul"), vec![product.left, Some(weight)], bias);
        ctx.count("to-qdq.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}

/// Whether the format has a form for a node that reads a weight.
///
/// # Errors
/// QCC0305 with the node and a way out.
pub(crate) fn carries<W: Chosen>(root: &Graph, reader: &Reader<'_, W>) -> Result<(), PassError> {
    product::carries(root, reader, FORMAT)?;
    product::scales_fit(reader, FORMAT)
}

fn dequantize(
    root: &Graph,
    reader: &Reader<'_>,
    patch: &mut Patch,
    is_first: bool,
) -> Result<Value, PassError> {
    let packed = reader.chosen;
    let outer = root.at(&reader.weight.scope);
    let mut inputs = Vec::new();
    for tensor in reader.tensors(root) {
        let value = if is_first {
            patch.capture(&reader.weight.scope, tensor)
        } else {
            let copy = outer.and_then(|it| it.constant(tensor));
            let copy = copy.ok_or_else(|| PassError::internal("a packed weight is no constant"))?;
            let name = outer.map_or("", |it| it.value_name(tensor));
            patch.constant(name, copy.clone())
        };
        inputs.push(Some(value));
    }
    let (n, k) = (packed.form.n, packed.form.k);
    let is_row = packed.block >= k;
    let op = Arc::new(DequantizeLinear {
        domain: "",
        axis: Some(if is_row { 1 } else { 0 }),
        block_size: if is_row { 0 } else { packed.block },
        output_dtype: None,
    });
    let ty = Type::tensor(reader.weight.dtype, [k, n]);
    Ok(patch.op1(&format!("{}_dequantized", reader.name), op, inputs, ty))
}
