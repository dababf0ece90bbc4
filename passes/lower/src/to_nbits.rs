//! `to-nbits`: products become `com.microsoft::MatMulNBits`, table lookups
//! `com.microsoft::GatherBlockQuantized`.
//!
//! Replaces `MatMul(A, W)`, `Gemm(A, W, C)`, `FusedMatMul(A, W)`, an `Einsum` that is a `MatMul`,
//! and the product in an `Attention` of `com.microsoft`, whose W is `Packed` in layout `nbits`, and
//! `Gather(W, ids)`.
//! Needs: `pack{layout=nbits}`. Keeps: names of results.
//! A product whose bias is not one value per output keeps an `Add`. A weight that is read by
//! products and lookups is stored once. Where rows of a table are no whole blocks, a `Slice` cuts
//! off what fills up the last one.
//! Fails where the operator has no such form (bfloat16), naming the node.

use std::sync::Arc;

use qcc_ir::{Graph, Output, Patch, Type, Value};
use qcc_ops::gather_quant::GatherBlockQuantized;
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::quant::{Layout, Packed};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::layout::field_bits;
use qcc_tensor::{DType, Dim, Tensor};

use crate::product::{self, Product, leave_out, no_form, packed_for_another, plain};
use crate::readers::{Chosen, Reader, readers};

const FORMAT: &str = "nbits";

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "to-nbits",
    summary: "write MatMulNBits and GatherBlockQuantized of com.microsoft",
    options: &[OptionInfo {
        name: "accuracy-level",
        kind: OptionKind::Int { min: 0, max: 4 },
        default: "4",
        help: "arithmetic asked of the runtime: 1 f32, 2 f16, 3 bf16, 4 int8 activations, 0 unset",
    }],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let level = ctx.options.int("accuracy-level");
    let mut patches = Vec::new();
    for reader in readers::<Packed>(root) {
        if reader.chosen.layout != Layout::NBits {
            return Err(packed_for_another(&reader, FORMAT, Layout::NBits));
        }
        carries(root, &reader)?;
        let patch = match is_lookup(&reader) {
            true => lookup(root, &reader)?,
            false => product(root, &reader, level)?,
        };
        ctx.count("to-nbits.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}

/// Whether the format has a form for a node that reads a weight.
///
/// # Errors
/// QCC0305 with the node and a way out.
pub(crate) fn carries<W: Chosen>(root: &Graph, reader: &Reader<'_, W>) -> Result<(), PassError> {
    if !is_lookup(reader) {
        product::carries(root, reader, FORMAT)?;
    } else if !reader.fits(false) {
        let error = no_form(reader, FORMAT, "it reads the table in another shape");
        return Err(leave_out(error, reader));
    }
    if reader.weight.dtype == DType::BF16 {
        return Err(no_form(reader, FORMAT, "the operator has no bfloat16 form")
            .with_help("--format qdq and function have one for products")
            .into());
    }
    product::scales_fit(reader, FORMAT)
}

/// Whether rows are looked up in the weight.
fn is_lookup<W>(reader: &Reader<'_, W>) -> bool {
    (reader.node.op().map_or("", |it| it.name()), reader.operand) == ("Gather", 0)
}

fn product(root: &Graph, reader: &Reader<'_>, level: i64) -> Result<Patch, PassError> {
    let product = Product::of(root, reader)?;
    let packed = reader.chosen;
    let mut patch = product.patch(INFO.name);
    // The runtime has a fast path with 2 and 8 bits at level 4 only.
    let bits = field_bits(packed.spec.bits.get());
    let op = Arc::new(MatMulNBits {
        k: packed.form.k,
        n: packed.form.n,
        bits,
        block_size: packed.block,
        accuracy_level: if bits == 4 { level } else { 4 },
        weight_prepacked: 0,
    });
    let mut inputs = vec![product.left];
    for tensor in reader.tensors(root) {
        inputs.push(Some(patch.capture(&reader.weight.scope, tensor)));
    }
    // A bias of one value per output goes into the operator, unless a factor stands before it.
    let mut bias = product.bias(&mut patch);
    if product.alpha == 1.0 && product.is_bias_vector() {
        inputs.resize(5, None); // zero points, group indices
        inputs.push(bias.take());
    }
    product.finish(&mut patch, op, inputs, bias);
    Ok(patch)
}

fn lookup(root: &Graph, reader: &Reader<'_>) -> Result<Patch, PassError> {
    let Some(graph) = root.at(&reader.scope) else {
        return Err(PassError::internal("a scope is gone"));
    };
    let packed = reader.chosen;
    let bits = field_bits(packed.spec.bits.get());
    let (n, k) = (packed.form.n, packed.form.k);
    let wide = k.div_ceil(packed.block).saturating_mul(packed.block);
    let old = Value { node: reader.id, slot: 0 };
    let ty = graph.ty(old).clone();
    let mut patch = Patch::within(INFO.name, reader.scope.clone());
    patch.at(reader.id);
    let mut tensors = Vec::new();
    for tensor in reader.tensors(root) {
        tensors.push(patch.capture(&reader.weight.scope, tensor));
    }
    let [data, rest @ ..] = tensors.as_slice() else {
        return Err(PassError::internal("a packed weight without codes"));
    };
    // The product wants [N, blocks, bytes], the lookup [V, bytes]: one initializer, two shapes.
    let row_bytes = wide / 8 * usize::from(bits);
    let name = reader.label(graph);
    let shape = patch.constant(
        &format!("{}_rows", reader.name),
        Tensor::vector(vec![n as i64, row_bytes as i64]),
    );
    let rows = patch.op1(
        &format!("{}_as_rows", reader.name),
        plain("Reshape"),
        vec![Some(*data), Some(shape)],
        Type::tensor(DType::U8, [n, row_bytes]),
    );
    let op = Arc::new(GatherBlockQuantized {
        bits,
        block_size: packed.block,
        gather_axis: 0,
        quantize_axis: 1,
    });
    let ids = reader.node.inputs.get(1).copied().flatten();
    let mut inputs = vec![Some(rows), ids];
    inputs.extend(rest.iter().map(|&it| Some(it)));
    let mut own = ty.clone();
    if wide != k
        && let Some((_, around)) = ty.shape().and_then(<[Dim]>::split_last)
    {
        own = ty.with_shape(Some(around.iter().cloned().chain([Dim::Known(wide)]).collect()));
    }
    let out = Output::new(graph.value_name(old), own);
    let own_name = if wide == k { reader.node.name.as_str() } else { name };
    let node = patch.op(own_name, op, inputs, vec![out]);
    let mut value = Value { node, slot: 0 };
    if wide != k {
        // The last block of a row is filled up, which no row of the table has.
        let mut inputs = vec![Some(value)];
        for (what, it) in [("start", 0), ("end", k as i64), ("axis", -1)] {
            let it = Tensor::vector(vec![it]);
            inputs.push(Some(patch.constant(&format!("{name}_{what}"), it)));
        }
        value = patch.op1(&format!("{name}_cut"), plain("Slice"), inputs, ty);
    }
    patch.replace(old, value);
    Ok(patch)
}
