//! `Cast` and `CastLike` (ONNX opset 28): the same numbers in another element type.
//!
//! Integers drop high bits, floats drop the fraction on the way to integers. There, what does not
//! fit saturates, and drops bits if the integer has less than 8: ONNX leaves it open, its tests do
//! so. All floats round half to even. Strings and complex numbers are not converted.

use std::sync::Arc;

use half::{bf16, f16};
use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::emit::{Emit, args, no_vjp};
use crate::minifloat::{MiniFloat, PowerRounding, decode_power, encode_power, pack, unpack};
use crate::numeric::{Number, with_integer, with_number};
use crate::operands::{one, two};
use crate::{AttrError, AttrReader, OpDef, vector};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Cast", parse: Cast::parse },
    OpDef { domain: "", name: "CastLike", parse: CastLike::parse },
];

/// What becomes of numbers that a small float does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Too large ones become the largest number of a float of 8 bits, not infinity or NaN.
    pub saturate: bool,
    /// To powers of two.
    pub power: PowerRounding,
}

impl Default for Rounding {
    fn default() -> Self {
        Self { saturate: true, power: PowerRounding::Up }
    }
}

impl Rounding {
    fn parse(reader: &AttrReader<'_>) -> Result<Self, AttrError> {
        let power = match reader.str("round_mode", "up")? {
            "up" => PowerRounding::Up,
            "down" => PowerRounding::Down,
            "nearest" => PowerRounding::Nearest,
            _ => return Err(reader.error("round_mode", "is not 'up', 'down' or 'nearest'")),
        };
        Ok(Self { saturate: reader.flag("saturate", true)?, power })
    }

    fn attrs(self, attrs: &mut Attrs) {
        if !self.saturate {
            attrs.push(("saturate".into(), Attr::Int(0)));
        }
        match self.power {
            PowerRounding::Up => {}
            PowerRounding::Down => attrs.push(("round_mode".into(), "down".into())),
            PowerRounding::Nearest => attrs.push(("round_mode".into(), "nearest".into())),
        }
    }
}

/// Conversion to an element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The element type.
    pub to: DType,
    /// For small floats.
    pub rounding: Rounding,
}

impl Cast {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let code = i32::try_from(reader.need_int("to")?).ok();
        let to = code.and_then(DType::from_onnx_code);
        let to = to.ok_or_else(|| reader.error("to", "is no element type"))?;
        Ok(Arc::new(Self { to, rounding: Rounding::parse(reader)? }))
    }
}

impl Op for Cast {
    fn name(&self) -> &str {
        "Cast"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![("to".to_owned(), Attr::Int(self.to.onnx_code().into()))];
        self.rounding.attrs(&mut attrs);
        attrs
    }

    /// `x: T[..]` gives `to[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![one("Cast", inputs)?.ty.with_dtype(Some(self.to))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![cast(self, cx, one("Cast", inputs)?, self.to, self.rounding)?])
    }

    /// As if nothing were rounded.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let to = b.ty(x).dtype().ok_or_else(|| no_vjp(self, "the element type is not known"))?;
        Ok(vec![Some(b.apply(Cast { to, rounding: Rounding::default() }, &[g]))])
    }
}

/// Conversion to the element type of the second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CastLike {
    /// For small floats.
    pub rounding: Rounding,
}

impl CastLike {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { rounding: Rounding::parse(reader)? }))
    }
}

impl Op for CastLike {
    fn name(&self) -> &str {
        "CastLike"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Vec::new();
        self.rounding.attrs(&mut attrs);
        attrs
    }

    /// `x: T[..], like: U[..]` gives `U[..]` in the shape of `x`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (x, like) = two("CastLike", inputs)?;
        Ok(vec![x.ty.with_dtype(like.ty.dtype())])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, like) = two("CastLike", inputs)?;
        Ok(vec![cast(self, cx, x, like.dtype(), self.rounding)?])
    }

    /// As if nothing were rounded.
    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let to = b.ty(x).dtype().ok_or_else(|| no_vjp(self, "the element type is not known"))?;
        Ok(vec![Some(b.apply(Cast { to, rounding: Rounding::default() }, &[g]))])
    }
}

