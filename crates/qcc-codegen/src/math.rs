//! Functions of epilogues, in the operations and the order of `qcc_kernels::epilogue`.

use crate::code::{Code, Emitted, Vector};
use inkwell::FloatPredicate;
use qcc_kernels::epilogue::{ERF, ERF_SLOPE, EXP, EXP_LEAST, EXP_MOST, LN_2, ROUNDER, TANH};

/// `x / (1 + e^-x)`.
pub(crate) fn silu<'c>(code: &Code<'c>, x: Vector<'c>) -> Emitted<Vector<'c>> {
    let below = code.fadd(exp(code, code.fneg(x)?)?, number(code, x, 1.0))?;
    code.fdiv(x, below)
}

/// `x` times the normal distribution function of `x`.
pub(crate) fn gelu<'c>(code: &Code<'c>, x: Vector<'c>) -> Emitted<Vector<'c>> {
    let same = |value| number(code, x, value);
    let ty = x.get_type().into();
    let scaled = code.fmul(x, same(std::f32::consts::FRAC_1_SQRT_2))?;
    let a = code.call("llvm.fabs", &[ty], &[scaled.into()])?.into_vector_value();
    let t = code.fdiv(same(1.0), code.fma(a, same(ERF_SLOPE), same(1.0))?)?;
    let p = polynomial(code, t, &ERF)?;
    let bell = exp(code, code.fneg(code.fmul(a, a)?)?)?;
    let tail = code.fmul(code.fmul(p, t)?, code.fmul(bell, same(0.5))?)?;
    let rest = code.fadd(same(1.0), code.fneg(tail)?)?;
    let part = code.choose(FloatPredicate::OGT, x, same(0.0), rest, tail)?;
    code.fmul(x, part)
}

/// `x` times the normal distribution function of `x`, by the hyperbolic tangent.
pub(crate) fn gelu_tanh<'c>(code: &Code<'c>, x: Vector<'c>) -> Emitted<Vector<'c>> {
    let same = |value| number(code, x, value);
    let slope = code.fma(code.fmul(x, x)?, same(TANH[1]), same(TANH[0]))?;
    let twice = code.fmul(x, slope)?;
    let below = code.fadd(exp(code, code.fneg(twice)?)?, same(1.0))?;
    code.fdiv(x, below)
}

fn exp<'c>(code: &Code<'c>, x: Vector<'c>) -> Emitted<Vector<'c>> {
    let same = |value| number(code, x, value);
    let x = code.choose(FloatPredicate::OGT, x, same(EXP_MOST), same(EXP_MOST), x)?;
    let x = code.choose(FloatPredicate::OLT, x, same(EXP_LEAST), same(EXP_LEAST), x)?;
    let shifted = code.fma(x, same(std::f32::consts::LOG2_E), same(ROUNDER))?;
    let n = code.fadd(shifted, same(-ROUNDER))?;
    let r = code.fma(n, same(-LN_2[0]), x)?;
    let r = code.fma(n, same(-LN_2[1]), r)?;
    let p = polynomial(code, r, &EXP)?;
    let y = code.fadd(code.fma(p, code.fmul(r, r)?, r)?, same(1.0))?;
    let ints = code.ints(32, x.get_type().get_size())?;
    let power = code.up(code.cast(shifted, ints)?, 23)?;
    let power = code.add(power, code.same(ints, 127 << 23))?;
    code.fmul(y, code.cast(power, x.get_type())?)
}

/// Horner's rule; `coefficients` from the highest power down.
fn polynomial<'c>(code: &Code<'c>, x: Vector<'c>, coefficients: &[f32]) -> Emitted<Vector<'c>> {
    let [first, rest @ ..] = coefficients else { return Ok(number(code, x, 0.0)) };
    let mut p = number(code, x, *first);
    for &c in rest {
        p = code.fma(p, x, number(code, x, c))?;
    }
    Ok(p)
}

fn number<'c>(code: &Code<'c>, like: Vector<'c>, value: f32) -> Vector<'c> {
    code.same_f32(like.get_type().get_size(), value)
}
