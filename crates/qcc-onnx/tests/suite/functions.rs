//! Functions of a model: how they are read, and what is written when calls are gone.

use std::sync::Arc;

use onnx_protobuf::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, Message, ModelProto, NodeProto,
    OperatorSetIdProto,
};
use qcc_ir::{Attr, GraphBuilder, OpRef, Opaque, Output, Patch, Region, Type, Value, verify};

use crate::build::{Folder, decode, model, node, value};

fn reference(name: &str, to: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ref_attr_name: Some(to.into()),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    }
}

fn axes() -> AttributeProto {
    AttributeProto {
        name: Some("axes".into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: vec![-1],
        ..AttributeProto::default()
    }
}

fn function(name: &str, opset: i64, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        domain: Some("my".into()),
        name: Some(name.into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
        ..FunctionProto::default()
    }
}

fn call(name: &str, overload: &str) -> NodeProto {
    let overload = (!overload.is_empty()).then(|| overload.to_owned());
    NodeProto { domain: Some("my".into()), overload, ..node(name, &["x"], &["y"]) }
}

/// A model of opset 18 with one call.
fn with(functions: Vec<FunctionProto>, call: NodeProto) -> ModelProto {
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![call],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let mut model = model(graph);
    model.opset_import = vec![
        OperatorSetIdProto { domain: None, version: Some(18) },
        OperatorSetIdProto { domain: Some("my".into()), version: Some(1) },
    ];
    model.functions = functions;
    model
}

#[test]
fn bodies_are_read_and_raised() {
    let mut elu = node("Elu", &["x"], &["e"]);
    elu.attribute = vec![reference("alpha", "slope")];
    let mut mean = node("ReduceMean", &["e"], &["y"]);
    mean.attribute = vec![axes()];
    let mut f = function("F", 17, vec![elu, mean.clone()]);
    f.attribute = vec!["slope".into()];
    f.overload = Some("mean".into());
    let mut old = node("Softmax", &["x"], &["y"]);
    old.attribute = Vec::new();
    let functions = vec![f, function("Old", 11, vec![old])];
    let bytes = with(functions, call("F", "mean"));
    let folder = Folder::of(&bytes);
    assert_eq!(folder.round_trip(), bytes.encode_to_vec());

    let graph = folder.read().unwrap().graph;
    let (_, node) = graph.nodes().find(|it| it.1.op().is_some()).unwrap();
    let op = node.op().unwrap();
    let f = graph.functions().get(op.domain(), op.name()).unwrap();
    assert_eq!((f.name.as_str(), f.version("")), ("F:mean", Some(18)));
    assert_eq!(f.attrs, [("slope".to_owned(), None)]);
    let ops: Vec<&OpRef> = f.body.topo().iter().filter_map(|&it| f.body[it].op()).collect();
    assert_eq!(ops[0].attrs(), [("alpha".to_owned(), Attr::Ref("slope".into()))]);
    let (_, mean) =
        f.body.nodes().find(|it| it.1.op().is_some_and(|it| it.is_named("ReduceMean"))).unwrap();
    assert_eq!(mean.inputs.len(), 2, "axes are an operand since opset 18");
    // Softmax meant something else.
    assert_eq!(graph.functions().get("my", "Old").unwrap().version(""), Some(11));
}

#[test]
fn a_body_that_makes_no_sense_is_carried() {
    let broken = function("F", 18, vec![node("Neg", &["nowhere"], &["y"])]);
    let bytes = with(vec![broken], call("F", ""));
    let folder = Folder::of(&bytes);
    let model = folder.read().unwrap();
    assert!(model.graph.functions().is_empty());
    assert!(model.warnings.iter().any(|it| it.message.contains("'my::F' is carried unread")));
    assert_eq!(folder.round_trip(), bytes.encode_to_vec());
}

#[test]
fn functions_go_with_their_last_call() {
    let inner = function("Inner", 18, vec![node("Neg", &["x"], &["y"])]);
    let outer = function("Outer", 18, vec![call("Inner", "")]);
    let unused = function("Unused", 18, vec![node("Abs", &["x"], &["y"])]);
    let folder = Folder::of(&with(vec![inner, outer, unused], call("Outer", "")));
    let mut model = folder.read().unwrap();
    let old = model.graph.outputs()[0];
    let x = model.graph[old.node].inputs[0];

    // A branch, which has no record in the source, with a value from outside.
    let op = |name: &str| qcc_ops::parse("", name, 18, Vec::new()).unwrap();
    let mut branch = GraphBuilder::new("then");
    let seen = branch.capture("x", Type::Unknown);
    let neg = branch.op("n", op("Neg"), vec![Some(seen)], vec![Output::new("y", Type::Unknown)]);
    branch.set_outputs(vec![Value { node: neg, slot: 0 }]);
    let graph = branch.finish().unwrap();
    let mut patch = Patch::new("test");
    patch.at(old.node);
    let captures = vec![x.unwrap()];
    let region = Region { attr: "then_branch".into(), graph, captures };
    let choice: OpRef =
        Arc::new(Opaque { domain: String::new(), name: "If".into(), attrs: Vec::new() });
    let outputs = vec![Output::new("z", Type::Unknown)];
    let new = patch.op_with_regions("if", choice, vec![x], outputs, vec![region]);
    patch.replace(old, Value { node: new, slot: 0 });
    model.graph.apply(vec![patch]).unwrap();
    assert_eq!(verify(&model.graph), []);
    folder.write(&model);

    let out = decode(&folder.path("out.onnx"));
    let names: Vec<&str> = out.functions.iter().map(FunctionProto::name).collect();
    assert_eq!(names, ["Unused"], "nobody called it before");
    let graph = out.graph.unwrap();
    let attribute = &graph.node[0].attribute[0];
    assert_eq!((attribute.name(), graph.node[0].output[0].as_str()), ("then_branch", "y"));
    let branch = attribute.g.as_ref().unwrap();
    assert_eq!(branch.node[0].input, ["x"], "by its name outside");
    assert_eq!(branch.output[0].name(), branch.node[0].output[0]);
    assert_ne!(branch.output[0].name(), "y", "the name is taken outside");
    assert!(branch.input.is_empty());
}