fn cast(
    op: &dyn Op,
    cx: &EvalCx,
    x: &Tensor,
    to: DType,
    rounding: Rounding,
) -> Result<Tensor, EvalError> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    let dims = x.dims().to_vec();
    match (x.dtype(), to) {
        (DType::F16 | DType::BF16, DType::F32) => {
            let mut out = cx.pool.take(x.len())?;
            if x.dtype() == DType::F16 {
                let x = x.as_slice::<f16>()?;
                vector::rows(&mut out, 1, |first, out| {
                    out.iter_mut().zip(&x[first..]).for_each(|(out, x)| *out = x.to_f32());
                });
            } else {
                let x = x.as_slice::<bf16>()?;
                vector::rows(&mut out, 1, |first, out| {
                    out.iter_mut().zip(&x[first..]).for_each(|(out, x)| *out = x.to_f32());
                });
            }
            return Ok(cx.pool.tensor(dims, out)?);
        }
        (DType::F32, DType::F16) => {
            let out = x.to_f32()?.iter().map(|&it| f16::from_f32(it)).collect();
            return Ok(Tensor::from_vec::<f16>(dims, out)?);
        }
        _ => {}
    }
    let numbers = Numbers::of(x).ok_or_else(|| EvalError::unsupported(op, x.dtype().text()))?;
    numbers.build(dims, to, rounding).unwrap_or_else(|| Err(EvalError::unsupported(op, to.text())))
}

/// Numbers of any element type, exactly.
enum Numbers {
    Floats(Vec<f64>),
    /// All but `u64`.
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
}

impl Numbers {
    fn of(x: &Tensor) -> Option<Self> {
        let codes = || unpack(x.bytes(), x.dtype().bits(), x.len());
        if let Some(format) = MiniFloat::of(x.dtype()) {
            return Some(Self::Floats(codes().into_iter().map(|it| format.decode(it)).collect()));
        }
        let signed = |bits: u32| move |it: u8| i64::from(((it << (8 - bits)) as i8) >> (8 - bits));
        Some(match x.dtype() {
            DType::U64 => Self::Unsigned(x.as_slice::<u64>().ok()?.into_owned()),
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => with_number!(x.dtype(), T => {
                Self::Floats(x.as_slice::<T>().ok()?.iter().map(|it| it.to_f64()).collect())
            }, _other => return None),
            DType::F8E8M0 => Self::Floats(x.bytes().iter().map(|&it| decode_power(it)).collect()),
            DType::I4 => Self::Signed(codes().into_iter().map(signed(4)).collect()),
            DType::I2 => Self::Signed(codes().into_iter().map(signed(2)).collect()),
            DType::U4 | DType::U2 => Self::Signed(codes().into_iter().map(i64::from).collect()),
            _ => Self::Signed(x.to_i64().ok()?.into_owned()),
        })
    }

    fn build(
        self,
        dims: Vec<usize>,
        to: DType,
        rounding: Rounding,
    ) -> Option<Result<Tensor, EvalError>> {
        let tensor = |codes: Vec<u8>| {
            let bytes = if to.bits() < 8 { pack(&codes, to.bits()) } else { codes };
            Ok(Tensor::new(to, dims.clone(), bytes.into())?)
        };
        Some(match to {
            DType::Bool => tensor(self.map(|it| u8::from(it != 0.0), |it| u8::from(it != 0))),
            DType::I4 | DType::U4 => tensor(self.codes(15)),
            DType::I2 | DType::U2 => tensor(self.codes(3)),
            DType::F8E8M0 => {
                let code = |it: f64| encode_power(it, rounding.power, rounding.saturate);
                tensor(self.map(code, |it| code(it as f64)))
            }
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => with_number!(to, T => {
                Ok(Tensor::from_vec(dims, self.floats(T::of_f64)).ok()?)
            }, _other => return None),
            _ if MiniFloat::of(to).is_some() => {
                let format = MiniFloat::of(to)?;
                tensor(self.floats(|it| format.encode(it, rounding.saturate)))
            }
            _ => with_integer!(to, T => {
                let values: Vec<T> = match self {
                    Self::Floats(it) => it.into_iter().map(T::of_f64).collect(),
                    Self::Signed(it) => it.into_iter().map(|it| it as T).collect(),
                    Self::Unsigned(it) => it.into_iter().map(|it| it as T).collect(),
                };
                Ok(Tensor::from_vec(dims, values).ok()?)
            }, _other => return None),
        })
    }

