//! Comparisons and logic: results are `bool`.
//!
//! `Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor` broadcast two operands; `Not IsNaN
//! IsInf` take one. Source: onnx/defs/logical/defs.cc and math/defs.cc, Equal-19, Less-13, IsInf-20.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Tensor};

use crate::broadcast::{self, Walk, zip, zip_fast};
use crate::numeric::{Number, with_number, wrong_type};
use crate::operands::{one, two};
use crate::{AttrError, AttrReader, OpDef};

/// A comparison of two elements, or a function of two truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `a = b`, of all types
    Equal,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterOrEqual,
    /// `a < b`
    Less,
    /// `a <= b`
    LessOrEqual,
    /// Both
    And,
    /// One or both
    Or,
    /// One but not both
    Xor,
}

use Compare::{And, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Or, Xor};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Equal", parse: |_| Ok(Arc::new(Equal)) },
    OpDef { domain: "", name: "Greater", parse: |_| Ok(Arc::new(Greater)) },
    OpDef { domain: "", name: "GreaterOrEqual", parse: |_| Ok(Arc::new(GreaterOrEqual)) },
    OpDef { domain: "", name: "Less", parse: |_| Ok(Arc::new(Less)) },
    OpDef { domain: "", name: "LessOrEqual", parse: |_| Ok(Arc::new(LessOrEqual)) },
    OpDef { domain: "", name: "And", parse: |_| Ok(Arc::new(And)) },
    OpDef { domain: "", name: "Or", parse: |_| Ok(Arc::new(Or)) },
    OpDef { domain: "", name: "Xor", parse: |_| Ok(Arc::new(Xor)) },
    OpDef { domain: "", name: "Not", parse: |_| Ok(Arc::new(Predicate::Not)) },
    OpDef { domain: "", name: "IsNaN", parse: |_| Ok(Arc::new(Predicate::IsNan)) },
    OpDef { domain: "", name: "IsInf", parse: parse_inf },
];

impl Op for Compare {
    fn name(&self) -> &str {
        match self {
            Equal => "Equal",
            Greater => "Greater",
            GreaterOrEqual => "GreaterOrEqual",
            Less => "Less",
            LessOrEqual => "LessOrEqual",
            And => "And",
            Or => "Or",
            Xor => "Xor",
        }
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// `a: T[A], b: T[B]` gives `bool[broadcast(A, B)]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (a, b) = two(self.name(), inputs)?;
        let shape = match (a.ty.shape(), b.ty.shape()) {
            (Some(a), Some(b)) => Some(broadcast::shape(self.name(), a, b)?),
            _ => None,
        };
        Ok(vec![Type::partial(Some(DType::Bool), shape)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = two(self.name(), inputs)?;
        if a.dtype() != b.dtype() {
            return Err(wrong_type(self.name(), b.dtype()));
        }
        let dims = broadcast::sizes(self.name(), &[a.dims(), b.dims()])?;
        let walk = Walk::new(&dims, [a.dims(), b.dims()]);
        let mut out = vec![0u8; walk.len()];
        self.fill(&walk, a, b, &mut out)?;
        Ok(vec![Tensor::new(DType::Bool, dims, out.into())?])
    }
}

impl Compare {
    fn fill(self, walk: &Walk<2>, a: &Tensor, b: &Tensor, out: &mut [u8]) -> Result<(), EvalError> {
        if let (Some(a), Some(b), Equal) = (a.as_strings(), b.as_strings(), self) {
            for (index, out) in out.iter_mut().enumerate() {
                let [i, j] = walk.at(index);
                *out = u8::from(a[i] == b[j]);
            }
            return Ok(());
        }
        match a.dtype() {
            DType::Bool => {
                let f: fn(u8, u8) -> u8 = match self {
                    And => |a, b| a & b,
                    Or => |a, b| a | b,
                    Xor => |a, b| a ^ b,
                    Equal => |a, b| u8::from(a == b),
                    _ => return Err(wrong_type(self.name(), DType::Bool)),
                };
                zip(walk, a.as_bools()?, b.as_bools()?, out, f);
            }
            DType::F32 => {
                let (a, b) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
                match self {
                    Equal => zip_fast(walk, &a, &b, out, |a, b| u8::from(a == b)),
                    Greater => zip_fast(walk, &a, &b, out, |a, b| u8::from(a > b)),
                    GreaterOrEqual => zip_fast(walk, &a, &b, out, |a, b| u8::from(a >= b)),
                    Less => zip_fast(walk, &a, &b, out, |a, b| u8::from(a < b)),
                    LessOrEqual => zip_fast(walk, &a, &b, out, |a, b| u8::from(a <= b)),
                    And | Or | Xor => return Err(wrong_type(self.name(), DType::F32)),
                }
            }
            dtype => with_number!(dtype, T => {
                let f: fn(T, T) -> u8 = match self {
                    Equal => |a, b| u8::from(a == b),
                    Greater => |a, b| u8::from(a > b),
                    GreaterOrEqual => |a, b| u8::from(a >= b),
                    Less => |a, b| u8::from(a < b),
                    LessOrEqual => |a, b| u8::from(a <= b),
                    And | Or | Xor => return Err(wrong_type(self.name(), dtype)),
                };
                zip(walk, &a.as_slice::<T>()?, &b.as_slice::<T>()?, out, f);
            }, other => return Err(wrong_type(self.name(), other))),
        }
        Ok(())
    }
}

/// A truth about one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// It is false
    Not,
    /// It is not a number
    IsNan,
    /// It is infinite
    IsInf {
        /// `-inf` counts.
        negative: bool,
        /// `+inf` counts.
        positive: bool,
    },
}

fn parse_inf(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
    let negative = reader.flag("detect_negative", true)?;
    Ok(Arc::new(Predicate::IsInf { negative, positive: reader.flag("detect_positive", true)? }))
}

impl Op for Predicate {
    fn name(&self) -> &str {
        match self {
            Self::Not => "Not",
            Self::IsNan => "IsNaN",
            Self::IsInf { .. } => "IsInf",
        }
    }

