//! NEON without dot products: `smull` to 16 bits, `sadalp` to 32. For CPUs before 2018.
//!
//! A sum is two registers: `[c0 + c0', c1 + c1', ...]`, pairs of partial sums of columns 0 and 1,
//! and of columns 2 and 3; [`Instructions::total`] adds the pairs.

use super::{Instructions, Sum, by_lane};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

pub(crate) struct Neon;

impl Instructions for Neon {
    fn lanes(&self) -> u32 {
        4
    }

    fn registers(&self) -> u32 {
        32
    }

    /// `smull` takes codes as signed bytes.
    fn wide_codes(&self) -> bool {
        false
    }

    fn in_place_rows(&self, _: PanelBits) -> u32 {
        0
    }

    fn start<'c>(&self, code: &Code<'c>, start: Option<Vector<'c>>) -> Emitted<Sum<'c>> {
        let zero = code.ints(32, 4)?.const_zero();
        let registers = match start {
            // Once per column: `[s, 0, s, 0]`, and the other way round for the second pair.
            Some(start) => {
                let spread = code.shuffle(start, zero, &[0, 4, 1, 5])?;
                vec![spread, code.shuffle(start, zero, &[2, 4, 3, 5])?]
            }
            None => vec![zero, zero],
        };
        Ok(Sum { registers, pending: None })
    }

    fn sum_registers(&self, _: PanelBits) -> u32 {
        2
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
        Ok(vec![by_lane::lane(code, block, chunk)?])
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        let (bytes, halves) = (code.ints(8, 16)?, code.ints(16, 8)?);
        let (codes, activations) = (code.cast(codes, bytes)?, code.cast(activations[0], bytes)?);
        for (i, register) in (0..).zip(&mut sum.registers) {
            let picks: Vec<u32> = (8 * i..8 * i + 8).collect();
            let half = |v| code.shuffle(v, v, &picks);
            let operands = [half(codes)?.into(), half(activations)?.into()];
            let products = code.call("llvm.aarch64.neon.smull", &[halves.into()], &operands)?;
            let types = [code.ints(32, 4)?.into(), halves.into()];
            let pairs = code.call("llvm.aarch64.neon.saddlp", &types, &[products])?;
            *register = code.add(*register, pairs.into_vector_value())?;
        }
        Ok(())
    }

    fn total<'c>(&self, code: &Code<'c>, sum: &Sum<'c>) -> Emitted<Vector<'c>> {
        let (a, b) = (sum.registers[0], sum.registers[1]);
        code.add(code.shuffle(a, b, &[0, 2, 4, 6])?, code.shuffle(a, b, &[1, 3, 5, 7])?)
    }

    fn field<'c>(
        &self,
        code: &Code<'c>,
        bytes: Vector<'c>,
        shift: u32,
        bits: u32,
    ) -> Emitted<Vector<'c>> {
        by_lane::field(code, bytes, shift, bits)
    }
}
