//! A model that was opened.

use std::io::Read;
use std::path::Path;

use qcc_diag::Diagnostic;
use qcc_ir::Graph;
use qcc_onnx::{ReadOptions, Source};

use crate::Error;

/// A model that was opened. Its tensors stay in the mapped file.
#[derive(Clone, Debug)]
pub struct Model {
    inner: qcc_onnx::Model,
}

impl Model {
    /// Opens a model.
    ///
    /// # Errors
    /// When the file cannot be read, is not a model, or breaks a rule of ONNX.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &ReadOptions::default())
    }

    /// Opens a model with options.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self, Error> {
        Ok(Self { inner: qcc_onnx::read(path.as_ref(), options)? })
    }

    /// Reads a model of one file from a stream, to its end.
    ///
    /// # Errors
    /// As [`Model::open`]; when the model has data in other files.
    pub fn read(input: &mut impl Read, options: &ReadOptions) -> Result<Self, Error> {
        Ok(Self { inner: qcc_onnx::read_stream(input, options)? })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.inner.graph
    }

    /// Where it came from.
    pub fn source(&self) -> &Source {
        &self.inner.source
    }

    /// What the user should know about the file.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.inner.warnings
    }
}
