//! What is known to go wrong before any work is said before it, in every recipe.

use std::path::Path;

use crate::bench::{Bench, bundled};

/// A recipe that would take its time.
const LONG: &[&str] = &["-O", "signround{iters=10000}", "--calib", "calib.npy", "-n", "16"];

fn bench() -> Bench {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    bench
}

#[test]
fn what_the_format_cannot_carry() {
    let bench = bench();
    let refused = |more: &[&str], texts: &[&str]| {
        let args = [&["in.onnx", "-o", "out.onnx"], LONG, more].concat();
        bench.refused(&args, 1, "QCC0305", texts)
    };
    let ran = refused(&["--scale-type", "f16"], &["help: leave out --scale-type"]);
    assert!(!ran.stderr.contains("--exclude"), "{}", ran.stderr);
    refused(&["--scale-type", "f16", "--format", "qdq"], &["help: leave out --scale-type"]);
    refused(&["--format", "function", "-b7"], &["has 7 bits", "(-b 8)"]);
    refused(&["--format", "function", "-g", "20"], &["groups of 20", "-g 16"]);
    refused(&["-g", "20"], &["groups of 20", "help: --format function"]);
    for format in ["qdq", "function"] {
        let more = ["--format", format, "--embeddings", "4"];
        let ran = refused(&more, &["help: leave out --embeddings", "--format nbits"]);
        assert!(!ran.stderr.contains("--exclude"), "{}", ran.stderr);
    }
    // Whole pipelines are looked at as well.
    let passes = "infer-types,select{scale=bf16},signround{iters=10000},pack,to-nbits";
    let args = ["in.onnx", "-o", "out.onnx", "--passes", passes];
    bench.refused(&[&args[..], &LONG[2..]].concat(), 1, "QCC0305", &["its scales are bf16"]);
}

#[test]
fn places_that_cannot_be_written() {
    let bench = bench();
    bench.put("file", b"");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for recipe in [LONG, &["-O", "rtn"]] {
        let refused = |more: &[&str], code: &str, texts: &[&str]| {
            bench.refused(&[&["in.onnx"], recipe, more].concat(), 1, code, texts)
        };
        refused(&["-o", "in.onnx", "-f"], "QCC0107", &["is the input model"]);
        for place in ["none/out.onnx", "none/deep/out.onnx", "file/out.onnx", "folder"] {
            refused(&["-f", "-o", place], "QCC0105", &[place, "help: choose another"]);
        }
        for option in ["--json", "--record", "--report"] {
            for place in ["none/it", "file/it", "folder"] {
                let option = format!("{option}={place}");
                refused(&["-f", "-o", "out.onnx", &option], "QCC0105", &[place]);
            }
        }
        refused(&["--emit", "obj", "-o", "none/out.o"], "QCC0105", &["none/out.o"]);
    }
    bench.put("out.onnx.data", b"precious");
    let args = ["in.onnx", "-o", "out.onnx", "--external-data", "always"];
    bench.refused(&[&args[..], LONG].concat(), 1, "QCC0106", &["out.onnx.data"]);
}

