//! Dot products on x86 without VNNI, shared by AVX2 and AVX-512.
//!
//! Codes of up to 4 bits: `vpmaddubsw` gives two products added in 16 bits; a block of 32 k adds
//! at most 8 of them, `8 * 2 * 15 * 127 < 2^15`, before `vpmaddwd` by ones makes 32 bits of it.
//! Codes of 8 bits would saturate there. Bytes of even and of odd k become 16-bit numbers, and
//! `vpmaddwd` of each gives one exact 32-bit number per column.

use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

/// What differs by the width of a register.
pub(crate) struct Words {
    /// Columns of a register.
    pub lanes: u32,
    /// Vector registers there are.
    pub registers: u32,
    /// The name of `vpmaddubsw`.
    pub maddubs: &'static str,
    /// The name of `vpmaddwd`.
    pub madd: &'static str,
}

impl Instructions for Words {
    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn registers(&self) -> u32 {
        self.registers
    }

    fn wide_codes(&self) -> bool {
        true
    }

    /// A field in place can be as large as 240: two products of it overflow 16 bits.
    fn in_place_rows(&self, _: PanelBits) -> u32 {
        0
    }

    /// Sums of 16 bits are kept beside those of 32.
    fn sum_registers(&self, bits: PanelBits) -> u32 {
        if bits == PanelBits::B8 { 1 } else { 2 }
    }

    /// As bytes, or as 16-bit numbers of even and of odd k.
    fn code_registers(&self, bits: PanelBits) -> u32 {
        if bits == PanelBits::B8 { 2 } else { 1 }
    }

    /// Activations as 16-bit numbers of even and of odd k take four instructions. With 16 registers
    /// two of columns can share them up to 4 rows.
    fn most_lines(&self, bits: PanelBits) -> Option<u32> {
        (bits == PanelBits::B8 && self.registers <= 16).then_some(4)
    }

    /// As codes, and a product.
    fn activation_registers(&self, _: u32, bits: PanelBits) -> u32 {
        self.code_registers(bits) + 1
    }

    /// `[a, even, odd]`: the four activations in each element, and as pairs of 16-bit numbers.
    ///
    /// What a width of codes does not use is dropped by LLVM.
    fn activations<'c>(
        &self,
        code: &Code<'c>,
        block: PointerValue<'c>,
        chunk: u32,
    ) -> Emitted<Vec<Vector<'c>>> {
        let at = code.at(block, u64::from(4 * chunk))?;
        let bytes = code.load_same_int(self.lanes, at)?;
        let words = code.cast(bytes, code.ints(16, 2 * self.lanes)?)?;
        let even = code.down_signed(code.up(words, 8)?, 8)?;
        let odd = code.down_signed(words, 8)?;
        Ok(vec![bytes, even, odd])
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        bits: PanelBits,
    ) -> Emitted<()> {
        let [bytes, even, odd] = *activations else { return Ok(()) };
        let words = even.get_type();
        if bits == PanelBits::B8 {
            let codes = code.cast(codes, words)?;
            let low = code.and(codes, code.same(words, 0xff))?;
            let high = code.down(codes, 8)?;
            for (codes, activations) in [(low, even), (high, odd)] {
                let products = code.call(self.madd, &[], &[codes.into(), activations.into()])?;
                sum.registers[0] = code.add(sum.registers[0], products.into_vector_value())?;
            }
            return Ok(());
        }
        let products = code.call(self.maddubs, &[], &[codes.into(), bytes.into()])?;
        let products = products.into_vector_value();
        sum.pending = Some(match sum.pending {
            Some(before) => code.add(before, products)?,
            None => products,
        });
        Ok(())
    }

    fn end_block<'c>(&self, code: &Code<'c>, sum: &mut Sum<'c>) -> Emitted<()> {
        if let Some(pending) = sum.pending.take() {
            let ones = code.same(pending.get_type(), 1);
            let pairs = code.call(self.madd, &[], &[pending.into(), ones.into()])?;
            sum.registers[0] = code.add(sum.registers[0], pairs.into_vector_value())?;
        }
        Ok(())
    }
}
