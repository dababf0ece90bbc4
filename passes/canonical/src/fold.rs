//! `fold`: replaces operators whose operands are all constants by their values.
//!
//! Needs: types, to tell how large a value will be before it is made. Keeps: names and types.
//! Left alone, each with a note: what would make the model grow, as the `Expand` of a scalar
//! does; what has no evaluation; what stores a weight in fewer bits than its value has. Values of
//! up to the fold limit of the session may grow. A weight on its way to codes (`qcc::Quant`,
//! `qcc::Packed`) is not looked at.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, EvalCx, Graph, Input, Kind, NodeId, OpRef, Patch, Scope, Type, Value};
use qcc_ops::quant::DOMAIN;
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_tensor::{Tensor, checked_len};

/// The row of the table.
pub static INFO: PassInfo =
    PassInfo { name: "fold", summary: "evaluate operators on constants", options: &[], run };

/// Operators that store a value in fewer bits than it has: folding would undo that.
const CODED: &[(&str, &str)] = &[
    ("", "DequantizeLinear"),
    ("com.microsoft", "DequantizeLinear"),
    ("com.microsoft", "GatherBlockQuantized"),
    ("com.microsoft", "MatMulNBits"),
];

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    let mut folded: BTreeMap<(Scope, Value), Tensor> = BTreeMap::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        for id in inner.topo() {
            ctx.check_cancelled()?;
            let node = &inner[id];
            let Kind::Op(op) = &node.kind else { continue };
            if op.domain() == DOMAIN || !op.is_pure() || !node.regions.is_empty() {
                continue;
            }
            let values: Option<Vec<Option<Tensor>>> = node
                .inputs
                .iter()
                .map(|it| match it {
                    None => Some(None),
                    Some(it) => constant(graph, &scope, *it, &folded).map(Some),
                })
                .collect();
            let Some(values) = values else { continue };
            let operands: Vec<Option<&Tensor>> = values.iter().map(Option::as_ref).collect();
            match fold(inner, id, op, &operands, ctx) {
                Ok(tensors) => {
                    let mut patch = Patch::within(INFO.name, scope.clone());
                    patch.at(id);
                    for (value, tensor) in inner.values_of(id).zip(tensors) {
                        if inner.n_uses(value) > 0 {
                            let new = patch.constant("folded", tensor.clone());
                            patch.replace(value, new);
                        }
                        folded.insert((scope.clone(), value), tensor);
                    }
                    // Without readers there is nothing to replace, which `dce` is for.
                    if patch.is_structural() {
                        patches.push(patch);
                        ctx.count("fold.folded", 1);
                    }
                }
                Err(why) => {
                    let name = inner.value_name(Value { node: id, slot: 0 });
                    let text = format!("'{name}' is not folded: {why}");
                    ctx.note(Diagnostic::note(codes::QCC0201, text).at(op.name()));
                }
            }
        }
    }
    Ok(patches)
}

/// The value of an operand, here or in a graph around this one.
fn constant(
    root: &Graph,
    scope: &Scope,
    value: Value,
    folded: &BTreeMap<(Scope, Value), Tensor>,
) -> Option<Tensor> {
    let (scope, value) = root.resolve(scope, value)?;
    let found = root.at(&scope)?.constant(value);
    found.cloned().or_else(|| folded.get(&(scope, value)).cloned())
}

