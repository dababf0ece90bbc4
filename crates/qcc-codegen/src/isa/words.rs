//! Dot products on x86 without VNNI, shared by AVX2 and AVX-512.
//!
//! Codes of up to 4 bits: `vpmaddubsw` gives two products added in 16 bits; a block of 32 k adds
//! at most 8 of them, `8 * 2 * 15 * 127 < 2^15`, before `vpmaddwd` by ones makes 32 bits of it.
//! Codes of 8 bits would saturate there. Bytes of even and of odd k become 16-bit numbers, and
//! `vpmaddwd` of each gives one exact 32-bit number per column.

use super::Sum;
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::PanelBits;

/// Names of the two instructions for one width of register.
pub(super) struct Names {
    pub maddubs: &'static str,
    pub madd: &'static str,
}

/// Sums of 16 bits are kept beside those of 32.
pub(super) fn sum_registers(bits: PanelBits) -> u32 {
    if bits == PanelBits::B8 { 1 } else { 2 }
}

/// As bytes, or as 16-bit numbers of even and of odd k.
pub(super) fn code_registers(bits: PanelBits) -> u32 {
    if bits == PanelBits::B8 { 2 } else { 1 }
}

/// As codes, and a product.
pub(super) fn activation_registers(bits: PanelBits) -> u32 {
    code_registers(bits) + 1
}

/// `[a, even, odd]`: the four activations in each element, and as pairs of 16-bit numbers.
///
/// What a width of codes does not use is dropped by LLVM.
pub(super) fn activations<'c>(
    code: &Code<'c>,
    lanes: u32,
    at: PointerValue<'c>,
) -> Emitted<Vec<Vector<'c>>> {
    let bytes = code.load_same_int(lanes, at)?;
    let words = code.cast(bytes, code.ints(16, 2 * lanes)?)?;
    let even = code.down_signed(code.up(words, 8)?, 8)?;
    let odd = code.down_signed(words, 8)?;
    Ok(vec![bytes, even, odd])
}

pub(super) fn dot<'c>(
    code: &Code<'c>,
    names: &Names,
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
            let products = code.call(names.madd, &[], &[codes.into(), activations.into()])?;
            sum.registers[0] = code.add(sum.registers[0], products.into_vector_value())?;
        }
        return Ok(());
    }
    let products = code.call(names.maddubs, &[], &[codes.into(), bytes.into()])?;
    let products = products.into_vector_value();
    sum.pending = Some(match sum.pending {
        Some(before) => code.add(before, products)?,
        None => products,
    });
    Ok(())
}

pub(super) fn end_block<'c>(code: &Code<'c>, names: &Names, sum: &mut Sum<'c>) -> Emitted<()> {
    if let Some(pending) = sum.pending.take() {
        let ones = code.same(pending.get_type(), 1);
        let pairs = code.call(names.madd, &[], &[pending.into(), ones.into()])?;
        sum.registers[0] = code.add(sum.registers[0], pairs.into_vector_value())?;
    }
    Ok(())
}
