//! How long training takes, and how many steps there is time for.

use std::time::{Duration, Instant};

use qcc_pass::PassError;

use super::{TRIALS, Trained, tensors};
use crate::held::Samples;
use crate::whole::{Target, Whole};

/// Times of one sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The model once, without gradients.
    forward: Duration,
    /// The gradients.
    pull: Duration,
    /// All weights as the graph reads them, or their gradients as they are read.
    turn: Duration,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Samples of a step.
    pub(super) batch: usize,
    /// Samples of a trial.
    pub(super) tried: usize,
    /// Samples that steps see.
    pub(super) used: usize,
}

impl Work {
    /// Of steps of `batch` samples.
    pub(super) fn new(samples: &Samples, batch: usize) -> Self {
        let used = samples.used();
        Self { batch: batch.min(used), tried: samples.tried.len(), used }
    }
}

impl Times {
    /// Runs a sample, back as well. The first runs plan and touch new memory, so they do not count.
    pub(super) fn measure(
        whole: &mut Whole<'_>,
        trained: &[&mut dyn Trained],
    ) -> Result<Self, PassError> {
        tensors(trained)?;
        let began = Instant::now();
        let weights = tensors(trained)?;
        let turn = began.elapsed();
        whole.loss(0, &weights)?;
        let began = Instant::now();
        whole.loss(0, &weights)?;
        // Once in float, once with the weights.
        let forward = began.elapsed() / 2;
        whole.pull(0, &weights, Target::Float)?;
        let began = Instant::now();
        whole.pull(0, &weights, Target::Float)?;
        Ok(Self { forward, pull: began.elapsed(), turn })
    }

    /// Seconds of `steps` steps.
    pub(super) fn seconds(&self, work: Work, steps: u16) -> f64 {
        let seen = work.used.min(usize::from(steps) * work.batch);
        self.trials(work)
            + 2.0 * seen as f64 * self.forward.as_secs_f64()
            + f64::from(steps) * self.step(work)
    }

    /// Steps that there is time for, at most `steps`; 0 where there is none.
    pub(super) fn steps_within(&self, left: Duration, work: Work, steps: u16) -> u16 {
        // What the float model gives for a sample is computed twice at most.
        let each = self.step(work) + 2.0 * work.batch as f64 * self.forward.as_secs_f64();
        let count = (left.as_secs_f64() - self.trials(work)) / (1.1 * each).max(1e-9);
        count.clamp(0.0, f64::from(steps)) as u16
    }

    fn step(&self, work: Work) -> f64 {
        let (pull, turn) = (self.pull.as_secs_f64(), self.turn.as_secs_f64());
        work.batch as f64 * (pull + turn) + turn
    }

    /// All trials, that of the start among them, and the float model for their samples.
    fn trials(&self, work: Work) -> f64 {
        f64::from(2 + TRIALS + 1) * work.tried as f64 * self.forward.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fit_in_the_time_that_is_left() {
        let second = Duration::from_secs(1);
        let times = Times { forward: second, pull: 3 * second, turn: second };
        let work = Work { batch: 2, tried: 1, used: 10 };
        // 8 for the trials; a step has 2 x 4 and 1.
        assert_eq!(times.seconds(work, 0), 8.0);
        assert_eq!(times.seconds(work, 3), 8.0 + 12.0 + 27.0);
        assert_eq!(times.seconds(work, 100), 8.0 + 20.0 + 900.0);
        assert_eq!(times.steps_within(8 * second, work, 100), 0);
        assert_eq!(times.steps_within(51 * second, work, 100), 3);
        assert_eq!(times.steps_within(51 * second, work, 2), 2);
        assert_eq!(times.steps_within(second, work, 100), 0);
    }
}
