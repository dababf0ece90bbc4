//! Reading graphs.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, text};
use qcc_onnx::ReadOptions;

use crate::stored::Files;

/// Graphs, and the opset that their model imports.
pub(crate) struct Input {
    pub(crate) graphs: Vec<Graph>,
    pub(crate) opset: i64,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Reads a file, or stdin; what a text names is in the folder `files`, or beside the text.
///
/// # Errors
/// When it cannot be read or is neither text nor a model.
pub(crate) fn read(path: Option<&Path>, files: Option<&Path>) -> Result<Input, Box<Diagnostic>> {
    let path = path.filter(|it| *it != Path::new("-"));
    let has_ending =
        |ending: &str| path.is_some_and(|it| it.extension().is_some_and(|it| it == ending));
    if let Some(path) = path.filter(|_| has_ending("onnx")) {
        let model = qcc_onnx::read(path, &ReadOptions::default());
        let model = model.map_err(|it| Box::new(Diagnostic::from(it)))?;
        let opset = model.source.opset("").unwrap_or(text::DEFAULT_OPSET);
        return Ok(Input { graphs: vec![model.graph], opset, warnings: model.warnings });
    }
    let name = path.map_or("<stdin>".to_owned(), |it| it.display().to_string());
    let source = match path {
        Some(path) => fs::read_to_string(path),
        None => io::read_to_string(io::stdin().lock().by_ref()),
    };
    let source = source.map_err(|it| {
        Box::new(Diagnostic::error(codes::QCC0101, format!("'{name}' cannot be read: {it}")))
    })?;
    let graphs = parse(&name, &source, &Files::of(path, files))?;
    Ok(Input { graphs, opset: text::DEFAULT_OPSET, warnings: Vec::new() })
}

fn parse(name: &str, source: &str, files: &Files) -> Result<Vec<Graph>, Box<Diagnostic>> {
    let make = |domain: &str, op: &str, opset, attrs| {
        qcc_ops::parse(domain, op, opset, attrs).map_err(|it| it.to_string())
    };
    text::parse(source, &make, &|it| files.load(it)).map_err(|error| {
        let mut it = error.diagnostic();
        it.place = it.place.map(|place| format!("{name}:{place}"));
        Box::new(it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_names_the_file() {
        let error = parse("a.qir", "graph @g() -> () {\n  %y = Neg(%x)\n}", &Files::of(None, None));
        let error = error.unwrap_err();
        assert_eq!(error.place.as_deref(), Some("a.qir:2:12"));
        assert_eq!(error.code, codes::QCC0306);
    }

    #[test]
    fn a_file_that_is_not_there() {
        let error = read(Some(Path::new("not/there.qir")), None).err().unwrap();
        assert_eq!(error.code, codes::QCC0101);
        let error = read(Some(Path::new("not/there.onnx")), None).err().unwrap();
        assert_eq!(error.code, codes::QCC0101);
    }
}
