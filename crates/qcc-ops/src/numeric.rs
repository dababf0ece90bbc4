//! Arithmetic of the element types, and results built in them.
//!
//! Integers wrap. `f16` and `bf16` compute in f32 and round each result once.

use half::{bf16, f16};
use qcc_ir::{EvalCx, EvalError, TypeError};
use qcc_tensor::{DType, Element, Tensor};

use crate::vector::{self, Lane};

/// An element type with arithmetic.
pub(crate) trait Number: Element + Default {
    /// From a float: integers drop the fraction and saturate.
    fn of_f64(x: f64) -> Self;
    /// As a float; 64-bit integers round.
    fn to_f64(self) -> f64;
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Quotient; integers drop the fraction, and a division by 0 gives 0.
    fn div(self, other: Self) -> Self;
    /// Remainder with the sign of `self`; 0 for integers modulo 0.
    fn rem(self, other: Self) -> Self;
    /// Remainder with the sign of `other`; 0 for integers modulo 0.
    fn modulo(self, other: Self) -> Self;
    /// The larger one; NaN if one is.
    fn larger(self, other: Self) -> Self;
    /// The smaller one; NaN if one is.
    fn smaller(self, other: Self) -> Self;
    /// Negative.
    fn negated(self) -> Self;
    /// Magnitude.
    fn magnitude(self) -> Self;
    /// -1, 0 or 1; NaN stays.
    fn sign(self) -> Self;
}

macro_rules! floats {
    ($($t:ty, $wide:ty, $of:expr, $to:expr;)*) => {$(
        impl Number for $t {
            fn of_f64(x: f64) -> Self { $of(x as $wide) }
            fn to_f64(self) -> f64 { f64::from($to(self)) }
            fn add(self, other: Self) -> Self { $of($to(self) + $to(other)) }
            fn sub(self, other: Self) -> Self { $of($to(self) - $to(other)) }
            fn mul(self, other: Self) -> Self { $of($to(self) * $to(other)) }
            fn div(self, other: Self) -> Self { $of($to(self) / $to(other)) }
            fn rem(self, other: Self) -> Self { $of($to(self) % $to(other)) }
            fn modulo(self, other: Self) -> Self {
                let (x, y) = ($to(self), $to(other));
                let rem = x % y;
                $of(if rem != 0.0 && (rem < 0.0) != (y < 0.0) { rem + y } else { rem })
            }
            fn larger(self, other: Self) -> Self {
                if self > other || $to(self).is_nan() { self } else { other }
            }
            fn smaller(self, other: Self) -> Self {
                if self < other || $to(self).is_nan() { self } else { other }
            }
            fn negated(self) -> Self { $of(-$to(self)) }
            fn magnitude(self) -> Self { $of($to(self).abs()) }
            fn sign(self) -> Self {
                let x = $to(self);
                $of(if x == 0.0 || x.is_nan() { x } else { x.signum() })
            }
        }
    )*};
}

floats! {
    f32, f32, |x: f32| x, |x: f32| x;
    f64, f64, |x: f64| x, |x: f64| x;
    f16, f32, f16::from_f32, f16::to_f32;
    bf16, f32, bf16::from_f32, bf16::to_f32;
}

macro_rules! integers {
    ($($t:ty, $wide:expr, $abs:expr, $neg_one:expr;)*) => {$(
        impl Number for $t {
            fn of_f64(x: f64) -> Self { x as $t }
            fn to_f64(self) -> f64 { $wide(self) }
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn div(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_div(other) }
            }
            fn rem(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_rem(other) }
            }
            #[allow(unused_comparisons)]
            fn modulo(self, other: Self) -> Self {
                let rem = self.rem(other);
                if rem != 0 && (rem < 0) != (other < 0) { rem.wrapping_add(other) } else { rem }
            }
            fn larger(self, other: Self) -> Self { Ord::max(self, other) }
            fn smaller(self, other: Self) -> Self { Ord::min(self, other) }
            fn negated(self) -> Self { self.wrapping_neg() }
            fn magnitude(self) -> Self { $abs(self) }
            #[allow(unused_comparisons)]
            fn sign(self) -> Self { if self < 0 { $neg_one } else { <$t>::from(self != 0) } }
        }
    )*};
}

integers! {
    i8, f64::from, i8::wrapping_abs, -1;
    i16, f64::from, i16::wrapping_abs, -1;
    i32, f64::from, i32::wrapping_abs, -1;
    i64, |x| x as f64, i64::wrapping_abs, -1;
    u8, f64::from, |x| x, 0;
    u16, f64::from, |x| x, 0;
    u32, f64::from, |x| x, 0;
    u64, |x| x as f64, |x| x, 0;
}

/// Runs `$body` with `$t` as the Rust type of a numeric [`DType`]; `$other` for the others.
macro_rules! with_number {
    ($dtype:expr, $t:ident => $body:expr, $other:ident => $else:expr) => {
        match $dtype {
            qcc_tensor::DType::F32 => { type $t = f32; $body }
            qcc_tensor::DType::F64 => { type $t = f64; $body }
            qcc_tensor::DType::F16 => { type $t = half::f16; $body }
            qcc_tensor::DType::BF16 => { type $t = half::bf16; $body }
            $other => crate::numeric::with_integer!($other, $t => $body, $other => $else),
        }
    };
}

