//! Copies between row-major cells and cells at any strides.
//!
//! Dimensions that run on from one another are merged first, so that what is contiguous is copied
//! in one piece. Two dimensions that change places are copied in square tiles. Large results are
//! written by several threads; each writes whole rows of its own.

use rayon::prelude::*;

/// Results of at least this many bytes are split among threads.
const PARALLEL_BYTES: usize = 1 << 20;
/// What one thread writes at a time.
const CHUNK_BYTES: usize = 1 << 17;
/// Edge of a tile in cells: 32 cells of 2 bytes fill a cache line.
const TILE: usize = 32;

/// Where the cells of a row-major result lie in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Dimensions of the result.
    pub(crate) dims: Vec<usize>,
    /// Distance in the source, in cells, of neighbors along each dimension.
    pub(crate) strides: Vec<isize>,
    /// Position of the first cell.
    pub(crate) start: isize,
}

impl View {
    /// All of a row-major source.
    pub(crate) fn of(dims: &[usize]) -> Self {
        let strides = row_major(dims).into_iter().map(|it| it as isize).collect();
        Self { dims: dims.to_vec(), strides, start: 0 }
    }

    /// The same cells with the dimensions in another order.
    pub(crate) fn permuted(&self, perm: &[usize]) -> Self {
        Self {
            dims: perm.iter().map(|&it| self.dims[it]).collect(),
            strides: perm.iter().map(|&it| self.strides[it]).collect(),
            start: self.start,
        }
    }

    /// Writes the cells of the view, of `width` bytes, one after the other.
    pub(crate) fn copy(&self, source: &[u8], width: usize, out: &mut [u8]) {
        match width {
            1 => self.copy_cells::<1>(source, out),
            2 => self.copy_cells::<2>(source, out),
            4 => self.copy_cells::<4>(source, out),
            8 => self.copy_cells::<8>(source, out),
            _ => self.copy_cells::<16>(source, out),
        }
    }

    fn copy_cells<const W: usize>(&self, source: &[u8], out: &mut [u8]) {
        let (source, out) = (source.as_chunks::<W>().0, out.as_chunks_mut::<W>().0);
        if out.is_empty() {
            return;
        }
        let (mut dims, mut strides) = self.merged();
        let (Some(len), Some(stride)) = (dims.pop(), strides.pop()) else {
            out[0] = source[self.start as usize];
            return;
        };
        if stride == 1 {
            let outer = Walk::new(dims, strides, self.start);
            return each_row(out, len, W, &outer, |from, row| {
                row.copy_from_slice(&source[from as usize..][..len]);
            });
        }
        if let (Some(&tall), Some(1)) = (dims.last(), strides.last()) {
            let (count, start) = (dims.len() - 1, self.start);
            let outer = Walk::new(dims[..count].to_vec(), strides[..count].to_vec(), start);
            let band = TILE * len;
            if tall * len * W >= PARALLEL_BYTES {
                let mut walk = outer;
                for plane in out.chunks_exact_mut(tall * len) {
                    let from = walk.offset;
                    plane.par_chunks_mut(band).enumerate().for_each(|(index, rows)| {
                        tiles(source, from + (index * TILE) as isize, stride, rows, len);
                    });
                    walk.step();
                }
                return;
            }
            return each_row(out, tall * len, W, &outer, |from, plane| {
                for (index, rows) in plane.chunks_mut(band).enumerate() {
                    tiles(source, from + (index * TILE) as isize, stride, rows, len);
                }
            });
        }
        let outer = Walk::new(dims, strides, self.start);
        each_row(out, len, W, &outer, |mut from, row| {
            if stride == 0 {
                return row.fill(source[from as usize]);
            }
            for cell in row {
                *cell = source[from as usize];
                from += stride;
            }
        });
    }

    /// Dimensions and strides without those of one element, neighbors that run on merged.
    fn merged(&self) -> (Vec<usize>, Vec<isize>) {
        let (mut dims, mut strides) = (Vec::<usize>::new(), Vec::<isize>::new());
        for (&dim, &stride) in self.dims.iter().zip(&self.strides) {
            if dim == 1 {
                continue;
            }
            if let (Some(last), Some(before)) = (dims.last_mut(), strides.last_mut())
                && *before == stride * dim as isize
            {
                *last *= dim;
                *before = stride;
            } else {
                dims.push(dim);
                strides.push(stride);
            }
        }
        (dims, strides)
    }
}

