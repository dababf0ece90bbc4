//! `com.microsoft.FusedMatMul` 1: `Y = alpha * op(A) * op(B)`, with NumPy's broadcasting.
//!
//! `transA` swaps the two dimensions of the matrix. With `transBatchA` the matrix lies in the
//! first and the last dimension, and the batch in between. Vectors are taken as they are.
//! Source: ONNX Runtime docs/ContribOperators.md, core/providers/cpu/math/matmul_helper.h.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Tensor};
use rayon::prelude::*;

use crate::broadcast::{self, Walk};
use crate::dims::len_of;
use crate::floats::float_tensor;
use crate::gemv::gemv_turned;
use crate::operands::two;
use crate::product::{Mat, MatMut, par_product, product};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "FusedMatMul";

/// The operators of this file.
pub const OPS: &[OpDef] =
    &[OpDef { domain: "com.microsoft", name: NAME, parse: FusedMatMul::parse }];

/// How an operand is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The two dimensions of the matrix change places.
    pub matrix: bool,
    /// The first dimension goes behind the batch.
    pub batch: bool,
}

/// A product of matrices with its operands transposed.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedMatMul {
    /// The left operand.
    pub a: Turn,
    /// The right operand.
    pub b: Turn,
    /// Factor of the result.
    pub alpha: f32,
}

impl FusedMatMul {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            a: Turn {
                matrix: reader.flag("transA", false)?,
                batch: reader.flag("transBatchA", false)?,
            },
            b: Turn {
                matrix: reader.flag("transB", false)?,
                batch: reader.flag("transBatchB", false)?,
            },
            alpha: reader.float("alpha", 1.0)?,
        }))
    }
}

/// Batch, rows and columns of an operand; a vector is a row on the left, a column on the right.
struct Shape<D> {
    batch: Vec<D>,
    rows: D,
    cols: D,
    is_vector: bool,
}

fn shape_of<D: Clone>(dims: &[D], one: D, turn: Turn, is_left: bool) -> Option<Shape<D>> {
    let last = dims.last()?.clone();
    if dims.len() == 1 {
        let (rows, cols) = if is_left { (one, last) } else { (last, one) };
        return Some(Shape { batch: Vec::new(), rows, cols, is_vector: true });
    }
    let outer = &dims[..dims.len() - 1];
    let (row, batch) = if turn.batch { outer.split_first()? } else { outer.split_last()? };
    let (rows, cols) = if turn.matrix { (last, row.clone()) } else { (row.clone(), last) };
    Some(Shape { batch: batch.to_vec(), rows, cols, is_vector: false })
}

impl Turn {
    /// Where one matrix of an operand begins, and how far its rows and columns lie apart.
    fn place(self, shape: &Shape<usize>, batch: usize) -> (usize, [usize; 2]) {
        let (rows, cols) =
            if self.matrix { (shape.cols, shape.rows) } else { (shape.rows, shape.cols) };
        let (first, stride) = if self.batch {
            (batch * cols, shape.batch.iter().product::<usize>() * cols)
        } else {
            (batch * rows * cols, cols)
        };
        (first, if self.matrix { [1, stride] } else { [stride, 1] })
    }

    /// One matrix `[rows, cols]` of an operand.
    fn mat<'a>(self, data: &'a [f32], shape: &Shape<usize>, batch: usize) -> Mat<'a> {
        let (first, strides) = self.place(shape, batch);
        Mat::strided(data.get(first..).unwrap_or(&[]), [shape.rows, shape.cols], strides)
    }
}

