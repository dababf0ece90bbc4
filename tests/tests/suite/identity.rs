//! `-O none` copies.

use qcc::Compiler;
use qcc_tests::{Bench, books1m};

#[test]
fn without_passes_the_output_is_the_input() {
    let bench = Bench::new();
    let bytes = bench.bytes(Compiler::new().recipe("none").unwrap());
    assert!(bytes == std::fs::read(books1m().join("model.onnx")).unwrap());
}
