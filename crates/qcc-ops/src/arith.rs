//! Arithmetic of two elements with broadcasting, and the same over many operands.
//!
//! `Add Sub Mul Div Mod Pow PRelu BitShift Bitwise{And,Or,Xor}` take two, `Max Min Sum Mean` one
//! or more. Source: onnx/defs/math/defs.cc, Add-14, Mod-13, Pow-15, Max-13, Sum-13.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::broadcast::{self, Walk, zip, zip_fast};
use crate::numeric::{Number, build, with_integer, with_number, wrong_type};
use crate::operands::{need, two};
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`; integers drop the fraction
    Div,
    /// Remainder
    Mod {
        /// With the sign of `a` as C's `fmod`, not of `b`.
        fmod: bool,
    },
    /// `a^b`, in the element type of `a`
    Pow,
    /// `a < 0 ? a * b : a`; the shape is that of `a`
    PRelu,
    /// `a` shifted by `b` bits
    BitShift {
        /// To the left.
        left: bool,
    },
    /// Bits that both have
    BitwiseAnd,
    /// Bits that one has
    BitwiseOr,
    /// Bits that only one has
    BitwiseXor,
}

use Arith::{Add, BitShift, BitwiseAnd, BitwiseOr, BitwiseXor, Div, Mod, Mul, PRelu, Pow, Sub};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Add", parse: |_| Ok(Arc::new(Add)) },
    OpDef { domain: "", name: "Sub", parse: |_| Ok(Arc::new(Sub)) },
    OpDef { domain: "", name: "Mul", parse: |_| Ok(Arc::new(Mul)) },
    OpDef { domain: "", name: "Div", parse: |_| Ok(Arc::new(Div)) },
    OpDef { domain: "", name: "Mod", parse: parse_mod },
    OpDef { domain: "", name: "Pow", parse: |_| Ok(Arc::new(Pow)) },
    OpDef { domain: "", name: "PRelu", parse: |_| Ok(Arc::new(PRelu)) },
    OpDef { domain: "", name: "BitShift", parse: parse_shift },
    OpDef { domain: "", name: "BitwiseAnd", parse: |_| Ok(Arc::new(BitwiseAnd)) },
    OpDef { domain: "", name: "BitwiseOr", parse: |_| Ok(Arc::new(BitwiseOr)) },
    OpDef { domain: "", name: "BitwiseXor", parse: |_| Ok(Arc::new(BitwiseXor)) },
    OpDef { domain: "", name: "Max", parse: |_| Ok(Arc::new(Variadic::Max)) },
    OpDef { domain: "", name: "Min", parse: |_| Ok(Arc::new(Variadic::Min)) },
    OpDef { domain: "", name: "Sum", parse: |_| Ok(Arc::new(Variadic::Sum)) },
    OpDef { domain: "", name: "Mean", parse: |_| Ok(Arc::new(Variadic::Mean)) },
];

fn parse_mod(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
    Ok(Arc::new(Mod { fmod: reader.flag("fmod", false)? }))
}

fn parse_shift(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
    match reader.opt_str("direction")?.ok_or_else(|| reader.missing("direction"))? {
        "LEFT" => Ok(Arc::new(BitShift { left: true })),
        "RIGHT" => Ok(Arc::new(BitShift { left: false })),
        _ => Err(reader.error("direction", "is neither 'LEFT' nor 'RIGHT'")),
    }
}

impl Op for Arith {
    fn name(&self) -> &str {
        match self {
            Add => "Add",
            Sub => "Sub",
            Mul => "Mul",
            Div => "Div",
            Mod { .. } => "Mod",
            Pow => "Pow",
            PRelu => "PRelu",
            BitShift { .. } => "BitShift",
            BitwiseAnd => "BitwiseAnd",
            BitwiseOr => "BitwiseOr",
            BitwiseXor => "BitwiseXor",
        }
    }

    fn attrs(&self) -> Attrs {
        match self {
            Mod { fmod: true } => vec![("fmod".into(), Attr::Int(1))],
            BitShift { left } => {
                vec![("direction".into(), if *left { "LEFT" } else { "RIGHT" }.into())]
            }
            _ => Vec::new(),
        }
    }

    /// `a: T[A], b: T[B]` gives `T[broadcast(A, B)]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (a, b) = two(self.name(), inputs)?;
        let shape = match (a.ty.shape(), b.ty.shape()) {
            (Some(a), Some(b)) => Some(broadcast::shape(self.name(), a, b)?),
            _ => None,
        };
        // Only an exponent may have a type of its own.
        let own = if *self == Pow { None } else { b.ty.dtype() };
        Ok(vec![Type::partial(a.ty.dtype().or(own), shape)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = two(self.name(), inputs)?;
        Ok(vec![self.apply(cx, a, b)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::arith(*self, b, io, dy)
    }
}

impl Arith {
    fn apply(self, cx: &EvalCx, a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
        let dims = broadcast::sizes(self.name(), &[a.dims(), b.dims()])?;
        let walk = Walk::new(&dims, [a.dims(), b.dims()]);
        if self == Pow {
            return pow(cx, &dims, &walk, a, b);
        }
        if a.dtype() != b.dtype() {
            return Err(wrong_type(self.name(), b.dtype()));
        }
        if a.dtype() == DType::F32 {
            let mut out = cx.pool.take(walk.len())?;
            self.fast(&walk, &a.as_slice()?, &b.as_slice()?, &mut out)?;
            return Ok(cx.pool.tensor(dims, out)?);
        }
        with_number!(a.dtype(), T => {
            let f = match self.bits::<T>(a.dtype()) {
                Some(f) => f,
                None => self.function::<T>().ok_or_else(|| wrong_type(self.name(), a.dtype()))?,
            };
            let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
            build(cx, &dims, |out: &mut [T]| zip(&walk, &a, &b, out, f))
        }, other => Err(wrong_type(self.name(), other)))
    }

    fn fast(self, walk: &Walk<2>, a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), EvalError> {
        match self {
            Add => zip_fast(walk, a, b, out, |a, b| a + b),
            Sub => zip_fast(walk, a, b, out, |a, b| a - b),
            Mul => zip_fast(walk, a, b, out, |a, b| a * b),
            Div => zip_fast(walk, a, b, out, |a, b| a / b),
            PRelu => zip_fast(walk, a, b, out, |a, b| if a < 0.0 { a * b } else { a }),
            _ => {
                let f = self.function().ok_or_else(|| wrong_type(self.name(), DType::F32))?;
                zip(walk, a, b, out, f);
            }
        }
        Ok(())
    }

    fn function<T: Number>(self) -> Option<fn(T, T) -> T> {
        Some(match self {
            Add => T::add,
            Sub => T::sub,
            Mul => T::mul,
            Div => T::div,
            Mod { fmod: true } => T::rem,
            Mod { fmod: false } => T::modulo,
            PRelu => |a, b| if a < T::default() { a.mul(b) } else { a },
            _ => return None,
        })
    }

    /// Functions of bits: the integer type `T` of `dtype` as a function of its bytes.
    fn bits<T: Number>(self, dtype: DType) -> Option<fn(T, T) -> T> {
        macro_rules! of_bits {
            ($f:expr) => {
                |a: T, b: T| {
                    let mut out = T::default();
                    let (a, b) = (bytemuck::bytes_of(&a), bytemuck::bytes_of(&b));
                    let out_bytes = bytemuck::bytes_of_mut(&mut out);
                    out_bytes.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = $f(a, b));
                    out
                }
            };
        }
        if !dtype.is_int() {
            return None;
        }
        Some(match self {
            BitwiseAnd => of_bits!(|a: &u8, b: &u8| a & b),
            BitwiseOr => of_bits!(|a: &u8, b: &u8| a | b),
            BitwiseXor => of_bits!(|a: &u8, b: &u8| a ^ b),
            BitShift { left: true } => |a, b| shifted(a, b, true),
            BitShift { left: false } => |a, b| shifted(a, b, false),
            _ => return None,
        })
    }
}

/// Shifts the bits of an integer, to the right with copies of its sign; a shift by its width or
/// more, or by a negative number, moves all of them out.
fn shifted<T: Number>(a: T, by: T, left: bool) -> T {
    let wide = |x: &T| {
        let own = bytemuck::bytes_of(x);
        let mut bytes = [if *x < T::default() { 255 } else { 0 }; 8];
        bytes[..own.len()].copy_from_slice(own);
        i64::from_le_bytes(bytes)
    };
    let width = 8 * size_of::<T>() as u32;
    let by = u32::try_from(wide(&by)).unwrap_or(u32::MAX).min(width);
    let value = match (left, wide(&a)) {
        (true, value) => value.checked_shl(by).unwrap_or(0),
        (false, value) if a < T::default() => value >> by.min(63),
        // Without a sign, so that the highest bit of 64 is not taken for one.
        (false, value) => (value as u64).checked_shr(by).unwrap_or(0) as i64,
    };
    let mut out = T::default();
    let bytes = bytemuck::bytes_of_mut(&mut out);
    let len = bytes.len();
    bytes.copy_from_slice(&value.to_le_bytes()[..len]);
    out
}

fn pow(
    cx: &EvalCx,
    dims: &[usize],
    walk: &Walk<2>,
    a: &Tensor,
    b: &Tensor,
) -> Result<Tensor, EvalError> {
    if a.dtype() == DType::F32 && (b.dtype().is_float() || b.dtype().is_int()) {
        let (a, b) = (a.as_slice::<f32>()?, b.to_f32()?);
        return build(cx, dims, |out: &mut [f32]| match &*b {
            [2.0] => zip_fast(walk, &a, &b, out, |a, _| a * a),
            [3.0] => zip_fast(walk, &a, &b, out, |a, _| a * a * a),
            [0.5] => zip_fast(walk, &a, &b, out, |a, _| a.sqrt()),
            _ => zip(walk, &a, &b, out, f32::powf),
        });
    }
    // Integers to integers stay integers; all else goes through f64.
    if a.dtype().is_int() && b.dtype().is_int() {
        let (base, by) = (a.to_i64()?, b.to_i64()?);
        let mut wide = vec![0i64; walk.len()];
        zip(walk, &base, &by, &mut wide, |a, b| match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => (a as f64).powf(b as f64) as i64,
        });
        return with_integer!(a.dtype(), T => {
            Ok(Tensor::from_vec(dims.to_vec(), wide.into_iter().map(|it| it as T).collect())?)
        }, other => Err(wrong_type("Pow", other)));
    }
    let wide = |x: &Tensor| -> Result<Vec<f64>, EvalError> {
        with_number!(x.dtype(), T => {
            Ok(x.as_slice::<T>()?.iter().map(|it| it.to_f64()).collect())
        }, other => Err(wrong_type("Pow", other)))
    };
    let (base, by) = (wide(a)?, wide(b)?);
    let mut out = vec![0f64; walk.len()];
    zip(walk, &base, &by, &mut out, f64::powf);
    with_number!(a.dtype(), T => {
        Ok(Tensor::from_vec(dims.to_vec(), out.into_iter().map(T::of_f64).collect())?)
    }, other => Err(wrong_type("Pow", other)))
}

