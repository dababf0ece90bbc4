//! Graphs inside new nodes, which have no records in the source.

use onnx_protobuf::{AttributeProto, AttributeType, GraphProto, ValueInfoProto};
use qcc_ir::{Graph, Kind, Value};

use super::encode;
use super::graph::Context;
use crate::WriteError;

/// The message of a graph; `captured` are the names around it of what it captures.
pub(super) fn graph(
    cx: &mut Context<'_>,
    graph: &Graph,
    captured: &[String],
) -> Result<GraphProto, WriteError> {
    let name_of = |value: Value| -> String {
        let position = graph.captures().iter().position(|&it| it == value.node);
        let outer = position.and_then(|it| captured.get(it));
        outer.cloned().unwrap_or_else(|| graph.value_name(value).to_owned())
    };
    let info = |value: Value| {
        encode::value_info(&name_of(value), graph.ty(value)).unwrap_or_else(|| ValueInfoProto {
            name: Some(name_of(value)),
            ..ValueInfoProto::default()
        })
    };
    let mut proto = GraphProto {
        name: Some(graph.name().to_owned()),
        input: graph.inputs().iter().map(|&node| info(Value { node, slot: 0 })).collect(),
        output: graph.outputs().iter().map(|&it| info(it)).collect(),
        ..GraphProto::default()
    };
    for id in graph.topo() {
        let Some(node) = graph.node(id) else { continue };
        match &node.kind {
            Kind::Input(None) | Kind::Capture => {}
            Kind::Const(tensor) | Kind::Input(Some(tensor)) => {
                let name = name_of(Value { node: id, slot: 0 });
                proto.initializer.push(encode::inline_tensor(&name, tensor));
            }
            Kind::Op(op) => {
                let inputs =
                    node.inputs.iter().map(|it| it.map(name_of).unwrap_or_default()).collect();
                let outputs = node.outputs.iter().map(|it| it.name.clone()).collect();
                let kind = (op.domain(), op.name());
                let mut new = encode::node(&node.name, kind, inputs, outputs, &op.attrs());
                for it in &node.regions {
                    let captured: Vec<String> = it.captures.iter().map(|&it| name_of(it)).collect();
                    let inner = self::graph(cx, &it.graph, &captured)?;
                    new.attribute.push(attribute(&it.attr, inner));
                }
                let raised = cx.upgrade.raise(new.clone())?;
                proto.node.push(raised.unwrap_or(new));
            }
        }
    }
    Ok(proto)
}

/// An attribute that holds a graph.
pub(super) fn attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..AttributeProto::default()
    }
}
