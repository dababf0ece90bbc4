//! Dot products of NEON on 4 columns that take 4 activations out of a register of 16.

use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

/// What differs between `sdot` and `usdot`.
pub(crate) struct ByLane {
    /// The name of the instruction.
    pub name: &'static str,
    /// Whether codes are bytes without a sign to it.
    pub wide_codes: bool,
}

impl Instructions for ByLane {
    fn lanes(&self) -> u32 {
        4
    }

    fn registers(&self) -> u32 {
        32
    }

    fn wide_codes(&self) -> bool {
        self.wide_codes
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
        Ok(vec![lane(code, block, chunk)?])
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        let (words, bytes) = (code.ints(32, 4)?, code.ints(8, 16)?);
        let (codes, activations) = (code.cast(codes, bytes)?, code.cast(activations[0], bytes)?);
        let operands = [sum.registers[0].into(), codes.into(), activations.into()];
        let result = code.call(self.name, &[words.into(), bytes.into()], &operands)?;
        sum.registers[0] = result.into_vector_value();
        Ok(())
    }

    fn field<'c>(
        &self,
        code: &Code<'c>,
        bytes: Vector<'c>,
        shift: u32,
        bits: u32,
    ) -> Emitted<Vector<'c>> {
        field(code, bytes, shift, bits)
    }
}

/// Four activations as a lane of a register of 16: the instruction picks the lane.
pub(super) fn lane<'c>(
    code: &Code<'c>,
    block: PointerValue<'c>,
    chunk: u32,
) -> Emitted<Vector<'c>> {
    let all = code.load_ints(4, code.at(block, u64::from(chunk / 4 * 16))?, 4)?;
    code.shuffle(all, all, &[chunk % 4; 4])
}

/// Bytes are shifted as bytes, so the field at the top needs no mask.
pub(super) fn field<'c>(
    code: &Code<'c>,
    bytes: Vector<'c>,
    shift: u32,
    bits: u32,
) -> Emitted<Vector<'c>> {
    let shifted = code.down(code.bytes(bytes)?, shift)?;
    if shift + bits == 8 { Ok(shifted) } else { code.and_bytes(shifted, 0xff_u8 >> (8 - bits)) }
}
