//! What the scale and zero point of a group follow from.

use super::{LEAST_FACTOR, MOST_FACTOR, Scales, steps::Slopes, steps::sign};
use crate::{
    codes::Codes,
    spec::{Grid, WeightSpec},
};

/// The parameters of one group: what is tuned, and what it is a part of.
///
/// For one factor: `c` and nothing; `s0` and the zero point. For the ends of the range: the factors
/// of the least and the largest weight; those weights, the one at most 0 and the other at least 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) tuned: [f32; 2],
    pub(super) of: [f32; 2],
}

/// Groups with one factor, which begin at the scales and zero points of `start`.
pub(super) fn searched(start: &Codes) -> Vec<Group> {
    let each = start.scales.iter().zip(&start.zeros);
    each.map(|(s, z)| Group { tuned: [1.0; 2], of: [*s, f32::from(*z)] }).collect()
}

/// Groups that begin with the range of their weights, `f32[n][k]`.
pub(super) fn ranges(weights: &[f32], k: usize, spec: &WeightSpec) -> Vec<Group> {
    let size = spec.group.len(k);
    let range = |group: &[f32]| {
        let ends = group.iter().fold([0.0f32; 2], |it, w| [it[0].min(*w), it[1].max(*w)]);
        Group { tuned: [1.0; 2], of: ends }
    };
    weights.chunks(k.max(1)).flat_map(|row| row.chunks(size).map(range)).collect()
}

impl Group {
    /// Scale, as it is stored, and zero point.
    pub(super) fn scale(&self, form: Scales, spec: &WeightSpec) -> (f32, f32) {
        let Self { tuned, of } = *self;
        if form != Scales::Ends {
            return (spec.scale.round(of[0] * tuned[0]), of[1]);
        }
        let ([least, largest], middle) = (self.ends(), f32::from(spec.bits.middle()));
        let stored = |scale: f32| match spec.scale.round(scale) {
            0.0 => 1.0,
            it => it,
        };
        match spec.grid {
            Grid::Sym => (stored(-self.longer() * least.max(largest) / middle), middle),
            Grid::Asym => {
                let max = f32::from(spec.bits.max_code());
                let scale = stored((largest + least) / max);
                (scale, (least / scale).round_ties_even().clamp(0.0, max))
            }
        }
    }

    /// The group after a step of `rate` against the slopes.
    pub(super) fn moved(self, form: Scales, spec: &WeightSpec, slopes: Slopes, rate: f32) -> Self {
        let against = |factor: f32, slope: f32| factor - rate * sign(slope) as f32;
        let tuned = match form {
            Scales::Frozen => self.tuned,
            Scales::Tuned => {
                // A step of c moves the outermost code by 2^(b - 1) times that; with more bits all
                // else is smaller too.
                let slope = sign(slopes.scale * self.of[0]) as f32;
                let factor =
                    self.tuned[0] - rate * slope / f32::from(spec.bits.middle() / 2).powi(2);
                [factor.clamp(LEAST_FACTOR, MOST_FACTOR), self.tuned[1]]
            }
            Scales::Ends => {
                let [least, largest] = self.slopes(spec, slopes);
                [against(self.tuned[0], least), against(self.tuned[1], largest)]
                    .map(|it| it.clamp(0.0, 1.0))
            }
        };
        Self { tuned, ..self }
    }

    /// How far the range goes to either side, both at least 0.
    fn ends(&self) -> [f32; 2] {
        [-self.of[0] * self.tuned[0], self.of[1] * self.tuned[1]]
    }

    /// 1 if the range is longer above 0, -1 if it is below.
    fn longer(&self) -> f32 {
        let [least, largest] = self.ends();
        if largest < least { -1.0 } else { 1.0 }
    }

