//! A thin layer over the builder of LLVM: the few instructions kernels are made of, on vectors.
//!
//! Codes and sums are `<n x i32>`, whatever smaller fields an `i32` holds; instructions that want
//! another shape of the same bits get a bitcast, which costs nothing.

use crate::error::CodegenError;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::support::LLVMString;
use inkwell::types::{BasicTypeEnum, VectorType};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue, BasicValueEnum, FunctionValue, IntValue, PointerValue,
    VectorValue,
};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

pub(crate) type Vector<'c> = VectorValue<'c>;
pub(crate) type Emitted<T> = Result<T, CodegenError>;

impl From<BuilderError> for CodegenError {
    fn from(error: BuilderError) -> Self {
        CodegenError::Internal(error.to_string())
    }
}

impl From<LLVMString> for CodegenError {
    fn from(text: LLVMString) -> Self {
        CodegenError::Internal(text.to_string())
    }
}

/// A module under construction and the place in it where instructions go.
pub(crate) struct Code<'c> {
    pub context: &'c Context,
    pub module: Module<'c>,
    pub builder: Builder<'c>,
}

impl<'c> Code<'c> {
    pub(crate) fn new(context: &'c Context, name: &str) -> Self {
        Code { context, module: context.create_module(name), builder: context.create_builder() }
    }

    // Types and constants.

