//! Rounding column by column with feedback of the errors made so far.
//!
//! With `H = T T^T`, T upper triangular, the error of one row is
//! `E H E^T = sum_j T_jj^2 (E_j + c_j)^2`, `c_j = sum_{i < j} E_i T_ij / T_jj`, E = W_quantized - W.
//! So column j is rounded at `w_j - c_j`. That is the update of GPTQ, which subtracts
//! `(w_i - q_i) U_ij / U_ii` with `H^-1 = U^T U`, `U = T^-1`, without the inverse.
//!
//! The grid of a group is chosen when its first column is reached: searched for the weights as they
//! would then be best without rounding, the error of weight j counting `T_jj^2`, and then
//! stretched by the one of some factors that makes the error of the group least when it is rounded
//! with feedback. The feedback widens the distribution of what is rounded, so that a grid as
//! tight as is best for the weights alone would clip too much.

use rayon::prelude::*;

use crate::{
    cholesky::upper_factor,
    chunks::Scratch,
    fused::{Kernel, add_scaled, dispatch},
    gram::Damped,
    matmul::{Packed, matmul},
    quantize::RowOut,
    spec::WeightSpec,
};

/// Columns rounded between two products, at most.
const BLOCK: usize = 128;

/// Chooses the grid of a group: `choose(weights, importance, out)` sets scale and zero point; the
/// codes it may set are overwritten.
pub(crate) type Choose<'a> = &'a (dyn Fn(&[f32], &[f32], RowOut<'_>) + Sync);

/// How the grids of groups are found.
#[derive(Clone, Copy)]
pub(crate) struct Grids<'a> {
    pub(crate) choose: Choose<'a>,
    pub(crate) stretch: Stretch,
}

/// Whether the chosen scale is final.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// As chosen.
    #[cfg_attr(not(test), expect(dead_code, reason = "the paper's choice, for comparison"))]
    None,
    /// The best of some multiples of it, by rounding the group with each.
    Tried,
}

/// Multiples of a scale that are tried lie between these; 1 is among them.
const MULTIPLES: std::ops::Range<f32> = 0.85..1.65;

/// T and what is derived from it, for groups of one size.
pub(crate) struct Feedback {
    k: usize,
    group: usize,
    /// `T_ij / T_jj`, `[k][k]`.
    t: Vec<f32>,
    /// `t` of the columns of each group transposed: that of columns i < j of one group is at
    /// `[j][i - first]` of `[k][group]`.
    within: Vec<f32>,
    /// `T_jj^2`, `[k]`.
    importance: Vec<f32>,
    /// Columns rounded between two products; a block holds whole groups or part of one.
    blocks: Vec<Columns>,
    /// Groups longer than a block.
    groups: Vec<Columns>,
}

/// Some columns of `t` as the right operand of a product, down to the diagonal.
struct Columns {
    left: usize,
    right: usize,
    above: Packed,
}

impl Feedback {
    /// `None` if H is not positive definite. Cost K^3 / 3 multiply-adds in f64.
    pub(crate) fn new(h: &Damped, spec: &WeightSpec) -> Option<Self> {
        let (k, group) = (h.k, spec.group.len(h.k));
        let factor = upper_factor(&h.dense, k)?;
        let diag: Vec<f64> = (0..k).map(|j| factor[j * k + j]).collect();
        let t: Vec<f32> =
            factor.par_iter().enumerate().map(|(at, t)| (t / diag[at % k]) as f32).collect();
        let mut within = vec![0.0; k * group];
        within.par_chunks_exact_mut(group).enumerate().for_each(|(j, line)| {
            for (i, value) in (j / group * group..j).zip(line) {
                *value = t[i * k + j];
            }
        });
        let pack = |left: usize, right: usize| {
            let above = Packed::new(left, right - left, |i, j| t[i * k + left + j]);
            Columns { left, right, above }
        };
        let cut = |left: usize, right: usize, step: usize| {
            (left..right).step_by(step).map(move |left| (left, right.min(left + step)))
        };
        let blocks: Vec<_> = if group <= BLOCK {
            cut(0, k, BLOCK / group * group).collect()
        } else {
            cut(0, k, group).flat_map(|(left, right)| cut(left, right, BLOCK)).collect()
        };
        let groups: Vec<_> = cut(0, k, group).filter(|_| group > BLOCK).collect();
        Some(Self {
            k,
            group,
            within,
            importance: diag.iter().map(|t| (t * t) as f32).collect(),
            blocks: blocks.into_par_iter().map(|(left, right)| pack(left, right)).collect(),
            groups: groups.into_par_iter().map(|(left, right)| pack(left, right)).collect(),
            t,
        })
    }

