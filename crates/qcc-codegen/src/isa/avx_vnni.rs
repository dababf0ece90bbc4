//! AVX-VNNI: `vpdpbusd` on 8 columns, without AVX-512.

use super::{Instructions, Sum, avx512_vnni};
use crate::code::{Code, Emitted, Vector};
use qcc_quant::panel::PanelBits;

pub(super) struct AvxVnni;

impl Instructions for AvxVnni {
    fn lanes(&self) -> u32 {
        8
    }

    fn registers(&self) -> u32 {
        16
    }

    fn wide_codes(&self) -> bool {
        true
    }

    fn in_place_rows(&self, bits: PanelBits) -> u32 {
        avx512_vnni::in_place_rows(bits)
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        // The name is of AVX-512 VL; the feature `avxvnni` has the same instruction.
        avx512_vnni::dot(code, "llvm.x86.avx512.vpdpbusd.256", sum, codes, activations)
    }
}
