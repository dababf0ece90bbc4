//! `infer-types`: finds out the types of values from those of inputs and constants, forwards.
//!
//! Every operator is asked for the types of its results. Operators whose operands are known and
//! small are also evaluated, so that a `Reshape` by a computed shape is known; the graph does not
//! change by that. A region takes the types of what it captures, and an `If` those in which its
//! branches agree.
//!
//! Needs: nothing. Changes: types only. A type of the file that contradicts the rule of its
//! operator is replaced, with a note. In a region whose operators do not fit, as in the branch for
//! another rank of input, nothing is changed, with a note; in the outermost graph that is an error.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{EvalCx, Graph, Input, Kind, Node, NodeId, OpRef, Patch, Scope, Type, Value};
use qcc_ops::quant::DOMAIN;
use qcc_ops::shape::Shape;
use qcc_pass::{Ctx, PassError, PassInfo};
use qcc_tensor::{Dim, Tensor, checked_len};

/// The row of the table.
pub static INFO: PassInfo =
    PassInfo { name: "infer-types", summary: "find out the types of values", options: &[], run };

/// Most elements of an operand or a result of an operator that is evaluated. A shape has as many
/// elements as a tensor has dimensions, and tables of positions are about this long.
const MAX_ELEMENTS: usize = 4096;

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut walk = Walk { patches: Vec::new(), notes: Vec::new() };
    walk.graph(graph, &Scope::root(), &[]).map_err(PassError::from)?;
    ctx.count("infer-types.typed", walk.patches.iter().map(|it| it.1).sum());
    walk.notes.into_iter().for_each(|it| ctx.note(it));
    Ok(walk.patches.into_iter().map(|it| it.0).collect())
}

struct Walk {
    /// Each with the number of types that it sets.
    patches: Vec<(Patch, u64)>,
    notes: Vec<Diagnostic>,
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
struct Known {
    ty: Type,
    tensor: Option<Tensor>,
}

impl Walk {
    /// Types of the outputs of a graph; `captured` has one entry for each of its captures.
    fn graph(
        &mut self,
        graph: &Graph,
        scope: &Scope,
        captured: &[Known],
    ) -> Result<Vec<Type>, Box<Diagnostic>> {
        let mut known: BTreeMap<Value, Known> = BTreeMap::new();
        for (&node, outer) in graph.captures().iter().zip(captured) {
            let value = Value { node, slot: 0 };
            let ty = outer.ty.meet(graph.ty(value)).unwrap_or_else(|| outer.ty.clone());
            known.insert(value, Known { ty, tensor: outer.tensor.clone() });
        }
        for id in graph.topo() {
            match &graph[id].kind {
                Kind::Capture => {}
                Kind::Input(_) => {
                    let value = Value { node: id, slot: 0 };
                    known.insert(value, Known { ty: graph.ty(value).clone(), tensor: None });
                }
                Kind::Const(it) => {
                    let it = Known { ty: Type::of(it), tensor: Some(it.clone()) };
                    known.insert(Value { node: id, slot: 0 }, it);
                }
                Kind::Op(op) => self.op(graph, scope, id, op, &mut known)?,
            }
        }

        let mut patch = Patch::within(INFO.name, scope.clone());
        let mut count = 0;
        for (&value, known) in &known {
            if known.ty != *graph.ty(value) {
                patch.set_type(value, known.ty.clone());
                count += 1;
            }
        }
        if count > 0 {
            self.patches.push((patch, count));
        }
        let ty = |it: &Value| known.get(it).map_or(Type::Unknown, |it| it.ty.clone());
        Ok(graph.outputs().iter().map(ty).collect())
    }

