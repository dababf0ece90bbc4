//! `--eval` and `--fail-above` of `quantize`.

use qcc_data::npy;
use qcc_tensor::Tensor;
use serde_json::Value;

use crate::bench::{Bench, bundled, good, model, rtn};

fn bench() -> Bench {
    let bench = Bench::new(&bundled());
    let ids = Tensor::from_vec(vec![3, 16], (100..148i64).collect()).unwrap();
    bench.put("ids.npy", &npy::write(&ids).unwrap());
    bench
}

struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command, whatever its end.
fn told(bench: &Bench, args: &[&str]) -> Told {
    let output = bench.command(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs a command that succeeds.
fn passes(bench: &Bench, args: &[&str]) -> Told {
    let told = told(bench, args);
    assert_eq!(told.code, Some(0), "{args:?}\n{}", told.stderr);
    told
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_record_has_what_eval_finds() {
    let bench = bench();
    let gates = "kl:10,ppl:+1000%";
    let plain = passes(&bench, &rtn(&["--no-provenance"]));
    let bytes = bench.read("out.onnx");
    let eval = ["--eval", "ids.npy", "--fail-above", gates, "-f", "--json=r.json", "-j1"];
    let told = passes(&bench, &rtn(&[&["--no-provenance"], &eval[..]].concat()));
    assert_eq!(bytes, bench.read("out.onnx"), "an evaluation changes nothing that is written");
    assert!(!plain.stdout.contains("perplexity") && told.stdout.contains("perplexity"));
    assert!(told.stdout.contains("on ids.npy: 3 samples"), "{}", told.stdout);
    assert!(told.stdout.contains("gate kl <= 10: passed"), "{}", told.stdout);
    let record = json(&bench.read("r.json"));
    let args = ["eval", "out.onnx", "--ref", "in.onnx", "-d", "ids.npy", "--json"];
    let after = passes(&bench, &[&args[..], &["--fail-above", gates]].concat());
    let after = json(after.stdout.as_bytes());
    for key in ["samples", "tokens", "perplexity", "reference_perplexity", "kl_nats", "top1"] {
        assert_eq!(record["quality"][key], after[key], "{key}");
    }
    assert_eq!(record["quality"]["outputs"], after["outputs"]);
    assert_eq!(record["gates"], after["gates"]);
    assert!(record["options"].get("eval").is_none(), "{}", record["options"]);
}

#[test]
fn a_gate_that_fails_leaves_the_output() {
    let bench = bench();
    let args = ["-f", "--eval", "ids.npy", "--fail-above", "kl:0", "--record", "r.json"];
    for quiet in [&[][..], &["-q"]] {
        let ran = told(&bench, &rtn(&[&args[..], &["--report", "r.html"], quiet].concat()));
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        assert!(ran.stderr.contains("error[QCC0802]: kl of the model is 0."), "{}", ran.stderr);
        bench.passes(&["inspect", "out.onnx"]);
        assert_eq!(json(&bench.read("r.json"))["gates"][0]["passed"], false);
        let page = String::from_utf8(bench.read("r.html")).unwrap();
        assert!(page.contains("failed: kl &lt;= 0"), "the headline has the verdict");
    }
}

#[test]
fn what_cannot_be_measured_is_said_before_long_work() {
    let bench = bench();
    bench.refused(&rtn(&["--eval", "missing.npy"]), 1, "QCC0401", &["missing.npy"]);
    bench.refused(&rtn(&["--fail-above", "kl:1"]), 2, "QCC0304", &["--eval <PATH>"]);
    let alone = ["eval", "in.onnx", "--data", "missing.npy", "--fail-above"];
    bench.refused(&[&alone[..], &["kl:1"]].concat(), 1, "QCC0404", &["gives no kl", "--ref"]);
    bench.refused(&[&alone[..], &["ppl:9"]].concat(), 1, "QCC0401", &["missing.npy"]);
    let args = rtn(&["--eval", "ids.npy", "--emit", "obj"]);
    bench.refused(&args, 2, "QCC0304", &["--eval reads the model back"]);
    let bench = Bench::new(&model(good()));
    let x = Tensor::from_vec(vec![2, 64], vec![0.5f32; 128]).unwrap();
    bench.put("x.npy", &npy::write(&x).unwrap());
    bench.refused(
        &rtn(&["--eval", "x.npy", "--fail-above", "kl:1"]),
        1,
        "QCC0404",
        &["gives no kl"],
    );
    let ran = passes(&bench, &rtn(&["--eval", "x.npy", "--fail-above", "snr:1dB"]));
    assert!(ran.stdout.contains("gate snr >= 1 dB: passed"), "{}", ran.stdout);
}