/// Distances in cells of neighbors along each dimension of a row-major tensor.
pub(crate) fn row_major(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for axis in (1..dims.len()).rev() {
        // Empty tensors may have other dimensions of any size; none of their strides is used.
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis]);
    }
    strides
}

/// Positions in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    dims: Vec<usize>,
    strides: Vec<isize>,
    at: Vec<usize>,
    /// Position now.
    pub(crate) offset: isize,
}

impl Walk {
    /// Starts at the first of the positions.
    pub(crate) fn new(dims: Vec<usize>, strides: Vec<isize>, start: isize) -> Self {
        Self { at: vec![0; dims.len()], dims, strides, offset: start }
    }

    /// Goes to the next one; after the last one, to the first.
    pub(crate) fn step(&mut self) {
        for axis in (0..self.dims.len()).rev() {
            self.at[axis] += 1;
            self.offset += self.strides[axis];
            if self.at[axis] < self.dims[axis] {
                return;
            }
            self.offset -= self.strides[axis] * self.dims[axis] as isize;
            self.at[axis] = 0;
        }
    }

    /// The walk as it is after `count` steps from its start.
    fn after(&self, mut count: usize) -> Self {
        let mut walk = self.clone();
        for axis in (0..self.dims.len()).rev() {
            let at = count % self.dims[axis];
            count /= self.dims[axis];
            walk.at[axis] = at;
            walk.offset += self.strides[axis] * at as isize;
        }
        walk
    }
}

/// Calls `write` with the position of each row and its `len` cells of `width` bytes.
pub(crate) fn each_row<T: Send>(
    out: &mut [T],
    len: usize,
    width: usize,
    outer: &Walk,
    write: impl Fn(isize, &mut [T]) + Sync,
) {
    if len == 0 || out.is_empty() {
        return;
    }
    let run = |mut walk: Walk, rows: &mut [T]| {
        for row in rows.chunks_exact_mut(len) {
            write(walk.offset, row);
            walk.step();
        }
    };
    if out.len() * width < PARALLEL_BYTES || out.len() == len {
        return run(outer.clone(), out);
    }
    let count = (CHUNK_BYTES / (len * width)).max(1);
    out.par_chunks_mut(count * len)
        .enumerate()
        .for_each(|(index, rows)| run(outer.after(index * count), rows));
}

/// Rows of `len` cells from columns of the source: row `i`, column `j` is `from + i + j * stride`.
///
/// Each tile goes through a small square, so that a cache line of either side is touched once and
/// strides that are powers of two do not make lines displace one another.
fn tiles<const W: usize>(
    source: &[[u8; W]],
    from: isize,
    stride: isize,
    rows: &mut [[u8; W]],
    len: usize,
) {
    let height = rows.len() / len;
    let mut square = [[[0u8; W]; TILE]; TILE];
    for first in (0..len).step_by(TILE) {
        let columns = first..(first + TILE).min(len);
        for (line, column) in square.iter_mut().zip(columns.clone()) {
            let start = (from + column as isize * stride) as usize;
            line[..height].copy_from_slice(&source[start..][..height]);
        }
        for (index, row) in rows.chunks_exact_mut(len).enumerate() {
            for (cell, line) in row[columns.clone()].iter_mut().zip(&square) {
                *cell = line[index % TILE];
            }
        }
    }
}

/// Blocks of `width` bytes by position: `out[o][i] = source[o][indices[i]]`, where the source has
/// `len` blocks for each `o`.
pub(crate) fn take(source: &[u8], len: usize, width: usize, indices: &[usize], out: &mut [u8]) {
    if indices.is_empty() || width == 0 {
        return;
    }
    let outer = out.len() / (indices.len() * width);
    match width {
        1 => take_cells::<1>(source, [outer, len], indices, out),
        2 => take_cells::<2>(source, [outer, len], indices, out),
        4 => take_cells::<4>(source, [outer, len], indices, out),
        8 => take_cells::<8>(source, [outer, len], indices, out),
        _ => {
            let size = out.len();
            let write = |at: usize, block: &mut [u8]| {
                let from = at / indices.len() * len + indices[at % indices.len()];
                block.copy_from_slice(&source[from * width..][..width]);
            };
            if size < PARALLEL_BYTES {
                for (at, block) in out.chunks_exact_mut(width).enumerate() {
                    write(at, block);
                }
            } else {
                let least = (CHUNK_BYTES / width).max(1);
                out.par_chunks_exact_mut(width)
                    .with_min_len(least)
                    .enumerate()
                    .for_each(|(at, block)| write(at, block));
            }
        }
    }
}