    /// The derivatives by the two factors.
    fn slopes(&self, spec: &WeightSpec, slopes: Slopes) -> [f32; 2] {
        let ([least, largest], of) = (self.ends(), self.of);
        match spec.grid {
            Grid::Sym => {
                let slope = -self.longer() * slopes.scale / f32::from(spec.bits.middle());
                let shares = match least.total_cmp(&largest) {
                    std::cmp::Ordering::Greater => [1.0, 0.0],
                    std::cmp::Ordering::Equal => [0.5, 0.5],
                    std::cmp::Ordering::Less => [0.0, 1.0],
                };
                [-of[0] * slope * shares[0], of[1] * slope * shares[1]]
            }
            Grid::Asym => {
                let max = f32::from(spec.bits.max_code());
                let scale = self.scale(Scales::Ends, spec).0;
                let by_zero = -scale * slopes.clamped;
                let by_scale = slopes.scale - by_zero * least / (scale * scale);
                [-of[0] * (by_scale / max + by_zero / scale), of[1] * by_scale / max]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rows::{FloatKind, Order, WeightRows},
        rtn::rtn,
        spec::{Bits, GroupSize, ScaleType},
        testing::{bytes_of, gaussian},
        tuner::steps::{TunedGrid, tests::step},
    };
    use proptest::prelude::*;

    fn spec(grid: Grid, scale: ScaleType) -> WeightSpec {
        let (bits, group) = (Bits::new(3).unwrap(), GroupSize::of(32).unwrap());
        WeightSpec { bits, group, grid, scale }
    }

    /// The values of a group with rounding frozen as it is at `at`: codes inside the range are
    /// `w / s + z + r`, those outside are its ends.
    fn loss(at: &Group, moved: &Group, spec: &WeightSpec, w: &[f32], g: &[f32]) -> f64 {
        let max = f64::from(spec.bits.max_code());
        let (scale, zero) = at.scale(Scales::Ends, spec);
        let exact = |it: &Group| {
            let [least, largest] = it.ends().map(f64::from);
            match spec.grid {
                Grid::Sym => {
                    let middle = f64::from(spec.bits.middle());
                    (-f64::from(it.longer()) * least.max(largest) / middle, middle)
                }
                Grid::Asym => {
                    let scale = (largest + least) / max;
                    (scale, least / scale)
                }
            }
        };
        let ((s, z), (_, z0)) = (exact(moved), exact(at));
        let grid = TunedGrid { scale, zero, max: max as f32, unit: 1e-4 };
        let terms = w.iter().zip(g).map(|(&w, &g)| {
            let code = grid.code(w, 0);
            let frozen = f64::from(code - zero) - f64::from(w) / f64::from(scale);
            // The zero point is a whole number: what it moves by is taken for the identity.
            let zero = f64::from(zero) + z - z0;
            let integer = if code < 0.0 {
                -zero
            } else if code > grid.max {
                max - zero
            } else {
                f64::from(w) / s + frozen
            };
            f64::from(g) * s * integer
        });
        terms.sum()
    }

    proptest! {
        #[test]
        fn gradients_of_the_ends_are_those_of_central_differences(
            seed in any::<u64>(), is_sym in any::<bool>(), a in 0.4f32..0.99, b in 0.4f32..0.99,
        ) {
            let spec = spec(if is_sym { Grid::Sym } else { Grid::Asym }, ScaleType::F32);
            let (w, g) = (gaussian(32, seed), gaussian(32, seed ^ 1));
            let group = Group { tuned: [a, b], ..ranges(&w, 32, &spec)[0] };
            let [least, largest] = group.ends();
            prop_assume!((least - largest).abs() > 0.01);
            let (scale, zero) = group.scale(Scales::Ends, &spec);
            let max = f32::from(spec.bits.max_code());
            let grid = TunedGrid { scale, zero, max, unit: 1e-4 };
            let slopes = step(grid, &w, &g, &mut [0; 32], 1);
            let found = group.slopes(&spec, slopes);
            for end in 0..2 {
                let h = 1e-3;
                let at = |by: f32| {
                    let mut moved = group;
                    moved.tuned[end] += by;
                    loss(&group, &moved, &spec, &w, &g)
                };
                let expected = (at(h) - at(-h)) / (2.0 * f64::from(h));
                let error = (f64::from(found[end]) - expected).abs();
                prop_assert!(error < 1e-2 * (1.0 + expected.abs()), "{end}: {found:?} {expected}");
            }
        }
    }

    #[test]
    fn whole_ranges_are_those_of_rounding_to_nearest() {
        for grid in [Grid::Sym, Grid::Asym] {
            let (spec, weights) = (spec(grid, ScaleType::F32), gaussian(3 * 70, 5));
            let bytes = bytes_of(&weights);
            let rows = WeightRows::new(&bytes, FloatKind::F32, 3, 70, Order::Nk).unwrap();
            let nearest = rtn(&rows, &spec);
            let groups = ranges(&weights, 70, &spec);
            assert_eq!(groups.len(), nearest.scales.len());
            for (group, (s, z)) in groups.iter().zip(nearest.scales.iter().zip(&nearest.zeros)) {
                let (scale, zero) = group.scale(Scales::Ends, &spec);
                assert!((scale / s - 1.0).abs() < 1e-6, "{scale} {s}");
                assert_eq!(zero, f32::from(*z));
            }
        }
    }

    #[test]
    fn a_group_of_zeros_has_a_scale() {
        for grid in [Grid::Sym, Grid::Asym] {
            let group = ranges(&[0.0; 32], 32, &spec(grid, ScaleType::F16))[0];
            let (scale, zero) = group.scale(Scales::Ends, &spec(grid, ScaleType::F16));
            assert!(scale != 0.0 && (0.0..8.0).contains(&zero));
        }
    }
}
