//! `inline-functions`: replaces calls of functions of the model by their bodies.
//!
//! Needs: nothing. Keeps: names and types of what a call gives. Operators that qcc knows itself,
//! those of `ai.qcc`, are no calls unless `domains` names theirs. A call is left alone, with a
//! note, when a function calls itself, when an argument is a graph, and when the body is written
//! for another opset than the model and could not be raised to it. Where the graph is not written
//! to a file, `opsets=any` takes such bodies as well: an operator of the graph has its meaning by
//! itself, whatever opset it was read with.

mod expand;

use std::collections::BTreeSet;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};

use expand::{Calls, Expand, label};

/// The row of the table.
pub static INFO: PassInfo = PassInfo {
    name: "inline-functions",
    summary: "replace calls of functions of the model by their bodies",
    options: &[
        OptionInfo {
            name: "domains",
            kind: OptionKind::Text,
            default: "",
            help: "whose functions, [a,b]; all but those that qcc knows itself when empty",
        },
        OptionInfo {
            name: "opsets",
            kind: OptionKind::Choice(&["same", "any"]),
            default: "same",
            help: "whether a body must be written for the opset of the model",
        },
    ],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let functions = graph.functions();
    let mut patches = Vec::new();
    if functions.is_empty() {
        return Ok(patches);
    }
    let domains = ctx.options.text("domains").to_owned();
    let domains: BTreeSet<&str> =
        domains.trim_matches(['[', ']']).split([',', ' ']).filter(|it| !it.is_empty()).collect();
    let calls = Calls {
        functions,
        domains: &domains,
        opset: ctx.session.opset,
        any_opset: ctx.options.text("opsets") == "any",
    };
    let mut expand = Expand::new(&calls);
    let mut told = BTreeSet::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        for id in inner.topo() {
            ctx.check_cancelled()?;
            let Some(node) = inner.node(id) else { continue };
            let Some(function) = node.op().and_then(|it| calls.callee(it)) else { continue };
            let mut patch = Patch::within(INFO.name, scope.clone());
            patch.at(id);
            match expand.call(&mut patch, function, node) {
                Ok(results) => {
                    for (value, result) in inner.values_of(id).zip(results) {
                        if inner.n_uses(value) > 0 {
                            patch.replace(value, result);
                        }
                    }
                    patch.drop_unused(id);
                    patches.push(patch);
                    ctx.count("inline-functions.calls", 1);
                }
                Err(why) => {
                    let text = format!("calls of '{}' stay: {why}", function.name);
                    if told.insert(text.clone()) {
                        ctx.note(Diagnostic::note(codes::QCC0201, text).at(label(node)));
                    }
                }
            }
        }
    }
    Ok(patches)
}

#[cfg(test)]
mod tests {
    use qcc_ir::verify;

    use crate::testing::{after, graph, notes, run_on};