    /// Adds what is known of the results of an operator.
    fn op(
        &mut self,
        graph: &Graph,
        scope: &Scope,
        id: NodeId,
        op: &OpRef,
        known: &mut BTreeMap<Value, Known>,
    ) -> Result<(), Box<Diagnostic>> {
        let node = &graph[id];
        let operands: Vec<Option<&Known>> =
            node.inputs.iter().map(|it| it.and_then(|it| known.get(&it))).collect();
        let inputs: Vec<Option<Input<'_>>> = operands
            .iter()
            .map(|it| it.map(|it| Input { ty: &it.ty, value: it.tensor.as_ref() }))
            .collect();
        let mut types = op.infer(&inputs, node.outputs.len()).map_err(|error| {
            let message = Diagnostic::error(codes::QCC0202, error.to_string()).at(place(node));
            Box::new(message.with_help(
                "correct the exporter, or the types of the inputs: qcc inspect MODEL lists them",
            ))
        })?;
        types.resize(node.outputs.len(), Type::Unknown);

        let branches = self.regions(scope, id, node, known);
        if op.is_named("If")
            && let [Some(a), Some(b)] = branches.as_slice()
        {
            for (ty, (a, b)) in types.iter_mut().zip(a.iter().zip(b)) {
                *ty = join(a, b);
            }
        }

        let tensors = values(op, &operands, &types);
        for (slot, (ty, tensor)) in types.into_iter().zip(tensors).enumerate() {
            let value = Value { node: id, slot: slot as u32 };
            let old = graph.ty(value);
            let ty = tensor.as_ref().map_or(ty, Type::of);
            // Symbols of the interface stay as they are spelled; inside, those of the inputs win.
            let met = if graph.is_output(value) { old.meet(&ty) } else { ty.meet(old) };
            let ty = met.unwrap_or_else(|| {
                let name = graph.value_name(value);
                let text = format!("'{name}' is said to be {old}, but {} gives {ty}", op.name());
                self.notes.push(Diagnostic::note(codes::QCC0202, text).at(place(node)));
                ty
            });
            known.insert(value, Known { ty, tensor });
        }
        Ok(())
    }

    /// Types of the outputs of each region of a node; `None` for one whose operators do not fit.
    fn regions(
        &mut self,
        scope: &Scope,
        id: NodeId,
        node: &Node,
        known: &BTreeMap<Value, Known>,
    ) -> Vec<Option<Vec<Type>>> {
        let mut outputs = Vec::with_capacity(node.regions.len());
        for (idx, region) in node.regions.iter().enumerate() {
            let captured: Vec<Known> = region
                .captures
                .iter()
                .map(|it| known.get(it).cloned().unwrap_or_default())
                .collect();
            let mut inner = Self { patches: Vec::new(), notes: Vec::new() };
            match inner.graph(&region.graph, &scope.inner(id, idx), &captured) {
                Ok(types) => {
                    self.patches.append(&mut inner.patches);
                    self.notes.append(&mut inner.notes);
                    outputs.push(Some(types));
                }
                Err(error) => {
                    let attr = &region.attr;
                    let text = format!("'{attr}' keeps its types: {}", error.message);
                    let note = Diagnostic::note(codes::QCC0202, text);
                    self.notes.push(note.at(error.place.unwrap_or_else(|| place(node))));
                    outputs.push(None);
                }
            }
        }
        outputs
    }
}

/// Values of the results of an operator, where all its operands are known and all of it is small.
fn values(op: &OpRef, operands: &[Option<&Known>], types: &[Type]) -> Vec<Option<Tensor>> {
    let unknown = vec![None; types.len()];
    if let (Some(shape), [Some(of)]) = (op.is::<Shape>(), operands) {
        return vec![shape.value_of(&of.ty)];
    }
    let is_small = |ty: &Type| {
        let len = ty.known_dims().and_then(|dims| checked_len(&dims));
        ty.dtype().is_some() && len.is_some_and(|it| it <= MAX_ELEMENTS)
    };
    let is_known = |it: &Known| it.tensor.is_some() && is_small(&it.ty);
    let is_due = op.is_pure()
        && op.domain() != DOMAIN
        && operands.iter().flatten().all(|it| is_known(it))
        && types.iter().all(is_small);
    if !is_due {
        return unknown;
    }
    let tensors: Vec<Option<&Tensor>> =
        operands.iter().map(|it| it.and_then(|it| it.tensor.as_ref())).collect();
    match op.eval(&EvalCx::default(), &tensors, types.len()) {
        Ok(values) if values.len() == types.len() => values.into_iter().map(Some).collect(),
        // What cannot be evaluated is not known; whoever runs the graph will say why.
        _ => unknown,
    }
}

/// What two branches have in common.
fn join(a: &Type, b: &Type) -> Type {
    if a == b {
        return a.clone();
    }
    let dtype = if a.dtype() == b.dtype() { a.dtype() } else { None };
    let shape = match (a.shape(), b.shape()) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            let dim = |(a, b): (&Dim, &Dim)| if a == b { a.clone() } else { Dim::Unknown };
            Some(a.iter().zip(b).map(dim).collect())
        }
        _ => None,
    };
    Type::partial(dtype, shape)
}

