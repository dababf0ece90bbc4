//! `widen-floats`: computes in f32 what a graph computes in f16 or bf16.
//!
//! For copies that are differentiated: gradients of a half-precision graph fall below the least
//! number of f16, and the numbers that are tuned are f32. Constants become f32, inputs of the graph
//! are cast where they are read, operators that name an element type name f32. Results are those
//! of the graph without the rounding between its operators. Needs: types. Changes: element types,
//! those of outputs too. A graph whose half-precision input is read inside a branch stays as it is,
//! with a note.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Kind, Node, NodeId, OpRef, Patch, Scope, Type, Value};
use qcc_ops::cast::{Cast, Rounding};
use qcc_ops::constant::ConstantOfShape;
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_tensor::{DType, Store, Tensor};

/// The row of the table.
pub static INFO: PassInfo = PassInfo {
    name: "widen-floats",
    summary: "compute in f32 what is computed in f16 or bf16",
    options: &[],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    let mut count = 0;
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        ctx.check_cancelled()?;
        if let Some(name) = captured_input(graph, &scope) {
            let text =
                format!("'{name}' is read in a branch, so the graph stays in half precision");
            ctx.note(Diagnostic::note(codes::QCC0201, text));
            return Ok(Vec::new());
        }
        let mut patch = Patch::within(INFO.name, scope.clone());
        for id in graph.topo() {
            let Some(node) = graph.node(id) else { continue };
            let is_given = scope.0.is_empty() && matches!(node.kind, Kind::Input(_));
            for value in graph.values_of(id).filter(|it| !is_given && is_half(graph.ty(*it))) {
                patch.set_type(value, graph.ty(value).with_dtype(Some(DType::F32)));
                count += 1;
            }
            widen(&mut patch, graph, (id, node), is_given, &ctx.session.store)?;
        }
        patches.push(patch);
    }
    ctx.count("widen-floats.values", count);
    Ok(if count > 0 { patches } else { Vec::new() })
}

fn is_half_type(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn is_half(ty: &Type) -> bool {
    ty.dtype().is_some_and(is_half_type)
}

/// An input of the outermost graph in half precision that a region of a node captures.
fn captured_input<'a>(graph: &'a Graph, scope: &Scope) -> Option<&'a str> {
    if !scope.0.is_empty() {
        return None;
    }
    let mut captures = graph.nodes().flat_map(|it| it.1.regions.iter()).flat_map(|it| &it.captures);
    let found = captures.find(|it| {
        let is_input = graph.node(it.node).is_some_and(|it| matches!(it.kind, Kind::Input(_)));
        is_input && is_half(graph.ty(**it))
    });
    found.map(|it| graph.value_name(*it))
}

/// What replaces one node, and what reads an input.
fn widen(
    patch: &mut Patch,
    graph: &Graph,
    (id, node): (NodeId, &Node),
    is_given: bool,
    store: &Store,
) -> Result<(), PassError> {
    let value = Value { node: id, slot: 0 };
    patch.at(id);
    match &node.kind {
        Kind::Const(tensor) if is_half_type(tensor.dtype()) => {
            patch.replace_with_const(id, in_f32(tensor, store)?);
        }
        Kind::Input(_) if is_given && is_half(graph.ty(value)) => {
            let readers = graph.nodes().filter(|it| it.1.inputs.contains(&Some(value)));
            let readers: Vec<(NodeId, &Node)> = readers.collect();
            if readers.is_empty() {
                return Ok(());
            }
            let ty = graph.ty(value).with_dtype(Some(DType::F32));
            let name = format!("{}.f32", graph.value_name(value));
            let wide = patch.op1(&name, to_f32(), vec![Some(value)], ty);
            for (reader, node) in readers {
                let operands = (0..).zip(&node.inputs).filter(|it| *it.1 == Some(value));
                operands.for_each(|(operand, _)| patch.rewire(reader, operand, wide));
            }
        }
        Kind::Op(op) => {
            if let Some(wide) = wide_op(op)? {
                let ty = graph.ty(value).with_dtype(Some(DType::F32));
                let new = patch.op1(&node.name, wide, node.inputs.clone(), ty);
                patch.replace(value, new);
            }
        }
        _ => {}
    }
    Ok(())
}

fn to_f32() -> OpRef {
    Arc::new(Cast { to: DType::F32, rounding: Rounding::default() })
}

/// An operator that names half precision, with f32 in its place.
fn wide_op(op: &OpRef) -> Result<Option<OpRef>, PassError> {
    if op.is::<Cast>().is_some_and(|it| is_half_type(it.to)) {
        return Ok(Some(to_f32()));
    }
    let filled = op.is::<ConstantOfShape>().and_then(|it| it.value.as_ref());
    Ok(match filled.filter(|it| is_half_type(it.dtype())) {
        Some(it) => {
            let value = Tensor::from_vec(it.dims().into(), it.to_f32()?.into_owned())?;
            Some(Arc::new(ConstantOfShape { value: Some(value) }))
        }
        None => None,
    })
}

/// The same numbers, which lie in `store`.
fn in_f32(tensor: &Tensor, store: &Store) -> Result<Tensor, PassError> {
    let mut buffer = store.take(4 * tensor.len()).map_err(|error| {
        Diagnostic::error(codes::QCC0502, "there is no room for the constants in f32")
            .with_note(error.to_string())
            .with_help("raise --max-mem, or set TMPDIR to a folder with more space")
    })?;
    if !tensor.is_empty() {
        buffer.floats_mut().copy_from_slice(&tensor.to_f32()?);
    }
    Ok(Tensor::new(DType::F32, tensor.dims().into(), buffer.freeze())?)
}

#[cfg(test)]
mod tests {
    use crate::testing::{after, notes};

    #[test]
    fn constants_casts_and_inputs_become_f32() {
        let text = "graph @g(%x: f16[2], %i: i64[1]) -> (%y: f16[2], %z: f16[?]) {
          %w = const f16[2] [1.0, 2.0]
          %a: f16[2] = Mul(%x, %w)
          %b: f32[2] = Cast(%a) {to = 1}
          %y: f16[2] = Cast(%b) {to = 10}
          %z: f16[?] = ConstantOfShape(%i) {value = tensor f16[1] [0.5]}
        }";
        let text = after(text, "widen-floats,infer-types");
        assert!(!text.contains("f16"), "{text}");
        assert!(text.contains("%x.f32: f32[2] = Cast(%x) {to = 1}"), "{text}");
        assert!(text.contains("%w = const f32[2] [1.0, 2.0]"), "{text}");
        assert!(text.contains("Mul(%x.f32, %w)"), "{text}");
    }

    #[test]
    fn a_graph_in_f32_stays() {
        let text = "graph @g(%x: f32[2]) -> (%y: f32[2]) { %y = Neg(%x) }";
        assert_eq!(after(text, "widen-floats"), after(text, ""));
    }

    #[test]
    fn an_input_that_a_branch_reads_is_left_alone() {
        let text = "graph @g(%c: bool[], %x: f16[2]) -> (%y: f16[2]) {
          %y: f16[2] = If(%c) {
            then_branch = graph @then captures(%x) () -> (%t) { %t = Neg(%x) },
            else_branch = graph @else captures(%x) () -> (%e) { %e = Abs(%x) }
          }
        }";
        assert_eq!(after(text, "widen-floats"), after(text, ""));
        let said = notes(text, "widen-floats");
        assert_eq!(said, ["'x' is read in a branch, so the graph stays in half precision"]);
    }
}
