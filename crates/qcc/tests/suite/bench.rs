//! A folder with a model in it, runs of the command there, and what has to hold after each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use onnx_protobuf::{
    GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use tempfile::TempDir;

/// Rows and columns of the weights.
pub(crate) const SIZE: usize = 64;

/// The bundled model.
pub(crate) fn bundled() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M/model.onnx");
    std::fs::read(path).unwrap()
}

pub(crate) fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&it| it.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: Some(name.to_owned()),
        op_type: Some(op.to_owned()),
        ..NodeProto::default()
    }
}

/// A value of floats; a negative dimension is not known.
pub(crate) fn value(name: &str, dims: Option<&[i64]>) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |&it: &i64| Dimension {
        denotation: None,
        value: (it >= 0).then_some(dimension::Value::DimValue(it)),
    };
    let shape = dims.map(|it| TensorShapeProto { dim: it.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, denotation: None }),
        ..ValueInfoProto::default()
    }
}

/// Weights that differ.
pub(crate) fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|it| (it * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_le_bytes()).collect()
}

pub(crate) fn floats(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&it| it as i64).collect(),
        data_type: Some(1),
        name: Some(name.to_owned()),
        raw_data: Some(bytes_of(values).into()),
        ..TensorProto::default()
    }
}

/// `y = x W`, of the shapes and the weight that are given.
pub(crate) fn product(x: &[i64], weight: TensorProto) -> GraphProto {
    GraphProto {
        name: Some("g".into()),
        node: vec![node("MatMul", "product", &["x", "w"], "y")],
        initializer: vec![weight],
        input: vec![value("x", Some(x))],
        output: vec![value("y", None)],
        ..GraphProto::default()
    }
}

/// [`product`] with a weight of [`SIZE`] by [`SIZE`] that can be quantized.
pub(crate) fn good() -> GraphProto {
    product(&[-1, SIZE as i64], floats("w", &[SIZE, SIZE], &numbers(SIZE * SIZE)))
}

pub(crate) fn model(graph: GraphProto) -> Vec<u8> {
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// A folder whose `in.onnx` is the model.
pub(crate) struct Bench {
    dir: TempDir,
}

/// What the command did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }
}

impl Bench {
    pub(crate) fn new(model: &[u8]) -> Self {
        let bench = Self { dir: TempDir::new().unwrap() };
        bench.put("in.onnx", model);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Every file of the folder with its bytes; pipes and folders without.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap);
        entries
            .map(|it| {
                let is_file = it.path().is_file();
                let bytes = if is_file { std::fs::read(it.path()).unwrap() } else { Vec::new() };
                (it.file_name().to_string_lossy().into_owned(), bytes)
            })
            .collect()
    }

    /// `qcc ARGS`, in the folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qcc"));
        command.current_dir(self.dir.path()).env("NO_COLOR", "1").args(args);
        command
    }

    /// As [`Bench::command`], with signals as a terminal sets them, whatever runs the tests.
    #[cfg(target_os = "linux")]
    pub(crate) fn in_foreground(&self, args: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(env!("CARGO_BIN_EXE_qcc"));
        command.current_dir(self.dir.path()).env("NO_COLOR", "1").args(args);
        command
    }

    /// Runs to the end: every end but a bug.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let ran = Ran::from(self.command(args).output().unwrap());
        assert!(matches!(ran.code, Some(0..=2)), "{args:?}: {:?}\n{}", ran.code, ran.stderr);
        ran
    }

    /// Runs where no file may have more than `blocks` of 512 bytes: as on a full disk, a write
    /// fails in the middle.
    #[cfg(unix)]
    pub(crate) fn run_on_a_full_disk(&self, blocks: u64, args: &[&str]) -> Ran {
        let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
        let inner = self.command(args);
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", &blocks.to_string()]).arg(inner.get_program());
        shell.args(inner.get_args()).current_dir(self.dir.path()).env("NO_COLOR", "1");
        Ran::from(shell.output().unwrap())
    }

    /// Runs and succeeds.
    pub(crate) fn passes(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}\n{}", ran.stderr);
        ran
    }

    /// Runs and is refused: exit code and code of the message, every one of `texts` in it, a page
    /// to go on with, and no file of the folder new or changed.
    pub(crate) fn refused(&self, args: &[&str], exit: i32, code: &str, texts: &[&str]) -> Ran {
        let before = self.files();
        let ran = self.run(args);
        ran.is_refusal(exit, code, texts);
        assert!(before == self.files(), "{args:?} changed the folder");
        ran
    }
}

impl Ran {
    pub(crate) fn is_refusal(&self, exit: i32, code: &str, texts: &[&str]) {
        let stderr = &self.stderr;
        assert_eq!(self.code, Some(exit), "{stderr}");
        assert!(stderr.contains(&format!("error[{code}]: ")), "no {code} in:\n{stderr}");
        assert!(stderr.contains(&format!("more: qcc explain {code}")), "{stderr}");
        for text in texts {
            assert!(stderr.contains(text), "no '{text}' in:\n{stderr}");
        }
    }
}

/// The options of the shortest run.
pub(crate) const RTN: &[&str] = &["in.onnx", "-O", "rtn", "-o", "out.onnx"];

/// [`RTN`] and more.
pub(crate) fn rtn<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [RTN, more].concat()
}
