//! Runs passes over the text form, for tests and for people who write passes.

fn main() {}
