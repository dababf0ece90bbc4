//! Numbers and control of the driver: the builder of LLVM with fewer words.

use crate::CodegenError;
use crate::code::{Code, Emitted};
use inkwell::types::BasicTypeEnum;
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue as _, BasicValueEnum, FunctionValue, InstructionValue,
    IntValue, PointerValue,
};
use inkwell::{AtomicOrdering, IntPredicate};

pub(super) type Int<'c> = IntValue<'c>;
pub(super) type Pointer<'c> = PointerValue<'c>;

impl<'c> Code<'c> {
    pub(super) fn plus(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_int_add(a, b, "")?)
    }

    pub(super) fn minus(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_int_sub(a, b, "")?)
    }

    pub(super) fn times(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_int_mul(a, b, "")?)
    }

    /// `a * b`, `b` being known.
    pub(super) fn scaled(&self, a: Int<'c>, b: u64) -> Emitted<Int<'c>> {
        self.times(a, self.index(b))
    }

    /// `a / b`, rounded down; `b` is not 0.
    pub(super) fn over(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_int_unsigned_div(a, b, "")?)
    }

    /// `a / b`, rounded up; `b` is not 0, and `a + b` no overflow.
    pub(super) fn over_up(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        let a = self.minus(self.plus(a, b)?, self.index(1))?;
        self.over(a, b)
    }

    pub(super) fn compare(&self, how: IntPredicate, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_int_compare(how, a, b, "")?)
    }

    pub(super) fn below(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        self.compare(IntPredicate::ULT, a, b)
    }

    pub(super) fn is_zero(&self, a: Int<'c>) -> Emitted<Int<'c>> {
        self.compare(IntPredicate::EQ, a, a.get_type().const_zero())
    }

    pub(super) fn either(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_or(a, b, "")?)
    }

    pub(super) fn both(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_and(a, b, "")?)
    }

    pub(super) fn pick(&self, which: Int<'c>, yes: Int<'c>, no: Int<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_select(which, yes, no, "")?.into_int_value())
    }

    pub(super) fn least(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        self.pick(self.below(a, b)?, a, b)
    }

    pub(super) fn most(&self, a: Int<'c>, b: Int<'c>) -> Emitted<Int<'c>> {
        self.pick(self.below(a, b)?, b, a)
    }

    /// The number of an address.
    pub(super) fn address(&self, at: Pointer<'c>) -> Emitted<Int<'c>> {
        Ok(self.builder.build_ptr_to_int(at, self.context.i64_type(), "")?)
    }

    /// An `i64` in memory.
    pub(super) fn read(&self, at: Pointer<'c>, bytes: u64) -> Emitted<Int<'c>> {
        Ok(self.load(self.context.i64_type(), self.at(at, bytes)?, 8)?.into_int_value())
    }

    /// A pointer in memory.
    pub(super) fn read_pointer(&self, at: Pointer<'c>, bytes: u64) -> Emitted<Pointer<'c>> {
        Ok(self.load(self.pointer_type(), self.at(at, bytes)?, 8)?.into_pointer_value())
    }

    /// 8 bytes of memory that other threads write.
    pub(super) fn acquire(
        &self,
        ty: impl Into<BasicTypeEnum<'c>>,
        at: Pointer<'c>,
    ) -> Emitted<BasicValueEnum<'c>> {
        let value = self.load(ty, at, 8)?;
        if let Some(load) = value.as_instruction_value() {
            atomic(load, AtomicOrdering::Acquire)?;
        }
        Ok(value)
    }

    /// 8 bytes to memory that other threads read, and with them all that was written before.
    pub(super) fn release(
        &self,
        value: impl Into<BasicValueEnum<'c>>,
        at: Pointer<'c>,
    ) -> Emitted<()> {
        let store = self.builder.build_store(at, value.into())?;
        store.set_alignment(8).map_err(|e| CodegenError::Internal(e.to_string()))?;
        atomic(store, AtomicOrdering::Release)
    }

    /// Calls a function that gives something.
    pub(super) fn ask(
        &self,
        function: FunctionValue<'c>,
        operands: &[BasicMetadataValueEnum<'c>],
    ) -> Emitted<BasicValueEnum<'c>> {
        let lost = || CodegenError::Internal("a call without a result".into());
        let call = self.builder.build_call(function, operands, "")?;
        call.try_as_basic_value().basic().ok_or_else(lost)
    }

    /// Any number to memory, aligned to `align`.
    pub(super) fn write(
        &self,
        value: impl Into<BasicValueEnum<'c>>,
        at: Pointer<'c>,
        align: u32,
    ) -> Emitted<()> {
        let store = self.builder.build_store(at, value.into())?;
        store.set_alignment(align).map_err(|e| CodegenError::Internal(e.to_string()))
    }

    /// `then` where the condition holds; it must not end the function.
    pub(super) fn when(
        &self,
        function: FunctionValue<'c>,
        condition: Int<'c>,
        then: impl FnOnce() -> Emitted<()>,
    ) -> Emitted<()> {
        let yes = self.context.append_basic_block(function, "when");
        let after = self.context.append_basic_block(function, "then");
        self.builder.build_conditional_branch(condition, yes, after)?;
        self.builder.position_at_end(yes);
        then()?;
        self.builder.build_unconditional_branch(after)?;
        self.builder.position_at_end(after);
        Ok(())
    }

    /// `then`, which ends the function, where the condition holds.
    pub(super) fn last_when(
        &self,
        function: FunctionValue<'c>,
        condition: Int<'c>,
        then: impl FnOnce() -> Emitted<()>,
    ) -> Emitted<()> {
        let yes = self.context.append_basic_block(function, "leave");
        let after = self.context.append_basic_block(function, "stay");
        self.builder.build_conditional_branch(condition, yes, after)?;
        self.builder.position_at_end(yes);
        then()?;
        self.builder.position_at_end(after);
        Ok(())
    }

    /// Ends the function with `value` where the condition holds.
    pub(super) fn leave(
        &self,
        function: FunctionValue<'c>,
        condition: Int<'c>,
        value: Int<'c>,
    ) -> Emitted<()> {
        self.last_when(function, condition, || {
            self.builder.build_return(Some(&value))?;
            Ok(())
        })
    }

    /// Each number from `from` on, below `to`.
    pub(super) fn each(
        &self,
        function: FunctionValue<'c>,
        from: Int<'c>,
        to: Int<'c>,
        body: impl FnOnce(Int<'c>) -> Emitted<()>,
    ) -> Emitted<()> {
        self.when(function, self.below(from, to)?, || {
            let count = self.minus(to, from)?;
            self.repeat(function, count, &[], |i, _| {
                body(self.plus(from, i)?)?;
                Ok(Vec::new())
            })?;
            Ok(())
        })
    }
}

fn atomic(it: InstructionValue<'_>, ordering: AtomicOrdering) -> Emitted<()> {
    it.set_atomic_ordering(ordering).map_err(|e| CodegenError::Internal(e.to_string()))
}

/// A parameter that is a number.
pub(super) fn int<'c>(function: FunctionValue<'c>, i: u32) -> Emitted<Int<'c>> {
    match function.get_nth_param(i) {
        Some(BasicValueEnum::IntValue(value)) => Ok(value),
        _ => Err(CodegenError::Internal(format!("parameter {i} is no number"))),
    }
}

/// A parameter that is a pointer.
pub(super) fn pointer<'c>(function: FunctionValue<'c>, i: u32) -> Emitted<Pointer<'c>> {
    match function.get_nth_param(i) {
        Some(BasicValueEnum::PointerValue(value)) => Ok(value),
        _ => Err(CodegenError::Internal(format!("parameter {i} is no pointer"))),
    }
}
