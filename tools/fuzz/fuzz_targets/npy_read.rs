//! See `qcc_tests::targets::npy_read`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcc_tests::targets::npy_read(bytes));