/// A node as messages name it.
fn place(node: &Node) -> String {
    let output = node.outputs.iter().map(|it| it.name.as_str()).find(|it| !it.is_empty());
    match (node.name.as_str(), output) {
        ("", Some(output)) => format!("node of '{output}'"),
        (name, _) => format!("node '{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{after, graph, notes};
    use qcc_pass::{Pipeline, Record, Session};

    #[test]
    fn types_flow_forwards() {
        let text = "graph @g(%x: f32[batch, 4]) -> (%y) {
          %w = const f32[4, 2] [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
          %a = MatMul(%x, %w)
          %y = Relu(%a)
        }";
        let text = after(text, "infer-types");
        assert!(text.contains("%a: f32[batch, 2] = MatMul"), "{text}");
    }

    #[test]
    fn computed_shapes_are_known() {
        let text = "graph @g(%x: f32[2, 6], %i: i64[2]) -> (%y, %z) {
          %s = Shape(%x)
          %by = const i64[2] [1, 2]
          %d = Div(%s, %by)
          %two = const i64[1] [2]
          %r = Concat(%d, %two) {axis = 0}
          %v = Reshape(%x, %r)
          %y = Neg(%v)
          %c = Add(%s, %i)
          %w = Reshape(%x, %c)
          %z = Neg(%w)
        }";
        let text = after(text, "infer-types");
        assert!(text.contains("%v: f32[2, 3, 2]"), "{text}");
        assert!(text.contains("%w: f32[?, ?]"), "{text}");
        assert!(text.contains("%r: i64[3] = Concat"), "the graph stays: {text}");
    }

    #[test]
    fn the_file_yields_to_the_rule() {
        let text = "graph @g(%x: f32[2, n]) -> (%y: f32[2, m]) {
          %a: f32[k, l] = Relu(%x)
          %y = Relu(%a)
        }";
        let text = after(text, "infer-types");
        assert!(text.contains("%a: f32[2, n]"), "{text}");

        let mut graph = graph("graph @g(%x: f32[2]) -> (%y) { %a = Relu(%x) %y = Relu(%a) }");
        let a = graph.topo()[1];
        let mut patch = Patch::new("test");
        patch.set_type(Value { node: a, slot: 0 }, Type::tensor(qcc_tensor::DType::F32, [7usize]));
        graph.apply(vec![patch]).unwrap();
        let pipeline = Pipeline::parse("infer-types", crate::PASSES, &[]).unwrap();
        let mut record = Record::default();
        qcc_pass::run(&mut graph, &pipeline, &Session::default(), &mut record, &mut []).unwrap();
        assert_eq!(record.notes[0].message, "'a' is said to be f32[7], but Relu gives f32[2]");
        assert_eq!(graph.ty(graph.outputs()[0]).to_string(), "f32[2]");
    }

    const BRANCHES: &str = "graph @g(%c: bool[], %x: f32[2, n]) -> (%y) {
      %w = const i64[2] [1, -1]
      %y = If(%c) {
        then_branch = graph @then captures(%x, %w) () -> (%t) {
          %t = Reshape(%x, %w)
        },
        else_branch = graph @else captures(%x) () -> (%e) {
          %e = Neg(%x)
        }
      }
    }";

    #[test]
    fn regions_take_the_types_around_them() {
        let text = after(BRANCHES, "infer-types");
        assert!(text.contains("captures(%x: f32[2, n]) () -> (%e: f32[2, n])"), "{text}");
        assert!(text.contains("-> (%t: f32[1, ?])"), "{text}");
    }

    #[test]
    fn a_branch_that_cannot_run_is_left_alone() {
        let source = BRANCHES.replace("[1, -1]", "[-1, -1]");
        let text = after(&source, "infer-types");
        assert!(text.contains("captures(%x, %w) () -> (%t) {"), "{text}");
        assert!(text.contains("-> (%e: f32[2, n])"), "{text}");
        assert_eq!(
            notes(&source, "infer-types"),
            ["'then_branch' keeps its types: Reshape: two -1 in shape"]
        );
    }

    #[test]
    fn branches_have_in_common_what_both_say() {
        let f32 = |dims: &[usize]| Type::tensor(qcc_tensor::DType::F32, dims.iter().copied());
        assert_eq!(join(&f32(&[2, 3]), &f32(&[2, 4])).to_string(), "f32[2, ?]");
        assert_eq!(join(&f32(&[2]), &f32(&[2, 4])).to_string(), "f32[*]");
        assert_eq!(join(&f32(&[2]), &Type::Unknown), Type::Unknown);
    }
}
