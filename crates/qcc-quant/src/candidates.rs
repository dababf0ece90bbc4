//! Grids tried on one group, a lane for each.
//!
//! A grid is an inverse scale t > 0 and a zero point z: `c = clamp(round(w t), -z, M - z)` with
//! `M = 2^bits - 1`. For fixed codes c the weighted error `sum d (w - s c)^2` is least at
//! `s = A / B`, `A = sum d w c`, `B = sum d c^2`, and is `sum d w^2 - A^2 / B` there. So
//! `A^2 / B` ranks grids without a second look at the weights.

use crate::{
    rtn::range,
    simd::{LANES, Vector},
    spec::{Grid, WeightSpec},
};

/// Candidates of the default search, in vectors.
pub(crate) const GRID_VECTORS: usize = 4;
/// One value for each lane.
pub(crate) type Lanes = [f32; LANES];
/// Terms summed in one lane before the partial sum is put away.
const RUN: usize = 256;

/// A group scaled by a power of two so that its largest magnitude lies in `1 .. 2`.
pub(crate) struct Group<'a> {
    /// Weights.
    pub(crate) w: &'a [f32],
    /// What the squared error of each weight counts, above zero.
    pub(crate) d: &'a [f32],
    /// Least weight, or 0 if that is less.
    pub(crate) low: f32,
    /// Greatest weight, or 0 if that is greater.
    pub(crate) high: f32,
    /// What the original weights are divided by.
    pub(crate) unit: f32,
    pub(crate) spec: &'a WeightSpec,
}

/// A grid and what it costs. The scale is above zero; a symmetric grid with a scale below zero
/// is `zero = 2^(bits - 1) - 1`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) scale: f32,
    pub(crate) zero: f32,
    pub(crate) error: f32,
}

impl<'a> Group<'a> {
    /// Scales `w` in place; `None` for a group of zeros.
    #[inline(always)]
    pub(crate) fn new<V: Vector>(
        w: &'a mut [f32],
        d: &'a [f32],
        spec: &'a WeightSpec,
    ) -> Option<Self> {
        let (low, high) = range::<V>(w);
        let magnitude = if -low > high { -low } else { high };
        if magnitude == 0.0 {
            return None;
        }
        // The power of two below the magnitude; subnormal weights keep the least normal one.
        let unit = f32::from_bits(magnitude.to_bits() & 0x7f80_0000).max(f32::MIN_POSITIVE);
        let inverse = 1.0 / unit;
        for w in &mut *w {
            *w *= inverse;
        }
        Some(Self { w, d, low: low * inverse, high: high * inverse, unit, spec })
    }

    /// The scale as it is stored, in units of this group.
    #[inline(always)]
    pub(crate) fn stored(&self, scale: f32) -> f32 {
        self.spec.scale.round(scale * self.unit) * (1.0 / self.unit)
    }

    /// The largest code, M.
    #[inline(always)]
    pub(crate) fn top(&self) -> f32 {
        f32::from(self.spec.bits.max_code())
    }

    /// The zero point of the symmetric grid, H.
    #[inline(always)]
    pub(crate) fn middle(&self) -> f32 {
        f32::from(self.spec.bits.middle())
    }

    /// The inverse scale that spans the group: M / (high - low), or H / max |w|.
    #[inline(always)]
    pub(crate) fn span_inverse(&self) -> f32 {
        match self.spec.grid {
            Grid::Asym => self.top() / (self.high - self.low),
            Grid::Sym => self.middle() / self.high.max(-self.low),
        }
    }

    /// The grid of round to nearest, its error not yet known.
    #[inline(always)]
    pub(crate) fn rtn(&self) -> Candidate {
        let (scale, zero) = match self.spec.grid {
            Grid::Asym => {
                let top = self.top();
                let scale = self.stored((0.5 * self.high - 0.5 * self.low) / (0.5 * top));
                (scale, (-self.low * (1.0 / scale)).min(top).round_ties_even())
            }
            Grid::Sym => {
                let magnitude = self.high.max(-self.low);
                let first = self.w.iter().find(|w| w.abs() == magnitude).is_some_and(|&w| w > 0.0);
                let zero = self.middle() - f32::from(u8::from(first));
                (self.stored(magnitude / self.middle()), zero)
            }
        };
        Candidate { scale, zero, error: f32::INFINITY }
    }

    /// Inverse scales around the spanning one, each with the zero points around the one that
    /// clips both ends alike; for the symmetric grid with either sign of the scale.
    #[inline(always)]
    pub(crate) fn grids(&self) -> [(Lanes, Lanes); GRID_VECTORS] {
        let (first, last) = match self.spec.bits.get() {
            2 => (0.75, 3.0),
            3 => (0.75, 2.0),
            4 => (0.75, 1.75),
            5 => (0.85, 1.5),
            6 => (0.9, 1.3),
            _ => (0.95, 1.15),
        };
        let zeros_each = match self.spec.grid {
            Grid::Asym => 3,
            Grid::Sym => 2,
        };
        let steps = (GRID_VECTORS * LANES).div_ceil(zeros_each) - 1;
        let (span, top) = (self.span_inverse(), self.top());
        let center = 0.5 * self.low + 0.5 * self.high;
        let mut grids = [([0.0; LANES], [0.0; LANES]); GRID_VECTORS];
        for i in 0..GRID_VECTORS * LANES {
            let (step, side) = (i / zeros_each, i % zeros_each);
            let t = span * (first + (last - first) * step as f32 / steps as f32);
            let zero = match self.spec.grid {
                Grid::Sym => self.middle() - side as f32,
                Grid::Asym => {
                    let middle = (0.5 * top - center * t).round_ties_even();
                    (middle + side as f32 - 1.0).clamp(0.0, top)
                }
            };
            grids[i / LANES].0[i % LANES] = t;
            grids[i / LANES].1[i % LANES] = zero;
        }
        grids
    }