/// As [`with_number`], for integers.
macro_rules! with_integer {
    ($dtype:expr, $t:ident => $body:expr, $other:ident => $else:expr) => {
        match $dtype {
            qcc_tensor::DType::I64 => {
                type $t = i64;
                $body
            }
            qcc_tensor::DType::I32 => {
                type $t = i32;
                $body
            }
            qcc_tensor::DType::I16 => {
                type $t = i16;
                $body
            }
            qcc_tensor::DType::I8 => {
                type $t = i8;
                $body
            }
            qcc_tensor::DType::U64 => {
                type $t = u64;
                $body
            }
            qcc_tensor::DType::U32 => {
                type $t = u32;
                $body
            }
            qcc_tensor::DType::U16 => {
                type $t = u16;
                $body
            }
            qcc_tensor::DType::U8 => {
                type $t = u8;
                $body
            }
            $other => $else,
        }
    };
}

pub(crate) use {with_integer, with_number};

/// An element type that the operator does not take.
pub(crate) fn wrong_type(op: &str, dtype: DType) -> EvalError {
    TypeError::DType { op: op.into(), got: dtype.to_string() }.into()
}

/// A tensor whose elements `fill` writes; it finds arbitrary ones. f32 comes from the pool.
///
/// # Errors
/// When the shape overflows, or when `fill` fails.
pub(crate) fn build<T: Number>(
    cx: &EvalCx,
    dims: &[usize],
    fill: impl FnOnce(&mut [T]),
) -> Result<Tensor, EvalError> {
    let len = qcc_tensor::checked_len(dims)
        .ok_or_else(|| qcc_tensor::TensorError::Overflow(dims.to_vec()))?;
    if T::DTYPE == DType::F32 {
        let mut buffer = cx.pool.take(len)?;
        fill(bytemuck::cast_slice_mut(&mut buffer));
        return Ok(cx.pool.tensor(dims.to_vec(), buffer)?);
    }
    let mut buffer = vec![T::default(); len];
    fill(&mut buffer);
    Ok(Tensor::from_vec(dims.to_vec(), buffer)?)
}

/// f32 results as a tensor of a float type; the buffer is of the pool.
///
/// # Errors
/// When the shape has another number of elements, or for other types.
pub(crate) fn narrow(
    op: &str,
    cx: &EvalCx,
    dtype: DType,
    dims: &[usize],
    values: Vec<f32>,
) -> Result<Tensor, EvalError> {
    if dtype == DType::F32 {
        return Ok(cx.pool.tensor(dims.to_vec(), values)?);
    }
    // Gives the buffer back when it goes out of scope.
    let wide = cx.pool.tensor(vec![values.len()], values)?;
    let values = wide.to_f32()?;
    Ok(match dtype {
        DType::F16 => {
            let values = values.iter().map(|&it| f16::from_f32(it)).collect();
            Tensor::from_vec::<f16>(dims.to_vec(), values)?
        }
        DType::BF16 => {
            let values = values.iter().map(|&it| bf16::from_f32(it)).collect();
            Tensor::from_vec::<bf16>(dims.to_vec(), values)?
        }
        DType::F64 => {
            let values = values.iter().map(|&it| f64::from(it)).collect();
            Tensor::from_vec::<f64>(dims.to_vec(), values)?
        }
        other => return Err(wrong_type(op, other)),
    })
}

/// A function of every element of a float tensor: `single` for up to 32 bits, else `double`.
///
/// # Errors
/// For types that are no floats.
pub(crate) fn map_float(
    op: &str,
    cx: &EvalCx,
    x: &Tensor,
    single: impl Lane,
    double: impl Fn(f64) -> f64,
) -> Result<Tensor, EvalError> {
    match x.dtype() {
        DType::F64 => {
            let values = x.as_slice::<f64>()?.iter().map(|&x| double(x)).collect();
            Ok(Tensor::from_vec::<f64>(x.dims().to_vec(), values)?)
        }
        dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
            let values = x.to_f32()?;
            let mut out = cx.pool.take(values.len())?;
            vector::map(single, &values, &mut out);
            narrow(op, cx, dtype, x.dims(), out)
        }
        other => Err(wrong_type(op, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_have_the_sign_that_is_asked_for() {
        assert_eq!([(-7i8).rem(3), 7i8.rem(-3), (-7i8).rem(0)], [-1, 1, 0]);
        assert_eq!([(-7i8).modulo(3), 7i8.modulo(-3), 6i8.modulo(-3)], [2, -2, 0]);
        assert_eq!([(-7f32).modulo(3.0), 7f32.modulo(-3.0)], [2.0, -2.0]);
        assert_eq!(i8::MIN.div(-1), i8::MIN);
    }

    #[test]
    fn nan_wins() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(Number::larger(a, b).is_nan() && Number::smaller(a, b).is_nan());
        }
    }

    #[test]
    fn halves_round_once() {
        let x = Tensor::vector(vec![f16::from_f32(2.0), f16::from_f32(-1.0)]);
        let it = map_float("Sqrt", &EvalCx::default(), &x, f32::sqrt, f64::sqrt).unwrap();
        let got = it.as_slice::<f16>().unwrap();
        assert_eq!((got[0].to_f32(), got[1].is_nan()), (1.414_062_5, true));
    }
}
