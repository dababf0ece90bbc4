//! NEON with the 8-bit matrix extension: `usdot` by lane, which takes codes as they are.
//!
//! `smmla` would want 8 k of a column side by side, another layout of the codes.

use super::{Instructions, Sum, neon_dot};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

pub(super) struct NeonI8mm;

impl Instructions for NeonI8mm {
    fn lanes(&self) -> u32 {
        4
    }

    fn registers(&self) -> u32 {
        32
    }

    fn wide_codes(&self) -> bool {
        true
    }

    fn in_place_rows(&self, _: PanelBits) -> u32 {
        0
    }

    /// The vector that a chunk is taken out of is not an operand of the instruction.
    fn code_registers(&self, _: PanelBits) -> u32 {
        2
    }

    /// 16 k of each row.
    fn activation_registers(&self, lines: u32, _: PanelBits) -> u32 {
        lines
    }

    fn activations<'c>(
        &self,
        code: &Code<'c>,
        block: PointerValue<'c>,
        chunk: u32,
    ) -> Emitted<Vec<Vector<'c>>> {
        Ok(vec![neon_dot::lane(code, block, chunk)?])
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        neon_dot::dot(code, "llvm.aarch64.neon.usdot", sum, codes, activations)
    }

    fn field<'c>(
        &self,
        code: &Code<'c>,
        bytes: Vector<'c>,
        shift: u32,
        bits: u32,
    ) -> Emitted<Vector<'c>> {
        neon_dot::field(code, bytes, shift, bits)
    }
}
