//! ONNX Runtime behind a pipe: one server for all tests of the process.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use onnx_protobuf::{
    AttributeProto, AttributeType, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc_ir::{Attr, Attrs};
use qcc_tensor::{DType, Tensor};

/// A node by itself.
pub(crate) struct Model<'a> {
    pub(crate) domain: &'a str,
    pub(crate) name: &'a str,
    pub(crate) opset: i64,
    pub(crate) attrs: Attrs,
    pub(crate) inputs: Vec<Option<Tensor>>,
    /// Element types of the outputs; `None` for one that is not asked for.
    pub(crate) outputs: Vec<Option<DType>>,
}

struct Server {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    folder: PathBuf,
    _child: Child,
}

/// The outputs of a model in ONNX Runtime, or its error; `None` without Python.
pub(crate) fn run(model: &Model<'_>) -> Option<Result<Vec<Option<Tensor>>, String>> {
    static SERVER: OnceLock<Option<Mutex<Server>>> = OnceLock::new();
    let server = SERVER.get_or_init(start).as_ref()?;
    let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
    Some(server.run(model))
}

fn start() -> Option<Mutex<Server>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("QCC_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| root.join(".venv/bin/python"));
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "CI needs Python with ONNX Runtime");
        // What a test prints is shown only if it fails; this is not.
        let why = format!("no Python at {}", python.display());
        let _ = writeln!(std::io::stderr(), "not run here: contrib operators: {why}");
        return None;
    }
    let mut child = Command::new(python)
        .arg(root.join("tools/py/ort_run.py"))
        .arg("--serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ort{}", child.id()));
    std::fs::create_dir_all(&folder).unwrap();
    // An archive of nothing: all operands are initializers.
    let mut empty = b"PK\x05\x06".to_vec();
    empty.resize(22, 0);
    std::fs::write(folder.join("feeds.npz"), empty).unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    Some(Mutex::new(Server { stdin, stdout: BufReader::new(stdout), folder, _child: child }))
}

impl Server {
    fn run(&mut self, model: &Model<'_>) -> Result<Vec<Option<Tensor>>, String> {
        let [path, feeds, out] =
            ["model.onnx", "feeds.npz", "out.npz"].map(|it| self.folder.join(it));
        std::fs::write(&path, proto(model).encode_to_vec()).unwrap();
        let request =
            serde_json::json!({"model": path, "feeds": feeds, "out": out, "optimize": "none"});
        writeln!(self.stdin, "{request}").unwrap();
        let mut line = String::new();
        if self.stdout.read_line(&mut line).unwrap() == 0 {
            return Err("it ended".into());
        }
        let reply: serde_json::Value = serde_json::from_str(&line).unwrap();
        if let Some(error) = reply["error"].as_str() {
            return Err(error.to_owned());
        }
        let mut archive = npyz::npz::NpzArchive::open(out).unwrap();
        let mut read = |(index, dtype): (usize, &Option<DType>)| {
            let dtype = (*dtype)?;
            let array = archive.by_name(&format!("y{index}")).unwrap().unwrap();
            let dims = array.shape().iter().map(|&it| it as usize).collect();
            Some(match dtype {
                DType::F32 => Tensor::from_vec(dims, array.into_vec::<f32>().unwrap()).unwrap(),
                DType::U8 => Tensor::from_vec(dims, array.into_vec::<u8>().unwrap()).unwrap(),
                DType::I8 => Tensor::from_vec(dims, array.into_vec::<i8>().unwrap()).unwrap(),
                DType::I16 => Tensor::from_vec(dims, array.into_vec::<i16>().unwrap()).unwrap(),
                DType::U16 => Tensor::from_vec(dims, array.into_vec::<u16>().unwrap()).unwrap(),
                DType::I32 => Tensor::from_vec(dims, array.into_vec::<i32>().unwrap()).unwrap(),
                other => panic!("outputs of {other} are not read"),
            })
        };
        Ok(model.outputs.iter().enumerate().map(&mut read).collect())
    }
}

fn proto(model: &Model<'_>) -> ModelProto {
    let name = |kind: &str, index: usize, is_there: bool| {
        if is_there { format!("{kind}{index}") } else { String::new() }
    };
    let node = NodeProto {
        op_type: Some(model.name.into()),
        domain: Some(model.domain.into()),
        input: (0..).zip(&model.inputs).map(|(i, it)| name("x", i, it.is_some())).collect(),
        output: (0..).zip(&model.outputs).map(|(i, it)| name("y", i, it.is_some())).collect(),
        attribute: model.attrs.iter().map(|(name, it)| attribute(name, it)).collect(),
        ..NodeProto::default()
    };
    let initializer = (0..)
        .zip(&model.inputs)
        .filter_map(|(i, it)| {
            let it = it.as_ref()?;
            Some(TensorProto {
                name: Some(name("x", i, true)),
                dims: it.dims().iter().map(|&it| it as i64).collect(),
                data_type: Some(it.dtype().onnx_code()),
                raw_data: Some(it.bytes().clone()),
                ..TensorProto::default()
            })
        })
        .collect();
    let output = (0..)
        .zip(&model.outputs)
        .filter_map(|(i, it)| {
            let tensor = type_proto::Tensor { elem_type: Some((*it)?.onnx_code()), shape: None };
            Some(ValueInfoProto {
                name: Some(name("y", i, true)),
                r#type: Some(TypeProto {
                    value: Some(type_proto::Value::TensorType(tensor)),
                    ..TypeProto::default()
                }),
                ..ValueInfoProto::default()
            })
        })
        .collect();
    let opset = |domain: &str, version: i64| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(11),
        opset_import: vec![opset("", model.opset), opset("com.microsoft", 1)],
        graph: Some(GraphProto {
            name: Some("test".into()),
            node: vec![node],
            initializer,
            output,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn attribute(name: &str, value: &Attr) -> AttributeProto {
    let mut out = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let kind = match value {
        Attr::Int(it) => {
            out.i = Some(*it);
            AttributeType::Int
        }
        Attr::Float(it) => {
            out.f = Some(*it);
            AttributeType::Float
        }
        Attr::Ints(it) => {
            out.ints.clone_from(it);
            AttributeType::Ints
        }
        other => panic!("{other:?} is not written"),
    };
    out.r#type = Some(kind as i32);
    out
}
