//! Samples that are kept for trials, and those that steps use, in random order.

use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Ctx, Rng, SampleSource};
use qcc_tensor::DType;

/// Of how many samples one is kept for trials, where there are many.
const HELD: usize = 16;

/// Least number of samples of which one is kept for trials.
const LEAST: usize = 4;

/// Fewer tokens in all fit themselves.
const LEAST_TOKENS: usize = 256;

/// The samples of a run of steps.
pub(crate) struct Samples {
    /// Samples that trials are made on: those that no step sees, or all where there are too few.
    pub(crate) tried: Vec<usize>,
    used: Vec<usize>,
    /// What is left of the present round.
    round: Vec<usize>,
    rng: Rng,
}

impl Samples {
    /// Divides `count` samples. The order of the steps' is that of `rng`.
    pub(crate) fn new(count: usize, rng: Rng) -> Self {
        let (held, used) = split(count);
        let tried = if held.is_empty() { used.clone() } else { held };
        Self { tried, used, round: Vec::new(), rng }
    }

    /// How many samples steps see.
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }

    /// The samples of a step, `batch` or all there are: each once before one comes again.
    pub(crate) fn next(&mut self, batch: usize) -> Vec<usize> {
        let count = batch.min(self.used.len());
        let mut next = Vec::with_capacity(count);
        for _ in 0..count {
            if self.round.is_empty() {
                self.round.clone_from(&self.used);
                self.rng.shuffle(&mut self.round);
            }
            next.extend(self.round.pop());
        }
        next
    }
}

/// How many of `all` samples are enough for `used` of them to be left when those for trials are out.
pub(crate) fn enough(used: usize, all: usize) -> usize {
    (used.min(all)..all).find(|&count| count - held(count).count() >= used).unwrap_or(all)
}

/// The samples that are kept for trials, at equal distances.
fn held(count: usize) -> impl Iterator<Item = usize> {
    let held = (count / HELD).max(usize::from(count >= LEAST)).max(if count >= 64 { 8 } else { 0 });
    let every = count.checked_div(held).unwrap_or(usize::MAX);
    let first = if every > 1 { every / 2 } else { count };
    (first..count).step_by(every)
}

/// Warns, once in a run, that there are too few samples to keep one for trials, or too few tokens in
/// them: what the trials choose may fit these samples alone.
pub(crate) fn note_few(ctx: &mut Ctx<'_>, pass: &'static str, samples: &dyn SampleSource) {
    let is_told = ctx.record.notes.iter().any(|it| it.code == codes::QCC0407);
    let count = samples.len();
    if count == 0 || is_told {
        return;
    }
    let tokens = tokens(samples).filter(|it| *it < LEAST_TOKENS);
    let (text, help) = match tokens {
        _ if count < LEAST => (
            format!(
                "too few samples, {count}, to keep one for trials: steps are judged by those they \
                 see"
            ),
            format!("from -n {LEAST} on, some are kept for trials"),
        ),
        Some(tokens) => (
            format!("the samples have {tokens} tokens in all: what fits them may fit nothing else"),
            format!("give more, or longer ones, with -n and --seq-len: {LEAST_TOKENS} at least"),
        ),
        None => return,
    };
    let warning = Diagnostic::warning(codes::QCC0407, text);
    ctx.warn(warning.at(format!("pass '{pass}'")).with_help(help));
}

/// Tokens of all samples: elements of the longest input of integers of each. `None` where a model
/// takes none, or one cannot be read, which is told elsewhere.
fn tokens(samples: &dyn SampleSource) -> Option<usize> {
    let mut all = 0;
    for at in 0..samples.len() {
        let batch = samples.batch(at).ok()?;
        let ids = batch.iter().filter(|it| matches!(it.1.dtype(), DType::I64 | DType::I32));
        all += ids.map(|it| it.1.len()).max()?;
        if all >= LEAST_TOKENS {
            break;
        }
    }
    Some(all)
}

fn split(count: usize) -> (Vec<usize>, Vec<usize>) {
    let held: Vec<usize> = held(count).collect();
    let used = (0..count).filter(|it| held.binary_search(it).is_err()).collect();
    (held, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_are_left_for_steps() {
        for used in 0..700 {
            let count = enough(used, 1000);
            assert!(split(count).1.len() >= used, "{used} of {count}");
            assert!(count == 0 || split(count - 1).1.len() < used, "{used}: fewer do");
            assert_eq!(enough(used, 5), if used > 4 { 5 } else { [0, 1, 2, 3, 5][used] });
        }
    }

    #[test]
    fn steps_see_each_sample_once_a_round_and_none_that_is_held() {
        for (count, held) in [(1, 0), (3, 0), (4, 1), (16, 1), (64, 8), (128, 8), (512, 32)] {
            let mut samples = Samples::new(count, Rng::new(3, "order"));
            let tried = if held == 0 { count } else { held };
            assert_eq!(samples.tried.len(), tried, "{count}");
            let mut seen: Vec<usize> = Vec::new();
            while seen.len() < count - held {
                seen.extend(samples.next(1));
            }
            seen.extend(&samples.tried);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
            assert_eq!(samples.next(usize::MAX).len(), count - held);
        }
    }
}
