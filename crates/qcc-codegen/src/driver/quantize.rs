//! Quantizing rows of activations: the bits of `qcc_kernels::Activations`, in plain vectors.
//!
//! ```text
//! for row:
//!     for group:
//!         most = max |x|, as bits
//!         for vector in group: codes by plane, and their sums
//!         scale, sum, starts
//! ```
//!
//! Where outliers read the activations themselves, a row of the workspace ends with them.
//!
//! The end of a row lies in a vector of its own, filled up with zeros; what comes after it is a
//! vector of zeros.

use super::fields::{Descriptor, Field};
use super::scalars::{Int, Pointer, int, pointer};
use crate::code::{Code, Emitted, Vector};
use inkwell::values::{BasicValueEnum, FloatValue, FunctionValue};
use inkwell::{FloatPredicate, IntPredicate};
use qcc_kernels::Planes;

/// Groups whose largest value is not above it are zeros.
const TINY: f32 = 1e-30;

/// Bits of positive infinity: those of a NaN are above, those of all other magnitudes below.
const INFINITE: u32 = 0x7f80_0000;

/// `1.5 * 2^23`: adding it rounds magnitudes below 2^22 to integers, half to even.
const ROUNDER: f32 = 12_582_912.0;

/// The function `(descriptor, x, workspace, from, to)` in the making.
pub(super) struct Quantize<'a, 'c> {
    pub code: &'a Code<'c>,
    pub function: FunctionValue<'c>,
    pub planes: Planes,
    /// Elements of a vector: 8 or 16, so that a group is whole vectors.
    pub lanes: u32,
}

/// A row.
struct Row<'c> {
    x: Pointer<'c>,
    /// Where its codes begin in the workspace.
    codes: Pointer<'c>,
    /// Vectors of `x` that are full.
    full: Int<'c>,
    /// The last values and zeros, then a vector of zeros.
    tail: Pointer<'c>,
}

