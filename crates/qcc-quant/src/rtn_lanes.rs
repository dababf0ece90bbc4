//! Round to nearest with a row in each lane of a vector.
//!
//! A block of rows is read as `[K][rows]`, the order of a `MatMul` weight, so that the range of a
//! group needs no steps across lanes. Codes are joined to bytes in the lanes, and only these bytes
//! are turned into rows. Each weight is read once, while its group is in the cache.

use crate::{
    error::{SquaredError, sum},
    fields::field_bytes,
    numbers::NumbersMut,
    rows::WeightRows,
    rtn::{BATCH, Grids},
    simd::{LANES, ROUNDER, Vector, VectorKernel, dispatch_vectors, transpose_bytes},
    spec::WeightSpec,
};
use rayon::prelude::*;
use std::ops::Range;

/// Most rows of a block.
const ROWS: usize = 256;
/// Most floats of a tile, if it has more than [`LANES`] rows.
const TILE_FLOATS: usize = 1 << 20;

/// Rounds `rows` into `out`.
pub(crate) fn rtn_lanes(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    out: NumbersMut<'_>,
) -> SquaredError {
    let (n, k) = (rows.n(), rows.k());
    if n == 0 || k == 0 {
        return SquaredError::default();
    }
    let NumbersMut { field, codes, scales, zeros } = out;
    let size = spec.group.len(k);
    // Codes of a vector of bytes: spans are whole groups and whole vectors of bytes.
    let chunk = LANES * usize::from(8 / field);
    let span = size / gcd(size, chunk) * chunk;
    let span = span.min(k.next_multiple_of(chunk));
    let lanes =
        (TILE_FLOATS / span / LANES * LANES).clamp(LANES, ROWS).min(n.next_multiple_of(LANES));
    let row_bytes = field_bytes(k, field).unwrap_or(usize::MAX);
    assert_eq!(codes.len(), n * row_bytes, "fields of these rows");
    let groups = spec.group.count(k);
    let blocks = codes
        .par_chunks_mut(lanes * row_bytes)
        .zip(scales.par_chunks_mut(lanes * groups).zip(zeros.par_chunks_mut(lanes * groups)));
    let turned = rows.transposed();
    let errors: Vec<SquaredError> = blocks
        .enumerate()
        .map_init(
            || Scratch::new(span, span.div_ceil(size), lanes),
            |scratch, (block, (codes, (scales, zeros)))| {
                let first = block * lanes;
                let count = lanes.min(n - first);
                let mut error = SquaredError::default();
                for left in (0..k).step_by(span) {
                    let width = span.min(k - left);
                    scratch.read(&turned, first, count, left, width);
                    let first_byte = left * usize::from(field) / 8;
                    error = error
                        + dispatch_vectors(Span {
                            spec,
                            field,
                            size,
                            width,
                            count,
                            scratch,
                            next: Next { turned: &turned, first, left: left + span },
                            codes: Lines { data: codes, stride: row_bytes, first: first_byte },
                            scales: Lines { data: scales, stride: groups, first: left / size },
                            zeros: Lines { data: zeros, stride: groups, first: left / size },
                        });
                }
                error
            },
        )
        .collect();
    errors.into_iter().fold(SquaredError::default(), |sum, it| sum + it)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Buffers of a task. A vector is [`LANES`] rows.
struct Scratch {
    lanes: usize,
    /// `[span][vectors]`, 0 where there is no weight.
    tile: Vec<[f32; LANES]>,
    /// `[groups + 1][vectors]`; the last group is that of codes behind the end of a row, which
    /// are 0.
    grids: Vec<Stored>,
    /// The group of each column of a span.
    grid_of: Vec<usize>,
    /// What [`WeightRows::read_tile`] gives when there are fewer rows than lanes.
    narrow: Vec<f32>,
}

impl Scratch {
    fn new(span: usize, groups: usize, lanes: usize) -> Self {
        let vectors = lanes / LANES;
        Self {
            lanes,
            tile: vec![[0.0; LANES]; span * vectors],
            grids: vec![[[0.0; LANES]; 3]; (groups + 1) * vectors],
            grid_of: vec![0; span],
            narrow: Vec::new(),
        }
    }

    /// `turned` is the weight with rows and columns exchanged.
    fn read(
        &mut self,
        turned: &WeightRows<'_>,
        first: usize,
        count: usize,
        left: usize,
        width: usize,
    ) {
        let lanes = self.lanes;
        let (tile, rest) = self.tile.as_flattened_mut().split_at_mut(width * lanes);
        rest.fill(0.0);
        if count == lanes {
            turned.read_tile(left, first, lanes, tile);
            return;
        }
        self.narrow.resize(width * count, 0.0);
        turned.read_tile(left, first, count, &mut self.narrow);
        tile.fill(0.0);
        for (wide, narrow) in tile.chunks_exact_mut(lanes).zip(self.narrow.chunks_exact(count)) {
            wide[..count].copy_from_slice(narrow);
        }
    }
}

/// Rows of a block, from one column on.
struct Lines<'a, T> {
    data: &'a mut [T],
    stride: usize,
    first: usize,
}

