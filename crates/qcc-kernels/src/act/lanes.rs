//! Activations as floats, rows side by side, for what multiplies single inputs.

use super::Activations;
use crate::threads::Threads;
use std::sync::{Mutex, PoisonError};

/// Rows of activations as floats: blocks of 16 side by side, `[k][16]`, the last one of as few as
/// hold what is left. Keeps its memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    rows: usize,
    k: usize,
    values: Vec<f32>,
}

/// Most rows side by side.
const MOST: usize = 16;

/// Rows side by side when so many are left.
fn width(left: usize) -> usize {
    match left {
        0 | 1 => 1,
        2..=4 => 4,
        5..=8 => 8,
        _ => MOST,
    }
}

impl Lanes {
    /// Most rows side by side.
    pub(crate) const MOST: usize = MOST;

    /// Whether it holds so many rows of `k`.
    pub(crate) fn holds(&self, rows: usize, k: usize) -> bool {
        (self.rows, self.k) == (rows, k)
    }

    /// Holds nothing.
    pub(crate) fn clear(&mut self) {
        self.rows = 0;
        self.k = 0;
    }

    /// Takes rows `x[rows][k]`.
    pub(crate) fn fill(&mut self, threads: &dyn Threads, x: &[f32], k: usize) {
        let rows = x.len().checked_div(k).unwrap_or(0);
        (self.rows, self.k) = (rows, k);
        if rows == 0 {
            return;
        }
        let whole = rows / MOST * MOST;
        let last = if rows == whole { 0 } else { width(rows - whole) };
        let len = (whole + last) * k;
        if self.values.len() < len {
            self.values.resize(len, 0.0);
        }
        let turn = |out: &mut [f32], x: &[f32]| {
            let count = x.len() / k;
            match width(count) {
                1 => out.copy_from_slice(x),
                4 => side_by_side::<4>(out, x, k),
                8 => side_by_side::<8>(out, x, k),
                _ => side_by_side::<MOST>(out, x, k),
            }
        };
        let mut parts = self.values[..len].chunks_mut(MOST * k).zip(x.chunks(MOST * k));
        if rows <= MOST {
            parts.for_each(|(out, x)| turn(out, x));
            return;
        }
        // Each is taken by one thread.
        let parts: Vec<_> = parts.by_ref().map(Mutex::new).collect();
        threads.run(parts.len(), &|range| {
            for part in &parts[range] {
                let (out, x) = &mut *part.lock().unwrap_or_else(PoisonError::into_inner);
                turn(out, x);
            }
        });
    }

    /// How many rows of block `block` lie side by side, and the block: `[k][width]`.
    pub(crate) fn block(&self, block: usize) -> (usize, &[f32]) {
        let (start, width) = (block * MOST * self.k, width(self.rows - block * MOST));
        (width, &self.values[start..start + width * self.k])
    }
}

/// `x[rows][k]` as `out[k][L]`; what is left of L is zeros.
fn side_by_side<const L: usize>(out: &mut [f32], x: &[f32], k: usize) {
    for (column, out) in out.as_chunks_mut::<L>().0.iter_mut().enumerate() {
        for (out, row) in
            out.iter_mut().zip(x.chunks_exact(k).map(Some).chain(std::iter::repeat(None)))
        {
            *out = row.map_or(0.0, |row| row[column]);
        }
    }
}

impl Activations {
    /// Keeps the rows that were quantized as floats too, which products with an
    /// [overlay](crate::Overlay) read.
    ///
    /// # Panics
    /// If `x` is not those rows.
    pub fn keep(&mut self, threads: &dyn Threads, x: &[f32]) {
        let k = self.layout.map_or(0, |it| it.k);
        assert_eq!(x.len(), self.rows * k, "the rows that were quantized");
        self.floats.fill(threads, x, k);
    }

    /// The rows as floats, if they were kept.
    pub(crate) fn floats(&self) -> Option<&Lanes> {
        let layout = self.layout?;
        Some(&self.floats).filter(|it| it.holds(self.rows, layout.k))
    }
}
