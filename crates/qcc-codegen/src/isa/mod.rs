//! What differs between instruction sets. The loop nest ([`crate::nest`]) is written once, over
//! [`Instructions`]; an instruction set is one file here and one row of
//! [`ISAS`](crate::isas::ISAS).

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avx512_vnni;
pub(crate) mod avx_vnni;
mod by_lane;
pub(crate) mod neon;
pub(crate) mod neon_dot;
pub(crate) mod neon_i8mm;
pub(crate) mod scalar;
mod vnni;
mod words;

use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::{PanelBits, PanelScale};

/// Dot products of one register of columns that are being summed up.
///
/// `registers` are `i32` sums; what they mean is the instruction set's own affair, until
/// [`Instructions::total`] makes one `i32` per column of them.
pub(crate) struct Sum<'c> {
    pub registers: Vec<Vector<'c>>,
    /// Narrower sums of the current block, if the instruction set has them.
    pub pending: Option<Vector<'c>>,
}

/// Instructions of one set on one register of columns.
///
/// A register holds `lanes` columns. Codes of a chunk of 4 k are `<lanes x i32>`: byte `i` of
/// element `c` is the code of column `c` and of `k = 4 chunk + i`, as in the packed layout.
pub(crate) trait Instructions: Sync {
    /// Columns of a register.
    fn lanes(&self) -> u32;

    /// Vector registers there are.
    fn registers(&self) -> u32;

    /// Whether codes above 127 can be multiplied ([`Form`](crate::unpack::Form) says what is
    /// done where not).
    fn wide_codes(&self) -> bool;

    /// Up to how many rows (times planes) codes stay in place in their bytes. Zero if codes must
    /// be small.
    fn in_place_rows(&self, bits: PanelBits) -> u32;

    /// Registers of a sum while codes are added.
    fn sum_registers(&self, _: PanelBits) -> u32 {
        1
    }

    /// Registers of the codes of a chunk.
    fn code_registers(&self, _: PanelBits) -> u32 {
        1
    }

    /// Registers of activations that are held at a time, for so many rows (times planes).
    fn activation_registers(&self, _lines: u32, _: PanelBits) -> u32 {
        1
    }

    /// Where activations take instructions of their own: up to how many rows (times planes) are
    /// worked on at a time, so that more registers of columns share them.
    fn most_lines(&self, _: PanelBits) -> Option<u32> {
        None
    }

    /// A sum of `start`, or of nothing.
    fn start<'c>(&self, code: &Code<'c>, start: Option<Vector<'c>>) -> Emitted<Sum<'c>> {
        let zero = code.ints(32, self.lanes())?.const_zero();
        Ok(Sum { registers: vec![start.unwrap_or(zero)], pending: None })
    }

    /// The activations of chunk `chunk` of a block of 32 k whose activations begin at `block`.
    fn activations<'c>(
        &self,
        code: &Code<'c>,
        block: PointerValue<'c>,
        chunk: u32,
    ) -> Emitted<Vec<Vector<'c>>> {
        let at = code.at(block, u64::from(4 * chunk))?;
        Ok(vec![code.load_same_int(self.lanes(), at)?])
    }

    /// Adds the dot products of 4 codes and 4 activations per column.
    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        bits: PanelBits,
    ) -> Emitted<()>;

    /// After the last chunk of a block: `pending` goes into the registers.
    fn end_block<'c>(&self, _: &Code<'c>, _: &mut Sum<'c>) -> Emitted<()> {
        Ok(())
    }

    /// One `i32` per column.
    fn total<'c>(&self, code: &Code<'c>, sum: &Sum<'c>) -> Emitted<Vector<'c>> {
        let _ = code;
        Ok(sum.registers[0])
    }

    /// The field of `bits` bits at bit `shift` of each byte.
    fn field<'c>(
        &self,
        code: &Code<'c>,
        bytes: Vector<'c>,
        shift: u32,
        bits: u32,
    ) -> Emitted<Vector<'c>> {
        let mask = 0xff_u8 >> (8 - bits);
        code.and_bytes(code.down(bytes, shift)?, mask)
    }

    /// `lanes` scales as `f32`, from memory that is aligned to their size.
    fn scales<'c>(
        &self,
        code: &Code<'c>,
        kind: PanelScale,
        at: PointerValue<'c>,
    ) -> Emitted<Vector<'c>> {
        let n = self.lanes();
        match kind {
            PanelScale::F32 => code.load_floats(n, at, 4 * n),
            PanelScale::F16 => code.load_halves(n, at, 2 * n),
            PanelScale::Bf16 => code.load_brain_floats(n, at, 2 * n),
        }
    }
}
