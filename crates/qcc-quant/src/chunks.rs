//! Rows of a weight solved a few at a time against the second moments of its inputs.

use rayon::prelude::*;

use crate::{
    codes::{Codes, decode},
    gram::Damped,
    matmul::matmul,
    quantize::RowOut,
    rows::WeightRows,
    spec::WeightSpec,
};

/// Rows that one task works on. Enough that products with H are fast.
pub(crate) const ROWS: usize = 48;

/// Buffers of one task, reused from chunk to chunk.
#[derive(Default)]
pub(crate) struct Scratch {
    /// E = W_quantized - W, `[rows][k]`.
    pub(crate) e: Vec<f32>,
    /// E H, `[rows][k]`.
    pub(crate) r: Vec<f32>,
    /// Of [`matmul`].
    pub(crate) packing: Vec<f32>,
}

/// What is done with the rows of a chunk: `solve(weights, rows, scratch)`.
pub(crate) type Solve<'a> = &'a (dyn Fn(&[f32], &mut [RowOut<'_>], &mut Scratch) + Sync);

/// Calls `solve(weights, rows, scratch)` for chunks of rows in parallel, `weights: f32[rows][k]`;
/// `rows` start as they are in `codes`.
pub(crate) fn in_chunks(rows: &WeightRows<'_>, codes: &mut Codes, solve: Solve<'_>) {
    let (k, groups) = (codes.k, codes.groups());
    if codes.n == 0 || k == 0 {
        return;
    }
    codes
        .codes
        .par_chunks_mut(ROWS * k)
        .zip(codes.scales.par_chunks_mut(ROWS * groups))
        .zip(codes.zeros.par_chunks_mut(ROWS * groups))
        .enumerate()
        .for_each_init(
            || (Vec::new(), Scratch::default()),
            |(weights, scratch), (chunk, ((codes, scales), zeros))| {
                weights.resize(codes.len(), 0.0);
                rows.read(chunk * ROWS, weights);
                let mut outs = split_rows(codes, scales, zeros, k, groups);
                solve(weights, &mut outs, scratch);
            },
        );
}

/// The rows of `codes: [rows][k]`, `scales: [rows][groups]`, `zeros: [rows][groups]`.
pub(crate) fn split_rows<'a>(
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    zeros: &'a mut [u8],
    k: usize,
    groups: usize,
) -> Vec<RowOut<'a>> {
    codes
        .chunks_exact_mut(k)
        .zip(scales.chunks_exact_mut(groups))
        .zip(zeros.chunks_exact_mut(groups))
        .map(|((codes, scales), zeros)| RowOut { codes, scales, zeros })
        .collect()
}

impl Scratch {
    /// Sets E and E H for the codes of `rows`.
    pub(crate) fn set(
        &mut self,
        h: &Damped,
        spec: &WeightSpec,
        weights: &[f32],
        rows: &[RowOut<'_>],
    ) {
        let (k, size) = (h.k, spec.group.len(h.k));
        self.e.clear();
        for (out, weights) in rows.iter().zip(weights.chunks_exact(k)) {
            let groups = out.codes.chunks(size).zip(weights.chunks(size));
            for ((codes, weights), (&scale, &zero)) in
                groups.zip(out.scales.iter().zip(&*out.zeros))
            {
                self.e.extend(codes.iter().zip(weights).map(|(&q, w)| decode(q, scale, zero) - w));
            }
        }
        self.multiply(h);
    }

    /// Sets E H for the present E.
    pub(crate) fn multiply(&mut self, h: &Damped) {
        let Self { e, r, packing } = self;
        r.clear();
        r.resize(e.len(), 0.0);
        matmul(|i, p| e[i * h.k + p], &h.packed, h.k, r, packing);
    }

    /// `E H E^T` of each row for E and E H as they are set, in f64.
    pub(crate) fn errors(&self, k: usize) -> impl Iterator<Item = f64> {
        let rows = self.e.chunks_exact(k).zip(self.r.chunks_exact(k));
        rows.map(|(e, r)| e.iter().zip(r).map(|(&e, &r)| f64::from(e) * f64::from(r)).sum())
    }
}
