//! `ai.qcc.MatMulQ2` to `MatMulQ8`, version 1: a product with a weight at its true width.
//!
//! `Y = A * deq(B)'`, `deq = (code - zero) * scale`. The name holds the bits. B is
//! `u8[N, blocks, block_size * bits / 8]`, see `qcc_quant::layout::dense`; scales and zero points
//! are `[N, blocks]`, the latter bytes that are not packed; `MatMulQ<b>Sym` has none, they are then
//! `2^(bits - 1)`. Models that use these operators carry a function body of standard operators for each.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_quant::layout::dense::dense_bits;
use qcc_tensor::Tensor;

use crate::coded_rows::{CodedRows, Zeros};
use crate::nbits::{multiply, product_type, size};
use crate::operands::{count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

/// Domain of the operators of this file.
pub const DOMAIN: &str = "ai.qcc";

/// For each width from 2 bits on, the name with zero points and the one without.
const NAMES: [[&str; 2]; 7] = [
    ["MatMulQ2", "MatMulQ2Sym"],
    ["MatMulQ3", "MatMulQ3Sym"],
    ["MatMulQ4", "MatMulQ4Sym"],
    ["MatMulQ5", "MatMulQ5Sym"],
    ["MatMulQ6", "MatMulQ6Sym"],
    ["MatMulQ7", "MatMulQ7Sym"],
    ["MatMulQ8", "MatMulQ8Sym"],
];

const fn def(bits: usize, sym: usize) -> OpDef {
    OpDef { domain: DOMAIN, name: NAMES[bits - 2][sym], parse: MatMulQ::parse }
}

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    def(2, 0),
    def(2, 1),
    def(3, 0),
    def(3, 1),
    def(4, 0),
    def(4, 1),
    def(5, 0),
    def(5, 1),
    def(6, 0),
    def(6, 1),
    def(7, 0),
    def(7, 1),
    def(8, 0),
    def(8, 1),
];

/// A product with a weight of 2 to 8 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMulQ {
    /// Width of a code.
    pub bits: u8,
    /// Whether it has no zero points: they are then `2^(bits - 1)`.
    pub is_symmetric: bool,
    /// Inputs of the product.
    pub k: usize,
    /// Outputs of the product.
    pub n: usize,
    /// Codes that share a scale, along K: a multiple of 8.
    pub block_size: usize,
}

impl MatMulQ {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let index = NAMES.iter().position(|it| it.contains(&reader.op()));
        let bits = index.map_or(8, |it| it as u8 + 2);
        let is_symmetric = reader.op().ends_with("Sym");
        let block_size = size(reader, "block_size")?;
        if !block_size.is_multiple_of(8) {
            return Err(reader.error("block_size", "is not a multiple of 8"));
        }
        Ok(Arc::new(Self {
            bits,
            is_symmetric,
            k: size(reader, "K")?,
            n: size(reader, "N")?,
            block_size,
        }))
    }
}

