//! Generates committed files and checks the rules of the house.

fn main() {}
