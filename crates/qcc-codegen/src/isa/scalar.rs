//! The definition of a dot product in plain integer instructions: it runs wherever LLVM does.

use super::{Instructions, Sum};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::PointerValue;
use qcc_quant::panel::{PanelBits, PanelScale};

pub(crate) struct Scalar;

impl Instructions for Scalar {
    /// Four columns are what the smallest vector units hold; without one LLVM takes them apart.
    fn lanes(&self) -> u32 {
        4
    }

    fn registers(&self) -> u32 {
        16
    }

    fn wide_codes(&self) -> bool {
        true
    }

    fn in_place_rows(&self, _: PanelBits) -> u32 {
        0
    }

    /// The four activations, each sign-extended and in every element.
    fn activations<'c>(
        &self,
        code: &Code<'c>,
        block: PointerValue<'c>,
        chunk: u32,
    ) -> Emitted<Vec<Vector<'c>>> {
        let all = code.load_same_int(self.lanes(), code.at(block, u64::from(4 * chunk))?)?;
        (0..4).map(|i| code.down_signed(code.up(all, 24 - 8 * i)?, 24)).collect()
    }

    fn dot<'c>(
        &self,
        code: &Code<'c>,
        sum: &mut Sum<'c>,
        codes: Vector<'c>,
        activations: &[Vector<'c>],
        _: PanelBits,
    ) -> Emitted<()> {
        let codes = code.cast(codes, code.ints(32, self.lanes())?)?;
        for (i, &activation) in (0..).zip(activations) {
            let byte = code.and(code.down(codes, 8 * i)?, code.same(codes.get_type(), 0xff))?;
            sum.registers[0] = code.add(sum.registers[0], code.mul(byte, activation)?)?;
        }
        Ok(())
    }

    /// Half precision by integers: a conversion would be a call into a library.
    fn scales<'c>(
        &self,
        code: &Code<'c>,
        kind: PanelScale,
        at: PointerValue<'c>,
    ) -> Emitted<Vector<'c>> {
        let n = self.lanes();
        match kind {
            PanelScale::F32 => code.load_floats(n, at, 4 * n),
            PanelScale::F16 => code.load_halves_plain(n, at, 2 * n),
            PanelScale::Bf16 => code.load_brain_floats(n, at, 2 * n),
        }
    }
}
