//! Tensors in data files, when the model is written elsewhere.

use onnx_protobuf::{
    AttributeProto, AttributeType, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto,
};
use qcc_onnx::{External, ReadOptions, WriteOptions, read, write};

use crate::build::{Folder, decode, graph_attribute, model, node, product, value};

/// Four floats that start at `offset` of the file `w.bin`.
fn elsewhere(name: &str, offset: u64) -> TensorProto {
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    TensorProto {
        dims: vec![2, 2],
        data_type: Some(1),
        name: Some(name.into()),
        external_data: vec![entry("location", "w.bin"), entry("offset", &offset.to_string())],
        data_location: Some(1),
        ..TensorProto::default()
    }
}

fn constant(output: &str, offset: u64) -> NodeProto {
    let attribute = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(elsewhere("", offset)),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![attribute], ..node("Constant", &[], &[output]) }
}

/// A model with data of an initializer, of attributes, of a branch and of a function in a file.
fn with_data() -> Folder {
    let mut graph = product();
    graph.initializer[0] = elsewhere("w", 0);
    graph.node.insert(0, constant("c", 16));
    graph.node.push(node("Add", &["y", "c"], &["z"]));
    let mut branch = product();
    (branch.input, branch.value_info) = (Vec::new(), Vec::new());
    branch.node = vec![constant("d", 32), node("Mul", &["d", "inner"], &["e"])];
    branch.initializer = vec![elsewhere("inner", 48)];
    branch.output = vec![value("e")];
    let branches = ["then_branch", "else_branch"].map(|name| graph_attribute(name, branch.clone()));
    graph.node.push(NodeProto { attribute: branches.into(), ..node("If", &["yes"], &["f"]) });
    let called = NodeProto { domain: Some("own".into()), ..node("Shift", &["z"], &["s"]) };
    graph.node.push(called);
    let mut condition = value("yes");
    if let Some(onnx_protobuf::type_proto::Value::TensorType(it)) =
        condition.r#type.as_mut().and_then(|it| it.value.as_mut())
    {
        it.elem_type = Some(9);
    }
    graph.input.push(condition);
    graph.output = vec![value("f"), value("s")];
    let import = |domain: Option<&str>, version| OperatorSetIdProto {
        domain: domain.map(str::to_owned),
        version: Some(version),
    };
    let function = FunctionProto {
        name: Some("Shift".into()),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![constant("k", 64), node("Add", &["a", "k"], &["b"])],
        opset_import: vec![import(None, 17)],
        ..FunctionProto::default()
    };
    let mut model = model(graph);
    model.opset_import.push(import(Some("own"), 1));
    model.functions = vec![function];
    let folder = Folder::of(&model);
    let bytes: Vec<u8> = (0u8..20).flat_map(|it| f32::from(it).to_le_bytes()).collect();
    std::fs::write(folder.path("w.bin"), bytes).unwrap();
    folder
}

/// All tensors of a model whose bytes lie elsewhere, by their locations.
fn locations(model: &ModelProto) -> Vec<String> {
    fn of(nodes: &[NodeProto], found: &mut Vec<TensorProto>) {
        for it in nodes.iter().flat_map(|it| &it.attribute) {
            found.extend(it.t.clone());
            if let Some(graph) = &it.g {
                found.extend(graph.initializer.clone());
                of(&graph.node, found);
            }
        }
    }
    let graph = model.graph.as_ref().unwrap();
    let mut found = graph.initializer.clone();
    of(&graph.node, &mut found);
    model.functions.iter().for_each(|it| of(&it.node, &mut found));
    let entries = found.iter().flat_map(|it| &it.external_data);
    entries.filter(|it| it.key() == "location").map(|it| it.value().to_owned()).collect()
}

#[test]
fn nothing_is_left_behind_in_data_files_of_the_input() {
    let folder = with_data();
    let read_in = folder.read().unwrap();
    let text = qcc_ir::text::print(&read_in.graph);
    let metadata = vec![("qcc.version".to_owned(), "1".to_owned())];
    for (external, expected) in [
        (External::Auto, &["out.onnx", "out.onnx.data"][..]),
        (External::Always, &["out.onnx", "out.onnx.data"]),
        (External::Never, &["out.onnx"]),
    ] {
        let out = tempfile::TempDir::new().unwrap();
        let path = out.path().join("out.onnx");
        let options = WriteOptions { external, metadata: metadata.clone(), ..Default::default() };
        write(&read_in.graph, &read_in.source, &path, &options).unwrap();
        let mut files: Vec<String> = std::fs::read_dir(out.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, expected, "{external:?}");
        let locations = locations(&decode(&path));
        assert!(locations.iter().all(|it| it == "out.onnx.data"), "{external:?}: {locations:?}");
        let again = read(&path, &ReadOptions::default()).unwrap();
        assert_eq!(qcc_ir::text::print(&again.graph), text, "{external:?}");
    }
}

#[test]
fn what_does_not_change_keeps_its_data_files_unless_one_file_is_asked_for() {
    let folder = with_data();
    let read_in = folder.read().unwrap();
    for (external, count) in [(External::Auto, 2), (External::Never, 1)] {
        let out = tempfile::TempDir::new().unwrap();
        let path = out.path().join("out.onnx");
        let options = WriteOptions { external, ..WriteOptions::default() };
        write(&read_in.graph, &read_in.source, &path, &options).unwrap();
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), count, "{external:?}");
        assert!(read(&path, &ReadOptions::default()).is_ok());
    }
}