    /// Rounds `weights: f32[rows][k]` on grids chosen by `choose`. `scratch` is left with E.
    pub(crate) fn round(
        &self,
        spec: &WeightSpec,
        weights: &[f32],
        rows: &mut [RowOut<'_>],
        grids: Grids<'_>,
        scratch: &mut Scratch,
    ) {
        let k = self.k;
        let Scratch { e, r: feedback, packing } = scratch;
        let (mut wide, mut target) = (Vec::new(), Vec::new());
        e.clear();
        e.resize(weights.len(), 0.0);
        for block in &self.blocks {
            let (left, width) = (block.left, block.right - block.left);
            products(e, k, block, feedback, packing);
            if let Some(group) = self.groups.get(left / self.group).filter(|g| g.left == left) {
                products(e, k, group, &mut wide, packing);
                let width = group.right - left;
                for (row, c) in rows.iter_mut().zip(wide.chunks_exact(width)).enumerate() {
                    let (out, c) = c;
                    let weights = &weights[row * k + left..][..width];
                    self.choose(left, weights, c, out, (spec, grids), &mut target);
                }
            }
            for (i, (out, c)) in rows.iter_mut().zip(feedback.chunks_exact_mut(width)).enumerate() {
                let columns = i * k + left..i * k + block.right;
                let (weights, e) = (&weights[columns.clone()], &mut e[columns]);
                for first in (0..width).step_by(self.group) {
                    let last = width.min(first + self.group);
                    if self.groups.is_empty() {
                        let (w, c) = (&weights[first..last], &c[first..last]);
                        self.choose(left + first, w, c, out, (spec, grids), &mut target);
                    }
                    let max = f32::from(spec.bits.max_code());
                    let at = (left + first, first..last);
                    dispatch(Round { feedback: self, at, max, weights, out, e, c });
                }
            }
        }
    }

    /// Chooses the grid of the group at column `left`, given the feedback `c` of the columns
    /// before it.
    fn choose(
        &self,
        left: usize,
        weights: &[f32],
        c: &[f32],
        out: &mut RowOut<'_>,
        (spec, grids): (&WeightSpec, Grids<'_>),
        target: &mut Vec<f32>,
    ) {
        target.clear();
        target.extend_from_slice(c);
        // The best errors without rounding are minus the feedback, which includes their own.
        for i in 0..target.len() {
            let (done, rest) = target.split_at_mut(i + 1);
            let t = &self.t[(left + i) * self.k + left..][i + 1..weights.len()];
            dispatch(Subtract { factor: done[i], x: rest, y: t });
        }
        for (target, w) in target.iter_mut().zip(weights) {
            *target = w - *target;
        }
        let group = left / self.group;
        let right = left + weights.len();
        let chosen = RowOut {
            codes: &mut out.codes[left..right],
            scales: &mut out.scales[group..=group],
            zeros: &mut out.zeros[group..=group],
        };
        (grids.choose)(target, &self.importance[left..right], chosen);
        if grids.stretch == Stretch::Tried {
            let (chosen, zero) = (out.scales[group], out.zeros[group]);
            let tried = Tried { feedback: self, spec, left, chosen, zero, weights, c };
            // The longer the group, the flatter its error and the dearer a trial.
            out.scales[group] = match self.group {
                ..=32 => tried.best::<64>(),
                33..=64 => tried.best::<32>(),
                _ => tried.best::<16>(),
            };
        }
    }
}

/// A group whose scale is looked for.
struct Tried<'a> {
    feedback: &'a Feedback,
    spec: &'a WeightSpec,
    /// First column of the group.
    left: usize,
    chosen: f32,
    zero: u8,
    weights: &'a [f32],
    /// Feedback of the columns before the group.
    c: &'a [f32],
}

impl Tried<'_> {
    /// The multiple of the chosen scale with the least error of the group, of N in [`MULTIPLES`].
    fn best<const N: usize>(&self) -> f32 {
        let Self { feedback, spec, left, chosen, zero, weights, c } = *self;
        let scales: [f32; N] = std::array::from_fn(|i| {
            let part = i as f32 / N as f32;
            spec.scale.round(chosen * (MULTIPLES.start + (MULTIPLES.end - MULTIPLES.start) * part))
        });
        let (max, zero) = (f32::from(spec.bits.max_code()), f32::from(zero));
        let errors = dispatch(Trial { feedback, left, scales, zero, max, weights, c });
        let best = errors.iter().zip(scales).min_by(|a, b| a.0.total_cmp(b.0));
        best.map_or(chosen, |(_, scale)| scale)
    }
}