fn take_cells<const W: usize>(
    source: &[u8],
    [outer, len]: [usize; 2],
    indices: &[usize],
    out: &mut [u8],
) {
    let outer = Walk::new(vec![outer], vec![len as isize], 0);
    let (source, out) = (source.as_chunks::<W>().0, out.as_chunks_mut::<W>().0);
    each_row(out, indices.len(), W, &outer, |from, row| {
        let line = &source[from as usize..];
        for (cell, &index) in row.iter_mut().zip(indices) {
            *cell = line[index];
        }
    });
}

/// Writes row-major cells of `width` bytes to the places that a view of the destination names.
pub(crate) fn put(source: &[u8], width: usize, place: &View, out: &mut [u8]) {
    let (mut dims, mut strides) = place.merged();
    if source.is_empty() || width == 0 {
        return;
    }
    let len = match (dims.last(), strides.last()) {
        (Some(&len), Some(1)) => {
            dims.pop();
            strides.pop();
            len
        }
        _ => 1,
    };
    let mut walk = Walk::new(dims, strides, place.start);
    for row in source.chunks_exact(len * width) {
        out[walk.offset as usize * width..][..len * width].copy_from_slice(row);
        walk.step();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cell by cell, by the definition.
    fn slowly(view: &View, source: &[u8], width: usize) -> Vec<u8> {
        let len: usize = view.dims.iter().product();
        let mut out = Vec::new();
        for at in 0..len {
            let (mut rest, mut offset) = (at, view.start);
            for axis in (0..view.dims.len()).rev() {
                offset += (rest % view.dims[axis]) as isize * view.strides[axis];
                rest /= view.dims[axis];
            }
            out.extend_from_slice(&source[offset as usize * width..][..width]);
        }
        out
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|it| (it * 31 + it / 256) as u8).collect()
    }

    proptest! {
        #[test]
        fn any_view_is_copied_right(
            dims in prop::collection::vec(1usize..6, 0..5),
            order in any::<[u8; 5]>(),
            flip in any::<[bool; 5]>(),
            still in any::<[bool; 5]>(),
            width in prop::sample::select(vec![1usize, 2, 4, 8, 16]),
        ) {
            let mut perm: Vec<usize> = (0..dims.len()).collect();
            perm.sort_by_key(|&it| order[it]);
            let mut view = View::of(&dims).permuted(&perm);
            for axis in 0..dims.len() {
                if flip[axis] {
                    view.start += view.strides[axis] * (view.dims[axis] as isize - 1);
                    view.strides[axis] = -view.strides[axis];
                } else if still[axis] {
                    view.strides[axis] = 0;
                }
            }
            let len: usize = dims.iter().product();
            let source = bytes(len * width);
            let mut out = vec![0; len * width];
            view.copy(&source, width, &mut out);
            prop_assert_eq!(&out, &slowly(&view, &source, width));
            if still.iter().all(|it| !it) {
                let mut back = vec![0; len * width];
                put(&out, width, &view, &mut back);
                prop_assert_eq!(back, source);
            }
        }
    }

    #[test]
    fn large_ones_are_copied_right() {
        for (dims, perm) in [
            (vec![700, 900], vec![1, 0]),
            (vec![3, 130, 5, 331], vec![0, 2, 1, 3]),
            (vec![4, 130, 5, 171], vec![0, 2, 3, 1]),
            (vec![70, 61, 67, 3], vec![3, 2, 1, 0]),
        ] {
            let view = View::of(&dims).permuted(&perm);
            let len: usize = dims.iter().product();
            let source = bytes(len * 4);
            let mut out = vec![0; len * 4];
            view.copy(&source, 4, &mut out);
            assert_eq!(out, slowly(&view, &source, 4), "{dims:?}");
        }
    }

    #[test]
    fn blocks_are_taken_from_each_group() {
        for width in [1usize, 4, 12, 3000] {
            let (outer, len, indices) = (40, 3, [2usize, 0, 2, 1]);
            let source = bytes(outer * len * width);
            let mut out = vec![0; outer * indices.len() * width];
            take(&source, len, width, &indices, &mut out);
            for (at, block) in out.chunks(width).enumerate() {
                let from = at / 4 * len + indices[at % 4];
                assert_eq!(block, &source[from * width..][..width]);
            }
        }
    }
}
