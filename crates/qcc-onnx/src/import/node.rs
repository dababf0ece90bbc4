//! `NodeProto`: its operator, and the graphs inside its attributes.

use std::ops::Range;
use std::sync::Arc;

use onnx_protobuf::wire::{Field, Fields};
use onnx_protobuf::{NodeProto, fields};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attrs, OpRef, Opaque};
use qcc_tensor::Tensor;

use super::graph::Context;
use super::{attribute, function};
use crate::ReadError;

/// The operator of a node. One that is not known, or that is a local function, is opaque.
pub(super) fn operator(proto: &NodeProto, cx: &mut Context<'_>) -> Result<OpRef, ReadError> {
    let mut attrs: Attrs = Vec::with_capacity(proto.attribute.len());
    for it in &proto.attribute {
        if let Some(attr) = attribute::read(it, cx.file, &mut cx.data)? {
            attrs.push((it.name().to_owned(), attr));
        }
    }
    let (domain, name) = (proto.domain(), proto.op_type());
    let domain = if domain == "ai.onnx" { "" } else { domain };
    let opaque = |name: String, attrs: Attrs| -> OpRef {
        Arc::new(Opaque { domain: domain.to_owned(), name, attrs })
    };
    // The bodies of our own operators are for runtimes that do not know them.
    if cx.is_function(domain, name, proto.overload()) && domain != qcc_ops::matmul_q::DOMAIN {
        return Ok(opaque(function::key(name, proto.overload()), attrs));
    }
    let opset = cx.opset(domain);
    match qcc_ops::parse(domain, name, opset, attrs.clone()) {
        Ok(op) => Ok(op),
        Err(error) => {
            let text =
                format!("node '{}' is carried without being understood: {error}", label(proto));
            cx.warnings.push(Diagnostic::note(codes::QCC0109, text));
            Ok(opaque(name.to_owned(), attrs))
        }
    }
}

/// The tensor of a `Constant` node that holds one.
pub(super) fn constant(
    proto: &NodeProto,
    cx: &mut Context<'_>,
) -> Result<Option<Tensor>, ReadError> {
    let is_default = matches!(proto.domain(), "" | "ai.onnx");
    let [attribute] = proto.attribute.as_slice() else { return Ok(None) };
    if !is_default || proto.op_type() != "Constant" || attribute.name() != "value" {
        return Ok(None);
    }
    if attribute.ref_attr_name.is_some() || proto.output.len() != 1 {
        return Ok(None);
    }
    let Some(tensor) = &attribute.t else { return Ok(None) };
    Ok(Some(super::tensor::read(tensor, cx.file, &mut cx.data)?.0))
}

/// A graph inside an attribute: the attribute's record, and the graph's payload.
pub(super) struct Inner {
    pub(super) attr: String,
    pub(super) attribute: Range<usize>,
    pub(super) graph: Range<usize>,
}

/// Every graph in the attributes of the node at `node`, which counts from the start of `bytes`.
pub(super) fn inner_graphs(bytes: &[u8], node: &Range<usize>) -> Vec<Inner> {
    let mut found = Vec::new();
    let attributes = records(bytes, node).filter(|it| it.number == fields::node_proto::ATTRIBUTE);
    for attribute in attributes {
        let mut name = String::new();
        let mut graphs = Vec::new();
        for field in records(bytes, &attribute.value) {
            match field.number {
                fields::attribute_proto::NAME => {
                    let text = bytes.get(field.value.clone()).unwrap_or_default();
                    name = String::from_utf8_lossy(text).into_owned();
                }
                fields::attribute_proto::G | fields::attribute_proto::GRAPHS => {
                    graphs.push(field.value.clone());
                }
                _ => {}
            }
        }
        for graph in graphs {
            found.push(Inner { attr: name.clone(), attribute: attribute.span.clone(), graph });
        }
    }
    found
}

/// The records of the message at `span`, with ranges that count from the start of `bytes`. The
/// walker has been over these bytes, so an error only ends the list.
pub(crate) fn records<'a>(
    bytes: &'a [u8],
    span: &Range<usize>,
) -> impl Iterator<Item = Field> + use<'a> {
    let start = span.start;
    let message = bytes.get(span.clone()).unwrap_or_default();
    let shift = move |it: Range<usize>| it.start + start..it.end + start;
    Fields::new(message).map_while(Result::ok).map(move |it| Field {
        span: shift(it.span),
        value: shift(it.value),
        ..it
    })
}

/// How messages name a node: its name, or its first output.
pub(super) fn label(proto: &NodeProto) -> &str {
    match proto.name() {
        "" => proto.output.iter().find(|it| !it.is_empty()).map_or("", |it| it),
        name => name,
    }
}
