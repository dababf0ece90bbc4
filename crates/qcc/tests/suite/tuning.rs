//! What the options of tuning change, and what they leave.

use std::path::Path;

use onnx_protobuf::{Message, ModelProto, TensorProto};
use qcc_data::npy;
use qcc_tensor::Tensor;

use crate::bench::{Bench, SIZE, bundled, floats, good, model, numbers, product};

const SAMPLES: &[&str] = &["--calib", "calib.npy", "-n", "10", "--seq-len", "48"];

fn bench() -> Bench {
    let bench = Bench::new(&bundled());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    bench
}

/// The initializers of what is tuned.
fn tuned(bench: &Bench, options: &[&str]) -> Vec<TensorProto> {
    bench.passes(&[&["in.onnx", "-f", "-o", "out.onnx"], options, SAMPLES].concat());
    ModelProto::decode(&*bench.read("out.onnx")).unwrap().graph.unwrap().initializer
}

#[test]
fn each_option_of_the_tuner_changes_the_codes() {
    let bench = bench();
    let with =
        |more: &str| tuned(&bench, &["-b2", "-O", &format!("signround{{iters=12,batch=4{more}}}")]);
    let plain = with("");
    for more in [",inputs=float", ",scales=ends", ",scales=frozen"] {
        let found = with(more);
        assert_eq!(found.len(), plain.len());
        assert!(found != plain, "{more}");
    }
}

#[test]
fn inputs_that_count_are_those_that_were_asked_for() {
    let bench = bench();
    let with = |weights: &str| tuned(&bench, &["-b3", "-O", &format!("kl{{weights={weights}}}")]);
    // Random tokens do not depend on samples, and without any figures of inputs none are taken.
    let alone = |weights: &str| {
        let recipe = format!("kl{{weights={weights}}}");
        bench.passes(&["in.onnx", "-b3", "-O", &recipe, "-f", "-o", "out.onnx"]);
        ModelProto::decode(&*bench.read("out.onnx")).unwrap().graph.unwrap().initializer
    };
    let ([auto, pseudo], none) = (["auto", "pseudo"].map(with), alone("none"));
    assert!(auto != pseudo && auto != none && pseudo != none);
    assert!(alone("pseudo") == pseudo);
}

#[test]
fn scales_are_trained_and_codes_stay() {
    let bench = bench();
    let plain = tuned(&bench, &["-b2", "-O", "signround{iters=2,batch=4}"]);
    let trained = tuned(&bench, &["-b2", "-O", "signround{iters=2,batch=4}", "--tune-scales", "3"]);
    let again =
        tuned(&bench, &["-b2", "-O", "signround{iters=2,batch=4}", "--tune-scales", "3", "-j1"]);
    assert!(trained == again);
    let mut scales = 0;
    for (a, b) in plain.iter().zip(&trained) {
        assert_eq!((a.name(), a.data_type), (b.name(), b.data_type));
        if a != b {
            assert!(a.name().contains("scale"), "{}", a.name());
            scales += 1;
        }
    }
    assert!(scales > 20, "{scales}");
}

#[test]
fn memory_is_told_before_and_kept_to() {
    let bench = bench();
    let recipe = ["-O", "signround{iters=2,batch=8}"];
    let plain = tuned(&bench, &recipe);
    let refused = |cap: &str| {
        let args = ["in.onnx", "-o", "none.onnx", "--max-mem", cap];
        bench.refused(
            &[&args[..], &recipe, SAMPLES].concat(),
            1,
            "QCC0501",
            &["option --max-mem", "raise it to"],
        )
    };
    let ran = refused("10MB");
    assert!(!bench.path("none.onnx").exists());
    let (_, least) = ran.stderr.split_once("raise it to ").unwrap();
    let least = least.split_once(',').unwrap().0;
    // One sample at a time gives the same.
    assert!(tuned(&bench, &[&recipe[..], &["--max-mem", least]].concat()) == plain);
    let mib: u64 = least.strip_suffix("MiB").unwrap().parse().unwrap();
    refused(&format!("{}MiB", mib - 1));
}

#[test]
fn a_run_of_the_model_fits_in_the_limit() {
    let bench = bench();
    for recipe in ["kl", "gptq", "signround{objective=layer}"] {
        let run = |cap: &'static str| {
            [&["in.onnx", "-O", recipe, "--max-mem", cap, "-f", "-o", "o.onnx"], SAMPLES].concat()
        };
        bench.refused(&run("10MB"), 1, "QCC0501", &["running the model", "raise it to"]);
        bench.passes(&run("100MiB"));
    }
}