    fn attrs(&self) -> Attrs {
        let Self::IsInf { negative, positive } = *self else { return Vec::new() };
        vec![
            ("detect_negative".into(), Attr::Int(negative.into())),
            ("detect_positive".into(), Attr::Int(positive.into())),
        ]
    }

    /// `x: T[..]` gives `bool[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![one(self.name(), inputs)?.ty.with_dtype(Some(DType::Bool))])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(self.name(), inputs)?;
        let out: Vec<u8> = match *self {
            Self::Not => x.as_bools()?.iter().map(|it| it ^ 1).collect(),
            Self::IsNan if x.dtype() == DType::F32 => {
                x.as_slice::<f32>()?.iter().map(|it| u8::from(it.is_nan())).collect()
            }
            Self::IsNan if x.dtype() == DType::F32 => {
                x.as_slice::<f32>()?.iter().map(|it| u8::from(it.is_nan())).collect()
            }
            Self::IsNan => with_number!(x.dtype(), T => {
                x.as_slice::<T>()?.iter().map(|it| u8::from(it.to_f64().is_nan())).collect()
            }, other => return Err(wrong_type(self.name(), other))),
            Self::IsInf { negative, positive } => with_number!(x.dtype(), T => {
                let holds = |it: f64| {
                    (it == f64::INFINITY && positive) || (it == f64::NEG_INFINITY && negative)
                };
                x.as_slice::<T>()?.iter().map(|it| u8::from(holds(it.to_f64()))).collect()
            }, other => return Err(wrong_type(self.name(), other))),
        };
        Ok(vec![Tensor::new(DType::Bool, x.dims().to_vec(), out.into())?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn run(op: &dyn Op, inputs: &[&Tensor]) -> Result<Vec<u8>, EvalError> {
        let inputs: Vec<_> = inputs.iter().map(|it| Some(*it)).collect();
        Ok(op.eval(&EvalCx::default(), &inputs, 1)?[0].as_bools()?.to_vec())
    }

    #[test]
    fn nan_equals_nothing() {
        let a = Tensor::vector(vec![1.0f32, f32::NAN, 3.0]);
        let b = Tensor::vector(vec![2.0f32, f32::NAN, 3.0]);
        assert_eq!(run(&Equal, &[&a, &b]).unwrap(), [0, 0, 1]);
        assert_eq!(run(&LessOrEqual, &[&a, &b]).unwrap(), [1, 0, 1]);
        assert_eq!(run(&Predicate::IsNan, &[&a]).unwrap(), [0, 1, 0]);
    }

    #[test]
    fn logic_is_of_truth_values() {
        let a = Tensor::from_bools(vec![4], &[false, false, true, true]).unwrap();
        let b = Tensor::from_bools(vec![4], &[false, true, false, true]).unwrap();
        assert_eq!(run(&Xor, &[&a, &b]).unwrap(), [0, 1, 1, 0]);
        assert_eq!(run(&Predicate::Not, &[&a]).unwrap(), [1, 1, 0, 0]);
        assert!(run(&Less, &[&a, &b]).is_err());
        assert!(run(&And, &[&Tensor::scalar(1i64), &Tensor::scalar(1i64)]).is_err());
    }

    #[test]
    fn infinities_are_told_apart() {
        let it = Predicate::IsInf { negative: false, positive: true };
        let again = parse("", "IsInf", 20, it.attrs()).unwrap();
        assert_eq!(again.is::<Predicate>(), Some(&it));
        let x = Tensor::vector(vec![f64::INFINITY, f64::NEG_INFINITY, 1.0]);
        assert_eq!(run(&it, &[&x]).unwrap(), [1, 0, 0]);
    }
}
