//! Which token comes next.
//!
//! In this order, as Hugging Face transformers does: the penalty on tokens that are there already
//! (Keskar et al., "CTRL", 2019), temperature, the `top_k` largest, the smallest set that holds
//! `top_p` of the probability (Holtzman et al., 2020), and what has at least `min_p` of the
//! probability of the likeliest (Nguyen et al., 2024).

use super::draw::draw_one;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the largest logit, the first of equal ones.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens are drawn that together have this probability.
    pub top_p: Option<f64>,
    /// Only tokens are drawn that are at least so likely, as a share of the likeliest.
    pub min_p: Option<f64>,
    /// Logits of tokens that are there already are divided by it, or multiplied if negative.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    /// The largest logit, and nothing else.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// The next token by a number of `[0, 1)`. `before` are the tokens that are there. `None` when
    /// the logits are no distribution.
    pub fn choose(&self, logits: &[f32], before: &[i64], at: f64) -> Option<i64> {
        if logits.iter().any(|it| it.is_nan() || *it == f32::INFINITY) {
            return None;
        }
        let mut logits = logits.to_vec();
        self.penalize(&mut logits, before);
        let (mut best, mut top) = (0, f32::NEG_INFINITY);
        for (token, &it) in logits.iter().enumerate() {
            if it > top {
                (best, top) = (token, it);
            }
        }
        if top == f32::NEG_INFINITY {
            return None;
        }
        if self.temperature <= 0.0 {
            return i64::try_from(best).ok();
        }
        logits.iter_mut().for_each(|it| *it = (*it - top) / self.temperature);
        self.filter(&mut logits);
        draw_one(&logits, at)
    }

    fn penalize(&self, logits: &mut [f32], before: &[i64]) {
        let penalty = self.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen: Vec<i64> = before.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            let logit = usize::try_from(token).ok().and_then(|it| logits.get_mut(it));
            if let Some(it) = logit {
                *it = if *it < 0.0 { *it * penalty } else { *it / penalty };
            }
        }
    }

    /// Sets the logits of tokens that are not drawn to minus infinity. The largest one is 0.
    fn filter(&self, logits: &mut [f32]) {
        if self.top_k.is_none() && self.top_p.is_none() && self.min_p.is_none() {
            return;
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let logit = |it: usize| logits.get(it).copied().unwrap_or(f32::NEG_INFINITY);
        // Of equal ones the first, so that the order is the same everywhere.
        let likelier = |&a: &usize, &b: &usize| logit(b).total_cmp(&logit(a)).then(a.cmp(&b));
        let mut count = self.top_k.unwrap_or(usize::MAX).clamp(1, order.len().max(1));
        if count < order.len() {
            order.select_nth_unstable_by(count - 1, likelier);
            order.truncate(count);
        }
        order.sort_unstable_by(likelier);
        let weight = |it: usize| f64::from(libm::expf(logit(it)));
        if let Some(share) = self.top_p {
            let total: f64 = order.iter().map(|&it| weight(it)).sum();
            let mut sum = 0.0;
            let enough = order.iter().position(|&it| {
                sum += weight(it);
                sum >= share * total
            });
            count = count.min(enough.map_or(usize::MAX, |it| it + 1));
        }
        if let Some(least) = self.min_p {
            count = count.min(order.iter().take_while(|&&it| weight(it) >= least).count().max(1));
        }
        order.truncate(count);
        order.sort_unstable();
        let mut kept = order.into_iter().peekable();
        for (token, it) in logits.iter_mut().enumerate() {
            if kept.next_if_eq(&token).is_none() {
                *it = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.1, 0.4, 0.2, 0.3.
    fn logits() -> Vec<f32> {
        [1f32, 4.0, 2.0, 3.0].iter().map(|it| it.ln()).collect()
    }

    fn drawn(it: Sampling) -> Vec<i64> {
        let mut all: Vec<i64> = (0..1000)
            .map(|at| it.choose(&logits(), &[], f64::from(at) / 1000.0).unwrap())
            .collect();
        all.sort_unstable();
        all
    }

    fn kinds(it: Sampling) -> Vec<i64> {
        let mut all = drawn(it);
        all.dedup();
        all
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let it = Sampling::default();
        assert_eq!(it.choose(&[1.0, 3.0, 3.0, -1.0], &[], 0.99), Some(1));
        assert_eq!(it.choose(&[f32::NEG_INFINITY, -3.0], &[], 0.0), Some(1));
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        let all = drawn(Sampling { temperature: 1.0, ..Sampling::default() });
        let count = |token: i64| all.iter().filter(|it| **it == token).count() as i32;
        for (token, want) in [(0, 100), (1, 400), (2, 200), (3, 300)] {
            assert!((count(token) - want).abs() <= 1, "{token}: {}", count(token));
        }
        let cold = drawn(Sampling { temperature: 0.01, ..Sampling::default() });
        assert!(cold.iter().all(|it| *it == 1));
    }

    #[test]
    fn filters_keep_the_likeliest() {
        let with = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(kinds(Sampling { top_k: Some(2), ..with }), [1, 3]);
        assert_eq!(kinds(Sampling { top_k: Some(9), ..with }), [0, 1, 2, 3]);
        assert_eq!(kinds(Sampling { top_p: Some(0.69), ..with }), [1, 3]);
        assert_eq!(kinds(Sampling { top_p: Some(0.71), ..with }), [1, 2, 3]);
        assert_eq!(kinds(Sampling { top_p: Some(0.0), ..with }), [1]);
        assert_eq!(kinds(Sampling { min_p: Some(0.45), ..with }), [1, 2, 3]);
        assert_eq!(kinds(Sampling { min_p: Some(1.0), ..with }), [1]);
        // Of the three likeliest, which have 0.9 of the probability, 0.75 are two.
        assert_eq!(kinds(Sampling { top_k: Some(3), top_p: Some(0.75), ..with }), [1, 3]);
    }

    #[test]
    fn the_penalty_is_on_what_is_there() {
        let it = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(it.choose(&[1.0, 1.5, -1.0], &[1, 1], 0.0), Some(0));
        assert_eq!(it.choose(&[-1.9, -1.0, -9.0], &[1, -5, 99], 0.0), Some(0));
        assert_eq!(it.choose(&[1.0, 1.5, -1.0], &[], 0.0), Some(1));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for temperature in [0.0, 1.0] {
            let it = Sampling { temperature, ..Sampling::default() };
            assert_eq!(it.choose(&[0.0, f32::NAN], &[], 0.5), None);
            assert_eq!(it.choose(&[0.0, f32::INFINITY], &[], 0.5), None);
            assert_eq!(it.choose(&[f32::NEG_INFINITY; 2], &[], 0.5), None);
            assert_eq!(it.choose(&[], &[], 0.5), None);
        }
    }
}
