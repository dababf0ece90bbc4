//! `--bpw` and `--target-size` on the bundled model.

use std::fs;
use std::sync::Arc;

use qcc::{Compiler, Error, External, OpenOptions, Output, SaveOptions};
use qcc_pass::Rng;
use qcc_tests::{Bench, books1m};

/// Rounds to nearest, with gradients of two short samples.
fn compiler(bench: &Bench) -> Compiler {
    let options = OpenOptions { samples: Some(2), seq_len: Some(32), ..OpenOptions::default() };
    let samples = bench.model().samples(books1m().join("calib.npy"), options).unwrap();
    Compiler::new().recipe("rtn").unwrap().calibration(Arc::new(samples))
}

/// Bits for each weight as they are stored, and those of the weights by name.
fn stored(output: &Output) -> (f64, Vec<(String, u8)>) {
    let rows = || output.record().weights.iter().filter(|it| it.bits.is_some());
    let bytes: u64 = rows().map(|it| it.bytes_after).sum();
    let elements: usize = rows().map(|it| it.n * it.k).sum();
    let bits = rows().map(|it| (it.name.clone(), it.bits.unwrap())).collect();
    (8.0 * bytes as f64 / elements as f64, bits)
}

fn run(bench: &Bench, format: &str, bpw: f64) -> Result<Output, Error> {
    let compiler = compiler(bench).format(format)?.bits_per_weight(bpw)?;
    compiler.setting("allocate-bits", "groups", "32,128")?.run(bench.model())
}

#[test]
fn what_is_stored_is_never_above_the_budget() {
    let bench = Bench::new();
    let mut rng = Rng::new(1, "budgets");
    for format in ["nbits", "qdq", "function"] {
        for _ in 0..3 {
            let asked = 2.4 + 6.0 * rng.f64();
            let (reached, bits) = stored(&run(&bench, format, asked).unwrap());
            assert!(reached <= asked, "{format}: {reached} of {asked}");
            assert!(reached > asked - 0.2, "{format}: {reached} of {asked}");
            assert_eq!(bits.len(), 28);
        }
        let error = run(&bench, format, 2.1).unwrap_err();
        assert_eq!(error.code().name(), "QCC0312", "{error}");
        let text = error.diagnostic().message.clone();
        let least: f64 = text.split(' ').find_map(|it| it.parse().ok()).unwrap();
        assert!(stored(&run(&bench, format, least).unwrap()).0 <= least, "{format}: {text}");
    }
}

#[test]
fn files_are_never_above_their_size() {
    let bench = Bench::new();
    let mut rng = Rng::new(2, "sizes");
    for external in [External::Never, External::Always] {
        let path = bench.path(if external == External::Never { "one.onnx" } else { "two.onnx" });
        let save = SaveOptions { external, overwrite: true, ..SaveOptions::default() };
        for _ in 0..3 {
            let asked = 2_520_000 + rng.below(550_000);
            let compiler = compiler(&bench).target_size(asked, &path, save).unwrap();
            let output = compiler.run(bench.model()).unwrap();
            let told = output.size(&path, &save).unwrap();
            let written = output.save(&path, &save).unwrap();
            let size: u64 = written.files.iter().map(|it| fs::metadata(it).unwrap().len()).sum();
            assert!(size <= asked && size == told, "{size} of {asked}, {told} told");
            assert!(size > asked - 30_000, "{size} of {asked}");
        }
        let compiler = compiler(&bench).target_size(2_000_000, &path, save).unwrap();
        let error = compiler.run(bench.model()).unwrap_err();
        assert_eq!(error.code().name(), "QCC0312", "{error}");
    }
}

#[test]
fn bits_that_are_named_stay_and_tied_weights_have_the_same() {
    let bench = Bench::new();
    let set = "node_linear_3:bits=8";
    let compiler = compiler(&bench).bits_per_weight(4.6).unwrap();
    let compiler = compiler
        .setting("select", "set", set)
        .and_then(|it| it.setting("allocate-bits", "set", set))
        .and_then(|it| it.setting("allocate-bits", "tie", "node_linear_?[4-6]"))
        .unwrap();
    let output = compiler.run(bench.model()).unwrap();
    let bits = |site: &str| {
        let rows = &output.record().weights;
        rows.iter().find(|it| it.sites.iter().any(|it| it == site)).unwrap().bits.unwrap()
    };
    assert_eq!(bits("node_linear_3"), 8);
    assert_eq!(bits("node_linear_4"), bits("node_linear_5"));
    assert_eq!(bits("node_linear_4"), bits("node_linear_6"));
    assert!(stored(&output).0 <= 4.6);
}

#[test]
fn the_record_tells_what_was_to_choose() {
    let output = run(&Bench::new(), "nbits", 4.5).unwrap();
    let record = output.record();
    let (mut bytes, mut loss) = (0, 0.0);
    for row in record.weights.iter().filter(|it| it.bits.is_some()) {
        // Widths of 2, 4 and 8 bits in groups of 32 and 128.
        assert_eq!(row.candidates.len(), 6, "{}", row.name);
        let mut chosen = row.candidates.iter().filter(|it| it.is_chosen);
        let it = chosen.next().unwrap();
        assert!(chosen.next().is_none());
        assert_eq!((Some(it.bits), &it.group), (row.bits, &row.group), "{}", row.name);
        assert_eq!(it.bytes, row.bytes_after, "{}", row.name);
        (bytes, loss) = (bytes + it.bytes, loss + it.loss);
    }
    let budget = record.budget.as_ref().unwrap();
    assert_eq!(budget.chosen.0, bytes);
    assert!((budget.chosen.1 / loss - 1.0).abs() < 1e-9);
    // More bytes lose less, and no choice is below the curve.
    assert!((10..=24).contains(&budget.points.len()));
    assert!(budget.points.windows(2).all(|it| it[0].0 < it[1].0 && it[0].1 > it[1].1));
    let below = |it: &&(u64, f64)| it.0 >= bytes;
    assert!(budget.points.iter().find(below).is_some_and(|it| it.1 <= 1.000_001 * loss));
}

#[test]
fn threads_do_not_change_the_bytes() {
    let bench = Bench::new();
    let bytes =
        |threads| bench.bytes(compiler(&bench).bits_per_weight(4.0).unwrap().threads(threads));
    let one = bytes(1);
    assert!(one == bytes(2));
}
