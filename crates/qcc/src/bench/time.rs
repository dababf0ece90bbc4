//! Times of two things in turn, so that what else the machine does meets both.

use std::time::{Duration, Instant};

use crate::Error;

/// Time that each thing gets when nobody says how often it runs.
const TIME: Duration = Duration::from_millis(200);

/// Fewest runs of a time.
const FEWEST: usize = 3;

/// Seconds of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds {
    pub(super) median: f64,
    pub(super) least: f64,
}

impl Seconds {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |it: usize| all.get(it).copied().unwrap_or(f64::NAN);
        Self { median: at(all.len() / 2), least: at(0) }
    }
}

/// Runs both in turn, once before the clock starts; the second one only if it `is_there`.
pub(super) fn both(
    first: &mut dyn FnMut() -> Result<(), Error>,
    second: &mut dyn FnMut() -> Result<(), Error>,
    is_there: bool,
    runs: Option<usize>,
) -> Result<(Seconds, Option<Seconds>), Error> {
    first()?;
    if is_there {
        second()?;
    }
    let (start, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    let most = if is_there { 2 * TIME } else { TIME };
    let is_done = |count: usize| match runs {
        Some(runs) => count >= runs,
        None => count >= FEWEST && start.elapsed() >= most,
    };
    while !is_done(times[0].len()) {
        let at = Instant::now();
        first()?;
        times[0].push(at.elapsed().as_secs_f64());
        if is_there {
            let at = Instant::now();
            second()?;
            times[1].push(at.elapsed().as_secs_f64());
        }
    }
    let [own, other] = times;
    Ok((Seconds::of(own), is_there.then(|| Seconds::of(other))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_run_as_often_as_was_asked_for() {
        let (mut a, mut b) = (0, 0);
        let mut first = || {
            a += 1;
            Ok(())
        };
        let mut second = || {
            b += 1;
            Ok(())
        };
        let (own, other) = both(&mut first, &mut second, true, Some(5)).unwrap();
        assert!(own.least <= own.median && other.is_some());
        assert_eq!((a, b), (6, 6));
        let it = Seconds::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((it.median, it.least), (2.0, 1.0));
    }
}
