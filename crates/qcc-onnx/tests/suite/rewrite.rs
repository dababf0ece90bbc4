//! What a written model looks like after a pass has changed the graph.

use std::sync::Arc;

use onnx_protobuf::{GraphProto, Message, ModelProto, ValueInfoProto};
use qcc_ir::{Attr, Opaque, Patch, Scope, Type};
use qcc_onnx::{External, Model, ReadOptions, WriteError, WriteOptions, read, write};
use qcc_tensor::{DType, Tensor};

use crate::build::{Folder, decode, floats, graph_attribute, model, node, product, value};

/// Replaces the product in the graph at `scope` by `my::Product(x, codes)`.
fn rewrite(model: &mut Model, scope: &Scope) {
    let graph = model.graph.at(scope).unwrap();
    let (id, old) = graph
        .nodes()
        .find(|it| it.1.op().is_some_and(|it| it.is_named("MatMul")))
        .map(|(id, node)| (id, node.clone()))
        .unwrap();
    let mut patch = Patch::within("test", scope.clone());
    if let Some(weight) = old.inputs[1].filter(|it| graph.constant(*it).is_some()) {
        patch.at(weight.node);
    }
    let codes = patch.constant("w_codes", Tensor::vector(vec![9u8; 2000]));
    patch.at(id);
    let attrs = vec![("bits".to_owned(), Attr::Int(4))];
    let op = Arc::new(Opaque { domain: "my".into(), name: "Product".into(), attrs });
    let new = patch.op1(&old.name, op, vec![old.inputs[0], Some(codes)], Type::Unknown);
    patch.replace(graph.values_of(id).next().unwrap(), new);
    model.graph.apply(vec![patch]).unwrap();
    assert_eq!(qcc_ir::verify(&model.graph), []);
}

fn rewritten(input: &ModelProto) -> ModelProto {
    let folder = Folder::of(input);
    let mut model = folder.read().unwrap();
    rewrite(&mut model, &Scope::root());
    folder.write(&model);
    decode(&folder.path("out.onnx"))
}

#[test]
fn only_what_changed_differs() {
    let mut input = model(product());
    input.graph.as_mut().unwrap().initializer.push(floats("other", &[1], &[5.0]));
    let output = rewritten(&input);

    let (before, after) = (input.graph.unwrap(), output.graph.unwrap());
    assert_eq!(after.node[1], before.node[1]);
    assert_eq!(after.node[0].op_type(), "Product");
    assert_eq!(after.node[0].name(), "/fc/MatMul");
    assert_eq!(after.node[0].output, ["h"]);
    assert_eq!(after.node[0].doc_string(), "first layer", "documentation is inherited");
    assert_eq!(after.initializer[0].name(), "w_codes", "the new one stands where the old one was");
    assert_eq!(after.initializer[1], before.initializer[1]);
    assert_eq!(after.initializer.len(), 2, "the old weight is gone");
    assert_eq!(after.value_info, before.value_info, "the value kept its name");
    assert!(output.opset_import.iter().any(|it| it.domain() == "my"));
}

