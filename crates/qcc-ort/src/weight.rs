//! Weights of operators, taken apart and packed.

use qcc_kernels::{Matrix, MatrixError, ScaleKind};
use qcc_quant::panel::{
    GroupedWeight, NBitsWeight, PanelBits, PanelError, PanelLayout, UnpackedWeight,
};

/// How an operator stores codes and zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `MatMulNBits`: zero points are as wide as codes.
    NBits,
    /// `ai.qcc`: zero points are bytes.
    Dense,
}

impl Form {
    /// Width of the codes of an operator of `ai.qcc`, and whether it has zero points.
    pub(crate) fn of_function(op: &str) -> Option<(u8, bool)> {
        let name = op.strip_prefix("MatMulQ")?;
        let (bits, zeros) = match name.strip_suffix("Sym") {
            Some(bits) => (bits, false),
            None => (name, true),
        };
        let bits = WIDTHS.iter().find(|it| it.to_string() == bits)?;
        Some((*bits, zeros))
    }
}

/// Widths of the operators of `ai.qcc`.
pub(crate) const WIDTHS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// What the attributes of an operator say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) form: Form,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) bits: u8,
    pub(crate) block: usize,
}

/// The constants of an operator.
pub(crate) struct Operands<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [f32],
    pub(crate) zeros: Option<&'a [u8]>,
}

impl Shape {
    /// Whether kernels can have such weights.
    pub(crate) fn has_panels(&self) -> Result<(), PanelError> {
        let bits = self.width()?;
        PanelLayout::new(bits, self.block, self.k, self.n, ScaleKind::F32, true)?;
        Ok(())
    }

    fn width(&self) -> Result<PanelBits, PanelError> {
        PanelBits::holding(self.bits).ok_or(PanelError::Width { bits: self.bits })
    }

    /// Takes the constants apart.
    ///
    /// # Errors
    /// If they have other lengths than the shape says.
    pub(crate) fn unpack(&self, operands: &Operands<'_>) -> Result<GroupedWeight, PanelError> {
        let &Self { form, n, k, bits, block } = self;
        let &Operands { codes, scales, zeros } = operands;
        if form == Form::NBits {
            return NBitsWeight { n, k, bits, block, codes, scales, zeros }.unpack();
        }
        let (codes, zeros) = (self.dense(codes)?, self.points(zeros)?);
        let scales = exact("scales", scales, n, k.div_ceil(block))?.to_vec();
        let weight = UnpackedWeight { codes, scales, zeros };
        Ok(GroupedWeight { n, k, bits: self.width()?, group: block, weight })
    }

    /// Zero points of bytes. Codes of 5 and 6 bits lie in 8, where the middle is another.
    fn points(&self, zeros: Option<&[u8]>) -> Result<Option<Vec<f32>>, PanelError> {
        let (n, blocks) = (self.n, self.k.div_ceil(self.block));
        let middle = 1u8 << (self.bits - 1);
        Ok(match zeros {
            Some(zeros) => {
                let zeros = exact("zero points", zeros, n, blocks)?;
                Some(zeros.iter().map(|&it| f32::from(it)).collect())
            }
            None if self.width()?.middle() == middle => None,
            None => Some(vec![f32::from(middle); n * blocks]),
        })
    }

    /// Codes `[n][k]` of 8 in a word of as many bytes as a code has bits.
    fn dense(&self, bytes: &[u8]) -> Result<Vec<u8>, PanelError> {
        let &Self { n, k, bits, block, .. } = self;
        let too_large = PanelError::TooLarge { k, n };
        let row = k.checked_next_multiple_of(block).ok_or(too_large.clone())? / 8;
        let row = row.checked_mul(usize::from(bits)).ok_or(too_large.clone())?;
        let bytes = exact("codes", bytes, n, row)?;
        let mut codes = vec![0; n.checked_mul(k).ok_or(too_large)?];
        let mask = u8::MAX >> (8 - bits);
        for (codes, bytes) in codes.chunks_exact_mut(k).zip(bytes.chunks_exact(row)) {
            for (codes, bytes) in codes.chunks_mut(8).zip(bytes.chunks_exact(usize::from(bits))) {
                let word = bytes.iter().rev().fold(0u64, |word, &it| word << 8 | u64::from(it));
                for (i, code) in codes.iter_mut().enumerate() {
                    *code = (word >> (i * usize::from(bits))) as u8 & mask;
                }
            }
        }
        Ok(codes)
    }
}

/// Packs a weight in the fewest bytes.
pub(crate) fn pack(weight: GroupedWeight) -> Result<Matrix, MatrixError> {
    let weight = weight.narrowed();
    Matrix::pack(weight.layout()?, &weight.weight.view())
}

fn exact<'a, T>(
    what: &'static str,
    values: &'a [T],
    rows: usize,
    row: usize,
) -> Result<&'a [T], PanelError> {
    let want = rows.saturating_mul(row);
    let got = values.len();
    if got == want { Ok(values) } else { Err(PanelError::Length { what, got, want }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions() {
        assert_eq!(Form::of_function("MatMulQ3"), Some((3, true)));
        assert_eq!(Form::of_function("MatMulQ8Sym"), Some((8, false)));
        for name in ["MatMulQ7", "MatMulQ", "MatMulQ+3", "MatMulQ03", "MatMulQ3Sy", "Other"] {
            assert_eq!(Form::of_function(name), None, "{name}");
        }
    }

    /// The example of docs/ai-qcc.md.
    #[test]
    fn three_bits_of_the_documentation() {
        let shape = Shape { form: Form::Dense, n: 1, k: 9, bits: 3, block: 8 };
        let codes = [0x88, 0xc6, 0xfa, 0x91, 0x24, 0x49];
        let operands = Operands { codes: &codes, scales: &[0.5, 2.0], zeros: Some(&[5, 2]) };
        let weight = shape.unpack(&operands).unwrap().weight;
        assert_eq!(weight.codes, [0, 1, 2, 3, 4, 5, 6, 7, 1]);
        assert_eq!(weight.zeros.unwrap(), [5.0, 2.0]);
        assert!(shape.has_panels().is_err());
        assert!(shape.unpack(&Operands { codes: &codes[1..], ..operands }).is_err());
    }

    #[test]
    fn five_bits_without_zero_points_have_their_middle() {
        let shape = Shape { form: Form::Dense, n: 1, k: 8, bits: 5, block: 8 };
        let codes = [0x41, 0x0c, 0x30, 0x44, 0x00];
        let weight = shape.unpack(&Operands { codes: &codes, scales: &[1.0], zeros: None });
        let weight = weight.unwrap().weight;
        assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2, 1, 0]);
        assert_eq!(weight.zeros.unwrap(), [16.0]);
        let four = Shape { bits: 4, k: 6, ..shape };
        let codes = [0x21, 0x03, 0x23, 0x01];
        let weight = four.unpack(&Operands { codes: &codes, scales: &[1.0], zeros: None });
        let weight = weight.unwrap().weight;
        assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2]);
        assert!(weight.zeros.is_none());
    }
}
