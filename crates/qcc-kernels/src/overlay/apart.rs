//! Weights with outliers taken apart: codes without them, and an [`Overlay`].

use super::{Overlay, OverlayError};
use qcc_quant::codes::decode;

/// Outliers of the columns that were taken apart so far.
#[derive(Clone, Debug)]
pub struct Apart {
    k: usize,
    starts: Vec<usize>,
    inputs: Vec<u16>,
    values: Vec<f32>,
}

impl Apart {
    /// For columns of `k` inputs.
    ///
    /// # Errors
    /// [`OverlayError::Inputs`].
    pub fn new(k: usize) -> Result<Self, OverlayError> {
        if k > Overlay::MOST_INPUTS {
            return Err(OverlayError::Inputs(k));
        }
        Ok(Self { k, starts: vec![0], inputs: Vec::new(), values: Vec::new() })
    }

    /// Takes the next column: its `outliers`, input and scale, leave `codes[k]`, where they become
    /// `middle`, the code of zero.
    ///
    /// # Errors
    /// [`OverlayError::Parts`] for an input that there is not; then some may be gone already.
    pub fn column(
        &mut self,
        codes: &mut [u8],
        outliers: impl Iterator<Item = (usize, f32)>,
        middle: u8,
    ) -> Result<(), OverlayError> {
        for (input, scale) in outliers {
            let code = codes.get_mut(input).ok_or(OverlayError::Parts)?;
            self.inputs.push(u16::try_from(input).map_err(|_| OverlayError::Parts)?);
            self.values.push(decode(*code, scale, middle));
            *code = middle;
        }
        self.starts.push(self.values.len());
        Ok(())
    }

    /// The outliers of all columns.
    ///
    /// # Errors
    /// [`OverlayError::Parts`].
    pub fn finish(self) -> Result<Overlay, OverlayError> {
        Overlay::new(self.k, &self.starts, &self.inputs, &self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_leave_the_codes() {
        let mut apart = Apart::new(4).unwrap();
        let (mut first, mut second) = ([1u8, 7, 8, 15], [8u8; 4]);
        apart.column(&mut first, [(1, 2.0), (3, 0.5)].into_iter(), 8).unwrap();
        apart.column(&mut second, std::iter::empty(), 8).unwrap();
        assert_eq!((first, second), ([1, 8, 8, 8], [8; 4]));
        let overlay = apart.finish().unwrap();
        assert_eq!((overlay.n(), overlay.k(), overlay.len()), (2, 4, 2));
        assert_eq!(overlay.column(0).collect::<Vec<_>>(), [(1, -2.0), (3, 3.5)]);
        assert_eq!(overlay.column(1).count(), 0);
    }

    #[test]
    fn inputs_that_there_are_not_are_refused() {
        assert_eq!(Apart::new((1 << 16) + 1).unwrap_err(), OverlayError::Inputs(65537));
        let mut apart = Apart::new(4).unwrap();
        let error = apart.column(&mut [0; 4], [(4, 1.0)].into_iter(), 8);
        assert_eq!(error, Err(OverlayError::Parts));
        let mut apart = Apart::new(1 << 16).unwrap();
        apart.column(&mut vec![9; 1 << 16], [(65535, 1.0)].into_iter(), 8).unwrap();
        assert_eq!(apart.finish().unwrap().column(0).next(), Some((65535, 1.0)));
    }
}
