//! Weights of operators, taken apart and packed.

use crate::api::Failure;
use qcc_kernels::{Matrix, MatrixError, ScaleKind};
use qcc_quant::panel::{
    GroupedWeight, NBitsWeight, PanelBits, PanelError, PanelLayout, UnpackedWeight,
};
use std::borrow::Cow;
use std::ops::Range;

/// Codes that are taken apart at a time.
const PART: usize = 1 << 20;

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
    /// Some of the bytes of the codes.
    pub(crate) codes: &'a (dyn Fn(Range<usize>) -> Result<Cow<'a, [u8]>, Failure> + Sync),
    pub(crate) scales: &'a [f32],
    pub(crate) zeros: Option<&'a [u8]>,
}

impl From<MatrixError> for Failure {
    fn from(error: MatrixError) -> Self {
        Self::wrong(error.to_string())
    }
}

impl From<PanelError> for Failure {
    fn from(error: PanelError) -> Self {
        Self::wrong(error.to_string())
    }
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

    /// Takes the constants of some columns apart.
    ///
    /// # Errors
    /// If they have other lengths than the shape says.
    pub(crate) fn unpack(
        &self,
        operands: &Operands<'_>,
        columns: Range<usize>,
    ) -> Result<GroupedWeight, Failure> {
        let &Self { form, n, k, bits, block } = self;
        let blocks = k.div_ceil(block);
        let row = self.row_bytes()?;
        let zero_row = match form {
            Form::NBits => (blocks * usize::from(bits)).div_ceil(8),
            Form::Dense => blocks,
        };
        n.checked_mul(row.max(k)).ok_or(PanelError::TooLarge { k, n })?;
        let scales = exact("scales", operands.scales, n, blocks)?;
        let zeros = operands.zeros.map(|it| exact("zero points", it, n, zero_row)).transpose()?;
        let codes = (operands.codes)(columns.start * row..columns.end * row)?;
        let scales = &scales[columns.start * blocks..columns.end * blocks];
        let zeros = zeros.map(|it| &it[columns.start * zero_row..columns.end * zero_row]);
        let part = Self { n: columns.len(), ..*self };
        if form == Form::NBits {
            let (n, codes) = (part.n, &*codes);
            return Ok(NBitsWeight { n, k, bits, block, codes, scales, zeros }.unpack()?);
        }
        let (codes, zeros) = (part.dense(&codes)?, part.points(zeros)?);
        let weight = UnpackedWeight { codes, scales: scales.to_vec(), zeros };
        Ok(GroupedWeight { n: part.n, k, bits: self.width()?, group: block, weight })
    }

    /// Bytes of the codes of a column.
    fn row_bytes(&self) -> Result<usize, PanelError> {
        let filled = self.k.checked_next_multiple_of(self.block);
        let eights = filled.map(|it| it.div_ceil(8));
        let bytes = eights.and_then(|it| it.checked_mul(usize::from(self.bits)));
        bytes.ok_or(PanelError::TooLarge { k: self.k, n: self.n })
    }

    /// Bytes of all codes.
    pub(crate) fn bytes(&self) -> Result<usize, PanelError> {
        let too_large = PanelError::TooLarge { k: self.k, n: self.n };
        self.row_bytes()?.checked_mul(self.n).ok_or(too_large)
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
        let &Self { n, k, bits, .. } = self;
        let row = self.row_bytes()?;
        let bytes = exact("codes", bytes, n, row)?;
        let mut codes = vec![0; n.checked_mul(k).ok_or(PanelError::TooLarge { k, n })?];
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

/// What makes codes shorter: they move by `by` into `bits`, and zero points go where all are the
/// middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Narrow {
    bits: PanelBits,
    by: u8,
    zeros: bool,
}

impl Narrow {
    /// For codes from `low` to `high` of a width.
    fn of(bits: PanelBits, (low, high): (u8, u8), zeros: &[f32]) -> Self {
        // Zero points that are not the middle of codes that moved.
        let needed = |bits: PanelBits, by: u8| {
            let middle = f32::from(bits.middle()) + f32::from(by);
            zeros.iter().any(|&it| it != middle)
        };
        let mut found = Self { bits, by: 0, zeros: needed(bits, 0) };
        let fits = |found: &Self, narrow: PanelBits| {
            let most = u8::MAX >> (8 - narrow.bits());
            let centered = found.by + found.bits.middle() - narrow.middle();
            // Without zero points only the middle may go to the middle.
            let moves = [Some(centered), found.zeros.then_some(found.by)];
            let mut moves = moves.into_iter().flatten();
            moves.find(|&by| low >= by && high.saturating_sub(by) <= most)
        };
        let narrower = |found: &Self| {
            let widths = PanelBits::ALL.iter().filter(|&&it| it < found.bits);
            let (bits, by) = widths.map(|&it| (it, fits(found, it))).find(|it| it.1.is_some())?;
            by.map(|by| Self { bits, by, zeros: found.zeros && needed(bits, by) })
        };
        while let Some(next) = narrower(&found) {
            found = next;
        }
        found
    }

