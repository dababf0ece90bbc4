//! `canonicalize`: brings operators to the forms that later passes look for.
//!
//! Products become `MatMul` with the weight on the right, norms and activations that are spelled
//! out become one operator, and what does nothing goes. Rules are applied by equality saturation
//! (egg) to one region at a time, `region` says what that is; the cheapest equal term replaces
//! the region if it is cheaper than what is there, each operator counted once.
//!
//! Needs: types, for most rules. Keeps: names and types of what is replaced. Leaves alone, with a
//! note: rules that make operators of a newer opset than the model has, and outputs that would
//! have to share a name.

mod cost;
pub(crate) mod engine;
mod region;
pub(crate) mod term;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use egg::{Language, Rewrite};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Kind, NodeId, Patch, Scope, Value};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};

use crate::rules::{self, Equal, Rule};
use engine::{best, saturate};
use region::{MAX_REGION, encode, grow, is_member};
use term::{Facts, Term};
use write::Writer;

/// The row of the table.
pub static INFO: PassInfo = PassInfo {
    name: "canonicalize",
    summary: "bring products, norms and activations to one form",
    options: &[
        OptionInfo {
            name: "rules",
            kind: OptionKind::Choice(&["all", "exact"]),
            default: "all",
            help: "whether rules that are equal up to rounding take part",
        },
        OptionInfo {
            name: "only",
            kind: OptionKind::Text,
            default: "",
            help: "names of the rules that take part, [a,b]; all when empty",
        },
        OptionInfo {
            name: "explain",
            kind: OptionKind::Bool,
            default: "false",
            help: "note which rules matched where something was replaced",
        },
    ],
    run,
};

/// Of a region as large as can be that stays as it is, the operators that are not looked at
/// again; the others begin the next region, so that no form is missed at the border.
const SETTLED: usize = 48;

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let rules = Rules::chosen(ctx)?;
    let mut patches = Vec::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        let order = inner.topo();
        let mut work = Work {
            whole: graph,
            scope: &scope,
            graph: inner,
            position: order.iter().copied().zip(0..).collect(),
            outputs: inner.outputs().iter().copied().collect(),
        };
        let mut settled: BTreeSet<NodeId> = BTreeSet::new();
        for &id in order.iter().rev() {
            ctx.check_cancelled()?;
            if settled.contains(&id) || !is_member(inner, id) {
                continue;
            }
            let nodes = grow(inner, id, &work.position);
            let patch = work.rewrite(&nodes, &rules, ctx);
            let is_cut = patch.is_none() && nodes.len() == MAX_REGION;
            settled.extend(nodes.iter().take(if is_cut { SETTLED } else { MAX_REGION }));
            patches.extend(patch);
        }
    }
    Ok(patches)
}

/// The rules that take part.
struct Rules {
    rewrites: Vec<Rewrite<Term, Facts>>,
    /// Operators at which their left sides begin.
    heads: BTreeSet<&'static str>,
    explain: bool,
}

impl Rules {
    fn chosen(ctx: &mut Ctx<'_>) -> Result<Self, PassError> {
        let only = ctx.options.text("only").to_owned();
        let only: BTreeSet<&str> =
            only.trim_matches(['[', ']']).split([',', ' ']).filter(|it| !it.is_empty()).collect();
        if let Some(name) = only.iter().find(|name| rules::all().all(|it| it.name != **name)) {
            let text = format!("canonicalize has no rule '{name}'");
            let names: Vec<&str> = rules::all().map(|it| it.name).collect();
            let error = Diagnostic::error(codes::QCC0302, text).at("option 'only'");
            return Err(error.with_note(format!("it has {}", names.join(", "))).into());
        }
        let is_exact = ctx.options.text("rules") == "exact";
        let takes_part = |it: &&Rule| {
            (it.equal == Equal::Exactly || !is_exact)
                && (only.is_empty() || only.contains(it.name) || it.is_helper())
        };
        let (rules, newer): (Vec<&Rule>, Vec<&Rule>) =
            rules::all().filter(takes_part).partition(|it| it.since <= ctx.session.opset);
        if let Some(since) = newer.iter().map(|it| it.since).max() {
            let names: Vec<&str> = newer.iter().map(|it| it.name).collect();
            let text = format!(
                "{} rules need an opset of up to {since}, the model has {}",
                newer.len(),
                ctx.session.opset
            );
            let note = Diagnostic::note(codes::QCC0203, text);
            ctx.note(note.with_note(format!("they are {}", names.join(", "))));
        }
        Ok(Self {
            heads: rules.iter().filter(|it| !it.is_helper()).map(|it| it.head()).collect(),
            rewrites: rules.iter().map(|it| it.compile()).collect::<Result<_, _>>()?,
            explain: ctx.options.flag("explain"),
        })
    }
}

