//! Factors that are trained by Adam (arXiv 1412.6980).

/// How fast Adam forgets gradients, and their squares.
const BETAS: (f32, f32) = (0.9, 0.95);
/// Keeps a gradient of 0 from being divided by 0.
const LEAST: f32 = 1e-12;
/// Farthest that a factor goes from 1.
const RANGE: (f32, f32) = (0.5, 2.0);

/// Factors of numbers, 1 at the beginning.
pub(super) struct Factors {
    pub(super) values: Vec<f32>,
    /// Means of gradients and of their squares.
    moments: Vec<[f32; 2]>,
    /// Sum of the gradients of a step, by factor.
    pub(super) slopes: Vec<f32>,
}

impl Factors {
    pub(super) fn new(count: usize) -> Self {
        Self { values: vec![1.0; count], moments: vec![[0.0; 2]; count], slopes: vec![0.0; count] }
    }

    /// Moves them by `rate` against the gradients that were added up, the `step`th time, from 1 on.
    /// Whether all of those were finite; nothing moves otherwise.
    pub(super) fn step(&mut self, rate: f32, step: i32) -> bool {
        if !self.slopes.iter().all(|it| it.is_finite()) {
            return false;
        }
        let bias = (1.0 - BETAS.0.powi(step), 1.0 - BETAS.1.powi(step));
        let each = self.values.iter_mut().zip(&mut self.moments).zip(&mut self.slopes);
        for ((value, moments), slope) in each {
            moments[0] += (1.0 - BETAS.0) * (*slope - moments[0]);
            moments[1] += (1.0 - BETAS.1) * (*slope * *slope - moments[1]);
            let root = (moments[1] / bias.1).sqrt() + LEAST;
            *value = (*value - rate * moments[0] / bias.0 / root).clamp(RANGE.0, RANGE.1);
            *slope = 0.0;
        }
        true
    }
}
