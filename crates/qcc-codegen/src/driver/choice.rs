//! Which of several versions of the code is in use.
//!
//! Two numbers in memory, each that of a version counted from 1, or 0: the best that this CPU
//! runs, and the one that the program selected. Both are found from the CPU and stored whole, so
//! that threads that do so at the same time store the same; nothing runs before `main`.

use super::cpu;
use super::scalars::{Int, Pointer, int, pointer};
use crate::Target;
use crate::code::{Code, Emitted};
use crate::library::abi::Code as Verdict;
use inkwell::IntPredicate;
use inkwell::values::{FunctionValue, PointerValue};

/// The numbers of one library.
#[derive(Clone, Copy)]
pub(super) struct Choice<'c> {
    pub memory: PointerValue<'c>,
}

/// Where the number of the selected version lies, behind that of the best.
const SELECTED: u64 = 8;

/// Functions around a choice.
pub(super) struct Chooser<'a, 'c> {
    pub code: &'a Code<'c>,
    pub choice: Choice<'c>,
    /// All versions, the best first.
    pub targets: &'a [Target],
    /// Gives a bit for each version that the CPU runs.
    pub runs: FunctionValue<'c>,
    /// Gives the number of the version in use, or of the one that would be; 0 if the CPU runs
    /// none.
    pub pick: FunctionValue<'c>,
    /// Whether two texts are equal for so many bytes: a number.
    pub is_same: FunctionValue<'c>,
}

impl<'c> Choice<'c> {
    /// The version in use, counted from 0. The library is open.
    pub(super) fn in_use(self, code: &Code<'c>) -> Emitted<Int<'c>> {
        // In this order: what sets the second back to 0 has set the first before.
        let selected = self.read(code, SELECTED)?;
        let best = self.read(code, 0)?;
        let number = code.pick(code.is_zero(selected)?, best, selected)?;
        code.minus(number, code.index(1))
    }

    fn read(self, code: &Code<'c>, at: u64) -> Emitted<Int<'c>> {
        let at = code.at(self.memory, at)?;
        Ok(code.acquire(code.context.i64_type(), at)?.into_int_value())
    }

    fn write(self, code: &Code<'c>, at: u64, number: Int<'c>) -> Emitted<()> {
        code.release(number, code.at(self.memory, at)?)
    }
}

impl<'c> Chooser<'_, 'c> {
    /// The body of [`Self::runs`].
    pub(super) fn emit_runs(&self) -> Emitted<()> {
        let runs = cpu::runs(self.code, self.runs, self.targets)?;
        self.code.builder.build_return(Some(&runs))?;
        Ok(())
    }

    /// The body of [`Self::pick`].
    pub(super) fn emit_pick(&self) -> Emitted<()> {
        let (code, choice) = (self.code, self.choice);
        for at in [SELECTED, 0] {
            let known = choice.read(code, at)?;
            let is_known = code.compare(IntPredicate::NE, known, code.index(0))?;
            code.leave(self.pick, is_known, known)?;
        }
        let best = self.best(code.ask(self.runs, &[])?.into_int_value())?;
        choice.write(code, 0, best)?;
        code.builder.build_return(Some(&best))?;
        Ok(())
    }

    /// The first version of those that run.
    fn best(&self, runs: Int<'c>) -> Emitted<Int<'c>> {
        let code = self.code;
        let mut best = code.index(0);
        for i in (0..self.targets.len() as u64).rev() {
            let bit = code.both(runs, code.index(1 << i))?;
            best = code.pick(code.is_zero(bit)?, best, code.index(i + 1))?;
        }
        Ok(best)
    }

    /// `(text, other, bytes)`: the body of [`Self::is_same`]. Reads no byte behind the first that
    /// differs.
    pub(super) fn emit_is_same(&self) -> Emitted<()> {
        let (code, function) = (self.code, self.is_same);
        let texts = [pointer(function, 0)?, pointer(function, 1)?];
        code.each(function, code.index(0), int(function, 2)?, |i| {
            let byte = |text| {
                let at = code.offset(text, i)?;
                Emitted::Ok(code.load(code.context.i8_type(), at, 1)?.into_int_value())
            };
            let differs = code.compare(IntPredicate::NE, byte(texts[0])?, byte(texts[1])?)?;
            code.leave(function, differs, code.index(0))
        })?;
        code.builder.build_return(Some(&code.index(1)))?;
        Ok(())
    }

    /// `(name)`, the body of `select`: takes the version of that name, with a null pointer the
    /// best, from now on.
    pub(super) fn emit_select(
        &self,
        function: FunctionValue<'c>,
        text: &dyn Fn(&str) -> Pointer<'c>,
    ) -> Emitted<()> {
        let (code, choice) = (self.code, self.choice);
        let verdict = |it: Verdict| code.context.i32_type().const_int(it as u64, false);
        let done = |at, number| {
            choice.write(code, at, number)?;
            code.builder.build_return(Some(&verdict(Verdict::Ok)))?;
            Emitted::Ok(())
        };
        let name = pointer(function, 0)?;
        let runs = code.ask(self.runs, &[])?.into_int_value();
        let is_null = code.builder.build_is_null(name, "")?;
        code.last_when(function, is_null, || {
            let best = self.best(runs)?;
            code.leave(function, code.is_zero(best)?, verdict(Verdict::Cpu))?;
            choice.write(code, 0, best)?;
            done(SELECTED, code.index(0))
        })?;
        for (i, target) in (0..).zip(self.targets) {
            let bytes = code.index(target.name().len() as u64 + 1);
            let operands = [name.into(), text(target.name()).into(), bytes.into()];
            let same = code.ask(self.is_same, &operands)?.into_int_value();
            let same = code.compare(IntPredicate::NE, same, code.index(0))?;
            code.last_when(function, same, || {
                let bit = code.both(runs, code.index(1 << i))?;
                code.leave(function, code.is_zero(bit)?, verdict(Verdict::Cpu))?;
                done(SELECTED, code.index(i + 1))
            })?;
        }
        code.builder.build_return(Some(&verdict(Verdict::Target)))?;
        Ok(())
    }

    /// The body of `target`: the name of the version that [`Self::pick`] gives, or a null pointer.
    pub(super) fn emit_target(&self, text: &dyn Fn(&str) -> Pointer<'c>) -> Emitted<()> {
        let code = self.code;
        let number = code.ask(self.pick, &[])?.into_int_value();
        let mut name = code.pointer_type().const_null();
        for (i, target) in (1..).zip(self.targets) {
            let is_it = code.compare(IntPredicate::EQ, number, code.index(i))?;
            let text = text(target.name());
            name = code.builder.build_select(is_it, text, name, "")?.into_pointer_value();
        }
        code.builder.build_return(Some(&name))?;
        Ok(())
    }
}
