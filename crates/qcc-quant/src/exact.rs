//! The scale and zero point of least error, over all real scales and all zero points.
//!
//! With t = 1 / s, the magnitude of the code of weight w grows by one when t passes
//! `(k + 1/2) / |w|`, k = 0, 1, ... until it is clipped. There `A = sum d w c` grows by `d |w|`
//! and `B = sum d c^2` by `d (2k + 1)`. The codes of the optimum are the rounding at its own least
//! squares scale, so the largest A^2 / B met on the way through all these events, in ascending t,
//! is the optimum. One sorted list serves all zero points: each is a lane of its own.
//!
//! Events that cannot matter are left out, by bounds that hold for every zero point:
//! * below: if the codes span at most half the grid, doubling them and halving s gives the same
//!   values; so some optimum spans more. And where even the rounding error without clipping
//!   exceeds the error of a known candidate, there is no optimum;
//! * above: where the clipping error alone exceeds it.
//!
//! Up to 4 bits the sums are f32; with more bits, or in long groups, differences between
//! candidates fall below the rounding of f32 and the sums are f64.

use crate::{
    candidates::{Candidate, Group, Lanes},
    simd::{LANES, ROUNDER, Vector},
    spec::Grid,
};

/// Longest group whose sums are f32.
const F32_LEN: usize = 1024;
/// Longest group searched: indices share a word with a code.
const MAX_LEN: usize = 1 << 24;
/// Most rounds of raising the lower end.
const MAX_RAISES: usize = 32;
/// Covers the rounding of the bounds and of the error they are compared with.
const SLACK: f32 = 1e-4;

/// Points where a code changes, in ascending t, and the room to sort them.
#[derive(Default)]
pub(crate) struct Events {
    /// Bits of t, then 24 bits of index, then 8 bits of k.
    keys: Vec<u64>,
    unsorted: Vec<u64>,
}

/// Where an optimum can lie.
struct Window {
    low: f32,
    high: f32,
    first_zero: u16,
    last_zero: u16,
}

/// The optimum, or `start` if its scale rounds to nothing better.
#[inline(always)]
pub(crate) fn exact<V: Vector>(
    group: &Group<'_>,
    start: Candidate,
    events: &mut Events,
) -> Candidate {
    if start.error == 0.0 || group.w.len() >= MAX_LEN {
        return start;
    }
    let window = window::<V>(group, start);
    events.collect(group, &window);
    let is_narrow = group.spec.bits.get() <= 4 && group.w.len() <= F32_LEN;
    let mut best = start;
    for first in (window.first_zero..=window.last_zero).step_by(LANES) {
        let count = usize::from(window.last_zero - first + 1).min(LANES);
        let zeros: Lanes = std::array::from_fn(|i| f32::from(first) + i as f32);
        let mut t = if is_narrow {
            sweep_f32::<V>(group, &zeros, window.low, &events.keys)
        } else {
            sweep_f64(group, &zeros, window.low, &events.keys)
        };
        // Lanes past the last zero point repeat the first.
        let (first_t, mut zeros) = (t[0], zeros);
        t[count..].fill(first_t);
        zeros[count..].fill(f32::from(first));
        // The codes just after the event.
        let winners = group.winners::<V, 1>(&[(t.map(|t| t * 1.000_001), zeros)]);
        for winner in winners.into_iter() {
            best = group.better(best, winner);
        }
    }
    best
}