/// `out[rows][width] = E t` for some columns.
fn products(e: &[f32], k: usize, columns: &Columns, out: &mut Vec<f32>, packing: &mut Vec<f32>) {
    let width = columns.right - columns.left;
    out.clear();
    out.resize(e.len() / k * width, 0.0);
    matmul(|i, p| e[i * k + p], &columns.above, width, out, packing);
}

/// `x -= factor * y`.
struct Subtract<'a> {
    factor: f32,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Subtract<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        add_scaled(self.x, -self.factor, self.y);
    }
}

/// Rounds some columns of one group of a row and feeds their errors to the rest of the block.
struct Round<'a, 'o> {
    feedback: &'a Feedback,
    /// First column, and the columns within the block.
    at: (usize, std::ops::Range<usize>),
    max: f32,
    weights: &'a [f32],
    out: &'a mut RowOut<'o>,
    e: &'a mut [f32],
    c: &'a mut [f32],
}

impl Kernel for Round<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { feedback, at: (column, range), max, weights, out, e, c } = self;
        let group = column / feedback.group;
        let (scale, zero) = (out.scales[group], f32::from(out.zeros[group]));
        for (column, i) in (column..).zip(range) {
            let target = (weights[i] - c[i]) / scale;
            let code = (target.round_ties_even() + zero).clamp(0.0, max);
            out.codes[column] = code as u8;
            e[i] = scale * (code - zero) - weights[i];
            let t = &feedback.t[column * feedback.k + column - i..][..c.len()];
            add_scaled(&mut c[i + 1..], e[i], &t[i + 1..]);
        }
    }
}

/// The error of a group rounded with feedback at each of N scales.
struct Trial<'a, const N: usize> {
    feedback: &'a Feedback,
    /// First column of the group.
    left: usize,
    scales: [f32; N],
    zero: f32,
    max: f32,
    weights: &'a [f32],
    /// Feedback of the columns before the group.
    c: &'a [f32],
}

