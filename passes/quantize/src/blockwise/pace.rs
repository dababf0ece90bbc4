//! How many steps each block is tuned.

use std::time::{Duration, Instant};

use qcc_diag::{Diagnostic, codes};
use qcc_pass::Ctx;

use super::Steps;

/// Most steps: more gain nothing.
const MOST: f64 = 1000.0;

/// Steps of a run: given, or found from the time there is once the first block has been probed.
pub(super) struct Pace {
    given: Steps,
    chosen: Option<u16>,
    began: Instant,
}

impl Pace {
    /// `before` are those of the run that goes on.
    pub(super) fn new(given: Steps, before: Option<u16>) -> Self {
        let chosen = match given {
            Steps::Count(count) => Some(count),
            Steps::Within(_) => before,
        };
        Self { given, chosen, began: Instant::now() }
    }

    /// Steps of a block; 0 as long as nobody knows.
    pub(super) fn steps(&self) -> u16 {
        self.chosen.unwrap_or(0)
    }

    /// The time for all blocks, when steps still have to be found from it.
    pub(super) fn open(&self) -> Option<Duration> {
        match self.given {
            Steps::Within(time) if self.chosen.is_none() => Some(time),
            _ => None,
        }
    }

    /// Finds the steps: `left` blocks are to be done, of which one takes `fixed` and `step` for
    /// each step. Says how the same can be had again.
    pub(super) fn choose(
        &mut self,
        time: Duration,
        left: u64,
        (fixed, step): (Duration, Duration),
        (ctx, pass): (&mut Ctx<'_>, &'static str),
    ) -> u16 {
        let count = usize::try_from(left).unwrap_or(usize::MAX);
        let before = self.began.elapsed();
        let chosen = steps(time.saturating_sub(before), count, fixed, step);
        self.chosen = Some(chosen);
        let least = before + (fixed + step) * u32::try_from(left).unwrap_or(u32::MAX);
        if least > time {
            let text = format!(
                "the blocks take about {:.1} s with one step each, and there are {:.1} s for them",
                least.as_secs_f64(),
                time.as_secs_f64()
            );
            ctx.note(
                Diagnostic::warning(codes::QCC0510, text)
                    .at(format!("pass '{pass}'"))
                    .with_help("give more time with --budget, or fewer or shorter samples with -n and --seq-len"),
            );
        }
        let text = format!("there is time for {chosen} steps of each block");
        ctx.note(
            Diagnostic::note(codes::QCC0610, text)
                .at(format!("pass '{pass}'"))
                .with_help(format!("iters={chosen} gives the same again")),
        );
        chosen
    }
}

/// Steps of each of `blocks`, for all to be done after `left`: a block takes `fixed` and `step` for
/// each step. There is one step at least.
fn steps(left: Duration, blocks: usize, fixed: Duration, step: Duration) -> u16 {
    let each = left.as_secs_f64() / blocks.max(1) as f64 - fixed.as_secs_f64();
    // A step also rounds the weights and moves them; the time of others varies.
    let count = each / (1.1 * step.as_secs_f64()).max(1e-9);
    count.clamp(1.0, MOST) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_divided_among_blocks() {
        let second = Duration::from_secs(1);
        assert_eq!(steps(610 * second, 10, 5 * second, second), 50);
        assert_eq!(steps(10 * second, 10, 5 * second, second), 1);
        assert_eq!(steps(600_000 * second, 1, second, second), 1000);
        assert_eq!(steps(second, 1, Duration::ZERO, Duration::ZERO), 1000);
    }
}
