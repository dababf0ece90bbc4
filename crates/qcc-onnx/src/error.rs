//! What goes wrong at the border to files.

use std::io;
use std::path::{Path, PathBuf};

use qcc_diag::{Diagnostic, codes};

/// Why a model cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says no.
    #[error("'{}' cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes are not a model.
    #[error("'{}' is not an ONNX model: {what}", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the byte.
        what: String,
    },
    /// The message is not a valid model.
    #[error("{what}")]
    Rule {
        /// Node, value or tensor.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes of a tensor, in another file, cannot be used.
    #[error("external data of tensor '{tensor}' cannot be used: {what}")]
    External {
        /// The tensor.
        tensor: String,
        /// Where it says its bytes are.
        location: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes of a tensor are in another file, and the model came from a stream.
    #[error("tensor '{tensor}' has its data in '{location}', and a stream has no files beside it")]
    NoFolder {
        /// The tensor.
        tensor: String,
        /// Where it says its bytes are.
        location: String,
    },
    /// Fields that this version of qcc does not know, under `--strict`.
    #[error("'{}' holds fields that qcc does not know: {what}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where, and which.
        what: String,
    },
}

impl ReadError {
    pub(crate) fn rule(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Rule { place: place.into(), what: what.into() }
    }

    pub(crate) fn not_onnx(path: &Path, what: impl Into<String>) -> Self {
        Self::NotOnnx { path: path.to_owned(), what: what.into() }
    }
}

impl From<ReadError> for Diagnostic {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::Io { path, .. } => Diagnostic::error(codes::QCC0101, message)
                .at(path.display().to_string())
                .with_help("check the path and its permissions"),
            ReadError::NotOnnx { path, .. } => Diagnostic::error(codes::QCC0102, message)
                .at(path.display().to_string())
                .with_help("export or download the model again"),
            ReadError::Rule { place, .. } => {
                Diagnostic::error(codes::QCC0103, message).at(place).with_help(
                    "correct the exporter; python -m onnx.checker MODEL says more about the place",
                )
            }
            ReadError::External { location, tensor, .. } => {
                let place =
                    if location.is_empty() { format!("tensor '{tensor}'") } else { location };
                Diagnostic::error(codes::QCC0104, message)
                    .at(place)
                    .with_help("put the data file beside the model, under the name in the model")
            }
            ReadError::NoFolder { location, .. } => Diagnostic::error(codes::QCC0104, message)
                .at(location)
                .with_help("give the path of the model instead of -"),
            ReadError::Unknown { path, .. } => Diagnostic::error(codes::QCC0108, message)
                .at(path.display().to_string())
                .with_help("without --strict they are kept wherever no pass changes the message"),
        }
    }
}

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system says no.
    #[error("'{}' cannot be written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A stream is gone, or full.
    #[error("the output stream cannot be written: {0}")]
    Stream(#[source] io::Error),
    /// The model does not fit into one file, and a stream is one.
    #[error("{what}, and a stream takes a model of one file")]
    OneFile {
        /// Why more than one is needed.
        what: String,
    },
    /// A file of this name is there.
    #[error("'{}' exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file is where a data file belongs, and the model that is replaced, if any, does not read it.
    #[error("'{}' exists, and '{}' does not read it", path.display(), model.display())]
    NotItsData {
        /// The file.
        path: PathBuf,
        /// The output.
        model: PathBuf,
    },
    /// The output is the input.
    #[error("'{}' is the input model", path.display())]
    IsInput {
        /// The file.
        path: PathBuf,
    },
    /// A node has no form in ONNX.
    #[error("{op} of '{value}' has no form in ONNX")]
    NoForm {
        /// Operator.
        op: String,
        /// Its first output.
        value: String,
    },
    /// The format needs a newer opset, which would change what another node means.
    #[error("opset {need} is needed, but {op} '{node}' cannot be raised from opset {have}")]
    Opset {
        /// What the new nodes need.
        need: i64,
        /// What the model imports.
        have: i64,
        /// Operator that cannot be raised.
        op: String,
        /// Its name or first output.
        node: String,
    },
    /// A record of the input is not what it was when it was read.
    #[error("the input changed while it was read, at byte {at}")]
    Changed {
        /// Offset in the input.
        at: usize,
    },
}

impl From<WriteError> for Diagnostic {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::Io { path, source } => {
                let help = if source.kind() == io::ErrorKind::StorageFull {
                    "free space on that disk, or choose another folder with -o"
                } else {
                    "choose another folder with -o"
                };
                Diagnostic::error(codes::QCC0105, message)
                    .at(path.display().to_string())
                    .with_note("no part of it was left behind")
                    .with_help(help)
            }
            WriteError::Stream(_) => {
                Diagnostic::error(codes::QCC0105, message).with_help("name a file with -o")
            }
            WriteError::OneFile { .. } => Diagnostic::error(codes::QCC0105, message)
                .with_help("name a file with -o: its data goes beside it"),
            WriteError::Exists { path } => Diagnostic::error(codes::QCC0106, message)
                .at(path.display().to_string())
                .with_help("add -f to replace it, or choose another name with -o"),
            WriteError::NotItsData { path, .. } => Diagnostic::error(codes::QCC0106, message)
                .at(path.display().to_string())
                .with_note("another model may: -f replaces only data that the replaced model reads")
                .with_help("choose another folder with -o, or remove the file"),
            WriteError::IsInput { path } => Diagnostic::error(codes::QCC0107, message)
                .at(path.display().to_string())
                .with_help("choose another name with -o"),
            WriteError::NoForm { .. } => Diagnostic::error(codes::QCC0305, message).with_help(
                "end the pipeline with an output format: to-nbits, to-qdq, to-function or to-fake",
            ),
            WriteError::Opset { .. } => Diagnostic::error(codes::QCC0203, message)
                .with_help("--format nbits works at every opset"),
            WriteError::Changed { .. } => Diagnostic::error(codes::QCC0101, message)
                .with_help("start again when nothing writes to the model"),
        }
    }
}
