//! `gen`: the Rust side of `crates/onnx-protobuf/proto/*.proto`, and the table of licences that
//! `qcc version` prints.
//!
//! protox compiles the schema without `protoc`, prost-build writes the message types, `table`
//! writes the field table, rustfmt gives both the form in which they are committed. Only
//! `TensorProto.raw_data` becomes `Bytes`, so that decoding from a mapped file copies no tensor;
//! everything else is small and keeps its plain type.

use crate::{Outcome, licenses, table};
use prost_types::FileDescriptorSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const CRATE: &str = "crates/onnx-protobuf";
const PROTOS: [&str; 2] = ["onnx.proto", "onnx-data.proto"];

const LICENSES: &str = "crates/qcc/src/cli/licenses.txt";

const TYPES_HEADER: &str = "\
//! The messages of `proto/*.proto`.
//!
//! Written by `cargo xtask gen`; change the schema and run it again.

";

/// A generated file: its path below the workspace root and its text.
struct Generated {
    path: String,
    text: String,
}

/// Writes the generated files that differ from what is there.
///
/// # Errors
/// When the schema does not compile, rustfmt is missing, or a file cannot be written.
pub(crate) fn write(root: &Path) -> Outcome {
    for file in generated(root)? {
        if is_fresh(root, &file) {
            continue;
        }
        fs::write(root.join(&file.path), &file.text)?;
        println!("wrote {}", file.path);
    }
    Ok(())
}

/// Compares the committed files with what their sources give.
///
/// # Errors
/// Names every stale file.
pub(crate) fn check(root: &Path) -> Outcome {
    let stale: Vec<String> = generated(root)?
        .into_iter()
        .filter(|file| !is_fresh(root, file))
        .map(|file| file.path)
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("stale: {}; run `cargo xtask gen`", stale.join(", ")).into())
}

fn is_fresh(root: &Path, file: &Generated) -> bool {
    fs::read_to_string(root.join(&file.path)).is_ok_and(|committed| committed == file.text)
}

fn generated(root: &Path) -> Outcome<Vec<Generated>> {
    let set = protox::compile(PROTOS, [root.join(CRATE).join("proto")])?;
    let fields = table::write(&set)?;
    let types = message_types(set)?;
    Ok(vec![
        Generated { path: format!("{CRATE}/src/generated.rs"), text: rustfmt(root, &types)? },
        Generated { path: format!("{CRATE}/src/fields.rs"), text: rustfmt(root, &fields)? },
        Generated { path: LICENSES.to_owned(), text: licenses::table(&licenses::metadata(root)?)? },
    ])
}

fn message_types(set: FileDescriptorSet) -> Outcome<String> {
    let requests = set
        .file
        .into_iter()
        .map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file))
        .collect();
    let modules =
        prost_build::Config::new().bytes([".onnx.TensorProto.raw_data"]).generate(requests)?;
    let mut texts = modules.into_values();
    match (texts.next(), texts.next()) {
        (Some(text), None) => Ok(format!("{TYPES_HEADER}{text}")),
        _ => Err("the schema must have exactly one package".into()),
    }
}

fn rustfmt(root: &Path, text: &str) -> Outcome<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout", "--config-path"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run rustfmt: {error}"))?;
    // rustfmt reads all of its input before it writes, so the pipes cannot block each other.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("rustfmt failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_files_are_fresh() {
        check(&crate::workspace_root()).unwrap();
    }

    #[test]
    fn a_changed_file_is_stale() {
        let root = crate::workspace_root();
        let mut file = generated(&root).unwrap().remove(0);
        assert!(is_fresh(&root, &file));
        file.text.push('\n');
        assert!(!is_fresh(&root, &file));
    }
}