impl<T: Copy> Lines<'_, T> {
    #[inline(always)]
    fn set(&mut self, row: usize, column: usize, value: T) {
        self.data[row * self.stride + self.first + column] = value;
    }
}

/// The span that comes next.
struct Next<'a> {
    /// The weight with rows and columns exchanged.
    turned: &'a WeightRows<'a>,
    /// First row of the block.
    first: usize,
    /// First column of the span, or none.
    left: usize,
}

impl Next<'_> {
    /// Asks for the columns of a vector of rows; the CPU does not foresee lines so far apart, and
    /// holds few that are under way, so that a whole span at once would wait.
    #[inline(always)]
    fn prefetch(&self, vector: usize, columns: Range<usize>, count: usize) {
        let (k, row) = (self.turned.n(), vector * LANES);
        let start = (self.left + columns.start).min(k);
        let rows = columns.len().min(k - start);
        self.turned.prefetch(start, rows, self.first + row, LANES.min(count.saturating_sub(row)));
    }
}

/// Whole groups of the rows of a block.
struct Span<'a> {
    spec: &'a WeightSpec,
    field: u8,
    /// Weights of a group.
    size: usize,
    /// Weights of a row in this span.
    width: usize,
    /// Rows.
    count: usize,
    scratch: &'a mut Scratch,
    next: Next<'a>,
    codes: Lines<'a, u8>,
    scales: Lines<'a, f32>,
    zeros: Lines<'a, u8>,
}

impl VectorKernel for Span<'_> {
    type Output = SquaredError;
    #[inline(always)]
    fn run<V: Vector>(mut self) -> SquaredError {
        let groups = self.width.div_ceil(self.size);
        for group in 0..groups {
            self.grids::<V>(group);
        }
        let Scratch { lanes, grids, grid_of, .. } = &mut *self.scratch;
        let vectors = *lanes / LANES;
        grids[groups * vectors..][..vectors].fill([[0.0; LANES]; 3]);
        let (used, rest) = grid_of.split_at_mut(self.width);
        rest.fill(groups);
        for (group, columns) in used.chunks_mut(self.size).enumerate() {
            columns.fill(group);
        }
        match self.field {
            2 => self.codes::<V, 4>(),
            4 => self.codes::<V, 2>(),
            _ => self.codes::<V, 1>(),
        }
    }
}

