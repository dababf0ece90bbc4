//! `MatMul` (ONNX opset 13) and `Gemm` (opset 13): products of matrices.
//!
//! `MatMul` is NumPy's `matmul`: leading dimensions broadcast, an operand of one dimension is a row
//! or a column that the result lacks. `Gemm` is `alpha * A' * B' + beta * C` of two dimensions.
//! f32, f16 and bf16 compute in f32; integers wrap. Tiles follow from shapes, and the sum of an
//! element is never split between threads.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};
use rayon::prelude::*;

use crate::broadcast::{self, Walk, zip, zip_fast};
use crate::gemv::gemv;
use crate::numeric::{Number, build, narrow, with_number, wrong_type};
use crate::operands::{count, need, optional, two};
use crate::product::{Mat, MatMut, par_product, product};
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "MatMul", parse: |_| Ok(Arc::new(MatMul)) },
    OpDef { domain: "", name: "Gemm", parse: Gemm::parse },
];

/// Fewer products of elements than this run on the calling thread.
const SMALL: usize = 1 << 17;

/// The matrix product, over leading dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMul;

impl Op for MatMul {
    fn name(&self) -> &str {
        "MatMul"
    }

    fn attrs(&self) -> Attrs {
        Vec::new()
    }

    /// `a: T[.., M, K], b: T[.., K, N]` gives `T[.., M, N]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (a, b) = two("MatMul", inputs)?;
        let dtype = a.ty.dtype().or(b.ty.dtype());
        let shape = match (a.ty.shape(), b.ty.shape()) {
            (Some(a), Some(b)) => Some(product_shape("MatMul", a, b)?),
            _ => None,
        };
        Ok(vec![Type::partial(dtype, shape)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = two("MatMul", inputs)?;
        Ok(vec![matmul("MatMul", cx, a, b)?])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::matmul(*self, b, io, dy)
    }
}

/// The shape of a product by the rules of `MatMul`.
///
/// # Errors
/// When an operand is a scalar, or sizes that must be equal differ.
pub(crate) fn product_shape(op: &str, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, TypeError> {
    let (Some(inner), Some(_)) = (a.last(), b.last()) else {
        return Err(TypeError::other(op, "an operand has no dimensions"));
    };
    let other = &b[b.len().saturating_sub(2)];
    if let (Some(x), Some(y)) = (inner.known(), other.known())
        && x != y
    {
        return Err(TypeError::shapes(op, a, b));
    }
    let batch = |dims: &[Dim]| dims[..dims.len().saturating_sub(2)].to_vec();
    let mut out = broadcast::shape(op, &batch(a), &batch(b))?;
    if a.len() > 1 {
        out.push(a[a.len() - 2].clone());
    }
    if b.len() > 1 {
        out.push(b[b.len() - 1].clone());
    }
    Ok(out)
}

/// Sizes of a product whose operands lie row after row.
struct Sizes {
    m: usize,
    k: usize,
    n: usize,
    /// Products.
    batch: usize,
    /// Which matrices they take.
    walk: Walk<2>,
    /// Whether all products take the same `b`, and `a` in order.
    same_b: bool,
    /// Shape of the result.
    dims: Vec<usize>,
}

impl Sizes {
    fn new(op: &str, a: &[usize], b: &[usize]) -> Result<Self, TypeError> {
        let symbols = |dims: &[usize]| dims.iter().map(|&it| Dim::Known(it)).collect::<Vec<_>>();
        let dims = product_shape(op, &symbols(a), &symbols(b))?;
        let dims: Vec<usize> = dims.iter().filter_map(Dim::known).collect();
        let (a_batch, b_batch) = (&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)]);
        let batch = broadcast::sizes(op, &[a_batch, b_batch])?;
        let too_large = || TypeError::other(op, format!("result {dims:?} is too large"));
        qcc_tensor::checked_len(&dims).ok_or_else(too_large)?;
        Ok(Self {
            m: if a.len() > 1 { a[a.len() - 2] } else { 1 },
            k: a[a.len() - 1],
            n: if b.len() > 1 { b[b.len() - 1] } else { 1 },
            walk: Walk::new(&batch, [a_batch, b_batch]),
            same_b: b_batch.iter().all(|&it| it == 1),
            batch: batch.iter().product(),
            dims,
        })
    }

    /// First elements of the operands of a product.
    fn starts(&self, index: usize) -> [usize; 2] {
        let [a, b] = self.walk.at(index);
        [a * self.m * self.k, b * self.k * self.n]
    }
}

