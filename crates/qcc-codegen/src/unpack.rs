//! Chunks of 4 k out of the vectors of a block of 32 k, for each width of codes.
//!
//! | bits | vector `j` holds |
//! |---|---|
//! | 8 | chunk `j` |
//! | 4 | chunks `2j`, `2j + 1` at bits 0, 4 |
//! | 2 | chunks `4j .. 4j + 4` at bits 0, 2, 4, 6 |
//! | 3 | chunks `2j`, `2j + 1` at bits 0, 3; chunk 6 in bits 6, 7 of vector 0 and 7 of vector 2; chunk 7 in bits 6, 7 of vector 1 and 6 of vector 2 |
//!
//! A chunk comes out shifted down, or *in place*: then its codes are multiplied by a power of two
//! that depends on the chunk. Chunks of one power are a class and share an accumulator, and the
//! sum of a class is shifted when the group is done. In place takes fewer instructions per
//! vector and more accumulators.

use crate::code::{Code, Emitted, Vector};
use crate::isa::Instructions;
use qcc_kernels::{KernelGroup, KernelSpec};
use qcc_quant::panel::PanelBits;

/// What a chunk comes out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Codes as they are.
    Down,
    /// Codes times `2^exponent` of their class.
    InPlace,
    /// 3 bits: in place, but for chunks 6 and 7, whose two classes would be joined for a single
    /// block.
    Mixed,
    /// Four classes, for a row of groups that are long enough to pay for the joining. 2 bits: one
    /// per position in the byte, so that nothing is shifted. 4 bits: more additions at a time.
    Spread,
    /// 8 bits where codes must be signed bytes: code − 128.
    Centered,
    /// 8 bits where codes must be signed bytes: the low 7 bits, and −128 times the top bit. The
    /// second class is subtracted.
    Split,
}

/// How the sum of a class joins the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// Added after a shift to smaller bits, which loses nothing.
    Shift(u32),
    Subtract,
}

impl Form {
    /// The form for a kernel.
    pub(crate) fn choose(instructions: &dyn Instructions, spec: &KernelSpec) -> Form {
        let bits = spec.bits;
        let rows = u32::from(spec.rows) * spec.planes.count();
        if bits == PanelBits::B8 && !instructions.wide_codes() {
            return if spec.asymmetric { Form::Split } else { Form::Centered };
        }
        if rows > instructions.in_place_rows(bits) {
            return Form::Down;
        }
        match (bits, spec.group) {
            (PanelBits::B3, KernelGroup::Half | KernelGroup::Blocks(1)) => Form::Mixed,
            (PanelBits::B2 | PanelBits::B4, KernelGroup::Blocks(4..) | KernelGroup::Counted)
                if rows == 1 =>
            {
                Form::Spread
            }
            _ => Form::InPlace,
        }
    }

    /// The classes and how they join.
    pub(crate) fn classes(self, bits: PanelBits) -> &'static [Join] {
        use Join::{Shift, Subtract};
        match (self, bits) {
            (Form::Down | Form::Centered, _) => &[Shift(0)],
            (Form::Split, _) => &[Shift(0), Subtract],
            // Two chains of additions of even and odd chunks, not one of eight.
            (Form::InPlace | Form::Mixed, PanelBits::B8) => &[Shift(0), Shift(0)],
            (Form::InPlace | Form::Mixed, PanelBits::B4 | PanelBits::B2) => &[Shift(0), Shift(4)],
            (Form::Spread, PanelBits::B4) => &[Shift(0), Shift(4), Shift(0), Shift(4)],
            (Form::Spread, _) => &[Shift(0), Shift(2), Shift(4), Shift(6)],
            (Form::Mixed, PanelBits::B3) => &[Shift(0), Shift(3)],
            (Form::InPlace, PanelBits::B3) => &[Shift(0), Shift(3), Shift(5), Shift(4)],
        }
    }
}

/// The codes of a chunk in one form: one operand of a dot product per class that it belongs to.
/// `vector` gives a vector of the block.
pub(crate) fn chunk<'c>(
    code: &Code<'c>,
    instructions: &dyn Instructions,
    bits: PanelBits,
    form: Form,
    vector: &mut dyn FnMut(usize) -> Emitted<Vector<'c>>,
    chunk: u32,
) -> Emitted<Vec<(usize, Vector<'c>)>> {
    let c = chunk as usize;
    let odd = c % 2;
    let one = |class, codes: Emitted<Vector<'c>>| Ok(vec![(class, codes?)]);
    match (form, bits) {
        (Form::Centered, _) => {
            let codes = code.bytes(vector(c)?)?;
            one(0, code.xor(codes, code.same(codes.get_type(), 0x80)))
        }
        (Form::Split, _) => {
            Ok(vec![(0, code.and_bytes(vector(c)?, 0x7f)?), (1, code.and_bytes(vector(c)?, 0x80)?)])
        }
        (Form::Spread, PanelBits::B4) => {
            one(c % 4, code.and_bytes(vector(c / 2)?, if odd == 1 { 0xf0 } else { 0x0f }))
        }
        (Form::Spread, _) => one(c % 4, code.and_bytes(vector(c / 4)?, 3 << (2 * (chunk % 4)))),
        (Form::InPlace | Form::Mixed, PanelBits::B8) => one(odd, vector(c)),
        (Form::Down, PanelBits::B8) => one(0, vector(c)),
        (Form::InPlace | Form::Mixed, PanelBits::B4) => {
            one(odd, code.and_bytes(vector(c / 2)?, if odd == 1 { 0xf0 } else { 0x0f }))
        }
        (Form::Down, PanelBits::B4) => {
            one(0, instructions.field(code, vector(c / 2)?, 4 * (chunk % 2), 4))
        }
        (Form::InPlace | Form::Mixed, PanelBits::B2) => {
            // One shift of the vector serves two chunks, in two classes and not four.
            let v = code.down(vector(c / 4)?, 2 * (chunk % 2))?;
            let class = c / 2 % 2;
            one(class, code.and_bytes(v, if class == 1 { 0x30 } else { 0x03 }))
        }
        (Form::Down, PanelBits::B2) => {
            one(0, instructions.field(code, vector(c / 4)?, 2 * (chunk % 4), 2))
        }
        (Form::InPlace | Form::Mixed, PanelBits::B3) if c < 6 => {
            one(odd, code.and_bytes(vector(c / 2)?, if odd == 1 { 0x38 } else { 0x07 }))
        }
        (Form::InPlace, PanelBits::B3) => {
            let (shift, low, high) = if c == 6 { (1, 0x60, 0x80) } else { (2, 0x30, 0x40) };
            let low = code.and_bytes(code.down(vector(c - 6)?, shift)?, low)?;
            one(c - 4, code.or(low, code.and_bytes(vector(2)?, high)?))
        }
        (Form::Down, PanelBits::B3) if c < 6 => {
            one(0, instructions.field(code, vector(c / 2)?, 3 * (chunk % 2), 3))
        }
        (Form::Down | Form::Mixed, PanelBits::B3) => {
            let high = code.down(vector(2)?, if c == 6 { 5 } else { 4 })?;
            let low = instructions.field(code, vector(c - 6)?, 6, 2)?;
            one(0, code.or(code.and_bytes(high, 4)?, low))
        }
    }
}
