//! See `qcc_tests::targets::qir_parse`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcc_tests::targets::qir_parse(bytes));
