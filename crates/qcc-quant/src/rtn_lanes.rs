//! Round to nearest with a row in each lane of a vector.
//!
//! A block of rows is read as `[K][rows]`, the order of a `MatMul` weight, so that the range of a
//! group needs no steps across lanes. Codes are joined to words in the lanes, and only these words
//! are turned into rows. Each weight is read once from memory, and twice from the tile it lies in.

use crate::{
    error::{SquaredError, sum},
    fields::field_bytes,
    numbers::NumbersMut,
    rows::{Order, WeightRows},
    rtn::{BATCH, Grids},
    simd::{LANES, ROUNDER, Vector, VectorKernel, dispatch_vectors, transpose_words},
    spec::WeightSpec,
};
use rayon::prelude::*;

/// Rows that are rounded together, one in each lane of [`VECTORS`] vectors.
const BLOCK: usize = BATCH;
const VECTORS: usize = BLOCK / LANES;
/// Most floats of the tile of a task, if it has more than a block: what a usual second cache holds.
const TILE_FLOATS: usize = 1 << 18;

/// Bytes of codes that a row gets at a time: a line of the cache. One that is written in parts has
/// left the first cache before the next part comes.
const LINE: usize = 64;

/// Most blocks of a task whose rows lie in one piece each: columns of long ones are far apart.
const ROW_BLOCKS: usize = 4;
/// Vectors between two columns of a tile beside its rows, where a task may have many of them: with
/// none, columns whose rows are a power of two would share few places of the first cache.
const GAP: usize = 1;

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
    // Spans are whole groups and whole lines of bytes, or a row in whole vectors of bytes.
    let per = usize::from(8 / field);
    let span = size / gcd(size, LINE * per) * LINE * per;
    let span = span.min(k.next_multiple_of(LANES * per));
    // The more rows a task has, the longer the parts of a `[K][N]` weight that it reads at a time.
    let blocks = n.div_ceil(BLOCK).div_ceil(rayon::current_num_threads());
    let most = (TILE_FLOATS / span / BLOCK).max(1);
    let (most, gap) = match rows.order() {
        Order::Kn => (most, GAP),
        Order::Nk => (most.min(ROW_BLOCKS), 0),
    };
    let lanes = blocks.min(most) * BLOCK;
    let row_bytes = field_bytes(k, field).unwrap_or(usize::MAX);
    assert_eq!(codes.len(), n * row_bytes, "fields of these rows");
    let groups = spec.group.count(k);
    let tasks = codes
        .par_chunks_mut(lanes * row_bytes)
        .zip(scales.par_chunks_mut(lanes * groups).zip(zeros.par_chunks_mut(lanes * groups)));
    let turned = rows.transposed();
    let errors: Vec<Vec<SquaredError>> = tasks
        .enumerate()
        .map_init(
            || Scratch::new(span, span.div_ceil(size), lanes / LANES + gap),
            |scratch, (task, (codes, (scales, zeros)))| {
                let first = task * lanes;
                let count = lanes.min(n - first);
                let mut errors = vec![SquaredError::default(); count.div_ceil(BLOCK)];
                for left in (0..k).step_by(span) {
                    let width = span.min(k - left);
                    scratch.read(&turned, first, count, left, width);
                    let first_byte = left * usize::from(field) / 8;
                    for (block, error) in errors.iter_mut().enumerate() {
                        let row = block * BLOCK;
                        *error = *error
                            + dispatch_vectors(Span {
                                spec,
                                field,
                                size,
                                width,
                                count: BLOCK.min(count - row),
                                tile: Tile {
                                    vectors: &scratch.tile[row / LANES..],
                                    stride: scratch.stride,
                                },
                                grids: &mut scratch.grids,
                                grid_of: &mut scratch.grid_of,
                                codes: Lines::new(codes, row, row_bytes, first_byte),
                                scales: Lines::new(scales, row, groups, left / size),
                                zeros: Lines::new(zeros, row, groups, left / size),
                            });
                    }
                }
                errors
            },
        )
        .collect();
    // Block by block, whatever tasks they were in.
    errors.into_iter().flatten().fold(SquaredError::default(), |sum, it| sum + it)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Buffers of a task.