/// `a * b` by the rules of `MatMul`.
///
/// # Errors
/// When the shapes or element types do not fit.
pub(crate) fn matmul(op: &str, cx: &EvalCx, a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let sizes = Sizes::new(op, a.dims(), b.dims())?;
    if a.dtype() != b.dtype() {
        return Err(wrong_type(op, b.dtype()));
    }
    match a.dtype() {
        dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
            let mut out = cx.pool.take(sizes.batch * sizes.m * sizes.n)?;
            single(&sizes, &a.to_f32()?, &b.to_f32()?, &mut out);
            narrow(op, cx, dtype, &sizes.dims, out)
        }
        dtype => with_number!(dtype, T => {
            let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
            build(cx, &sizes.dims, |out: &mut [T]| plain(&sizes, &a, &b, out))
        }, other => Err(wrong_type(op, other))),
    }
}

fn single(sizes: &Sizes, a: &[f32], b: &[f32], out: &mut [f32]) {
    let Sizes { mut m, k, n, mut batch, .. } = *sizes;
    if out.is_empty() {
        return;
    }
    if sizes.same_b {
        (m, batch) = (m * batch, 1);
    }
    let size = m.saturating_mul(n).saturating_mul(k.max(1));
    if batch == 1 {
        let (a, b) = (&a[..m * k], &b[..k * n]);
        match m {
            1 => gemv(a, b, n, out),
            _ if size < SMALL => {
                product(&mut MatMut::new(out, m, n), Mat::new(a, m, k), Mat::new(b, k, n), 1.0);
            }
            _ => par_product(MatMut::new(out, m, n), Mat::new(a, m, k), Mat::new(b, k, n), 1.0),
        }
        return;
    }
    let one = |(index, out): (usize, &mut [f32])| {
        let [a_start, b_start] = sizes.starts(index);
        let (a, b) = (&a[a_start..][..m * k], &b[b_start..][..k * n]);
        product(&mut MatMut::new(out, m, n), Mat::new(a, m, k), Mat::new(b, k, n), 1.0);
    };
    if size.saturating_mul(batch) < SMALL {
        out.chunks_mut(m * n).enumerate().for_each(one);
        return;
    }
    // Few large products are cut into rows, so that all threads have something to do.
    const ROWS: usize = 128;
    let blocks = out.par_chunks_mut(m * n).enumerate().flat_map_iter(|(index, out)| {
        let blocks = out.chunks_mut(ROWS * n).enumerate();
        blocks.map(move |(block, out)| (index, block, out))
    });
    let blocks: Vec<_> = blocks.collect();
    blocks.into_par_iter().for_each(|(index, block, out)| {
        let [a_start, b_start] = sizes.starts(index);
        let rows = out.len() / n;
        let a = &a[a_start + block * ROWS * k..][..rows * k];
        let b = &b[b_start..][..k * n];
        product(&mut MatMut::new(out, rows, n), Mat::new(a, rows, k), Mat::new(b, k, n), 1.0);
    });
}

fn plain<T: Number>(sizes: &Sizes, a: &[T], b: &[T], out: &mut [T]) {
    let Sizes { m, k, n, .. } = *sizes;
    if out.is_empty() {
        return;
    }
    for (index, out) in out.chunks_mut(m * n).enumerate() {
        let [a_start, b_start] = sizes.starts(index);
        for (row, out) in out.chunks_mut(n).enumerate() {
            out.fill(T::default());
            for p in 0..k {
                let x = a[a_start + row * k + p];
                for (out, &y) in out.iter_mut().zip(&b[b_start + p * n..][..n]) {
                    *out = out.add(x.mul(y));
                }
            }
        }
    }
}

/// `alpha * A' * B' + beta * C`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `C`.
    pub beta: f32,
    /// `A` is `[K, M]`.
    pub trans_a: bool,
    /// `B` is `[N, K]`.
    pub trans_b: bool,
}

impl Gemm {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            alpha: reader.float("alpha", 1.0)?,
            beta: reader.float("beta", 1.0)?,
            trans_a: reader.flag("transA", false)?,
            trans_b: reader.flag("transB", false)?,
        }))
    }
}

