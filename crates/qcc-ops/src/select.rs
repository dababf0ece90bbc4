//! Choice of elements: `Where` (ONNX opset 16) and `Clip` (opset 13).
//!
//! `Where` is `c ? x : y` with broadcasting, `Clip` is `min(max(x, low), high)`. Before opset 11 the
//! bounds of `Clip` are attributes; so they are kept.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Tensor};

use crate::broadcast::{self, Walk, select};
use crate::compare::Compare;
use crate::emit::{Emit, args};
use crate::numeric::{Number, build, with_number, wrong_type};
use crate::operands::{count, need, optional};
use crate::vector::{self, Lane};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "Where", parse: |_| Ok(Arc::new(Where)) },
    OpDef { domain: "", name: "Clip", parse: Clip::parse },
];

/// `c ? x : y`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where;

impl Op for Where {
    fn name(&self) -> &str {
        "Where"
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// `c: bool[C], x: T[X], y: T[Y]` gives `T[broadcast(C, X, Y)]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Where", inputs, 3, 3)?;
        let [c, x, y] = [0, 1, 2].map(|it| need("Where", inputs, it).map(|it| it.ty));
        let (c, x, y) = (c?, x?, y?);
        let shape = match (c.shape(), x.shape(), y.shape()) {
            (Some(c), Some(x), Some(y)) => {
                Some(broadcast::shape("Where", c, &broadcast::shape("Where", x, y)?)?)
            }
            _ => None,
        };
        Ok(vec![Type::partial(x.dtype().or(y.dtype()), shape)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Where", inputs, 3, 3)?;
        let (c, x, y) =
            (need("Where", inputs, 0)?, need("Where", inputs, 1)?, need("Where", inputs, 2)?);
        if x.dtype() != y.dtype() {
            return Err(wrong_type("Where", y.dtype()));
        }
        let dims = broadcast::sizes("Where", &[c.dims(), x.dims(), y.dims()])?;
        let walk = Walk::new(&dims, [c.dims(), x.dims(), y.dims()]);
        let pick = c.as_bools()?;
        if let (Some(x), Some(y)) = (x.as_strings(), y.as_strings()) {
            let at = |index| {
                let [c, i, j] = walk.at(index);
                if pick[c] != 0 { x[i].clone() } else { y[j].clone() }
            };
            return Ok(vec![Tensor::strings(dims, (0..walk.len()).map(at).collect())?]);
        }
        let out = if x.dtype() == DType::Bool {
            let mut out = vec![0u8; walk.len()];
            select(&walk, pick, x.as_bools()?, y.as_bools()?, &mut out);
            Tensor::new(DType::Bool, dims, out.into())?
        } else {
            with_number!(x.dtype(), T => {
                let (x, y) = (x.as_slice::<T>()?, y.as_slice::<T>()?);
                build(cx, &dims, |out: &mut [T]| select(&walk, pick, &x, &y, out))?
            }, other => return Err(wrong_type("Where", other)))
        };
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [c, x, y]) = args(self, io, dy)?;
        let zero = b.scalar(g, 0.0);
        let dx = io.wants(1).then(|| {
            let d = b.select(c, g, zero);
            b.sum_to(d, x)
        });
        let dz = io.wants(2).then(|| {
            let d = b.select(c, zero, g);
            b.sum_to(d, y)
        });
        Ok(vec![None, dx, dz])
    }
}

/// `min(max(x, low), high)`; the bounds are operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Bounds as the attributes `min` and `max`, which they are before opset 11.
    pub bounds: Option<[f32; 2]>,
}

impl Clip {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let (min, max) = (reader.opt_float("min")?, reader.opt_float("max")?);
        let legacy = reader.opset() < 11 || min.is_some() || max.is_some();
        let bounds = [min.unwrap_or(f32::MIN), max.unwrap_or(f32::MAX)];
        Ok(Arc::new(Self { bounds: legacy.then_some(bounds) }))
    }
}

impl Op for Clip {
    fn name(&self) -> &str {
        "Clip"
    }

    fn attrs(&self) -> Attrs {
        let bounds = self
            .bounds
            .map(|[min, max]| vec![("min".to_owned(), min.into()), ("max".to_owned(), max.into())]);
        bounds.unwrap_or_default()
    }

