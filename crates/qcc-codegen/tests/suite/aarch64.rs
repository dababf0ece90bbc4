//! Kernels for AArch64, run by an emulator.

use crate::driver::Driver;
use qcc_kernels::Isa;

#[test]
fn kernels_run_under_an_emulator() {
    let driver = Driver {
        target: "aarch64+dotprod+i8mm",
        compiler: "aarch64-linux-gnu-gcc",
        link: &["-static"],
        run: &["qemu-aarch64-static", "-cpu", "max"],
        edit: None,
    };
    driver.check(&[Isa::Neon, Isa::NeonDot, Isa::NeonI8mm, Isa::Scalar]);
}
