//! Single weights beside a packed matrix: `y[M][N] += x[M][K] O^T` with O mostly zeros, in f32.
//!
//! The weights of a column are added in ascending order:
//!
//! ```text
//! sum = sum + weight[i] * x[input[i]]
//! y = y + sum
//! ```
//!
//! Every step is a rounded operation of f32, none is fused. So a result depends on its row and
//! column only, to the bit, on any CPU.
//!
//! Eight columns go side by side, so that their sums do not wait for each other and one loop ends for
//! all of them: `[i][8]` inputs and weights. The 32 columns of a panel are ordered by how many
//! weights they have; what is left to the longest of eight is weights of 0, which add nothing (they
//! multiply input 0: where it is not finite, [all results of the row](crate::act) are NaN). Rows
//! of x lie side by side as well, up to 16, so that one instruction multiplies a weight with all
//! of them.

mod apart;

pub use apart::Apart;

use crate::act::Lanes;
use pulp::{Arch, NullaryFnOnce};
use std::cmp::Reverse;
use std::ops::Range;

/// Columns that are ordered by their weights, and whose results are written together.
const PANEL: usize = 32;

/// Columns side by side.
const SIDE: usize = 8;

/// Where the weights of an [`Overlay`] lie, for code that is compiled for them.
#[derive(Clone, Copy, Debug)]
pub struct OverlayParts<'a> {
    /// `[panels][32]`: the columns of a panel, eight after eight.
    pub order: &'a [u8],
    /// `[4 panels + 1]`: where eight columns begin in what follows, and where the last ones end.
    pub starts: &'a [usize],
    /// Which input each weight multiplies.
    pub inputs: &'a [[u16; SIDE]],
    /// The weights; 0 behind the end of a column.
    pub values: &'a [[f32; SIDE]],
}

