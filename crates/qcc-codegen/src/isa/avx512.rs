//! AVX-512 without VNNI: 16-bit dot products ([`super::words`]) on 16 columns.

use super::words::Words;

pub(crate) const AVX512: Words = Words {
    lanes: 16,
    registers: 32,
    maddubs: "llvm.x86.avx512.pmaddubs.w.512",
    madd: "llvm.x86.avx512.pmaddw.d.512",
};