impl<const N: usize> Kernel for Trial<'_, N> {
    type Output = [f32; N];
    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { feedback, left, scales, zero, max, weights, c } = self;
        let inverses = scales.map(|s| 1.0 / s);
        let mut errors = [0.0; N];
        let mut done: Vec<[f32; N]> = Vec::with_capacity(weights.len());
        for ((i, &w), &c) in weights.iter().enumerate().zip(c) {
            let column = left + i;
            let mut sums = [c; N];
            for (&t, e) in feedback.within[column * feedback.group..].iter().zip(&done) {
                for (sum, &e) in sums.iter_mut().zip(e) {
                    *sum = t.mul_add(e, *sum);
                }
            }
            let mut e = [0.0; N];
            for l in 0..N {
                let code = ((w - sums[l]) * inverses[l]).round_ties_even() + zero;
                let code = if code < 0.0 { 0.0 } else { code };
                let code = if code > max { max } else { code };
                e[l] = scales[l] * (code - zero) - w;
                let error = e[l] + sums[l];
                errors[l] += feedback.importance[column] * error * error;
            }
            done.push(e);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chunks::split_rows, codes::Codes, gram::tests::Problem, quantize::RowOut,
        testing::rtn_groups,
    };

    /// The paper's algorithm in f64 with an explicit inverse: codes and scales of one row.
    fn gptq_by_inverse(h: &Damped, spec: &WeightSpec, row: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let k = h.k;
        // inverse = H^-1 by Gauss and Jordan.
        let mut a: Vec<Vec<f64>> = (0..k)
            .map(|i| {
                let unit = (0..k).map(|j| f64::from(u8::from(i == j)));
                h.row(i).iter().map(|&h| f64::from(h)).chain(unit).collect()
            })
            .collect();
        for p in 0..k {
            let pivot = a[p][p];
            a[p].iter_mut().for_each(|x| *x /= pivot);
            let line = a[p].clone();
            for (i, row) in a.iter_mut().enumerate().filter(|(i, _)| *i != p) {
                let factor = row[p];
                assert!(i != p);
                row.iter_mut().zip(&line).for_each(|(x, y)| *x -= factor * y);
            }
        }
        // U upper with U^T U = inverse.
        let mut u = vec![vec![0.0f64; k]; k];
        for i in 0..k {
            for j in i..k {
                let sum: f64 = (0..i).map(|p| u[p][i] * u[p][j]).sum();
                let rest = a[i][k + j] - sum;
                u[i][j] = if i == j { rest.sqrt() } else { rest / u[i][i] };
            }
        }
        let size = spec.group.len(k);
        let mut w: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let (mut codes, mut scales) = (vec![0; k], vec![]);
        let (mut scale, mut zero) = ([0.0f32], [0u8]);
        for j in 0..k {
            if j % size == 0 {
                let group: Vec<f32> = w[j..k.min(j + size)].iter().map(|&w| w as f32).collect();
                let codes = &mut codes[j..k.min(j + size)];
                let out = RowOut { codes, scales: &mut scale, zeros: &mut zero };
                rtn_groups(&group, group.len(), spec, out);
                scales.push(scale[0]);
            }
            let (s, z) = (f64::from(scale[0]), f64::from(zero[0]));
            let code = (w[j] / s).round_ties_even() + z;
            let code = code.clamp(0.0, f64::from(spec.bits.max_code()));
            codes[j] = code as u8;
            let error = (w[j] - s * (code - z)) / u[j][j];
            for i in j..k {
                w[i] -= error * u[j][i];
            }
        }
        (codes, scales)
    }

    #[test]
    fn is_gptq_without_the_inverse() {
        let problem = Problem::new(3, 150, 400, 0.9);
        let h = Damped::new(&problem.gram, Some(0.01)).unwrap();
        for mut spec in problem.specs() {
            spec.scale = crate::spec::ScaleType::BF16; // so that the last bit seldom counts
            let mut ours = Codes::zeroed(3, h.k, spec);
            let groups = ours.groups();
            let Codes { codes, scales, zeros, .. } = &mut ours;
            let mut rows = split_rows(codes, scales, zeros, h.k, groups);
            Feedback::new(&h, &spec).unwrap().round(
                &spec,
                &problem.weights,
                &mut rows,
                Grids {
                    choose: &|w, _, out| rtn_groups(w, w.len(), &spec, out),
                    stretch: Stretch::None,
                },
                &mut Scratch::default(),
            );
            for (row, weights) in rows.iter().zip(problem.weights.chunks(h.k)) {
                let (codes, scales) = gptq_by_inverse(&h, &spec, weights);
                assert_eq!(row.scales, scales, "{spec:?}");
                assert_eq!(row.codes, codes, "{spec:?}");
            }
        }
    }
}
