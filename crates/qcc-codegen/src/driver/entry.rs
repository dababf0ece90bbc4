//! The functions that programs call: for every CPU of the architecture. They look at what they
//! are given, then call what is compiled for the target.

use super::choice::Choice;
use super::fields::{Descriptor, Field, Link};
use super::scalars::{Int, Pointer, int, pointer};
use crate::code::{Code, Emitted};
use crate::library::abi::{self, Code as Verdict};
use inkwell::IntPredicate;
use inkwell::types::FunctionType;
use inkwell::values::{BasicMetadataValueEnum, FunctionValue, GlobalValue, PointerValue};

/// Entries of one library.
pub(super) struct Entries<'a, 'c> {
    pub code: &'a Code<'c>,
    /// Null until the library is open; then where weights begin, if they are in a file.
    pub state: GlobalValue<'c>,
    pub quantize: FunctionValue<'c>,
    pub multiply: FunctionValue<'c>,
    /// What a descriptor's links to the functions that quantize and multiply are called with.
    pub quantizer: FunctionType<'c>,
    pub multiplier: FunctionType<'c>,
    /// Which version is in use, if there are several.
    pub choice: Option<Choice<'c>>,
}

/// What a file of weights must hold: record after record.
pub(super) struct Records<'c> {
    /// Of each record: where it begins, bytes of it, and its header of 8 numbers.
    pub table: PointerValue<'c>,
    pub count: u64,
}

/// Bytes of a row of [`Records::table`].
pub(super) const RECORD: u64 = 10 * 8;

