//! A step of neighbouring groups of a row, and their codes behind it.

use super::{
    GradientError, Tuner,
    scales::Group,
    steps::{Encode, Step},
};
use crate::simd::Kernel;

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

impl Kernel for Turn<'_> {
    type Output = Result<(), GradientError>;
    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { tuner, by, rate, .. } = self;
        let size = tuner.size();
        let reads = self.weights.chunks(size).zip(self.gradient.chunks(size));
        let moves = self.counters.chunks_mut(size).zip(self.codes.chunks_mut(size));
        let grids = self.params.iter_mut().zip(self.scales.iter_mut().zip(self.zeros));
        for (((weights, gradient), (counters, codes)), (group, (scale, zero))) in
            reads.zip(moves).zip(grids)
        {
            let step =
                Step { grid: tuner.grid(group), weights, gradient, counters: &mut *counters, by };
            *group = group.moved(tuner.form, &tuner.spec, step.run()?, rate);
            let grid = tuner.grid(group);
            (*scale, *zero) = (grid.scale, grid.zero as u8);
            Encode { grid, weights, counters, codes }.run();
        }
        Ok(())
    }
}
