//! A step of neighbouring groups of a row, and their codes behind it.

use super::{
    GradientError, Tuner,
    scales::Group,
    steps::{Encode, Slopes, Weighed, magnitude, totals},
};
use crate::simd::{Kernel as _, LANES, Vector, VectorKernel};

/// All slices are of the same weights, or of their groups.
pub(super) struct Turn<'a> {
    pub(super) tuner: &'a Tuner,
    /// Whole steps that a counter moves at most.
    pub(super) by: i32,
    /// How far factors move.
    pub(super) rate: f32,
    pub(super) weights: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) counters: &'a mut [i32],
    pub(super) codes: &'a mut [u8],
    pub(super) params: &'a mut [Group],
    pub(super) scales: &'a mut [f32],
    pub(super) zeros: &'a mut [u8],
}

impl VectorKernel for Turn<'_> {
    type Output = Result<(), GradientError>;
    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        let Self { tuner, by, rate, .. } = self;
        let (size, many) = (tuner.size(), LANES * tuner.size());
        let reads = self.weights.chunks(many).zip(self.gradient.chunks(many));
        let moves = self.counters.chunks_mut(many).zip(self.codes.chunks_mut(many));
        let grids = self.scales.chunks_mut(LANES).zip(self.zeros.chunks_mut(LANES));
        let grids = self.params.chunks_mut(LANES).zip(grids);
        for (((weights, gradient), (counters, codes)), (params, (scales, zeros))) in
            reads.zip(moves).zip(grids)
        {
            let mut lanes = [[0.0; LANES]; LANES];
            for (lanes, gradient) in lanes.iter_mut().zip(gradient.chunks(size)) {
                *lanes = magnitude(gradient);
            }
            let magnitudes = totals::<V>(&lanes);
            if magnitudes.iter().any(|it| !it.is_finite()) {
                return Err(GradientError);
            }
            let (mut slopes, mut clamped) = ([[0.0; LANES]; LANES], [[0.0; LANES]; LANES]);
            let reads = weights.chunks(size).zip(gradient.chunks(size));
            let each = reads.zip(counters.chunks_mut(size)).zip(&*params).enumerate();
            for (g, (((weights, gradient), counters), group)) in each {
                let of = Weighed { grid: tuner.grid(group), weights, gradient, counters };
                [slopes[g], clamped[g]] = of.step(magnitudes[g], by);
            }
            let (slopes, clamped) = (totals::<V>(&slopes), totals::<V>(&clamped));
            let grids = params.iter_mut().zip(scales.iter_mut().zip(zeros));
            let each = weights.chunks(size).zip(counters.chunks(size)).zip(codes.chunks_mut(size));
            for (g, ((group, (scale, zero)), ((weights, counters), codes))) in
                grids.zip(each).enumerate()
            {
                let slopes = Slopes { scale: slopes[g], clamped: clamped[g] };
                *group = group.moved(tuner.form, &tuner.spec, slopes, rate);
                let grid = tuner.grid(group);
                (*scale, *zero) = (grid.scale, grid.zero as u8);
                Encode { grid, weights, counters, codes }.run();
            }
        }
        Ok(())
    }
}
