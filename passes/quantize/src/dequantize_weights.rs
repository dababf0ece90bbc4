//! `dequantize-weights`: weights in codes of 8 bits become floats again, to be quantized anew.
//!
//! - `DequantizeLinear` of a constant of `int8` or `uint8` that a product or a lookup reads becomes
//!   the constant that it computes.
//! - `MatMulNBits` of 8 bits becomes `MatMul` with `w[k, n] = (code - zero) * scale`, and an `Add`
//!   where it has a bias.
//! - `GatherBlockQuantized` of 8 bits becomes `Gather` of the table of floats.
//!
//! Needs: inferred types. Keeps: names of results, and their values up to rounding.
//! Left alone: fewer bits, codes that are not constant, prepacked codes, `g_idx`; tables when
//! `tables` is false.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, EvalCx, Graph, Node, NodeId, OpRef, Output, Patch, Scope, Value};
use qcc_ops::gather_quant::GatherBlockQuantized;
use qcc_ops::nbits::MatMulNBits;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_tensor::{DType, Tensor};

use crate::sites::leaf_uses;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "dequantize-weights",
    summary: "turn weights of 8-bit codes back into floats",
    options: &[OptionInfo {
        name: "tables",
        kind: OptionKind::Bool,
        default: "true",
        help: "take tables that rows are gathered from as well",
    }],
    run,
};

/// Codes, scales and zero points: nodes of one graph with equal ones read one weight.
type Key = (Value, Value, Option<Value>);

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let takes_tables = ctx.options.flag("tables");
    let cx = EvalCx { pool: ctx.session.pool.clone() };
    let mut patches = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        let at = At { root, scope: &scope, graph, cx: &cx };
        let mut readers: BTreeMap<(bool, Key), Vec<NodeId>> = BTreeMap::new();
        let mut order = Vec::new();
        for id in graph.topo() {
            ctx.check_cancelled()?;
            let Some(node) = graph.node(id) else { continue };
            if let Some(tensor) = at.linear(id, node, takes_tables) {
                let mut patch = Patch::within(INFO.name, scope.clone());
                patch.replace_with_const(id, tensor);
                patches.push(patch);
            }
            let Some(key) = at.key(node, takes_tables) else { continue };
            let list = readers.entry(key).or_default();
            if list.is_empty() {
                order.push(key);
            }
            list.push(id);
        }
        for (is_table, key) in order {
            ctx.check_cancelled()?;
            let ids = readers.remove(&(is_table, key)).unwrap_or_default();
            patches.extend(at.rewrite(is_table, key, &ids));
        }
    }
    if !patches.is_empty() {
        ctx.count("dequantize-weights.weights", patches.len() as u64);
        let text = match patches.len() {
            1 => "a weight of 8-bit codes is floats again".to_owned(),
            count => format!("{count} weights of 8-bit codes are floats again"),
        };
        let note = "the error of these codes stays in them";
        ctx.note(Diagnostic::note(codes::QCC0604, text).with_note(note));
    }
    Ok(patches)
}

struct At<'a> {
    root: &'a Graph,
    scope: &'a Scope,
    graph: &'a Graph,
    cx: &'a EvalCx,
}

