//! AVX2: 16-bit dot products ([`super::words`]) on 8 columns.

use super::words::{self, Names};
use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

const NAMES: Names = Names { maddubs: "llvm.x86.avx2.pmadd.ub.sw", madd: "llvm.x86.avx2.pmadd.wd" };

pub(super) struct Avx2;

impl Instructions for Avx2 {
    fn lanes(&self) -> u32 {
        8
    }

    fn registers(&self) -> u32 {
        16
    }

    fn wide_codes(&self) -> bool {
        true
    }

    /// A field in place can be as large as 240: two products of it overflow 16 bits.
    fn in_place_rows(&self, _: PanelBits) -> u32 {
        0
    }

    fn sum_registers(&self, bits: PanelBits) -> u32 {
        words::sum_registers(bits)
    }

    fn code_registers(&self, bits: PanelBits) -> u32 {
        words::code_registers(bits)
    }

    fn activation_registers(&self, _: u32, bits: PanelBits) -> u32 {
        words::activation_registers(bits)
    }

    fn activations<'c>(
        &self,
        code: &Code<'c>,
        block: PointerValue<'c>,
        chunk: u32,
    ) -> Emitted<Vec<Vector<'c>>> {
        words::activations(code, self.lanes(), code.at(block, u64::from(4 * chunk))?)
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        bits: PanelBits,
    ) -> Emitted<()> {
        words::dot(code, &NAMES, sum, codes, activations, bits)
    }

    fn end_block<'c>(&self, code: &Code<'c>, sum: &mut Sum<'c>) -> Emitted<()> {
        words::end_block(code, &NAMES, sum)
    }
}
