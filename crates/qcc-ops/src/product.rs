//! f32 matrix products over slices, by the `gemm` crate.
//!
//! [`product`] runs on the calling thread; callers give each thread its own tile of the result.
//! Tiles follow from shapes alone, so a result does not depend on the number of threads.

use std::marker::PhantomData;

use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix in a slice, with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A matrix whose rows follow each other.
    ///
    /// # Panics
    /// If the slice is shorter than `rows * cols`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, [rows, cols], [cols, 1])
    }

    /// A matrix `[rows, cols]` with these strides.
    ///
    /// # Panics
    /// If it does not lie in the slice.
    pub(crate) fn strided(data: &'a [f32], dims: [usize; 2], strides: [usize; 2]) -> Self {
        let ([rows, cols], [row_stride, col_stride]) = (dims, strides);
        if rows > 0 && cols > 0 {
            let last = (rows - 1)
                .checked_mul(row_stride)
                .zip((cols - 1).checked_mul(col_stride))
                .and_then(|(row, col)| row.checked_add(col));
            assert!(last.is_some_and(|it| it < data.len()), "matrix lies outside its slice");
        }
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `first .. first + rows`.
    fn rows(self, first: usize, rows: usize) -> Self {
        let data = self.data.get(first * self.row_stride..).unwrap_or(&[]);
        Self::strided(data, [rows, self.cols], [self.row_stride, self.col_stride])
    }

    /// Columns `first .. first + cols`.
    fn cols(self, first: usize, cols: usize) -> Self {
        self.t().rows(first, cols).t()
    }
}

/// A matrix to write, part of a slice: its rows lie `stride` apart.
#[derive(Debug)]
pub(crate) struct MatMut<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is an exclusive borrow of its elements, as `&mut [f32]` is.
#[allow(unsafe_code)]
unsafe impl Send for MatMut<'_> {}

#[allow(unsafe_code)]
impl<'a> MatMut<'a> {
    /// All of a slice as a matrix.
    ///
    /// # Panics
    /// If the slice has another number of elements.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "size of the matrix");
        Self { start: data.as_mut_ptr(), rows, cols, stride: cols, slice: PhantomData }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row of the matrix");
        // SAFETY: the row is inside the slice that `new` borrowed, and no other `MatMut` has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.cols) }
    }

    /// Blocks of `height` rows; the last one may be lower.
    pub(crate) fn split_rows(self, height: usize) -> Vec<Self> {
        let height = height.max(1);
        (0..self.rows)
            .step_by(height)
            .map(|first| Self {
                // SAFETY: `first` is a row of the slice; blocks of rows are disjoint.
                start: unsafe { self.start.add(first * self.stride) },
                rows: height.min(self.rows - first),
                ..Self { slice: PhantomData, ..self }
            })
            .collect()
    }

    /// Blocks of `width` columns; the last one may be narrower.
    pub(crate) fn split_cols(self, width: usize) -> Vec<Self> {
        let width = width.max(1);
        if self.rows == 0 {
            return Vec::new();
        }
        (0..self.cols)
            .step_by(width)
            .map(|first| Self {
                // SAFETY: `first` is a column of the first row; blocks of columns are disjoint.
                start: unsafe { self.start.add(first) },
                cols: width.min(self.cols - first),
                ..Self { slice: PhantomData, ..self }
            })
            .collect()
    }
}

/// `out = alpha * a * b`, on this thread.
///
/// # Panics
/// If the shapes do not fit together.
#[allow(unsafe_code)]
pub(crate) fn product(out: &mut MatMut<'_>, a: Mat<'_>, b: Mat<'_>, alpha: f32) {
    assert!(a.cols == b.rows && a.rows == out.rows && b.cols == out.cols, "shapes of a product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    if a.cols == 0 {
        (0..out.rows).for_each(|row| out.row(row).fill(0.0));
        return;
    }
    // SAFETY: `Mat` and `MatMut` checked that all elements lie in slices that are borrowed for
    // this call; the result is borrowed exclusively, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.start,
            1,
            out.stride as isize,
            false,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            0.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rows and columns of the tile that one task computes. Tall tiles pack each column of `b` once;
/// there are enough of them for all threads to have something to do to the end.
fn tile(rows: usize, cols: usize) -> [usize; 2] {
    let width = cols.div_ceil(8).next_multiple_of(64).min(256);
    let tasks = cols.div_ceil(width.max(1)).max(1);
    let height = rows.div_ceil(8usize.div_ceil(tasks)).next_multiple_of(64).min(512);
    [height, width]
}

/// `out = alpha * a * b`, in tiles on all threads.
///
/// # Panics
/// If the shapes do not fit together.
pub(crate) fn par_product(out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, alpha: f32) {
    assert!(a.cols == b.rows && a.rows == out.rows && b.cols == out.cols, "shapes of a product");
    let [height, width] = tile(out.rows, out.cols);
    let tiles: Vec<_> = out
        .split_cols(width)
        .into_iter()
        .enumerate()
        .flat_map(|(col, it)| {
            it.split_rows(height).into_iter().enumerate().map(move |(row, it)| (row, col, it))
        })
        .collect();
    tiles.into_par_iter().for_each(|(row, col, mut out)| {
        let a = a.rows(row * height, out.rows);
        let b = b.cols(col * width, out.cols);
        product(&mut out, a, b, alpha);
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|it| ((it * 37 + 11) % 64) as f32 / 8.0 - 4.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn tiles_and_strides_agree_with_sums(
            m in 0usize..140, n in 0usize..300, k in 0usize..20, ta: bool, tb: bool,
        ) {
            let (a, b) = (values(m * k), values(k * n));
            let left = if ta { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
            let right = if tb { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
            let mut out = vec![f32::NAN; m * n];
            par_product(MatMut::new(&mut out, m, n), left, right, 2.0);
            for i in 0..m {
                for j in 0..n {
                    let at = |p| if ta { a[p * m + i] } else { a[i * k + p] };
                    let bt = |p| if tb { b[j * k + p] } else { b[p * n + j] };
                    // All terms are multiples of 1/64 and small: sums are exact.
                    let want: f32 = (0..k).map(|p| at(p) * bt(p)).sum();
                    prop_assert_eq!(out[i * n + j], 2.0 * want);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn views_stay_inside() {
        Mat::strided(&[0.0; 5], [2, 2], [4, 1]);
    }
}
