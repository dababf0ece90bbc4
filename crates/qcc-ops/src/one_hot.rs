//! `OneHot` (opset 9) and `EyeLike` (opset 9): one value among others.
//!
//! Source: onnx/defs/tensor/defs.cc, onnx/defs/generator/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::cells::{Cells, fill, one};
use crate::ints::{dtype, ints, wrap};
use crate::operands::{self, count, need};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "OneHot", parse: OneHot::parse },
    OpDef { domain: "", name: "EyeLike", parse: EyeLike::parse },
];

/// `out[a.., j, b..] = values[1]` where `j = indices[a.., b..]`, else `values[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneHot {
    /// The new axis, counted in the result.
    pub axis: i64,
}

impl OneHot {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axis: reader.int("axis", -1)? }))
    }

    fn dims<T: Clone>(&self, indices: &[T], depth: T) -> Result<(Vec<T>, usize), TypeError> {
        let axis = operands::axis("OneHot", self.axis, indices.len() + 1)?;
        Ok(([&indices[..axis], &[depth], &indices[axis..]].concat(), axis))
    }
}

/// Whole numbers of any numeric type; `None` for what is no whole number.
fn whole(tensor: &Tensor) -> Result<Vec<Option<i64>>, TypeError> {
    if let Ok(list) = ints("OneHot", tensor) {
        return Ok(list.into_iter().map(Some).collect());
    }
    let whole = |it: f64| (it.fract() == 0.0 && it.abs() < 9e15).then_some(it as i64);
    if let Ok(list) = tensor.as_slice::<f64>() {
        return Ok(list.iter().map(|&it| whole(it)).collect());
    }
    let list = tensor.to_f32().map_err(|_| dtype("OneHot", tensor.dtype()))?;
    Ok(list.iter().map(|&it| whole(f64::from(it))).collect())
}

fn depth(tensor: &Tensor) -> Result<usize, TypeError> {
    let list = whole(tensor)?;
    match list.as_slice() {
        [Some(it)] if *it >= 0 => Ok(*it as usize),
        _ => Err(TypeError::other("OneHot", "depth is no count")),
    }
}

impl Op for OneHot {
    fn name(&self) -> &str {
        "OneHot"
    }

    fn attrs(&self) -> Attrs {
        vec![("axis".into(), self.axis.into())]
    }

    /// `indices: I[A.., B..]`, `depth: D[]`, `values: T[2]` give `T[A.., depth, B..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("OneHot", inputs, 3, 3)?;
        let (indices, size) = (need("OneHot", inputs, 0)?, need("OneHot", inputs, 1)?);
        let dtype = need("OneHot", inputs, 2)?.ty.dtype();
        let size = match size.value {
            Some(it) => Dim::Known(depth(it)?),
            None => Dim::Unknown,
        };
        let dims = indices.ty.shape().map(|it| self.dims(it, size)).transpose()?;
        Ok(vec![Type::partial(dtype, dims.map(|it| it.0))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("OneHot", inputs, 3, 3)?;
        let (indices, values) = (need("OneHot", inputs, 0)?, need("OneHot", inputs, 2)?);
        let depth = depth(need("OneHot", inputs, 1)?)?;
        let (dims, axis) = self.dims(indices.dims(), depth)?;
        let mut cells = Cells::new(values.dtype());
        let (width, pair) = (cells.width(), cells.read("OneHot", values)?);
        if pair.len() != 2 * width {
            return Err(TypeError::other("OneHot", "values are not two").into());
        }
        let (off, on) = pair.split_at(width);
        let mut room = cells.room(cx, &dims)?;
        fill(room.bytes(), off);
        let inner: usize = indices.dims()[axis..].iter().product();
        for (at, index) in whole(indices)?.into_iter().enumerate() {
            if let Some(index) = index.and_then(|it| wrap(it, depth)) {
                let place = (at / inner * depth + index) * inner + at % inner;
                room.bytes()[place * width..][..width].copy_from_slice(on);
            }
        }
        Ok(vec![cells.tensor(cx, dims, room)?])
    }
}

/// Ones on a diagonal of a matrix of zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EyeLike {
    /// Element type; that of the operand when absent.
    pub dtype: Option<DType>,
    /// The diagonal: column minus row.
    pub k: i64,
}

impl EyeLike {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { dtype: opt_dtype(reader)?, k: reader.int("k", 0)? }))
    }
}

/// The attribute `dtype`.
pub(crate) fn opt_dtype(reader: &AttrReader<'_>) -> Result<Option<DType>, AttrError> {
    let Some(code) = reader.opt_int("dtype")? else { return Ok(None) };
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    dtype.map(Some).ok_or_else(|| reader.error("dtype", "is no element type"))
}

impl Op for EyeLike {
    fn name(&self) -> &str {
        "EyeLike"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("k".into(), self.k.into())];
        attrs.extend(self.dtype.map(|it| ("dtype".into(), i64::from(it.onnx_code()).into())));
        attrs
    }

    /// `input: T[R, C]` gives `[R, C]` of the element type.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let ty = operands::one("EyeLike", inputs)?.ty;
        if let Some(got) = ty.rank().filter(|&it| it != 2) {
            let (op, want) = ("EyeLike".into(), "2".into());
            return Err(TypeError::Rank { op, index: 0, want, got });
        }
        Ok(vec![ty.with_dtype(self.dtype.or(ty.dtype()))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let input = operands::one("EyeLike", inputs)?;
        let &[rows, columns] = input.dims() else {
            let (op, want) = ("EyeLike".into(), "2".into());
            return Err(TypeError::Rank { op, index: 0, want, got: input.rank() }.into());
        };
        let dtype = self.dtype.unwrap_or(input.dtype());
        let (mut cells, one) = (Cells::new(dtype), one("EyeLike", dtype)?);
        let (width, zero) = (one.len(), cells.zero());
        let mut room = cells.room(cx, input.dims())?;
        fill(room.bytes(), &zero);
        for row in 0..rows {
            let column = (row as i64).checked_add(self.k).and_then(|it| usize::try_from(it).ok());
            if let Some(column) = column.filter(|&it| it < columns) {
                let place = (row * columns + column) * width;
                room.bytes()[place..][..width].copy_from_slice(&one);
            }
        }
        Ok(vec![cells.tensor(cx, input.dims().to_vec(), room)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_off() {
        let indices = Tensor::vector(vec![1f32, -1.0, 3.0, 0.5]);
        let (depth, values) = (Tensor::scalar(3i64), Tensor::vector(vec![7u8, 9]));
        let inputs = [Some(&indices), Some(&depth), Some(&values)];
        let run = |axis| OneHot { axis }.eval(&EvalCx::default(), &inputs, 1).unwrap().remove(0);
        let out = run(-1);
        assert_eq!(out.dims(), [4, 3]);
        assert_eq!(&out.bytes()[..], [7, 9, 7, 7, 7, 9, 7, 7, 7, 7, 7, 7]);
        assert_eq!(&run(0).bytes()[..], [7, 7, 7, 7, 9, 7, 7, 7, 7, 9, 7, 7]);
    }

    #[test]
    fn diagonals() {
        let x = Tensor::from_vec(vec![2, 3], vec![0f32; 6]).unwrap();
        let run = |k| {
            let op = EyeLike { dtype: Some(DType::U8), k };
            op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap()[0].bytes().to_vec()
        };
        assert_eq!(run(1), [0, 1, 0, 0, 0, 1]);
        assert_eq!(run(-1), [0, 0, 0, 1, 0, 0]);
        assert_eq!(run(i64::MAX), [0; 6]);
        assert_eq!(run(i64::MIN), [0; 6]);
    }
}
