//! Kernels for CPUs with AVX-VNNI and without AVX-512, which has the same instruction under another
//! encoding.

use crate::absent::apart;
use crate::driver::Driver;
use qcc_kernels::Isa;
use std::arch::is_x86_feature_detected as has;

/// Of sixteen registers, as they are for such a CPU. No emulator has the instruction; where the CPU
/// lacks the encoding as well, the assembler is asked for that of AVX-512, and nothing else of the
/// code is changed.
#[test]
fn kernels_of_avx_vnni() {
    let edit: Option<fn(&str) -> String> = if has!("avxvnni") {
        None
    } else if has!("avx512vnni") && has!("avx512vl") {
        apart("the encoding of AVX-VNNI", "this CPU has that of AVX-512 only");
        Some(|text| text.replace("{vex}", "{evex}"))
    } else {
        apart("kernels of AVX-VNNI", "this CPU has no such instruction");
        return;
    };
    let target = "x86-64-v3+avxvnni";
    let driver = Driver { target, compiler: "cc", link: &[], run: &[], edit };
    driver.check(&[Isa::AvxVnni, Isa::Avx2]);
}

/// What the change of the encoding hides: LLVM writes the short one, for every dot product.
#[test]
fn objects_have_the_short_encoding() {
    let spec = "qcc_mm_b4_g32_m2_t2_f16_a8_avxvnni".parse().expect("a spec");
    let target = qcc_codegen::Target::parse("x86-64-v3+avxvnni").expect("a target");
    let emit = |output| qcc_codegen::emit(&[spec], &target, output).expect("code");
    let text = String::from_utf8(emit(qcc_codegen::Output::Asm)).expect("text");
    let object = emit(qcc_codegen::Output::Object);
    // VEX.256.66.0F38.W0 50: three bytes of prefix, of which the second ends in the map 2, the
    // third has W = 0, L = 1, pp = 1; then the code.
    let is_dot = |bytes: &&[u8]| {
        bytes[0] == 0xc4 && bytes[1] & 0x1f == 2 && bytes[2] & 0x87 == 5 && bytes[3] == 0x50
    };
    let dots = object.windows(4).filter(is_dot).count();
    assert_eq!(dots, text.matches("{vex}").count());
    assert_eq!(dots, text.matches("vpdpbusd").count());
}
