//! `qcc::ExtremeGrad(x, g, axes?)`: derivative of `ReduceMax` and `ReduceMin`.
//!
//! Each adjoint goes to the first of the elements that are the largest or smallest of theirs.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::Tensor;

use crate::broadcast::Walk;
use crate::numeric::{build, with_number, wrong_type};
use crate::operands::{count, need, optional};
use crate::quant::DOMAIN;
use crate::reduce::{Kind, Reduce};
use crate::{AttrError, AttrReader};

const NAME: &str = "ExtremeGrad";

/// The derivative of a largest or smallest element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtremeGrad {
    /// The reduction that it is the derivative of.
    pub of: Reduce,
}

impl ExtremeGrad {
    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kind = if reader.flag("min", false)? { Kind::Min } else { Kind::Max };
        let axes = reader.opt_ints("axes")?.map(<[i64]>::to_vec);
        let none_is_none = reader.flag("noop_with_empty_axes", false)?;
        Ok(Arc::new(Self { of: Reduce { kind, axes, keep: true, none_is_none } }))
    }
}

impl Op for ExtremeGrad {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = vec![("min".to_owned(), Attr::Int((self.of.kind == Kind::Min).into()))];
        attrs.extend(self.of.attrs().into_iter().filter(|it| it.0 != "keepdims"));
        attrs
    }

    /// `x: T[..]`, `g: T[..]` of the reduction, `axes: i64[A]?` give `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 2, 3)?;
        Ok(vec![need(NAME, inputs, 0)?.ty.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, g) = (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?);
        let axes = optional(inputs, 2).map(Tensor::to_i64).transpose()?;
        let gone = self.of.gone(x.rank(), axes.as_deref())?;
        let ones: Vec<usize> =
            x.dims().iter().zip(&gone).map(|(&dim, &gone)| if gone { 1 } else { dim }).collect();
        let groups = ones.iter().product::<usize>();
        if g.len() != groups || g.dtype() != x.dtype() {
            return Err(TypeError::other(NAME, "x and g do not fit together").into());
        }
        let walk = Walk::new(x.dims(), [x.dims(), &ones]);
        let is_max = self.of.kind == Kind::Max;
        with_number!(x.dtype(), T => {
            let (values, g) = (x.as_slice::<T>()?, g.as_slice::<T>()?);
            let mut first: Vec<Option<usize>> = vec![None; groups];
            for index in 0..walk.len() {
                let [i, j] = walk.at(index);
                let is_better = first[j].is_none_or(|old| {
                    if is_max { values[i] > values[old] } else { values[i] < values[old] }
                });
                if is_better {
                    first[j] = Some(i);
                }
            }
            Ok(vec![build(cx, x.dims(), |out: &mut [T]| {
                out.fill(T::default());
                for (at, &g) in first.into_iter().zip(&*g) {
                    if let Some(out) = at.and_then(|at| out.get_mut(at)) {
                        *out = g;
                    }
                }
            })?])
        }, other => Err(wrong_type(NAME, other)))
    }
}
