//! What is read, what is refused, and what survives without a change.

use onnx_protobuf::{GraphProto, Message, StringStringEntryProto, TensorProto};
use proptest::prelude::*;

use crate::build::{Folder, decode, floats, graph_attribute, model, node, product, value};

fn check_same(model: &onnx_protobuf::ModelProto) {
    let folder = Folder::of(model);
    assert_eq!(folder.round_trip(), model.encode_to_vec());
}

fn check_refused(graph: GraphProto, want: &str) {
    let error = Folder::of(&model(graph)).read().unwrap_err().to_string();
    assert!(error.contains(want), "{error:?} does not say {want:?}");
}

#[test]
fn a_model_comes_back_byte_for_byte() {
    check_same(&model(product()));
}

#[test]
fn unknown_fields_come_back_and_are_named() {
    let mut bytes = model(product()).encode_to_vec();
    bytes.extend_from_slice(&[0xfa, 0x3f, 3, b'n', b'e', b'w']); // field 1023
    let folder = Folder::with(&bytes);
    let read = folder.read().unwrap();
    assert!(read.warnings[0].message.contains("field 1023"), "{}", read.warnings[0]);
    assert_eq!(folder.round_trip(), bytes);
}

#[test]
fn nodes_out_of_order_are_kept_with_a_warning() {
    let mut graph = product();
    graph.node.reverse();
    let folder = Folder::of(&model(graph));
    assert!(folder.read().unwrap().warnings[0].message.contains("topological order"));
    folder.round_trip();
    // A graph that is written anew is written in order.
    let ops: Vec<_> = decode(&folder.path("out.onnx")).graph.unwrap().node;
    assert_eq!(ops[0].op_type(), "MatMul");
}

#[test]
fn initializers_that_may_be_overridden_are_not_constants() {
    let mut graph = product();
    graph.input.push(value("w"));
    let folder = Folder::of(&model(graph.clone()));
    let read = folder.read().unwrap();
    assert_eq!(read.graph.inputs().len(), 2);
    folder.round_trip();

    let mut old = model(graph);
    old.ir_version = Some(3);
    let read = Folder::of(&old).read().unwrap();
    assert_eq!(read.graph.inputs().len(), 1, "before IR version 4 they are constants");
    check_same(&old);
}

#[test]
fn old_initializers_that_are_no_inputs_are_constants_with_a_warning() {
    let mut old = model(product());
    old.ir_version = Some(3);
    let read = Folder::of(&old).read().unwrap();
    assert_eq!(read.graph.inputs().len(), 1);
    assert_eq!(read.warnings.len(), 1);
    let text = "1 initializers are not among the inputs of the model: 'w'";
    assert_eq!(read.warnings[0].message, text);
    check_same(&old);

    for (ir_version, is_listed) in [(3, true), (4, false)] {
        let mut good = model(product());
        good.ir_version = Some(ir_version);
        if let Some(graph) = good.graph.as_mut().filter(|_| is_listed) {
            graph.input.push(value("w"));
        }
        assert!(Folder::of(&good).read().unwrap().warnings.is_empty(), "{ir_version}");
    }
}

#[test]
fn keys_of_metadata_that_come_twice_are_kept_with_a_warning() {
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    let mut twice = model(product());
    twice.metadata_props = vec![entry("a", "1"), entry("b", "2"), entry("a", "3")];
    let read = Folder::of(&twice).read().unwrap();
    assert_eq!(read.warnings.len(), 1);
    assert_eq!(read.warnings[0].message, "keys of the metadata come more than once: 'a'");
    check_same(&twice);
    twice.metadata_props.pop();
    assert!(Folder::of(&twice).read().unwrap().warnings.is_empty());
}

#[test]
fn a_branch_reads_values_from_outside() {
    let branch = |op: &str| GraphProto {
        name: Some("b".into()),
        node: vec![node(op, &["x", "w"], &["t"])],
        output: vec![value("t")],
        ..GraphProto::default()
    };
    let mut choice = node("If", &["c"], &["y"]);
    choice.attribute = vec![
        graph_attribute("then_branch", branch("MatMul")),
        graph_attribute("else_branch", branch("Add")),
    ];
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![choice],
        initializer: vec![floats("w", &[2, 2], &[1.0; 4])],
        input: vec![value("x"), value("c")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    check_same(&model(graph.clone()));
    let read = Folder::of(&model(graph)).read().unwrap();
    let holder = read.graph.nodes().find(|it| !it.1.regions.is_empty()).unwrap().1;
    assert_eq!(holder.regions.len(), 2);
    assert_eq!(holder.regions[0].captures, holder.regions[1].captures);
}

#[test]
fn the_order_of_a_branch_does_not_depend_on_what_it_captures() {
    let mut add = node("Add", &["x", "w"], &["t"]);
    add.name = Some("first".into());
    let branch = GraphProto {
        name: Some("b".into()),
        node: vec![node("Constant", &[], &["k"]), add, node("Identity", &["k"], &["u"])],
        output: vec![value("t"), value("u")],
        ..GraphProto::default()
    };
    let mut choice = node("If", &["c"], &["y", "z"]);
    choice.attribute = vec![graph_attribute("then_branch", branch)];
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![choice],
        input: vec![value("x"), value("c"), value("w")],
        output: vec![value("y"), value("z")],
        ..GraphProto::default()
    };
    check_same(&model(graph));
}

