//! x
use qcc_codegen::*; use qcc_kernels::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let target = Target::parse(&a[1]).unwrap();
    let isa = *Isa::ALL.iter().find(|i| i.to_string() == a[2]).unwrap();
    let bits = *KernelBits::ALL.iter().find(|i| i.to_string() == a[3]).unwrap();
    let group = match a[4].parse::<u32>().unwrap() { 16 => KernelGroup::Half, 0 => KernelGroup::Counted, n => KernelGroup::Blocks((n / 32) as u8) };
    let spec = KernelSpec { bits, group, rows: a[5].parse().unwrap(), tiles: 2, scale: ScaleKind::F16, asymmetric: false, planes: Planes::A8, epilogue: Epilogue::None, isa };
    let o = match a[6].as_str() { "ir" => Output::LlvmIr, "asm" => Output::Asm, _ => Output::Object };
    use std::io::Write; std::io::stdout().write_all(&emit(&[spec], &target, o).unwrap()).unwrap();
}
