//! `Reshape` (opset 5, `allowzero` since 14) and `Flatten`: other dimensions, no copy.
//!
//! In the shape of `Reshape`, 0 is the dimension of the operand at that place unless `allowzero`,
//! and one -1 is what remains. Source: onnx/defs/tensor/defs.cc, onnx/defs/nn/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor, checked_len};

use crate::emit::{Emit, args};
use crate::ints::{const_ints, ints, unknown_dims, vector_len};
use crate::operands;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Reshape", parse: Reshape::parse },
    OpDef { domain: "", name: "Flatten", parse: Flatten::parse },
];

/// `Reshape(data, shape)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// Whether 0 in the shape is an empty dimension.
    pub allowzero: bool,
}

impl Reshape {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { allowzero: reader.flag("allowzero", false)? }))
    }

    /// Dimensions of the result, as far as those of the operand tell them.
    fn dims(&self, from: Option<&[Dim]>, shape: &[i64]) -> Result<Vec<Dim>, TypeError> {
        let bad = |what: String| TypeError::other("Reshape", what);
        let mut rest = None;
        let mut dims = Vec::with_capacity(shape.len());
        for (axis, &value) in shape.iter().enumerate() {
            dims.push(match value {
                -1 if rest.replace(axis).is_some() => return Err(bad("two -1 in shape".into())),
                -1 => Dim::Unknown,
                0 if !self.allowzero => match from {
                    None => Dim::Unknown,
                    Some(from) => from.get(axis).cloned().ok_or_else(|| {
                        bad(format!("0 in shape at {axis}, but the rank is {}", from.len()))
                    })?,
                },
                _ => Dim::Known(crate::ints::size("Reshape", value)?),
            });
        }
        if rest.is_some() && self.allowzero && shape.contains(&0) {
            return Err(bad("0 and -1 in one shape".into()));
        }
        let Some(from) = from else { return Ok(dims) };
        if let Some(axis) = rest {
            dims.remove(axis);
            let value = quotient(from, &dims).map_err(|()| fail(from, shape))?;
            dims.insert(axis, value);
        }
        let known = |dims: &[Dim]| dims.iter().map(Dim::known).collect::<Option<Vec<_>>>();
        if let (Some(a), Some(b)) = (known(from), known(&dims))
            && checked_len(&a) != checked_len(&b)
        {
            return Err(fail(from, shape));
        }
        Ok(dims)
    }
}

fn fail(from: &[Dim], shape: &[i64]) -> TypeError {
    let from: Vec<String> = from.iter().map(ToString::to_string).collect();
    TypeError::other("Reshape", format!("[{}] does not go into {shape:?}", from.join(", ")))
}

/// Product of `all` over product of `part`; symbols cancel against equal ones.
fn quotient(all: &[Dim], part: &[Dim]) -> Result<Dim, ()> {
    let (mut numbers, mut rest) = ([Some(1usize); 2], [Vec::new(), Vec::new()]);
    for (side, dims) in [all, part].into_iter().enumerate() {
        for dim in dims {
            match dim {
                Dim::Known(it) => {
                    numbers[side] = numbers[side].and_then(|product| product.checked_mul(*it));
                }
                other => rest[side].push(other),
            }
        }
    }
    let [Some(product), Some(by)] = numbers else { return Ok(Dim::Unknown) };
    let [mut above, below] = rest;
    for dim in &below {
        match above.iter().position(|it| it == dim && **it != Dim::Unknown) {
            Some(index) => above.remove(index),
            None => return Ok(Dim::Unknown),
        };
    }
    match above.as_slice() {
        // What an empty dimension leaves for the others cannot be told.
        _ if by == 0 => Ok(Dim::Unknown),
        [] if product.is_multiple_of(by) => Ok(Dim::Known(product / by)),
        [] => Err(()),
        [symbol] if product == by => Ok((*symbol).clone()),
        _ => Ok(Dim::Unknown),
    }
}

impl Op for Reshape {
    fn name(&self) -> &str {
        "Reshape"
    }

    fn attrs(&self) -> Attrs {
        if self.allowzero { vec![("allowzero".into(), 1.into())] } else { Attrs::new() }
    }

    /// `data: T[..]`, `shape: i64[R]` gives `T[..]` of rank R.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, shape) = operands::two("Reshape", inputs)?;
        let dims = match const_ints("Reshape", Some(shape))? {
            Some(shape) => Some(self.dims(data.ty.shape(), &shape)?),
            None => unknown_dims(vector_len(shape)),
        };
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, shape) = operands::two("Reshape", inputs)?;
        let from: Vec<Dim> = data.dims().iter().map(|&it| it.into()).collect();
        let shape = ints("Reshape", shape)?;
        let dims = self.dims(Some(&from), &shape)?;
        let dims = dims.iter().map(Dim::known).collect::<Option<Vec<_>>>();
        let dims = dims.ok_or_else(|| fail(&from, &shape))?;
        Ok(vec![data.reshape(dims)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        Ok(vec![Some(b.reshape_to(g, x))])
    }
}

