//! ONNX's own operator tests, run through `parse`, `infer` and `eval`.
//!
//! `tools/py/gen_node_tests.py` writes them with the `onnx` package of `QCC_PYTHON` (by default the
//! interpreter in `.venv`). What passes and what is left out, and why, stands in
//! `tests/node_cases.txt`; the test fails when a case gives a wrong result, and when that list is
//! no longer true. `QCC_BLESS=1` writes it anew.

#[cfg(test)]
mod case;
#[cfg(test)]
mod decode;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use case::{Outcome, run};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of cases, made when it is not there; `None` without a Python that has `onnx`.
fn folder() -> Option<PathBuf> {
    let root = root();
    let python =
        std::env::var_os("QCC_PYTHON").map_or_else(|| root.join(".venv/bin/python"), PathBuf::from);
    let out = root.join("target/node-tests");
    let script = root.join("tools/py/gen_node_tests.py");
    let status = Command::new(python).arg(script).arg("--out").arg(&out).status();
    status.is_ok_and(|it| it.success()).then_some(out)
}

#[test]
fn onnx_operator_tests() {
    let Some(folder) = folder() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "QCC_PYTHON has no onnx package");
        let why = "QCC_PYTHON names no Python with the onnx package";
        // What a test prints is shown only if it fails; this is not.
        let _ = writeln!(std::io::stderr(), "not run here: operator tests of ONNX: {why}");
        return;
    };
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let cases = index["cases"].as_object().unwrap();

    let mut counts = BTreeMap::<String, usize>::new();
    let (mut skipped, mut failed, mut passed) = (String::new(), String::new(), 0);
    for (name, entry) in cases {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&folder.join(name), entry)))
            .unwrap_or_else(|_| Outcome::Fail("panicked".into()));
        match outcome {
            Outcome::Pass => {
                passed += 1;
                for op in entry["ops"].as_array().unwrap() {
                    *counts.entry(op.as_str().unwrap().into()).or_default() += 1;
                }
            }
            Outcome::Skip(why) => writeln!(skipped, "{name}: {why}").unwrap(),
            Outcome::Fail(why) => writeln!(failed, "{name}: {why}").unwrap(),
        }
    }

    let mut list = format!(
        "# ONNX {} operator tests: {passed} of {} pass. Written by QCC_BLESS=1 cargo test.\n\n\
         # Operators with the number of passing cases that they are in.\n",
        index["onnx"].as_str().unwrap(),
        cases.len(),
    );
    for (op, count) in counts {
        writeln!(list, "{op} {count}").unwrap();
    }
    write!(list, "\n# Cases that are left out.\n{skipped}").unwrap();
    assert!(failed.is_empty(), "{} cases fail:\n{failed}", failed.lines().count());

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_cases.txt");
    if std::env::var_os("QCC_BLESS").is_some() {
        std::fs::write(path, list).unwrap();
        return;
    }
    let claimed = std::fs::read_to_string(path).unwrap_or_default();
    for line in list.lines().filter(|it| !claimed.lines().any(|other| other == *it)) {
        println!("now:     {line}");
    }
    for line in claimed.lines().filter(|it| !list.lines().any(|other| other == *it)) {
        println!("claimed: {line}");
    }
    assert!(claimed == list, "tests/node_cases.txt is not true any more: run with QCC_BLESS=1");
}
