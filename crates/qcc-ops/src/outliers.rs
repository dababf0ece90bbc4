//! `ai.qcc::MatMulQ<b>Outliers` 1, operators of qcc: `Y = A * W'`, some weights with other scales.
//!
//! `W = (code - 2^(b - 1)) * scale`. The scale is the block's in `S[N, blocks]`, and for outliers the
//! block's in `O[N, blocks]`. `D: u8[..]` says which codes of `B: u8[N, blocks, block_size * b / 8]`
//! are outliers: their places among all codes, filling included, as `qcc_quant::layout::gaps`.
//! The rest is as in [`crate::matmul_q`].

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_quant::layout::Outliers;
use qcc_tensor::{DType, Tensor};

use crate::coded_rows::{CodedRows, Zeros};
use crate::matmul_q::DOMAIN;
use crate::nbits::{multiply, product_type, size};
use crate::operands::{count, need};
use crate::{AttrError, AttrReader, OpDef};

/// Widths of codes, with the names.
const NAMES: [(u8, &str); 6] = [
    (2, "MatMulQ2Outliers"),
    (3, "MatMulQ3Outliers"),
    (4, "MatMulQ4Outliers"),
    (5, "MatMulQ5Outliers"),
    (6, "MatMulQ6Outliers"),
    (8, "MatMulQ8Outliers"),
];

const fn def(idx: usize) -> OpDef {
    OpDef { domain: DOMAIN, name: NAMES[idx].1, parse: MatMulQOutliers::parse }
}

/// The operators of this file.
pub const OPS: &[OpDef] = &[def(0), def(1), def(2), def(3), def(4), def(5)];

/// A product with a weight of 2 to 6 or 8 bits and outliers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMulQOutliers {
    /// Width of a code.
    pub bits: u8,
    /// Inputs of the product.
    pub k: usize,
    /// Outputs of the product.
    pub n: usize,
    /// Codes that share two scales, along K: a multiple of 8.
    pub block_size: usize,
}

impl MatMulQOutliers {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let bits = NAMES.iter().find(|it| it.1 == reader.op()).map_or(8, |it| it.0);
        let block_size = size(reader, "block_size")?;
        if !block_size.is_multiple_of(8) {
            return Err(reader.error("block_size", "is not a multiple of 8"));
        }
        Ok(Arc::new(Self { bits, k: size(reader, "K")?, n: size(reader, "N")?, block_size }))
    }
}

impl Op for MatMulQOutliers {
    fn name(&self) -> &str {
        NAMES.iter().find(|it| it.0 == self.bits).map_or("MatMulQOutliers", |it| it.1)
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        vec![
            ("K".into(), Attr::Int(self.k as i64)),
            ("N".into(), Attr::Int(self.n as i64)),
            ("block_size".into(), Attr::Int(self.block_size as i64)),
        ]
    }

    /// `a: T[.., K]` gives `T[.., N]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 5, 5)?;
        Ok(vec![product_type(self.name(), need(self.name(), inputs, 0)?.ty, self.k, self.n)?])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = self.name();
        let &Self { bits, n, k, block_size: block } = self;
        let row_bytes = k.div_ceil(block).checked_mul(block / 8 * usize::from(bits));
        let rows = CodedRows {
            bits,
            n,
            k,
            block,
            row_bytes: row_bytes.ok_or_else(|| TypeError::other(op, "K is too large"))?,
            codes: need(op, inputs, 1)?.bytes(),
            scales: need(op, inputs, 2)?.to_f32()?,
            zeros: Zeros::All(f32::from(1u8 << (bits - 1))),
            outliers: Some(read((n, k, block), need(op, inputs, 3)?, need(op, inputs, 4)?)?),
        };
        Ok(vec![multiply(op, cx, need(op, inputs, 0)?, &rows, None)?])
    }
}

