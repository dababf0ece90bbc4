//! See `qcc_tests::targets::pass_pipeline`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcc_tests::targets::pass_pipeline(bytes));
