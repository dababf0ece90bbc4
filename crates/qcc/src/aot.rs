//! Machine code of a graph's products, for programs that link it: what `--emit` makes.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use qcc_codegen::{Architecture, Library, Output, Storage, Target, Targets};
use qcc_codegen::{CodegenError, LibraryProduct, ProductEnd};
use qcc_diag::{Diagnostic, codes};
use qcc_engine::weights::{LowBit, low_bit};
use qcc_engine::{End, Standing, ends};
use qcc_ir::{Graph, Node};
use qcc_kernels::{Matrix, MatrixError};
use qcc_quant::panel::PanelError;

use crate::Error;

/// Targets by their names with commas between them, as `--target` takes them.
///
/// # Errors
/// No target of a name; targets of two architectures; `native` in a build without LLVM.
pub fn targets(names: &str) -> Result<Targets, Error> {
    let all = names.split(',').map(target).collect::<Result<Vec<Target>, Error>>()?;
    Targets::new(&all).map_err(|error| match error {
        CodegenError::Architectures { .. } => {
            let text = "code for one architecture does not run on another";
            Diagnostic::error(codes::QCC0304, error.to_string())
                .at("option --target")
                .with_note(text)
                .with_help("run qcc once for each architecture, with another name for -o")
                .into()
        }
        other => refused(&other),
    })
}

fn target(name: &str) -> Result<Target, Error> {
    let wrong = |error: CodegenError| match error {
        CodegenError::UnknownTarget { name, known } => {
            let error = Diagnostic::error(codes::QCC0304, format!("no target is called '{name}'"))
                .at("option --target")
                .with_note(format!("there are {known}"));
            match nearest(&name) {
                Some(near) => error.with_help(format!("write '{near}'")).into(),
                None => error.into(),
            }
        }
        CodegenError::OldBase { ref extension, ref needs, .. } => {
            Diagnostic::error(codes::QCC0304, error.to_string())
                .at("option --target")
                .with_help(format!("write '{needs}+{extension}', or leave out '+{extension}'"))
                .into()
        }
        other => refused(&other),
    };
    Target::parse(name).map_err(wrong)
}

/// The target that was meant.
fn nearest(name: &str) -> Option<String> {
    let (bases, extensions): (Vec<&str>, Vec<&str>) = Target::names()
        .partition(|it| it.starts_with("x86") || *it == "native" || *it == "aarch64");
    let mut parts = name.split('+').map(str::trim);
    // Of names that are as near the newest.
    let base = parts.next().unwrap_or_default();
    let base = qcc_pass::nearest(base, bases.into_iter().rev())?;
    let more = parts.map(|part| qcc_pass::nearest(part, extensions.iter().copied()));
    let all: Option<Vec<&str>> = std::iter::once(Some(base)).chain(more).collect();
    all.map(|it| it.join("+")).filter(|it| Target::parse(it).is_ok())
}