#[test]
fn what_is_solved_for_is_counted_as_well() {
    const K: usize = 1024;
    let weight = floats("w", &[K, SIZE], &numbers(K * SIZE));
    let bench = Bench::new(&model(product(&[-1, K as i64], weight)));
    let x = Tensor::from_vec(vec![8, K], numbers(8 * K)).unwrap();
    bench.put("x.npy", &npy::write(&x).unwrap());
    let run = |recipe: &'static str, cap: &'static str| {
        ["in.onnx", "-O", recipe, "--max-mem", cap, "--calib", "x.npy", "-f", "-o", "o.onnx"]
    };
    // 8 bytes for each pair of inputs are the sums, 18 are what a weight is solved with.
    bench.passes(&run("kl", "30MiB"));
    for recipe in ["gptq", "signround{objective=layer}"] {
        bench.refused(&run(recipe, "36MiB"), 1, "QCC0501", &["sums of what weights read"]);
        bench.passes(&run(recipe, "60MiB"));
    }
}

#[test]
fn gradients_for_a_budget_of_bits_keep_to_the_limit() {
    let bench = bench();
    let run = |cap: &'static str| {
        let args = ["in.onnx", "-O", "rtn", "--bpw", "4", "--max-mem", cap, "-f", "-o", "o.onnx"];
        [&args[..], SAMPLES].concat()
    };
    bench.refused(&run("20MB"), 1, "QCC0501", &["gradients of the model", "raise it to"]);
    bench.passes(&run("100MiB"));
}

#[test]
fn steps_that_a_time_allows_give_the_same_when_they_are_named() {
    let bench = bench();
    let samples = ["--calib", "calib.npy", "-n", "64", "--seq-len", "16"];
    let run = |more: &[&str]| {
        let args = ["in.onnx", "-O", "signround", "-f", "-o", "out.onnx"];
        let ran = bench.passes(&[&args[..], &samples, more].concat());
        let model = ModelProto::decode(&*bench.read("out.onnx")).unwrap();
        (model.graph.unwrap().initializer, ran.stderr)
    };
    // There is time for one step, which needs fewer samples than there are.
    let (within, said) = run(&["--budget", "1ms", "-v"]);
    assert!(said.contains("iters=1 in place of the budget"), "{said}");
    assert!(within == run(&["--iters", "1"]).0);
    assert!(within != run(&["--iters", "20"]).0);
}

#[test]
fn a_pass_that_has_no_room_for_samples_of_its_own_stops() {
    let bench = bench();
    for recipe in ["kl", "gptq", "signround{objective=layer}"] {
        let args = ["in.onnx", "-O", recipe, "--max-mem", "10MB", "-o", "none.onnx"];
        bench.refused(&args, 1, "QCC0501", &["running the model", "raise it to"]);
    }
}

#[test]
fn weights_that_are_solved_one_by_one_are_one_stage() {
    let bench = bench();
    let args = ["in.onnx", "-O", "gptq", "--progress", "json", "-f", "-o", "out.onnx"];
    let ran = bench.passes(&[&args[..], SAMPLES].concat());
    let events = ran.stderr.lines().filter_map(|it| serde_json::from_str(it).ok());
    let of_pass = events.filter(|it: &serde_json::Value| it["pass"] == "gptq");
    let done: Vec<f64> = of_pass.filter_map(|it| it["done"].as_f64()).collect();
    assert_eq!(done.len(), 1 + 4 * 7, "{done:?}");
    assert!(done.is_sorted() && done.last() == Some(&1.0), "{done:?}");
}

#[test]
fn that_work_cannot_be_kept_is_said_before_there_is_any() {
    let bench = bench();
    bench.put("file", b"");
    let args = ["in.onnx", "-O", "signround{iters=2}", "-f", "-o", "out.onnx"];
    let more = ["--work-dir", "file", "--progress", "json"];
    let ran = bench.passes(&[&args[..], &more, SAMPLES].concat());
    let at = |text: &str| ran.stderr.find(text).unwrap_or_else(|| panic!("{text}: {}", ran.stderr));
    assert!(at("finished blocks cannot be kept") < at("\"pass\":\"signround\""));
}

