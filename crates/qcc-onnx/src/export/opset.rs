//! Whether the opset of a model can be raised, asked before long work.

use onnx_protobuf::fields::graph_proto as f;
use onnx_protobuf::{Message, NodeProto};
use qcc_ir::{Graph, Kind};

use super::upgrade::Upgrade;
use crate::source::What;
use crate::{Source, WriteError};

/// Whether the nodes of the source that a graph still has mean the same at opset `need`. `skips`
/// names operators that will be replaced.
///
/// # Errors
/// [`WriteError::Opset`] for the first one that does not.
pub fn check_opset(
    graph: &Graph,
    source: &Source,
    need: i64,
    skips: &[&str],
) -> Result<(), WriteError> {
    let mut upgrade = Upgrade::new(source.opset("").unwrap_or(need), need);
    for scope in graph.scopes() {
        let Some((inner, records)) = graph.at(&scope).zip(source.graph(&scope)) else { continue };
        for record in records.records.iter().filter(|it| it.number == f::NODE) {
            let What::Node(id) = record.what else { continue };
            let Some(Kind::Op(op)) = inner.node(id).map(|it| &it.kind) else { continue };
            if skips.contains(&op.name()) {
                continue;
            }
            let bytes = source.0.file.bytes().slice(record.value.clone());
            let proto = NodeProto::decode(bytes)
                .map_err(|_| WriteError::Changed { at: record.span.start })?;
            upgrade.raise(proto)?;
        }
    }
    Ok(())
}