impl Op for MatMulQ {
    fn name(&self) -> &str {
        let names = NAMES.get(usize::from(self.bits).wrapping_sub(2));
        names.map_or("MatMulQ", |it| it[usize::from(self.is_symmetric)])
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
        let n = if self.is_symmetric { 3 } else { 4 };
        count(self.name(), inputs, n, n)?;
        Ok(vec![product_type(self.name(), need(self.name(), inputs, 0)?.ty, self.k, self.n)?])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let op = self.name();
        let (codes, scales) = (need(op, inputs, 1)?, need(op, inputs, 2)?);
        let bits = dense_bits(self.bits);
        let row_bytes = self.k.div_ceil(self.block_size).checked_mul(self.block_size / 8);
        let row_bytes = row_bytes.and_then(|it| it.checked_mul(usize::from(bits)));
        let rows = CodedRows {
            bits,
            n: self.n,
            k: self.k,
            block: self.block_size,
            row_bytes: row_bytes.ok_or_else(|| TypeError::other(op, "K is too large"))?,
            codes: codes.bytes(),
            scales: scales.to_f32()?,
            zeros: match optional(inputs, 3) {
                None => Zeros::All(f32::from(1u8 << (self.bits - 1))),
                Some(it) => Zeros::Each(it.to_f32()?),
            },
            outliers: None,
        };
        Ok(vec![multiply(op, cx, need(op, inputs, 0)?, &rows, None)?])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qcc_quant::layout::Dense;

    use super::*;

    fn op(bits: u8, is_symmetric: bool, (n, k): (usize, usize), block: usize) -> OpRef {
        let it = MatMulQ { bits, is_symmetric, k, n, block_size: block };
        let again = crate::parse(DOMAIN, it.name(), 1, it.attrs()).unwrap();
        assert_eq!(again.is(), Some(&it));
        again
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_sum_of_its_terms(
            bits in 2u8..=8, k in 1usize..70, n in 1usize..40, eights in 1usize..4, has_zeros: bool,
        ) {
            let block = 8 * eights;
            let layout = Dense::new(n, k, bits, block).unwrap();
            let blocks = layout.blocks();
            let middle = 1u8 << (bits - 1);
            let code = |i: usize| (i.wrapping_mul(i + 7) >> 2) as u8 & (u8::MAX >> (8 - bits));
            let codes: Vec<u8> = (0..n * k).map(code).collect();
            let zeros: Vec<u8> =
                (0..n * blocks).map(|it| if has_zeros { code(it + 3) } else { middle }).collect();
            let mut bytes = vec![0; layout.bytes()];
            layout.pack(&codes, &zeros, &mut bytes);
            let scales: Vec<f32> = (0..n * blocks).map(|it| 0.5 + (it % 3) as f32).collect();
            let a: Vec<f32> = (0..2 * k).map(|it| (it % 5) as f32 - 2.0).collect();
            let b = Tensor::from_vec(vec![n, blocks, bytes.len() / n / blocks], bytes).unwrap();
            let s = Tensor::from_vec(vec![n, blocks], scales.clone()).unwrap();
            let z = Tensor::from_vec(vec![n, blocks], zeros.clone()).unwrap();
            let x = Tensor::from_vec(vec![1, 2, k], a.clone()).unwrap();
            let inputs = [Some(&x), Some(&b), Some(&s), has_zeros.then_some(&z)];
            let inputs = if has_zeros { &inputs[..] } else { &inputs[..3] };
            let it = op(bits, !has_zeros, (n, k), block);
            let y = it.eval(&EvalCx::default(), inputs, 1).unwrap();
            prop_assert_eq!(y[0].dims(), [1, 2, n]);
            let got = y[0].to_f32().unwrap();
            for m in 0..2 {
                for row in 0..n {
                    // Terms are multiples of 1/2: the sum is exact in any order.
                    let term = |col: usize| {
                        let at = row * blocks + col / block;
                        let q = f32::from(codes[row * k + col]) - f32::from(zeros[at]);
                        a[m * k + col] * q * scales[at]
                    };
                    prop_assert_eq!(got[m * n + row], (0..k).map(term).sum::<f32>());
                }
            }
        }
    }

    #[test]
    fn zero_rows_and_wrong_sizes() {
        let it = op(3, true, (2, 8), 8);
        let a = Tensor::from_vec(vec![0, 8], Vec::<f32>::new()).unwrap();
        let b = Tensor::from_vec(vec![2, 1, 3], vec![0u8; 6]).unwrap();
        let s = Tensor::from_vec(vec![2, 1], vec![1f32; 2]).unwrap();
        let y = it.eval(&EvalCx::default(), &[Some(&a), Some(&b), Some(&s)], 1).unwrap();
        assert_eq!(y[0].dims(), [0, 2]);
        assert!(it.eval(&EvalCx::default(), &[Some(&a), Some(&s), Some(&s)], 1).is_err());
    }
}