#[test]
fn options_that_would_do_nothing() {
    let bench = bench();
    for (recipe, option) in [
        (&["-O", "rtn"][..], &["--budget", "1s"][..]),
        (&["-O", "gptq"], &["--preset", "best"]),
        (&["-O", "rtn"], &["--tune-scales", "2"]),
        (&["-O", "kl"], &["--tune-norms"]),
        (&["-O", "gptq"], &["--iters", "5"]),
        (&["-O", "rtn"], &["--batch-size", "5"]),
        (&[], &["--budget", "1s"]),
        (&["--passes", "infer-types,select,rtn,pack,to-nbits"], &["--preset", "fast"]),
    ] {
        let args = [&["in.onnx", "-o", "out.onnx"], recipe, option].concat();
        let place = format!("--> option {}", option[0]);
        bench.refused(&args, 2, "QCC0304", &[&place, "does nothing", "help: -O signround"]);
    }
    for recipe in ["rtn", "kl", "gptq"] {
        let args = ["in.onnx", "-o", "out.onnx", "-O", recipe, "--work-dir", "w"];
        bench.refused(&args, 2, "QCC0304", &["--work-dir does nothing", "help: -O signround"]);
    }
    for (recipe, option, texts) in [
        ("rtn", &["-n", "5"][..], &["--samples does nothing: no pass", "help: -O kl"][..]),
        ("signround", &["-n", "5"], &["--samples does nothing without --calib", "--calib self"]),
        ("kl", &["--seq-len", "5"], &["--seq-len does nothing without --calib"]),
        (
            "kl",
            &["--calib", "calib.npy", "--tokenizer", "none.json"],
            &["--tokenizer does nothing", ".txt and .jsonl"],
        ),
    ] {
        let args = [&["in.onnx", "-o", "out.onnx", "-O", recipe], option].concat();
        bench.refused(&args, 2, "QCC0304", texts);
    }
    let rate = ["in.onnx", "-o", "out.onnx", "-O", "signround", "--lr", "0"];
    bench.refused(&rate, 2, "QCC0302", &["'lr'", "not '0'"]);
    let both = ["in.onnx", "-o", "out.onnx", "-O", "signround", "--iters", "5", "--budget", "1m"];
    bench.refused(&both, 2, "QCC0304", &["--iters does nothing beside --budget"]);
    let given = ["in.onnx", "-o", "out.onnx", "-O", "signround{start=given}"];
    bench.refused(&given, 2, "QCC0302", &["has nothing to start from", "help: put rtn"]);
    let qdq = ["in.onnx", "-O", "rtn", "-o", "out.onnx", "--format", "qdq"];
    let level = ["--accuracy-level", "1"];
    bench.refused(&[&qdq[..], &level].concat(), 2, "QCC0304", &["help: --format nbits"]);
    for option in
        [&["--group-size", "64"][..], &["--sym"], &["--exclude", "x"], &["--lm-head", "8"]]
    {
        let args = [&["in.onnx", "-o", "out.onnx", "-O", "none"], option].concat();
        bench.refused(&args, 2, "QCC0304", &[option[0], "does nothing"]);
    }
    for option in [["--target", "x86-64"], ["--weights", "file"], ["--linker", "cc"]] {
        let args = [&["in.onnx", "-o", "out.onnx", "-O", "rtn"], &option[..]].concat();
        let texts = &[option[0], "does nothing: no ", " is written"];
        bench.refused(&args, 2, "QCC0304", texts);
    }
    let linker = ["in.onnx", "-O", "rtn", "--emit", "obj,header", "--linker", "cc"];
    bench.refused(&linker, 2, "QCC0304", &["--linker does nothing: no shared library is written"]);
    let passes = "infer-types,select,rtn,pack,to-nbits";
    for option in [
        &["-O", "rtn"][..],
        &["-b", "3"],
        &["--scheme", "W4A16"],
        &["-g", "64"],
        &["--sym"],
        &["--asym"],
        &["--scale-type", "f16"],
        &["--format", "qdq"],
        &["--accuracy-level", "1"],
        &["--embeddings", "8"],
        &["--lm-head", "8"],
        &["--include", "x"],
        &["--exclude", "x"],
        &["--set", "x:skip"],
        &["--op-types", "Gemm"],
    ] {
        let args = [&["in.onnx", "-o", "out.onnx", "--passes", passes], option].concat();
        bench.refused(&args, 2, "QCC0304", &["cannot be used with", "--passes"]);
    }
    let none = ["--tune-norms", "--tune-scales", "0"];
    let args = [&["in.onnx", "-o", "out.onnx"], LONG, &none].concat();
    bench.refused(&args, 2, "QCC0304", &["0 steps"]);
}

#[test]
fn more_threads_than_any_machine_has() {
    let bench = bench();
    for args in [
        &["in.onnx", "-O", "rtn", "-o", "out.onnx", "-j", "1025"][..],
        &["run", "in.onnx", "--ids", "1", "-t", "99999"],
        &["bench", "in.onnx", "-t", "99999"],
    ] {
        bench.refused(args, 2, "QCC0304", &["from 1 to 1024"]);
    }
}

/// The pipeline that a dry run prints.
fn pipeline(bench: &Bench, args: &[&str]) -> String {
    let ran = bench.passes(&[&["in.onnx", "--dry-run", "-o", "out.onnx"], args].concat());
    let line = ran.stderr.lines().find(|it| it.trim_start().starts_with("pipeline")).unwrap();
    line.to_owned()
}