    /// `<n x i{bits}>`.
    pub(crate) fn ints(&self, bits: u32, n: u32) -> Emitted<VectorType<'c>> {
        let int = match bits {
            1 => self.context.bool_type(),
            8 => self.context.i8_type(),
            16 => self.context.i16_type(),
            32 => self.context.i32_type(),
            _ => return Err(CodegenError::Internal(format!("no vector of i{bits}"))),
        };
        Ok(int.vec_type(n))
    }

    /// `<n x float>`.
    pub(crate) fn floats(&self, n: u32) -> VectorType<'c> {
        self.context.f32_type().vec_type(n)
    }

    pub(crate) fn index(&self, value: u64) -> IntValue<'c> {
        self.context.i64_type().const_int(value, false)
    }

    /// `value` in every element of a vector of the type of `like`.
    pub(crate) fn same(&self, like: VectorType<'c>, value: i64) -> Vector<'c> {
        let int = like.get_element_type().into_int_type();
        let one = int.const_int(value.cast_unsigned(), true);
        VectorType::const_vector(&vec![one; like.get_size() as usize])
    }

    pub(crate) fn same_f32(&self, n: u32, value: f32) -> Vector<'c> {
        let one = self.context.f32_type().const_float(f64::from(value));
        VectorType::const_vector(&vec![one; n as usize])
    }

    /// `<n x i32>` of the given numbers.
    pub(crate) fn numbers(&self, values: &[u32]) -> Vector<'c> {
        let int = self.context.i32_type();
        let all: Vec<_> = values.iter().map(|&v| int.const_int(u64::from(v), false)).collect();
        VectorType::const_vector(&all)
    }

    // Memory.

    /// `base + bytes`, inside the object that `base` points into.
    #[allow(unsafe_code)]
    pub(crate) fn offset(
        &self,
        base: PointerValue<'c>,
        bytes: IntValue<'c>,
    ) -> Emitted<PointerValue<'c>> {
        if bytes.is_null() {
            return Ok(base);
        }
        // SAFETY: an `i8` is the element, so an index is a number of bytes and has the type the
        // builder wants; whether the address may be read is the affair of who loads.
        Ok(unsafe { self.builder.build_in_bounds_gep(self.context.i8_type(), base, &[bytes], "")? })
    }

    pub(crate) fn at(&self, base: PointerValue<'c>, bytes: u64) -> Emitted<PointerValue<'c>> {
        self.offset(base, self.index(bytes))
    }

    pub(crate) fn load(
        &self,
        ty: impl Into<BasicTypeEnum<'c>>,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<BasicValueEnum<'c>> {
        let value = self.builder.build_load(ty.into(), at, "")?;
        if let Some(load) = value.as_instruction_value() {
            load.set_alignment(align).map_err(|e| CodegenError::Internal(e.to_string()))?;
        }
        Ok(value)
    }

    /// `<n x i32>` from memory.
    pub(crate) fn load_ints(
        &self,
        n: u32,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<Vector<'c>> {
        Ok(self.load(self.ints(32, n)?, at, align)?.into_vector_value())
    }

    pub(crate) fn load_floats(
        &self,
        n: u32,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<Vector<'c>> {
        Ok(self.load(self.floats(n), at, align)?.into_vector_value())
    }

    /// `<n x i32>` with the `i32` at `at` in every element.
    pub(crate) fn load_same_int(&self, n: u32, at: PointerValue<'c>) -> Emitted<Vector<'c>> {
        let one = self.load(self.context.i32_type(), at, 4)?;
        self.spread(one, self.ints(32, n)?)
    }

    pub(crate) fn load_same_float(&self, n: u32, at: PointerValue<'c>) -> Emitted<Vector<'c>> {
        let one = self.load(self.context.f32_type(), at, 4)?;
        self.spread(one, self.floats(n))
    }

    pub(crate) fn spread(
        &self,
        one: BasicValueEnum<'c>,
        ty: VectorType<'c>,
    ) -> Emitted<Vector<'c>> {
        let zero = self.context.i32_type().const_zero();
        let first = self.builder.build_insert_element(ty.get_poison(), one, zero, "")?;
        self.shuffle(first, first, &vec![0; ty.get_size() as usize])
    }

    /// `n` numbers of half precision.
    pub(crate) fn load_halves(
        &self,
        n: u32,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<Vector<'c>> {
        let halves = self.load(self.context.f16_type().vec_type(n), at, align)?;
        Ok(self.builder.build_float_ext(halves.into_vector_value(), self.floats(n), "")?)
    }

    /// `n` numbers of half precision, by integer instructions.
    ///
    /// Exponent and fraction move to their places in an `f32`; the exponent, which counts from
    /// another number, is put right by a multiplication, and that makes subnormal numbers right
    /// too. Infinities and NaN keep the largest exponent.
    pub(crate) fn load_halves_plain(
        &self,
        n: u32,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<Vector<'c>> {
        let halves = self.load(self.ints(16, n)?, at, align)?.into_vector_value();
        let wide = self.widen(halves, 32)?;
        let same = |value| self.same(wide.get_type(), value);
        let sign = self.up(self.and(wide, same(0x8000))?, 16)?;
        let rest = self.up(self.and(wide, same(0x7fff))?, 13)?;
        let shifted = self.cast(rest, self.floats(n))?;
        let number = self.fmul(shifted, self.same_f32(n, 2.0_f32.powi(112)))?;
        let number = self.cast(number, wide.get_type())?;
        let special =
            self.builder.build_int_compare(IntPredicate::UGE, rest, same(0x7c00 << 13), "")?;
        let infinite = self.or(rest, same(0x7f80_0000))?;
        let all = self.builder.build_select(special, infinite, number, "")?.into_vector_value();
        self.cast(self.or(all, sign)?, self.floats(n))
    }

    /// `n` numbers of bfloat16: the upper halves of `f32`.
    pub(crate) fn load_brain_floats(
        &self,
        n: u32,
        at: PointerValue<'c>,
        align: u32,
    ) -> Emitted<Vector<'c>> {
        let halves = self.load(self.ints(16, n)?, at, align)?.into_vector_value();
        self.cast(self.up(self.widen(halves, 32)?, 16)?, self.floats(n))
    }

    pub(crate) fn store(&self, value: Vector<'c>, at: PointerValue<'c>, align: u32) -> Emitted<()> {
        let store = self.builder.build_store(at, value)?;
        store.set_alignment(align).map_err(|e| CodegenError::Internal(e.to_string()))
    }

    /// `n` numbers of memory where the mask has a bit, zeros elsewhere.
    pub(crate) fn load_masked(
        &self,
        n: u32,
        at: PointerValue<'c>,
        mask: Vector<'c>,
    ) -> Emitted<Vector<'c>> {
        let ty = self.floats(n);
        let types = [ty.into(), self.pointer_type().into()];
        let operands = [at.into(), mask.into(), ty.const_zero().into()];
        Ok(self.call("llvm.masked.load", &types, &operands)?.into_vector_value())
    }

    /// Numbers to memory where the mask has a bit.
    pub(crate) fn store_masked(
        &self,
        value: Vector<'c>,
        at: PointerValue<'c>,
        mask: Vector<'c>,
    ) -> Emitted<()> {
        let types = [value.get_type().into(), self.pointer_type().into()];
        self.call_void("llvm.masked.store", &types, &[value.into(), at.into(), mask.into()])
    }

    // Instructions on vectors.

    pub(crate) fn cast(&self, v: Vector<'c>, to: VectorType<'c>) -> Emitted<Vector<'c>> {
        if v.get_type() == to {
            return Ok(v);
        }
        Ok(self.builder.build_bit_cast(v, to, "")?.into_vector_value())
    }

    pub(crate) fn shuffle(
        &self,
        a: Vector<'c>,
        b: Vector<'c>,
        picks: &[u32],
    ) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_shuffle_vector(a, b, self.numbers(picks), "")?)
    }

    pub(crate) fn add(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_int_add(a, b, "")?)
    }

    pub(crate) fn sub(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_int_sub(a, b, "")?)
    }

    pub(crate) fn mul(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_int_mul(a, b, "")?)
    }

    pub(crate) fn or(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_or(a, b, "")?)
    }

    pub(crate) fn and(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_and(a, b, "")?)
    }

    pub(crate) fn xor(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_xor(a, b, "")?)
    }

    /// Keeps the bits of `mask` in every byte, and gives bytes.
    pub(crate) fn and_bytes(&self, v: Vector<'c>, mask: u8) -> Emitted<Vector<'c>> {
        let bytes = self.bytes(v)?;
        self.and(bytes, self.same(bytes.get_type(), i64::from(mask)))
    }

    /// The same bits as bytes.
    pub(crate) fn bytes(&self, v: Vector<'c>) -> Emitted<Vector<'c>> {
        let ty = v.get_type();
        let bits = ty.get_element_type().into_int_type().get_bit_width();
        self.cast(v, self.ints(8, ty.get_size() * bits / 8)?)
    }

    /// Each element shifted to smaller bits, zeros from above.
    pub(crate) fn down(&self, v: Vector<'c>, by: u32) -> Emitted<Vector<'c>> {
        if by == 0 {
            return Ok(v);
        }
        Ok(self.builder.build_right_shift(v, self.same(v.get_type(), by.into()), false, "")?)
    }

    /// Each element shifted to smaller bits, the sign from above.
    pub(crate) fn down_signed(&self, v: Vector<'c>, by: u32) -> Emitted<Vector<'c>> {
        if by == 0 {
            return Ok(v);
        }
        Ok(self.builder.build_right_shift(v, self.same(v.get_type(), by.into()), true, "")?)
    }

    pub(crate) fn up(&self, v: Vector<'c>, by: u32) -> Emitted<Vector<'c>> {
        if by == 0 {
            return Ok(v);
        }
        Ok(self.builder.build_left_shift(v, self.same(v.get_type(), by.into()), "")?)
    }

    pub(crate) fn widen(&self, v: Vector<'c>, bits: u32) -> Emitted<Vector<'c>> {
        let to = self.ints(bits, v.get_type().get_size())?;
        Ok(self.builder.build_int_z_extend(v, to, "")?)
    }

    /// The nearest `f32` of each `i32`.
    pub(crate) fn to_float(&self, v: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_signed_int_to_float(v, self.floats(v.get_type().get_size()), "")?)
    }

    pub(crate) fn fmul(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_float_mul(a, b, "")?)
    }

    pub(crate) fn fadd(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_float_add(a, b, "")?)
    }

    pub(crate) fn fdiv(&self, a: Vector<'c>, b: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_float_div(a, b, "")?)
    }

    /// `yes` where `a` and `b` compare as `how` says, `no` elsewhere.
    pub(crate) fn choose(
        &self,
        how: FloatPredicate,
        a: Vector<'c>,
        b: Vector<'c>,
        yes: Vector<'c>,
        no: Vector<'c>,
    ) -> Emitted<Vector<'c>> {
        let which = self.builder.build_float_compare(how, a, b, "")?;
        Ok(self.builder.build_select(which, yes, no, "")?.into_vector_value())
    }

    pub(crate) fn fneg(&self, a: Vector<'c>) -> Emitted<Vector<'c>> {
        Ok(self.builder.build_float_neg(a, "")?)
    }

    /// `a * b + c`, rounded once.
    pub(crate) fn fma(&self, a: Vector<'c>, b: Vector<'c>, c: Vector<'c>) -> Emitted<Vector<'c>> {
        let ty = a.get_type().into();
        Ok(self.call("llvm.fma", &[ty], &[a.into(), b.into(), c.into()])?.into_vector_value())
    }

    /// Calls an intrinsic; vectors are cast to the types it takes, which differ between versions
    /// of LLVM.
    pub(crate) fn call(
        &self,
        name: &str,
        overload: &[BasicTypeEnum<'c>],
        arguments: &[BasicValueEnum<'c>],
    ) -> Emitted<BasicValueEnum<'c>> {
        let unknown = || CodegenError::Internal(format!("LLVM has no {name}"));
        let intrinsic = Intrinsic::find(name).ok_or_else(unknown)?;
        let function = intrinsic.get_declaration(&self.module, overload).ok_or_else(unknown)?;
        let mut given = Vec::with_capacity(arguments.len());
        for (argument, parameter) in arguments.iter().zip(function.get_param_iter()) {
            given.push(match (argument, parameter.get_type()) {
                (BasicValueEnum::VectorValue(v), BasicTypeEnum::VectorType(to)) => {
                    BasicMetadataValueEnum::from(self.cast(*v, to)?)
                }
                _ => (*argument).into(),
            });
        }
        let result = self.builder.build_call(function, &given, "")?;
        result.try_as_basic_value().basic().ok_or_else(unknown)
    }

    /// Calls an intrinsic that returns nothing.
    pub(crate) fn call_void(
        &self,
        name: &str,
        overload: &[BasicTypeEnum<'c>],
        arguments: &[BasicMetadataValueEnum<'c>],
    ) -> Emitted<()> {
        let unknown = || CodegenError::Internal(format!("LLVM has no {name}"));
        let intrinsic = Intrinsic::find(name).ok_or_else(unknown)?;
        let function = intrinsic.get_declaration(&self.module, overload).ok_or_else(unknown)?;
        self.builder.build_call(function, arguments, "")?;
        Ok(())
    }

    // Control.

    /// A loop of `count >= 1` rounds. `carried` goes in, `body` gives what goes into the next
    /// round, and the values after the last round come out.
    pub(crate) fn repeat(
        &self,
        function: FunctionValue<'c>,
        count: IntValue<'c>,
        carried: &[BasicValueEnum<'c>],
        body: impl FnOnce(IntValue<'c>, &[BasicValueEnum<'c>]) -> Emitted<Vec<BasicValueEnum<'c>>>,
    ) -> Emitted<Vec<BasicValueEnum<'c>>> {
        let before = self.here()?;
        let head = self.context.append_basic_block(function, "round");
        let after = self.context.append_basic_block(function, "after");
        self.builder.build_unconditional_branch(head)?;
        self.builder.position_at_end(head);
        let round = self.builder.build_phi(self.context.i64_type(), "")?;
        let mut phis = Vec::with_capacity(carried.len());
        for value in carried {
            let phi = self.builder.build_phi(value.get_type(), "")?;
            phi.add_incoming(&[(value, before)]);
            phis.push(phi);
        }
        let start: Vec<_> = phis.iter().map(|phi| phi.as_basic_value()).collect();
        let results = body(round.as_basic_value().into_int_value(), &start)?;
        let next = self.builder.build_int_nuw_add(
            round.as_basic_value().into_int_value(),
            self.index(1),
            "",
        )?;
        let last = self.here()?;
        round.add_incoming(&[(&self.index(0), before), (&next, last)]);
        for (phi, value) in phis.iter().zip(&results) {
            phi.add_incoming(&[(value, last)]);
        }
        let more = self.builder.build_int_compare(IntPredicate::ULT, next, count, "")?;
        self.builder.build_conditional_branch(more, head, after)?;
        self.builder.position_at_end(after);
        Ok(results)
    }

    fn here(&self) -> Emitted<inkwell::basic_block::BasicBlock<'c>> {
        let lost = || CodegenError::Internal("the builder is nowhere".into());
        self.builder.get_insert_block().ok_or_else(lost)
    }

    pub(crate) fn pointer_type(&self) -> inkwell::types::PointerType<'c> {
        self.context.ptr_type(AddressSpace::default())
    }
}