/// Products of a graph that have low-bit weights, as a library whose symbols begin with `prefix`;
/// and what is left out of it.
///
/// # Errors
/// Nothing to make code for.
pub fn library(
    graph: &Graph,
    prefix: &str,
    targets: &Targets,
    storage: Storage,
) -> Result<(Library, Vec<Diagnostic>), Error> {
    let (mut products, mut left) = (Vec::<LibraryProduct>::new(), Vec::new());
    let mut packed = BTreeMap::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        let (first, mut standing) = (products.len(), Vec::new());
        for id in inner.topo() {
            let (Some(node), Some(found)) = (inner.node(id), low_bit(graph, &scope, id)) else {
                continue;
            };
            let name = name(node, products.len() + left.len());
            let product = found.map_err(|it| it.to_string()).and_then(|it| {
                let known = packed.get(&it.source).cloned();
                let (matrix, overlay) = match known {
                    Some(weight) => weight,
                    None => (packed_matrix(&it)?, it.overlay.map(Arc::new)),
                };
                packed.insert(it.source, (Arc::clone(&matrix), overlay.clone()));
                let LowBit { x, planes, bias, .. } = it;
                let has_bias = bias.is_some();
                standing.push(Standing { id, x, matrix: Arc::clone(&matrix), planes, has_bias });
                let name = name.clone();
                Ok(LibraryProduct { name, matrix, planes, bias, overlay, end: None })
            });
            match product {
                Ok(product) => products.push(product),
                Err(why) => left.push(
                    Diagnostic::warning(codes::QCC0703, format!("'{name}' is left out: {why}"))
                        .at(format!("node '{name}'")),
                ),
            }
        }
        // What the model does with their results.
        for (product, end) in products[first..].iter_mut().zip(ends(inner, &standing)) {
            product.end = end.map(|End { epilogue, bias, factor, .. }| ProductEnd {
                epilogue,
                bias,
                factor: factor.map(|it| first + it),
            });
        }
    }
    if products.is_empty() {
        let text = "the model has no product with a low-bit weight that a kernel takes";
        let mut error = Diagnostic::error(codes::QCC0702, text);
        for it in &left {
            error = error.with_note(it.message.clone());
        }
        let help = if left.is_empty() {
            "quantize it in the same run: leave out '-O none' or '--format fake'"
        } else {
            "the notes say what is wrong with its weights: quantize the float model again"
        };
        return Err(error.with_help(help).into());
    }
    Ok((Library::new(prefix, targets, storage, products), left))
}

/// What a product is called: as its node, or by its operator and number.
fn name(node: &Node, number: usize) -> String {
    let op = node.op().map_or("node", |it| it.name());
    if node.name.is_empty() { format!("{op}_{number}") } else { node.name.clone() }
}

fn packed_matrix(it: &LowBit) -> Result<Arc<Matrix>, String> {
    let text = |error: PanelError| error.to_string();
    let layout = it.weight.layout().map_err(text)?;
    let matrix = Matrix::pack(layout, &it.weight.weight.view());
    matrix.map(Arc::new).map_err(|error: MatrixError| error.to_string())
}

/// Code of a library in one form.
///
/// # Errors
/// A build without LLVM; too many weights for an object.
pub fn emit(library: &Library, output: Output) -> Result<Vec<u8>, Error> {
    qcc_codegen::emit_library(library, output).map_err(|it| refused(&it))
}

fn refused(error: &CodegenError) -> Error {
    let (code, help) = match error {
        CodegenError::NoLlvm => {
            (codes::QCC0701, "build qcc with its default features: tools/setup installs LLVM 22")
        }
        CodegenError::Load(_) => (codes::QCC0701, "install LLVM 22: tools/setup does"),
        CodegenError::TooLarge { .. } => (codes::QCC0701, "add --weights file"),
        CodegenError::Internal(_) => {
            let help = "report it with the command and, if you may, the model";
            (codes::QCC0901, help)
        }
        _ => (codes::QCC0701, "name another target with --target"),
    };
    Diagnostic::error(code, error.to_string()).with_help(help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_that_was_meant_is_named() {
        for (name, want) in [
            ("x86-64-v5", "x86-64-v4"),
            ("x86_64-v3", "x86-64-v3"),
            ("arch64+dotprd", "aarch64+dotprod"),
            ("nativ", "native"),
        ] {
            let error = target(name).unwrap_err();
            assert_eq!(error.code(), codes::QCC0304);
            let help = format!("write '{want}'");
            let text = format!("{:?}", error.diagnostic());
            // Without LLVM there is no native target to be named.
            assert!(text.contains(&help) || want == "native", "{text}");
        }
        assert!(target("aarch64+avx512vnni").is_err());
        assert_eq!(target("aarch64+i8mm").unwrap().name(), "aarch64+i8mm");
        assert_eq!(targets("x86-64,x86-64-v3").unwrap().to_string(), "x86-64-v3,x86-64");
        for names in ["x86-64-v3,aarch64", "aarch64,x86-64-v3,x86-64-v4", "x86-64-v3,"] {
            assert_eq!(targets(names).unwrap_err().code(), codes::QCC0304, "{names}");
        }
    }
}
