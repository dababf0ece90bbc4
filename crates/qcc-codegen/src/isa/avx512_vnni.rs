//! AVX-512 with VNNI: `vpdpbusd` on 16 columns, the activations broadcast from memory by the
//! instruction itself.

use super::vnni::Vnni;

pub(crate) const AVX512_VNNI: Vnni =
    Vnni { lanes: 16, registers: 32, name: "llvm.x86.avx512.vpdpbusd.512" };