    /// `x: T[..], low: T?, high: T?` gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Clip", inputs, 1, 3)?;
        Ok(vec![need("Clip", inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Clip", inputs, 1, 3)?;
        let x = need("Clip", inputs, 0)?;
        with_number!(x.dtype(), T => {
            let bound = |index: usize| -> Result<Option<T>, EvalError> {
                if let Some(bounds) = self.bounds {
                    return Ok(Some(T::of_f64(bounds[index - 1].into())));
                }
                let Some(bound) = optional(inputs, index) else { return Ok(None) };
                match &*bound.as_slice::<T>()? {
                    [it] => Ok(Some(*it)),
                    _ => Err(TypeError::other("Clip", "a bound is not one number").into()),
                }
            };
            let (low, high) = (bound(1)?, bound(2)?);
            let values = x.as_slice::<T>()?;
            let out = build(cx, x.dims(), |out: &mut [T]| {
                // The casts hold since T is f32.
                if x.dtype() == DType::F32
                    && let (Ok(x), Ok(out)) =
                        (bytemuck::try_cast_slice(&values), bytemuck::try_cast_slice_mut(out))
                {
                    let low = low.map_or(f32::NEG_INFINITY, |it| it.to_f64() as f32);
                    let high = high.map_or(f32::INFINITY, |it| it.to_f64() as f32);
                    vector::map(Bounds { low, high }, x, out);
                    return;
                }
                for (out, &x) in out.iter_mut().zip(&*values) {
                    let x = low.map_or(x, |low| x.larger(low));
                    *out = high.map_or(x, |high| x.smaller(high));
                }
            })?;
            Ok(vec![out])
        }, other => Err(wrong_type("Clip", other)))
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let bounds = match self.bounds {
            Some(it) => it.map(|it| Some(b.scalar(x, it.into()))),
            None => [io.input(1), io.input(2)],
        };
        let ways =
            [[Compare::Less, Compare::GreaterOrEqual], [Compare::Greater, Compare::LessOrEqual]];
        let (mut adjoints, mut dx) = (vec![None; 3], g);
        for (at, (bound, [outside, inside])) in bounds.into_iter().zip(ways).enumerate() {
            let Some(bound) = bound else { continue };
            let is_inside = b.apply(inside, &[x, bound]);
            dx = b.masked(is_inside, dx);
            if io.wants(at + 1) {
                let is_outside = b.apply(outside, &[x, bound]);
                let d = b.masked(is_outside, g);
                adjoints[at + 1] = Some(b.sum_to(d, bound));
            }
        }
        adjoints[0] = Some(dx);
        Ok(adjoints)
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    low: f32,
    high: f32,
}

impl Lane for Bounds {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let x = if x < self.low { self.low } else { x };
        if x > self.high { self.high } else { x }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testing::{check_vjp, floats, values};

    #[test]
    fn old_bounds_are_attributes() {
        for (opset, attrs, want) in [
            (6, vec![], Some([f32::MIN, f32::MAX])),
            (10, vec![("max".to_owned(), 6.0.into())], Some([f32::MIN, 6.0])),
            (13, vec![], None),
        ] {
            let it = parse("", "Clip", opset, attrs).unwrap();
            assert_eq!(it.is::<Clip>(), Some(&Clip { bounds: want }));
            assert_eq!(parse("", "Clip", opset, it.attrs()).unwrap().is(), it.is::<Clip>());
        }
        let x = Tensor::vector(vec![-1.0f32, 3.0, 9.0, f32::NAN]);
        let it = Clip { bounds: Some([0.0, 6.0]) };
        let out = it.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
        let out = out.to_f32().unwrap();
        assert_eq!(out[..3], [0.0, 3.0, 6.0]);
        assert!(out[3].is_nan());
    }

    #[test]
    fn choice_of_strings_and_numbers() {
        let c = Tensor::from_bools(vec![2, 1], &[true, false]).unwrap();
        let run = |x: &Tensor, y: &Tensor| {
            Where.eval(&EvalCx::default(), &[Some(&c), Some(x), Some(y)], 1).map(|it| it[0].clone())
        };
        let out = run(&Tensor::vector(vec![1i8, 2]), &Tensor::scalar(9i8)).unwrap();
        assert_eq!((out.dims(), &*out.as_slice::<i8>().unwrap()), (&[2, 2][..], &[1, 2, 9, 9][..]));
        let text = |it: &str| Tensor::strings(vec![1], vec![it.to_owned().into()]).unwrap();
        let out = run(&text("a"), &text("b")).unwrap();
        assert_eq!(out.as_strings().unwrap(), ["a", "b"]);
        assert!(run(&Tensor::scalar(1i8), &Tensor::scalar(1i16)).is_err());
    }

    #[test]
    fn gradients_match_central_differences() {
        let pick = Tensor::from_bools(vec![3, 1], &[true, false, true]).unwrap();
        check_vjp(&Where, &[pick.into(), values(&[2, 3, 4]), values(&[4])], 1);
        let x = || floats(&[-2.3, -0.7, 0.2, 1.4, 3.1]);
        let bound = |it: f64| Tensor::scalar(it);
        check_vjp(&Clip { bounds: Some([-1.0, 1.5]) }, &[x()], 1);
        check_vjp(&Clip { bounds: None }, &[x(), bound(-1.0).into()], 1);
        check_vjp(&Clip { bounds: None }, &[x(), values(&[]), bound(2.0).into()], 1);
    }
}