impl<'c> Entries<'_, 'c> {
    fn verdict(&self, verdict: Verdict) -> Int<'c> {
        self.code.context.i32_type().const_int(verdict as u64, false)
    }

    /// Ends a function with `verdict` where the condition holds.
    fn refuse(
        &self,
        function: FunctionValue<'c>,
        condition: Int<'c>,
        verdict: Verdict,
    ) -> Emitted<()> {
        self.code.leave(function, condition, self.verdict(verdict))
    }

    fn done(&self) -> Emitted<()> {
        self.code.builder.build_return(Some(&self.verdict(Verdict::Ok)))?;
        Ok(())
    }

    /// Whether the address is not a multiple of `bytes`.
    fn is_off(&self, at: Pointer<'c>, bytes: u64) -> Emitted<Int<'c>> {
        let rest = self.code.both(self.code.address(at)?, self.code.index(bytes - 1))?;
        self.code.compare(IntPredicate::NE, rest, self.code.index(0))
    }

    /// Looks at what both steps are given; floats and workspace; gives the state.
    fn look(
        &self,
        function: FunctionValue<'c>,
        it: &Descriptor<'_, 'c>,
        [floats, workspace]: [Pointer<'c>; 2],
        [rows, part, parts]: [Int<'c>; 3],
    ) -> Emitted<Pointer<'c>> {
        let code = self.code;
        let state = code.acquire(code.pointer_type(), self.state.as_pointer_value())?;
        let state = state.into_pointer_value();
        self.refuse(function, code.builder.build_is_null(state, "")?, Verdict::Closed)?;
        let many = code.compare(IntPredicate::UGT, parts, code.index(abi::MOST_PARTS))?;
        let beyond = code.compare(IntPredicate::UGE, part, parts)?;
        self.refuse(function, code.either(many, beyond)?, Verdict::Part)?;
        let most = it.get(Field::MostRows)?;
        self.refuse(function, code.compare(IntPredicate::UGT, rows, most)?, Verdict::Rows)?;
        self.refuse(function, code.is_zero(rows)?, Verdict::Ok)?;
        let null = |at| Emitted::Ok(code.builder.build_is_null(at, "")?);
        let none = code.either(null(floats)?, null(workspace)?)?;
        self.refuse(function, none, Verdict::Null)?;
        let off = code.either(self.is_off(floats, 4)?, self.is_off(workspace, 64)?)?;
        self.refuse(function, off, Verdict::Align)?;
        Ok(state)
    }

    /// `(descriptor, x, rows, workspace, part, parts)`.
    pub(super) fn emit_quantize(&self) -> Emitted<()> {
        let (code, function) = (self.code, self.quantize);
        let it = Descriptor { code, at: pointer(function, 0)? };
        let [x, workspace] = [pointer(function, 1)?, pointer(function, 3)?];
        let [rows, part, parts] = [int(function, 2)?, int(function, 4)?, int(function, 5)?];
        self.look(function, &it, [x, workspace], [rows, part, parts])?;
        let from = code.over(code.times(rows, part)?, parts)?;
        let next = code.times(rows, code.plus(part, code.index(1))?)?;
        let to = code.over(next, parts)?;
        let operands = [it.at.into(), x.into(), workspace.into(), from.into(), to.into()];
        let link = it.of(self.version()?, Link::Quantize)?;
        code.builder.build_indirect_call(self.quantizer, link, &operands, "")?;
        self.done()
    }

    /// `(descriptor, workspace, rows, y, part, parts, extra)`.
    pub(super) fn emit_multiply(&self) -> Emitted<()> {
        let (code, function) = (self.code, self.multiply);
        let it = Descriptor { code, at: pointer(function, 0)? };
        let [workspace, y] = [pointer(function, 1)?, pointer(function, 3)?];
        let [rows, part, parts] = [int(function, 2)?, int(function, 4)?, int(function, 5)?];
        let state = self.look(function, &it, [y, workspace], [rows, part, parts])?;
        let extra = pointer(function, 6)?;
        let reads = code.compare(IntPredicate::NE, it.get(Field::ReadsExtra)?, code.index(0))?;
        let none = code.both(reads, code.builder.build_is_null(extra, "")?)?;
        self.refuse(function, none, Verdict::Null)?;
        self.refuse(function, code.both(reads, self.is_off(extra, 4)?)?, Verdict::Align)?;
        let inside = it.link(Link::Weights)?;
        let beside = code.offset(state, it.get(Field::WeightsAt)?)?;
        let is_beside = code.builder.build_is_null(inside, "")?;
        let weights = code.builder.build_select(is_beside, beside, inside, "")?;
        let operands: [BasicMetadataValueEnum<'c>; 8] = [
            it.at.into(),
            weights.into(),
            workspace.into(),
            rows.into(),
            y.into(),
            part.into(),
            parts.into(),
            extra.into(),
        ];
        let link = it.of(self.version()?, Link::Multiply)?;
        code.builder.build_indirect_call(self.multiplier, link, &operands, "")?;
        self.done()
    }

    /// Which version is in use; none if there is one only.
    fn version(&self) -> Emitted<Option<Int<'c>>> {
        self.choice.map(|it| it.in_use(self.code)).transpose()
    }

    /// `(descriptor, x, rows, y, workspace, part, parts, extra)`.
    pub(super) fn emit_run(&self, function: FunctionValue<'c>) -> Emitted<()> {
        let code = self.code;
        let it: BasicMetadataValueEnum<'c> = pointer(function, 0)?.into();
        let [x, y, workspace] =
            [pointer(function, 1)?, pointer(function, 3)?, pointer(function, 4)?];
        let [rows, part, parts] = [int(function, 2)?, int(function, 5)?, int(function, 6)?];
        let [zero, one] = [code.index(0), code.index(1)];
        let operands = [it, x.into(), rows.into(), workspace.into(), zero.into(), one.into()];
        let first = self.call(self.quantize, &operands)?;
        let failed = code.compare(IntPredicate::NE, first, self.verdict(Verdict::Ok))?;
        code.leave(function, failed, first)?;
        let extra = pointer(function, 7)?;
        let operands =
            [it, workspace.into(), rows.into(), y.into(), part.into(), parts.into(), extra.into()];
        let second = self.call(self.multiply, &operands)?;
        code.builder.build_return(Some(&second))?;
        Ok(())
    }

    /// Calls a function that gives a number.
    pub(super) fn call(
        &self,
        function: FunctionValue<'c>,
        operands: &[BasicMetadataValueEnum<'c>],
    ) -> Emitted<Int<'c>> {
        Ok(self.code.ask(function, operands)?.into_int_value())
    }

    /// `(weights, bytes)`: refuses if the CPU `lacks` something, looks at the weights, and opens.
    pub(super) fn emit_open(
        &self,
        function: FunctionValue<'c>,
        lacks: Int<'c>,
        records: Option<&Records<'c>>,
    ) -> Emitted<()> {
        let code = self.code;
        self.refuse(function, lacks, Verdict::Cpu)?;
        let (weights, bytes) = (pointer(function, 0)?, int(function, 1)?);
        let state = match records {
            None => self.state.as_pointer_value(),
            Some(records) => {
                self.weights(function, records, weights, bytes)?;
                weights
            }
        };
        code.release(state, self.state.as_pointer_value())?;
        self.done()
    }

    /// Refuses weights that are not those of the library.
    fn weights(
        &self,
        function: FunctionValue<'c>,
        records: &Records<'c>,
        weights: Pointer<'c>,
        bytes: Int<'c>,
    ) -> Emitted<()> {
        let code = self.code;
        self.refuse(function, code.builder.build_is_null(weights, "")?, Verdict::Null)?;
        self.refuse(function, self.is_off(weights, 64)?, Verdict::Align)?;
        let count = code.index(records.count);
        code.each(function, code.index(0), count, |i| {
            let want = code.offset(records.table, code.scaled(i, RECORD)?)?;
            let at = code.read(want, 0)?;
            let head = code.plus(at, code.index(64))?;
            self.refuse(function, code.below(bytes, head)?, Verdict::Short)?;
            let got = code.offset(weights, at)?;
            // Both halves of the first number of the header.
            let [want_first, got_first] = [code.read(want, 16)?, code.read(got, 0)?];
            let wrong = code.builder.build_xor(want_first, got_first, "")?;
            let differs = |bits: Int<'c>| code.compare(IntPredicate::NE, bits, code.index(0));
            let magic = code.both(wrong, code.index(u32::MAX.into()))?;
            self.refuse(function, differs(magic)?, Verdict::Magic)?;
            self.refuse(function, differs(wrong)?, Verdict::Version)?;
            let mut wrong = code.index(0);
            for word in 1..8 {
                let [want, got] = [code.read(want, 16 + 8 * word)?, code.read(got, 8 * word)?];
                wrong = code.either(wrong, code.builder.build_xor(want, got, "")?)?;
            }
            self.refuse(function, differs(wrong)?, Verdict::Shape)?;
            let end = code.plus(at, code.read(want, 8)?)?;
            self.refuse(function, code.below(bytes, end)?, Verdict::Short)
        })
    }
}
