//! Codes and scales improved by exact line searches on `E H E^T`, E = W_quantized - W of one row.
//!
//! With R = E H kept up to date, a step of `d` codes at weight j changes the error by
//! `2 d s R_j + d^2 s^2 H_jj`, and the best step is the nearest integer to `-R_j / (s H_jj)`.
//! Steps of one code at two weights at once ([`pairs`](crate::pairs)) leave the minima in which
//! correlated inputs lock single steps. The best scale of a group with integers
//! `q = code - zero` is `s - (q . R) / (q H q)`, rounded to the stored type. A change is made only
//! if the error falls, so the sweeps end.

use crate::{
    chunks::Scratch,
    fused::{Kernel, add_scaled, dispatch, dot},
    gram::Damped,
    pairs::Pairs,
    quantize::RowOut,
    spec::WeightSpec,
};

/// A code changes only if the error falls by more than this part of `s^2 H_jj`: a smaller fall may
/// be rounding of R, and sweeps could go in circles.
const LEAST_GAIN: f32 = 1e-4;

/// A scale changes by no less than this part of itself, for the same reason.
const LEAST_SCALE_STEP: f32 = 1e-3;

/// One row between sweeps.
pub(crate) struct Row<'a, 'o> {
    pub(crate) h: &'a Damped,
    pub(crate) spec: &'a WeightSpec,
    /// E H, `[k]`, kept up to date.
    pub(crate) r: &'a mut [f32],
    pub(crate) out: &'a mut RowOut<'o>,
}

/// Which steps are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// Single codes and scales.
    Single,
    /// Pairs of codes too: lower error for K operations more per weight and sweep.
    Pairs,
}

/// Improves `rows` of `weights: f32[rows][k]` by at most `sweeps` sweeps each; `scratch` holds
/// stale values afterwards.
pub(crate) fn descend(
    h: &Damped,
    spec: &WeightSpec,
    weights: &[f32],
    rows: &mut [RowOut<'_>],
    (moves, sweeps): (Moves, usize),
    scratch: &mut Scratch,
) {
    if sweeps == 0 {
        return;
    }
    scratch.set(h, spec, weights, rows);
    let mut pairs = Pairs::default();
    for (out, r) in rows.iter_mut().zip(scratch.r.chunks_exact_mut(h.k)) {
        let mut row = Row { h, spec, r, out };
        for _ in 0..sweeps {
            let mut changed = dispatch(Codes(&mut row)) + dispatch(Scales(&mut row));
            if moves == Moves::Pairs {
                changed += pairs.sweep(&mut row);
            }
            if changed == 0 {
                break;
            }
        }
    }
}

/// One sweep over the codes of a row; returns how many changed.
struct Codes<'s, 'a, 'o>(&'s mut Row<'a, 'o>);

impl Kernel for Codes<'_, '_, '_> {
    type Output = usize;
    #[inline(always)]
    fn run(self) -> usize {
        let Row { h, spec, r, out } = self.0;
        let size = spec.group.len(h.k);
        let max = f32::from(spec.bits.max_code());
        let mut changed = 0;
        for (g, (codes, &scale)) in out.codes.chunks_mut(size).zip(&*out.scales).enumerate() {
            for (j, code) in (g * size..).zip(codes) {
                let row = h.row(j);
                let old = f32::from(*code);
                let step = -r[j] / (row[j] * scale);
                let new = (old + step).round_ties_even().clamp(0.0, max);
                let d = new - old;
                // The fall of the error over s^2 H_jj.
                if d * (2.0 * step - d) > LEAST_GAIN {
                    *code = new as u8;
                    add_scaled(r, d * scale, row);
                    changed += 1;
                }
            }
        }
        changed
    }
}

/// One sweep over the scales of a row; returns how many changed.
struct Scales<'s, 'a, 'o>(&'s mut Row<'a, 'o>);

