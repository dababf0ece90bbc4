//! `dce`: removes nodes and constants that nothing reads.
//!
//! Needs: nothing. Keeps: everything that an output depends on, inputs, and operators that are
//! not pure, with what they read. `If`, `Loop` and `Scan` are pure where all inside of them is.

use std::collections::BTreeSet;

use qcc_ir::{Graph, Kind, Node, NodeId, Patch, Scope};
use qcc_pass::{Ctx, PassError, PassInfo};

/// The row of the table.
pub static INFO: PassInfo =
    PassInfo { name: "dce", summary: "remove what nothing reads", options: &[], run };

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut patches = Vec::new();
    walk(graph, &Scope::root(), &mut patches, ctx);
    Ok(patches)
}

fn walk(graph: &Graph, scope: &Scope, patches: &mut Vec<Patch>, ctx: &mut Ctx<'_>) {
    let alive = alive(graph);
    let mut patch = Patch::within(INFO.name, scope.clone());
    for id in graph.topo() {
        let node = &graph[id];
        if alive.contains(&id) {
            for (idx, region) in node.regions.iter().enumerate() {
                walk(&region.graph, &scope.inner(id, idx), patches, ctx);
            }
        } else if !matches!(node.kind, Kind::Input(_)) {
            patch.drop_unused(id);
            ctx.count("dce.removed", 1);
        }
    }
    if patch.is_structural() {
        patches.push(patch);
    }
}

/// What an output or an operator that is not pure depends on.
fn alive(graph: &Graph) -> BTreeSet<NodeId> {
    let mut ready: Vec<NodeId> = graph.outputs().iter().map(|it| it.node).collect();
    ready.extend(graph.nodes().filter(|it| !is_pure(it.1)).map(|it| it.0));
    let mut alive = BTreeSet::new();
    while let Some(id) = ready.pop() {
        if alive.insert(id)
            && let Some(node) = graph.node(id)
        {
            ready.extend(node.uses().map(|it| it.node));
        }
    }
    alive
}

fn is_pure(node: &Node) -> bool {
    let Kind::Op(op) = &node.kind else { return true };
    let is_control = ["If", "Loop", "Scan"].iter().any(|it| op.is_named(it));
    let is_pure_inside =
        || node.regions.iter().all(|it| it.graph.nodes().all(|(_, node)| is_pure(node)));
    op.is_pure() || (is_control && is_pure_inside())
}

#[cfg(test)]
mod tests {
    use crate::testing::after;

    #[test]
    fn unread_nodes_go_with_what_only_they_read() {
        let text = "graph @g(%x: f32[2], %unread: f32[2]) -> (%y: f32[2]) {
          %w = const f32[2] [1.0, 2.0]
          %a = Mul(%x, %w)
          %b = Neg(%a)
          %y = Relu(%x)
        }";
        assert_eq!(after(text, "dce"), "%y = Relu(%x)");
    }

    #[test]
    fn what_is_not_known_stays() {
        let text = "graph @g(%x: f32[2]) -> (%y: f32[2]) {
          %a = Neg(%x)
          () = my::Print(%a)
          %r = RandomNormal() {shape = [2]}
          %y = Relu(%x)
        }";
        let text = after(text, "dce");
        assert!(text.contains("my::Print(%a)") && text.contains("RandomNormal"), "{text}");
    }

    #[test]
    fn regions_are_cleaned_and_free_what_they_captured() {
        let text = "graph @g(%c: bool[], %x: f32[2]) -> (%y) {
          %w = const f32[2] [4.0, 9.0]
          %unread = If(%c) {
            then_branch = graph @t captures(%w) () -> (%a) { %a = Neg(%w) },
            else_branch = graph @e captures(%x) () -> (%b) { %b = Neg(%x) }
          }
          %y = If(%c) {
            then_branch = graph @t captures(%w, %x) () -> (%a) {
              %s = Sqrt(%w)
              %a = Neg(%x)
            },
            else_branch = graph @e captures(%x) () -> (%b) { %b = Neg(%x) }
          }
        }";
        let text = after(text, "dce");
        assert_eq!(text.matches("If(").count(), 1, "{text}");
        assert!(!text.contains("Sqrt") && !text.contains("%w"), "{text}");
    }
}
