//! See `qcc_tests::targets::onnx_compile`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcc_tests::targets::onnx_compile(bytes));