struct Scratch {
    /// Vectors from one column of the tile to the next.
    stride: usize,
    /// `[span][stride]`, 0 where there is no weight.
    tile: Vec<[f32; LANES]>,
    /// `[groups + 1]`, of one block; the last group is that of codes behind the end of a row,
    /// which are 0.
    grids: Vec<[Stored; VECTORS]>,
    /// The group of each column of a span.
    grid_of: Vec<usize>,
    /// Fewer rows than the tile has lanes, as [`WeightRows::read_tile`] gives them.
    block: Vec<f32>,
}

impl Scratch {
    fn new(span: usize, groups: usize, stride: usize) -> Self {
        Self {
            stride,
            tile: vec![[0.0; LANES]; stride * span],
            grids: vec![[[[0.0; LANES]; 3]; VECTORS]; groups + 1],
            grid_of: vec![0; span],
            block: Vec::new(),
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
        let (tile, rest) = self.tile.split_at_mut(width * self.stride);
        rest.fill([0.0; LANES]);
        let lines = tile.chunks_exact_mut(self.stride).map(<[_]>::as_flattened_mut);
        if turned.order() == Order::Nk {
            for (column, line) in lines.enumerate() {
                line[count..].fill(0.0);
                turned.read_tile(left + column, first, count, &mut line[..count]);
            }
            return;
        }
        if count == self.stride * LANES {
            turned.read_tile(left, first, count, tile.as_flattened_mut());
            return;
        }
        self.block.resize(width * count, 0.0);
        turned.read_tile(left, first, count, &mut self.block);
        for (line, column) in lines.zip(self.block.chunks_exact(count)) {
            line[..count].copy_from_slice(column);
            line[count..].fill(0.0);
        }
    }
}

/// Weights of a block, column by column.
#[derive(Clone, Copy)]
struct Tile<'a> {
    vectors: &'a [[f32; LANES]],
    /// Vectors from one column to the next.
    stride: usize,
}

impl Tile<'_> {
    /// One vector of a column.
    #[inline(always)]
    fn at(&self, column: usize, vector: usize) -> &[f32; LANES] {
        &self.vectors[column * self.stride + vector]
    }
}

/// Rows of a block, from one column on.
struct Lines<'a, T> {
    data: &'a mut [T],
    stride: usize,
    first: usize,
}

impl<'a, T: Copy> Lines<'a, T> {
    fn new(data: &'a mut [T], row: usize, stride: usize, first: usize) -> Self {
        Self { data: &mut data[row * stride..], stride, first }
    }

    #[inline(always)]
    fn set(&mut self, row: usize, column: usize, value: T) {
        self.data[row * self.stride + self.first + column] = value;
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
    tile: Tile<'a>,
    grids: &'a mut [[Stored; VECTORS]],
    grid_of: &'a mut [usize],
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
            self.choose::<V>(group);
        }
        for row in 0..self.count {
            let (vector, lane) = (row / LANES, row % LANES);
            for (group, grid) in self.grids[..groups].iter().enumerate() {
                let [_, scale, zero] = &grid[vector];
                self.scales.set(row, group, scale[lane]);
                self.zeros.set(row, group, zero[lane] as u8);
            }
        }
        self.grids[groups] = [[[0.0; LANES]; 3]; VECTORS];
        let (used, rest) = self.grid_of.split_at_mut(self.width);
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
    fn choose<V: Vector>(&mut self, group: usize) {
        let start = group * self.size;
        let columns = start..self.width.min(start + self.size);
        let mut ends = [(V::splat(0.0), V::splat(0.0)); VECTORS];
        for column in columns.clone() {
            for (vector, (low, high)) in ends.iter_mut().enumerate() {
                let w = V::load(self.tile.at(column, vector));
                (*low, *high) = (w.min(*low), w.max(*high));
            }
        }
        let mut grids = Grids::default();
        let lows = grids.low.as_chunks_mut().0.iter_mut();
        let highs = grids.high.as_chunks_mut().0.iter_mut();
        for ((least, largest), (low, high)) in ends.into_iter().zip(lows.zip(highs)) {
            least.store(low);
            largest.store(high);
        }
        grids.choose(self.spec, BLOCK, &|lane| {
            let tile = self.tile;
            columns.clone().map(move |column| tile.at(column, lane / LANES)[lane % LANES])
        });
        let inverses = grids.inverse.as_chunks().0.iter();
        let scales = grids.scale.as_chunks().0.iter();
        let zeros = grids.zero.as_chunks::<LANES>().0.iter();
        for (stored, ((inverse, scale), zero)) in
            self.grids[group].iter_mut().zip(inverses.zip(scales).zip(zeros))
        {
            *stored = [*inverse, *scale, zero.map(f32::from)];
        }
    }