impl Span<'_> {
    /// Scale and zero point of one group of every row.
    #[inline(always)]
    fn grids<V: Vector>(&mut self, group: usize) {
        const BATCH_VECTORS: usize = BATCH / LANES;
        let Scratch { lanes, tile, grids: stored, .. } = &mut *self.scratch;
        let vectors = *lanes / LANES;
        let start = group * self.size;
        let lines = &tile[start * vectors..self.width.min(start + self.size) * vectors];
        for top in (0..vectors).step_by(BATCH_VECTORS) {
            let count = BATCH_VECTORS.min(vectors - top);
            let mut grids = Grids::default();
            let lows = grids.low.as_chunks_mut().0.iter_mut();
            let highs = grids.high.as_chunks_mut().0.iter_mut();
            for (vector, (low, high)) in lows.zip(highs).enumerate().take(count) {
                let (mut least, mut largest) = (V::splat(0.0), V::splat(0.0));
                for line in lines.chunks_exact(vectors) {
                    let w = V::load(&line[top + vector]);
                    (least, largest) = (w.min(least), w.max(largest));
                }
                least.store(low);
                largest.store(high);
            }
            grids.choose(self.spec, count * LANES, &|lane| {
                let (vector, lane) = (top + lane / LANES, lane % LANES);
                lines.chunks_exact(vectors).map(move |line| line[vector][lane])
            });
            let inverses = grids.inverse.as_chunks().0.iter();
            let scales = grids.scale.as_chunks().0.iter();
            let zeros = grids.zero.as_chunks::<LANES>().0.iter();
            let stored = &mut stored[group * vectors + top..][..count];
            for (stored, ((inverse, scale), zero)) in
                stored.iter_mut().zip(inverses.zip(scales).zip(zeros))
            {
                *stored = [*inverse, *scale, zero.map(f32::from)];
            }
            let first = top * LANES;
            for lane in 0..(count * LANES).min(self.count.saturating_sub(first)) {
                self.scales.set(first + lane, group, grids.scale[lane]);
                self.zeros.set(first + lane, group, grids.zero[lane]);
            }
        }
    }

    /// The codes, `PER` of them in a byte.
    #[inline(always)]
    fn codes<V: Vector, const PER: usize>(&mut self) -> SquaredError {
        let Scratch { lanes, tile, grids, grid_of, .. } = &*self.scratch;
        let vectors = *lanes / LANES;
        let mut join = Join::<V, PER> {
            max_code: V::splat(f32::from(self.spec.bits.max_code())),
            step: V::splat(f32::from(1u8 << (8 / PER % 8))),
            energy: V::splat(0.0),
            squared: V::splat(0.0),
        };
        let bytes = self.width.div_ceil(PER);
        let is_one_group = self.size.is_multiple_of(LANES * PER);
        for vector in 0..vectors {
            for left in (0..bytes).step_by(LANES) {
                let columns = left * PER..(left + LANES) * PER;
                self.next.prefetch(vector, columns.clone(), self.count);
                let lines = &tile[columns.start * vectors..columns.end * vectors];
                let grid_of = &grid_of[columns];
                let grid = |group: usize| Grid::<V>::load(&grids[group * vectors + vector]);
                let joined = if is_one_group {
                    let grid = grid(grid_of[0]);
                    join.bytes(lines, vectors, vector, |_| grid)
                } else {
                    join.bytes(lines, vectors, vector, |i| grid(grid_of[i]))
                };
                let width = LANES.min(bytes - left);
                let rows = transpose_bytes(joined);
                for (row, line) in (vector * LANES..self.count).zip(rows) {
                    let at = row * self.codes.stride + self.codes.first + left;
                    let out = &mut self.codes.data[at..at + width];
                    match <&mut [u8; LANES]>::try_from(&mut *out) {
                        Ok(out) => *out = line,
                        Err(_) => out.copy_from_slice(&line[..width]),
                    }
                }
            }
        }
        SquaredError { energy: sum(join.energy.lanes()), squared: sum(join.squared.lanes()) }
    }
}

/// Grids of a group of [`LANES`] rows: inverse, scale, zero point, each a vector.
type Stored = [[f32; LANES]; 3];

/// The same in registers.
#[derive(Clone, Copy)]
struct Grid<V> {
    inverse: V,
    scale: V,
    zero: V,
}

impl<V: Vector> Grid<V> {
    #[inline(always)]
    fn load([inverse, scale, zero]: &Stored) -> Self {
        Self { inverse: V::load(inverse), scale: V::load(scale), zero: V::load(zero) }
    }
}

/// Rounds vectors, and sums what it costs.
struct Join<V, const PER: usize> {
    max_code: V,
    /// Codes of a field: what a code counts more than the one before it in a byte.
    step: V,
    energy: V,
    squared: V,
}

impl<V: Vector, const PER: usize> Join<V, PER> {
    /// [`LANES`] bytes of codes of as many rows. `lines: [LANES * PER][vectors]`.
    #[inline(always)]
    fn bytes(
        &mut self,
        lines: &[[f32; LANES]],
        vectors: usize,
        vector: usize,
        grid: impl Fn(usize) -> Grid<V>,
    ) -> [[u8; LANES]; LANES] {
        let mut joined = [[0u8; LANES]; LANES];
        for (i, (joined, lines)) in
            joined.iter_mut().zip(lines.chunks_exact(PER * vectors)).enumerate()
        {
            let mut byte = V::splat(ROUNDER);
            let mut place = V::splat(1.0);
            for (j, line) in lines.chunks_exact(vectors).enumerate() {
                let Grid { inverse, scale, zero } = grid(i * PER + j);
                let w = V::load(&line[vector]);
                let (low, high) = (V::splat(0.0).sub(zero), self.max_code.sub(zero));
                let steps = w.mul(inverse).max(low).min(high).round();
                let off = w.sub(scale.mul(steps));
                self.energy = self.energy.add(w.mul(w));
                self.squared = self.squared.add(off.mul(off));
                byte = byte.add(steps.add(zero).mul(place));
                place = place.mul(self.step);
            }
            byte.store_low_bytes(joined);
        }
        joined
    }
}
