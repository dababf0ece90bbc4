//! AVX2: 16-bit dot products ([`super::words`]) on 8 columns.

use super::words::Words;

pub(crate) const AVX2: Words = Words {
    lanes: 8,
    registers: 16,
    maddubs: "llvm.x86.avx2.pmadd.ub.sw",
    madd: "llvm.x86.avx2.pmadd.wd",
};