/// Weights of single places, by column of the results.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    n: usize,
    k: usize,
    len: usize,
    /// `[panels][32]`: which columns of a panel come first.
    order: Vec<u8>,
    /// `[n]`: how many weights a column has.
    counts: Vec<u32>,
    /// Where eight columns begin, and at last where the last ones end.
    starts: Vec<usize>,
    /// Which input each multiplies.
    inputs: Vec<[u16; SIDE]>,
    values: Vec<[f32; SIDE]>,
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
        starts: &[usize],
        inputs: &[u16],
        values: &[f32],
    ) -> Result<Self, OverlayError> {
        if k > Self::MOST_INPUTS {
            return Err(OverlayError::Inputs(k));
        }
        let ends = (starts.first(), starts.last());
        let fits = ends == (Some(&0), Some(&values.len()))
            && starts.is_sorted()
            && inputs.len() == values.len()
            && inputs.iter().all(|&it| usize::from(it) < k);
        if !fits {
            return Err(OverlayError::Parts);
        }
        let count = |it: &[usize]| u32::try_from(it[1] - it[0]).map_err(|_| OverlayError::Parts);
        let counts: Vec<u32> = starts.windows(2).map(count).collect::<Result<_, _>>()?;
        let (n, len) = (counts.len(), values.len());
        let mut it = Self {
            n,
            k,
            len,
            order: Vec::with_capacity(n.next_multiple_of(PANEL)),
            counts,
            starts: vec![0],
            inputs: Vec::with_capacity(len / SIDE),
            values: Vec::with_capacity(len / SIDE),
        };
        for first in (0..n).step_by(PANEL) {
            let count =
                |column: u8| it.counts.get(first + usize::from(column)).copied().unwrap_or(0);
            let mut order: [u8; PANEL] = std::array::from_fn(|column| column as u8);
            order.sort_by_key(|&column| Reverse(count(column)));
            for columns in order.as_chunks::<SIDE>().0 {
                // Ordered: the first one is the longest.
                for i in 0..count(columns[0]) {
                    let place = columns.map(|column| {
                        let has_more = i < count(column);
                        has_more.then(|| starts[first + usize::from(column)] + i as usize)
                    });
                    it.inputs.push(place.map(|it| it.map_or(0, |it| inputs[it])));
                    it.values.push(place.map(|it| it.map_or(0.0, |it| values[it])));
                }
                it.starts.push(it.values.len());
            }
            it.order.extend(order);
        }
        Ok(it)
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the results.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// How many weights there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where its weights lie.
    #[must_use]
    pub fn parts(&self) -> OverlayParts<'_> {
        let Self { order, starts, inputs, values, .. } = self;
        OverlayParts { order, starts, inputs, values }
    }

    /// Bytes that a product reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.order)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.inputs)
            + size_of_val(&*self.values)
    }

    /// The weights of a column of the results: the input of each, ascending, and its value.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn column(&self, column: usize) -> impl Iterator<Item = (usize, f32)> {
        let (panel, count) = (column / PANEL, self.counts[column] as usize);
        let order = &self.order[panel * PANEL..(panel + 1) * PANEL];
        let place = order.iter().position(|&it| usize::from(it) == column % PANEL).unwrap_or(0);
        let (first, lane) = (self.starts[(panel * PANEL + place) / SIDE], place % SIDE);
        let inputs = self.inputs[first..first + count].iter();
        let values = &self.values[first..first + count];
        inputs.zip(values).map(move |(inputs, values)| (usize::from(inputs[lane]), values[lane]))
    }

    /// What eight columns add, for one row.
    #[inline(always)]
    fn sums(&self, x: &[f32], eight: usize) -> [f32; SIDE] {
        let range = self.starts[eight]..self.starts[eight + 1];
        let (inputs, values) = (&self.inputs[range.clone()], &self.values[range]);
        // Eight names, so that the sums stay in registers. Single numbers, not vectors: to gather
        // inputs into one takes longer.
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [0f32; SIDE];
        for (i, v) in inputs.iter().zip(values) {
            a += v[0] * x[usize::from(i[0])];
            b += v[1] * x[usize::from(i[1])];
            c += v[2] * x[usize::from(i[2])];
            d += v[3] * x[usize::from(i[3])];
            e += v[4] * x[usize::from(i[4])];
            f += v[5] * x[usize::from(i[5])];
            g += v[6] * x[usize::from(i[6])];
            h += v[7] * x[usize::from(i[7])];
        }
        [a, b, c, d, e, f, g, h]
    }

    /// What four of eight columns add, from `from` on, for rows side by side: `x[k][L]`.
    #[inline(always)]
    fn sums_of_rows<const L: usize>(
        &self,
        x: &[[f32; L]],
        eight: usize,
        from: usize,
    ) -> [[f32; L]; SIDE / 2] {
        let range = self.starts[eight]..self.starts[eight + 1];
        let (inputs, values) = (&self.inputs[range.clone()], &self.values[range]);
        // Four names, so that the sums stay in registers.
        let [mut a, mut b, mut c, mut d] = [[0f32; L]; SIDE / 2];
        for (inputs, values) in inputs.iter().zip(values) {
            let (i, v) = (inputs.as_chunks::<4>().0[from / 4], values.as_chunks::<4>().0[from / 4]);
            add(&mut a, v[0], &x[usize::from(i[0])]);
            add(&mut b, v[1], &x[usize::from(i[1])]);
            add(&mut c, v[2], &x[usize::from(i[2])]);
            add(&mut d, v[3], &x[usize::from(i[3])]);
        }
        [a, b, c, d]
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
                1 => self.row(block, x),
                4 => self.block::<4>(block, x),
                8 => self.block::<8>(block, x),
                _ => self.block::<{ Lanes::MOST }>(block, x),
            }
        }
    }
}

