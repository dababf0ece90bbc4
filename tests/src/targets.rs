//! What the fuzz targets in `tools/fuzz` do with their bytes. The tests run the same functions over
//! the corpora and over damaged copies of them, so that a target cannot rot between two fuzz runs.
//!
//! Each of them panics when a law is broken, and returns when the bytes are refused.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use qcc_data::{npy, npz};
use qcc_ir::text::{PrintOptions, no_bytes, parse, print_with};
use qcc_ir::{Attrs, Graph, OpRef, verify};
use qcc_onnx::{ReadOptions, WriteOptions};
use qcc_pass::Pipeline;
use tempfile::TempDir;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as `cargo fuzz` knows it.
    pub name: &'static str,
    /// Where its first inputs lie, from the root of the repository.
    pub corpus: &'static str,
    /// What it does.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "onnx_import", corpus: "tools/fuzz/corpus/onnx", run: onnx_import },
    Target { name: "onnx_compile", corpus: "tools/fuzz/corpus/onnx", run: onnx_compile },
    Target { name: "qir_parse", corpus: "lit-tests", run: qir_parse },
    Target { name: "npy_read", corpus: "tools/fuzz/corpus/npy", run: npy_read },
    Target { name: "pass_pipeline", corpus: "tools/fuzz/corpus/pipeline", run: pass_pipeline },
];

/// A model is refused, or it is a graph that holds what the verifier asks for. Unchanged it is
/// written as it was read. Written with metadata it reads back as the same graph.
///
/// # Panics
/// When that does not hold.
pub fn onnx_import(bytes: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("model.onnx");
        write(&path, bytes);
        let Ok(model) = qcc_onnx::read(&path, &ReadOptions::default()) else { return };
        check(&model.graph);

        let same = folder.join("same.onnx");
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        must(qcc_onnx::write(&model.graph, &model.source, &same, &options));
        // Nodes that are out of order are written in order.
        let is_sorted = !model.warnings.iter().any(|it| it.message.contains("topological order"));
        assert!(
            !is_sorted || read(&same) == bytes,
            "nothing was changed, but the bytes are others"
        );

        let changed = folder.join("changed.onnx");
        let metadata = vec![("key".to_owned(), "value".to_owned())];
        let options = WriteOptions { metadata, ..options };
        must(qcc_onnx::write(&model.graph, &model.source, &changed, &options));
        let back = must(qcc_onnx::read(&changed, &ReadOptions::default()));
        must(model.graph.same_as(&back.graph));
    });
}

/// A model is refused, or goes through the passes of the shortest recipe and reads back, or ends in
/// an error that is not a bug.
///
/// # Panics
/// When that does not hold.
pub fn onnx_compile(bytes: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("model.onnx");
        write(&path, bytes);
        let Ok(model) = qcc::Model::open(&path) else { return };
        let compiler = must(qcc::Compiler::new().recipe("rtn")).threads(1);
        let output = match compiler.run(&model) {
            Ok(it) => it,
            Err(error) => {
                let family = error.diagnostic().code.family();
                assert!(!matches!(family, "08" | "09"), "{error}");
                return;
            }
        };
        let path = folder.join("quantized.onnx");
        let options = qcc::SaveOptions { overwrite: true, ..qcc::SaveOptions::default() };
        match output.save(&path, &options) {
            Ok(_) => drop(must(qcc::Model::open(&path))),
            Err(error) => assert!(error.diagnostic().code.family() != "09", "{error}"),
        }
    });
}

/// A text is refused, or its graphs print as a text that reads back as the same graphs and prints
/// as itself.
///
/// # Panics
/// When that does not hold.
pub fn qir_parse(bytes: &[u8]) {
    let make = |domain: &str, op: &str, opset: i64, attrs: Attrs| -> Result<OpRef, String> {
        qcc_ops::parse(domain, op, opset, attrs).map_err(|it| it.to_string())
    };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let graphs = match parse(text, &make, &no_bytes) {
        Ok(it) => it,
        Err(error) => {
            let shown = error.diagnostic().to_string();
            assert!(shown.starts_with("error[QCC0306]"), "{shown}");
            return;
        }
    };
    let options = PrintOptions { inline_all: true };
    for graph in &graphs {
        check(graph);
        let text = print_with(graph, &options);
        let back = must(parse(&text, &make, &no_bytes));
        let [back] = back.as_slice() else { panic!("{} graphs from one", back.len()) };
        must(graph.same_as(back));
        assert_eq!(print_with(back, &options), text);
    }
}

/// An array file is refused, or its arrays are written as a file that reads back as the same
/// arrays.
///
/// # Panics
/// When that does not hold.
pub fn npy_read(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let mut arrays = npz::read(&bytes).unwrap_or_default();
    arrays.extend(npy::read(&bytes).ok().map(|it| (String::new(), it)));
    for (_, array) in arrays {
        let written = Bytes::from(must(npy::write(&array)));
        assert!(must(npy::read(&written)) == array, "{}{:?}", array.dtype(), array.dims());
    }
}

/// A pipeline is refused with a code, or prints as a text that is read as the same pipeline.
///
/// # Panics
/// When that does not hold.
pub fn pass_pipeline(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let passes = qcc::passes();
    match Pipeline::parse(text, &passes, &[]) {
        Ok(pipeline) => {
            let text = pipeline.to_string();
            let back = must(Pipeline::parse(&text, &passes, &[]));
            assert_eq!(back.to_string(), text);
        }
        Err(error) => assert_eq!(error.code.family(), "03", "{error}"),
    }
}

/// Invariants 1 to 9 hold. A file may say types that contradict its operators: `infer-types` judges
/// these.
fn check(graph: &Graph) {
    let found = verify(graph).into_iter().find(|it| it.invariant < 10);
    assert!(found.is_none(), "{found:?}");
}

fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|it| panic!("{it}"))
}

fn write(path: &Path, bytes: &[u8]) {
    // A file of its own: the last one may still be mapped.
    let _ = fs::remove_file(path);
    must(fs::write(path, bytes));
}

fn read(path: &Path) -> Vec<u8> {
    must(fs::read(path))
}

/// Runs in a folder that the thread keeps.
fn in_folder(run: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: TempDir = must(TempDir::new());
    }
    FOLDER.with(|it| run(it.path()));
}
