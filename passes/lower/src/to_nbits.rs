//! `to-nbits`: products become `com.microsoft::MatMulNBits`, table lookups
//! `com.microsoft::GatherBlockQuantized`.
//!
//! Replaces `MatMul(A, W)`, `Gemm(A, W, C)` and `FusedMatMul(A, W)` whose W is `Packed` in layout
//! `nbits`, and `Gather(W, ids)`. Needs: `pack{layout=nbits}`. Keeps: names of results.
//! A product whose bias is not one value per output keeps an `Add`. A weight that is read by
//! products and lookups is stored once.
//! Fails where the operator has no such form (bfloat16), naming the node.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Output, Patch, Type, Value};
use qcc_ops::gather_quant::GatherBlockQuantized;
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::quant::Layout;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::layout::field_bits;
use qcc_tensor::{DType, Tensor};

use crate::readers::{Reader, readers};

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
            return Err(no_form(&reader, "its codes are packed for another format").into());
        }
        let op = reader.node.op().map_or("", |it| it.name());
        let patch = match (op, reader.operand) {
            ("MatMul" | "FusedMatMul" | "Gemm", 1) => product(root, &reader, level)?,
            ("Gather", 0) => lookup(root, &reader)?,
            _ => return Err(no_form(&reader, "the operator has no such form").into()),
        };
        ctx.count("to-nbits.rewritten", 1);
        patches.push(patch);
    }
    Ok(patches)
}

fn no_form(reader: &Reader<'_>, why: &str) -> Diagnostic {
    let op = reader.node.op().map_or("", |it| it.name());
    let text =
        format!("{op} '{}' cannot read '{}' as MatMulNBits: {why}", reader.node.name, reader.name);
    Diagnostic::error(codes::QCC0305, text)
        .at(format!("node '{}'", reader.node.name))
        .with_help(format!("--exclude '{}' leaves the weight in float", reader.name))
}

fn product(root: &Graph, reader: &Reader<'_>, level: i64) -> Result<Patch, PassError> {
    let Some(graph) = root.at(&reader.scope) else {
        return Err(PassError::internal("a scope is gone"));
    };
    let is_transposed = reader.int("transB").unwrap_or(0) != 0;
    if !reader.fits(!is_transposed) {
        return Err(no_form(reader, "it reads the weight in another shape").into());
    }
    if reader.packed.dtype == DType::BF16 {
        return Err(no_form(reader, "the operator has no bfloat16 form").into());
    }
    let old = Value { node: reader.id, slot: 0 };
    let ty = graph.ty(old).clone();
    let mut patch = Patch::within(INFO.name, reader.scope.clone());
    patch.at(reader.id);

    let packed = reader.packed;
    // The runtime has a fast path with 2 and 8 bits at level 4 only.
    let bits = field_bits(packed.spec.bits.get());
    let level = if bits == 4 { level } else { 4 };
    let op = Arc::new(MatMulNBits {
        k: packed.form.k,
        n: packed.form.n,
        bits,
        block_size: packed.block,
        accuracy_level: level,
        weight_prepacked: 0,
    });
    let mut inputs = vec![reader.node.inputs.first().copied().flatten()];
    for tensor in reader.tensors(root) {
        inputs.push(Some(patch.capture(&reader.weight.scope, tensor)));
    }
    // alpha was refused by `select` for Gemm; FusedMatMul may have one.
    let alpha = reader.float("alpha").unwrap_or(1.0);
    let bias = reader.node.inputs.get(2).copied().flatten();
    let bias = bias.filter(|_| reader.float("beta").unwrap_or(1.0) != 0.0);
    let vector = bias.filter(|&it| is_vector(graph, it, packed.form.n));
    if let Some(bias) = vector {
        inputs.resize(5, None); // zero points, group indices
        inputs.push(Some(bias));
    }
    let name = reader.node.name.as_str();
    let out = Output::new(graph.value_name(old), ty.clone());
    let node = patch.op(name, op, inputs, vec![out]);
    let mut value = Value { node, slot: 0 };
    if alpha != 1.0 {
        let factor = patch.constant(&format!("{name}_alpha"), scalar(alpha, packed.dtype));
        let mul = op_of("Mul")?;
        value =
            patch.op1(&format!("{name}_scaled"), mul, vec![Some(value), Some(factor)], ty.clone());
    }
    if let Some(bias) = bias.filter(|_| vector.is_none()) {
        let add = op_of("Add")?;
        value = patch.op1(&format!("{name}_bias"), add, vec![Some(value), Some(bias)], ty);
    }
    patch.replace(old, value);
    Ok(patch)
}

/// Whether a bias is one value per output.
fn is_vector(graph: &Graph, bias: Value, n: usize) -> bool {
    graph.ty(bias).known_dims().is_some_and(|it| it == [n])
}

fn scalar(value: f32, dtype: DType) -> Tensor {
    match dtype {
        DType::F16 => Tensor::scalar(half::f16::from_f32(value)),
        _ => Tensor::scalar(value),
    }
}

fn op_of(name: &str) -> Result<qcc_ir::OpRef, PassError> {
    qcc_ops::parse("", name, 21, Vec::new()).map_err(|it| PassError::internal(it.to_string()))
}

fn lookup(root: &Graph, reader: &Reader<'_>) -> Result<Patch, PassError> {
    let Some(graph) = root.at(&reader.scope) else {
        return Err(PassError::internal("a scope is gone"));
    };
    let packed = reader.packed;
    if !reader.fits(false) {
        return Err(no_form(reader, "it reads the table in another shape").into());
    }
    if packed.dtype == DType::BF16 {
        return Err(no_form(reader, "the operator has no bfloat16 form").into());
    }
    let bits = field_bits(packed.spec.bits.get());
    let (n, k) = (packed.form.n, packed.form.k);
    if k % packed.block != 0 {
        return Err(no_form(reader, "its rows are no multiple of the group").into());
    }
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
    let row_bytes = k * usize::from(bits) / 8;
    let name = reader.node.name.as_str();
    let shape = patch.constant(
        &format!("{}_rows", reader.name),
        Tensor::vector(vec![n as i64, row_bytes as i64]),
    );
    let rows = patch.op1(
        &format!("{}_as_rows", reader.name),
        op_of("Reshape")?,
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
    let out = Output::new(graph.value_name(old), ty);
    let node = patch.op(name, op, inputs, vec![out]);
    patch.replace(old, Value { node, slot: 0 });
    Ok(patch)
}