#[test]
fn a_file_that_was_read_may_change() {
    let folder = Folder::of(&model(product()));
    let path = folder.path("model.onnx");
    let options = ReadOptions { no_mmap: true, ..ReadOptions::default() };
    let model = read(&path, &options).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::create(&path).unwrap().set_len(length).unwrap();
    folder.write(&model);
    let graph = decode(&folder.path("out.onnx")).graph.unwrap();
    assert_eq!(graph.initializer[0], floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
}

#[test]
fn defaults_that_are_constants_are_no_inputs() {
    let mut graph = product();
    graph.input.push(value("w"));
    let folder = Folder::of(&model(graph));
    let read = |treat_as_constant| {
        let options = ReadOptions { treat_as_constant, ..ReadOptions::default() };
        read(&folder.path("model.onnx"), &options).unwrap()
    };
    assert_eq!(read(false).graph.inputs().len(), 2);
    let mut model = read(true);
    assert_eq!(model.graph.inputs().len(), 1);
    for is_rewritten in [false, true] {
        if is_rewritten {
            rewrite(&mut model, &Scope::root());
        }
        folder.write(&model);
        let graph = decode(&folder.path("out.onnx")).graph.unwrap();
        let inputs: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
        assert_eq!(inputs, ["x"]);
        let has_weight = graph.initializer.iter().any(|it| it.name() == "w");
        assert_eq!(has_weight, !is_rewritten);
    }
}

#[test]
fn before_ir_version_4_new_initializers_are_inputs() {
    let mut graph = product();
    graph.input.push(value("w"));
    let mut input = model(graph);
    input.ir_version = Some(3);
    let names: Vec<String> =
        rewritten(&input).graph.unwrap().input.iter().map(|it| it.name().to_owned()).collect();
    assert_eq!(names, ["x", "w_codes"]);
}

#[test]
fn inputs_follow_the_ir_version_of_the_output() {
    let mut graph = product();
    graph.initializer.push(floats("other", &[1], &[5.0]));
    graph.node.push(node("Relu", &["other"], &["z"]));
    graph.output.push(value("z"));
    graph.input.extend([value("w"), value("other")]);
    let mut input = model(graph);
    input.ir_version = Some(3);
    let folder = Folder::of(&input);
    let mut model = folder.read().unwrap();
    rewrite(&mut model, &Scope::root());
    // A type of 4 bits needs IR version 10, where an input with an initializer may be replaced.
    let graph = &model.graph;
    let codes = graph.nodes().find(|it| it.1.constant().is_some()).unwrap().0;
    let mut patch = Patch::new("test");
    patch.at(codes);
    let nibbles = Tensor::new(DType::U4, vec![4], vec![1u8, 2].into()).unwrap();
    let nibbles = patch.constant("nibbles", nibbles);
    let relu = graph.nodes().find(|it| it.1.outputs[0].name == "z").unwrap().0;
    patch.rewire(relu, 0, nibbles);
    model.graph.apply(vec![patch]).unwrap();
    folder.write(&model);
    let output = decode(&folder.path("out.onnx"));
    assert_eq!(output.ir_version(), 10);
    let graph = output.graph.unwrap();
    let inputs: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    assert_eq!(inputs, ["x"]);
}

#[test]
fn an_operator_of_onnx_brings_its_domain() {
    let mut graph = product();
    graph.node.truncate(1);
    graph.node[0].domain = Some("my".into());
    graph.output = vec![value("h")];
    let mut input = model(graph);
    input.opset_import[0].domain = Some("my".into());
    let folder = Folder::of(&input);
    let mut model = folder.read().unwrap();
    let h = model.graph.outputs()[0];
    let mut patch = Patch::new("test");
    patch.at(h.node);
    let op = Arc::new(Opaque { domain: String::new(), name: "Neg".into(), attrs: vec![] });
    let new = patch.op1("n", op, model.graph[h.node].inputs[..1].to_vec(), Type::Unknown);
    patch.replace(h, new);
    model.graph.apply(vec![patch]).unwrap();
    assert_eq!(folder.write(&model).raised, None);
    let output = decode(&folder.path("out.onnx"));
    let imports: Vec<(&str, i64)> =
        output.opset_import.iter().map(|it| (it.domain(), it.version())).collect();
    assert_eq!(imports, [("my", 17), ("", 13)]);
}

#[test]
fn versions_that_the_runtime_does_not_load_are_told() {
    let warnings = |opset, ir_version| -> Vec<String> {
        let mut input = model(product());
        input.opset_import[0].version = Some(opset);
        input.ir_version = Some(ir_version);
        let all = Folder::of(&input).read().unwrap().warnings;
        all.iter().filter(|it| it.code.name() == "QCC0204").map(|it| it.message.clone()).collect()
    };
    assert!(warnings(26, 13).is_empty());
    assert_eq!(warnings(27, 13), ["ONNX Runtime 1.31 does not load models of opset 27"]);
    let both = "ONNX Runtime 1.31 does not load models of opset 28 and IR version 14";
    assert_eq!(warnings(28, 14), [both]);
}

#[test]
fn a_node_inside_a_branch_is_rewritten_there() {
    let mut inner = node("MatMul", &["x", "w"], &["t"]);
    inner.name = Some("inner".into());
    let branch = GraphProto {
        name: Some("b".into()),
        node: vec![inner, node("Relu", &["t"], &["u"])],
        output: vec![value("u")],
        ..GraphProto::default()
    };
    let other = GraphProto {
        name: Some("o".into()),
        node: vec![node("Relu", &["x"], &["v"])],
        output: vec![value("v")],
        ..GraphProto::default()
    };
    let mut choice = node("If", &["c"], &["y"]);
    choice.name = Some("choice".into());
    choice.attribute =
        vec![graph_attribute("then_branch", branch), graph_attribute("else_branch", other)];
    let input = model(GraphProto {
        name: Some("g".into()),
        node: vec![choice],
        initializer: vec![floats("w", &[2, 2], &[1.0; 4])],
        input: vec![value("x"), value("c")],
        output: vec![value("y")],
        ..GraphProto::default()
    });
    let folder = Folder::of(&input);
    let mut model = folder.read().unwrap();
    let scope = model.graph.scopes()[1].clone();
    rewrite(&mut model, &scope);
    folder.write(&model);
    let graph = decode(&folder.path("out.onnx")).graph.unwrap();
    let before = input.graph.unwrap();
    assert!(graph.initializer.is_empty(), "nothing reads the outer weight any more");
    let branch = graph.node[0].attribute[0].g.as_ref().unwrap();
    assert_eq!(branch.node[0].op_type(), "Product");
    assert_eq!(branch.initializer.len(), 1);
    assert_eq!(graph.node[0].attribute[1], before.node[0].attribute[1]);
    assert_eq!(graph.node[0].name(), "choice");
}

#[test]
fn tensors_move_to_a_data_file_when_asked() {
    let folder = Folder::of(&model(product()));
    let mut model = folder.read().unwrap();
    rewrite(&mut model, &Scope::root());
    let options = WriteOptions { external: External::Always, ..WriteOptions::default() };
    let path = folder.path("big.onnx");
    let written = write(&model.graph, &model.source, &path, &options).unwrap();
    assert_eq!(written.files, [path.clone(), folder.path("big.onnx.data")]);
    let tensor = decode(&path).graph.unwrap().initializer[0].clone();
    assert_eq!(tensor.data_location(), onnx_protobuf::DataLocation::External);
    let read = qcc_onnx::read(&path, &qcc_onnx::ReadOptions::default()).unwrap();
    let codes = read.graph.nodes().find_map(|it| it.1.constant().cloned()).unwrap();
    assert_eq!(codes, Tensor::vector(vec![9u8; 2000]));
    let size: u64 = written.files.iter().map(|it| it.metadata().unwrap().len()).sum();
    assert_eq!(written.size_bytes, size);
}

#[test]
fn metadata_is_added_and_replaced() {
    let mut input = model(product());
    let entry = |key: &str, value: &str| onnx_protobuf::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    input.metadata_props = vec![entry("licence", "MIT"), entry("qcc.bits", "old")];
    input.producer_name = Some("pytorch".into());
    let folder = Folder::of(&input);
    let read = folder.read().unwrap();
    let metadata = vec![("qcc.bits".to_owned(), "4.5".to_owned())];
    let options = WriteOptions { metadata, ..WriteOptions::default() };
    write(&read.graph, &read.source, &folder.path("out.onnx"), &options).unwrap();
    let output = decode(&folder.path("out.onnx"));
    assert_eq!(output.metadata_props, [entry("licence", "MIT"), entry("qcc.bits", "4.5")]);
    assert_eq!(output.producer_name(), "qcc");
    assert_eq!(output.graph.unwrap().encode_to_vec(), input.graph.unwrap().encode_to_vec());
}

#[test]
fn the_input_and_what_exists_are_safe() {
    let folder = Folder::of(&model(product()));
    let read = folder.read().unwrap();
    let force = WriteOptions { overwrite: true, ..WriteOptions::default() };
    let same = write(&read.graph, &read.source, &folder.path("model.onnx"), &force);
    assert!(matches!(same, Err(WriteError::IsInput { .. })));
    std::fs::hard_link(folder.path("model.onnx"), folder.path("link.onnx")).unwrap();
    let link = write(&read.graph, &read.source, &folder.path("link.onnx"), &force);
    assert!(matches!(link, Err(WriteError::IsInput { .. })));

    std::fs::write(folder.path("there.onnx"), "precious").unwrap();
    let options = WriteOptions::default();
    let there = write(&read.graph, &read.source, &folder.path("there.onnx"), &options);
    assert!(matches!(there, Err(WriteError::Exists { .. })));
    assert_eq!(std::fs::read(folder.path("there.onnx")).unwrap(), b"precious");
    let nowhere = write(&read.graph, &read.source, &folder.path("no/such/out.onnx"), &options);
    assert!(matches!(nowhere, Err(WriteError::Io { .. })));
}

#[test]
fn the_compilers_own_operators_have_no_form() {
    let folder = Folder::of(&model(product()));
    let mut read = folder.read().unwrap();
    let weight = read.graph.nodes().find(|it| it.1.constant().is_some()).unwrap().0;
    let value = read.graph.values_of(weight).next().unwrap();
    let mut patch = Patch::new("test");
    patch.at(weight);
    let op = Arc::new(Opaque { domain: "qcc".into(), name: "Quant".into(), attrs: vec![] });
    let new = patch.op1("q", op, vec![Some(value)], Type::Unknown);
    patch.replace(value, new);
    read.graph.apply(vec![patch]).unwrap();
    let options = WriteOptions::default();
    let error = write(&read.graph, &read.source, &folder.path("out.onnx"), &options).unwrap_err();
    assert!(matches!(error, WriteError::NoForm { .. }), "{error}");
    assert!(!folder.path("out.onnx").exists());
}

#[test]
fn branches_read_what_replaced_a_value_outside() {
    let branch = |op: &str, input: &str| GraphProto {
        name: Some(op.into()),
        node: vec![node(op, &[input], &["r"])],
        output: vec![value("r")],
        ..GraphProto::default()
    };
    let mut inner = node("If", &["c"], &["i"]);
    inner.attribute = vec![graph_attribute("then_branch", branch("Neg", "a"))];
    let around = GraphProto {
        name: Some("around".into()),
        node: vec![inner, node("Identity", &["i"], &["o"])],
        output: vec![value("o")],
        ..GraphProto::default()
    };
    let mut outer = node("If", &["c"], &["y"]);
    outer.attribute = vec![
        graph_attribute("then_branch", around),
        graph_attribute("else_branch", branch("Abs", "x")),
    ];
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![node("Identity", &["x"], &["a"]), outer],
        input: vec![value("x"), value("c")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let folder = Folder::of(&model(graph));
    let mut model = folder.read().unwrap();
    let id = model.graph.nodes().find(|it| it.1.op().is_some_and(|it| it.is_named("Identity")));
    let (id, identity) = id.unwrap();
    let x = identity.inputs[0].unwrap();
    let mut patch = Patch::new("test");
    patch.replace(qcc_ir::Value { node: id, slot: 0 }, x);
    model.graph.apply(vec![patch]).unwrap();
    folder.write(&model);
    let graph = decode(&folder.path("out.onnx")).graph.unwrap();
    let around = graph.node[0].attribute[0].g.as_ref().unwrap();
    let inner = around.node[0].attribute[0].g.as_ref().unwrap();
    assert_eq!(inner.node[0].input, ["x"]);
}
