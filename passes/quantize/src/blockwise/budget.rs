//! How many steps there is time for.

use std::time::Duration;

/// Most steps: more gain nothing.
const MOST: f64 = 1000.0;

/// Steps of each of `blocks`, for all to be done after `left`: a block takes `fixed` and `step` for
/// each step. There is one step at least.
pub(super) fn steps(left: Duration, blocks: usize, fixed: Duration, step: Duration) -> u16 {
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
