//! Places that cannot be written, disks that are full, and runs that are stopped. An output is
//! there as a whole or not at all.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::{Bench, RTN, Ran, bundled, good, model};

const CODE: &str = "QCC0105";

#[test]
fn places_that_cannot_be_written() {
    let bench = Bench::new(&model(good()));
    bench.put("file", b"");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for (path, text) in [
        ("file/out.onnx", "file/out.onnx' cannot be written"),
        ("none/out.onnx", "none/out.onnx' cannot be written"),
        ("folder", "'folder' cannot be written: it is not a file"),
        ("folder/", "cannot be written"),
    ] {
        let args = ["in.onnx", "-O", "rtn", "-f", "-o", path];
        let ran = bench.refused(&args, 1, CODE, &[text, "help: choose another"]);
        assert!(!ran.stderr.contains(".tmp"), "{}", ran.stderr);
    }
    bench.refused(
        &["in.onnx", "-O", "rtn", "-f", "-o", "in.onnx"],
        1,
        "QCC0107",
        &["is the input model"],
    );
    bench.put("there.onnx", b"precious");
    bench.refused(&["in.onnx", "-O", "rtn", "-o", "there.onnx"], 1, "QCC0106", &["help: add -f"]);
}

#[cfg(target_os = "linux")]
#[test]
fn devices_and_the_systems_own_folders() {
    use std::os::unix::fs::FileTypeExt as _;
    let bench = Bench::new(&model(good()));
    // A link, so that a mistake would replace the link and not the device.
    std::os::unix::fs::symlink("/dev/full", bench.path("full")).unwrap();
    for path in ["full", "/proc/out.onnx"] {
        let args = ["in.onnx", "-O", "rtn", "-f", "-o", path];
        bench.refused(&args, 1, CODE, &[path, "help: choose another"]);
    }
    assert!(bench.path("full").metadata().unwrap().file_type().is_char_device());

    // The summary cannot be written: an error, but the model is whole.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::from(bench.command(RTN).stdout(full).stderr(Stdio::piped()).output().unwrap());
    ran.is_refusal(1, CODE, &["the output stream cannot be written"]);
    qcc::Model::open(bench.path("out.onnx")).unwrap();
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(&model(good()));
    let folder = bench.path("locked");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
    if std::fs::write(folder.join("probe"), b"").is_ok() {
        std::fs::remove_file(folder.join("probe")).unwrap();
        return; // root writes anywhere
    }
    let args = ["in.onnx", "-O", "rtn", "-o", "locked/out.onnx"];
    bench.refused(&args, 1, CODE, &["Permission denied", "help: choose another folder"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_becomes_full() {
    let bench = Bench::new(&bundled());
    bench.put("out.onnx", b"precious");
    let before = bench.files();
    for external in ["never", "always"] {
        for blocks in [0, 1, 300, 2500] {
            let args = [RTN, &["-f", "--external-data", external]].concat();
            let ran = bench.run_on_a_full_disk(blocks, &args);
            ran.is_refusal(1, CODE, &["out.onnx", "cannot be written", "help: "]);
            assert!(before == bench.files(), "{external} {blocks}: something was left behind");
        }
    }
}

/// The model is smaller than what tells of it.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_for_what_tells_of_the_run() {
    for option in ["--record=told", "--report=told"] {
        for before in [None, Some(b"precious")] {
            let bench = Bench::new(&model(good()));
            if let Some(bytes) = before {
                bench.put("told", bytes);
            }
            let ran = bench.run_on_a_full_disk(12, &[RTN, &["-f", option]].concat());
            ran.is_refusal(1, CODE, &["'told' cannot be written", "'out.onnx' is written"]);
            let mut files = bench.files();
            assert!(files.remove("out.onnx").is_some() && files.remove("in.onnx").is_some());
            let want = before.map(|it| ("told".to_owned(), it.to_vec()));
            assert_eq!(files, want.into_iter().collect(), "{option}");
        }
    }
}

#[test]
fn a_run_that_is_killed_leaves_no_part_of_an_output() {
    let bench = Bench::new(&bundled());
    let start = Instant::now();
    bench.passes(RTN);
    let whole_run = start.elapsed();
    let whole = bench.read("out.onnx");
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    let input = bench.read("in.onnx");
    // Late kills fall into the writing.
    for percent in [5, 40, 70, 85, 90, 95, 98, 100] {
        let mut run =
            bench.command(RTN).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole_run * percent / 100);
        run.kill().unwrap();
        run.wait().unwrap();
        if let Ok(found) = std::fs::read(bench.path("out.onnx")) {
            assert!(found == whole, "{percent} %: {} of {} bytes", found.len(), whole.len());
            std::fs::remove_file(bench.path("out.onnx")).unwrap();
        }
        assert!(bench.read("in.onnx") == input);
    }
    // What is left has a name that no model has, and does not stand in the way.
    let left = bench.files().into_keys().filter(|it| it != "in.onnx");
    assert!(left.into_iter().all(|it| it.starts_with(".qcc-") && it.ends_with(".tmp")));
    bench.passes(RTN);
    assert!(bench.read("out.onnx") == whole);
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_run_leaves_nothing() {
    for signal in ["-INT", "-TERM"] {
        let bench = Bench::new(&bundled());
        let before = bench.files();
        let args = ["in.onnx", "-O", "signround", "-o", "out.onnx", "-q"];
        stopped(&bench, &args, signal).is_refusal(130, "QCC0509", &[]);
        assert!(before == bench.files(), "something was left behind");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_measurement_that_is_stopped_says_so() {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    let samples = folder.join("calib.npy");
    let data = ["--data", samples.to_str().unwrap()];
    for args in [&["compare", "in.onnx", "in.onnx", "--all"][..], &["eval", "in.onnx"]] {
        stopped(&bench, &[args, &data].concat(), "-INT").is_refusal(130, "QCC0509", &[]);
    }
}

/// Runs a command that takes long, and sends it a signal.
#[cfg(target_os = "linux")]
fn stopped(bench: &Bench, args: &[&str], signal: &str) -> Ran {
    let mut command = bench.in_foreground(args);
    let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = run.id().to_string();
    // Until then the signal would end the process, which leaves nothing either.
    while !catches_stops(&id) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    let sent = std::process::Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(sent.success());
    Ran::from(run.wait_with_output().unwrap())
}

/// Whether a process catches both `SIGINT` and `SIGTERM`.
#[cfg(target_os = "linux")]
pub(crate) fn catches_stops(process: &str) -> bool {
    const BOTH: u64 = 1 << 1 | 1 << 14;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    // A process that is over has no such line.
    let mask = status.lines().find_map(|it| it.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() & BOTH == BOTH
}
