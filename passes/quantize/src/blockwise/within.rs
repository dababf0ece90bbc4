//! How many steps there is time for: found once, from times of the first block.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Ctx, PassError, Session, WorkDir};
use qcc_tensor::Tensor;

use super::entry::write;
use super::resume::{self, Kept};
use super::{Options, Run, Steps, Task, few, plan};

/// Most steps: more gain nothing.
const MOST: u16 = 1000;

/// The steps of each block that there is time for. A run that goes on takes as many as before.
///
/// # Errors
/// As [`tune`](super::tune).
pub(super) fn steps(
    task: &Task<'_>,
    ctx: &mut Ctx<'_>,
    options: Options,
    time: Duration,
) -> Result<u16, PassError> {
    let began = Instant::now();
    let noted = Noted::new(task, ctx.session, options)?;
    if let Some(steps) = noted.as_ref().and_then(Noted::read) {
        ctx.record.steps.insert(task.pass, steps);
        return Ok(steps);
    }
    // The first block with weights tells, on as many samples as any number of steps has.
    let few = Options { steps: Steps::Count(1), ..options };
    let Some(times) = Run::new(task, ctx, (few, 1), Kept::nowhere())?.times(ctx)? else {
        return Ok(1);
    };
    let steps = choose(ctx, (task, options), times, (time, began.elapsed()));
    ctx.record.steps.insert(task.pass, steps);
    if let Some(it) = noted {
        it.write(steps);
    }
    Ok(steps)
}

/// Times of a block.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// All but the steps, for so many samples.
    pub(super) fixed: (Duration, usize),
    /// A step.
    pub(super) step: Duration,
}

/// Finds the steps for `time`, of which `before` is over. Says how the same can be had again.
fn choose(
    ctx: &mut Ctx<'_>,
    (task, options): (&Task<'_>, Options),
    times: Times,
    (time, before): (Duration, Duration),
) -> u16 {
    let count = task.outline.count_from(0);
    let blocks = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let fixed = |steps: u16| {
        let samples = few::needed(task.samples.len(), steps, options.batch);
        times.fixed.0.mul_f64(samples as f64 / times.fixed.1.max(1) as f64)
    };
    let steps = most(time.saturating_sub(before) / blocks, times.step, fixed);
    let least = before + (fixed(1) + times.step) * blocks;
    if least > time {
        let text = format!(
            "the blocks take about {:.1} s with one step each, and there are {:.1} s for them",
            least.as_secs_f64(),
            time.as_secs_f64()
        );
        ctx.warn(
            Diagnostic::warning(codes::QCC0510, text)
                .at(format!("pass '{}'", task.pass))
                .with_help("give more time with --budget, or fewer or shorter samples with -n and --seq-len"),
        );
    }
    let text = format!("there is time for {steps} steps of each block");
    ctx.note(
        Diagnostic::note(codes::QCC0610, text)
            .at(format!("pass '{}'", task.pass))
            .with_help(format!("iters={steps} in place of the budget gives the same again")),
    );
    steps
}

/// The most steps of a block that has `each`, of which `fixed` is for all but the steps; 1 at least.
fn most(each: Duration, step: Duration, fixed: impl Fn(u16) -> Duration) -> u16 {
    // A step also rounds the weights and moves them; the time of others varies.
    let takes = |steps: u16| fixed(steps) + step.mul_f64(1.1 * f64::from(steps));
    (1..=MOST).rev().find(|it| takes(*it) <= each).unwrap_or(1)
}

/// Where a run with a budget notes its steps, so that it goes on with them after it was stopped.
struct Noted {
    work: WorkDir,
    folder: PathBuf,
    key: String,
}

impl Noted {
    /// Nowhere when the session keeps no work.
    fn new(
        task: &Task<'_>,
        session: &Session,
        options: Options,
    ) -> Result<Option<Self>, PassError> {
        let (Some(work), Some(parts)) = (session.work_dir.clone(), &task.parts) else {
            return Ok(None);
        };
        let base = plan::base(session.seed, task.samples, options)?;
        let plan = plan::plan(&base, parts.model(), task.weights, options);
        let (key, folder) = (plan.key(), work.begin(plan));
        Ok(Some(Self { work, folder, key }))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("steps.safetensors")
    }

    fn read(&self) -> Option<u16> {
        let entry = resume::open(&self.path(), &self.key)?;
        let steps = entry.first()?.1.to_i64().ok()?;
        u16::try_from(*steps.first()?).ok()
    }

    /// Where it cannot be written, blocks cannot either, and that is told.
    fn write(&self, steps: u16) {
        let entry = vec![("steps".to_owned(), Tensor::scalar(i64::from(steps)))];
        if self.work.make(&self.folder).is_ok() {
            let _ = write(&self.path(), &self.key, &entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fill_the_time_of_a_block() {
        let second = Duration::from_secs(1);
        assert_eq!(most(61 * second, second, |_| 5 * second), 50);
        assert_eq!(most(second, second, |_| 5 * second), 1);
        assert_eq!(most(60_000 * second, second, |_| second), 1000);
        assert_eq!(most(second, Duration::ZERO, |_| Duration::ZERO), 1000);
        // More steps need more samples, which take time of their own.
        assert_eq!(most(61 * second, second, |steps| second * u32::from(steps)), 29);
    }
}
