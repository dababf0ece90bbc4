//! x
use qcc_codegen::*; use qcc_kernels::*; use std::time::Instant;
fn main() {
    let dir = KernelCache::new("/tmp/k1bench/cache");
    let t = Instant::now();
    let jit = Jit::new().unwrap().with_cache(dir);
    println!("new {:?}", t.elapsed());
    for bits in KernelBits::ALL { for rows in 1..=6 { 
        let spec = KernelSpec { bits: *bits, group: KernelGroup::Blocks(1), rows, tiles: 2, scale: ScaleKind::F16, asymmetric: false, planes: Planes::A8, epilogue: Epilogue::None, isa: jit.isa() };
        let t = Instant::now(); let k = jit.kernel(&spec).unwrap(); println!("{spec} {:?} {:?}", t.elapsed(), k);
    } }
    let t = Instant::now(); drop(jit); println!("drop {:?}", t.elapsed());
}
