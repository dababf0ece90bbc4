//! Single weights beside a packed matrix: `y[M][N] += x[M][K] O^T` with O mostly zeros, in f32.
//!
//! Rows of x lie side by side, up to 16, so that one instruction multiplies a weight with
//! all of them. The weights of a column are added to four sums in turn, in ascending order:
//!
//! ```text
//! sum[i % 4] = sum[i % 4] + weight[i] * x[input[i]]
//! y = y + ((sum[0] + sum[1]) + (sum[2] + sum[3]))
//! ```
//!
//! Every step is a rounded operation of f32, none is fused. So a result depends on its row and
//! column only, to the bit, on any CPU.

mod apart;

pub use apart::Apart;

use crate::act::Lanes;
use pulp::{Arch, NullaryFnOnce};
use std::ops::Range;

/// Columns whose sums are made before they are written.
const TILE: usize = 16;

/// Weights of single places, by column of the results.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    k: usize,
    /// `[n + 1]`: where those of a column begin.
    starts: Vec<usize>,
    /// Which input each multiplies.
    inputs: Vec<u16>,
    values: Vec<f32>,
}

/// Why weights are no overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// More inputs than a place can name.
    #[error("an overlay of {0} inputs, and 65536 are the most")]
    Inputs(usize),
    /// Columns, places and values do not fit each other.
    #[error("the parts of an overlay do not fit each other")]
    Parts,
}

impl Overlay {
    /// Most inputs: their numbers have 16 bits.
    pub const MOST_INPUTS: usize = 1 << 16;

    /// `values` at `inputs`, those of column c from `starts[c]` to `starts[c + 1]`, of `k` inputs.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub fn new(
        k: usize,
        starts: Vec<usize>,
        inputs: Vec<u16>,
        values: Vec<f32>,
    ) -> Result<Self, OverlayError> {
        if k > Self::MOST_INPUTS {
            return Err(OverlayError::Inputs(k));
        }
        let ends = (starts.first(), starts.last());
        let fits = ends == (Some(&0), Some(&values.len()))
            && starts.is_sorted()
            && inputs.len() == values.len()
            && inputs.iter().all(|&it| usize::from(it) < k);
        if fits { Ok(Self { k, starts, inputs, values }) } else { Err(OverlayError::Parts) }
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the results.
    #[must_use]
    pub fn n(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many weights there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes that a product reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.inputs) + size_of_val(&*self.values)
    }

    /// The weights of a column of the results: the input of each, ascending, and its value.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn column(&self, column: usize) -> impl Iterator<Item = (usize, f32)> {
        let range = self.starts[column]..self.starts[column + 1];
        let inputs = self.inputs[range.clone()].iter();
        inputs.zip(&self.values[range]).map(|(&input, &value)| (usize::from(input), value))
    }

    /// What it adds to a column, for rows side by side: `x[k][L]`.
    #[inline(always)]
    fn sums<const L: usize>(&self, x: &[[f32; L]], column: usize) -> [f32; L] {
        let range = self.starts[column]..self.starts[column + 1];
        let (inputs, last_inputs) = self.inputs[range.clone()].as_chunks::<4>();
        let (values, last_values) = self.values[range].as_chunks::<4>();
        // Four names, so that the sums stay in registers.
        let [mut a, mut b, mut c, mut d] = [[0f32; L]; 4];
        for (i, v) in inputs.iter().zip(values) {
            add(&mut a, v[0], &x[usize::from(i[0])]);
            add(&mut b, v[1], &x[usize::from(i[1])]);
            add(&mut c, v[2], &x[usize::from(i[2])]);
            add(&mut d, v[3], &x[usize::from(i[3])]);
        }
        if let ([i, ..], [v, ..]) = (last_inputs, last_values) {
            add(&mut a, *v, &x[usize::from(*i)]);
        }
        if let ([_, i, ..], [_, v, ..]) = (last_inputs, last_values) {
            add(&mut b, *v, &x[usize::from(*i)]);
        }
        if let ([_, _, i], [_, _, v]) = (last_inputs, last_values) {
            add(&mut c, *v, &x[usize::from(*i)]);
        }
        std::array::from_fn(|lane| (a[lane] + b[lane]) + (c[lane] + d[lane]))
    }

    /// Gives `add` what goes to the results of some rows and columns: row, first column, values.
    pub(crate) fn each(
        &self,
        lanes: &Lanes,
        rows: Range<usize>,
        columns: Range<usize>,
        add: impl FnMut(usize, usize, &[f32]),
    ) {
        Arch::new().dispatch(Each { overlay: self, lanes, rows, columns, add });
    }
}

/// `sum + value * x`, of rows side by side.
#[inline(always)]
fn add<const L: usize>(sum: &mut [f32; L], value: f32, x: &[f32; L]) {
    for lane in 0..L {
        sum[lane] += value * x[lane];
    }
}

struct Each<'a, F> {
    overlay: &'a Overlay,
    lanes: &'a Lanes,
    rows: Range<usize>,
    columns: Range<usize>,
    add: F,
}

