//! Same bytes for any number of threads and from run to run.

use std::sync::Arc;

use qcc::{Compiler, OpenOptions};
use qcc_tests::{Bench, books1m};

#[test]
fn threads_and_runs_do_not_change_the_bytes() {
    let bench = Bench::new();
    let options = OpenOptions { samples: Some(4), ..OpenOptions::default() };
    let samples = Arc::new(bench.model().samples(books1m().join("calib.npy"), options).unwrap());
    let check = |recipe: &str, format: &str, calibrate: bool| {
        let run = |threads: usize| {
            let mut compiler = Compiler::new().recipe(recipe).unwrap().format(format).unwrap();
            if calibrate {
                compiler = compiler.calibration(samples.clone());
            }
            bench.bytes(compiler.threads(threads))
        };
        let one = run(1);
        assert!(one == run(2), "{recipe} {format}: another number of threads");
        assert!(one == run(1), "{recipe} {format}: another run");
    };
    for recipe in ["rtn", "kl", "gptq", "signround"] {
        check(recipe, "nbits", true);
    }
    check("kl", "qdq", false);
    check("rtn", "function", false);
    check("rtn", "fake", false);
    check("adpq", "fake", false);
    check("adpq", "function", false);
}