impl Op for Gemm {
    fn name(&self) -> &str {
        "Gemm"
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("alpha".into(), Attr::Float(self.alpha)),
            ("beta".into(), Attr::Float(self.beta)),
            ("transA".into(), Attr::Int(self.trans_a.into())),
            ("transB".into(), Attr::Int(self.trans_b.into())),
        ]
    }

    /// `a: T[M, K], b: T[K, N], c: T[..]` (or transposed) gives `T[M, N]`; `c` repeats to it.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Gemm", inputs, 2, 3)?;
        let (a, b) = (need("Gemm", inputs, 0)?.ty, need("Gemm", inputs, 1)?.ty);
        let matrix = |ty: &Type, index, trans: bool| match ty.shape() {
            None => Ok([Dim::Unknown, Dim::Unknown]),
            Some([x, y]) => Ok(if trans { [y.clone(), x.clone()] } else { [x.clone(), y.clone()] }),
            Some(it) => {
                let (op, want) = ("Gemm".into(), "2".into());
                Err(TypeError::Rank { op, index, want, got: it.len() })
            }
        };
        let ([m, k], [k2, n]) = (matrix(a, 0, self.trans_a)?, matrix(b, 1, self.trans_b)?);
        if let (Some(x), Some(y)) = (k.known(), k2.known())
            && x != y
        {
            return Err(TypeError::shapes("Gemm", &[m, k], &[k2, n]));
        }
        let dtype = a.dtype().or(b.dtype());
        Ok(vec![Type::partial(dtype, Some(vec![m, n]))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Gemm", inputs, 2, 3)?;
        let (a, b) = (need("Gemm", inputs, 0)?, need("Gemm", inputs, 1)?);
        let c = optional(inputs, 2);
        let types = self.infer(
            &[Some(&Type::of(a)), Some(&Type::of(b))]
                .map(|ty| ty.map(|ty| Input { ty, value: None })),
            1,
        )?;
        let [m, n] = types[0].known_dims().and_then(|it| it.try_into().ok()).unwrap_or_default();
        let k = a.dims()[usize::from(!self.trans_a)];
        if broadcast::sizes("Gemm", &[&[m, n], c.map_or(&[], Tensor::dims)])? != [m, n] {
            return Err(TypeError::other("Gemm", "C does not repeat to the result").into());
        }
        let dtype = a.dtype();
        if b.dtype() != dtype || c.is_some_and(|it| it.dtype() != dtype) {
            return Err(wrong_type("Gemm", b.dtype()));
        }
        let out = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                let values = (a.to_f32()?, b.to_f32()?, c.map(Tensor::to_f32).transpose()?);
                let mut out = cx.pool.take(m * n)?;
                self.single([m, k, n], &values.0, &values.1, &mut out);
                if let (Some(c), Some(values)) = (c, values.2) {
                    let product = cx.pool.tensor(vec![m, n], out)?;
                    let (walk, beta) = (Walk::new(&[m, n], [&[m, n], c.dims()]), self.beta);
                    out = cx.pool.take(m * n)?;
                    zip_fast(&walk, &product.to_f32()?, &values, &mut out, |x, c| x + beta * c);
                }
                narrow("Gemm", cx, dtype, &[m, n], out)?
            }
            _ => with_number!(dtype, T => {
                let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
                let mut out = vec![T::default(); m * n];
                self.plain([m, k, n], &a, &b, &mut out);
                if let Some(c) = c {
                    let beta = T::of_f64(self.beta.into());
                    let scaled: Vec<T> = c.as_slice::<T>()?.iter().map(|c| c.mul(beta)).collect();
                    let walk = Walk::new(&[m, n], [&[m, n], c.dims()]);
                    let product = out.clone();
                    zip(&walk, &product, &scaled, &mut out, T::add);
                }
                Tensor::from_vec(vec![m, n], out)?
            }, other => return Err(wrong_type("Gemm", other))),
        };
        Ok(vec![out])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::gemm(*self, b, io, dy)
    }
}

impl Gemm {
    fn single(&self, [m, k, n]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        if m == 1 && self.alpha == 1.0 && !self.trans_b {
            return gemv(a, b, n, out);
        }
        let a = if self.trans_a { Mat::new(a, k, m).t() } else { Mat::new(a, m, k) };
        let b = if self.trans_b { Mat::new(b, n, k).t() } else { Mat::new(b, k, n) };
        let mut out = MatMut::new(out, m, n);
        if m.saturating_mul(n).saturating_mul(k) < SMALL {
            product(&mut out, a, b, self.alpha);
        } else {
            par_product(out, a, b, self.alpha);
        }
    }

