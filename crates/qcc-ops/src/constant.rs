//! `Constant` (opset 1, plain values since 12) and `ConstantOfShape` (opset 9).
//!
//! Sparse values are not read. Source: onnx/defs/generator/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::cells::{Cells, fill};
use crate::ints::{const_ints, ints, sizes, unknown_dims, vector_len};
use crate::operands::{self, count};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Constant", parse: Constant::parse },
    OpDef { domain: "", name: "ConstantOfShape", parse: ConstantOfShape::parse },
];

/// A value. Of the forms of ONNX (a tensor, a number, a string, a list of either) all become the
/// tensor that they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The value.
    pub value: Tensor,
}

impl Constant {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        const FORMS: [&str; 7] = [
            "value",
            "value_float",
            "value_floats",
            "value_int",
            "value_ints",
            "value_string",
            "value_strings",
        ];
        let mut given = FORMS.iter().filter_map(|&name| Some((name, reader.get(name)?)));
        let (name, attr) = given.next().ok_or_else(|| reader.missing("value"))?;
        if let Some((more, _)) = given.next() {
            return Err(reader.error(more, format!("stands beside '{name}'")));
        }
        let value = match (name, attr) {
            ("value", Attr::Tensor(it)) => it.clone(),
            ("value_float", Attr::Float(it)) => Tensor::scalar(*it),
            ("value_floats", Attr::Floats(it)) => Tensor::vector(it.clone()),
            ("value_int", Attr::Int(it)) => Tensor::scalar(*it),
            ("value_ints", Attr::Ints(it)) => Tensor::vector(it.clone()),
            ("value_string", Attr::Str(it)) => Tensor::strings(Vec::new(), vec![it.clone()])
                .map_err(|error| reader.error(name, error.to_string()))?,
            ("value_strings", Attr::Strs(it)) => Tensor::strings(vec![it.len()], it.clone())
                .map_err(|error| reader.error(name, error.to_string()))?,
            // An empty list has no kind.
            ("value_floats", Attr::Ints(it)) if it.is_empty() => Tensor::vector(Vec::<f32>::new()),
            _ => return Err(reader.error(name, "is of another kind")),
        };
        Ok(Arc::new(Self { value }))
    }
}

impl Op for Constant {
    fn name(&self) -> &str {
        "Constant"
    }

    fn attrs(&self) -> Attrs {
        vec![("value".into(), self.value.clone().into())]
    }

    /// The type of the value.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Constant", inputs, 0, 0)?;
        Ok(vec![Type::of(&self.value)])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Constant", inputs, 0, 0)?;
        Ok(vec![self.value.clone()])
    }
}

/// One value in every place of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantOfShape {
    /// A tensor of one element; 0.0 as `f32` when absent.
    pub value: Option<Tensor>,
}

impl ConstantOfShape {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let value = reader.opt_tensor("value")?.cloned();
        if value.as_ref().is_some_and(|it| it.len() != 1) {
            return Err(reader.error("value", "is not one element"));
        }
        Ok(Arc::new(Self { value }))
    }
}

impl Op for ConstantOfShape {
    fn name(&self) -> &str {
        "ConstantOfShape"
    }

    fn attrs(&self) -> Attrs {
        self.value.iter().map(|it| ("value".into(), it.clone().into())).collect()
    }

    /// `shape: i64[R]` gives a tensor of rank R.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let shape = operands::one("ConstantOfShape", inputs)?;
        let dims = match const_ints("ConstantOfShape", Some(shape))? {
            Some(list) => {
                let sizes = sizes("ConstantOfShape", &list)?;
                Some(sizes.into_iter().map(Dim::Known).collect())
            }
            None => unknown_dims(vector_len(shape)),
        };
        let dtype = self.value.as_ref().map_or(DType::F32, Tensor::dtype);
        Ok(vec![Type::partial(Some(dtype), dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let shape = operands::one("ConstantOfShape", inputs)?;
        let dims = sizes("ConstantOfShape", &ints("ConstantOfShape", shape)?)?;
        let zero = Tensor::scalar(0f32);
        let value = self.value.as_ref().unwrap_or(&zero);
        let mut cells = Cells::new(value.dtype());
        let cell = cells.read("ConstantOfShape", value)?;
        let mut room = cells.room(cx, &dims)?;
        fill(room.bytes(), &cell);
        Ok(vec![cells.tensor(cx, dims, room)?])
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn constant(name: &str, attr: Attr) -> Option<Tensor> {
        let op = crate::parse("", "Constant", 13, vec![(name.into(), attr)]).ok()?;
        let again = crate::parse("", "Constant", 13, op.attrs()).unwrap();
        assert_eq!(again.is::<Constant>(), op.is::<Constant>());
        Some(op.eval(&EvalCx::default(), &[], 1).unwrap().remove(0))
    }

    #[test]
    fn forms_of_values() {
        assert_eq!(constant("value_int", Attr::Int(3)), Some(Tensor::scalar(3i64)));
        assert_eq!(
            constant("value_floats", Attr::Floats(vec![0.5])),
            Some(Tensor::vector(vec![0.5f32]))
        );
        let words = constant("value_strings", Attr::Strs(vec![Bytes::from_static(b"a")])).unwrap();
        assert_eq!((words.dims(), words.dtype()), (&[1][..], DType::Str));
        assert_eq!(constant("value_int", Attr::Float(3.0)), None);
        assert!(crate::parse("", "Constant", 13, Attrs::new()).is_err());
    }

    #[test]
    fn shapes_are_filled() {
        let value = Some(Tensor::vector(vec![-7i64]));
        let op = ConstantOfShape { value };
        let run = |list: Vec<i64>| {
            let shape = Tensor::vector(list);
            Some(op.eval(&EvalCx::default(), &[Some(&shape)], 1).ok()?.remove(0))
        };
        let out = run(vec![2, 1]).unwrap();
        assert_eq!((out.dims(), &*out.as_slice::<i64>().unwrap()), (&[2, 1][..], &[-7i64, -7][..]));
        assert_eq!(run(vec![0, i64::MAX]).unwrap().len(), 0);
        assert!(run(vec![-1]).is_none());
        assert!(run(vec![i64::MAX, 2]).is_none());
    }
}