#[test]
fn options_that_tuning_does_not_read_are_told() {
    let bench = bench();
    let run = |recipe| [&["in.onnx", "-f", "-o", "out.onnx", "-O", recipe], SAMPLES].concat();
    let ran = bench.passes(&run("signround{objective=layer,batch=7,select=last}"));
    let text = "warning[QCC0304]: nothing reads batch, select: each weight is tuned by itself";
    assert!(ran.stderr.contains(text), "{}", ran.stderr);
    let ran = bench.passes(&run("signround{objective=layer,iters=1}"));
    assert!(!ran.stderr.contains("QCC0304"), "{}", ran.stderr);
    let passes = "infer-types,select{bits=4},gptq,signround{iters=1},pack,to-nbits";
    let args = ["in.onnx", "-f", "-o", "out.onnx", "--passes", passes];
    let ran = bench.passes(&[&args[..], SAMPLES].concat());
    assert!(ran.stderr.contains("what gptq has chosen is not read"), "{}", ran.stderr);
    bench.refused(&run("signround{iters=5,budget=3}"), 2, "QCC0304", &["option iters"]);
}

#[test]
fn no_steps_are_none() {
    let bench = bench();
    let with = |iters: &str| {
        let recipe = format!("signround{{iters={iters},select=last}}");
        tuned(&bench, &["-b2", "-O", &recipe])
    };
    let (none, one) = (with("0"), with("1"));
    assert!(none != one);
    assert!(none == tuned(&bench, &["-b2", "-O", "signround{iters=0}"]));
}

/// The size in front of some words.
fn size_before(text: &str, words: &str) -> u64 {
    let (before, _) = text.split_once(words).unwrap_or_else(|| panic!("no '{words}' in {text}"));
    let mut last = before.rsplit(' ');
    let (unit, number) = (last.next().unwrap(), last.next().unwrap());
    qcc_report::parse_bytes(&format!("{number}{unit}")).unwrap()
}

#[test]
fn blocks_side_by_side_give_what_they_give_one_after_the_other() {
    let bench = bench();
    let recipe = ["-O", "signround{iters=5,batch=4,inputs=float}"];
    let planned = |more: &[&str]| {
        let args = ["in.onnx", "-o", "none.onnx", "--dry-run"];
        let ran = bench.passes(&[&args[..], &recipe, SAMPLES, more].concat());
        size_before(&ran.stderr, " beside the model")
    };
    let alone = planned(&["-j1"]);
    let cap = (alone + 1_000_000).to_string();
    assert!(planned(&["-j2"]) > alone + 2_000_000, "two are planned for");
    assert!(planned(&["-j2", "--max-mem", &cap]) <= alone, "a cap leaves one");
    let one = tuned(&bench, &[&recipe[..], &["-j1"]].concat());
    for more in [&["-j2"][..], &["-j3"], &["-j2", "--max-mem", &cap]] {
        assert!(tuned(&bench, &[&recipe[..], more].concat()) == one, "{more:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_more_memory_is_taken_than_was_planned() {
    let bench = bench();
    for inputs in ["quantized", "float"] {
        let recipe = format!("signround{{iters=2,inputs={inputs}}}");
        let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", &recipe, "-j2"];
        let samples = ["--calib", "calib.npy", "-n", "32", "--seq-len", "256"];
        let output = bench.command(&[&args[..], &samples].concat()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let taken = size_before(&said, " of memory (planned ");
        let planned = size_before(&said, " beside the model)");
        assert!(taken < planned, "{said}");
        // It is of the run: more than the samples at one side of a block.
        assert!(taken > 10_000_000, "{said}");
    }
}

#[test]
fn scales_of_the_whole_model_are_trained_where_the_cap_leaves_room() {
    let bench = bench();
    let run = |more: &[&str]| {
        let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=1}"];
        let ran = bench.passes(&[&args[..], SAMPLES, more].concat());
        // The options of a run are in its metadata.
        let model = ModelProto::decode(&*bench.read("out.onnx")).unwrap();
        (ModelProto { metadata_props: Vec::new(), ..model }, ran.stderr)
    };
    let trains = ["--tune-scales", "2"];
    let (plain, _) = run(&[]);
    let (capped, said) = run(&[&trains[..], &["--max-mem", "25MiB"]].concat());
    assert!(said.contains("QCC0501") && said.contains("the scales stay as they are"), "{said}");
    assert!(capped == plain, "nothing was trained");
    let (trained, said) = run(&trains);
    assert!(!said.contains("QCC0501"), "{said}");
    assert!(trained != plain);
    let norms = run(&[&trains[..], &["--tune-norms"]].concat()).0;
    assert!(norms != trained && norms != plain, "norms are trained too");
}

#[test]
fn norms_that_are_not_there_are_told() {
    let bench = Bench::new(&model(good()));
    let x = Tensor::from_vec(vec![8, SIZE], numbers(8 * SIZE)).unwrap();
    bench.put("x.npy", &npy::write(&x).unwrap());
    let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=2}", "--calib", "x.npy"];
    let told = |more: &[&str]| bench.passes(&[&args[..], more].concat()).stderr;
    let text = "there are no norms to train";
    let said = told(&["--tune-scales", "2", "--tune-norms"]);
    assert_eq!(said.matches(text).count(), 1, "{said}");
    assert!(!told(&["--tune-scales", "2"]).contains(text));
}

#[test]
fn a_dry_run_says_what_tuning_takes() {
    let bench = bench();
    let args = ["in.onnx", "-o", "none.onnx", "--dry-run", "-O", "signround{iters=10000}"];
    let ran = bench.passes(&[&args[..], SAMPLES].concat());
    for text in ["beside the model of 5.3 MB", "of tuning of blocks", "nothing written"] {
        assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    }
    let ran = bench.passes(&[&args[..4], &["--budget", "7m"], SAMPLES].concat());
    assert!(ran.stderr.contains("beside the model of"), "{}", ran.stderr);
    assert!(ran.stderr.contains("7m of tuning"), "{}", ran.stderr);
    assert!(!bench.path("none.onnx").exists());
}

#[test]
fn a_dry_run_counts_the_scales_of_the_whole_model() {
    let bench = bench();
    let planned = |more: &[&str]| {
        let args = ["in.onnx", "-o", "none.onnx", "--dry-run", "-O", "signround{iters=1}", "-j1"];
        let ran = bench.passes(&[&args[..], SAMPLES, more].concat());
        let (before, _) = ran.stderr.split_once(" of tuning of ").unwrap();
        let time = before.rsplit_once("time ").unwrap().1.trim();
        let time = time.parse::<humantime::Duration>().unwrap();
        (size_before(&ran.stderr, " beside the model"), time.as_secs(), ran.stderr)
    };
    let (memory, time, _) = planned(&[]);
    let (more_memory, more_time, said) = planned(&["--tune-scales", "10000"]);
    assert!(more_memory > memory, "{more_memory} {memory}");
    assert!(more_time > time + 100, "{more_time} {time}");
    assert!(said.contains("of tuning of blocks and scales"), "{said}");
}

#[test]
fn that_scales_do_not_fit_is_said_once_and_before_blocks_are_tuned() {
    let bench = bench();
    let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=1}"];
    let more = ["--tune-scales", "2", "--max-mem", "25MiB", "--json"];
    let ran = bench.passes(&[&args[..], SAMPLES, &more].concat());
    assert_eq!(ran.stderr.matches("QCC0501]").count(), 1, "{}", ran.stderr);
    let stopped = ["--tune-scales", "2", "--max-mem", "25MiB", "--stop-after", "probe-scales"];
    let ran = bench.passes(&[&args[..], SAMPLES, &stopped].concat());
    assert!(ran.stderr.contains("QCC0501"), "{}", ran.stderr);
}

