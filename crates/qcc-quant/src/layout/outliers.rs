//! Which weights of a matrix have a scale of their own: `ai.qcc::MatMulQ<b>Outliers`, inputs O and D.
//!
//! O has a scale for each block of K; D names the places of outliers among all codes, filling
//! included, as [`gaps`]: `place = n * blocks * block + k`.

use super::gaps;

/// The outliers of a weight `[n][k]` in blocks, by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// Where those of a row begin in `all`, and at last their number.
    starts: Vec<usize>,
    /// Column and scale.
    all: Vec<(u32, f32)>,
}

/// Why operands name no outliers of a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutliersError {
    /// Rows that cannot be counted.
    #[error("K is too large")]
    TooLarge,
    /// Another number of scales than there are blocks.
    #[error("their scales are not one for each block: {0} given")]
    Scales(usize),
    /// A place in the filling, or behind the last row.
    #[error("one of them is no weight: place {0}")]
    Place(u64),
}

impl Outliers {
    /// From the operands: `scales[n][blocks]`, and the bytes of places. Sizes are `n`, `k` and the
    /// block.
    ///
    /// # Errors
    /// When they do not fit each other, or a place is none of a weight.
    pub fn read(
        (n, k, block): (usize, usize, usize),
        scales: &[f32],
        places: &[u8],
    ) -> Result<Self, OutliersError> {
        let blocks = k.div_ceil(block.max(1));
        let width = blocks.checked_mul(block).and_then(|it| u64::try_from(it).ok());
        let width = width.filter(|it| *it > 0 && u32::try_from(k).is_ok());
        let width = width.ok_or(OutliersError::TooLarge)?;
        if n.checked_mul(blocks) != Some(scales.len()) {
            return Err(OutliersError::Scales(scales.len()));
        }
        let (mut starts, mut all) = (Vec::with_capacity(n + 1), Vec::new());
        for place in gaps::unpack(places) {
            let (row, column) = (place / width, (place % width) as usize);
            if row >= n as u64 || column >= k {
                return Err(OutliersError::Place(place));
            }
            let row = row as usize;
            while starts.len() <= row {
                starts.push(all.len());
            }
            all.push((column as u32, scales[row * blocks + column / block]));
        }
        starts.resize(n + 1, all.len());
        Ok(Self { starts, all })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those of a row: column and scale, columns ascending.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let range = self.starts[row]..self.starts[row + 1];
        self.all[range].iter().map(|it| (it.0 as usize, it.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_that_are_no_weights_are_refused() {
        // Rows of 9 are stored as 16.
        let read = |gaps: &[u8]| Outliers::read((2, 9, 8), &[1.0, 2.0, 3.0, 4.0], gaps);
        let found = read(&[9, 16]).unwrap();
        assert_eq!(found.row(0).collect::<Vec<_>>(), [(8, 2.0)]);
        assert_eq!(found.row(1).collect::<Vec<_>>(), [(8, 4.0)]);
        assert_eq!((found.len(), found.is_empty()), (2, false));
        assert_eq!(read(&[10]), Err(OutliersError::Place(9)), "filling");
        assert_eq!(read(&[33]), Err(OutliersError::Place(32)), "behind the last row");
        assert!(read(&[]).unwrap().row(1).next().is_none());
        let read = |sizes, scales: &[f32]| Outliers::read(sizes, scales, &[1]);
        assert_eq!(read((2, 9, 8), &[1.0; 2]), Err(OutliersError::Scales(2)));
        assert_eq!(read((2, 0, 8), &[1.0; 2]), Err(OutliersError::TooLarge));
        assert_eq!(read((2, 9, 0), &[1.0; 2]), Err(OutliersError::TooLarge));
        assert_eq!(read((usize::MAX, 9, 8), &[1.0; 2]), Err(OutliersError::Scales(2)));
        assert_eq!(read((1, usize::MAX, 8), &[1.0; 2]), Err(OutliersError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_outliers_or_refused(
            (n, k) in (1usize..6, 1usize..40), eights in 1usize..4,
            places in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let block = 8 * eights;
            let scales = vec![1.0; n * k.div_ceil(block)];
            if let Ok(found) = Outliers::read((n, k, block), &scales, &places) {
                let rows: usize = (0..n).map(|it| found.row(it).count()).sum();
                prop_assert_eq!(rows, found.len());
                for row in 0..n {
                    prop_assert!(found.row(row).is_sorted_by(|a, b| a.0 < b.0));
                    prop_assert!(found.row(row).all(|it| it.0 < k));
                }
            }
        }
    }
}
