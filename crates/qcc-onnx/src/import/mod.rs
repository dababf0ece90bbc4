//! Reading a model file.

mod attribute;
mod external;
mod function;
mod graph;
mod node;
mod tensor;
mod types;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use onnx_protobuf::wire::{Fields, Wire};
use onnx_protobuf::{
    FunctionProto, Loss, Message, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    WalkError, fields, unknown_fields,
};
use prost::bytes::Bytes;
use qcc_diag::{Diagnostic, codes};
use qcc_tensor::{MappedFile, Tensor};

use crate::source::{SourceData, called};
use crate::{Model, ReadError, Source};
pub(crate) use function::key;
pub(crate) use node::records;

use external::DataFiles;

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Refuse what is otherwise repaired or carried with a warning.
    pub strict: bool,
    /// Follow symbolic links to data files that leave the folder of the model.
    pub allow_external_symlinks: bool,
    /// Initializers that are inputs too, so that a caller could override them, are constants, and no
    /// inputs any more.
    pub treat_as_constant: bool,
    /// Read files as a whole instead of mapping them: a file that changes or goes away while it is
    /// mapped ends the process.
    pub no_mmap: bool,
}

/// The oldest and newest `ir_version` that is read without a word.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=onnx_protobuf::IR_VERSION;

/// The newest IR version and opset that ONNX Runtime 1.31 loads.
const RUNTIME: (i64, i64) = (13, 26);

/// Reads a model. The file is mapped, and its tensors stay in the map.
///
/// # Errors
/// When a file cannot be read, is not a model, or breaks a rule that other tools need as well.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Model, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    // A link to the model itself is followed first; its data lies beside the real file.
    let real = fs::canonicalize(path).map_err(io)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let file = external::open_file(&real, &name, options.no_mmap).map_err(io)?;
    let data = DataFiles::new(&real, options.allow_external_symlinks);
    read_file(path, file, data.without_mmap(options.no_mmap), options)
}

/// The most bytes of a model in one message.
const MAX_BYTES: u64 = 1 << 31;

/// What the file of a model that came from a stream is called.
const STREAM: &str = "<stdin>";

/// Reads a model of one file from a stream, to its end.
///
/// # Errors
/// As [`read`]; when the model has data in other files.
pub fn read_stream(input: &mut impl Read, options: &ReadOptions) -> Result<Model, ReadError> {
    let path = Path::new(STREAM);
    let wrong = |source| ReadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(io::Error::other(
            "it has more than 2 GiB, which no model of one file has",
        )));
    }
    let file = MappedFile::from_bytes(Bytes::from(bytes), STREAM);
    read_file(path, file, DataFiles::of_stream(), options)
}

fn read_file(
    path: &Path,
    file: MappedFile,
    mut data: DataFiles,
    options: &ReadOptions,
) -> Result<Model, ReadError> {
    let mut warnings = Vec::new();

    check_wire(path, &file, options, &mut warnings)?;
    let header = Header::read(path, file.bytes())?;
    if !IR_VERSIONS.contains(&header.ir_version) {
        let text = format!("the model has IR version {}", header.ir_version);
        let (first, last) = (IR_VERSIONS.start(), IR_VERSIONS.end());
        let note = format!("qcc knows versions {first} to {last} and reads it as the nearest one");
        warnings.push(Diagnostic::warning(codes::QCC0109, text).with_note(note));
    }
    warnings.extend(too_new(&header));
    warnings.extend(double_metadata(&header));

    let functions = function::read_all(&file, &header, &mut data, &mut warnings);
    let mut cx = graph::Context {
        file: &file,
        opsets: &header.opsets,
        functions: &header.functions,
        file_ir_version: header.ir_version,
        // Before version 4 an input with an initializer is a constant.
        ir_version: if options.treat_as_constant { 3 } else { header.ir_version },
        data,
        warnings: &mut warnings,
    };
    let (graph, table) = graph::read_outermost(&mut cx, header.graph.clone(), functions)?;

    let data_files = cx.data.into_files();
    let source = Source(Arc::new(SourceData {
        path: path.to_owned(),
        ir_version: header.ir_version,
        opsets: header.opsets,
        producer: header.producer,
        metadata: header.metadata,
        functions: header.functions,
        called: called(&graph),
        graph: table,
        data_files,
        file,
    }));
    Ok(Model { graph, source, warnings })
}

