//! The `qcc` command.

fn main() {}
