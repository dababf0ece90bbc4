//! Random operators: `RandomNormal`, `RandomUniform` and their `Like` forms (opset 1), `Bernoulli`
//! (15) and `Multinomial` (7). Their types are known; they are not executed.
//!
//! Source: onnx/defs/generator/defs.cc, onnx/defs/math/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::ints::sizes;
use crate::one_hot::opt_dtype;
use crate::operands::{count, one};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "RandomNormal", parse: Random::parse },
    OpDef { domain: "", name: "RandomNormalLike", parse: Random::parse },
    OpDef { domain: "", name: "RandomUniform", parse: Random::parse },
    OpDef { domain: "", name: "RandomUniformLike", parse: Random::parse },
    OpDef { domain: "", name: "Bernoulli", parse: Random::parse },
    OpDef { domain: "", name: "Multinomial", parse: Random::parse },
];

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// The normal distribution.
    Normal {
        /// Its mean.
        mean: f32,
        /// Its standard deviation.
        scale: f32,
    },
    /// Numbers of `low..high`, all alike.
    Uniform {
        /// The least one.
        low: f32,
        /// Above the largest one.
        high: f32,
    },
    /// 1 with the probability that the operand tells, else 0.
    Bernoulli,
    /// Classes by the logarithms of probability that the operand tells.
    Multinomial {
        /// How many per row.
        samples: i64,
    },
}

/// A random operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Random {
    /// What is drawn.
    pub draw: Draw,
    /// The shape of the result; that of the operand, where there is one, when absent.
    pub shape: Option<Vec<i64>>,
    /// Element type; that of the operand, or the default of the operator, when absent.
    pub dtype: Option<DType>,
    /// Start of the sequence, if it is to be repeatable.
    pub seed: Option<f32>,
}

impl Random {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let draw = match reader.op() {
            "RandomNormal" | "RandomNormalLike" => Draw::Normal {
                mean: reader.float("mean", 0.0)?,
                scale: reader.float("scale", 1.0)?,
            },
            "RandomUniform" | "RandomUniformLike" => {
                Draw::Uniform { low: reader.float("low", 0.0)?, high: reader.float("high", 1.0)? }
            }
            "Bernoulli" => Draw::Bernoulli,
            _ => Draw::Multinomial { samples: reader.int("sample_size", 1)? },
        };
        let shape = if matches!(reader.op(), "RandomNormal" | "RandomUniform") {
            Some(reader.opt_ints("shape")?.ok_or_else(|| reader.missing("shape"))?.to_vec())
        } else {
            None
        };
        let (dtype, seed) = (opt_dtype(reader)?, reader.opt_float("seed")?);
        Ok(Arc::new(Self { draw, shape, dtype, seed }))
    }
}

impl Op for Random {
    fn name(&self) -> &str {
        match (self.draw, &self.shape) {
            (Draw::Normal { .. }, Some(_)) => "RandomNormal",
            (Draw::Normal { .. }, None) => "RandomNormalLike",
            (Draw::Uniform { .. }, Some(_)) => "RandomUniform",
            (Draw::Uniform { .. }, None) => "RandomUniformLike",
            (Draw::Bernoulli, _) => "Bernoulli",
            (Draw::Multinomial { .. }, _) => "Multinomial",
        }
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = match self.draw {
            Draw::Normal { mean, scale } => {
                vec![("mean".into(), mean.into()), ("scale".into(), scale.into())]
            }
            Draw::Uniform { low, high } => {
                vec![("low".into(), low.into()), ("high".into(), high.into())]
            }
            Draw::Bernoulli => Attrs::new(),
            Draw::Multinomial { samples } => vec![("sample_size".into(), samples.into())],
        };
        attrs.extend(self.shape.clone().map(|it| ("shape".into(), it.into())));
        attrs.extend(self.dtype.map(|it| ("dtype".into(), i64::from(it.onnx_code()).into())));
        attrs.extend(self.seed.map(|it| ("seed".into(), it.into())));
        attrs
    }

    /// A tensor of `shape`, or of the shape of the operand; `Multinomial` makes `[B, samples]` of
    /// `[B, classes]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        if let Some(shape) = &self.shape {
            count(self.name(), inputs, 0, 0)?;
            let dims = sizes(self.name(), shape)?;
            return Ok(vec![Type::tensor(self.dtype.unwrap_or(DType::F32), dims)]);
        }
        let ty = one(self.name(), inputs)?.ty;
        let Draw::Multinomial { samples } = self.draw else {
            return Ok(vec![ty.with_dtype(self.dtype.or(ty.dtype()))]);
        };
        let samples = Dim::Known(crate::ints::size(self.name(), samples)?);
        let rows = ty.shape().and_then(|it| it.first().cloned()).unwrap_or(Dim::Unknown);
        Ok(vec![Type::tensor(self.dtype.unwrap_or(DType::I32), [rows, samples])])
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        Err(EvalError::unsupported(self, "it is random"))
    }

    fn is_pure(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_make_the_same_operator() {
        let op = |draw, shape| Random { draw, shape, dtype: Some(DType::F64), seed: Some(2.0) };
        for it in [
            op(Draw::Normal { mean: 1.0, scale: 2.0 }, Some(vec![2, 3])),
            op(Draw::Uniform { low: -1.0, high: 2.0 }, None),
            op(Draw::Bernoulli, None),
            op(Draw::Multinomial { samples: 4 }, None),
        ] {
            let again = crate::parse("", it.name(), 22, it.attrs()).unwrap();
            assert_eq!(again.is::<Random>(), Some(&it));
            assert!(!again.is_pure());
        }
        assert!(crate::parse("", "RandomNormal", 22, Attrs::new()).is_err());
    }

    #[test]
    fn types() {
        let ty = Type::tensor(DType::F16, [Dim::symbol("b"), Dim::Known(7)]);
        let input = [Some(Input { ty: &ty, value: None })];
        let infer = |draw| {
            let op = Random { draw, shape: None, dtype: None, seed: None };
            op.infer(&input, 1).unwrap()[0].to_string()
        };
        assert_eq!(infer(Draw::Bernoulli), "f16[b, 7]");
        assert_eq!(infer(Draw::Multinomial { samples: 4 }), "i32[b, 4]");
    }
}
