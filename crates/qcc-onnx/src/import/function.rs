//! `FunctionProto` to [`Function`].
//!
//! The body is read as the graph message that it would be. Where the model imports a newer default
//! opset than the function, the nodes of the body are raised to it if they can be; `imports` says
//! which opset the body is for. A function that cannot be read is left out with a note, since the
//! file is carried either way and no call of it may matter.

use std::ops::Range;

use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, NodeProto, ValueInfoProto,
};
use prost::bytes::Bytes;
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, Function, Functions};
use qcc_tensor::MappedFile;

use super::external::DataFiles;
use super::graph::{Context, read_outermost};
use super::{Header, attribute};
use crate::ReadError;
use crate::export::upgrade::Upgrade;

/// The name of an operator with its overload.
pub(crate) fn key(name: &str, overload: &str) -> String {
    if overload.is_empty() { name.to_owned() } else { format!("{name}:{overload}") }
}

/// Every function of the model that can be read.
pub(super) fn read_all(
    file: &MappedFile,
    header: &Header,
    data: &mut DataFiles,
    warnings: &mut Vec<Diagnostic>,
) -> Functions {
    let mut functions = Functions::default();
    for (span, (domain, name, _)) in header.bodies.iter().zip(&header.functions) {
        match read(file, header, span, data) {
            Ok(function) => functions.add(function),
            Err(error) => {
                let text = format!("function '{domain}::{name}' is carried unread: {error}");
                warnings.push(Diagnostic::note(codes::QCC0109, text));
            }
        }
    }
    functions
}

fn read(
    file: &MappedFile,
    header: &Header,
    span: &Range<usize>,
    data: &mut DataFiles,
) -> Result<Function, ReadError> {
    let wrong = |what: String| ReadError::rule(format!("byte {}", span.start), what);
    let proto = FunctionProto::decode(file.bytes().slice(span.clone()))
        .map_err(|it| wrong(it.to_string()))?;
    let plain = |it: &str| if it == "ai.onnx" { String::new() } else { it.to_owned() };
    let mut imports: Vec<(String, i64)> =
        proto.opset_import.iter().map(|it| (plain(it.domain()), it.version())).collect();

    let name = key(proto.name(), proto.overload());
    let mut nodes = proto.node;
    let default = header.opsets.iter().find(|it| plain(&it.0).is_empty()).map(|it| it.1);
    let own = imports.iter_mut().find(|it| it.0.is_empty());
    if let (Some(to), Some((_, from))) = (default, own)
        && *from < to
        && let Some(raised) = raise(&nodes, *from, to)
    {
        nodes = raised;
        *from = to;
    }

    let value =
        |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
    let body = GraphProto {
        name: proto.name,
        node: nodes,
        input: proto.input.iter().map(value).collect(),
        output: proto.output.iter().map(value).collect(),
        ..GraphProto::default()
    };
    let bytes = Bytes::from(body.encode_to_vec());
    let whole = 0..bytes.len();
    let body_file = MappedFile::from_bytes(bytes, &name);
    let mut attrs: Vec<(String, Option<Attr>)> =
        proto.attribute.iter().map(|it| (it.clone(), None)).collect();
    for it in &proto.attribute_proto {
        attrs.push((it.name().to_owned(), attribute::read(it, &body_file, data)?));
    }
    // Of what is odd inside, calls tell when it matters.
    let mut warnings = Vec::new();
    let mut cx = Context {
        file: &body_file,
        opsets: &imports,
        functions: &header.functions,
        file_ir_version: onnx_protobuf::IR_VERSION,
        ir_version: onnx_protobuf::IR_VERSION,
        data: std::mem::take(data),
        warnings: &mut warnings,
    };
    let body = read_outermost(&mut cx, whole, Functions::default());
    *data = cx.data;
    let domain = plain(proto.domain.as_deref().unwrap_or_default());
    Ok(Function { domain, name, attrs, imports, body: body?.0 })
}

/// The nodes at a newer opset; `None` when one of them would mean something else there, or when
/// there are graphs inside, which are not looked into.
fn raise(nodes: &[NodeProto], from: i64, to: i64) -> Option<Vec<NodeProto>> {
    let has_graph = |it: &AttributeProto| it.g.is_some() || !it.graphs.is_empty();
    let mut upgrade = Upgrade::new(from, to);
    let mut raised = Vec::with_capacity(nodes.len());
    for node in nodes {
        if node.attribute.iter().any(has_graph) {
            return None;
        }
        // An argument of the call may be what becomes an input.
        let has_ref = node.attribute.iter().any(|it| !it.ref_attr_name().is_empty());
        let new = upgrade.raise(node.clone()).ok()?;
        if has_ref && new.is_some() {
            return None;
        }
        raised.push(new.unwrap_or_else(|| node.clone()));
    }
    raised.splice(0..0, upgrade.take_nodes());
    Some(raised)
}