/// A function of the elements of one or more operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variadic {
    /// The largest; NaN if one is
    Max,
    /// The smallest; NaN if one is
    Min,
    /// Their sum
    Sum,
    /// Their mean
    Mean,
}

impl Op for Variadic {
    fn name(&self) -> &str {
        match self {
            Self::Max => "Max",
            Self::Min => "Min",
            Self::Sum => "Sum",
            Self::Mean => "Mean",
        }
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// `x_i: T[X_i]` gives `T[broadcast(X_0, X_1, ...)]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let mut dtype = need(self.name(), inputs, 0)?.ty.dtype();
        let mut shape = Some(Vec::new());
        for index in 0..inputs.len() {
            let ty = need(self.name(), inputs, index)?.ty;
            dtype = dtype.or(ty.dtype());
            shape = match (shape, ty.shape()) {
                (Some(a), Some(b)) => Some(broadcast::shape(self.name(), &a, b)?),
                _ => None,
            };
        }
        Ok(vec![Type::partial(dtype, shape)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let mut sum = need(self.name(), inputs, 0)?.clone();
        for index in 1..inputs.len() {
            let x = need(self.name(), inputs, index)?;
            sum = match self {
                Self::Max | Self::Min => self.extreme(cx, &sum, x)?,
                Self::Sum | Self::Mean => Add.apply(cx, &sum, x)?,
            };
        }
        if *self == Self::Mean {
            let count = inputs.len() as f64;
            let count = with_number!(sum.dtype(), T => Tensor::scalar(T::of_f64(count)),
                other => return Err(wrong_type("Mean", other)));
            sum = Div.apply(cx, &sum, &count)?;
        }
        Ok(vec![sum])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::variadic(*self, b, io, dy)
    }
}

impl Variadic {
    fn extreme(self, cx: &EvalCx, a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
        let dims = broadcast::sizes(self.name(), &[a.dims(), b.dims()])?;
        let walk = Walk::new(&dims, [a.dims(), b.dims()]);
        with_number!(a.dtype(), T => {
            let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
            let f = if self == Self::Max { T::larger } else { T::smaller };
            build(cx, &dims, |out: &mut [T]| zip(&walk, &a, &b, out, f))
        }, other => Err(wrong_type(self.name(), other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn run(op: &dyn Op, a: &Tensor, b: &Tensor) -> Tensor {
        op.eval(&EvalCx::default(), &[Some(a), Some(b)], 1).unwrap().remove(0)
    }

    #[test]
    fn attributes_make_the_same_operator() {
        for it in [Mod { fmod: true }, Mod { fmod: false }, BitShift { left: false }, Pow] {
            let again = parse("", it.name(), 18, it.attrs()).unwrap();
            assert_eq!(again.is::<Arith>(), Some(&it));
        }
        assert!(parse("", "BitShift", 18, Vec::new()).is_err());
    }

    #[test]
    fn every_float_type_adds() {
        let (a, b) = (Tensor::vector(vec![1.5f32, -2.0]), Tensor::scalar(0.25f32));
        assert_eq!(&*run(&Add, &a, &b).to_f32().unwrap(), [1.75, -1.75]);
        let half = |x: &[f32]| x.iter().map(|&it| half::f16::from_f32(it)).collect::<Vec<_>>();
        let (a, b) = (Tensor::vector(half(&[1.5, -2.0])), Tensor::vector(half(&[0.25])));
        assert_eq!(&*run(&Sub, &a, &b).to_f32().unwrap(), [1.25, -2.25]);
        assert!(Add.eval(&EvalCx::default(), &[Some(&a), Some(&Tensor::scalar(1i64))], 1).is_err());
    }

    #[test]
    fn powers_keep_the_type_of_the_base() {
        let a = Tensor::vector(vec![2i32, -3]);
        assert_eq!(&*run(&Pow, &a, &Tensor::scalar(3f32)).as_slice::<i32>().unwrap(), [8, -27]);
        assert_eq!(&*run(&Pow, &a, &Tensor::scalar(2u8)).as_slice::<i32>().unwrap(), [4, 9]);
        let a = Tensor::vector(vec![2f32, 4.0]);
        assert_eq!(&*run(&Pow, &a, &Tensor::scalar(0.5f32)).to_f32().unwrap(), [2f32.sqrt(), 2.0]);
    }

    #[test]
    fn bits() {
        let (a, b) = (Tensor::vector(vec![0b1100i16, -1]), Tensor::vector(vec![0b1010i16, 7]));
        assert_eq!(&*run(&BitwiseXor, &a, &b).as_slice::<i16>().unwrap(), [0b110, -8]);
        let (a, b) = (Tensor::vector(vec![3u8, 255]), Tensor::vector(vec![7u8, 8]));
        assert_eq!(&*run(&BitShift { left: true }, &a, &b).as_slice::<u8>().unwrap(), [128, 0]);
        let (a, b) = (Tensor::vector(vec![-3i8, 64]), Tensor::vector(vec![1i8, -1]));
        assert_eq!(&*run(&BitShift { left: false }, &a, &b).as_slice::<i8>().unwrap(), [-2, 0]);
    }
}
