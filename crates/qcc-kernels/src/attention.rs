//! Causal attention over a cache of keys and values, where several heads of queries may share one
//! of keys and values (`com.microsoft.GroupQueryAttention`), in f32.
//!
//! New keys go behind the past of their row, turned by their positions like the queries. A few new
//! tokens run tile by tile over the cache, which is read once for the heads that share it;
//! more of them are products of blocks of queries with all keys that the block sees.

mod blocks;
mod tile;

use crate::Threads;
use crate::shared::Shared;

/// Most rows of queries, new tokens times heads of a group, that run without whole products.
const FEW: usize = 32;

/// Sizes of one computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads of queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Features of a head.
    pub size: usize,
    /// New tokens of a row of the batch.
    pub len: usize,
    /// Positions of a row of the cache.
    pub present: usize,
}

/// Where the new tokens of a row of the batch stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The position of the first one.
    pub first: usize,
    /// Keys that the row has with them; tokens from there on are padding.
    pub keys: usize,
}

/// Features of new tokens, `[tokens][width]`, those of the heads from `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// All of them.
    pub data: &'a [f32],
    /// Features of a token in `data`.
    pub width: usize,
    /// Where those of the first head begin in it.
    pub first: usize,
}

/// Turns of features by position: pairs are feature i and the one half the turned features on.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// `[positions][half]`.
    pub cos: &'a [f32],
    /// As `cos`.
    pub sin: &'a [f32],
    /// Half the features that are turned; at most half a head.
    pub half: usize,
}

/// Keys or values of the past, `[batch][kv_heads][positions][size]`, which the cache gets a copy of.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// All of them.
    pub data: &'a [f32],
    /// Positions of a head.
    pub positions: usize,
}

