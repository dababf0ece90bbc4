//! Passes and a graph for the tests of this crate.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{
    Attrs, EvalCx, EvalError, Graph, GraphBuilder, Input, Kind, NodeId, Op, Output, Patch, Type,
    TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::{
    Ctx, Instrument, OptionInfo, OptionKind, Outcome, PassError, PassInfo, Pipeline, Record,
    Session, run,
};

/// One operand, one result of the same type.
#[derive(Debug)]
struct Unary(&'static str);

impl Op for Unary {
    fn name(&self) -> &str {
        self.0
    }

    fn attrs(&self) -> Attrs {
        Attrs::default()
    }

    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(inputs.iter().flatten().map(|it| it.ty.clone()).collect())
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        Err(EvalError::unsupported(self, ""))
    }
}

/// `x -> Neg -> a -> Neg -> b -> Neg -> y`.
pub(crate) fn chain() -> Graph {
    let mut builder = GraphBuilder::new("chain");
    let ty = Type::tensor(DType::F32, [2usize, 3]);
    let mut value = builder.input("x", ty.clone(), None);
    for name in ["a", "b", "y"] {
        let outputs = vec![Output::new(name, ty.clone())];
        let node = builder.op("", Arc::new(Unary("Neg")), vec![Some(value)], outputs);
        value = Value { node, slot: 0 };
    }
    builder.set_outputs(vec![value]);
    builder.finish().unwrap()
}

/// How a run over [`chain`] ends, its graph and its record.
pub(crate) fn run_text(
    text: &str,
    instruments: &mut [Box<dyn Instrument + '_>],
) -> (Result<Outcome, Box<Diagnostic>>, Graph, Record) {
    let (mut graph, mut record) = (chain(), Record::default());
    let pipeline = Pipeline::parse(text, TABLE, &[]).unwrap();
    let end = run(&mut graph, &pipeline, &Session::default(), &mut record, instruments);
    (end, graph, record)
}

/// Names of the operators of a graph, in order.
pub(crate) fn ops(graph: &Graph) -> Vec<&str> {
    let name = |id: NodeId| match &graph[id].kind {
        Kind::Op(op) => Some(op.name()),
        _ => None,
    };
    graph.topo().into_iter().filter_map(name).collect()
}

const fn pass(
    name: &'static str,
    run: fn(&Graph, &mut Ctx<'_>) -> Result<Vec<Patch>, PassError>,
) -> PassInfo {
    PassInfo { name, summary: "", options: &[], run }
}

/// Takes an option of each kind and does nothing.
pub(crate) static KNOBS: PassInfo = PassInfo {
    name: "knobs",
    summary: "",
    options: &[
        knob("bits", OptionKind::Int { min: 2, max: 8 }, "4"),
        knob("damp", OptionKind::Float { min: 0.0, max: f64::MAX }, "0.01"),
        knob("lr", OptionKind::Float { min: f64::MIN, max: f64::MAX }, "1/iters"),
        knob("fast", OptionKind::Bool, "false"),
        knob("layout", OptionKind::Choice(&["nbits", "qdq"]), "nbits"),
        knob("match", OptionKind::Text, ""),
        knob("widths", OptionKind::Ints { min: 2, max: 8 }, "[2,4,8]"),
    ],
    run: |_, _| Ok(Vec::new()),
};

const fn knob(name: &'static str, kind: OptionKind, default: &'static str) -> OptionInfo {
    OptionInfo { name, kind, default, help: "" }
}

/// Replaces every `Neg` by an `Abs`, one patch each, from the output to the input.
pub(crate) static SWAP: PassInfo = pass("swap", |graph, ctx| {
    let mut patches = Vec::new();
    for id in graph.topo().into_iter().rev() {
        let Kind::Op(op) = &graph[id].kind else { continue };
        if op.is_named("Neg") {
            let old = Value { node: id, slot: 0 };
            let mut patch = Patch::new("swap");
            patch.at(id);
            let ty = graph.ty(old).clone();
            let new = patch.op1("abs", Arc::new(Unary("Abs")), graph[id].inputs.clone(), ty);
            patch.replace(old, new);
            patches.push(patch);
            ctx.count("swap.swapped", 1);
        }
    }
    Ok(patches)
});

/// Declines.
pub(crate) static NOTHING: PassInfo = pass("nothing", |_, ctx| {
    ctx.note(Diagnostic::note(codes::QCC0602, "nothing to do"));
    Ok(Vec::new())
});

/// Swaps `Neg` for `Abs`, and claims a type of the input that contradicts what is made of it.
pub(crate) static LIE: PassInfo = pass("lie", |graph, ctx| {
    let mut patches = (SWAP.run)(graph, ctx)?;
    patches.push(retype(graph, 7));
    Ok(patches)
});

/// Claims a wrong type and takes it back.
pub(crate) static WAVER: PassInfo =
    pass("waver", |graph, _| Ok(vec![retype(graph, 7), retype(graph, 3)]));

fn retype(graph: &Graph, columns: usize) -> Patch {
    let mut patch = Patch::new("lie");
    for &node in graph.inputs() {
        patch.set_type(Value { node, slot: 0 }, Type::tensor(DType::F32, [2, columns]));
    }
    patch
}

/// Replaces a value by one of another type.
pub(crate) static CLASH: PassInfo = pass("clash", |graph, _| {
    let mut patch = Patch::new("clash");
    let new = patch.constant("c", Tensor::vector(vec![1.0f32]));
    for &old in graph.outputs() {
        patch.replace(old, new);
    }
    Ok(vec![patch])
});

/// Fails by what the user gave.
pub(crate) static REFUSE: PassInfo =
    pass("refuse", |_, _| Err(Diagnostic::error(codes::QCC0402, "no such input 'z'").into()));

/// Panics.
pub(crate) static PANIC: PassInfo = pass("panic", |graph, _| panic!("at {} nodes", graph.len()));

/// All of them.
pub(crate) static TABLE: &[&PassInfo] =
    &[&KNOBS, &SWAP, &NOTHING, &LIE, &WAVER, &CLASH, &REFUSE, &PANIC];
