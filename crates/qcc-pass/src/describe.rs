//! Patches in a few words, for messages.

use qcc_ir::{Graph, Kind, Node, Patch};

/// How many values a message names.
const NAMED: usize = 3;

/// A patch in a few words; `graph` is the one that it changes.
pub(crate) fn describe(graph: &Graph, patch: &Patch) -> String {
    let mut after = graph.clone();
    let names = match after.apply(vec![patch.clone()]) {
        Ok(()) => match (graph.at(patch.scope()), after.at(patch.scope())) {
            (Some(before), Some(after)) => changed(before, after),
            _ => Vec::new(),
        },
        Err(_) => Vec::new(),
    };
    let mut text = patch.pass().to_owned();
    for (idx, name) in names.iter().take(NAMED).enumerate() {
        text.push_str(if idx == 0 { " at " } else { ", " });
        text.push_str(&format!("'{name}'"));
    }
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// Names of the values that are gone, which is what a replacement leaves; else of those that are
/// made in another way or known to be of another type. Constants and inputs are named only when
/// there is nothing else.
fn changed<'a>(before: &'a Graph, after: &Graph) -> Vec<&'a str> {
    let types = |node: &Node| node.outputs.iter().map(|it| it.ty.clone()).collect::<Vec<_>>();
    let (mut gone, mut kept, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for (id, old) in before.nodes() {
        let new = after.node(id);
        if new.is_some_and(|new| old.inputs == new.inputs && types(old) == types(new)) {
            continue;
        }
        let list = match (&old.kind, new) {
            (Kind::Op(_), None) => &mut gone,
            (Kind::Op(_), Some(_)) => &mut kept,
            _ => &mut leaves,
        };
        list.extend(old.outputs.iter().map(|it| it.name.as_str()).filter(|it| !it.is_empty()));
    }
    [gone, kept, leaves].into_iter().find(|it| !it.is_empty()).unwrap_or_default()
}