/// The outliers that operands name: `scales: [n, blocks]`, `places: u8[..]`. Sizes are `n`, `k` and
/// the block.
///
/// # Errors
/// Those of [`Outliers::read`], and tensors of other types.
pub fn read(
    sizes: (usize, usize, usize),
    scales: &Tensor,
    places: &Tensor,
) -> Result<Outliers, EvalError> {
    if places.dtype() != DType::U8 {
        let got = places.dtype().to_string();
        return Err(TypeError::DType { op: "outliers".into(), got }.into());
    }
    let read = Outliers::read(sizes, &scales.to_f32()?, places.bytes());
    read.map_err(|error| TypeError::other("outliers", error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qcc_quant::layout::{Dense, gaps};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_sum_of_its_terms(
            bits in prop::sample::select(vec![2u8, 3, 4, 5, 6, 8]),
            k in 1usize..70, n in 1usize..40, eights in 1usize..4, every in 1usize..40,
        ) {
            let block = 8 * eights;
            let layout = Dense::new(n, k, bits, block).unwrap();
            let (blocks, middle) = (layout.blocks(), 1u8 << (bits - 1));
            let code = |i: usize| (i.wrapping_mul(i + 7) >> 2) as u8 & (u8::MAX >> (8 - bits));
            let codes: Vec<u8> = (0..n * k).map(code).collect();
            let mut bytes = vec![0; layout.bytes()];
            layout.pack(&codes, &vec![middle; n * blocks], &mut bytes);
            let scale = |of: usize, at: usize| of as f32 * 0.5 + (at % 3) as f32;
            let of = |of: usize| -> Vec<f32> { (0..n * blocks).map(|it| scale(of, it)).collect() };
            let is_outlier = |at: usize| at % every == every / 2;
            let places: Vec<u64> = (0..n * k)
                .filter(|it| is_outlier(*it))
                .map(|it| (it / k * blocks * block + it % k) as u64)
                .collect();
            let it = MatMulQOutliers { bits, k, n, block_size: block };
            let op = crate::parse(DOMAIN, it.name(), 1, it.attrs()).unwrap();
            prop_assert_eq!(op.is(), Some(&it));
            let a: Vec<f32> = (0..2 * k).map(|it| (it % 5) as f32 - 2.0).collect();
            let inputs = [
                Tensor::from_vec(vec![1, 2, k], a.clone()).unwrap(),
                Tensor::from_vec(vec![n, blocks, layout.block_bytes()], bytes).unwrap(),
                Tensor::from_vec(vec![n, blocks], of(1)).unwrap(),
                Tensor::from_vec(vec![n, blocks], of(9)).unwrap(),
                Tensor::vector(gaps::pack(&places)),
            ];
            let y = op.eval(&EvalCx::default(), &inputs.each_ref().map(Some), 1).unwrap();
            prop_assert_eq!(y[0].dims(), [1, 2, n]);
            let got = y[0].to_f32().unwrap();
            for m in 0..2 {
                for row in 0..n {
                    // Terms are multiples of 1/2: the sum is exact in any order.
                    let term = |col: usize| {
                        let (at, block) = (row * k + col, row * blocks + col / block);
                        let q = f32::from(codes[at]) - f32::from(middle);
                        a[m * k + col] * q * scale(if is_outlier(at) { 9 } else { 1 }, block)
                    };
                    prop_assert_eq!(got[m * n + row], (0..k).map(term).sum::<f32>());
                }
            }
        }
    }

    #[test]
    fn places_that_are_no_weights_are_refused() {
        let scales = Tensor::from_vec(vec![2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let read = |places: Tensor| super::read((2, 9, 8), &scales, &places);
        assert_eq!(read(Tensor::vector(vec![9u8, 16])).unwrap().len(), 2);
        assert!(read(Tensor::vector(vec![10u8])).is_err(), "filling");
        assert!(read(Tensor::vector(vec![9i32])).is_err(), "no bytes");
    }
}
