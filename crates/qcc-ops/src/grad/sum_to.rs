//! `qcc::SumTo(x, shape)`: sums over what broadcasting repeated.
//!
//! The shape goes into that of `x` by ONNX's rule; each element is the sum of all elements of `x`
//! that it would be repeated to. Over leading dimensions sums are taken in f64, in order; else as those
//! of `ReduceSum`.

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};
use rayon::prelude::*;

use crate::broadcast;
use crate::ints::{const_ints, ints, sizes, unknown_dims, vector_len};
use crate::numeric::{narrow, wrong_type};
use crate::operands::two;
use crate::quant::DOMAIN;
use crate::reduce::{Kind, Reduce};

const NAME: &str = "SumTo";

/// Columns that one task adds up.
const COLUMNS: usize = 64;

/// Sums over what broadcasting repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumTo;

impl Op for SumTo {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `x: T[..]`, `shape: i64[R]` give `T[shape]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (x, shape) = two(NAME, inputs)?;
        let dims = match const_ints(NAME, Some(shape))? {
            Some(dims) => Some(sizes(NAME, &dims)?.into_iter().map(Dim::Known).collect()),
            None => unknown_dims(vector_len(shape)),
        };
        Ok(vec![x.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, shape) = two(NAME, inputs)?;
        let dims = sizes(NAME, &ints(NAME, shape)?)?;
        if broadcast::sizes(NAME, &[x.dims(), &dims])? != x.dims() {
            let text = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
            return Err(TypeError::shapes(NAME, &text(x.dims()), &text(&dims)).into());
        }
        if dims.iter().product::<usize>() == x.len() {
            return Ok(vec![x.reshape(dims)?]);
        }
        if !is_bias(x.dims(), &dims) {
            let lead = x.rank() - dims.len();
            let is_gone = |at: &usize| *at < lead || dims[at - lead] != x.dims()[*at];
            let axes = (0..x.rank()).filter(is_gone).map(|it| it as i64).collect();
            let sum = Reduce { kind: Kind::Sum, axes: Some(axes), keep: true, none_is_none: false };
            return Ok(vec![sum.eval(cx, &[Some(x)], 1)?.remove(0).reshape(dims)?]);
        }
        Ok(vec![match x.dtype() {
            DType::F64 => {
                let sums = columns(&x.as_slice::<f64>()?, dims.iter().product(), |it| it);
                Tensor::from_vec(dims, sums)?
            }
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let sums = columns(&x.to_f32()?, dims.iter().product(), f64::from);
                let mut out = cx.pool.take(sums.len())?;
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
                narrow(NAME, cx, dtype, &dims, out)?
            }
            other => return Err(wrong_type(NAME, other)),
        }])
    }
}

/// Whether all that is summed over are leading dimensions, as those of a bias are.
fn is_bias(from: &[usize], to: &[usize]) -> bool {
    let ones = to.iter().take_while(|&&it| it == 1).count();
    from[from.len() - to.len() + ones..] == to[ones..]
}

/// Sums of columns; each task has some of its own.
fn columns<T: Copy + Sync>(x: &[T], width: usize, wide: fn(T) -> f64) -> Vec<f64> {
    let mut sums = vec![0f64; width];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(idx, sums)| {
        for row in x.chunks_exact(width) {
            let row = &row[idx * COLUMNS..][..sums.len()];
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += wide(x));
        }
    });
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dims: &[usize], to: &[i64]) -> Result<Tensor, EvalError> {
        let len = dims.iter().product::<usize>();
        let x = Tensor::from_vec(dims.to_vec(), (0..len).map(|it| it as f32).collect()).unwrap();
        let shape = Tensor::vector(to.to_vec());
        Ok(SumTo.eval(&EvalCx::default(), &[Some(&x), Some(&shape)], 1)?.remove(0))
    }

    #[test]
    fn what_was_repeated_is_summed() {
        let out = run(&[2, 3], &[3]).unwrap();
        assert_eq!((out.dims(), &*out.to_f32().unwrap()), (&[3][..], &[3.0, 5.0, 7.0][..]));
        let out = run(&[2, 3], &[2, 1]).unwrap();
        assert_eq!((out.dims(), &*out.to_f32().unwrap()), (&[2, 1][..], &[3.0, 12.0][..]));
        assert_eq!(&*run(&[2, 3], &[]).unwrap().to_f32().unwrap(), [15.0]);
        assert_eq!(run(&[2, 1, 3], &[1, 3]).unwrap().to_f32().unwrap()[0], 3.0);
        assert_eq!(run(&[0, 3], &[1, 3]).unwrap().to_f32().unwrap()[..], [0.0; 3]);
        assert!(run(&[2, 3], &[2]).is_err() && run(&[2, 1], &[2, 3]).is_err());
    }
}
