//! `qcc::MatMulGradW(x, g)`: the derivative of a weight, `X^T G` over all rows of `x` and `g`.
//!
//! The rows of the last two dimensions are one chunk. Products of chunks are added in f32 in their
//! order, so a batch gives the same bytes as its parts do one after the other.

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};

use crate::numeric::{narrow, wrong_type};
use crate::operands::two;
use crate::product::{Mat, MatMut, par_product, product};
use crate::quant::DOMAIN;

const NAME: &str = "MatMulGradW";

/// Fewer products of elements than this run on the calling thread.
const SMALL: usize = 1 << 17;

/// The derivative of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulGradW;

impl Op for MatMulGradW {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `x: T[..S, M, K], g: T[..S, M, N]` give `T[K, N]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (x, g) = two(NAME, inputs)?;
        let last = |ty: &Type| ty.shape().and_then(<[Dim]>::last).cloned().unwrap_or(Dim::Unknown);
        Ok(vec![x.ty.with_shape(Some(vec![last(x.ty), last(g.ty)]))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (x, g) = two(NAME, inputs)?;
        let (&[ref rows @ .., k], &[ref others @ .., n]) = (x.dims(), g.dims()) else {
            return Err(TypeError::other(NAME, "an operand has no dimensions").into());
        };
        if rows != others || x.dtype() != g.dtype() {
            return Err(TypeError::other(NAME, "the rows of x and g differ").into());
        }
        let m = rows.last().copied().unwrap_or(1);
        let chunks = rows.iter().product::<usize>().checked_div(m).unwrap_or(0);
        let len = k.checked_mul(n).ok_or_else(|| TypeError::other(NAME, "is too large"))?;
        Ok(vec![match x.dtype() {
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let (x, g) = (x.to_f32()?, g.to_f32()?);
                let mut out = cx.pool.take(len)?;
                out.fill(0.0);
                let mut part = cx.pool.take(if chunks > 1 { len } else { 0 })?;
                for chunk in 0..if len == 0 { 0 } else { chunks } {
                    let x = Mat::new(&x[chunk * m * k..][..m * k], m, k).t();
                    let g = Mat::new(&g[chunk * m * n..][..m * n], m, n);
                    let to = if chunk == 0 { &mut out } else { &mut part };
                    let mut to = MatMut::new(to, k, n);
                    if len.saturating_mul(m) < SMALL {
                        product(&mut to, x, g, 1.0);
                    } else {
                        par_product(to, x, g, 1.0);
                    }
                    if chunk > 0 {
                        out.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
                    }
                }
                // Gives the buffer back.
                cx.pool.tensor(vec![part.len()], part)?;
                narrow(NAME, cx, dtype, &[k, n], out)?
            }
            DType::F64 => {
                let (x, g) = (x.as_slice::<f64>()?, g.as_slice::<f64>()?);
                let mut out = vec![0f64; len];
                for (x, g) in x.chunks_exact(k.max(1)).zip(g.chunks_exact(n.max(1))) {
                    for (x, out) in x.iter().zip(out.chunks_exact_mut(n.max(1))) {
                        out.iter_mut().zip(g).for_each(|(out, g)| *out += x * g);
                    }
                }
                Tensor::from_vec(vec![k, n], out)?
            }
            other => return Err(wrong_type(NAME, other)),
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_its_parts_one_after_the_other() {
        let values = |len: usize| (0..len).map(|it| (it * 37 % 64) as f32 / 7.0 - 4.0).collect();
        let (x, g): (Vec<f32>, Vec<f32>) = (values(3 * 40 * 70), values(3 * 40 * 50));
        let run = |from: usize, count: usize| {
            let x = x[from * 2800..][..count * 2800].to_vec();
            let g = g[from * 2000..][..count * 2000].to_vec();
            let x = Tensor::from_vec(vec![count, 40, 70], x).unwrap();
            let g = Tensor::from_vec(vec![count, 40, 50], g).unwrap();
            let out = MatMulGradW.eval(&EvalCx::default(), &[Some(&x), Some(&g)], 1).unwrap();
            out[0].to_f32().unwrap().into_owned()
        };
        let mut sum = run(0, 1);
        for part in [run(1, 1), run(2, 1)] {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        assert_eq!(run(0, 3), sum);
        let empty = Tensor::from_vec(vec![0, 2], Vec::<f32>::new()).unwrap();
        let out = MatMulGradW.eval(&EvalCx::default(), &[Some(&empty), Some(&empty)], 1).unwrap();
        assert_eq!(&*out[0].to_f32().unwrap(), [0.0; 4]);
    }
}