    fn map<T>(self, float: impl Fn(f64) -> T, integer: impl Fn(i64) -> T) -> Vec<T> {
        match self {
            Self::Floats(it) => it.into_iter().map(float).collect(),
            Self::Signed(it) => it.into_iter().map(integer).collect(),
            Self::Unsigned(it) => it.into_iter().map(|it| integer(it as i64)).collect(),
        }
    }

    /// Integers of a few bits, which drop the others.
    fn codes(self, mask: u8) -> Vec<u8> {
        self.map(|it| it as i64 as u8 & mask, |it| it as u8 & mask)
    }

    fn floats<T>(self, make: impl Fn(f64) -> T) -> Vec<T> {
        match self {
            Self::Floats(it) => it.into_iter().map(make).collect(),
            Self::Signed(it) => it.into_iter().map(|it| make(it as f64)).collect(),
            Self::Unsigned(it) => it.into_iter().map(|it| make(it as f64)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, values};

    fn run(x: &Tensor, to: DType) -> Result<Tensor, EvalError> {
        let op = Cast { to, rounding: Rounding::default() };
        Ok(op.eval(&EvalCx::default(), &[Some(x)], 1)?.remove(0))
    }

    #[test]
    fn attributes_make_the_same_operator() {
        for saturate in [false, true] {
            let rounding = Rounding { saturate, power: PowerRounding::Nearest };
            let it = Cast { to: DType::F8E8M0, rounding };
            let again = parse("", "Cast", 28, it.attrs()).unwrap();
            assert_eq!(again.is::<Cast>(), Some(&it));
        }
        assert!(parse("", "Cast", 13, vec![("to".to_owned(), Attr::Int(0))]).is_err());
    }

    #[test]
    fn small_integers_survive_every_wider_type() {
        let x = Tensor::vector(vec![0i8, 1, -2, 1]);
        for wide in DType::ALL.iter().copied().filter(|it| it.is_float() || it.is_int()) {
            if matches!(wide, DType::U8 | DType::U16 | DType::U32 | DType::U64) {
                continue;
            }
            for small in [DType::I2, DType::I4, DType::F4E2M1, DType::F6E3M2, DType::F8E5M2] {
                let there = run(&run(&x, wide).unwrap(), small).unwrap();
                assert_eq!(run(&there, DType::I8).unwrap(), x, "{wide} {small}");
            }
        }
    }

    #[test]
    fn integers_drop_bits_and_floats_saturate() {
        let x = Tensor::vector(vec![200i16, -1, 256]);
        assert_eq!(&*run(&x, DType::I8).unwrap().as_slice::<i8>().unwrap(), [-56, -1, 0]);
        assert_eq!(run(&x, DType::Bool).unwrap().as_bools().unwrap(), [1, 1, 1]);
        let x = Tensor::vector(vec![1e9f32, -1.9, f32::NAN]);
        assert_eq!(&*run(&x, DType::I8).unwrap().as_slice::<i8>().unwrap(), [127, -1, 0]);
        let x = Tensor::vector(vec![u64::MAX]);
        assert_eq!(run(&x, DType::F32).unwrap().to_f32().unwrap()[0], 2f32.powi(64));
        assert!(run(&x, DType::Str).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = Cast { to: DType::F64, rounding: Rounding::default() };
        check_vjp(&op, &[values(&[2, 3])], 1);
        let op = CastLike { rounding: Rounding::default() };
        check_vjp(&op, &[values(&[2, 3]), Tensor::scalar(0f64).into()], 1);
    }
}