/// Two dimensions: the product of those before `axis` and of those from it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flatten {
    /// `0..=rank`; negative counts from the end.
    pub axis: i64,
}

impl Flatten {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.int("axis", 1)? }))
    }

    fn split(&self, rank: usize) -> Result<usize, TypeError> {
        if self.axis == rank as i64 {
            return Ok(rank);
        }
        operands::axis("Flatten", self.axis, rank)
    }
}

impl Op for Flatten {
    fn name(&self) -> &str {
        "Flatten"
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `x: T[A.., B..]` gives `T[prod(A), prod(B)]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = operands::one("Flatten", inputs)?;
        let dims = match x.ty.shape() {
            None => vec![Dim::Unknown; 2],
            Some(dims) => {
                let (outer, inner) = dims.split_at(self.split(dims.len())?);
                let product = |dims| quotient(dims, &[]).unwrap_or(Dim::Unknown);
                vec![product(outer), product(inner)]
            }
        };
        Ok(vec![x.ty.with_shape(Some(dims))])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = operands::one("Flatten", inputs)?;
        let (outer, inner) = x.dims().split_at(self.split(x.rank())?);
        let product = |dims: &[usize]| {
            checked_len(dims).ok_or_else(|| TypeError::other("Flatten", "dimensions overflow"))
        };
        Ok(vec![x.reshape(vec![product(outer)?, product(inner)?])?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        Ok(vec![Some(b.reshape_to(g, x))])
    }
}

#[cfg(test)]
mod tests {
    use qcc_tensor::DType;

    use super::*;
    use crate::testing::{check_vjp, ints, values};

    fn inferred(from: &[Dim], shape: &[i64]) -> Result<String, TypeError> {
        let (ty, shape) = (Type::tensor(DType::F32, from.to_vec()), Tensor::vector(shape.to_vec()));
        let shape_ty = Type::of(&shape);
        let inputs = [
            Some(Input { ty: &ty, value: None }),
            Some(Input { ty: &shape_ty, value: Some(&shape) }),
        ];
        Ok(Reshape { allowzero: false }.infer(&inputs, 1)?[0].to_string())
    }

    #[test]
    fn symbols_pass_and_cancel() {
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let text = |from: &[Dim], shape: &[i64]| inferred(from, shape).unwrap();
        let hidden = [b.clone(), s.clone(), Dim::Known(768)];
        assert_eq!(text(&hidden, &[0, 0, 12, -1]), "f32[b, s, 12, 64]");
        assert_eq!(text(&hidden, &[0, -1, 768]), "f32[b, s, 768]");
        assert_eq!(text(&hidden, &[-1, 768]), "f32[?, 768]");
        assert_eq!(text(&[Dim::Unknown, Dim::Known(6)], &[0, -1]), "f32[?, ?]");
        assert_eq!(text(&[4.into(), 6.into()], &[-1, 8]), "f32[3, 8]");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (from, shape) in [
            (vec![4usize, 6], vec![-1i64, 5]),
            (vec![4, 6], vec![5, 5]),
            (vec![4], vec![-1, -1]),
            (vec![4], vec![4, 0]),
            (vec![4], vec![-2, -2]),
            (vec![4], vec![i64::MAX, i64::MAX, 4]),
        ] {
            let from: Vec<Dim> = from.into_iter().map(Dim::Known).collect();
            assert!(inferred(&from, &shape).is_err(), "{from:?} {shape:?}");
        }
    }

    #[test]
    fn bytes_are_shared() {
        let x = Tensor::from_vec(vec![2, 3], vec![0f32; 6]).unwrap();
        let shape = Tensor::vector(vec![-1i64]);
        let op = Reshape { allowzero: false };
        let out = op.eval(&EvalCx::default(), &[Some(&x), Some(&shape)], 1).unwrap();
        assert_eq!(out[0].dims(), [6]);
        assert_eq!(out[0].bytes().as_ptr(), x.bytes().as_ptr());
    }

    #[test]
    fn gradients_match_central_differences() {
        let op = Reshape { allowzero: false };
        check_vjp(&op, &[values(&[2, 3, 1]), ints(&[0, -1])], 1);
        check_vjp(&Flatten { axis: 1 }, &[values(&[2, 3, 4])], 1);
    }
}
