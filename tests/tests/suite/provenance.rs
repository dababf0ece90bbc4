//! The metadata tell one calibration from another.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use qcc::{Compiler, OpenOptions};
use qcc_tests::{Bench, books1m};

/// The metadata of a run on samples of a file.
fn metadata(bench: &Bench, calib: &Path, count: usize) -> BTreeMap<String, String> {
    let options = OpenOptions { samples: Some(count), ..OpenOptions::default() };
    let samples = bench.model().samples(calib, options).unwrap();
    let compiler = Compiler::new().recipe("rtn").unwrap().calibration(Arc::new(samples));
    compiler.run(bench.model()).unwrap().metadata().into_iter().collect()
}

#[test]
fn other_samples_have_another_digest() {
    let bench = Bench::new();
    let calib = books1m().join("calib.npy");
    let mut bytes = std::fs::read(&calib).unwrap();
    // Another first token: the header of 128 bytes ends where the values begin.
    bytes[128] ^= 1;
    let other = bench.path("calib.npy");
    std::fs::write(&other, bytes).unwrap();

    let [one, again, two] = [&calib, &calib, &other].map(|it| metadata(&bench, it, 4));
    assert_eq!(one, again);
    assert_eq!(one["qcc.calibration"], two["qcc.calibration"], "name, number and length");
    assert_ne!(one["qcc.calibration.blake3"], two["qcc.calibration.blake3"]);
    let fewer = metadata(&bench, &calib, 3);
    assert_ne!(one["qcc.calibration.blake3"], fewer["qcc.calibration.blake3"]);
}
