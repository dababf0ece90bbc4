//! Small models, and files for them.

use std::path::{Path, PathBuf};

use onnx_protobuf::{
    AttributeProto, AttributeType, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc_onnx::{Model, ReadError, ReadOptions, WriteOptions, Written, read, write};
use tempfile::TempDir;

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&it| it.to_owned()).collect(),
        output: outputs.iter().map(|&it| it.to_owned()).collect(),
        op_type: Some(op.to_owned()),
        ..NodeProto::default()
    }
}

pub(crate) fn value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            denotation: None,
        }),
        ..ValueInfoProto::default()
    }
}

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(1),
        name: Some(name.to_owned()),
        raw_data: Some(values.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>().into()),
        ..TensorProto::default()
    }
}

pub(crate) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..AttributeProto::default()
    }
}

/// `y = Relu(x W)`, with a hint about the value between and documentation on the product.
pub(crate) fn product() -> GraphProto {
    let mut product = node("MatMul", &["x", "w"], &["h"]);
    product.name = Some("/fc/MatMul".into());
    product.doc_string = Some("first layer".into());
    GraphProto {
        name: Some("g".into()),
        node: vec![product, node("Relu", &["h"], &["y"])],
        initializer: vec![floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
        input: vec![value("x")],
        output: vec![value("y")],
        value_info: vec![value("h")],
        ..GraphProto::default()
    }
}

/// A folder with one model in it.
pub(crate) struct Folder {
    pub(crate) dir: TempDir,
}

impl Folder {
    pub(crate) fn with(bytes: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("model.onnx"), bytes).unwrap();
        Self { dir }
    }

    pub(crate) fn of(model: &ModelProto) -> Self {
        Self::with(&model.encode_to_vec())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self) -> Result<Model, ReadError> {
        read(&self.path("model.onnx"), &ReadOptions::default())
    }

    pub(crate) fn write(&self, model: &Model) -> Written {
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        write(&model.graph, &model.source, &self.path("out.onnx"), &options).unwrap()
    }

    /// Reads, writes, and gives what was written.
    pub(crate) fn round_trip(&self) -> Vec<u8> {
        let model = self.read().unwrap();
        assert_eq!(qcc_ir::verify(&model.graph), []);
        self.write(&model);
        std::fs::read(self.path("out.onnx")).unwrap()
    }
}

pub(crate) fn decode(path: &Path) -> ModelProto {
    ModelProto::decode(&*std::fs::read(path).unwrap()).unwrap()
}