/// Everything an optimum better than `start` can use.
#[inline(always)]
fn window<V: Vector>(group: &Group<'_>, start: Candidate) -> Window {
    let bound = start.error * (1.0 + SLACK);
    let (middle, top) = (group.middle(), group.top());
    let (low, high) = (group.low, group.high);
    let magnitude = high.max(-low);
    let doubling = match group.spec.grid {
        Grid::Asym => (middle - 1.0) / (high - low),
        Grid::Sym => (0.5 * middle - 0.5) / magnitude,
    };
    let lowest = raise::<V>(group, doubling * (1.0 - SLACK), 1.0 / start.scale, bound);
    let (mut highest, mut first, mut last) = (f32::INFINITY, middle - 1.0, middle);
    if group.spec.grid == Grid::Asym {
        (first, last) = (0.0, top);
    }
    // Cuts in steps of such a part of the range, as fine as serves: more bits cut less.
    let parts: &[f32] =
        if group.spec.bits.get() <= 4 { &[48.0, 20.0] } else { &[400.0, 100.0, 20.0] };
    for parts in parts {
        match group.spec.grid {
            Grid::Sym => {
                let step = magnitude / parts;
                let cuts = clipping::<V>(group, |w| if w < 0.0 { -w } else { w }, magnitude, step);
                if let Some(cut) = cuts.iter().position(|&error| error > bound) {
                    highest = middle / (magnitude - cut as f32 * step);
                }
            }
            Grid::Asym => {
                let step = (high - low) / parts;
                let above = clipping::<V>(group, |w| w, high, step);
                let below = clipping::<V>(group, |w| -w, -low, step);
                if let Some(cut) =
                    (1..=LANES).find(|&k| (0..k).all(|i| above[i] + below[k - 1 - i] > bound))
                {
                    highest = top / (high - low - cut as f32 * step);
                }
                let end = |errors: &Lanes, end: f32| {
                    let cut = errors.iter().position(|&error| error > bound);
                    cut.map_or(f32::NEG_INFINITY, |cut| end - cut as f32 * step)
                };
                first = (end(&below, -low) * lowest - SLACK * top).floor().max(0.0);
                last = (top - end(&above, high) * lowest + SLACK * top).ceil().min(top);
            }
        }
        if highest < f32::INFINITY {
            break;
        }
    }
    Window { low: lowest, high: highest, first_zero: first as u16, last_zero: last as u16 }
}

/// The end of the t from `low` on where the rounding error alone exceeds `bound`: a weight that
/// moves through an interval of t is no closer to a whole number than in its middle less half its
/// way. Looks as far as `known`, a t whose error does not.
#[inline(always)]
fn raise<V: Vector>(group: &Group<'_>, low: f32, known: f32, bound: f32) -> f32 {
    let energy: f32 = group.w.iter().map(|w| w * w).sum();
    // A usual weight moves by a fifth of a code at most.
    let finest = 0.2 * (group.w.len() as f32 / energy).sqrt();
    let mut end = low;
    for _ in 0..MAX_RAISES {
        let step = ((known - end) / LANES as f32).min(finest);
        if step <= SLACK * end {
            break;
        }
        let first = end;
        let middles: Lanes = std::array::from_fn(|i| first + (i as f32 + 0.5) * step);
        let (middles, half) = (V::load(&middles), V::splat(0.5 * step * (1.0 + SLACK)));
        let zero = V::splat(0.0);
        let mut errors = zero;
        for (&w, &d) in group.w.iter().zip(group.d) {
            let magnitude = V::splat(w.abs());
            let at = magnitude.mul(middles);
            let rest = at.sub(at.round());
            let rest = rest.max(zero.sub(rest)).sub(magnitude.mul(half)).max(zero);
            errors = errors.add(V::splat(d).mul(rest.mul(rest)));
        }
        let mut excluded = 0;
        for error in errors.lanes() {
            let next = first + (excluded + 1) as f32 * step;
            if error * (1.0 - SLACK) <= bound * next * next {
                break;
            }
            excluded += 1;
        }
        end = first + excluded as f32 * step;
        if excluded < LANES {
            break;
        }
    }
    end * (1.0 - SLACK)
}