    fn apply(self, mut weight: UnpackedWeight) -> UnpackedWeight {
        weight.codes.iter_mut().for_each(|it| *it -= self.by);
        match &mut weight.zeros {
            Some(zeros) if self.zeros => zeros.iter_mut().for_each(|it| *it -= f32::from(self.by)),
            zeros => *zeros = None,
        }
        weight
    }
}

/// Packs a weight in the fewest bytes, some columns at a time.
pub(crate) fn pack(shape: Shape, operands: &Operands<'_>) -> Result<Matrix, Failure> {
    let Shape { form, n, k, block, .. } = shape;
    let (width, blocks) = (shape.width()?, k.div_ceil(block));
    exact("scales", operands.scales, n, blocks)?;
    let zeros = match (form, operands.zeros) {
        (_, None) => shape.points(None)?,
        (Form::Dense, zeros) => shape.points(zeros)?,
        // Taken apart as codes are: a row of one block each.
        (Form::NBits, Some(zeros)) => {
            let (k, scales) = (blocks, vec![1.0; n]);
            let block = k.next_multiple_of(8);
            let row = (blocks * usize::from(shape.bits)).div_ceil(8);
            exact("zero points", zeros, n, row)?;
            let filled = block * usize::from(shape.bits) / 8;
            let rows = zeros
                .chunks_exact(row)
                .flat_map(|it| it.iter().copied().chain(std::iter::repeat_n(0, filled - it.len())));
            let codes: Vec<u8> = rows.collect();
            let (codes, scales, bits) = (&codes, &scales, shape.bits);
            let points = NBitsWeight { n, k, bits, block, codes, scales, zeros: None }.unpack()?;
            Some(points.weight.codes.into_iter().map(f32::from).collect())
        }
    };
    let most = (PART / k).max(1);
    let parts = (0..n).step_by(most).map(|from| from..n.min(from + most));
    let (mut low, mut high) = (u8::MAX, 0);
    let zeros = zeros.unwrap_or_default();
    let mut narrow = Narrow { bits: width, by: 0, zeros: !zeros.is_empty() };
    for part in parts {
        for &code in &shape.unpack(operands, part)?.weight.codes {
            low = low.min(code);
            high = high.max(code);
        }
        narrow = Narrow::of(width, (low, high), &zeros);
        if narrow.bits == width {
            // Codes to come cannot make it shorter.
            break;
        }
    }
    let scale = ScaleKind::holding(operands.scales);
    let layout = PanelLayout::new(narrow.bits, block, k, n, scale, narrow.zeros)?;
    Matrix::pack_by_parts(layout, most, |columns| {
        Ok(narrow.apply(shape.unpack(operands, columns)?.weight))
    })
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

    fn unpack(
        shape: Shape,
        codes: &[u8],
        scales: &[f32],
        zeros: Option<&[u8]>,
    ) -> Result<UnpackedWeight, Failure> {
        let bytes = |range: Range<usize>| {
            let part = codes.get(range).ok_or_else(|| Failure::wrong("short"))?;
            Ok(Cow::Borrowed(part))
        };
        let operands = Operands { codes: &bytes, scales, zeros };
        Ok(shape.unpack(&operands, 0..shape.n)?.weight)
    }

    /// The example of docs/ai-qcc.md.
    #[test]
    fn three_bits_of_the_documentation() {
        let shape = Shape { form: Form::Dense, n: 1, k: 9, bits: 3, block: 8 };
        let codes = [0x88, 0xc6, 0xfa, 0x91, 0x24, 0x49];
        let weight = unpack(shape, &codes, &[0.5, 2.0], Some(&[5, 2])).unwrap();
        assert_eq!(weight.codes, [0, 1, 2, 3, 4, 5, 6, 7, 1]);
        assert_eq!(weight.zeros.unwrap(), [5.0, 2.0]);
        assert!(shape.has_panels().is_err());
        assert!(unpack(shape, &codes[1..], &[0.5, 2.0], Some(&[5, 2])).is_err());
        assert!(unpack(shape, &codes, &[0.5], Some(&[5, 2])).is_err());
        assert!(unpack(shape, &codes, &[0.5, 2.0], Some(&[5])).is_err());
    }

    #[test]
    fn five_bits_without_zero_points_have_their_middle() {
        let shape = Shape { form: Form::Dense, n: 1, k: 8, bits: 5, block: 8 };
        let codes = [0x41, 0x0c, 0x30, 0x44, 0x00];
        let weight = unpack(shape, &codes, &[1.0], None).unwrap();
        assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2, 1, 0]);
        assert_eq!(weight.zeros.unwrap(), [16.0]);
        let four = Shape { bits: 4, k: 6, ..shape };
        let codes = [0x21, 0x03, 0x23, 0x01];
        let weight = unpack(four, &codes, &[1.0], None).unwrap();
        assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2]);
        assert!(weight.zeros.is_none());
    }

    /// Codes within 3 and 2 bits, with and without zero points, of one part and of several.
    #[test]
    fn weights_are_narrowed_as_a_whole() {
        let (k, block) = (64, 32);
        for n in [3, 2 * PART / k + 5] {
            for (moved, most, point) in [(4, 8, 8), (0, 4, 1), (6, 4, 8), (4, 8, 7), (0, 16, 8)] {
                let shape = Shape { form: Form::NBits, n, k, bits: 4, block };
                let code = |i: usize| (moved + (i * 7 + i / 64) % most) as u8;
                let codes: Vec<u8> =
                    (0..n * k / 2).map(|i| code(2 * i) | code(2 * i + 1) << 4).collect();
                let scales: Vec<f32> = (0..n * 2).map(|i| 1.0 + (i % 9) as f32 / 8.0).collect();
                let zeros = vec![point | point << 4; n];
                let zeros = Some(zeros.as_slice());
                let bytes = |range: Range<usize>| Ok(Cow::Borrowed(&codes[range]));
                let packed =
                    pack(shape, &Operands { codes: &bytes, scales: &scales, zeros }).unwrap();
                let (bits, codes, scales) = (4, &codes, &scales);
                let whole = NBitsWeight { n, k, bits, block, codes, scales, zeros };
                let whole = whole.unpack().unwrap().narrowed();
                let (layout, bytes) = whole.pack().unwrap();
                assert_eq!(*packed.layout(), layout, "{n} {moved} {most} {point}");
                assert_eq!(packed.bytes(), bytes);
            }
        }
    }
}