impl<'c> Quantize<'_, 'c> {
    /// The whole body.
    pub(super) fn emit(&self) -> Emitted<()> {
        let (code, function) = (self.code, self.function);
        let it = Descriptor { code, at: pointer(function, 0)? };
        let [x, workspace] = [pointer(function, 1)?, pointer(function, 2)?];
        let (from, to) = (int(function, 3)?, int(function, 4)?);
        let vector = code.floats(self.lanes);
        let tail = code.builder.build_alloca(vector.array_type(2), "")?;
        let k = it.get(Field::K)?;
        let lanes = code.index(self.lanes.into());
        let full = code.over(k, lanes)?;
        let whole = code.times(full, lanes)?;
        code.each(function, from, to, |row| {
            let x = code.offset(x, code.scaled(code.times(row, k)?, 4)?)?;
            let codes = code.offset(workspace, code.times(row, it.get(Field::Row)?)?)?;
            for half in 0..2 {
                let at = code.at(tail, half * u64::from(4 * self.lanes))?;
                code.store(vector.const_zero(), at, 4)?;
            }
            code.each(function, whole, k, |i| {
                let value =
                    code.load(code.context.f32_type(), code.offset(x, code.scaled(i, 4)?)?, 4)?;
                let to = code.offset(tail, code.scaled(code.minus(i, whole)?, 4)?)?;
                code.write(value, to, 4)
            })?;
            let floats = it.get(Field::FloatsAt)?;
            code.when(function, code.compare(IntPredicate::NE, floats, code.index(0))?, || {
                self.keep([x, code.offset(codes, floats)?], [full, whole, k])
            })?;
            let row = Row { x, codes, full, tail };
            code.each(function, code.index(0), it.get(Field::Groups)?, |group| {
                self.group(&it, &row, group)
            })
        })?;
        code.builder.build_return(None)?;
        Ok(())
    }

    /// Copies a row.
    fn keep(&self, [x, to]: [Pointer<'c>; 2], [full, whole, k]: [Int<'c>; 3]) -> Emitted<()> {
        let (code, function) = (self.code, self.function);
        code.each(function, code.index(0), full, |i| {
            let at = code.scaled(i, u64::from(4 * self.lanes))?;
            let vector = code.load_floats(self.lanes, code.offset(x, at)?, 4)?;
            code.store(vector, code.offset(to, at)?, 4)
        })?;
        code.each(function, whole, k, |i| {
            let at = code.scaled(i, 4)?;
            let value = code.load(code.context.f32_type(), code.offset(x, at)?, 4)?;
            code.write(value, code.offset(to, at)?, 4)
        })
    }

    /// Vector `i` of a row.
    fn vector(&self, row: &Row<'c>, i: Int<'c>) -> Emitted<Vector<'c>> {
        let code = self.code;
        let bytes = u64::from(4 * self.lanes);
        let at_end = code.compare(IntPredicate::EQ, i, row.full)?;
        let beyond = code.pick(at_end, code.index(0), code.index(bytes))?;
        let tail = code.offset(row.tail, beyond)?;
        let inside = code.below(i, row.full)?;
        let i = code.pick(inside, i, code.index(0))?;
        let x = code.offset(row.x, code.scaled(i, bytes)?)?;
        let at = code.builder.build_select(inside, x, tail, "")?.into_pointer_value();
        code.load_floats(self.lanes, at, 4)
    }

    fn group(&self, it: &Descriptor<'_, 'c>, row: &Row<'c>, group: Int<'c>) -> Emitted<()> {
        let (code, function) = (self.code, self.function);
        let float = code.context.f32_type();
        let ints = code.ints(32, self.lanes)?;
        let number = |value: f32| float.const_float(f64::from(value));
        let length = it.get(Field::Group)?;
        let vectors = code.over(length, code.index(self.lanes.into()))?;
        let first = code.times(group, vectors)?;

        let start: [BasicValueEnum<'c>; 1] = [ints.const_zero().into()];
        let most = code.repeat(function, vectors, &start, |i, most| {
            let x = code.cast(self.vector(row, code.plus(first, i)?)?, ints)?;
            let magnitude = code.and(x, code.same(ints, 0x7fff_ffff))?;
            let operands = [most[0], magnitude.into()];
            Ok(vec![code.call("llvm.umax", &[ints.into()], &operands)?])
        })?;
        let most = code.call("llvm.vector.reduce.umax", &[ints.into()], &most)?.into_int_value();

        let amax = code.builder.build_bit_cast(most, float, "")?.into_float_value();
        let some = code.builder.build_float_compare(FloatPredicate::OGT, amax, number(TINY), "")?;
        let infinite = code.context.i32_type().const_int(INFINITE.into(), false);
        let bad = code.compare(IntPredicate::UGE, most, infinite)?;
        let choose = |which: Int<'c>, yes: FloatValue<'c>, no: FloatValue<'c>| {
            Emitted::Ok(code.builder.build_select(which, yes, no, "")?.into_float_value())
        };
        let largest = number(self.planes.largest() as f32);
        let inverse = code.builder.build_float_div(largest, amax, "")?;
        let inverse = choose(some, choose(bad, number(0.0), inverse)?, number(0.0))?;
        let scale = code.builder.build_float_div(amax, largest, "")?;
        let scale = choose(bad, number(f32::NAN), choose(some, scale, number(0.0))?)?;

        let totals = self.codes(it, row, [first, vectors], inverse)?;
        self.finish(it, row, group, scale, &totals)
    }

    /// Codes of a group, and their sums by plane.
    fn codes(
        &self,
        it: &Descriptor<'_, 'c>,
        row: &Row<'c>,
        [first, vectors]: [Int<'c>; 2],
        inverse: FloatValue<'c>,
    ) -> Emitted<Vec<Int<'c>>> {
        let code = self.code;
        let ints = code.ints(32, self.lanes)?;
        let bytes = code.ints(8, self.lanes)?;
        let planes = self.planes.count() as usize;
        let inverse = code.spread(inverse.into(), code.floats(self.lanes))?;
        let plane = it.get(Field::Plane)?;
        let start = vec![ints.const_zero().into(); planes];
        let totals = code.repeat(self.function, vectors, &start, |i, totals| {
            let i = code.plus(first, i)?;
            let scaled = code.fmul(self.vector(row, i)?, inverse)?;
            let rounded = code.fadd(scaled, code.same_f32(self.lanes, ROUNDER))?;
            let bits = code.same(ints, ROUNDER.to_bits().into());
            let mut a = code.sub(code.cast(rounded, ints)?, bits)?;
            let mut out = totals.to_vec();
            for p in (0..planes).rev() {
                let mut low = a;
                if p > 0 {
                    let half = code.same(ints, 64);
                    low = code.and(code.add(a, half)?, code.same(ints, 127))?;
                    low = code.sub(low, half)?;
                    a = code.down_signed(code.sub(a, low)?, 7)?;
                }
                out[p] = code.add(totals[p].into_vector_value(), low)?.into();
                let narrow = code.builder.build_int_truncate(low, bytes, "")?;
                let to = code.scaled(i, self.lanes.into())?;
                let to = code.plus(to, code.scaled(plane, p as u64)?)?;
                code.store(narrow, code.offset(row.codes, to)?, self.lanes.min(16))?;
            }
            Ok(out)
        })?;
        let sum = |total: &BasicValueEnum<'c>| {
            let sum = code.call("llvm.vector.reduce.add", &[ints.into()], &[*total])?;
            Emitted::Ok(sum.into_int_value())
        };
        totals.iter().map(sum).collect()
    }

    /// Scale, sum and starts of a group, behind the codes of its row.
    fn finish(
        &self,
        it: &Descriptor<'_, 'c>,
        row: &Row<'c>,
        group: Int<'c>,
        scale: FloatValue<'c>,
        totals: &[Int<'c>],
    ) -> Emitted<()> {
        let code = self.code;
        let float = code.context.f32_type();
        let mut joined: Option<FloatValue<'c>> = None;
        for total in totals {
            let total = code.builder.build_signed_int_to_float(*total, float, "")?;
            joined = Some(match joined {
                None => total,
                Some(above) => {
                    let operands = [above.into(), float.const_float(128.0).into(), total.into()];
                    code.call("llvm.fma", &[float.into()], &operands)?.into_float_value()
                }
            });
        }
        let groups = code.scaled(it.get(Field::Groups)?, 4)?;
        let at = code.offset(row.codes, it.get(Field::ScalesAt)?)?;
        let mut at = code.offset(at, code.scaled(group, 4)?)?;
        code.write(scale, at, 4)?;
        at = code.offset(at, groups)?;
        if let Some(joined) = joined {
            code.write(code.builder.build_float_mul(scale, joined, "")?, at, 4)?;
        }
        let middle = it.get(Field::Middle)?;
        let middle = code.builder.build_int_truncate(middle, code.context.i32_type(), "")?;
        let middle = code.builder.build_int_neg(middle, "")?;
        for total in totals {
            at = code.offset(at, groups)?;
            code.write(code.times(*total, middle)?, at, 4)?;
        }
        Ok(())
    }
}