struct Work<'a> {
    whole: &'a Graph,
    scope: &'a Scope,
    graph: &'a Graph,
    position: BTreeMap<NodeId, usize>,
    /// Values that carry the name of an output, those that patches give one to included.
    outputs: BTreeSet<Value>,
}

impl Work<'_> {
    /// The patch that makes a region cheaper, if there is one.
    fn rewrite(&mut self, nodes: &[NodeId], rules: &Rules, ctx: &mut Ctx<'_>) -> Option<Patch> {
        let name_of = |id: &NodeId| self.graph[*id].op().map_or("", |it| it.name());
        if !nodes.iter().any(|it| rules.heads.contains(name_of(it))) {
            return None;
        }
        let encoded = encode(self.whole, self.scope, self.graph, nodes)?;
        let terms: Vec<Term> = encoded.originals.iter().map(|it| it.0.clone()).collect();
        let before = best(&encoded.egraph, encoded.root, &terms).cost;
        let (egraph, applied) = saturate(encoded.egraph, &rules.rewrites);
        let best = best(&egraph, encoded.root, &terms);
        if best.cost >= before {
            return None;
        }

        let root = *nodes.first()?;
        let old = Value { node: root, slot: 0 };
        let canonical = |term: &Term| term.clone().map_children(|it| egraph.find(it));
        let mut originals = BTreeMap::new();
        for (term, id) in &encoded.originals {
            originals.entry(canonical(term)).or_insert(*id);
        }
        let mut patch = Patch::within(INFO.name, self.scope.clone());
        patch.at(root);
        let name = self.graph.value_name(old);
        let mut writer = Writer {
            graph: self.graph,
            egraph: &egraph,
            best: &best,
            originals: &originals,
            leaves: &encoded.leaves,
            name,
            patch,
            done: BTreeMap::new(),
        };
        let new = writer.value(best.root)?;
        let mut patch = writer.patch;
        let new_ty = &egraph[best.root].data.ty;
        if new == old || new_ty.meet(self.graph.ty(old)).is_none() {
            return None;
        }
        if !self.may_replace(old, new) {
            let new = self.graph.value_name(new);
            let text =
                format!("'{name}' stays beside '{new}', which is equal and has its own name");
            ctx.note(Diagnostic::note(codes::QCC0202, text));
            return None;
        }
        if self.outputs.contains(&old) && self.graph.node(new.node).is_some() {
            self.outputs.insert(new);
        }
        patch.replace(old, new);
        ctx.count("canonicalize.replaced", 1);
        if rules.explain {
            let is_told = |it: &&&str| applied.contains(**it);
            let names = rules::all().filter(|it| !it.is_helper()).map(|it| it.name);
            let names: Vec<&str> = names.filter(|it| is_told(&it)).collect();
            let text = format!("'{name}' is replaced by {}", names.join(", "));
            ctx.note(Diagnostic::note(codes::QCC0202, text));
        }
        Some(patch)
    }

    /// An output takes its name along, which an input, a captured value and another output
    /// cannot take.
    fn may_replace(&self, old: Value, new: Value) -> bool {
        // A node of the patch has no name yet; its id means something in the patch only.
        let Some(node) = self.graph.node(new.node) else { return true };
        let is_fixed =
            matches!(node.kind, Kind::Input(_) | Kind::Capture) || self.outputs.contains(&new);
        !(self.outputs.contains(&old) && is_fixed)
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::text;

    use crate::testing::{after, graph, notes, run_on};

    const GEMM: &str = "graph @g(%x: f32[2, 3]) -> (%y: f32[2, 2]) {
      %w = const f32[2, 3] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
      %b = const f32[2] [0.5, -0.5]
      %y = Gemm(%x, %w, %b) {transB = 1} @dense
    }";

    #[test]
    fn a_gemm_becomes_a_product() {
        let text = after(GEMM, "canonicalize");
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let want = [
            "%y/Transpose: f32[3, 2] = Transpose(%w) {perm = [1, 0]} @y/Transpose",
            "%y/MatMul: f32[2, 2] = MatMul(%x, %y/Transpose) @y/MatMul",
            "%y = Add(%y/MatMul, %b) @y/Add",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn exact_rules_and_chosen_rules() {
        assert!(after(GEMM, "canonicalize{rules=exact}").contains("Gemm("));
        assert!(after(GEMM, "canonicalize{only=gemm-to-matmul}").contains("Gemm("));
        assert!(
            !after(GEMM, "canonicalize{only=[gemm-to-matmul,gemm-to-matmul-add-t]}")
                .contains("Gemm(")
        );
    }

    #[test]
    fn a_newer_operator_needs_a_newer_model() {
        let source = graph(
            "graph @g(%x: f32[2]) -> (%y) {
              %s = Sigmoid(%x)
              %y = Mul(%s, %x)
            }",
        );
        let (graph, record) = run_on(&source, "canonicalize", 17);
        assert!(graph.same_as(&source).is_ok());
        assert!(record.notes[0].message.ends_with("the model has 17"), "{:?}", record.notes);
        let (graph, record) = run_on(&source, "canonicalize", 24);
        assert!(text::print(&graph).contains("Swish(%x)"));
        assert_eq!(record.notes, []);
    }

    #[test]
    fn two_outputs_keep_their_names() {
        let text = "graph @g(%x: f32[2]) -> (%y: f32[2], %z: f32[2], %i: f32[2]) {
          %a = Neg(%x)
          %y = Identity(%a)
          %z = Identity(%a)
          %i = Identity(%x)
        }";
        let after = after(text, "canonicalize");
        assert!(after.contains("%z = Neg(%x)") && after.contains("%y = Identity(%z)"), "{after}");
        assert!(after.contains("%i = Identity(%x)"), "{after}");
        assert_eq!(notes(text, "canonicalize").len(), 2);
    }

    #[test]
    fn every_output_may_become_a_new_node() {
        let text = "graph @g(%x: f32[2]) -> (%y: f32[2], %z: f32[2]) {
          %a: f32[2] = Identity(%x)
          %y = Neg(%a)
          %b: f32[2] = Identity(%x)
          %z = Abs(%b)
        }";
        let after = after(text, "canonicalize");
        assert!(after.contains("%y = Neg(%x)") && after.contains("%z = Abs(%x)"), "{after}");
        assert_eq!(notes(text, "canonicalize"), Vec::<String>::new());
    }

    #[test]
    fn regions_use_constants_around_them() {
        let text = "graph @g(%c: bool[], %x: f32[2]) -> (%y: f32[2]) {
          %one = const f32[] [1.0]
          %y = If(%c) {
            then_branch = graph @t captures(%one: f32[], %x: f32[2]) () -> (%a: f32[2]) {
              %m = Mul(%x, %one)
              %a = Neg(%m)
            },
            else_branch = graph @e captures(%x: f32[2]) () -> (%b: f32[2]) { %b = Neg(%x) }
          }
        }";
        let text = after(text, "canonicalize");
        assert!(text.contains("%a = Neg(%x)") && !text.contains("%one"), "{text}");
    }

    #[test]
    fn matches_are_told() {
        let want = ["'y' is replaced by gemm-to-matmul-add-t"];
        assert_eq!(notes(GEMM, "canonicalize{explain=true}"), want);
    }

    #[test]
    fn a_form_across_the_border_of_regions_is_found() {
        // 50 operators behind the activation, and 40 before it.
        let mut text = "graph @g(%x: f32[2]) -> (%y) {\n".to_owned();
        let mut last = "x".to_owned();
        for idx in 0..90 {
            text.push_str(&format!("%a{idx} = Relu(%{last})\n"));
            last = format!("a{idx}");
            if idx == 20 || idx == 40 {
                text.push_str(&format!("%s{idx} = Sigmoid(%{last})\n"));
                text.push_str(&format!("%m{idx} = Mul(%{last}, %s{idx})\n"));
                last = format!("m{idx}");
            }
        }
        text.push_str(&format!("%y = Abs(%{last}) }}"));
        let text = after(&text, "infer-types,canonicalize");
        assert_eq!(text.matches("Swish(").count(), 2, "{text}");
    }
}
