use super::*;
use crate::{Alone, Pool};

/// Numbers of about a standard deviation of 0.6.
fn floats(count: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 * 2 + 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Case {
    shape: AttentionShape,
    spans: Vec<Span>,
    /// Half the features that are turned.
    half: usize,
    /// Positions of the past; None: the cache holds it.
    past: Option<usize>,
}

/// The result and both caches.
type Results = (Vec<f32>, [Vec<f32>; 2]);

impl Case {
    fn inputs(&self) -> (Vec<f32>, [Vec<f32>; 2], [Vec<f32>; 2]) {
        let AttentionShape { heads, kv_heads, size, len, present } = self.shape;
        let rows = self.spans.len();
        let new = floats(rows * len * (heads + 2 * kv_heads) * size, 1);
        let positions = self.past.unwrap_or(present);
        let past = [2, 3].map(|seed| floats(rows * kv_heads * positions * size, seed));
        let turns = [4, 5].map(|seed| floats(present.max(2) * self.half, seed));
        (new, past, turns)
    }

    fn run(&self, threads: &dyn Threads) -> Results {
        let AttentionShape { heads, kv_heads, size, present, .. } = self.shape;
        let (new, past, [cos, sin]) = self.inputs();
        let width = (heads + 2 * kv_heads) * size;
        let tokens = |first| Tokens { data: &new, width, first };
        let attention = Attention {
            shape: self.shape,
            scale: 0.7,
            new: [tokens(0), tokens(heads * size), tokens((heads + kv_heads) * size)],
            rotary: (self.half > 0).then_some(Rotary { cos: &cos, sin: &sin, half: self.half }),
            spans: &self.spans,
            past: [0, 1].map(|i| self.past.map(|positions| Past { data: &past[i], positions })),
        };
        let empty = || vec![f32::NAN; self.spans.len() * kv_heads * present * size];
        let mut cache = if self.past.is_some() { [empty(), empty()] } else { past.clone() };
        let (mut turned, mut y) = (vec![0.0; attention.room()], vec![f32::NAN; attention.room()]);
        let [keys, values] = &mut cache;
        attention.run(threads, [keys, values], &mut turned, &mut y).unwrap();
        (y, cache)
    }

    /// The same in f64, by its definition.
    fn want(&self) -> (Vec<f64>, [Vec<f64>; 2]) {
        let AttentionShape { heads, kv_heads, size, len, present } = self.shape;
        let (new, past, [cos, sin]) = self.inputs();
        let (width, group) = ((heads + 2 * kv_heads) * size, heads / kv_heads);
        let turned = |row: usize, token: usize, head: usize| {
            let Span { first, keys } = self.spans[row];
            let from = (row * len + token) * width + head * size;
            let mut x: Vec<f64> = new[from..from + size].iter().map(|&it| it.into()).collect();
            let at = if first + token < keys { first + token } else { 1 };
            for i in 0..self.half {
                let turn = |of: &[f32]| f64::from(of[at * self.half + i]);
                let (a, b) = (x[i], x[i + self.half]);
                x[i] = a * turn(&cos) - b * turn(&sin);
                x[i + self.half] = b * turn(&cos) + a * turn(&sin);
            }
            x
        };
        let plain = |row: usize, token: usize, head: usize| -> Vec<f64> {
            let from = (row * len + token) * width + head * size;
            new[from..from + size].iter().map(|&it| it.into()).collect()
        };
        let positions = self.past.unwrap_or(present);
        let rows = self.spans.len();
        let mut cache = [0, 1].map(|_| vec![0.0; rows * kv_heads * present * size]);
        for (row, head) in (0..rows).flat_map(|row| (0..kv_heads).map(move |head| (row, head))) {
            let at = row * kv_heads + head;
            for (to, past) in cache.iter_mut().zip(&past) {
                // A cache that is kept holds what it held behind the new tokens, too.
                let kept = if self.past.is_some() { self.spans[row].first } else { present };
                for i in 0..kept * size {
                    to[at * present * size + i] = past[at * positions * size + i].into();
                }
            }
            for token in 0..len {
                let to = (at * present + self.spans[row].first + token) * size;
                let key = turned(row, token, heads + head);
                cache[0][to..to + size].copy_from_slice(&key);
                let value = plain(row, token, heads + kv_heads + head);
                cache[1][to..to + size].copy_from_slice(&value);
            }
        }
        let mut y = Vec::new();
        for (row, token, head) in (0..rows).flat_map(|row| {
            (0..len).flat_map(move |token| (0..heads).map(move |head| (row, token, head)))
        }) {
            let Span { first, keys } = self.spans[row];
            let from = (row * kv_heads + head / group) * present * size;
            let query = turned(row, token, head);
            let scores: Vec<f64> = (0..(first + token + 1).min(keys))
                .map(|at| {
                    let key = &cache[0][from + at * size..][..size];
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                    (0.7 * dot).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for i in 0..size {
                let value = |at: usize| cache[1][from + at * size + i];
                y.push(
                    scores.iter().enumerate().map(|(at, it)| it * value(at)).sum::<f64>() / total,
                );
            }
        }
        (y, cache)
    }
}

fn cases() -> Vec<Case> {
    let shape = |heads, kv_heads, size, len, present| AttentionShape {
        heads,
        kv_heads,
        size,
        len,
        present,
    };
    let span = |first, keys| Span { first, keys };
    vec![
        // One token: three heads to one, caches with room and without.
        Case { shape: shape(9, 3, 64, 1, 40), spans: vec![span(33, 34)], half: 32, past: None },
        Case { shape: shape(9, 3, 64, 1, 34), spans: vec![span(33, 34)], half: 32, past: Some(33) },
        // Several to a row of the batch each, other sizes of heads, and turns of a part of them.
        Case {
            shape: shape(10, 2, 40, 1, 30),
            spans: vec![span(9, 10), span(29, 30)],
            half: 10,
            past: None,
        },
        Case { shape: shape(4, 4, 128, 3, 20), spans: vec![span(6, 9)], half: 0, past: Some(12) },
        // Prompts: short ones, long ones, and padded ones.
        Case { shape: shape(2, 1, 16, 7, 7), spans: vec![span(0, 7)], half: 8, past: Some(0) },
        Case {
            shape: shape(4, 2, 72, 70, 70),
            spans: vec![span(0, 70), span(0, 41)],
            half: 36,
            past: Some(0),
        },
        Case { shape: shape(3, 1, 64, 65, 100), spans: vec![span(20, 85)], half: 32, past: None },
        // A head beyond the blocks of vectors, and tokens that do not fill a tile.
        Case { shape: shape(5, 1, 83, 6, 50), spans: vec![span(44, 50)], half: 20, past: None },
    ]
}

#[test]
fn results_are_those_of_the_definition() {
    for case in cases() {
        let (want, want_cache) = case.want();
        let (y, cache) = case.run(&Alone);
        let far = |got: &[f32], want: &[f64]| {
            let pairs = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs());
            assert_eq!(got.len(), want.len());
            assert!(got.iter().all(|it| it.is_finite()), "{:?}", case.shape);
            pairs.fold(0.0, f64::max)
        };
        assert!(far(&y, &want) < 2e-6, "{:?}: {}", case.shape, far(&y, &want));
        for (got, want) in cache.iter().zip(&want_cache) {
            assert!(far(got, want) < 5e-7, "{:?}", case.shape);
        }
    }
}

#[test]
fn threads_give_the_same_bits() {
    let pool = Pool::new(3);
    for case in cases() {
        assert_eq!(case.run(&Alone), case.run(&pool));
    }
}

#[test]
fn sizes_that_do_not_fit_are_told() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, size: 4, len: 1, present: 3 };
    let data = [0.0; 16];
    let tokens = |first| Tokens { data: &data, width: 16, first };
    let spans = [Span { first: 2, keys: 3 }];
    let good = Attention {
        shape,
        scale: 1.0,
        new: [tokens(0), tokens(8), tokens(12)],
        rotary: None,
        spans: &spans,
        past: [None; 2],
    };
    let run = |it: Attention<'_>, cache: usize| {
        let (mut keys, mut values) = (vec![0.0; cache], vec![0.0; cache]);
        let (mut turned, mut y) = (vec![0.0; it.room()], vec![0.0; it.room()]);
        let done = it.run(&Alone, [&mut keys, &mut values], &mut turned, &mut y);
        done.map_err(|error| error.to_string())
    };
    assert_eq!(run(good, 12), Ok(()));
    let wrong = |what: &str| Err(format!("attention: {what}"));
    assert_eq!(run(good, 11), wrong("the cache has not its size"));
    let late = [Span { first: 3, keys: 3 }];
    assert_eq!(run(Attention { spans: &late, ..good }, 12), wrong("tokens are beyond the cache"));
    let narrow = [tokens(0), tokens(8), tokens(13)];
    let told = wrong("new tokens have not their size");
    assert_eq!(run(Attention { new: narrow, ..good }, 12), told);
    let past = Some(Past { data: &data[..8], positions: 2 });
    assert_eq!(run(Attention { past: [past, None], ..good }, 12), Ok(()));
    let short = Some(Past { data: &data[..4], positions: 1 });
    let told = wrong("tokens do not follow the past");
    assert_eq!(run(Attention { past: [short, None], ..good }, 12), told);
    let rotary = Some(Rotary { cos: &data[..4], sin: &data[..4], half: 2 });
    let told = wrong("there are no turns for so many positions");
    assert_eq!(run(Attention { rotary, ..good }, 12), told);
}