impl At<'_> {
    /// A constant, here or around this graph, also in another shape.
    fn constant(&self, value: Value) -> Option<Tensor> {
        let (scope, value) = self.root.resolve(self.scope, value)?;
        let graph = self.root.at(&scope)?;
        if let Some(it) = graph.constant(value) {
            return Some(it.clone());
        }
        let node = graph.node(value.node)?;
        let op = node.op().filter(|it| it.is_named("Reshape"))?;
        let around = At { scope: &scope, graph, ..*self };
        let data = around.constant((*node.inputs.first()?)?)?;
        let shape = around.constant((*node.inputs.get(1)?)?)?;
        op.eval(self.cx, &[Some(&data), Some(&shape)], 1).ok()?.into_iter().next()
    }

    /// What a `DequantizeLinear` computes, where a product or a lookup reads it as its weight.
    fn linear(&self, id: NodeId, node: &Node, takes_tables: bool) -> Option<Tensor> {
        let op = node.op().filter(|it| it.name() == "DequantizeLinear")?;
        if !matches!(op.domain(), "" | "com.microsoft") {
            return None;
        }
        let codes = self.constant((*node.inputs.first()?)?)?;
        if codes.rank() < 2 || !matches!(codes.dtype(), DType::I8 | DType::U8) {
            return None;
        }
        let place = (self.scope.clone(), Value { node: id, slot: 0 });
        let uses = leaf_uses(self.root, &place)?;
        let mut reads = uses.iter().map(|(scope, id, operand)| {
            let op = self.root.at(scope).and_then(|it| it.node(*id)).and_then(Node::op);
            match (op.map_or("", |it| it.name()), operand) {
                ("MatMul" | "Gemm" | "FusedMatMul", 1) => true,
                ("Gather", 0) => takes_tables,
                _ => false,
            }
        });
        if !reads.any(|it| it) {
            return None;
        }
        let mut rest = Vec::new();
        for input in node.inputs.iter().skip(1) {
            rest.push(match input {
                Some(it) => Some(self.constant(*it)?),
                None => None,
            });
        }
        let inputs: Vec<Option<&Tensor>> =
            [Some(&codes)].into_iter().chain(rest.iter().map(Option::as_ref)).collect();
        op.eval(self.cx, &inputs, 1).ok()?.into_iter().next()
    }

    /// The codes that a product or a lookup reads, and whether it is a lookup.
    fn key(&self, node: &Node, takes_tables: bool) -> Option<(bool, Key)> {
        let op = node.op()?;
        let input = |idx: usize| node.inputs.get(idx).copied().flatten();
        if let Some(it) = op.is::<MatMulNBits>() {
            let is_plain = it.bits == 8 && it.weight_prepacked == 0 && input(4).is_none();
            return is_plain.then_some((false, (input(1)?, input(2)?, input(3))));
        }
        let it = op.is::<GatherBlockQuantized>()?;
        let is_plain = it.bits == 8 && it.gather_axis == 0 && takes_tables;
        is_plain.then_some((true, (input(0)?, input(2)?, input(3))))
    }

    /// Lets nodes that read the same codes read one constant of floats.
    fn rewrite(&self, is_table: bool, key: Key, ids: &[NodeId]) -> Option<Patch> {
        let (codes, scales, zeros) = key;
        let first = self.graph.node(*ids.first()?)?;
        let data = self.constant(codes)?;
        let scales = self.constant(scales)?;
        let zeros = match zeros {
            Some(it) => Some(self.constant(it)?),
            None => None,
        };
        let weight = match is_table {
            true => self.table(first.op()?, &data, &scales, zeros.as_ref()),
            false => self.product(first.op()?, &data, &scales, zeros.as_ref()),
        }?;
        let mut patch = Patch::within(INFO.name, self.scope.clone());
        patch.at(*ids.first()?);
        let (home, source) = self.root.resolve(self.scope, codes)?;
        let name = self.root.at(&home)?.value_name(source);
        let weight = patch.constant(&format!("{name}_float"), weight);
        for &id in ids {
            let node = self.graph.node(id)?;
            patch.at(id);
            let old = Value { node: id, slot: 0 };
            let ty = self.graph.ty(old).clone();
            let out = vec![Output::new(self.graph.value_name(old), ty.clone())];
            let input = |idx: usize| node.inputs.get(idx).copied().flatten();
            let new = match is_table {
                true => {
                    let inputs = vec![Some(weight), input(1)];
                    patch.op(&node.name, plain("Gather", vec![("axis", 0)])?, inputs, out)
                }
                false => {
                    let inputs = vec![input(0), Some(weight)];
                    patch.op(&node.name, plain("MatMul", Vec::new())?, inputs, out)
                }
            };
            let mut new = Value { node: new, slot: 0 };
            if let Some(bias) = input(5).filter(|_| !is_table) {
                let inputs = vec![Some(new), Some(bias)];
                new = patch.op1(
                    &format!("{}_bias", node.name),
                    plain("Add", Vec::new())?,
                    inputs,
                    ty,
                );
            }
            patch.replace(old, new);
        }
        Some(patch)
    }

    /// `[V, K]`, in the type of the scales.
    fn table(
        &self,
        op: &OpRef,
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Option<Tensor> {
        if codes.dtype() != DType::U8 {
            return None;
        }
        let rows = i64::try_from(*codes.dims().first()?).ok()?;
        let ids = Tensor::vector((0..rows).collect::<Vec<_>>());
        let inputs = [Some(codes), Some(&ids), Some(scales), zeros];
        op.eval(self.cx, &inputs, 1).ok()?.into_iter().next()
    }

    /// `[K, N]`, in the type of the scales.
    fn product(
        &self,
        op: &OpRef,
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Option<Tensor> {
        let it = op.is::<MatMulNBits>()?;
        let (n, k, block) = (it.n, it.k, it.block_size);
        let blocks = k.div_ceil(block);
        let (bytes, dtype) = (codes.bytes(), scales.dtype());
        let scales = scales.to_f32().ok()?;
        let zeros = match zeros {
            None => None,
            Some(it) if it.dtype().is_float() => Some(it.to_f32().ok()?.into_owned()),
            Some(it) => Some(it.bytes().iter().map(|&it| f32::from(it)).collect::<Vec<f32>>()),
        };
        let groups = n.checked_mul(blocks)?;
        let is_whole = groups.checked_mul(block)? == bytes.len()
            && scales.len() == groups
            && zeros.as_ref().is_none_or(|it| it.len() == groups);
        if !is_whole {
            return None;
        }
        let mut values = vec![0.0f32; n.checked_mul(k)?];
        for (row, (codes, group)) in
            bytes.chunks_exact(blocks * block).zip((0..).step_by(blocks)).enumerate()
        {
            for (idx, &code) in codes.iter().take(k).enumerate() {
                let group = group + idx / block;
                let zero = zeros.as_ref().map_or(128.0, |it| it[group]);
                values[idx * n + row] = (f32::from(code) - zero) * scales[group];
            }
        }
        let tensor = Tensor::from_vec(vec![k, n], values).ok()?;
        if dtype == DType::F32 {
            return Some(tensor);
        }
        let cast = plain("Cast", vec![("to", dtype.onnx_code().into())])?;
        cast.eval(self.cx, &[Some(&tensor)], 1).ok()?.into_iter().next()
    }
}

/// An operator of the default domain with integer attributes.
fn plain(name: &str, attrs: Vec<(&str, i64)>) -> Option<OpRef> {
    let attrs = attrs.into_iter().map(|(name, it)| (name.to_owned(), Attr::Int(it))).collect();
    qcc_ops::parse("", name, 21, attrs).ok()
}