#[test]
fn nodes_say_what_became_of_their_weights_where_asked() {
    let bench = bench();
    let run = |more: &[&str]| {
        bench.passes(&[&["in.onnx", "-O", "rtn", "-f", "-o", "out.onnx"], more].concat());
        ModelProto::decode(&*bench.read("out.onnx")).unwrap()
    };
    let plain = run(&[]);
    assert!(
        plain
            .graph
            .unwrap()
            .node
            .iter()
            .all(|it| { it.metadata_props.iter().all(|entry| !entry.key().starts_with("qcc.")) })
    );
    for (format, op) in [("nbits", "MatMulNBits"), ("qdq", "MatMul")] {
        let model = run(&["--annotate", "--format", format]);
        assert!(model.ir_version() >= 10);
        let mut count = 0;
        for node in model.graph.unwrap().node {
            let get = |key: &str| {
                node.metadata_props
                    .iter()
                    .find(|it| it.key() == key)
                    .map(onnx_protobuf::StringStringEntryProto::value)
            };
            let Some(bits) = get("qcc.bits") else { continue };
            assert_eq!((node.op_type(), bits, get("qcc.group")), (op, "4", Some("32")));
            assert_eq!((get("qcc.scheme"), get("qcc.pass")), (Some("asymmetric"), Some("rtn")));
            assert!(get("qcc.source_weight").is_some());
            let snr: f64 = get("qcc.snr_db").unwrap().parse().unwrap();
            assert!((15.0..30.0).contains(&snr), "{snr}");
            count += 1;
        }
        assert_eq!(count, 28, "{format}");
    }
}