/// Values of the outputs of a node, or why it is left alone.
fn fold(
    graph: &Graph,
    id: NodeId,
    op: &OpRef,
    operands: &[Option<&Tensor>],
    ctx: &Ctx<'_>,
) -> Result<Vec<Tensor>, String> {
    let node = &graph[id];
    if CODED.contains(&(op.domain(), op.name())) {
        return Err(format!("{} would store it in more bits", op.name()));
    }
    let types: Vec<Option<Type>> = operands.iter().map(|it| it.map(Type::of)).collect();
    let inputs: Vec<Option<Input<'_>>> = types
        .iter()
        .zip(operands)
        .map(|(ty, &value)| ty.as_ref().map(|ty| Input { ty, value }))
        .collect();
    let inferred = op.infer(&inputs, node.outputs.len()).map_err(|it| it.to_string())?;
    let size = inferred.iter().map(size_of).sum::<Option<usize>>();
    let Some(size) = size else { return Err("its size is not known beforehand".to_owned()) };

    // What goes with the node makes room for its value.
    let only_here = |value: &Value| graph.n_uses(*value) == 1;
    let operand_bytes = node.inputs.iter().zip(operands).map(|(value, tensor)| match tensor {
        Some(it) if value.as_ref().is_some_and(only_here) => stored(it),
        _ => 0,
    });
    let attr_bytes = op.attrs().into_iter().map(|it| match it.1 {
        Attr::Tensor(it) => stored(&it),
        _ => 0,
    });
    let room: usize = operand_bytes.chain(attr_bytes).fold(0, usize::saturating_add);
    let limit = ctx.session.fold_limit;
    if size > room.max(limit) {
        return Err(format!("value too large to fold, {size} bytes in place of {room}"));
    }

    let cx = EvalCx { pool: ctx.session.pool.clone() };
    let values = op.eval(&cx, operands, node.outputs.len()).map_err(|it| it.to_string())?;
    if values.len() != node.outputs.len() {
        return Err(format!("{} gives {} values", op.name(), values.len()));
    }
    for (value, output) in values.iter().zip(&node.outputs) {
        let ty = Type::of(value);
        if ty.meet(&output.ty).is_none() {
            return Err(format!("it is said to be {}, but is {ty}", output.ty));
        }
    }
    Ok(values)
}

/// Bytes of a value of this type; strings have no size before they are there.
fn size_of(ty: &Type) -> Option<usize> {
    let len = checked_len(&ty.known_dims()?)?;
    let dtype = ty.dtype()?;
    if dtype == qcc_tensor::DType::Str { Some(len) } else { dtype.size_of(len) }
}

fn stored(tensor: &Tensor) -> usize {
    match tensor.as_strings() {
        Some(strings) => strings.iter().fold(0, |sum, it| sum + it.len()),
        None => tensor.bytes().len(),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{after, notes};

    #[test]
    fn chains_of_constants_become_one() {
        let text = "graph @g(%x: f32[2]) -> (%y) {
          %a = const f32[2] [1.0, 2.0]
          %b = Neg(%a)
          %c = Add(%b, %a)
          %y = Mul(%x, %b)
          %u = Relu(%c)
        }";
        let text = after(text, "fold");
        assert!(text.contains("%b = const f32[2] [-1.0, -2.0]"), "{text}");
        assert!(!text.contains("Add(") && !text.contains("Neg("), "{text}");
        assert!(text.contains("%y = Mul(%x, %b)"), "{text}");
    }

    #[test]
    fn constants_of_attributes_too() {
        let text = "graph @g(%x: f32[2]) -> (%y) {
          %a = Constant() {value_floats = [1.0, 2.0]}
          %y = Add(%x, %a)
        }";
        assert!(after(text, "fold").contains("%a = const f32[2] [1.0, 2.0]"));
    }

    #[test]
    fn what_grows_is_left_with_a_note() {
        let text = "graph @g(%x: f32[30000]) -> (%y) {
          %a = const f32[] [1.0]
          %n = const i64[1] [30000]
          %e = Expand(%a, %n)
          %y = Add(%x, %e)
        }";
        assert!(after(text, "fold").contains("Expand("));
        let want = "'e' is not folded: value too large to fold, 120000 bytes in place of 12";
        assert_eq!(notes(text, "fold"), [want]);
    }

    #[test]
    fn weights_on_their_way_to_codes_are_not_values() {
        let text = "graph @g(%x: f32[1, 2]) -> (%y) {
          %w = const f32[2, 1] [1.0, 2.0]
          %q = qcc::Quant(%w) {bits = 4, group = \"row\", n = 1, k = 2, order = \"kn\"}
          %y = MatMul(%x, %q)
        }";
        assert!(after(text, "fold").contains("qcc::Quant("));
        assert_eq!(notes(text, "fold"), Vec::<String>::new());
    }

    #[test]
    fn regions_see_constants_around_them() {
        let text = "graph @g(%c: bool[], %x: f32[2]) -> (%y) {
          %w = const f32[2] [4.0, 9.0]
          %y = If(%c) {
            then_branch = graph @t captures(%w, %x) () -> (%a) {
              %s = Sqrt(%w)
              %a = Mul(%x, %s)
            },
            else_branch = graph @e captures(%x) () -> (%b) { %b = Neg(%x) }
          }
        }";
        let text = after(text, "fold");
        assert!(text.contains("captures(%x) () -> (%a)"), "{text}");
        assert!(text.contains("%s = const f32[2] [2.0, 3.0]"), "{text}");
    }
}
