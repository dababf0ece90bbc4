//! The fuzz targets on their corpora, and on damaged copies of what is in them. A fuzz run looks
//! far longer; this one keeps the targets alive, and needs no nightly compiler.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qcc_tests::targets::{TARGETS, Target};

/// Damaged copies in all, for each target.
const CASES: u32 = 2000;

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|it| it.name == name).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn corpus(target: Target) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    files(&root.join(target.corpus)).iter().map(|it| fs::read(it).unwrap()).collect()
}

/// A change: where, of which kind, and with which byte.
type Edit = (Index, u8, u8);

fn damage(bytes: &mut Vec<u8>, edits: &[Edit], other: &[u8]) {
    for (at, kind, byte) in edits {
        let at = at.index(bytes.len() + 1);
        let len = usize::from(*byte) % 32;
        let end = (at + len).min(bytes.len());
        match kind % 8 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..end, other.iter().copied().skip(at).take(len))),
            4 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            5 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            _ if at < bytes.len() => bytes[at] = *byte,
            _ => {}
        }
    }
}

fn check(name: &str) {
    let target = target(name);
    let corpus = corpus(target);
    assert!(corpus.len() > 4, "{name} has no corpus");
    for bytes in &corpus {
        (target.run)(bytes);
    }
    let edits = prop::collection::vec(any::<Edit>(), 1..6);
    let strategy = (any::<Index>(), any::<Index>(), edits);
    // A fixed seed: what the gate finds, it finds every time.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new_with_rng(config, rng).run(&strategy, |(which, other, edits)| {
        let mut bytes = which.get::<Vec<u8>>(&corpus).clone();
        damage(&mut bytes, &edits, other.get::<Vec<u8>>(&corpus));
        (target.run)(&bytes);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{name}: {error}");
    }
}

#[test]
fn onnx_import() {
    check("onnx_import");
}

#[test]
fn onnx_compile() {
    check("onnx_compile");
}

#[test]
fn qir_parse() {
    check("qir_parse");
}

#[test]
fn npy_read() {
    check("npy_read");
}

#[test]
fn pass_pipeline() {
    check("pass_pipeline");
}

#[test]
fn every_target_has_its_program_and_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let here = include_str!("fuzz.rs");
    let programs = files(&root.join("tools/fuzz/fuzz_targets"));
    assert_eq!(programs.len(), TARGETS.len());
    for Target { name, .. } in TARGETS {
        let program = root.join(format!("tools/fuzz/fuzz_targets/{name}.rs"));
        assert!(fs::read_to_string(program).unwrap().contains(&format!("targets::{name}(")));
        assert!(here.contains(&format!("check(\"{name}\")")), "{name}");
    }
}