    #[test]
    fn a_call_becomes_its_body() {
        let text = "function my::F {} graph @F(%a, %b) -> (%r) {
          %s = Add(%a, %b)
          %r = Neg(%s)
        }
        graph @g(%x: f32[2]) -> (%y: f32[2], %z) {
          %y = my::F(%x, %x) @call
          %z = my::F(%y, %x) @again
        }";
        let text = after(text, "inline-functions");
        assert!(text.contains("%call/s = Add(%x, %x)"), "{text}");
        assert!(text.contains("%y = Neg(%call/s)"), "{text}");
        assert!(text.contains("%again/s = Add(%y, %x)"), "{text}");
        assert!(text.contains("%z = Neg(%again/s)"), "{text}");
    }

    #[test]
    fn arguments_defaults_and_absent_ones() {
        let text = "function my::F {alpha, beta = 2.0, gamma} graph @F(%x) -> (%r) {
          %a = Elu(%x) {alpha = ref alpha}
          %b = Elu(%a) {alpha = ref beta}
          %r = Elu(%b) {alpha = ref gamma}
        }
        graph @g(%x: f32[2]) -> (%y: f32[2]) {
          %y = my::F(%x) {alpha = 0.5}
        }";
        let text = after(text, "inline-functions");
        assert!(text.contains("Elu(%x) {alpha = 0.5}"), "{text}");
        assert!(text.contains("Elu(%y/a) {alpha = 2.0}"), "{text}");
        assert!(text.contains("%y = Elu(%y/b)"), "{text}");
    }

    #[test]
    fn calls_in_bodies_pass_their_arguments_on() {
        let text = "function my::F {to} graph @F(%x) -> (%r) { %r = my::G(%x) {alpha = ref to} @g }
        function my::G {alpha} graph @G(%x) -> (%r) {
          %c = Constant() {value_float = ref alpha}
          %r = Mul(%x, %c)
        }
        graph @g(%x: f32[2]) -> (%y: f32[2]) { %y = my::F(%x) {to = 3.0} @f }";
        let text = after(text, "inline-functions");
        assert!(text.contains("%f/g/c = const f32[] [3.0]"), "{text}");
        assert!(text.contains("%y = Mul(%x, %f/g/c)"), "{text}");
    }

    #[test]
    fn absent_operands_stay_absent() {
        let text = "function my::F {} graph @F(%x, %low, %high) -> (%r) {
          %r = Clip(%x, %low, %high)
        }
        graph @g(%x: f32[2], %h: f32[]) -> (%y: f32[2], %z: f32[2]) {
          %y = my::F(%x, _, %h)
          %z = my::F(%x)
        }";
        let text = after(text, "inline-functions");
        assert!(text.contains("%y = Clip(%x, _, %h)"), "{text}");
        assert!(text.contains("%z = Clip(%x, _, _)"), "{text}");
    }

    #[test]
    fn what_a_body_hands_through_keeps_its_names() {
        let text = "function my::F {} graph @F(%x) -> (%x, %r, %r) { %r = Neg(%x) }
        graph @g(%x: f32[2]) -> (%a, %b, %c) { %a, %b, %c = my::F(%x) }";
        let text = after(text, "inline-functions");
        assert!(text.contains("%a = Identity(%x)"), "{text}");
        assert!(text.contains("%c = Identity(%b)"), "{text}");
    }

    #[test]
    fn branches_capture_operands_and_values_of_the_body() {
        let text = "function my::F {k} graph @F(%c, %x, %w) -> (%r) {
          %n = Neg(%x)
          %r = If(%c) {
            then_branch = graph @t captures(%n, %x, %w) () -> (%a) {
              %k = Constant() {value_float = ref k}
              %m = Mul(%n, %k)
              %s = my::G(%m, %x)
              %a = Clip(%s, %w)
            },
            else_branch = graph @e captures(%x) () -> (%a) { %a = Abs(%x) }
          }
        }
        function my::G {} graph @G(%a, %b) -> (%r) { %r = Add(%a, %b) }
        graph @g(%c: bool[], %x: f32[2]) -> (%y: f32[2], %z: f32[2]) {
          %y = my::F(%c, %x) {k = 2.0}
          %z = my::F(%c, %y) {k = 3.0}
        }";
        let source = graph(text);
        let (inlined, record) = run_on(&source, "inline-functions,infer-types", 28);
        assert_eq!(verify(&inlined), []);
        assert_eq!(record.notes, []);
        let text = after(text, "inline-functions");
        let text = text.split_once("graph @g").unwrap().1;
        assert_eq!(text.matches("then_branch").count(), 2, "{text}");
        assert!(!text.contains("my::"), "{text}");
        assert!(text.contains("const f32[] [2.0]") && text.contains("const f32[] [3.0]"), "{text}");
        assert!(text.contains("Clip(%y/s/r, _)"), "{text}");
    }

    #[test]
    fn one_operand_for_two_is_captured_once() {
        let text = "function my::F {} graph @F(%c, %x, %w) -> (%r) {
          %r = If(%c) {
            then_branch = graph @t captures(%x, %w) () -> (%a) { %a = Mul(%x, %w) },
            else_branch = graph @e captures(%x) () -> (%b) { %b = Abs(%x) }
          }
        }
        graph @g(%c: bool[], %x: f32[2]) -> (%y: f32[2]) { %y = my::F(%c, %x, %x) }";
        let (inlined, _) = run_on(&graph(text), "inline-functions", 28);
        let holder = &inlined[inlined.outputs()[0].node];
        assert_eq!(holder.regions[0].captures.len(), 1);
        assert_eq!(verify(&inlined), []);
    }

    #[test]
    fn what_cannot_be_inlined_stays_with_a_reason() {
        let text = "function my::A {} graph @A(%x) -> (%r) { %r = my::B(%x) }
        function my::B {} graph @B(%x) -> (%r) { %r = my::A(%x) }
        function my::Old {} imports {\"\" = 11} graph @Old(%x) -> (%r) { %r = Neg(%x) }
        graph @g(%x: f32[2]) -> (%y, %z, %u) {
          %y = my::A(%x)
          %z = my::Old(%x)
          %u, %v = my::Old(%x)
        }";
        assert_eq!(
            notes(text, "inline-functions"),
            [
                "calls of 'A' stay: 'A' calls itself",
                "calls of 'Old' stay: its body is written for opset 11, the model for 28",
            ]
        );
        assert_eq!(
            notes(text, "inline-functions{opsets=any}"),
            [
                "calls of 'A' stay: 'A' calls itself",
                "calls of 'Old' stay: a call has 2 results, the function 1",
            ]
        );
    }

    #[test]
    fn domains_are_chosen() {
        let text = "function my::F {} graph @F(%x) -> (%r) { %r = Neg(%x) }
        function other::F {} graph @F(%x) -> (%r) { %r = Abs(%x) }
        graph @g(%x: f32[2]) -> (%y, %z) {
          %y = my::F(%x)
          %z = other::F(%x)
        }";
        let text = after(text, "inline-functions{domains=[other]}");
        assert!(text.contains("%y = my::F(%x)") && text.contains("%z = Abs(%x)"), "{text}");
    }

    #[test]
    fn calls_are_nested_to_a_depth() {
        let mut text = String::new();
        for idx in 0..100 {
            let next = if idx == 99 { "Neg".to_owned() } else { format!("my::F{}", idx + 1) };
            text.push_str(&format!(
                "function my::F{idx} {{}} graph @F(%x) -> (%r) {{ %r = {next}(%x) }}\n"
            ));
        }
        let few = format!("{text} graph @g(%x: f32[2]) -> (%y) {{ %y = my::F50(%x) }}");
        assert!(after(&few, "inline-functions").contains("%y = Neg(%x)"));
        text.push_str("graph @g(%x: f32[2]) -> (%y) { %y = my::F0(%x) }");
        let want = "calls of 'F0' stay: its body is nested deeper than 64";
        assert_eq!(notes(&text, "inline-functions"), [want]);
    }

    /// 2^40 operators, had they room.
    #[test]
    fn bodies_that_explode_are_refused() {
        let mut text = String::new();
        for idx in 0..40 {
            let next = if idx == 39 { "Neg".to_owned() } else { format!("my::F{}", idx + 1) };
            text.push_str(&format!(
                "function my::F{idx} {{}} graph @F(%x) -> (%r) {{
                  %a = {next}(%x)
                  %r = {next}(%a)
                }}\n"
            ));
        }
        text.push_str("graph @g(%x: f32[2]) -> (%y) { %y = my::F0(%x) }");
        let notes = notes(&text, "inline-functions");
        assert_eq!(notes, ["calls of 'F0' stay: bodies have more than 262144 nodes"]);
    }
}