/// Says when the versions are newer than those that the runtime loads; no version is ever lowered.
fn too_new(header: &Header) -> Option<Diagnostic> {
    let opset = header.opsets.iter().find(|it| matches!(it.0.as_str(), "" | "ai.onnx"));
    let opset = opset.map(|it| it.1).filter(|&it| it > RUNTIME.1);
    let ir_version = Some(header.ir_version).filter(|&it| it > RUNTIME.0);
    let what: Vec<String> = [("opset", opset), ("IR version", ir_version)]
        .into_iter()
        .filter_map(|(what, version)| Some(format!("{what} {}", version?)))
        .collect();
    if what.is_empty() {
        return None;
    }
    let text = format!("ONNX Runtime 1.31 does not load models of {}", what.join(" and "));
    let note = format!("it knows opsets up to {} and IR versions up to {}", RUNTIME.1, RUNTIME.0);
    Some(
        Diagnostic::warning(codes::QCC0204, text)
            .with_note(note)
            .with_help("export the model with an older opset, or use a newer runtime"),
    )
}

/// Says when a key of the metadata comes twice, of which a reader sees one.
fn double_metadata(header: &Header) -> Option<Diagnostic> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, _) in &header.metadata {
        *counts.entry(key).or_default() += 1;
    }
    let double: Vec<String> =
        counts.iter().filter(|it| *it.1 > 1).map(|it| format!("'{}'", it.0)).take(5).collect();
    if double.is_empty() {
        return None;
    }
    let text = format!("keys of the metadata come more than once: {}", double.join(", "));
    let note = "all of them are kept; the ONNX checker refuses such a model";
    Some(Diagnostic::warning(codes::QCC0109, text).with_note(note))
}

/// Reads a file that holds one tensor, as ONNX's test data does: its name, which may be empty, and
/// its value.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_tensor(bytes: &[u8]) -> Result<(String, Tensor), String> {
    let proto = TensorProto::decode(bytes).map_err(|it| it.to_string())?;
    let file = MappedFile::from_bytes(Bytes::new(), "");
    let mut data = DataFiles::new(Path::new(""), false);
    let (tensor, _) = tensor::read(&proto, &file, &mut data).map_err(|it| it.to_string())?;
    Ok((proto.name().to_owned(), tensor))
}