/// In lane i the error of clipping `side(w)` at `end - i * step`.
#[inline(always)]
fn clipping<V: Vector>(group: &Group<'_>, side: impl Fn(f32) -> f32, end: f32, step: f32) -> Lanes {
    let ends: Lanes = std::array::from_fn(|i| end - i as f32 * step);
    let (ends, zero) = (V::load(&ends), V::splat(0.0));
    let mut errors = zero;
    for (&w, &d) in group.w.iter().zip(group.d) {
        let over = V::splat(side(w)).sub(ends).max(zero);
        errors = errors.add(V::splat(d).mul(over.mul(over)));
    }
    errors.lanes()
}

impl Events {
    /// The events between the ends of `window`, sorted.
    #[inline(always)]
    fn collect(&mut self, group: &Group<'_>, window: &Window) {
        let (low, high) = (window.low, window.high);
        let most = match group.spec.grid {
            Grid::Asym => group.top(),
            Grid::Sym => group.middle(),
        };
        let keys = &mut self.unsorted;
        let mut count = 0;
        for (chunk, weights) in group.w.chunks(LANES).enumerate() {
            let (mut inverse, mut codes, mut points) = ([0.0; LANES], [most; LANES], [0.0; LANES]);
            for (i, w) in weights.iter().enumerate() {
                inverse[i] = 1.0 / w.abs();
                let start = w.abs() * low;
                // Rounded as the sums that start at `low` do.
                codes[i] = (if start < most { start } else { most }) + ROUNDER - ROUNDER;
            }
            // The next event of every weight at once, until there is none. An event is stored
            // first and counted after: which weights have one cannot be predicted.
            loop {
                let before = count;
                if keys.len() < count + LANES {
                    keys.resize(2 * count + LANES, 0);
                }
                let free = &mut keys[before..before + LANES];
                for i in 0..LANES {
                    let point = (codes[i] + 0.5) * inverse[i];
                    points[i] = if codes[i] < most { point } else { f32::INFINITY };
                }
                for i in 0..LANES {
                    let index = (chunk * LANES + i) as u64;
                    let place = index << 8 | u64::from((codes[i] + ROUNDER).to_bits() & 0xff);
                    free[count - before] = u64::from(points[i].to_bits()) << 32 | place;
                    count += usize::from(points[i] <= high && points[i] < f32::INFINITY);
                    if count - before == LANES {
                        break;
                    }
                }
                if count == before {
                    break;
                }
                for code in &mut codes {
                    *code += 1.0;
                }
            }
        }
        keys.truncate(count);
        self.sort(low, high);
    }

    /// One counting pass over equal parts of t, then insertion: the events are spread evenly.
    #[inline(always)]
    fn sort(&mut self, low: f32, high: f32) {
        const BUCKETS: usize = 1024;
        let count = self.unsorted.len();
        self.keys.clear();
        self.keys.extend_from_slice(&self.unsorted);
        if count < 32 || high == f32::INFINITY {
            self.keys.sort_unstable();
            return;
        }
        let buckets = count.next_power_of_two().min(BUCKETS);
        let scale = buckets as f32 / (high - low);
        let bucket = |key: u64| {
            let t = f32::from_bits((key >> 32) as u32);
            (((t - low) * scale) as usize).min(buckets - 1)
        };
        let mut starts = [0u32; BUCKETS + 1];
        for &key in &self.unsorted {
            starts[bucket(key) + 1] += 1;
        }
        for i in 0..buckets {
            starts[i + 1] += starts[i];
        }
        for &key in &self.unsorted {
            let start = &mut starts[bucket(key)];
            self.keys[*start as usize] = key;
            *start += 1;
        }
        for i in 1..count {
            let key = self.keys[i];
            let mut at = i;
            while at > 0 && self.keys[at - 1] > key {
                self.keys[at] = self.keys[at - 1];
                at -= 1;
            }
            self.keys[at] = key;
        }
    }
}

/// Sixteen ones, sixteen zeros, sixteen ones: a window of 16 from `16 - m` has ones in the lanes
/// below m, from `32 - m` in the lanes from m on.
const STEPS: [f32; 3 * LANES] = {
    let mut steps = [1.0; 3 * LANES];
    let mut i = LANES;
    while i < 2 * LANES {
        steps[i] = 0.0;
        i += 1;
    }
    steps
};

