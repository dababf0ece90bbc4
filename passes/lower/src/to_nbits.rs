//! `to-nbits`: products become `com.microsoft::MatMulNBits`, table lookups
//! `com.microsoft::GatherBlockQuantized`.
//!
//! Replaces `MatMul(A, W)`, `Gemm(A, W, C)`, `FusedMatMul(A, W)`, and an `Einsum` that is a
//! `MatMul`, whose W is `Packed` in layout `nbits`, and `Gather(W, ids)`. Needs: `pack{layout=nbits}`. Keeps: names of results.
//! A product whose bias is not one value per output keeps an `Add`. A weight that is read by
//! products and lookups is stored once. Where rows of a table are no whole blocks, a `Slice` cuts
//! off what fills up the last one.
//! Fails where the operator has no such form (bfloat16), naming the node.

use std::sync::Arc;

use qcc_ir::{Graph, Output, Patch, Type, Value};
use qcc_ops::gather_quant::GatherBlockQuantized;
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::quant::Layout;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::layout::field_bits;
use qcc_tensor::{DType, Dim, Tensor};

use crate::product::{Product, no_form, plain};
use crate::readers::{Reader, readers};

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
    for reader in readers(root) {
        if reader.packed.layout != Layout::NBits {
            return Err(no_form(&reader, FORMAT, "its codes are packed for another format").into());
        }
        let op = reader.node.op().map_or("", |it| it.name());
        let patch = match (op, reader.operand) {
            ("Gather", 0) => lookup(root, &reader)?,
            _ => product(root, &reader, level)?,
        };
        ctx.count("to-nbits.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}

fn product(root: &Graph, reader: &Reader<'_>, level: i64) -> Result<Patch, PassError> {
    let product = Product::of(root, reader, FORMAT)?;
    let packed = reader.packed;
    if reader.weight.dtype == DType::BF16 {
        return Err(no_form(reader, FORMAT, "the operator has no bfloat16 form").into());
    }
    if !reader.has_scales_of_its_type() {
        let why = "its scales have another type than its input; --scale-type auto fits";
        return Err(no_form(reader, FORMAT, why).into());
    }
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
    let packed = reader.packed;
    if !reader.fits(false) {
        return Err(no_form(reader, FORMAT, "it reads the table in another shape").into());
    }
    if !reader.has_scales_of_its_type() {
        let why = "its scales have another type than its result; --scale-type auto fits";
        return Err(no_form(reader, FORMAT, why).into());
    }
    if reader.weight.dtype == DType::BF16 {
        return Err(no_form(reader, FORMAT, "the operator has no bfloat16 form").into());
    }
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
