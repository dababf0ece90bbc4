//! AVX-VNNI: `vpdpbusd` on 8 columns, without AVX-512.

use super::vnni::Vnni;

// The name is of AVX-512 VL; the feature `avxvnni` has the same instruction.
pub(crate) const AVX_VNNI: Vnni =
    Vnni { lanes: 8, registers: 16, name: "llvm.x86.avx512.vpdpbusd.256" };