impl<F: FnMut(usize, usize, &[f32])> Each<'_, F> {
    #[inline(always)]
    fn row(&mut self, block: usize, x: &[f32]) {
        for panel in self.columns.start / PANEL..self.columns.end.div_ceil(PANEL) {
            let mut line = [0f32; PANEL];
            let order = &self.overlay.order[panel * PANEL..(panel + 1) * PANEL];
            for (at, columns) in order.as_chunks::<SIDE>().0.iter().enumerate() {
                let sums = self.overlay.sums(x, panel * (PANEL / SIDE) + at);
                for (sum, column) in sums.iter().zip(columns) {
                    line[usize::from(*column) % PANEL] = *sum;
                }
            }
            self.give(panel, block * Lanes::MOST, &line);
        }
    }

    #[inline(always)]
    fn block<const L: usize>(&mut self, block: usize, x: &[f32]) {
        let (x, first) = (x.as_chunks::<L>().0, block * Lanes::MOST);
        for panel in self.columns.start / PANEL..self.columns.end.div_ceil(PANEL) {
            let mut tile = [[0f32; L]; PANEL];
            let order = &self.overlay.order[panel * PANEL..(panel + 1) * PANEL];
            for (at, columns) in order.as_chunks::<{ SIDE / 2 }>().0.iter().enumerate() {
                let at = panel * PANEL + at * SIDE / 2;
                let sums = self.overlay.sums_of_rows::<L>(x, at / SIDE, at % SIDE);
                for (sums, column) in sums.iter().zip(columns) {
                    tile[usize::from(*column) % PANEL] = *sums;
                }
            }
            for (lane, row) in (first..first + L).enumerate() {
                if self.rows.contains(&row) {
                    let line: [f32; PANEL] = std::array::from_fn(|column| tile[column][lane]);
                    self.give(panel, row, &line);
                }
            }
        }
    }

    /// What goes to the columns of a panel that are asked for.
    #[inline(always)]
    fn give(&mut self, panel: usize, row: usize, line: &[f32; PANEL]) {
        let from = self.columns.start.max(panel * PANEL);
        let to = self.columns.end.min((panel + 1) * PANEL);
        if to - from == PANEL {
            // Of a length that the compiler knows.
            (self.add)(row, from, line);
        } else {
            (self.add)(row, from, &line[from % PANEL..to - panel * PANEL]);
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
        let starts: Vec<_> = (0..=n).map(|c| places.partition_point(|&it| it < c * k)).collect();
        let inputs: Vec<_> = places.iter().map(|it| (it % k) as u16).collect();
        let values: Vec<_> = places.iter().map(|it| number(it + 7)).collect();
        Overlay::new(k, &starts, &inputs, &values).unwrap()
    }

    /// The sum of the header, one row at a time.
    fn by_hand(overlay: &Overlay, x: &[f32], column: usize) -> f32 {
        overlay.column(column).fold(0.0, |sum, (input, value)| sum + value * x[input])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sums_are_those_of_the_header_whatever_the_rows_and_threads(
            (n, k) in (1usize..100, 1usize..80), rows in 1usize..40, every in 1usize..30,
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
    fn columns_come_back_however_long_they_are() {
        for n in [1, 31, 32, 33, 70] {
            let (k, count) =
                (100, |c: usize| if c.is_multiple_of(7) { c * 13 % 100 } else { c % 3 });
            let starts: Vec<usize> = (0..=n).map(|c| (0..c).map(count).sum()).collect();
            let inputs: Vec<u16> =
                (0..n).flat_map(|c| (0..count(c) as u16).map(|i| 99 - i)).collect();
            let values: Vec<f32> = (1..=inputs.len()).map(|it| it as f32).collect();
            let overlay = Overlay::new(k, &starts, &inputs, &values).unwrap();
            assert_eq!((overlay.n(), overlay.len()), (n, values.len()));
            for c in 0..n {
                let range = starts[c]..starts[c + 1];
                let want = range.map(|it| (usize::from(inputs[it]), values[it]));
                assert!(overlay.column(c).eq(want), "column {c} of {n}");
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let new = |k, starts: &[usize], inputs: &[u16]| Overlay::new(k, starts, inputs, &[1.0; 2]);
        let good = new(4, &[0, 1, 2], &[3, 0]).unwrap();
        assert_eq!((good.len(), good.is_empty(), good.bytes()), (2, false, 32 + 5 * 8 + 8 * 6));
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
