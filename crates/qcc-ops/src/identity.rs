//! Operators that pass their operand on: `Identity` (ONNX opset 25) and `Dropout` (opset 22), which
//! does nothing but in training.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::emit::args;
use crate::operands::{count, need, one, optional};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Identity", parse: |_| Ok(Arc::new(Identity)) },
    OpDef { domain: "", name: "Dropout", parse: Dropout::parse },
];

/// Its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity;

impl Op for Identity {
    fn name(&self) -> &str {
        "Identity"
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// Any type gives itself.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        Ok(vec![one("Identity", inputs)?.ty.clone()])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![one("Identity", inputs)?.clone()])
    }

    fn vjp(&self, _: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_]) = args(self, io, dy)?;
        Ok(vec![Some(g)])
    }
}

/// Its operand, with a mask of what was kept: all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share that training drops, as an attribute before opset 12.
    pub ratio: Option<f32>,
    /// Start of the random numbers of training.
    pub seed: Option<i64>,
    /// The mask has the type of the operand, as before opset 10; written as the attribute
    /// `float_mask`.
    pub float_mask: bool,
}

impl Dropout {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            ratio: reader.opt_float("ratio")?,
            seed: reader.opt_int("seed")?,
            float_mask: reader.flag("float_mask", reader.opset() < 10)?,
        }))
    }
}

impl Op for Dropout {
    fn name(&self) -> &str {
        "Dropout"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Vec::new();
        if let Some(ratio) = self.ratio {
            attrs.push(("ratio".to_owned(), Attr::Float(ratio)));
        }
        if let Some(seed) = self.seed {
            attrs.push(("seed".into(), Attr::Int(seed)));
        }
        if self.float_mask {
            attrs.push(("float_mask".into(), Attr::Int(1)));
        }
        attrs
    }

    /// `x: T[..], ratio?, training?` gives `T[..], bool[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], n: usize) -> Result<Vec<Type>, TypeError> {
        count("Dropout", inputs, 1, 3)?;
        let x = need("Dropout", inputs, 0)?.ty;
        let mask = if self.float_mask { x.dtype() } else { Some(DType::Bool) };
        let mut types = vec![x.clone()];
        types.resize(n.max(1), x.with_dtype(mask));
        Ok(types)
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        n: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Dropout", inputs, 1, 3)?;
        let x = need("Dropout", inputs, 0)?;
        if let Some(training) = optional(inputs, 2)
            && training.as_bools()?.iter().any(|&it| it != 0)
        {
            return Err(EvalError::unsupported(self, "training"));
        }
        let mut results = vec![x.clone()];
        if n > 1 {
            let ones = vec![true; x.len()];
            let mask = Tensor::from_bools(x.dims().to_vec(), &ones)?;
            if self.float_mask {
                return Err(EvalError::unsupported(self, "a mask of floats"));
            }
            results.push(mask);
        }
        Ok(results)
    }

    /// Training draws random numbers, and whether it does is an operand.
    fn is_pure(&self) -> bool {
        false
    }

    /// That of the identity: training is not executed.
    fn vjp(&self, _: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_]) = args(self, io, dy)?;
        Ok(vec![Some(g)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, values};

    #[test]
    fn attributes_make_the_same_operator() {
        for opset in [7, 13] {
            let attrs = vec![("ratio".to_owned(), Attr::Float(0.25))];
            let it = parse("", "Dropout", opset, attrs).unwrap();
            let again = parse("", "Dropout", opset, it.attrs()).unwrap();
            assert_eq!(again.is::<Dropout>(), it.is());
        }
    }

    #[test]
    fn training_is_refused() {
        let x = Tensor::vector(vec![1f32, 2.0]);
        let it = Dropout { ratio: None, seed: None, float_mask: false };
        let run = |training: bool| {
            let training = Tensor::from_bools(Vec::new(), &[training]).unwrap();
            it.eval(&EvalCx::default(), &[Some(&x), None, Some(&training)], 2)
        };
        let out = run(false).unwrap();
        assert_eq!((&out[0], out[1].as_bools().unwrap()), (&x, &[1u8, 1][..]));
        assert!(run(true).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        check_vjp(&Identity, &[values(&[2, 3])], 1);
        let op = Dropout { ratio: None, seed: None, float_mask: false };
        check_vjp(&op, &[values(&[2, 3])], 2);
    }
}