    /// A and B of each grid.
    #[inline(always)]
    pub(crate) fn sums<V: Vector, const N: usize>(
        &self,
        grids: &[(Lanes, Lanes); N],
    ) -> [(V, V); N] {
        let bounds = self.bounds::<V, N>(grids);
        let mut total = [(V::splat(0.0), V::splat(0.0)); N];
        for (w, d) in self.w.chunks(RUN).zip(self.d.chunks(RUN)) {
            let mut sums = [(V::splat(0.0), V::splat(0.0)); N];
            for (&w, &d) in w.iter().zip(d) {
                let (dw, d, w) = (V::splat(d * w), V::splat(d), V::splat(w));
                for ((a, b), &(t, low, high)) in sums.iter_mut().zip(&bounds) {
                    let c = w.mul(t).max(low).min(high).round();
                    *a = a.add(dw.mul(c));
                    *b = b.add(d.mul(c.mul(c)));
                }
            }
            for ((a, b), (c, d)) in total.iter_mut().zip(sums) {
                (*a, *b) = (a.add(c), b.add(d));
            }
        }
        total
    }

    /// The error of each grid, as a decoder computes it, for scales (not inverse ones).
    #[inline(always)]
    pub(crate) fn errors<V: Vector>(&self, scales: &Lanes, zeros: &Lanes) -> Lanes {
        let [(t, low, high)] = self.bounds::<V, 1>(&[(scales.map(|s| 1.0 / s), *zeros)]);
        let scales = V::load(scales);
        let mut total = V::splat(0.0);
        for (w, d) in self.w.chunks(RUN).zip(self.d.chunks(RUN)) {
            let mut sum = V::splat(0.0);
            for (&w, &d) in w.iter().zip(d) {
                let w = V::splat(w);
                let c = w.mul(t).max(low).min(high).round();
                let rest = w.sub(scales.mul(c));
                sum = sum.add(V::splat(d).mul(rest.mul(rest)));
            }
            total = total.add(sum);
        }
        total.lanes()
    }

    /// In each lane the best of its `N` grids by A^2 / B, moved to its least-squares scale, rounded
    /// to the stored type, and measured.
    #[inline(always)]
    pub(crate) fn winners<V: Vector, const N: usize>(
        &self,
        grids: &[(Lanes, Lanes); N],
    ) -> [Candidate; LANES] {
        let sums = self.sums::<V, N>(grids);
        let zero = V::splat(0.0);
        let (mut a, mut b, mut gain, mut zeros) = (zero, zero, zero, zero);
        for (&(a_next, b_next), (_, zeros_next)) in sums.iter().zip(grids) {
            let gain_next = a_next.mul(a_next);
            // A^2 / B > best: no division, and false where all codes are 0.
            let (left, right) = (gain_next.mul(b.max(V::splat(1e-30))), gain.mul(b_next));
            a = left.select_greater(right, a_next, a);
            zeros = left.select_greater(right, V::load(zeros_next), zeros);
            gain = left.select_greater(right, gain_next, gain);
            b = left.select_greater(right, b_next, b);
        }
        let (a, b, zeros) = (a.lanes(), b.lanes(), zeros.lanes());
        let scales: Lanes = std::array::from_fn(|i| self.stored(a[i] / b[i].max(1e-30)));
        let errors = self.errors::<V>(&scales, &zeros);
        std::array::from_fn(|i| Candidate {
            scale: scales[i],
            zero: zeros[i],
            error: if b[i] > 0.0 { errors[i] } else { f32::INFINITY },
        })
    }

    /// The better of two grids; a tie goes to the zero point nearer to the middle, then to the
    /// smaller scale.
    #[inline(always)]
    pub(crate) fn better(&self, a: Candidate, b: Candidate) -> Candidate {
        let key = |c: &Candidate| (c.error, (c.zero - self.middle() + 0.25).abs(), c.scale);
        if key(&b) < key(&a) { b } else { a }
    }

    /// Inverse scale and ends of the codes of each grid.
    #[inline(always)]
    fn bounds<V: Vector, const N: usize>(&self, grids: &[(Lanes, Lanes); N]) -> [(V, V, V); N] {
        let (zero, top) = (V::splat(0.0), V::splat(self.top()));
        let mut bounds = [(zero, zero, zero); N];
        for (bounds, (t, zeros)) in bounds.iter_mut().zip(grids) {
            let zeros = V::load(zeros);
            *bounds = (V::load(t), zero.sub(zeros), top.sub(zeros));
        }
        bounds
    }
}
