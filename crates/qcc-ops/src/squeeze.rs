//! `Squeeze` and `Unsqueeze` (axes are an operand since opset 13, an attribute before): dimensions of
//! one element go and come, no copy.
//!
//! Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};

use crate::emit::{Emit, args};
use crate::ints::{axes, const_ints, ints, unknown_dims, vector_len};
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Squeeze", parse: Squeeze::parse },
    OpDef { domain: "", name: "Unsqueeze", parse: Unsqueeze::parse },
];

/// Takes away dimensions of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Squeeze {
    /// Axes of the attribute before opset 13; when they are no operand either, all of one element.
    pub axes: Option<Vec<i64>>,
}

/// The `axes` attribute of opsets before 13.
fn legacy_axes(reader: &AttrReader<'_>) -> Result<Option<Vec<i64>>, AttrError> {
    if reader.opset() >= 13 {
        return Ok(None);
    }
    Ok(reader.opt_ints("axes")?.map(<[i64]>::to_vec))
}

fn axes_attrs(axes: Option<&Vec<i64>>) -> Attrs {
    axes.map(|it| ("axes".into(), it.clone().into())).into_iter().collect()
}

impl Squeeze {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { axes: legacy_axes(reader)? }))
    }

    fn dims(dims: &[Dim], list: Option<&[i64]>) -> Result<Option<Vec<Dim>>, TypeError> {
        let Some(list) = list else {
            if dims.iter().any(|it| it.known().is_none()) {
                return Ok(None);
            }
            return Ok(Some(dims.iter().filter(|it| **it != Dim::Known(1)).cloned().collect()));
        };
        let gone = axes("Squeeze", list, dims.len())?;
        if let Some(&axis) = gone.iter().find(|&&it| dims[it].known().is_some_and(|it| it != 1)) {
            let what = format!("dimension {axis} is {}, not 1", dims[axis]);
            return Err(TypeError::other("Squeeze", what));
        }
        let left = dims.iter().enumerate().filter(|it| !gone.contains(&it.0));
        Ok(Some(left.map(|it| it.1.clone()).collect()))
    }
}

impl Op for Squeeze {
    fn name(&self) -> &str {
        "Squeeze"
    }

    fn attrs(&self) -> Attrs {
        axes_attrs(self.axes.as_ref())
    }

    /// `data: T[..]`, `axes: i64[A]` gives `T[..]` of A dimensions less.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Squeeze", inputs, 1, 2)?;
        let data = need("Squeeze", inputs, 0)?;
        let operand = optional(inputs, 1);
        let list = const_ints("Squeeze", operand)?;
        let dims = match (data.ty.shape(), operand) {
            (None, _) => None,
            (Some(dims), Some(operand)) if list.is_none() => {
                let left = vector_len(operand).and_then(|it| dims.len().checked_sub(it));
                unknown_dims(left)
            }
            (Some(dims), _) => Self::dims(dims, list.as_deref().or(self.axes.as_deref()))?,
        };
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Squeeze", inputs, 1, 2)?;
        let data = need("Squeeze", inputs, 0)?;
        let list = optional(inputs, 1).map(|it| ints("Squeeze", it)).transpose()?;
        let dims: Vec<Dim> = data.dims().iter().map(|&it| it.into()).collect();
        let dims = Self::dims(&dims, list.as_deref().or(self.axes.as_deref()))?;
        let dims = dims.unwrap_or_default().iter().filter_map(Dim::known).collect();
        Ok(vec![data.reshape(dims)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        Ok(vec![Some(b.reshape_to(g, x))])
    }
}

/// Puts in dimensions of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsqueeze {
    /// Axes of the attribute before opset 13, counted in the result.
    pub axes: Option<Vec<i64>>,
}

impl Unsqueeze {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let axes = legacy_axes(reader)?;
        if axes.is_none() && reader.opset() < 13 {
            return Err(reader.missing("axes"));
        }
        Ok(Arc::new(Self { axes }))
    }

    fn dims<T: Clone>(dims: &[T], list: &[i64], one: T) -> Result<Vec<T>, TypeError> {
        let rank = dims.len() + list.len();
        let new = axes("Unsqueeze", list, rank)?;
        let mut old = dims.iter();
        let dim = |axis| {
            let from = if new.contains(&axis) { None } else { old.next() };
            from.unwrap_or(&one).clone()
        };
        Ok((0..rank).map(dim).collect())
    }
}

impl Op for Unsqueeze {
    fn name(&self) -> &str {
        "Unsqueeze"
    }

    fn attrs(&self) -> Attrs {
        axes_attrs(self.axes.as_ref())
    }

    /// `data: T[..]`, `axes: i64[A]` gives `T[..]` of A dimensions more.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Unsqueeze", inputs, 1, 2)?;
        let data = need("Unsqueeze", inputs, 0)?;
        let list = match &self.axes {
            Some(it) => Some(it.clone()),
            None => const_ints("Unsqueeze", Some(need("Unsqueeze", inputs, 1)?))?,
        };
        let dims = match (data.ty.shape(), list) {
            (None, _) => None,
            (Some(dims), Some(list)) => Some(Self::dims(dims, &list, Dim::Known(1))?),
            (Some(dims), None) => {
                let more = optional(inputs, 1).and_then(vector_len);
                unknown_dims(more.and_then(|it| dims.len().checked_add(it)))
            }
        };
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Unsqueeze", inputs, 1, 2)?;
        let data = need("Unsqueeze", inputs, 0)?;
        let list = match &self.axes {
            Some(it) => it.clone(),
            None => ints("Unsqueeze", need("Unsqueeze", inputs, 1)?)?,
        };
        Ok(vec![data.reshape(Self::dims(data.dims(), &list, 1)?)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        Ok(vec![Some(b.reshape_to(g, x))])
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::Attr;
    use qcc_tensor::DType;

    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, ints, values};

    #[test]
    fn axes_are_an_attribute_before_13() {
        let attrs = || vec![("axes".to_owned(), Attr::Ints(vec![0, -1]))];
        for name in ["Squeeze", "Unsqueeze"] {
            let op = parse("", name, 11, attrs()).unwrap();
            assert_eq!(op.attrs(), attrs());
            assert!(parse("", name, 13, attrs()).is_err());
        }
        assert!(parse("", "Unsqueeze", 11, Attrs::new()).is_err());
        let x = Tensor::from_vec(vec![2, 1], vec![0f32; 2]).unwrap();
        let op = parse("", "Unsqueeze", 11, attrs()).unwrap();
        let out = op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap();
        assert_eq!(out[0].dims(), [1, 2, 1, 1]);
    }

    #[test]
    fn unknown_dimensions_may_be_one() {
        let ty = Type::tensor(DType::F32, [Dim::symbol("b"), Dim::Known(1), Dim::Known(3)]);
        let input = [Some(Input { ty: &ty, value: None })];
        let infer = |axes| Squeeze { axes }.infer(&input, 1).map(|it| it[0].to_string());
        assert_eq!(infer(None), Ok("f32[*]".into()));
        assert_eq!(infer(Some(vec![0])), Ok("f32[1, 3]".into()));
        assert_eq!(infer(Some(vec![-2])), Ok("f32[b, 3]".into()));
        assert!(infer(Some(vec![2])).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        check_vjp(&Squeeze { axes: None }, &[values(&[2, 1, 3]), ints(&[1])], 1);
        check_vjp(&Unsqueeze { axes: None }, &[values(&[2, 3]), ints(&[0, -1])], 1);
    }
}
