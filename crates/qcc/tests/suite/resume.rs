//! Tuning that is stopped and started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Bench, RTN, bundled};
#[cfg(target_os = "linux")]
use crate::{bench::Ran, outputs::catches_stops};

pub(crate) const TUNE: &[&str] = &[
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

pub(crate) fn bench() -> Bench {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    bench
}

/// The paths in a folder.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    listed.map(|it| it.path()).collect()
}

/// Finished blocks of all runs in a folder, by their place in it.
pub(crate) fn kept_in(bench: &Bench, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let runs = listed(&bench.path(folder));
    let entries = runs.iter().flat_map(|it| listed(it));
    // An entry may be gone before it is read.
    let read = entries.filter_map(|it| Some((it.clone(), std::fs::read(&it).ok()?)));
    let name = |it: &Path| it.strip_prefix(bench.path("")).unwrap().to_string_lossy().into_owned();
    read.filter(|it| it.0.extension().is_some_and(|it| it == "safetensors"))
        .map(|(path, bytes)| (name(&path), bytes))
        .collect()
}

fn kept(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    kept_in(bench, "out.onnx.work")
}

/// Runs until a block more is finished and kills it then; whether it was still running.
pub(crate) fn kill_behind_a_block(bench: &Bench, args: &[&str]) -> bool {
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
    let run = listed(&bench.path("out.onnx.work")).remove(0);
    std::fs::write(run.join(".tmpAb12Cd"), b"half").unwrap();
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
        bench.put(&name, &damaged);
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
    let count = kept_in(&bench, "kept").len();
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

/// [`TUNE`] with another number of steps.
fn tune(steps: &'static str) -> Vec<&'static str> {
    let mut args = TUNE.to_vec();
    args[2] = steps;
    args
}

const OTHER: &str = "signround{iters=5,batch=2}";

#[test]
fn blocks_of_another_run_are_found_under_any_name() {
    let bench = bench();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    let named = ["-f", "--work-dir", "kept"];
    bench.passes(&[TUNE, &named].concat());
    let own = kept_in(&bench, "kept");
    bench.passes(&[&tune(OTHER)[..], &named].concat());
    let mut foreign = kept_in(&bench, "kept");
    foreign.retain(|it, _| !own.contains_key(it));
    assert!(foreign.len() == own.len() && foreign.len() >= 4);
    // All of another run, and blocks of the same run that changed places.
    let file = |it: &str| Path::new(it).file_name().unwrap().to_owned();
    for name in own.keys() {
        let (_, bytes) = foreign.iter().find(|it| file(it.0) == file(name)).unwrap();
        bench.put(name, bytes);
    }
    bench.passes(&[TUNE, &named].concat());
    assert!(bench.read("out.onnx") == whole);
    let blocks: Vec<&String> = own.keys().filter(|it| it.contains("block-")).collect();
    for (name, from) in blocks.iter().zip(blocks.iter().rev()) {
        bench.put(name, &own[*from]);
    }
    bench.passes(&[TUNE, &named].concat());
    assert!(bench.read("out.onnx") == whole);
}

#[test]
fn unfinished_work_of_another_command_stays_until_it_is_dropped() {
    let bench = bench();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    assert!(kill_behind_a_block(&bench, TUNE));
    let before = kept(&bench);
    let loud = |args: &[&'static str]| {
        let args: Vec<&str> = args.iter().copied().filter(|it| *it != "-q").collect();
        bench.passes(&[&args[..], &["-f"]].concat()).stderr
    };
    let told = loud(RTN);
    assert!(told.contains("warning[QCC0507]"), "{told}");
    assert!(told.contains("batch 2") && told.contains("steps 4"), "{told}");
    let told = loud(&tune(OTHER));
    assert!(told.contains("warning[QCC0507]") && told.contains("differs in: steps 4"), "{told}");
    assert!(told.contains("begins anew: the work in 'out.onnx.work'"), "{told}");
    assert!(kept(&bench) == before);
    // The command that it is of goes on.
    let told = loud(TUNE);
    assert!(told.contains("signround       goes on at block ") && !told.contains("QCC0507"));
    assert!(bench.read("out.onnx") == whole);
    assert!(!bench.path("out.onnx.work").exists());

    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    assert!(kill_behind_a_block(&bench, TUNE));
    let told = loud(&[TUNE, &["--fresh"]].concat());
    assert!(!told.contains("goes on at block"), "{told}");
    assert!(bench.read("out.onnx") == whole);
    assert!(kill_behind_a_block(&bench, &[TUNE, &["-f"]].concat()));
    assert!(!loud(&[RTN, &["--fresh"]].concat()).contains("QCC0507"));
    assert!(!bench.path("out.onnx.work").exists());
}

#[test]
fn a_plan_says_what_the_blocks_are_of() {
    let bench = bench();
    assert!(kill_behind_a_block(&bench, TUNE));
    let run = listed(&bench.path("out.onnx.work")).remove(0);
    let plan: Value =
        serde_json::from_slice(&std::fs::read(run.join("plan.json")).unwrap()).unwrap();
    for (name, value) in [("seed", "42"), ("steps", "4"), ("batch", "2"), ("inputs", "quantized")] {
        assert_eq!(plan[name], value, "{plan:#}");
    }
    assert!(plan["weights"].as_str().unwrap().ends_with(" x 4 bits asym groups of 32"), "{plan:#}");
}

/// [`TUNE`] with longer samples: what they are behind a block takes more than the output.
#[cfg(unix)]
fn tune_long() -> Vec<&'static str> {
    let mut args = tune("signround{iters=4,batch=4}");
    let at = args.iter().position(|it| *it == "--seq-len").unwrap();
    (args[at - 1], args[at + 1]) = ("16", "256");
    args.retain(|it| *it != "-q");
    args
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_for_blocks_costs_no_output() {
    let bench = bench();
    let args = tune_long();
    bench.passes(&args);
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    let before = bench.files();
    let room = whole.len() as u64 / 512 + 1;
    let ran = bench.run_on_a_full_disk(room, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning[QCC0502]: finished blocks cannot be kept"));
    assert!(bench.read("out.onnx") == whole);
    assert!(!bench.path("out.onnx.work").exists());
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    // No room for anything: nothing is left.
    let written = &["out.onnx", "cannot be written"];
    bench.run_on_a_full_disk(1, &args).is_refusal(1, "QCC0105", written);
    assert!(before == bench.files(), "something was left behind");
}

#[cfg(unix)]
#[test]
fn blocks_are_kept_where_the_output_finds_no_room() {
    let bench = bench();
    bench.passes(TUNE);
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    let ran = bench.run_on_a_full_disk(whole.len() as u64 / 1024, TUNE);
    ran.is_refusal(1, "QCC0105", &["finished blocks are kept in 'out.onnx.work'"]);
    assert!(!bench.path("out.onnx").exists() && !kept(&bench).is_empty());
    let loud: Vec<&str> = TUNE.iter().copied().filter(|it| *it != "-q").collect();
    let told = bench.passes(&loud).stderr;
    assert!(
        told.contains("signround       4 of 4 blocks with weights are there already"),
        "{told}"
    );
    assert!(bench.read("out.onnx") == whole);
    assert!(!bench.path("out.onnx.work").exists());
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_for_activations_ends_the_run() {
    let bench = bench();
    let mut args = tune_long();
    args[2] = "signround{iters=1,batch=128}";
    let at = args.iter().position(|it| *it == "-n").unwrap();
    args[at + 1] = "128";
    let before = bench.files();
    let refused = bench.run(&[&args[..], &["--max-mem", "5MB"]].concat()).stderr;
    let (_, least) = refused.split_once("raise it to ").unwrap();
    let least = least.split_once(',').unwrap().0;
    let ran = bench.run_on_a_full_disk(64, &[&args[..], &["--max-mem", least]].concat());
    ran.is_refusal(
        1,
        "QCC0502",
        &["no room for what the samples are in a block", "TMPDIR", "raise --max-mem", "note: '"],
    );
    assert!(before == bench.files(), "something was left behind");
}
