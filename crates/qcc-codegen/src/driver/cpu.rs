//! Which feature the CPU lacks: code for every CPU of the architecture, that needs nothing but
//! `cpuid` on x86-64 and `getauxval` of the C library on AArch64.

use super::scalars::{Int, Pointer};
use crate::code::{Code, Emitted};
use crate::features::{Registers, find};
use crate::{Architecture, CodegenError, Target};
use inkwell::IntPredicate;
use inkwell::values::{BasicValueEnum, FunctionValue};

/// The name of the first feature of the target that is lacking, or a null pointer.
pub(super) fn missing<'c>(
    code: &Code<'c>,
    function: FunctionValue<'c>,
    target: &Target,
    text: &dyn Fn(&str) -> Pointer<'c>,
) -> Emitted<Pointer<'c>> {
    let needs = target.needs();
    let cpu = Cpu::read(code, function, &[target])?;
    let mut first = code.pointer_type().const_null();
    for name in needs.iter().rev() {
        let has = cpu.has(code, name)?;
        first = code.builder.build_select(has, first, text(name), "")?.into_pointer_value();
    }
    Ok(first)
}

/// Which of the targets the CPU runs, of each a bit, the first the lowest.
pub(super) fn runs<'c>(
    code: &Code<'c>,
    function: FunctionValue<'c>,
    targets: &[Target],
) -> Emitted<Int<'c>> {
    let cpu = Cpu::read(code, function, &targets.iter().collect::<Vec<_>>())?;
    let mut runs = code.index(0);
    for (i, target) in targets.iter().enumerate() {
        let mut bit = code.index(1 << i);
        for name in target.needs() {
            bit = code.pick(cpu.has(code, name)?, bit, code.index(0))?;
        }
        runs = code.either(runs, bit)?;
    }
    Ok(runs)
}

/// What is known of the CPU.
enum Cpu<'c> {
    X86(X86<'c>),
    Arm,
}

impl<'c> Cpu<'c> {
    /// Asks the CPU, if one of the targets needs something.
    fn read(code: &Code<'c>, function: FunctionValue<'c>, targets: &[&Target]) -> Emitted<Self> {
        let some = targets.iter().find(|it| !it.needs().is_empty());
        match some.map(|it| it.architecture()) {
            Some(Architecture::X86_64) => Ok(Self::X86(X86::read(code, function)?)),
            Some(Architecture::Aarch64) | None => Ok(Self::Arm),
        }
    }

    fn has(&self, code: &Code<'c>, name: &str) -> Emitted<Int<'c>> {
        match self {
            Self::X86(it) => it.has(code, name),
            Self::Arm => arm(code, name),
        }
    }
}

fn unknown(name: &str) -> CodegenError {
    CodegenError::Internal(format!("no check for the CPU feature {name}"))
}

/// Whether a bit is set.
fn bit<'c>(code: &Code<'c>, word: Int<'c>, bit: u32) -> Emitted<Int<'c>> {
    let mask = word.get_type().const_int(1 << bit, false);
    code.compare(IntPredicate::NE, code.both(word, mask)?, word.get_type().const_zero())
}

/// What `cpuid` says.
struct X86<'c> {
    /// By the places of features.
    words: [Int<'c>; 5],
    /// What the system keeps.
    kept: Int<'c>,
}

impl<'c> X86<'c> {
    fn read(code: &Code<'c>, function: FunctionValue<'c>) -> Emitted<Self> {
        let int = code.context.i32_type();
        let number = |value: u64| int.const_int(value, false);
        let reaches =
            |most: Int<'c>, leaf: u64| code.compare(IntPredicate::UGE, most, number(leaf));
        let zero = int.const_zero();
        let [most, ..] = cpuid(code, 0, 0)?;
        let [_, _, one, _] = cpuid(code, 1, 0)?;
        // A leaf that there is none of gives numbers of another one.
        let has_seven = reaches(most, 7)?;
        let [leaves, seven_b, seven_c, _] = cpuid(code, 7, 0)?;
        let has_more = code.both(has_seven, reaches(leaves, 1)?)?;
        let [more, ..] = cpuid(code, 7, 1)?;
        let [most, ..] = cpuid(code, 0x8000_0000, 0)?;
        let [_, _, extended, _] = cpuid(code, 0x8000_0001, 0)?;
        let words = [
            one,
            code.pick(has_seven, seven_b, zero)?,
            code.pick(has_seven, seven_c, zero)?,
            code.pick(has_more, more, zero)?,
            code.pick(reaches(most, 0x8000_0001)?, extended, zero)?,
        ];
        // The instruction exists if the system says that it uses it.
        let kept = code.builder.build_alloca(int, "")?;
        code.write(zero, kept, 4)?;
        code.when(function, bit(code, one, 27)?, || {
            let [low, _] = ask(code, "xgetbv", "={ax},={dx},{cx}", &[zero])?;
            code.write(low, kept, 4)
        })?;
        let kept = code.load(int, kept, 4)?.into_int_value();
        Ok(Self { words, kept })
    }

