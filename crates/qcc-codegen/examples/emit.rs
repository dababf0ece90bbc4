//! x
use qcc_codegen::*; use qcc_kernels::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let target = Target::parse(&a[1]).unwrap();
    let o = match a[2].as_str() { "ir" => Output::LlvmIr, "asm" => Output::Asm, _ => Output::Object };
    let specs: Vec<KernelSpec> = a[3..].iter().map(|s| s.parse().unwrap()).collect();
    use std::io::Write; std::io::stdout().write_all(&emit(&specs, &target, o).unwrap()).unwrap();
}
