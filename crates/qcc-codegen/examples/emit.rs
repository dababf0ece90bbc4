//! Prints kernels: `emit TARGET ir|asm|obj SPEC...`, for example
//! `emit native asm qcc_mm_b4_g32_m1_t2_f16_a8_avx512vnni`.

use qcc_codegen::{Output, Target, emit};
use qcc_kernels::KernelSpec;
use std::error::Error;
use std::io::Write;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = Target::parse(&arguments.next().unwrap_or_default())?;
    let output = match arguments.next().as_deref() {
        Some("ir") => Output::LlvmIr,
        Some("asm") => Output::Asm,
        Some("obj") => Output::Object,
        _ => return Err("usage: emit TARGET ir|asm|obj SPEC...".into()),
    };
    let specs = arguments.map(|name| name.parse()).collect::<Result<Vec<KernelSpec>, _>>()?;
    std::io::stdout().write_all(&emit(&specs, &target, output)?)?;
    Ok(())
}