    fn has(&self, code: &Code<'c>, name: &str) -> Emitted<Int<'c>> {
        let row = find(name).ok_or_else(|| unknown(name))?;
        let (word, at) = row.place;
        let has = bit(code, self.words[word as usize], at)?;
        // What the system says that it keeps, by `xgetbv`.
        let registers = match row.registers {
            Registers::Any => return Ok(has),
            Registers::Avx => 0b110,
            Registers::Avx512 => 0b1110_0110,
        };
        let mask = self.kept.get_type().const_int(registers, false);
        let kept = code.compare(IntPredicate::EQ, code.both(self.kept, mask)?, mask)?;
        code.both(has, kept)
    }
}

/// `eax`, `ebx`, `ecx`, `edx` of a leaf.
fn cpuid<'c>(code: &Code<'c>, leaf: u64, subleaf: u64) -> Emitted<[Int<'c>; 4]> {
    let number = |value| code.context.i32_type().const_int(value, false);
    let operands = [number(leaf), number(subleaf)];
    ask(code, "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}", &operands)
}

/// The results of an instruction that LLVM has no name for.
fn ask<'c, const N: usize>(
    code: &Code<'c>,
    instruction: &str,
    registers: &str,
    operands: &[Int<'c>],
) -> Emitted<[Int<'c>; N]> {
    let int = code.context.i32_type();
    let all = code.context.struct_type(&[int.into(); N], false);
    let ty = all.fn_type(&vec![int.into(); operands.len()], false);
    let clobbers = format!("{registers},~{{dirflag}},~{{fpsr}},~{{flags}}");
    let (instruction, lost) = (instruction.to_owned(), || unknown(instruction));
    let ask = code.context.create_inline_asm(ty, instruction, clobbers, true, false, None, false);
    let operands: Vec<_> = operands.iter().map(|it| (*it).into()).collect();
    let call = code.builder.build_indirect_call(ty, ask, &operands, "")?;
    let results = call.try_as_basic_value().basic().ok_or_else(lost)?.into_struct_value();
    let mut out = [int.const_zero(); N];
    for (i, out) in (0..).zip(&mut out) {
        *out = code.builder.build_extract_value(results, i, "")?.into_int_value();
    }
    Ok(out)
}

/// What the system says of an Arm CPU.
fn arm<'c>(code: &Code<'c>, name: &str) -> Emitted<Int<'c>> {
    let (word, at) = find(name).ok_or_else(|| unknown(name))?.place;
    let int = code.context.i64_type();
    let ask = code.module.get_function("getauxval").unwrap_or_else(|| {
        code.module.add_function("getauxval", int.fn_type(&[int.into()], false), None)
    });
    let call = code.builder.build_call(ask, &[code.index(word.into()).into()], "")?;
    match call.try_as_basic_value().basic() {
        Some(BasicValueEnum::IntValue(value)) => bit(code, value, at),
        _ => Err(unknown(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_a_target_is_looked_for() {
        let x86 = Target::parse("x86-64-v4+avx512vnni+avxvnni").expect("a target");
        let arm = Target::parse("aarch64+dotprod+i8mm").expect("a target");
        for target in [x86, arm] {
            for name in target.needs() {
                let feature = find(name).expect(name);
                assert_eq!(feature.architecture, target.architecture(), "{name}");
            }
        }
    }
}
