//! What happens to the results of a strip before they are stored, and the stores.

use crate::code::{Code, Emitted, Vector};
use crate::math;
use crate::nest::Nest;
use crate::operands::Operands;
use inkwell::IntPredicate;
use inkwell::values::PointerValue;
use qcc_kernels::Epilogue;

impl<'c> Nest<'_, 'c> {
    /// Epilogue and stores. Columns beyond the last are neither read nor written.
    pub(crate) fn finish(&self, operands: &Operands<'c>, results: &[Vector<'c>]) -> Emitted<()> {
        let code = self.code;
        let width = self.units * self.isa.lanes();
        let full = code.index(width.into());
        let is_full =
            code.builder.build_int_compare(IntPredicate::SGE, operands.columns, full, "")?;
        let [whole, part, end] = ["whole", "part", "end"]
            .map(|name| code.context.append_basic_block(self.function, name));
        code.builder.build_conditional_branch(is_full, whole, part)?;
        for (block, masked) in [(whole, false), (part, true)] {
            code.builder.position_at_end(block);
            self.write(operands, results, masked)?;
            code.builder.build_unconditional_branch(end)?;
        }
        code.builder.position_at_end(end);
        Ok(())
    }

    fn write(&self, operands: &Operands<'c>, results: &[Vector<'c>], masked: bool) -> Emitted<()> {
        let code = self.code;
        let lanes = self.isa.lanes();
        for unit in 0..self.units {
            let first = unit * lanes;
            let mask = if masked { Some(self.mask(operands, first)?) } else { None };
            let at = |base| code.at(base, u64::from(4 * first));
            let bias = match operands.bias {
                Some(bias) => Some(self.read(at(bias)?, mask)?),
                None => None,
            };
            for row in 0..usize::from(self.spec.rows) {
                let mut y = results[row * self.units as usize + unit as usize];
                let extra = match operands.extra.get(row) {
                    Some(&extra) => Some(self.read(at(extra)?, mask)?),
                    None => None,
                };
                y = apply(code, self.spec.epilogue, y, bias, extra)?;
                self.put(y, at(operands.y[row])?, mask)?;
            }
        }
        Ok(())
    }

    /// Which of the columns from `first` on exist.
    fn mask(&self, operands: &Operands<'c>, first: u32) -> Emitted<Vector<'c>> {
        let code = self.code;
        let lanes = self.isa.lanes();
        let ty = code.ints(32, lanes)?;
        let columns =
            code.builder.build_int_truncate(operands.columns, code.context.i32_type(), "")?;
        let columns = code.spread(columns.into(), ty)?;
        let numbers: Vec<u32> = (first..first + lanes).collect();
        let numbers = code.numbers(&numbers);
        Ok(code.builder.build_int_compare(IntPredicate::SLT, numbers, columns, "")?)
    }

    fn read(&self, at: PointerValue<'c>, mask: Option<Vector<'c>>) -> Emitted<Vector<'c>> {
        let code = self.code;
        let Some(mask) = mask else { return code.load_floats(self.isa.lanes(), at, 4) };
        code.load_masked(self.isa.lanes(), at, mask)
    }

    fn put(&self, y: Vector<'c>, at: PointerValue<'c>, mask: Option<Vector<'c>>) -> Emitted<()> {
        match mask {
            Some(mask) => self.code.store_masked(y, at, mask),
            None => self.code.store(y, at, 4),
        }
    }
}

/// What is stored for results `y`.
pub(crate) fn apply<'c>(
    code: &Code<'c>,
    epilogue: Epilogue,
    y: Vector<'c>,
    bias: Option<Vector<'c>>,
    extra: Option<Vector<'c>>,
) -> Emitted<Vector<'c>> {
    let y = match bias {
        Some(bias) if epilogue.reads_bias() => code.fadd(y, bias)?,
        _ => y,
    };
    match (epilogue.behind_bias(), extra) {
        (Epilogue::Residual, Some(extra)) => code.fadd(y, extra),
        (Epilogue::SiluMul, Some(extra)) => code.fmul(math::silu(code, y)?, extra),
        (Epilogue::Gelu, _) => math::gelu(code, y),
        (Epilogue::GeluTanh, _) => math::gelu_tanh(code, y),
        _ => Ok(y),
    }
}