    fn plain<T: Number>(&self, [m, k, n]: [usize; 3], a: &[T], b: &[T], out: &mut [T]) {
        let alpha = T::of_f64(self.alpha.into());
        let at = |row: usize, p: usize| if self.trans_a { a[p * m + row] } else { a[row * k + p] };
        let bt = |p: usize, col: usize| if self.trans_b { b[col * k + p] } else { b[p * n + col] };
        for (index, out) in out.iter_mut().enumerate() {
            let (row, col) = (index / n, index % n);
            let sum = (0..k).fold(T::default(), |sum, p| sum.add(at(row, p).mul(bt(p, col))));
            *out = sum.mul(alpha);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|it| ((it * 37 + 11) % 64) as f32 / 8.0 - 4.0).collect()
    }

    fn tensor(dims: &[usize]) -> Tensor {
        Tensor::from_vec(dims.to_vec(), values(dims.iter().product())).unwrap()
    }

    fn wide(x: &Tensor) -> Tensor {
        let values = x.to_f32().unwrap().iter().map(|&it| f64::from(it)).collect();
        Tensor::from_vec::<f64>(x.dims().to_vec(), values).unwrap()
    }

    fn narrowed(x: &Tensor) -> Vec<f32> {
        x.to_f32().unwrap().into_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn single_equals_double(
            m in 1usize..140, n in 1usize..70, k in 0usize..30, batch in 1usize..4,
            ones in 0u8..3, ranks in 0u8..4,
        ) {
            let a_batch = if ones == 1 { 1 } else { batch };
            let b_batch = if ones == 2 { 1 } else { batch };
            let a = if ranks == 1 { vec![k] } else { vec![a_batch, 1, m, k] };
            let b = match ranks { 2 => vec![k], 3 => vec![k, n], _ => vec![b_batch, k, n] };
            let (a, b) = (tensor(&a), tensor(&b));
            let cx = EvalCx::default();
            // All terms are multiples of 1/64 and small: sums are exact.
            let got = matmul("MatMul", &cx, &a, &b).unwrap();
            let want = matmul("MatMul", &cx, &wide(&a), &wide(&b)).unwrap();
            prop_assert_eq!(got.dims(), want.dims());
            prop_assert_eq!(narrowed(&got), narrowed(&want));

            let gemm = Gemm { alpha: 2.0, beta: 0.5, trans_a: ones == 1, trans_b: ones == 2 };
            let a = tensor(&if gemm.trans_a { [k, m] } else { [m, k] });
            let b = tensor(&if gemm.trans_b { [n, k] } else { [k, n] });
            let c = tensor(&[n]);
            let got = gemm.eval(&cx, &[Some(&a), Some(&b), Some(&c)], 1).unwrap();
            let wide = [wide(&a), wide(&b), wide(&c)];
            let want = gemm.eval(&cx, &wide.each_ref().map(Some), 1).unwrap();
            prop_assert_eq!(narrowed(&got[0]), narrowed(&want[0]));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let shapes: [(&[usize], &[usize]); 4] = [
            (&[300, 700], &[700, 500]),
            (&[1, 1500], &[1500, 900]),
            (&[3, 260, 64], &[3, 64, 300]),
            (&[2, 9, 640], &[640, 333]),
        ];
        let run = |threads: usize| -> Vec<Tensor> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let make = |(a, b): (&[usize], &[usize])| {
                    let scale = |it: &Tensor| {
                        let values = it.to_f32().unwrap().iter().map(|it| it * 0.123).collect();
                        Tensor::from_vec::<f32>(it.dims().to_vec(), values).unwrap()
                    };
                    let (a, b) = (scale(&tensor(a)), scale(&tensor(b)));
                    matmul("MatMul", &EvalCx::default(), &a, &b).unwrap()
                };
                shapes.into_iter().map(make).collect()
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }

    #[test]
    fn shapes_that_do_not_fit() {
        let cx = EvalCx::default();
        assert!(matmul("MatMul", &cx, &tensor(&[2, 3]), &tensor(&[2, 3])).is_err());
        assert!(matmul("MatMul", &cx, &tensor(&[2, 2, 3]), &tensor(&[3, 3, 2])).is_err());
        assert!(matmul("MatMul", &cx, &tensor(&[]), &tensor(&[1])).is_err());
        let gemm = Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
        let (a, b, c) = (tensor(&[2, 3]), tensor(&[3, 4]), tensor(&[3]));
        assert!(gemm.eval(&cx, &[Some(&a), Some(&b), Some(&c)], 1).is_err());
    }
}