#[test]
fn levels_and_options_of_tuning() {
    let bench = bench();
    let samples = ["--calib", "calib.npy", "-n", "4", "--seq-len", "16"];
    let of = |args: &[&str]| pipeline(&bench, &[args, &samples].concat());
    assert!(pipeline(&bench, &["-O0"]).contains(",rtn,"));
    let unread = ["in.onnx", "-o", "out.onnx", "-O0", "--calib", "calib.npy"];
    bench.refused(&unread, 2, "QCC0304", &["--> option --calib", "does nothing"]);
    assert!(of(&["-O1"]).contains(",kl-precalibrate"));
    let light = of(&["-O2"]);
    assert!(light.contains("preset=light") && light.contains("tune-scales{iters=0"), "{light}");
    let best = of(&["-O3"]);
    assert!(best.contains("preset=best") && best.contains("tune-scales{iters=150"), "{best}");
    assert_eq!(best, of(&["-O", "signround", "--preset", "best"]));
    assert!(of(&["-O3", "--preset", "fast"]).contains("preset=fast"));
    let few = of(&["-O", "3{preset=fast}"]);
    assert!(few.contains("preset=fast") && few.contains("tune-scales{iters=0"), "{few}");
    let given = of(&["-O2", "--iters", "5", "--batch-size", "3"]);
    assert!(given.contains("iters=5,") && given.contains("batch=3,"), "{given}");
}

#[test]
fn a_dry_run_knows_the_size() {
    let bench = bench();
    for format in ["nbits", "qdq", "function"] {
        let args =
            ["in.onnx", "--format", format, "-o", "out.onnx", "-f", "-O", "signround{iters=1}"];
        let samples = ["--calib", "calib.npy", "-n", "4", "--seq-len", "16"];
        let run = |more: &[&str]| {
            let output = bench.command(&[&args[..], &samples, more].concat()).output().unwrap();
            assert!(output.status.success());
            (output.stdout, String::from_utf8(output.stderr).unwrap())
        };
        let (json, said) = run(&["--dry-run", "--json"]);
        let record: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let planned = record["bytes_after"].as_f64().unwrap();
        assert!(said.contains("size      5.3 MB -> 2."), "{said}");
        run(&[]);
        let written = bench.read("out.onnx").len() as f64;
        assert!((planned / written - 1.0).abs() < 0.02, "{format}: {planned} of {written}");
    }
}

#[test]
fn the_summary_says_what_was_read_and_what_comes_next() {
    let bench = bench();
    let told = |args: &[&str]| {
        let args = [&["in.onnx", "-f", "-o", "out.onnx"], args].concat();
        let output = bench.command(&args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let free = told(&["-O", "rtn"]);
    assert!(
        free.contains("no calibration data: signround on real inputs (--calib FILE)"),
        "{free}"
    );
    assert!(free.contains("accuracy level 4: the runtime may round"), "{free}");
    assert!(free.contains("next: qcc eval out.onnx --ref in.onnx --data"), "{free}");
    let two = told(&["-O", "rtn", "-b2", "--accuracy-level", "1"]);
    assert!(two.contains("accuracy level 4: ") && two.contains("always have level 4"), "{two}");
    let four = told(&["-O", "rtn", "--accuracy-level", "1"]);
    assert!(four.contains("accuracy level 1: ") && !four.contains("always"), "{four}");
    let some = told(&["-O", "rtn", "--accuracy-level", "1", "--set", "node_linear_2:bits=8"]);
    assert!(some.contains("accuracy level 1: ") && some.contains("always have level 4"), "{some}");
    let random = told(&["-O", "kl"]);
    assert!(random.contains("calibrated without data, on random tokens"), "{random}");
    let own = told(&["-O", "signround{iters=1}", "--calib", "self", "-n", "2", "--seq-len", "8"]);
    assert!(own.contains("calibrated without data, on text that the model writes"), "{own}");
    // A sample of one token is no text.
    let none = ["-O", "kl", "--calib", "self", "-n", "2", "--seq-len", "1"];
    let ran = bench.passes(&[&["in.onnx", "-f", "-o", "out.onnx"], &none[..]].concat());
    let why = "warning[QCC0605]: the model cannot write text: ";
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
    let samples = ["--calib", "calib.npy", "-n", "4", "--seq-len", "16", "--format", "qdq"];
    let with = told(&[&["-O", "kl"], &samples[..]].concat());
    assert!(!with.contains("calibrat") && !with.contains("accuracy level"), "{with}");
}