    /// The codes, `PER` of them in a byte.
    #[inline(always)]
    fn codes<V: Vector, const PER: usize>(&mut self) -> SquaredError {
        let Self { tile, grids, grid_of, codes: out, .. } = self;
        let mut join = Join::<V, PER> {
            max_code: V::splat(f32::from(self.spec.bits.max_code())),
            step: V::splat(f32::from(1u16 << (8 / PER))),
            energy: V::splat(0.0),
            squared: V::splat(0.0),
        };
        let bytes = self.width.div_ceil(PER);
        let is_one_group = self.size.is_multiple_of(LANES * PER);
        for vector in 0..VECTORS {
            for first in (0..bytes).step_by(LINE) {
                let mut rows = [[[0; LANES]; LINE / LANES]; LANES];
                let end = bytes.min(first + LINE);
                for (part, left) in (first..end).step_by(LANES).enumerate() {
                    let columns = left * PER..(left + LANES) * PER;
                    let grid_of = &grid_of[columns.clone()];
                    let grid = |group: usize| Grid::<V>::load(&grids[group][vector]);
                    let words = if is_one_group {
                        let grid = grid(grid_of[0]);
                        join.words(*tile, columns.start, vector, |_| grid)
                    } else {
                        join.words(*tile, columns.start, vector, |i| grid(grid_of[i]))
                    };
                    for (row, bytes) in rows.iter_mut().zip(transpose_words(words)) {
                        row[part] = bytes;
                    }
                }
                for (row, line) in (vector * LANES..self.count).zip(&rows) {
                    let at = row * out.stride + out.first + first;
                    let out = &mut out.data[at..at + end - first];
                    let line = line.as_flattened();
                    match <&mut [u8; LINE]>::try_from(&mut *out) {
                        Ok(out) => out.copy_from_slice(line),
                        Err(_) => out.copy_from_slice(&line[..end - first]),
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
    /// The scale, negative.
    less: V,
    zero: V,
}

impl<V: Vector> Grid<V> {
    #[inline(always)]
    fn load([inverse, scale, zero]: &Stored) -> Self {
        let less = V::splat(0.0).sub(V::load(scale));
        Self { inverse: V::load(inverse), less, zero: V::load(zero) }
    }
}

/// Rounds vectors, and sums what it costs.
struct Join<V, const PER: usize> {
    max_code: V,
    /// What a code counts more than the one before it in 16 bits.
    step: V,
    energy: V,
    squared: V,
}

impl<V: Vector, const PER: usize> Join<V, PER> {
    /// [`LANES`] bytes of codes of the rows of one vector, from a column on.
    #[inline(always)]
    fn words(
        &mut self,
        tile: Tile<'_>,
        first: usize,
        vector: usize,
        grid: impl Fn(usize) -> Grid<V>,
    ) -> [[u32; LANES]; LANES / 4] {
        let mut words = [[0; LANES]; LANES / 4];
        for (i, words) in words.iter_mut().enumerate() {
            let [low, high] = [4 * PER * i, 4 * PER * i + 2 * PER];
            let low = self.half(tile, first, vector, low, &grid);
            let high = self.half(tile, first, vector, high, &grid);
            low.store_halves(high, words);
        }
        words
    }

    /// The 16 bits that begin with a column behind the first.
    #[inline(always)]
    fn half(
        &mut self,
        tile: Tile<'_>,
        first: usize,
        vector: usize,
        column: usize,
        grid: &impl Fn(usize) -> Grid<V>,
    ) -> V {
        let mut half = V::splat(ROUNDER);
        let mut place = V::splat(1.0);
        for column in column..column + 2 * PER {
            let Grid { inverse, less, zero } = grid(column);
            let w = V::load(tile.at(first + column, vector));
            let (low, high) = (V::splat(0.0).sub(zero), self.max_code.sub(zero));
            let steps = w.mul(inverse).max(low).min(high).round();
            let off = steps.mul_add(less, w);
            self.energy = w.mul_add(w, self.energy);
            self.squared = off.mul_add(off, self.squared);
            half = steps.add(zero).mul_add(place, half);
            place = place.mul(self.step);
        }
        half
    }
}
