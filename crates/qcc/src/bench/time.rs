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

/// A run, which tells the time of what counts of it.
pub(super) type Timed<'a> = &'a mut dyn FnMut() -> Result<Duration, Error>;

/// Runs both in turn, once without looking at the clock; there may be no second one.
pub(super) fn both(
    first: Timed<'_>,
    mut second: Option<Timed<'_>>,
    runs: Option<usize>,
) -> Result<(Seconds, Option<Seconds>), Error> {
    first()?;
    if let Some(second) = &mut second {
        second()?;
    }
    let is_there = second.is_some();
    let (start, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    let most = if is_there { 2 * TIME } else { TIME };
    let is_done = |count: usize| match runs {
        Some(runs) => count >= runs,
        None => count >= FEWEST && start.elapsed() >= most,
    };
    while !is_done(times[0].len()) {
        times[0].push(first()?.as_secs_f64());
        if let Some(second) = &mut second {
            times[1].push(second()?.as_secs_f64());
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
            Ok(Duration::from_millis(a))
        };
        let mut second = || {
            b += 1;
            Ok(Duration::ZERO)
        };
        let (own, other) = both(&mut first, Some(&mut second), Some(5)).unwrap();
        // The first run does not count.
        assert_eq!((own.least, own.median), (0.002, 0.004));
        assert_eq!(other.map(|it| it.median), Some(0.0));
        assert_eq!((a, b), (6, 6));
        let it = Seconds::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((it.median, it.least), (2.0, 1.0));
    }
}