impl Op for FusedMatMul {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "com.microsoft"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        for (name, is_set) in [
            ("transA", self.a.matrix),
            ("transB", self.b.matrix),
            ("transBatchA", self.a.batch),
            ("transBatchB", self.b.batch),
        ] {
            if is_set {
                attrs.push((name.into(), Attr::Int(1)));
            }
        }
        if self.alpha != 1.0 {
            attrs.push(("alpha".into(), Attr::Float(self.alpha)));
        }
        attrs
    }

    /// `a: T[..S, m, k], b: T[..S, k, n]` after turning gives `T[..S, m, n]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (a, b) = two(NAME, inputs)?;
        let (Some(a_dims), Some(b_dims)) = (a.ty.shape(), b.ty.shape()) else {
            return Ok(vec![a.ty.with_shape(None)]);
        };
        let one = Dim::Known(1);
        let left = shape_of(a_dims, one.clone(), self.a, true);
        let right = shape_of(b_dims, one, self.b, false);
        let (Some(left), Some(right)) = (left, right) else {
            return Err(TypeError::shapes(NAME, a_dims, b_dims));
        };
        if let (Some(x), Some(y)) = (left.cols.known(), right.rows.known())
            && x != y
        {
            return Err(TypeError::shapes(NAME, a_dims, b_dims));
        }
        let mut shape = broadcast::shape(NAME, &left.batch, &right.batch)?;
        shape.extend((!left.is_vector).then_some(left.rows));
        shape.extend((!right.is_vector).then_some(right.cols));
        Ok(vec![a.ty.with_shape(Some(shape))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = two(NAME, inputs)?;
        let left = shape_of(a.dims(), 1, self.a, true);
        let right = shape_of(b.dims(), 1, self.b, false);
        let (Some(left), Some(right)) = (left, right) else {
            return Err(TypeError::other(NAME, "a scalar is no matrix").into());
        };
        let (m, k, n) = (left.rows, left.cols, right.cols);
        if k != right.rows {
            let what = format!("{:?} and {:?} do not fit together", a.dims(), b.dims());
            return Err(TypeError::other(NAME, what).into());
        }
        let batch = broadcast::sizes(NAME, &[&left.batch, &right.batch])?;
        let mut dims = batch.clone();
        dims.extend((!left.is_vector).then_some(m));
        dims.extend((!right.is_vector).then_some(n));
        let turn = |it: Turn, is_vector: bool| if is_vector { Turn::default() } else { it };
        let (a_turn, b_turn) = (turn(self.a, left.is_vector), turn(self.b, right.is_vector));
        let walk = Walk::new(&batch, [&left.batch, &right.batch]);
        if (a.dtype(), b.dtype()) == (DType::F64, DType::F64) {
            let (x, y) = (a.as_slice::<f64>()?, b.as_slice::<f64>()?);
            let mut out = vec![0f64; len_of(NAME, &dims)?];
            for (i, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
                let [p, q] = walk.at(i);
                let ((p, ps), (q, qs)) = (a_turn.place(&left, p), b_turn.place(&right, q));
                for (at, out) in out.iter_mut().enumerate() {
                    let (p, q) = (p + at / n * ps[0], q + at % n * qs[1]);
                    let sum: f64 = (0..k).map(|i| x[p + i * ps[1]] * y[q + i * qs[0]]).sum();
                    *out = f64::from(self.alpha) * sum;
                }
            }
            return Ok(vec![Tensor::from_vec(dims, out)?]);
        }
        let mut out = cx.pool.take(len_of(NAME, &dims)?)?;
        let (x, y) = (a.to_f32()?, b.to_f32()?);
        let operands = |i: usize| {
            let at = walk.at(i);
            (a_turn.mat(&x, &left, at[0]), b_turn.mat(&y, &right, at[1]))
        };
        let one_b = right.batch.iter().all(|&it| it == 1);
        if one_b && !a_turn.matrix && !a_turn.batch && !out.is_empty() {
            // The rows of all products follow each other, so that they are one.
            let rows = out.len() / n;
            if rows == 1 && k > 0 && b_turn.matrix && !b_turn.batch {
                gemv_turned(&x[..k], &y, &mut out);
                out.iter_mut().for_each(|it| *it *= self.alpha);
            } else {
                let (a, b) = (Mat::new(&x, rows, k), b_turn.mat(&y, &right, 0));
                par_product(MatMut::new(&mut out, rows, n), a, b, self.alpha);
            }
        } else if out.len() == m * n && !out.is_empty() {
            let (a, b) = operands(0);
            par_product(MatMut::new(&mut out, m, n), a, b, self.alpha);
        } else if !out.is_empty() {
            out.par_chunks_exact_mut(m * n).enumerate().for_each(|(i, out)| {
                let (a, b) = operands(i);
                product(&mut MatMut::new(out, m, n), a, b, self.alpha);
            });
        }
        Ok(vec![match a.dtype() {
            DType::F32 => cx.pool.tensor(dims, out)?,
            other => float_tensor(NAME, other, dims, out)?,
        }])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tensor whose element at batch `b`, row `i`, column `j` is `f(b, i, j)`, stored turned.
    fn stored(turn: Turn, [b, m, n]: [usize; 3], f: impl Fn(usize, usize, usize) -> f32) -> Tensor {
        let (rows, cols) = if turn.matrix { (n, m) } else { (m, n) };
        let dims = if turn.batch { vec![rows, b, cols] } else { vec![b, rows, cols] };
        let mut values = vec![0.0; b * m * n];
        for (i, x) in values.iter_mut().enumerate() {
            let (rest, col) = (i / cols, i % cols);
            let (batch, row) =
                if turn.batch { (rest % b, rest / b) } else { (rest / rows, rest % rows) };
            *x = if turn.matrix { f(batch, col, row) } else { f(batch, row, col) };
        }
        Tensor::from_vec(dims, values).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_sum(
            b in 1usize..4, m in 1usize..6, k in 1usize..6, n in 1usize..6, flags in 0u8..16,
        ) {
            let turn = |shift: u8| Turn {
                matrix: flags >> shift & 1 == 1, batch: flags >> (shift + 1) & 1 == 1,
            };
            let op = FusedMatMul { a: turn(0), b: turn(2), alpha: 0.5 };
            let again = crate::parse("com.microsoft", NAME, 1, op.attrs()).unwrap();
            prop_assert_eq!(again.is(), Some(&op));
            let left = |b: usize, i: usize, j: usize| (b + 2 * i + 5 * j) as f32 - 8.0;
            let right = |b: usize, i: usize, j: usize| (3 * b + i * j) as f32 - 4.0;
            let (x, y) = (stored(op.a, [b, m, k], left), stored(op.b, [b, k, n], right));
            let got = op.eval(&EvalCx::default(), &[Some(&x), Some(&y)], 1).unwrap();
            let types = [Type::of(&x), Type::of(&y)];
            let inputs = types.each_ref().map(|ty| Some(Input { ty, value: None }));
            prop_assert_eq!(op.infer(&inputs, 1).unwrap(), vec![Type::of(&got[0])]);
            let want = stored(Turn::default(), [b, m, n], |b, i, j| {
                0.5 * (0..k).map(|p| left(b, i, p) * right(b, p, j)).sum::<f32>()
            });
            prop_assert_eq!(got[0].dims(), want.dims());
            prop_assert_eq!(got[0].to_f32().unwrap(), want.to_f32().unwrap());
        }
    }

    #[test]
    fn vectors_and_mismatches() {
        let op = FusedMatMul { a: Turn::default(), b: Turn::default(), alpha: 1.0 };
        let v = Tensor::vector(vec![1f32, 2.0]);
        let y = op.eval(&EvalCx::default(), &[Some(&v), Some(&v)], 1).unwrap();
        assert_eq!(y, [Tensor::scalar(5f32)]);
        let w = Tensor::vector(vec![1f32; 3]);
        assert!(op.eval(&EvalCx::default(), &[Some(&v), Some(&w)], 1).is_err());
        assert!(op.eval(&EvalCx::default(), &[Some(&v), Some(&Tensor::scalar(1f32))], 1).is_err());
    }
}