impl<F: FnMut(usize, usize, &[f32])> NullaryFnOnce for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        for block in self.rows.start / Lanes::MOST..self.rows.end.div_ceil(Lanes::MOST) {
            let (width, x) = self.lanes.block(block);
            match width {
                1 => self.block::<1>(block, x),
                4 => self.block::<4>(block, x),
                8 => self.block::<8>(block, x),
                _ => self.block::<{ Lanes::MOST }>(block, x),
            }
        }
    }
}

impl<F: FnMut(usize, usize, &[f32])> Each<'_, F> {
    #[inline(always)]
    fn block<const L: usize>(&mut self, block: usize, x: &[f32]) {
        let (x, first) = (x.as_chunks::<L>().0, block * Lanes::MOST);
        // Some columns at a time, so that results of a row are written together.
        for from in self.columns.clone().step_by(TILE) {
            let count = TILE.min(self.columns.end - from);
            let mut tile = [[0f32; L]; TILE];
            for (sums, column) in tile[..count].iter_mut().zip(from..) {
                *sums = self.overlay.sums(x, column);
            }
            for (lane, row) in (first..first + L).enumerate() {
                if self.rows.contains(&row) {
                    let line: [f32; TILE] = std::array::from_fn(|column| tile[column][lane]);
                    (self.add)(row, from, &line[..count]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alone, Pool};
    use proptest::prelude::*;

    fn number(i: usize) -> f32 {
        (i.wrapping_mul(2_654_435_761) >> 5 & 1023) as f32 / 256.0 - 2.0
    }

    /// One weight in `every`.
    fn overlay(n: usize, k: usize, every: usize) -> Overlay {
        let places: Vec<usize> = (0..n * k)
            .filter(|it| (it.wrapping_mul(2_654_435_761) >> 9).is_multiple_of(every))
            .collect();
        let starts = (0..=n).map(|c| places.partition_point(|&it| it < c * k)).collect();
        let inputs = places.iter().map(|it| (it % k) as u16).collect();
        let values = places.iter().map(|it| number(it + 7)).collect();
        Overlay::new(k, starts, inputs, values).unwrap()
    }

    /// The sums of the header, one row at a time.
    fn by_hand(overlay: &Overlay, x: &[f32], column: usize) -> f32 {
        let mut sums = [0f32; 4];
        let range = overlay.starts[column]..overlay.starts[column + 1];
        for (i, at) in range.enumerate() {
            sums[i % 4] += overlay.values[at] * x[usize::from(overlay.inputs[at])];
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sums_are_those_of_the_header_whatever_the_rows_and_threads(
            (n, k) in (1usize..50, 1usize..80), rows in 1usize..40, every in 1usize..30,
            cut in 0usize..40, threads in 1usize..4,
        ) {
            let overlay = overlay(n, k, every);
            prop_assert_eq!((overlay.n(), overlay.k()), (n, k));
            let x: Vec<f32> = (0..rows * k).map(|it| number(it + 3)).collect();
            let (mut lanes, pool) = (Lanes::default(), Pool::new(threads));
            // Room that held other rows.
            lanes.fill(&Alone, &vec![f32::NAN; 40 * k], k);
            lanes.fill(&pool, &x, k);
            prop_assert!(lanes.holds(rows, k) && !lanes.holds(rows + 1, k));
            let cut = cut.min(rows - 1);
            let mut seen = vec![false; rows * n];
            overlay.each(&lanes, cut..rows, n / 2..n, |row, first, sums| {
                for (column, sum) in (first..).zip(sums) {
                    let want = by_hand(&overlay, &x[row * k..][..k], column);
                    assert_eq!(sum.to_bits(), want.to_bits(), "row {row}, column {column}");
                    assert!(!std::mem::replace(&mut seen[row * n + column], true));
                }
            });
            for (at, &seen) in seen.iter().enumerate() {
                prop_assert_eq!(seen, at / n >= cut && at % n >= n / 2);
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let new = |k, starts: &[usize], inputs: &[u16]| {
            Overlay::new(k, starts.to_vec(), inputs.to_vec(), vec![1.0; 2])
        };
        let good = new(4, &[0, 1, 2], &[3, 0]).unwrap();
        assert_eq!((good.len(), good.is_empty(), good.bytes()), (2, false, 3 * 8 + 2 * 6));
        new(1 << 16, &[0, 0, 2], &[0, u16::MAX]).unwrap();
        assert_eq!(new((1 << 16) + 1, &[0, 2], &[0, 1]), Err(OverlayError::Inputs(65537)));
        for (k, starts, inputs) in [
            (3, vec![0, 1, 2], vec![3, 0]),
            (4, vec![0, 3, 2], vec![3, 0]),
            (4, vec![1, 2], vec![3, 0]),
            (4, vec![0, 1], vec![3, 0]),
            (4, vec![], vec![3, 0]),
            (4, vec![0, 2], vec![3]),
        ] {
            assert_eq!(new(k, &starts, &inputs), Err(OverlayError::Parts), "{starts:?}");
        }
    }
}