impl Kernel for Scales<'_, '_, '_> {
    type Output = usize;
    #[inline(always)]
    fn run(self) -> usize {
        let Row { h, spec, r, out } = self.0;
        let size = spec.group.len(h.k);
        let mut changed = 0;
        let mut integers = vec![0.0f32; size];
        for (g, codes) in out.codes.chunks(size).enumerate() {
            let columns = g * size..g * size + codes.len();
            let zero = f32::from(out.zeros[g]);
            let integers = &mut integers[..codes.len()];
            for (q, &code) in integers.iter_mut().zip(codes) {
                *q = f32::from(code) - zero;
            }
            let slope = dot(integers, &r[columns.clone()]);
            let mut curve = 0.0;
            for (j, &q) in columns.clone().zip(&*integers) {
                curve += q * dot(integers, &h.row(j)[columns.clone()]);
            }
            let old = out.scales[g];
            let best = old - slope / curve;
            // A zero or negative curve makes this NaN, infinite or wrong.
            if !(curve > 0.0 && best.is_finite() && best * old > 0.0) {
                continue;
            }
            let new = spec.scale.round(best);
            let d = new - old;
            if d.abs() > LEAST_SCALE_STEP * old.abs() && d * (2.0 * slope + d * curve) < 0.0 {
                out.scales[g] = new;
                for (j, &q) in columns.zip(&*integers) {
                    add_scaled(r, d * q, h.row(j));
                }
                changed += 1;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chunks::split_rows, codes, gram::tests::Problem, rtn::rtn};

    /// Runs sweeps from rounding to nearest until nothing changes.
    fn descended(problem: &Problem, h: &Damped, spec: &WeightSpec, moves: Moves) -> codes::Codes {
        let mut codes = problem.quantize(|rows| rtn(rows, spec));
        let groups = codes.groups();
        let codes::Codes { codes: q, scales, zeros, .. } = &mut codes;
        let mut rows = split_rows(q, scales, zeros, h.k, groups);
        let mut scratch = Scratch::default();
        descend(h, spec, &problem.weights, &mut rows, (moves, 1000), &mut scratch);
        codes
    }

    #[test]
    fn ends_where_no_step_helps() {
        let problem = Problem::new(4, 40, 300, 0.9);
        let h = Damped::new(&problem.gram, Some(0.01)).unwrap();
        for spec in problem.specs() {
            let before = problem.error(&problem.quantize(|rows| rtn(rows, &spec)));
            let single = descended(&problem, &h, &spec, Moves::Single);
            let pairs = descended(&problem, &h, &spec, Moves::Pairs);
            let (after, pair) = (problem.error(&single), problem.error(&pairs));
            assert!(pair < after && after < before, "{spec:?}: {pair} {after} {before}");
            let (size, groups) = (spec.group.len(40), single.groups());
            for (row, e) in problem.errors(&pairs).iter().enumerate() {
                let e: Vec<f64> = e.iter().map(|&e| f64::from(e)).collect();
                let r = |i: usize| -> f64 {
                    h.row(i).iter().zip(&e).map(|(&h, e)| f64::from(h) * e).sum()
                };
                // Steps of one code that the range allows, as changes of the weight.
                let steps = |i: usize| {
                    let code = pairs.codes[row * 40 + i];
                    let scale = f64::from(pairs.scales[row * groups + i / size]);
                    let up = (code < spec.bits.max_code()).then_some(scale);
                    up.into_iter().chain((code > 0).then_some(-scale))
                };
                let at = |i: usize, j: usize| f64::from(h.row(i)[j]);
                for (i, d) in (0..40).flat_map(|i| steps(i).map(move |d| (i, d))) {
                    let change = 2.0 * d * r(i) + d * d * at(i, i);
                    assert!(change > -1e-2 * d * d * at(i, i), "{spec:?} {i}");
                    for (j, f) in (0..i).flat_map(|j| steps(j).map(move |f| (j, f))) {
                        let other = 2.0 * f * r(j) + f * f * at(j, j) + 2.0 * d * f * at(i, j);
                        let unit = d * d * at(i, i) + f * f * at(j, j);
                        assert!(change + other > -1e-2 * unit, "{spec:?} {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn finds_the_least_squares_scale() {
        // One weight far from its grid: only the scale can help.
        let problem = Problem::of(1, 1, &[2.0, -1.0, 0.5]);
        let h = Damped::new(&problem.gram, Some(0.01)).unwrap();
        let spec = WeightSpec { scale: crate::spec::ScaleType::F32, ..problem.specs()[0] };
        let mut codes = problem.quantize(|rows| rtn(rows, &spec));
        codes.scales[0] *= 0.7;
        codes.codes[0] = 0;
        let codes::Codes { codes: q, scales, zeros, .. } = &mut codes;
        let mut rows = split_rows(q, scales, zeros, 1, 1);
        descend(
            &h,
            &spec,
            &problem.weights,
            &mut rows,
            (Moves::Single, 5),
            &mut Scratch::default(),
        );
        assert!((scales[0] * -8.0 - problem.weights[0]).abs() < 1e-6);
    }
}
