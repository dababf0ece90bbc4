//! `Concat` (opset 4): operands one after the other along an axis.
//!
//! Source: onnx/defs/tensor/defs.cc.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::cells::Cells;
use crate::emit::{Emit, args, no_vjp};
use crate::operands::{self, need};
use crate::split::Split;
use crate::strided::{Walk, each_row};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Concat", parse: Concat::parse }];

/// Operands one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The axis along which they lie; negative counts from the end.
    pub axis: i64,
}

impl Concat {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.need_int("axis")? }))
    }
}

/// The dimension that two operands have in common, as far as it is known.
fn common(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Known(x), Dim::Known(y)) if x != y => None,
        (Dim::Known(_), _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Unknown) => Some(a.clone()),
        _ => Some(b.clone()),
    }
}

impl Op for Concat {
    fn name(&self) -> &str {
        "Concat"
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `T[A.., X_i, B..]` give `T[A.., sum(X), B..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let mut out = need("Concat", inputs, 0)?.ty.clone();
        let mut sum = None;
        for index in 0..inputs.len() {
            let ty = need("Concat", inputs, index)?.ty;
            let dtype = out.dtype().or(ty.dtype());
            let Some(dims) = ty.shape() else {
                out = out.with_dtype(dtype);
                sum = Some(Dim::Unknown);
                continue;
            };
            let axis = operands::axis("Concat", self.axis, dims.len())?;
            let before = match out.shape() {
                Some(it) if it.len() != dims.len() => {
                    return Err(TypeError::shapes("Concat", it, dims));
                }
                Some(it) => it.to_vec(),
                None => dims.to_vec(),
            };
            let mut merged = Vec::with_capacity(dims.len());
            for (at, (a, b)) in before.iter().zip(dims).enumerate() {
                let same = if at == axis { Some(Dim::Unknown) } else { common(a, b) };
                merged.push(same.ok_or_else(|| TypeError::shapes("Concat", &before, dims))?);
            }
            sum = Some(match sum {
                None => dims[axis].clone(),
                Some(before) => added(&before, &dims[axis]),
            });
            out = Type::partial(dtype, Some(merged));
        }
        let dims = out.shape().map(<[Dim]>::to_vec).map(|mut dims| {
            if let (Ok(axis), Some(sum)) = (operands::axis("Concat", self.axis, dims.len()), sum) {
                dims[axis] = sum;
            }
            dims
        });
        Ok(vec![out.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let first = need("Concat", inputs, 0)?;
        let axis = operands::axis("Concat", self.axis, first.rank())?;
        let mut dims = first.dims().to_vec();
        dims[axis] = 0;
        let mut cells = Cells::new(first.dtype());
        let width = cells.width();
        let mut parts: Vec<(Cow<'_, [u8]>, usize)> = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            let it = need("Concat", inputs, index)?;
            let fits = it.rank() == dims.len()
                && it.dims().iter().zip(&dims).enumerate().all(|(at, (a, b))| at == axis || a == b);
            let total = it.dims().get(axis).and_then(|&it| dims[axis].checked_add(it));
            let (true, Some(total)) = (fits, total) else {
                let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
                let (a, b) = (dims(first.dims()), dims(it.dims()));
                return Err(TypeError::shapes("Concat", &a, &b).into());
            };
            dims[axis] = total;
            let row = it.dims()[axis..].iter().product::<usize>() * width;
            if row > 0 {
                parts.push((cells.read("Concat", it)?, row));
            }
        }
        let mut room = cells.room(cx, &dims)?;
        let row: usize = parts.iter().map(|it| it.1).sum();
        // The walk counts rows; each operand has one part in each.
        let rows = dims[..axis].iter().product();
        let walk = Walk::new(vec![rows], vec![1], 0);
        each_row(room.bytes(), row, 1, &walk, |at, mut out| {
            for (part, len) in &parts {
                let (here, rest) = out.split_at_mut(*len);
                here.copy_from_slice(&part[at as usize * len..][..*len]);
                out = rest;
            }
        });
        Ok(vec![cells.tensor(cx, dims, room)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_]) = args(self, io, dy)?;
        let inputs: Option<Vec<Value>> = io.inputs.iter().copied().collect();
        let inputs = inputs.ok_or_else(|| no_vjp(self, "an operand is absent"))?;
        let rank = inputs.iter().find_map(|&it| b.ty(it).rank());
        let axis = rank.and_then(|it| operands::axis("Concat", self.axis, it).ok());
        let axis = axis.ok_or_else(|| no_vjp(self, "the rank is not known"))?;
        let sizes: Vec<Value> = inputs.iter().map(|&it| b.dim_of(it, axis)).collect();
        let sizes = b.joined(&sizes);
        let split = Split { axis: axis as i64, split: None, num_outputs: None };
        let parts = b.outputs(Arc::new(split), &[Some(g), Some(sizes)], inputs.len());
        Ok(parts.into_iter().map(Some).collect())
    }
}

fn added(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), it) | (it, Dim::Known(0)) => it.clone(),
        (Dim::Known(a), Dim::Known(b)) => a.checked_add(*b).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use qcc_tensor::DType;

    use super::*;
    use crate::testing::{check_vjp, values};

    fn concat(axis: i64, parts: &[&Tensor]) -> Result<Tensor, EvalError> {
        let inputs: Vec<_> = parts.iter().map(|&it| Some(it)).collect();
        Ok(Concat { axis }.eval(&EvalCx::default(), &inputs, 1)?.remove(0))
    }

    #[test]
    fn nibbles_join_in_the_middle_of_a_byte() {
        let a = Tensor::new(DType::U4, vec![1], Bytes::from_static(&[0x01])).unwrap();
        let b = Tensor::new(DType::U4, vec![2], Bytes::from_static(&[0x32])).unwrap();
        let out = concat(0, &[&a, &b, &a]).unwrap();
        assert_eq!(&out.bytes()[..], [0x21, 0x13]);
    }

    #[test]
    fn strings_join() {
        let word = |it: &'static str| {
            Tensor::strings(vec![1], vec![Bytes::from_static(it.as_bytes())]).unwrap()
        };
        let out = concat(0, &[&word("a"), &word("b")]).unwrap();
        assert_eq!(out.as_strings().unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_differs_is_refused() {
        let a = Tensor::from_vec(vec![2, 3], vec![0f32; 6]).unwrap();
        let b = Tensor::from_vec(vec![1, 3], vec![0f32; 3]).unwrap();
        assert_eq!(concat(0, &[&a, &b]).unwrap().dims(), [3, 3]);
        assert!(concat(1, &[&a, &b]).is_err());
        assert!(concat(0, &[&a, &Tensor::scalar(1f32)]).is_err());
        let c = Tensor::from_vec(vec![2, 3], vec![0i32; 6]).unwrap();
        assert!(concat(0, &[&a, &c]).is_err());
    }

    #[test]
    fn types_add_up() {
        let (s, t) = (Dim::symbol("s"), Dim::Known(4));
        let a = Type::tensor(DType::F32, [Dim::symbol("b"), t.clone(), Dim::Unknown]);
        let b = Type::tensor(DType::F32, [Dim::Known(2), t, s]);
        let input = |ty| Some(Input { ty, value: None });
        let infer = |axis: i64| {
            let op = Concat { axis };
            op.infer(&[input(&a), input(&b)], 1).map(|it| it[0].to_string())
        };
        assert_eq!(infer(1), Ok("f32[2, 8, s]".into()));
        assert_eq!(infer(-1), Ok("f32[2, 4, ?]".into()));
        let any = Type::partial(Some(DType::F32), None);
        let out = Concat { axis: 1 }.infer(&[input(&any), input(&b)], 1).unwrap();
        assert_eq!(out[0].to_string(), "f32[2, ?, s]");
    }

    #[test]
    fn gradients_match_central_differences() {
        let parts = [values(&[2, 3]), values(&[2, 1]), values(&[2, 4]).fixed()];
        check_vjp(&Concat { axis: -1 }, &parts, 1);
        check_vjp(&Concat { axis: 0 }, &[values(&[3])], 1);
    }
}
