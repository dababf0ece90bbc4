//! AVX-512 with VNNI: `vpdpbusd` on 16 columns, the activations broadcast from memory by the
//! instruction itself.

use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use qcc_quant::panel::PanelBits;

pub(super) struct Avx512Vnni;

impl Instructions for Avx512Vnni {
    fn lanes(&self) -> u32 {
        16
    }

    fn registers(&self) -> u32 {
        32
    }

    fn wide_codes(&self) -> bool {
        true
    }

    fn in_place_rows(&self, bits: PanelBits) -> u32 {
        in_place_rows(bits)
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        dot(code, "llvm.x86.avx512.vpdpbusd.512", sum, codes, activations)
    }
}

/// A shift less per vector is worth a second accumulator while few rows share the codes; with
/// 3 bits it takes four of them.
pub(super) fn in_place_rows(bits: PanelBits) -> u32 {
    match bits {
        PanelBits::B3 => 1,
        _ => 2,
    }
}

/// `vpdpbusd`: the unsigned operand first, then the signed one.
pub(super) fn dot<'c>(
    code: &Code<'c>,
    name: &str,
    sum: &mut Sum<'c>,
    codes: Vector<'c>,
    activations: &[Vector<'c>],
) -> Emitted<()> {
    let to = sum.registers[0];
    let result = code.call(name, &[], &[to.into(), codes.into(), activations[0].into()])?;
    sum.registers[0] = result.into_vector_value();
    Ok(())
}
