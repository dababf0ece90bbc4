//! What shares a scale in the weight of a `DequantizeLinear`, from its attributes and shapes.

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// So many codes along K of a column.
    Blocks(usize),
    /// A column.
    Columns,
    /// The whole weight.
    All,
}

/// Why scales are not those of a weight with groups along K.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpreadError {
    /// Shapes that do not go together.
    #[error("scales {scales:?} do not fit its codes {codes:?}")]
    Unfit {
        /// Shape of the scales.
        scales: Vec<usize>,
        /// Shape of the codes.
        codes: Vec<usize>,
    },
    /// One scale for each row of `[K][N]`.
    #[error("each of its inputs has a scale of its own")]
    Inputs,
    /// Blocks along N.
    #[error("its blocks lie along its outputs, not along what it sums over")]
    Outputs,
}

impl Spread {
    /// From attributes `axis` and `block_size` (0: absent), and the shapes of scales and codes;
    /// `k_axis` is the axis of the codes along which the product sums.
    ///
    /// # Errors
    /// [`SpreadError`].
    pub fn of(
        (axis, block): (i64, usize),
        scales: &[usize],
        codes: [usize; 2],
        k_axis: usize,
    ) -> Result<Self, SpreadError> {
        let unfit = || SpreadError::Unfit { scales: scales.into(), codes: codes.into() };
        if block == 0 && matches!(scales, [] | [1]) {
            return Ok(Self::All);
        }
        let axis = match axis {
            0 | -2 => 0,
            1 | -1 => 1,
            _ => return Err(unfit()),
        };
        let along_k = axis == k_axis;
        if block == 0 {
            if along_k {
                return Err(SpreadError::Inputs);
            }
            return if *scales == [codes[axis]] { Ok(Self::Columns) } else { Err(unfit()) };
        }
        if !along_k {
            return Err(SpreadError::Outputs);
        }
        let mut want = codes;
        want[axis] = codes[axis].div_ceil(block);
        if *scales == want { Ok(Self::Blocks(block)) } else { Err(unfit()) }
    }

    /// Codes along K of a column that share a scale, of a weight with `k` of them.
    #[must_use]
    pub fn group(self, k: usize) -> usize {
        match self {
            Self::Blocks(block) => block,
            Self::Columns | Self::All => k,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_say_what_shares_a_scale() {
        let of = |axis, block, scales: &[usize], k_axis| {
            Spread::of((axis, block), scales, [64, 8], k_axis).map_err(|it| it.to_string())
        };
        assert_eq!(of(0, 32, &[2, 8], 0), Ok(Spread::Blocks(32)));
        assert_eq!(of(-2, 48, &[2, 8], 0), Ok(Spread::Blocks(48)));
        assert_eq!(of(1, 0, &[8], 0), Ok(Spread::Columns));
        assert_eq!(of(0, 0, &[64], 1), Ok(Spread::Columns));
        assert_eq!((of(7, 0, &[], 0), of(1, 0, &[1], 1)), (Ok(Spread::All), Ok(Spread::All)));
        let unfit = "scales [3, 8] do not fit its codes [64, 8]";
        assert_eq!(of(0, 32, &[3, 8], 0).unwrap_err(), unfit);
        assert!(of(0, 32, &[2], 0).is_err() && of(2, 32, &[2, 8], 0).is_err());
        assert!(of(1, 0, &[64], 0).is_err());
        let inputs = "each of its inputs has a scale of its own";
        assert_eq!(of(0, 0, &[64], 0).unwrap_err(), inputs);
        let outputs = "its blocks lie along its outputs, not along what it sums over";
        assert_eq!(of(1, 4, &[64, 2], 0).unwrap_err(), outputs);
        assert_eq!((Spread::Blocks(4).group(9), Spread::All.group(9)), (4, 9));
    }
}
