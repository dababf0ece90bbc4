//! Tuning that is stopped and started again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Bench, bundled};
#[cfg(target_os = "linux")]
use crate::{bench::Ran, outputs::catches_stops};

const TUNE: &[&str] = &[
    "in.onnx",
    "-O",
    "signround{iters=4,batch=2}",
    "--calib",
    "calib.npy",
    "-n",
    "8",
    "--seq-len",
    "64",
    "-o",
    "out.onnx",
    "-q",
];

fn bench() -> Bench {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    bench
}

/// Finished blocks, by name.
fn kept(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let listed = std::fs::read_dir(bench.path("out.onnx.work"));
    let entries = listed.into_iter().flatten().flatten();
    // An entry may be gone before it is read.
    let read = entries.filter_map(|it| Some((it.path(), std::fs::read(it.path()).ok()?)));
    read.filter(|it| it.0.extension().is_some_and(|it| it == "safetensors"))
        .map(|(path, bytes)| (path.file_name().unwrap().to_string_lossy().into_owned(), bytes))
        .collect()
}

/// Runs until a block more is finished and kills it then; whether it was still running.
fn kill_behind_a_block(bench: &Bench, args: &[&str]) -> bool {
    let before: Vec<String> = kept(bench).into_keys().collect();
    let mut run = bench.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        if run.try_wait().unwrap().is_some() {
            return false;
        }
        if kept(bench).into_keys().any(|it| !before.contains(&it)) {
            run.kill().unwrap();
            run.wait().unwrap();
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_that_is_killed_goes_on_and_gives_the_same_bytes() {
    let bench = bench();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    assert!(kept(&bench).is_empty() && !bench.path("out.onnx.work").exists());
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    let mut kills = 0;
    while kill_behind_a_block(&bench, TUNE) {
        kills += 1;
        assert!(!bench.path("out.onnx").exists() && kills < 50);
    }
    assert!(kills >= 3, "{kills} kills");
    assert!(bench.read("out.onnx") == whole);
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    // What a run that was stopped in the middle of writing leaves goes as well.
    assert!(kill_behind_a_block(&bench, TUNE));
    bench.put("out.onnx.work/.tmpAb12Cd", b"half");
    bench.passes(TUNE);
    assert!(bench.read("out.onnx") == whole);
    assert!(!bench.path("out.onnx.work").exists());
}

#[test]
fn a_run_that_goes_on_records_what_a_whole_one_does() {
    let bench = bench();
    let args = [TUNE, &["-f", "--record", "record.json"]].concat();
    let told = || {
        bench.passes(&args);
        let record: Value = serde_json::from_slice(&bench.read("record.json")).unwrap();
        let weights = record["weights"].as_array().unwrap().iter();
        let activations: Vec<Value> = weights.map(|it| it["activations"].clone()).collect();
        (record["blocks"].clone(), activations)
    };
    let whole = told();
    assert!(whole.0.as_array().unwrap().len() >= 3 && whole.1.iter().any(Value::is_object));
    for _ in 0..2 {
        assert!(kill_behind_a_block(&bench, &args));
    }
    assert_eq!(told(), whole);
}

#[test]
fn blocks_that_run_side_by_side_are_kept_as_well() {
    let bench = bench();
    let with = |threads: &'static str| {
        let mut args = [TUNE, &[threads]].concat();
        args[2] = "signround{iters=4,batch=2,inputs=float}";
        args
    };
    bench.passes(&with("-j1"));
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    // Another number of threads goes on where the one before was stopped.
    let mut kills = 0;
    while kill_behind_a_block(&bench, &with(["-j2", "-j1", "-j3"][kills % 3])) {
        kills += 1;
        assert!(!bench.path("out.onnx").exists() && kills < 50);
    }
    assert!(kills >= 2, "{kills} kills");
    assert!(bench.read("out.onnx") == whole);
    assert!(!bench.path("out.onnx.work").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn blocks_that_run_side_by_side_stop_when_they_are_asked_to() {
    let bench = bench();
    let mut args = [TUNE, &["-j2"]].concat();
    args[2] = "signround{iters=10000,batch=2,inputs=float}";
    let mut command = bench.in_foreground(&args);
    let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = run.id().to_string();
    while !catches_stops(&id) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(700));
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    let ran = Ran::from(run.wait_with_output().unwrap());
    ran.is_refusal(130, "QCC0509", &[]);
    assert!(!bench.path("out.onnx").exists() && kept(&bench).is_empty());
}

#[test]
fn damaged_blocks_are_made_again() {
    let bench = bench();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    assert!(kill_behind_a_block(&bench, TUNE) && kill_behind_a_block(&bench, TUNE));
    let found = kept(&bench);
    assert!(!found.is_empty());
    for (number, (name, bytes)) in found.into_iter().enumerate() {
        let mut damaged = bytes;
        match number % 2 {
            0 => *damaged.last_mut().unwrap() ^= 1,
            _ => damaged.truncate(damaged.len() / 2),
        }
        bench.put(&format!("out.onnx.work/{name}"), &damaged);
    }
    bench.passes(TUNE);
    assert!(bench.read("out.onnx") == whole);
}

#[test]
fn a_named_folder_stays_and_one_that_cannot_be_made_is_no_hindrance() {
    let bench = bench();
    let named = |folder| [TUNE, &["-f", "--work-dir", folder]].concat();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    bench.passes(&named("kept"));
    assert!(bench.read("out.onnx") == whole);
    let count = std::fs::read_dir(bench.path("kept")).unwrap().count();
    assert!(count >= 4, "{count} entries");
    bench.passes(&named("kept"));
    assert!(bench.read("out.onnx") == whole);
    // Other options find nothing there.
    let mut other = named("kept");
    other[2] = "signround{iters=5,batch=2}";
    bench.passes(&other);
    assert!(bench.read("out.onnx") != whole);
    // The folder would be where a file is.
    let ran = bench.run(&named("in.onnx"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(bench.read("out.onnx") == whole);
}