#[test]
fn graphs_that_break_a_rule_are_refused() {
    let mut twice = product();
    twice.node.push(node("Relu", &["x"], &["h"]));
    check_refused(twice, "'h' is defined twice");

    let mut missing = product();
    missing.node[1].input[0] = "nothing".into();
    check_refused(missing, "reads 'nothing'");

    let mut cycle = product();
    cycle.node[0].input[0] = "y".into();
    check_refused(cycle, "cycle through");

    let mut output = product();
    output.output.push(value("q"));
    check_refused(output, "output 'q'");

    let mut short = product();
    short.initializer[0].dims = vec![2, 3];
    check_refused(short, "needs 24 bytes");

    let mut huge = product();
    huge.initializer[0].dims = vec![i64::MAX, i64::MAX];
    check_refused(huge, "overflows");

    let mut negative = product();
    negative.initializer[0].dims = vec![-1, 4];
    check_refused(negative, "negative");
}

#[test]
fn typed_fields_and_raw_bytes_give_equal_tensors() {
    let typed = TensorProto {
        dims: vec![2, 2],
        data_type: Some(1),
        name: Some("w".into()),
        float_data: vec![1.0, 2.0, 3.0, 4.0],
        ..TensorProto::default()
    };
    let mut graph = product();
    let raw = Folder::of(&model(graph.clone())).read().unwrap();
    graph.initializer[0] = typed;
    check_same(&model(graph.clone()));
    let typed = Folder::of(&model(graph)).read().unwrap();
    let tensor =
        |it: &qcc_onnx::Model| it.graph.nodes().find_map(|it| it.1.constant().cloned()).unwrap();
    assert_eq!(tensor(&raw), tensor(&typed));
    assert!(tensor(&raw).origin().is_some(), "raw bytes stay in the file");
}

fn external(location: &str, extra: &[(&str, &str)]) -> TensorProto {
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    let mut entries = vec![entry("location", location)];
    entries.extend(extra.iter().map(|it| entry(it.0, it.1)));
    TensorProto {
        dims: vec![2, 2],
        data_type: Some(1),
        name: Some("w".into()),
        external_data: entries,
        data_location: Some(1),
        ..TensorProto::default()
    }
}

#[test]
fn external_data_is_mapped_and_copied() {
    let mut graph = product();
    graph.initializer[0] = external("w.bin", &[("offset", "4"), ("length", "16")]);
    let folder = Folder::of(&model(graph));
    std::fs::write(folder.path("w.bin"), [7u8; 24]).unwrap();
    let read = folder.read().unwrap();
    let tensor = read.graph.nodes().find_map(|it| it.1.constant()).unwrap().clone();
    assert_eq!(tensor.origin().unwrap().offset, 4);

    let out = tempfile::TempDir::new().unwrap();
    let options = qcc_onnx::WriteOptions::default();
    let path = out.path().join("m.onnx");
    qcc_onnx::write(&read.graph, &read.source, &path, &options).unwrap();
    assert_eq!(std::fs::read(out.path().join("w.bin")).unwrap(), [7u8; 24]);
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "no temporary file stays");
}

#[test]
fn hostile_external_data_is_refused() {
    let check = |location: &str, extra: &[(&str, &str)], want: &str| {
        let mut graph = product();
        graph.initializer[0] = external(location, extra);
        let folder = Folder::of(&model(graph));
        std::fs::write(folder.path("w.bin"), [0u8; 20]).unwrap();
        let error = folder.read().unwrap_err().to_string();
        assert!(error.contains(want), "{location} {extra:?}: {error}");
    };
    check("../w.bin", &[], "not a plain path");
    check("/etc/hostname", &[], "not a plain path");
    check("a/../../w.bin", &[], "not a plain path");
    check("", &[], "no location");
    check("missing.bin", &[], "cannot be read");
    check("w.bin", &[("offset", "8")], "outside");
    check("w.bin", &[("offset", "18446744073709551615")], "outside");
    check("w.bin", &[("offset", "-1")], "no number");
    check("w.bin", &[("length", "15")], "length is 15");
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused() {
    let mut graph = product();
    graph.initializer[0] = external("w.bin", &[]);
    let folder = Folder::of(&model(graph));
    let other = tempfile::TempDir::new().unwrap();
    std::fs::write(other.path().join("secret"), [0u8; 16]).unwrap();
    std::os::unix::fs::symlink(other.path().join("secret"), folder.path("w.bin")).unwrap();
    let error = folder.read().unwrap_err().to_string();
    assert!(error.contains("leads out"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    let mut graph = product();
    graph.initializer[0] = external("pipe", &[]);
    let folder = Folder::of(&model(graph));
    let made = std::process::Command::new("mkfifo").arg(folder.path("pipe")).status();
    assert!(made.unwrap().success());
    let error = folder.read().unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_replaced() {
    let folder = Folder::of(&model(product()));
    let read = folder.read().unwrap();
    let socket = folder.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let options = qcc_onnx::WriteOptions { overwrite: true, ..Default::default() };
    let error = qcc_onnx::write(&read.graph, &read.source, &socket, &options).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
    assert!(!socket.metadata().unwrap().is_file());
}

#[test]
fn every_prefix_of_a_model_gives_a_model_or_an_error() {
    let bytes = model(product()).encode_to_vec();
    for len in 0..bytes.len() {
        let _ = Folder::with(&bytes[..len]).read();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_bytes_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = model(product()).encode_to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = Folder::with(&bytes);
        if let Ok(read) = folder.read() {
            prop_assert_eq!(qcc_ir::verify(&read.graph).into_iter().find(|it| it.invariant < 10), None);
            folder.write(&read);
        }
    }
}
