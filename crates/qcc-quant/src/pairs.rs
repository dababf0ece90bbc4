//! Steps of one code at two weights of a row at once.
//!
//! With `a_j = s_j^2 H_jj +- 2 s_j R_j` the change of the error by a step at weight j alone, a step
//! at i and one at j together change it by `a_i + a_j +- 2 s_i s_j H_ij`. Where no single step
//! helps, all a_j are positive, and a pair can help only if `a_i < c s_i^2 H_ii` for one of its
//! two weights, c the correlation of their inputs: only such weights look for a partner, and
//! only in the direction in which the step alone costs less.

use crate::{
    descent::Row,
    fused::{Kernel, add_scaled, dispatch},
};

/// A pair changes only if the error falls by more than this part of `s_i^2 H_ii`.
const LEAST_GAIN: f32 = 1e-3;

const LANES: usize = 16;

/// Buffers of the sweeps, `[k]` each.
#[derive(Default)]
pub(crate) struct Pairs {
    scales: Vec<f32>,
    /// `s_j^2 H_jj`, or [`f32::MAX`] where the code is the largest.
    up: Vec<f32>,
    /// The same for a step down.
    down: Vec<f32>,
}

impl Pairs {
    /// One sweep over a row; returns how many pairs changed.
    pub(crate) fn sweep(&mut self, row: &mut Row<'_, '_>) -> usize {
        let size = row.spec.group.len(row.h.k);
        self.scales.clear();
        for (codes, &scale) in row.out.codes.chunks(size).zip(&*row.out.scales) {
            self.scales.extend(codes.iter().map(|_| scale));
        }
        self.up.resize(row.h.k, 0.0);
        self.down.resize(row.h.k, 0.0);
        for j in 0..row.h.k {
            self.bound(row, j);
        }
        dispatch(Sweep { pairs: self, row })
    }

    /// Sets the costs of steps at weight `j` after its code changed.
    #[inline(always)]
    fn bound(&mut self, row: &Row<'_, '_>, j: usize) {
        let code = row.out.codes[j];
        let cost = self.scales[j] * self.scales[j] * row.h.row(j)[j];
        self.up[j] = if code < row.spec.bits.max_code() { cost } else { f32::MAX };
        self.down[j] = if code > 0 { cost } else { f32::MAX };
    }

    /// Changes the code of weight `j` by `step`, 1 or -1.
    #[inline(always)]
    fn step(&mut self, row: &mut Row<'_, '_>, j: usize, step: f32) {
        row.out.codes[j] = (f32::from(row.out.codes[j]) + step) as u8;
        add_scaled(row.r, step * self.scales[j], row.h.row(j));
        self.bound(row, j);
    }
}

struct Sweep<'s, 'r, 'a, 'o> {
    pairs: &'s mut Pairs,
    row: &'r mut Row<'a, 'o>,
}

impl Kernel for Sweep<'_, '_, '_, '_> {
    type Output = usize;
    #[inline(always)]
    fn run(self) -> usize {
        let Self { pairs, row } = self;
        let mut changed = 0;
        for i in 0..row.h.k {
            let scale = pairs.scales[i];
            let slope = 2.0 * scale * row.r[i];
            let (up, down) = (pairs.up[i] + slope, pairs.down[i] - slope);
            let (cost, step) = if up < down { (up, 1.0) } else { (down, -1.0) };
            let unit = scale * scale * row.h.row(i)[i];
            let factor = step * scale;
            let may_help = cost < row.h.correlation[i] * unit;
            let least = if may_help { least(factor, row.h.row(i), row.r, pairs) } else { f32::MAX };
            if cost + least < -LEAST_GAIN * unit {
                let found = (0..row.h.k).find_map(|j| {
                    let (up, down) = costs(factor, row.h.row(i), row.r, pairs, j);
                    if j == i {
                        None
                    } else if up == least {
                        Some((j, 1.0))
                    } else {
                        (down == least).then_some((j, -1.0))
                    }
                });
                if let Some((j, other)) = found {
                    pairs.step(row, i, step);
                    pairs.step(row, j, other);
                    changed += 1;
                }
            }
        }
        changed
    }
}

/// The change of the error by a step up or down at `j`, given one of `factor = +- s_i` at i, whose
/// own change is left out.
#[inline(always)]
fn costs(factor: f32, h: &[f32], r: &[f32], pairs: &Pairs, j: usize) -> (f32, f32) {
    let slope = 2.0 * (pairs.scales[j] * factor.mul_add(h[j], r[j]));
    (pairs.up[j] + slope, pairs.down[j] - slope)
}

/// The least of [`costs`]. For j = i it is minus the cost of the step at i, as it would be undone,
/// and never the least where a pair helps.
#[inline(always)]
fn least(factor: f32, h: &[f32], r: &[f32], pairs: &Pairs) -> f32 {
    let mut lanes = [f32::MAX; LANES];
    let whole = h.len() / LANES * LANES;
    let chunks = h.as_chunks::<LANES>().0.iter().zip(r.as_chunks::<LANES>().0);
    let scales = pairs.scales.as_chunks::<LANES>().0;
    let bounds = pairs.up.as_chunks::<LANES>().0.iter().zip(pairs.down.as_chunks::<LANES>().0);
    for (((h, r), s), (up, down)) in chunks.zip(scales).zip(bounds) {
        for l in 0..LANES {
            let slope = 2.0 * (s[l] * factor.mul_add(h[l], r[l]));
            let (up, down) = (up[l] + slope, down[l] - slope);
            let less = if up < down { up } else { down };
            lanes[l] = if less < lanes[l] { less } else { lanes[l] };
        }
    }
    let rest = (whole..h.len()).map(|j| {
        let (up, down) = costs(factor, h, r, pairs, j);
        if up < down { up } else { down }
    });
    lanes.into_iter().chain(rest).fold(f32::MAX, |least, x| if x < least { x } else { least })
}
