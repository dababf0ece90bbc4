//! Weights of operators, taken apart and packed.

use crate::api::Failure;
use qcc_kernels::{Apart, Matrix, MatrixError, Overlay, OverlayError, ScaleKind};
use qcc_quant::fields::field_bytes;
use qcc_quant::layout::{Outliers, OutliersError};
use qcc_quant::panel::{
    GroupedWeight, LinearWeight, NBitsWeight, PanelBits, PanelError, PanelLayout, Spread,
    UnpackedWeight,
};
use qcc_quant::rows::Order;
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
    /// `DequantizeLinear`: both are elements of a tensor, in either order.
    Linear { signed: bool, order: Order, spread: Spread },
}

/// What an operator of `ai.qcc` reads beside activations, codes and scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Zeros,
    Nothing,
    /// Scales and places.
    Outliers,
}

impl Beside {
    pub(crate) const ALL: [Self; 3] = [Self::Zeros, Self::Nothing, Self::Outliers];

    /// The end of the names of such operators.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Zeros => "",
            Self::Nothing => "Sym",
            Self::Outliers => "Outliers",
        }
    }

    /// How many inputs they have.
    pub(crate) fn inputs(self) -> usize {
        match self {
            Self::Zeros => 4,
            Self::Nothing => 3,
            Self::Outliers => 5,
        }
    }
}

/// Width of the codes of an operator of `ai.qcc`, and what it reads beside them.
pub(crate) fn function_of(op: &str) -> Option<(u8, Beside)> {
    let name = op.strip_prefix("MatMulQ")?;
    // That with the empty suffix comes last.
    let beside =
        Beside::ALL.iter().rev().find_map(|it| Some((name.strip_suffix(it.suffix())?, *it)));
    let (bits, beside) = beside?;
    let bits = WIDTHS.iter().find(|it| it.to_string() == bits)?;
    Some((*bits, beside))
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
    pub(crate) outliers: Option<&'a Outliers>,
}

/// A weight that is ready for kernels.
pub(crate) struct Packed {
    pub(crate) matrix: Matrix,
    /// Its outliers.
    pub(crate) overlay: Option<Overlay>,
}

impl From<MatrixError> for Failure {
    fn from(error: MatrixError) -> Self {
        Self::wrong(error.to_string())
    }
}

impl From<OverlayError> for Failure {
    fn from(error: OverlayError) -> Self {
        Self::wrong(error.to_string())
    }
}

impl From<OutliersError> for Failure {
    fn from(error: OutliersError) -> Self {
        Self::wrong(format!("its outliers cannot be read: {error}"))
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
        if let Some(linear) = self.linear(operands) {
            let codes = (operands.codes)(0..self.bytes()?)?;
            return Ok(LinearWeight { codes: &codes, ..linear }.columns(columns)?);
        }
        let row = self.row_bytes()?;
        let zero_row = match form {
            Form::NBits => (blocks * usize::from(bits)).div_ceil(8),
            _ => blocks,
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
        let (mut codes, zeros) = (part.dense(&codes)?, part.points(zeros)?);
        if zeros.is_none() {
            // 5 and 6 bits lie in 8, where the middle is another: codes move there.
            let by = self.middle()? - (1 << (bits - 1));
            codes.iter_mut().for_each(|it| *it += by);
        }
        let weight = UnpackedWeight { codes, scales: scales.to_vec(), zeros };
        Ok(GroupedWeight { n: part.n, k, bits: self.width()?, group: block, weight })
    }

    /// The weight of a `DequantizeLinear`, its codes left out. None for other operators.
    fn linear<'a>(&self, operands: &Operands<'a>) -> Option<LinearWeight<'a>> {
        let &Self { form, n, k, bits, .. } = self;
        let Form::Linear { signed, order, spread } = form else { return None };
        let (codes, scales, zeros) = (&[], operands.scales, operands.zeros);
        Some(LinearWeight { n, k, bits, signed, order, spread, codes, scales, zeros })
    }

    /// The outliers of a weight, and codes that are left: [`Self::masked`].
    fn overlay(
        &self,
        operands: &Operands<'_>,
        outliers: &Outliers,
        most: usize,
    ) -> Result<Overlay, Failure> {
        let &Self { n, k, .. } = self;
        let (mut apart, middle) = (Apart::new(k)?, self.middle()?);
        for from in (0..n).step_by(most) {
            let columns = from..n.min(from + most);
            let mut codes = self.unpack(operands, columns.clone())?.weight.codes;
            for (codes, column) in codes.chunks_exact_mut(k).zip(columns) {
                apart.column(codes, outliers.row(column), middle)?;
            }
        }
        Ok(apart.finish()?)
    }

    /// Some columns of a weight, without the outliers that lie in `overlay`.
    fn masked(
        &self,
        operands: &Operands<'_>,
        overlay: Option<&Overlay>,
        columns: Range<usize>,
    ) -> Result<UnpackedWeight, Failure> {
        let mut weight = self.unpack(operands, columns.clone())?.weight;
        if let Some(overlay) = overlay {
            let middle = self.middle()?;
            for (codes, column) in weight.codes.chunks_exact_mut(self.k).zip(columns) {
                overlay.column(column).for_each(|(input, _)| codes[input] = middle);
            }
        }
        Ok(weight)
    }

    /// The code of zero that [`Self::unpack`] gives, where there are no zero points.
    fn middle(&self) -> Result<u8, PanelError> {
        Ok(self.width()?.middle())
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
        let bytes = match self.form {
            Form::Linear { .. } => {
                self.n.checked_mul(self.k).and_then(|it| field_bytes(it, self.bits))
            }
            _ => self.row_bytes()?.checked_mul(self.n),
        };
        bytes.ok_or(PanelError::TooLarge { k: self.k, n: self.n })
    }

    /// Zero points of bytes.
    fn points(&self, zeros: Option<&[u8]>) -> Result<Option<Vec<f32>>, PanelError> {
        let Some(zeros) = zeros else { return Ok(None) };
        let zeros = exact("zero points", zeros, self.n, self.k.div_ceil(self.block))?;
        Ok(Some(zeros.iter().map(|&it| f32::from(it)).collect()))
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
pub(crate) fn pack(shape: Shape, operands: &Operands<'_>) -> Result<Packed, Failure> {
    let Shape { form, n, k, block, .. } = shape;
    let (width, blocks) = (shape.width()?, k.div_ceil(block));
    let linear = shape.linear(operands);
    if linear.is_none() {
        exact("scales", operands.scales, n, blocks)?;
    }
    let zeros = match (form, operands.zeros) {
        (Form::Linear { .. }, _) => linear.map_or(Ok(None), |it| it.zeros_of(0..n))?,
        (_, None) => None,
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
    let overlay = operands.outliers.map(|it| shape.overlay(operands, it, most)).transpose()?;
    let parts = (0..n).step_by(most).map(|from| from..n.min(from + most));
    let (mut low, mut high) = (u8::MAX, 0);
    let zeros = zeros.unwrap_or_default();
    let mut narrow = Narrow { bits: width, by: 0, zeros: !zeros.is_empty() };
    for part in parts {
        for &code in &shape.masked(operands, overlay.as_ref(), part)?.codes {
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
    let matrix = Matrix::pack_by_parts(layout, most, |columns| {
        shape.masked(operands, overlay.as_ref(), columns).map(|it| narrow.apply(it))
    })?;
    Ok(Packed { matrix, overlay })
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
mod tests;
