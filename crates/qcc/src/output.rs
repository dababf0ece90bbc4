//! What a run gives.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use qcc_ir::Graph;
use qcc_onnx::{External, Source, WriteOptions, Written};
use qcc_pass::Record;

use crate::provenance::Calibration;
use crate::{Error, Model, provenance};

/// A compiled model and the record of how it came about.
#[derive(Clone, Debug)]
pub struct Output {
    pub(crate) graph: Graph,
    pub(crate) source: Source,
    pub(crate) record: Record,
    pub(crate) pipeline: String,
    pub(crate) calibration: Option<Calibration>,
    pub(crate) seed: u64,
    pub(crate) is_finished: bool,
}

/// How to save.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Whether tensors go into a data file.
    pub external: External,
    /// Replace an output that exists.
    pub overwrite: bool,
    /// Leave out the metadata that says how the model was made.
    pub no_provenance: bool,
    /// Say at each quantized node what became of its weight.
    pub annotate: bool,
}

impl Model {
    /// Whether [`Output::save`] will find a place for what this model becomes: to be asked before
    /// long work.
    ///
    /// # Errors
    /// When the output exists, is the input, or cannot be written.
    pub fn check_places(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<(), Error> {
        let (path, options) = (path.as_ref(), *options);
        let checked =
            qcc_onnx::check_places(self.source(), path, options.external, options.overwrite);
        Ok(checked?)
    }

    /// Whether [`Output::write_to`] may be possible for what this model becomes: to be asked before
    /// long work.
    ///
    /// # Errors
    /// When it does not fit into one file.
    pub fn check_stream(&self, options: &SaveOptions) -> Result<(), Error> {
        Ok(qcc_onnx::check_stream(self.source(), options.external)?)
    }
}

impl Output {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What was done to each weight, and every note.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The pipeline that ran, with every option.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// What the calibration samples were, those that the model wrote included; `None` where none
    /// were used.
    pub fn samples(&self) -> Option<&str> {
        self.calibration.as_ref().map(Calibration::samples)
    }

    /// Whether every pass ran: an instrument may have stopped before the end.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// How the output came about, as its metadata say it. Reads the whole input for its digest.
    pub fn metadata(&self) -> Vec<(String, String)> {
        if self.pipeline.is_empty() { Vec::new() } else { provenance::metadata(self) }
    }

    /// Bytes of what [`Output::save`] would write, data files included; with annotations at most.
    ///
    /// # Errors
    /// When the graph holds what has no form in ONNX.
    pub fn size(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<u64, Error> {
        // Which pass it will be and at what SNR is not known yet: room for the longest.
        const UNKNOWN: u64 = 32;
        let options = self.write_options(options);
        let unknown = options.annotations.len() as u64 * UNKNOWN;
        Ok(qcc_onnx::size(&self.graph, &self.source, path.as_ref(), &options)? + unknown)
    }

    fn write_options(&self, options: &SaveOptions) -> WriteOptions {
        let metadata = if options.no_provenance { Vec::new() } else { self.metadata() };
        let annotations =
            if options.annotate { provenance::annotations(&self.record) } else { BTreeMap::new() };
        WriteOptions {
            external: options.external,
            metadata,
            annotations,
            overwrite: options.overwrite,
        }
    }

    /// Writes the model as ONNX. It appears whole or not at all.
    ///
    /// # Errors
    /// When the output exists, is the input, or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<Written, Error> {
        let options = self.write_options(options);
        Ok(qcc_onnx::write(&self.graph, &self.source, path.as_ref(), &options)?)
    }

    /// Writes the model as ONNX of one file to a stream.
    ///
    /// # Errors
    /// When it does not fit into one file, or the stream takes no more.
    pub fn write_to(&self, out: &mut impl Write, options: &SaveOptions) -> Result<Written, Error> {
        let options = self.write_options(options);
        Ok(qcc_onnx::write_stream(&self.graph, &self.source, out, &options)?)
    }
}