/// The bytes are protobuf records, and the schema knows them.
fn check_wire(
    path: &Path,
    file: &MappedFile,
    options: &ReadOptions,
    warnings: &mut Vec<Diagnostic>,
) -> Result<(), ReadError> {
    let bytes = file.bytes();
    if bytes.is_empty() {
        return Err(ReadError::not_onnx(path, "the file is empty"));
    }
    if let Some(what) = other_kind(bytes) {
        return Err(ReadError::not_onnx(path, what));
    }
    let found = unknown_fields(bytes).map_err(|error| {
        let what = match &error {
            WalkError::TooDeep { .. } => format!("subgraphs are nested too deep ({error})"),
            _ => error.to_string(),
        };
        ReadError::not_onnx(path, what)
    })?;
    if let Some(it) = found.iter().find(|it| it.loss == Loss::Repeated && it.path == "model") {
        let what = format!("field {} of the model comes {} times", it.number, it.count + 1);
        return Err(ReadError::not_onnx(path, what));
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut list: Vec<String> = found
        .iter()
        .take(5)
        .map(|it| format!("{} field {} ({} times)", it.path, it.number, it.count))
        .collect();
    if found.len() > list.len() {
        list.push(format!("{} more", found.len() - list.len()));
    }
    let what = list.join(", ");
    if options.strict {
        return Err(ReadError::Unknown { path: path.to_owned(), what });
    }
    let text = format!("the model holds fields that qcc does not know: {what}");
    let note = "they are kept wherever no pass changes the message";
    warnings.push(Diagnostic::warning(codes::QCC0108, text).with_note(note));
    Ok(())
}

/// What a file is that begins as one of another kind, and the way to a model.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    // Of safetensors: the length of a JSON object in 8 bytes, and the object.
    let header = bytes.first_chunk().map(|it| u64::from_le_bytes(*it));
    let is_header = |len: u64| len < bytes.len() as u64 && bytes.get(8..10) == Some(b"{\"");
    Some(match bytes {
        [b'G', b'G', b'U', b'F', ..] => {
            "it is a GGUF file; qcc reads ONNX, which an export of the original model gives"
        }
        [b'P', b'K', 3, 4, ..] => {
            "it is a zip archive, as PyTorch writes checkpoints; qcc reads ONNX, which \
             torch.onnx.export gives"
        }
        _ if bytes.starts_with(b"version https://git-lfs") => {
            "it is a Git LFS pointer; fetch it with git lfs pull"
        }
        _ if header.is_some_and(is_header) => {
            "it is a safetensors file, which holds weights and no graph; qcc reads ONNX, which an \
             export of the model gives"
        }
        _ => return None,
    })
}

/// The fields of the model message beside its graph.
#[derive(Default)]
struct Header {
    ir_version: i64,
    opsets: Vec<(String, i64)>,
    producer: String,
    metadata: Vec<(String, String)>,
    functions: Vec<(String, String, String)>,
    bodies: Vec<Range<usize>>,
    graph: Range<usize>,
}

impl Header {
    fn read(path: &Path, bytes: &Bytes) -> Result<Self, ReadError> {
        use fields::model_proto as f;
        let wrong = |what: String| ReadError::not_onnx(path, what);
        let mut header = Self::default();
        let mut has_graph = false;
        let (mut name, mut version) = (String::new(), String::new());
        for field in Fields::new(bytes) {
            let field = field.map_err(|it| wrong(it.to_string()))?;
            let payload = bytes.slice(field.value.clone());
            let decode = |what: &str, error: prost::DecodeError| {
                wrong(format!("{what} at byte {}: {error}", field.span.start))
            };
            let text = || {
                String::from_utf8(payload.to_vec())
                    .map_err(|_| wrong(format!("text at byte {} is not UTF-8", field.span.start)))
            };
            match field.number {
                f::IR_VERSION => {
                    header.ir_version = field.varint(bytes).unwrap_or(0).cast_signed();
                }
                f::PRODUCER_NAME => name = text()?,
                f::PRODUCER_VERSION => version = text()?,
                f::GRAPH if field.wire == Wire::Bytes => {
                    header.graph = field.value.clone();
                    has_graph = true;
                }
                f::OPSET_IMPORT => {
                    let it = OperatorSetIdProto::decode(payload.clone())
                        .map_err(|it| decode("opset_import", it))?;
                    header.opsets.push((it.domain().to_owned(), it.version()));
                }
                f::METADATA_PROPS => {
                    let it = StringStringEntryProto::decode(payload.clone())
                        .map_err(|it| decode("metadata_props", it))?;
                    header.metadata.push((it.key().to_owned(), it.value().to_owned()));
                }
                f::FUNCTIONS => {
                    let it = FunctionProto::decode(payload.clone())
                        .map_err(|it| decode("function", it))?;
                    let key = (it.domain().to_owned(), it.name().to_owned());
                    header.functions.push((key.0, key.1, it.overload().to_owned()));
                    header.bodies.push(field.value.clone());
                }
                _ => {}
            }
        }
        if !has_graph {
            return Err(wrong("it has no graph".to_owned()));
        }
        header.producer = format!("{name} {version}").trim().to_owned();
        Ok(header)
    }
}
