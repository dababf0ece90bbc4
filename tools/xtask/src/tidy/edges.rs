//! Which crate of the workspace may depend on which.
//!
//! The arrows of the architecture, as a table. A new edge is a decision about the design: it
//! changes this table in the same commit. Kinds of dependency are not told apart, since a
//! dependency of tests alone still says that a crate knows another.

use cargo_metadata::Metadata;
use std::collections::BTreeMap;

/// Crate and what it may depend on, lower crates first.
type Table = [(&'static str, &'static [&'static str])];

const ALLOWED: &Table = &[
    ("qcc-diag", &[]),
    ("qcc-tensor", &["qcc-diag"]),
    ("qcc-quant", &[]),
    ("qcc-kernels", &["qcc-quant"]),
    ("qcc-codegen", &["qcc-quant", "qcc-kernels"]),
    ("qcc-kb", &["qcc-quant", "qcc-kernels", "qcc-codegen"]),
    ("qcc-ort", &["qcc-quant", "qcc-kernels", "qcc-codegen"]),
    ("qcc-ir", &["qcc-diag", "qcc-tensor"]),
    ("onnx-protobuf", &[]),
    // Its tests read ONNX's own operator tests; nothing else of it may know the messages.
    ("qcc-ops", &["qcc-diag", "qcc-tensor", "qcc-quant", "qcc-ir", "onnx-protobuf"]),
    ("qcc-onnx", &["qcc-diag", "qcc-tensor", "qcc-ir", "qcc-ops", "onnx-protobuf"]),
    // Its tests run models from files; nothing else of it may know ONNX or quantized numbers.
    ("qcc-exec", &["qcc-diag", "qcc-tensor", "qcc-quant", "qcc-ir", "qcc-ops", "qcc-onnx"]),
    // Kernels come from a trait: it does not know LLVM.
    (
        "qcc-engine",
        &["qcc-diag", "qcc-tensor", "qcc-quant", "qcc-kernels", "qcc-ir", "qcc-ops", "qcc-exec"],
    ),
    ("qcc-pass", &["qcc-diag", "qcc-tensor", "qcc-ir"]),
    ("qcc-data", &["qcc-diag", "qcc-tensor", "qcc-pass"]),
    ("qcc-report", &["qcc-diag"]),
    ("qcc-canonical", &["qcc-diag", "qcc-tensor", "qcc-ir", "qcc-ops", "qcc-pass"]),
    (
        "qcc-quantize",
        &["qcc-diag", "qcc-tensor", "qcc-quant", "qcc-ir", "qcc-ops", "qcc-exec", "qcc-pass"],
    ),
    ("qcc-lower", &["qcc-diag", "qcc-tensor", "qcc-quant", "qcc-ir", "qcc-ops", "qcc-pass"]),
    // The tests of the command make models that are wrong; nothing else of it may know the messages.
    (
        "qcc",
        &[
            "onnx-protobuf",
            "qcc-diag",
            "qcc-tensor",
            "qcc-quant",
            "qcc-ir",
            "qcc-ops",
            "qcc-exec",
            "qcc-kernels",
            "qcc-codegen",
            "qcc-engine",
            "qcc-onnx",
            "qcc-pass",
            "qcc-data",
            "qcc-report",
            "qcc-canonical",
            "qcc-quantize",
            "qcc-lower",
        ],
    ),
    (
        "qcc-opt",
        &[
            "qcc-diag",
            "qcc-tensor",
            "qcc-ir",
            "qcc-ops",
            "qcc-exec",
            "qcc-kernels",
            "qcc-engine",
            "qcc-onnx",
            "qcc-pass",
            "qcc",
        ],
    ),
    (
        "qcc-tests",
        &[
            "qcc-tensor",
            "qcc-quant",
            "qcc-ir",
            "qcc-ops",
            "qcc-kernels",
            "qcc-engine",
            "qcc-exec",
            "qcc-onnx",
            "qcc-pass",
            "qcc-quantize",
            "qcc-data",
            "onnx-protobuf",
            "qcc",
        ],
    ),
    ("xtask", &[]),
];

/// Names of workspace members by crate.
type Edges = BTreeMap<String, Vec<String>>;

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    compare(&edges(metadata), ALLOWED)
}

/// Dependencies by path, that is between members.
fn edges(metadata: &Metadata) -> Edges {
    let members = metadata.workspace_packages();
    members
        .iter()
        .map(|package| {
            let inner = package.dependencies.iter().filter(|dep| dep.path.is_some());
            let mut names: Vec<String> = inner.map(|dep| dep.name.clone()).collect();
            names.sort();
            names.dedup();
            (package.name.to_string(), names)
        })
        .collect()
}

fn compare(edges: &Edges, allowed: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (name, dependencies) in edges {
        let Some((_, may)) = allowed.iter().find(|(of, _)| of == name) else {
            found.push(format!("edges: crate '{name}' is not in the table"));
            continue;
        };
        let wrong = dependencies.iter().filter(|dependency| !may.contains(&dependency.as_str()));
        found.extend(wrong.map(|to| format!("edges: '{name}' may not depend on '{to}'")));
    }
    let gone = allowed.iter().filter(|(name, _)| !edges.contains_key(*name));
    found.extend(gone.map(|(name, _)| format!("edges: '{name}' is in the table only")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_outside_the_table_are_found() {
        let edges = Edges::from([
            ("a".into(), vec![]),
            ("b".into(), vec!["a".into()]),
            ("c".into(), vec!["a".into(), "b".into()]),
            ("d".into(), vec![]),
        ]);
        let allowed: &Table = &[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("e", &[])];
        assert_eq!(
            compare(&edges, allowed),
            [
                "edges: 'c' may not depend on 'a'",
                "edges: crate 'd' is not in the table",
                "edges: 'e' is in the table only",
            ]
        );
    }

    /// An entry names only crates above it, so the table itself allows no cycle.
    #[test]
    fn arrows_point_one_way() {
        for (i, (name, may)) in ALLOWED.iter().enumerate() {
            for to in *may {
                assert!(ALLOWED[..i].iter().any(|(above, _)| above == to), "{name} -> {to}");
            }
        }
    }
}
