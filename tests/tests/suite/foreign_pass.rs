//! A pass of another crate, in a pipeline with those of qcc.

use qcc::Compiler;
use qcc_ir::{Graph, Patch, Value};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_tests::Bench;

/// Turns `Sigmoid` nodes into `Relu`: wrong, but easy to see.
const INFO: PassInfo = PassInfo {
    name: "sigmoid-to-relu",
    summary: "replace Sigmoid by Relu",
    options: &[OptionInfo {
        name: "limit",
        kind: OptionKind::Int { min: 0, max: 1000 },
        default: "1000",
        help: "at most so many",
    }],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let limit = usize::try_from(ctx.options.int("limit")).unwrap_or(usize::MAX);
    let mut patches = Vec::new();
    for id in graph.topo() {
        let node = &graph[id];
        if patches.len() == limit || !node.op().is_some_and(|it| it.is_named("Sigmoid")) {
            continue;
        }
        let relu = qcc_ops::parse("", "Relu", ctx.session.opset, Vec::new())
            .map_err(|it| PassError::internal(it.to_string()))?;
        let old = Value { node: id, slot: 0 };
        let mut patch = Patch::new(INFO.name);
        patch.at(id);
        let new = patch.op1(&node.name, relu, node.inputs.clone(), graph.ty(old).clone());
        patch.replace(old, new);
        patches.push(patch);
    }
    ctx.count("sigmoid-to-relu.replaced", patches.len() as u64);
    Ok(patches)
}

#[test]
fn runs_among_the_passes_of_qcc() {
    let bench = Bench::new();
    let text = "infer-types,sigmoid-to-relu{limit=2},select,rtn,pack,to-nbits";
    let compiler = Compiler::new().with_pass(&INFO).pipeline(text);
    let output = compiler.run(bench.model()).unwrap();
    assert_eq!(output.record().counters["sigmoid-to-relu.replaced"], 2);
    assert!(output.pipeline().contains("sigmoid-to-relu{limit=2}"));
    let relus =
        output.graph().nodes().filter(|it| it.1.op().is_some_and(|it| it.is_named("Relu"))).count();
    assert_eq!(relus, 2);
}

#[test]
fn is_not_known_unless_it_is_added() {
    let bench = Bench::new();
    let error = Compiler::new().pipeline("sigmoid-to-relu").run(bench.model()).unwrap_err();
    assert_eq!(error.code().name(), "QCC0301");
}