/// One computation.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Its sizes.
    pub shape: AttentionShape,
    /// Factor of the scores.
    pub scale: f32,
    /// New queries, keys and values, the rows of the batch one after the other.
    pub new: [Tokens<'a>; 3],
    /// How queries and keys are turned.
    pub rotary: Option<Rotary<'a>>,
    /// One for each row of the batch.
    pub spans: &'a [Span],
    /// Keys and values of the past; None where the cache holds them already.
    pub past: [Option<Past<'a>>; 2],
}

/// What does not fit in an [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attention: {0}")]
pub struct AttentionError(&'static str);

impl Attention<'_> {
    /// Floats of `turned` in [`Self::run`].
    #[must_use]
    pub fn room(&self) -> usize {
        let AttentionShape { heads, size, len, .. } = self.shape;
        self.spans.len() * heads * len * size
    }

    /// Multiplications of it, about.
    #[must_use]
    pub fn work(&self) -> usize {
        let AttentionShape { heads, size, len, .. } = self.shape;
        self.spans.iter().map(|it| 2 * heads * len * size * it.keys).sum()
    }

    /// Writes new keys and values into the cache, `[batch][kv_heads][present][size]` each, and the
    /// result `y: [batch][len][heads * size]`. `turned` is room.
    ///
    /// # Errors
    /// When sizes do not fit each other, before anything is written.
    pub fn run(
        &self,
        threads: &dyn Threads,
        cache: [&mut [f32]; 2],
        turned: &mut [f32],
        y: &mut [f32],
    ) -> Result<(), AttentionError> {
        let AttentionShape { heads, kv_heads, size, len, present } = self.shape;
        self.check([cache[0].len(), cache[1].len()], turned.len(), y.len())?;
        let [keys, values] = cache.map(Shared::new);
        let (turned, y) = (Shared::new(turned), Shared::new(y));
        let (rows, group) = (self.spans.len(), heads / kv_heads);
        let is_few = group * len <= FEW;
        threads.run(rows * kv_heads, &|range| {
            for i in range {
                let (row, head) = (i / kv_heads, i % kv_heads);
                let (cache, queries) = (present * size, group * len * size);
                // SAFETY: head `i` of the cache, and the queries of its group: `check` says that
                // there are so many, and each number is given to one thread.
                #[allow(unsafe_code)]
                let (keys, values, turned) = unsafe {
                    let of = |it: &Shared, len: usize| it.part(i * len..(i + 1) * len);
                    (of(&keys, cache), of(&values, cache), of(&turned, queries))
                };
                self.append(row, head, keys, values);
                self.turn(row, head, turned);
                if is_few {
                    let span = self.spans[row];
                    tile::run(size, len, span, [turned, keys, values], |query, result| {
                        let (of_group, token) = (query / len, query % len);
                        let at = ((row * len + token) * heads + head * group + of_group) * size;
                        // SAFETY: the result of one head for one token, which only this job has.
                        #[allow(unsafe_code)]
                        unsafe { y.part(at..at + size) }.copy_from_slice(result);
                    });
                }
            }
        });
        if is_few {
            return Ok(());
        }
        blocks::run(self, threads, [keys, values, turned, y]);
        Ok(())
    }

    fn check(&self, cache: [usize; 2], turned: usize, y: usize) -> Result<(), AttentionError> {
        let AttentionShape { heads, kv_heads, size, len, present } = self.shape;
        let fits = |fits: bool, what| if fits { Ok(()) } else { Err(AttentionError(what)) };
        let rows = self.spans.len();
        fits(kv_heads > 0 && size > 0 && heads.is_multiple_of(kv_heads), "heads do not divide")?;
        let all = rows * kv_heads * present * size;
        fits(cache == [all, all], "the cache has not its size")?;
        fits(turned == self.room() && y == self.room(), "the result has not its size")?;
        for (tokens, heads) in self.new.iter().zip([heads, kv_heads, kv_heads]) {
            let is_wide = tokens.first + heads * size <= tokens.width;
            let is_long = tokens.data.len() >= rows * len * tokens.width;
            fits(is_wide && is_long, "new tokens have not their size")?;
        }
        for past in self.past.iter().flatten() {
            let want = rows * kv_heads * past.positions * size;
            fits(past.data.len() == want, "the past has not its size")?;
            fits(past.positions <= present, "the past is longer than the cache")?;
            let has_all = self.spans.iter().all(|it| it.first <= past.positions);
            fits(has_all, "tokens do not follow the past")?;
        }
        let is_in = |it: &Span| it.first + len <= present && it.keys <= present;
        fits(self.spans.iter().all(is_in), "tokens are beyond the cache")?;
        if let Some(Rotary { cos, sin, half }) = self.rotary {
            fits(2 * half <= size && cos.len() == sin.len(), "turns do not fit a head")?;
            let last = self.spans.iter().map(|it| it.first + len).max().unwrap_or(0);
            fits(cos.len() >= last.max(2) * half, "there are no turns for so many positions")?;
        }
        Ok(())
    }

    /// The position of a new token, as far as turns go: padding stands at 1.
    fn position(&self, row: usize, token: usize) -> usize {
        let Span { first, keys } = self.spans[row];
        if first + token < keys { first + token } else { 1 }
    }

    /// Writes past and new keys and values of a head.
    fn append(&self, row: usize, head: usize, keys: &mut [f32], values: &mut [f32]) {
        let AttentionShape { kv_heads, size, len, .. } = self.shape;
        let first = self.spans[row].first;
        for (to, past) in [&mut *keys, &mut *values].into_iter().zip(self.past) {
            if let Some(Past { data, positions }) = past {
                let from = (row * kv_heads + head) * positions * size;
                let (near, far) = to.split_at_mut(first * size);
                near.copy_from_slice(&data[from..from + first * size]);
                far[len * size..].fill(0.0);
            }
        }
        for token in 0..len {
            let at = (first + token) * size;
            let key = &mut keys[at..at + size];
            key.copy_from_slice(self.new[1].head(row * len + token, head, size));
            if let Some(rotary) = &self.rotary {
                rotary.turn(self.position(row, token), key);
            }
            values[at..at + size].copy_from_slice(self.new[2].head(row * len + token, head, size));
        }
    }

    /// Queries of the group of a head, `[group][len][size]`, turned and scaled.
    fn turn(&self, row: usize, head: usize, turned: &mut [f32]) {
        let AttentionShape { heads, kv_heads, size, len, .. } = self.shape;
        let group = heads / kv_heads;
        for (i, to) in turned.chunks_exact_mut(size).enumerate() {
            let (of_group, token) = (i / len, i % len);
            to.copy_from_slice(self.new[0].head(row * len + token, head * group + of_group, size));
            if let Some(rotary) = &self.rotary {
                rotary.turn(self.position(row, token), to);
            }
            to.iter_mut().for_each(|it| *it *= self.scale);
        }
    }
}

/// Keys that a new token of a row sees.
fn end(span: Span, token: usize) -> usize {
    (span.first + token + 1).min(span.keys.max(1))
}

impl<'a> Tokens<'a> {
    fn head(&self, token: usize, head: usize, size: usize) -> &'a [f32] {
        &self.data[token * self.width + self.first + head * size..][..size]
    }
}

impl Rotary<'_> {
    fn turn(&self, position: usize, head: &mut [f32]) {
        let at = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        let (a, b) = head[..2 * self.half].split_at_mut(self.half);
        for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests;
