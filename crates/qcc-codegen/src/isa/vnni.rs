//! `vpdpbusd`: dot products of 4 bytes added to 32 bits, shared by AVX-512 VNNI and AVX-VNNI.

use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use qcc_quant::panel::PanelBits;

/// What differs by the width of a register.
pub(crate) struct Vnni {
    /// Columns of a register.
    pub lanes: u32,
    /// Vector registers there are.
    pub registers: u32,
    /// The name of the instruction.
    pub name: &'static str,
}

impl Instructions for Vnni {
    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn registers(&self) -> u32 {
        self.registers
    }

    fn wide_codes(&self) -> bool {
        true
    }

    /// A shift less per vector is worth a second accumulator while few rows share the codes; with
    /// 3 bits it takes four of them.
    fn in_place_rows(&self, bits: PanelBits) -> u32 {
        match bits {
            PanelBits::B3 => 1,
            _ => 2,
        }
    }

    /// The unsigned operand first, then the signed one.
    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        let to = sum.registers[0];
        let operands = [to.into(), codes.into(), activations[0].into()];
        sum.registers[0] = code.call(self.name, &[], &operands)?.into_vector_value();
        Ok(())
    }
}