/// Where [`STEPS`] has ones for the zero points from `first` on at which the code of a weight may
/// still grow from k: up while `k < M - z`, down while `k < z`.
#[inline(always)]
fn growing(w: f32, k: i32, first: i32, top: i32) -> usize {
    let lanes = LANES as i32;
    let down = 2 * lanes - (k + 1 - first).clamp(0, lanes);
    let up = lanes - (top - k - first).clamp(0, lanes);
    // The sign of a weight cannot be predicted: both, then a choice without a branch.
    [down, up][usize::from(w > 0.0)] as usize
}

/// In each lane the t of the event after which A^2 / B is largest.
#[inline(always)]
fn sweep_f32<V: Vector>(group: &Group<'_>, zeros: &Lanes, low: f32, keys: &[u64]) -> Lanes {
    let (first, top) = (zeros[0] as i32, group.top() as i32);
    let [(mut a, mut b)] = group.sums::<V, 1>(&[([low; LANES], *zeros)]);
    let (mut best_gain, mut best_b, mut best_t) = (a.mul(a), b.max(V::splat(1e-30)), V::splat(low));
    for &key in keys {
        let (index, k) = ((key >> 8) as usize & (MAX_LEN - 1), key as i32 & 0xff);
        let (Some(&w), Some(&d)) = (group.w.get(index), group.d.get(index)) else { continue };
        let t = f32::from_bits((key >> 32) as u32);
        let Some(grows) = STEPS[growing(w, k, first, top)..].first_chunk() else { continue };
        let grows = V::load(grows);
        a = a.add(grows.mul(V::splat(d * w.abs())));
        b = b.add(grows.mul(V::splat(d * (2 * k + 1) as f32)));
        let gain = a.mul(a);
        let (left, right) = (gain.mul(best_b), best_gain.mul(b));
        best_gain = left.select_greater(right, gain, best_gain);
        best_b = left.select_greater(right, b, best_b);
        best_t = left.select_greater(right, V::splat(t), best_t);
    }
    best_t.lanes()
}

/// [`sweep_f32`] with sums in f64.
fn sweep_f64(group: &Group<'_>, zeros: &Lanes, low: f32, keys: &[u64]) -> Lanes {
    let (first, top) = (zeros[0] as i32, group.top() as i32);
    let (mut a, mut b) = ([0.0f64; LANES], [0.0f64; LANES]);
    for (&w, &d) in group.w.iter().zip(group.d) {
        let code = (w * low).clamp(-group.top(), group.top()).round_ties_even();
        let (w, d) = (f64::from(w), f64::from(d));
        for i in 0..LANES {
            let c = f64::from(code.max(-zeros[i]).min(group.top() - zeros[i]));
            a[i] += d * w * c;
            b[i] += d * c * c;
        }
    }
    let mut best = [(0.0f64, 1.0f64, low); LANES];
    for i in 0..LANES {
        if b[i] > 0.0 {
            best[i] = (a[i] * a[i], b[i], low);
        }
    }
    for &key in keys {
        let (index, k) = ((key >> 8) as usize & (MAX_LEN - 1), key as i32 & 0xff);
        let (w, d) = (group.w[index], f64::from(group.d[index]));
        let t = f32::from_bits((key >> 32) as u32);
        let (more_a, more_b) = (d * f64::from(w.abs()), d * f64::from(2 * k + 1));
        let grows = &STEPS[growing(w, k, first, top)..][..LANES];
        for i in 0..LANES {
            let grows = f64::from(grows[i]);
            a[i] += grows * more_a;
            b[i] += grows * more_b;
            let gain = a[i] * a[i];
            let (best_gain, best_b, _) = best[i];
            if gain * best_b > best_gain * b[i] {
                best[i] = (gain, b[i], t);
            }
        }
    }
    best.map(|(_, _, t)| t)
}
