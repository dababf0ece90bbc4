//! Weights of ONNX operators as panels: bytes in, bytes out.

use super::{PanelBits, PanelError, PanelLayout, PanelScale, Spread, UnpackedWeight};
use crate::fields::{field_at, field_bytes, unpack_fields};
use crate::rows::Order;
use std::ops::Range;

/// The weight of a `MatMulNBits`, in the bytes of its operands.
#[derive(Clone, Copy, Debug)]
pub struct NBitsWeight<'a> {
    /// Columns of the product: attribute `N`.
    pub n: usize,
    /// Attribute `K`.
    pub k: usize,
    /// Attribute `bits`: 2, 4 or 8.
    pub bits: u8,
    /// Attribute `block_size`.
    pub block: usize,
    /// Operand `B`, `[N][ceil(K / block)][block * bits / 8]`.
    pub codes: &'a [u8],
    /// `[N][ceil(K / block)]`.
    pub scales: &'a [f32],
    /// As `bits` wide codes, each row from a new byte; `2^(bits - 1)` without them.
    pub zeros: Option<&'a [u8]>,
}

/// The operands of a `DequantizeLinear` that gives a weight.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeight<'a> {
    /// Columns of the product.
    pub n: usize,
    /// Length along which the product sums.
    pub k: usize,
    /// Width of the element type: 2, 4 or 8.
    pub bits: u8,
    /// Whether the element type is signed.
    pub signed: bool,
    /// Order of all three operands.
    pub order: Order,
    /// What shares a scale.
    pub spread: Spread,
    /// Elements, low bits first over the whole tensor.
    pub codes: &'a [u8],
    /// One per block and column, per column, or for all.
    pub scales: &'a [f32],
    /// Of the element type, in the order of the scales; 0 without them.
    pub zeros: Option<&'a [u8]>,
}

/// Codes, scales and zero points with their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedWeight {
    /// Columns of the product.
    pub n: usize,
    /// Codes along K.
    pub k: usize,
    /// Width of the codes.
    pub bits: PanelBits,
    /// Codes of a group along K.
    pub group: usize,
    /// The numbers.
    pub weight: UnpackedWeight,
}

impl NBitsWeight<'_> {
    /// Takes the operands apart.
    ///
    /// # Errors
    /// [`PanelError::Width`], [`PanelError::Length`], [`PanelError::Group`],
    /// [`PanelError::TooLarge`].
    pub fn unpack(&self) -> Result<GroupedWeight, PanelError> {
        let &Self { n, k, bits, block, .. } = self;
        let width = width(bits)?;
        if block == 0 || !block.is_multiple_of(8) {
            return Err(PanelError::Group { group: block });
        }
        let blocks = k.div_ceil(block);
        let bytes = |count| field_bytes(count, bits).ok_or(PanelError::TooLarge { k, n });
        let row = bytes(k.checked_next_multiple_of(block).ok_or(PanelError::TooLarge { k, n })?)?;
        let zero_row = bytes(blocks)?;
        check("codes", self.codes.len(), n, row)?;
        check("scales", self.scales.len(), n, blocks)?;
        let rows = |bytes: &[u8], row: usize, count: usize| {
            let mut codes = vec![0; n * count];
            for (codes, bytes) in
                codes.chunks_exact_mut(count.max(1)).zip(bytes.chunks_exact(row.max(1)))
            {
                unpack_fields(bytes, bits, codes);
            }
            codes
        };
        let zeros = match self.zeros {
            Some(zeros) => {
                check("zero points", zeros.len(), n, zero_row)?;
                Some(floats(&rows(zeros, zero_row, blocks)))
            }
            None => None,
        };
        let codes = rows(self.codes, row, k);
        let weight = UnpackedWeight { codes, scales: self.scales.to_vec(), zeros };
        Ok(GroupedWeight { n, k, bits: width, group: block, weight })
    }
}

impl LinearWeight<'_> {
    /// Takes the operands apart.
    ///
    /// # Errors
    /// [`PanelError::Width`], [`PanelError::Length`], [`PanelError::Group`],
    /// [`PanelError::TooLarge`].
    pub fn unpack(&self) -> Result<GroupedWeight, PanelError> {
        self.columns(0..self.n)
    }

    /// The same of some columns.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn columns(&self, columns: Range<usize>) -> Result<GroupedWeight, PanelError> {
        let &Self { n: all, k, bits, order, spread, .. } = self;
        let width = width(bits)?;
        let group = spread.group(k);
        if group == 0 {
            return Err(PanelError::Group { group });
        }
        let (n, blocks, too_large) =
            (columns.len(), k.div_ceil(group), PanelError::TooLarge { k, n: all });
        let count = all.checked_mul(k).ok_or(too_large.clone())?;
        check("codes", self.codes.len(), 1, field_bytes(count, bits).ok_or(too_large)?)?;
        let codes = self.fields(self.codes, width, k, columns.clone());
        let zeros = self.zeros_of(columns.clone())?;
        let scales = match spread {
            Spread::All => vec![self.scales[0]; n],
            _ => part(all, blocks, columns, order, |at, to: &mut [f32]| {
                to.copy_from_slice(&self.scales[at..at + to.len()]);
            }),
        };
        let weight = UnpackedWeight { codes, scales, zeros };
        Ok(GroupedWeight { n, k, bits: width, group, weight })
    }

    /// Zero points of some columns, `[columns][blocks]`; None where all are the middle.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Panics
    /// As above.
    pub fn zeros_of(&self, columns: Range<usize>) -> Result<Option<Vec<f32>>, PanelError> {
        let &Self { n: all, k, bits, spread, .. } = self;
        let width = width(bits)?;
        let blocks = k.div_ceil(spread.group(k).max(1));
        let (rows, row) = if spread == Spread::All { (1, 1) } else { (all, blocks) };
        check("scales", self.scales.len(), rows, row)?;
        let n = columns.len();
        let Some(zeros) = self.zeros else {
            return Ok(if self.signed { None } else { Some(vec![0.0; n * blocks]) });
        };
        let bytes = field_bytes(rows * row, bits).unwrap_or(usize::MAX);
        check("zero points", zeros.len(), 1, bytes)?;
        if spread == Spread::All {
            let zero = field_at(zeros, bits, 0) ^ self.flip(width);
            return Ok(Some(vec![f32::from(zero); n]));
        }
        Ok(Some(floats(&self.fields(zeros, width, blocks, columns))))
    }

    /// Two's complement is moved by half its range.
    fn flip(&self, width: PanelBits) -> u8 {
        if self.signed { width.middle() } else { 0 }
    }

    /// `[columns][cols]` of elements.
    fn fields(
        &self,
        bytes: &[u8],
        width: PanelBits,
        cols: usize,
        columns: Range<usize>,
    ) -> Vec<u8> {
        let bits = self.bits;
        let mut codes = part(self.n, cols, columns, self.order, |at, to: &mut [u8]| {
            // The first of them may lie within a byte.
            let per_byte = usize::from(8 / bits);
            let aligned = at.next_multiple_of(per_byte).min(at + to.len());
            let (first, rest) = to.split_at_mut(aligned - at);
            for (i, to) in first.iter_mut().enumerate() {
                *to = field_at(bytes, bits, at + i);
            }
            unpack_fields(&bytes[aligned.div_ceil(per_byte)..], bits, rest);
        });
        let flip = self.flip(width);
        codes.iter_mut().for_each(|it| *it ^= flip);
        codes
    }
}

impl GroupedWeight {
    /// The same weight in the fewest bits: codes moved into a narrower width where all fit, as
    /// 3 bits stored in 4 do, and zero points left out where all are the middle.
    #[must_use]
    pub fn narrowed(mut self) -> Self {
        let middle = f32::from(self.bits.middle());
        if self.weight.zeros.as_ref().is_some_and(|all| all.iter().all(|&it| it == middle)) {
            self.weight.zeros = None;
        }
        let codes = &mut self.weight.codes;
        let (mut low, mut high) = (u8::MAX, 0);
        for &code in &*codes {
            low = low.min(code);
            high = high.max(code);
        }
        for &bits in PanelBits::ALL.iter().filter(|&&it| it < self.bits) {
            let most = u8::MAX >> (8 - bits.bits());
            let centered = self.bits.middle() - bits.middle();
            // Without zero points only the middle may go to the middle.
            let moves: &[u8] =
                if self.weight.zeros.is_some() { &[centered, 0] } else { &[centered] };
            let Some(&by) = moves.iter().find(|&&by| low >= by && high - by <= most) else {
                continue;
            };
            codes.iter_mut().for_each(|it| *it -= by);
            if let Some(zeros) = &mut self.weight.zeros {
                zeros.iter_mut().for_each(|it| *it -= f32::from(by));
            }
            self.bits = bits;
            return self.narrowed();
        }
        self
    }

    /// The layout that holds it exactly in the fewest bytes.
    ///
    /// # Errors
    /// [`PanelError::Group`], [`PanelError::Empty`], [`PanelError::TooLarge`].
    pub fn layout(&self) -> Result<PanelLayout, PanelError> {
        let scale = PanelScale::holding(&self.weight.scales);
        let zeros = self.weight.zeros.is_some();
        PanelLayout::new(self.bits, self.group, self.k, self.n, scale, zeros)
    }

    /// Packs it.
    ///
    /// # Errors
    /// Those of [`Self::layout`] and [`PanelLayout::pack`].
    pub fn pack(&self) -> Result<(PanelLayout, Vec<u8>), PanelError> {
        let layout = self.layout()?;
        let mut bytes = vec![0; layout.bytes()];
        layout.pack(&self.weight.view(), &mut bytes)?;
        Ok((layout, bytes))
    }
}

/// `[columns][cols]` of elements `[n][cols]` in either order. `read` gives elements from a place on.
fn part<T: Copy + Default>(
    n: usize,
    cols: usize,
    columns: Range<usize>,
    order: Order,
    read: impl Fn(usize, &mut [T]),
) -> Vec<T> {
    /// Rows and columns of a square that stays in the cache.
    const SIDE: usize = 64;
    assert!(columns.end <= n, "columns of the weight");
    let count = columns.len();
    let mut out = vec![T::default(); count * cols];
    if order == Order::Nk {
        read(columns.start * cols, &mut out);
        return out;
    }
    let mut rows = vec![T::default(); SIDE * count];
    for first in (0..cols).step_by(SIDE) {
        let side = SIDE.min(cols - first);
        for (i, row) in rows.chunks_exact_mut(count.max(1)).take(side).enumerate() {
            read((first + i) * n + columns.start, row);
        }
        for (column, out) in out.chunks_exact_mut(cols).enumerate() {
            for (i, to) in out[first..first + side].iter_mut().enumerate() {
                *to = rows[i * count + column];
            }
        }
    }
    out
}

fn floats(codes: &[u8]) -> Vec<f32> {
    codes.iter().map(|&it| f32::from(it)).collect()
}

fn width(bits: u8) -> Result<PanelBits, PanelError> {
    match bits {
        2 => Ok(PanelBits::B2),
        4 => Ok(PanelBits::B4),
        8 => Ok(PanelBits::B8),
        _ => Err(PanelError::Width { bits }),
    }
}

fn check(what: &'static str, got: usize, rows: usize, row: usize) -> Result<(), PanelError> {
    let want = rows.saturating_mul(row);
    if got == want { Ok(()) } else { Err(PanelError::Length { what, got, want }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{NBits, Qdq, Sign, transpose};
    use proptest::prelude::*;

    fn random(count: usize, bits: u8, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8 & (u8::MAX >> (8 - bits))
        };
        (0..count).map(|_| next()).collect()
    }

    proptest! {
        #[test]
        fn nbits_packs_to_the_same_numbers(
            bits in prop::sample::select(vec![2u8, 4, 8]),
            block in prop::sample::select(vec![16usize, 32, 128]),
            (n, k) in (1usize..50, 1usize..200), zeros in any::<bool>(), seed in any::<u64>(),
        ) {
            let from = NBits::new(n, k, bits, block).unwrap();
            let codes = random(n * k, bits, seed);
            let points = random(n * from.blocks(), bits, seed ^ 99);
            let (mut bytes, mut zero) = (vec![0; from.bytes()], vec![0; from.zero_bytes()]);
            from.pack(&codes, &points, &mut bytes);
            from.pack_zeros(&points, &mut zero);
            let scales: Vec<f32> = points.iter().map(|&it| f32::from(it) * 0.37).collect();
            let zeros = zeros.then_some(zero.as_slice());
            let weight = NBitsWeight { n, k, bits, block, codes: &bytes, scales: &scales, zeros };
            let weight = weight.unpack().unwrap();
            prop_assert_eq!(&weight.weight.codes, &codes);
            prop_assert_eq!(&weight.weight.scales, &scales);
            prop_assert_eq!(&weight.weight.zeros, &zeros.map(|_| floats(&points)));
            let (layout, bytes) = weight.pack().unwrap();
            prop_assert_eq!(layout.unpack(&bytes).unwrap(), weight.weight);
        }

        #[test]
        fn linear_packs_to_the_same_numbers(
            bits in prop::sample::select(vec![2u8, 4, 8]), signed in any::<bool>(),
            (n, k) in (1usize..150, 1usize..150), zeros in any::<bool>(), seed in any::<u64>(),
            step in 1usize..80,
        ) {
            let sign = if signed { Sign::Signed } else { Sign::Unsigned };
            let from = Qdq::new(n, k, bits, sign).unwrap();
            let (block, blocks) = (32, k.div_ceil(32));
            let codes = random(n * k, bits, seed);
            let points = random(n * blocks, bits, seed ^ 99);
            let (mut bytes, mut zero) = (vec![0; from.bytes()], vec![0; from.zero_bytes(blocks)]);
            from.pack(&codes, &mut bytes);
            from.pack_zeros(&points, blocks, &mut zero);
            let scales: Vec<f32> = points.iter().map(|&it| f32::from(it) * 0.37).collect();
            let across = transpose(&scales, blocks);
            let weight = LinearWeight {
                n, k, bits, signed, order: Order::Kn, spread: Spread::Blocks(block), codes: &bytes,
                scales: &across,
                zeros: zeros.then_some(&zero),
            };
            // Some columns at a time are those of all.
            let parts: Vec<_> = (0..n).step_by(step)
                .map(|from| weight.columns(from..n.min(from + step)).unwrap().weight)
                .collect();
            let weight = weight.unpack().unwrap();
            prop_assert_eq!(parts.iter().flat_map(|it| it.codes.clone()).collect::<Vec<_>>(), &*codes);
            prop_assert_eq!(
                parts.iter().flat_map(|it| it.scales.clone()).collect::<Vec<_>>(), &*scales,
            );
            let zero: Vec<f32> = parts.into_iter().flat_map(|it| it.zeros).flatten().collect();
            prop_assert_eq!(zero, weight.weight.zeros.clone().unwrap_or_default());
            prop_assert_eq!(&weight.weight.codes, &codes);
            prop_assert_eq!(&weight.weight.scales, &scales);
            let middle = if signed { None } else { Some(vec![0.0; n * blocks]) };
            prop_assert_eq!(&weight.weight.zeros, &if zeros { Some(floats(&points)) } else { middle });
        }
    }

    #[test]
    fn rows_of_columns_are_taken_as_they_are() {
        let weight = LinearWeight {
            n: 2,
            k: 3,
            bits: 4,
            signed: true,
            order: Order::Nk,
            spread: Spread::Columns,
            codes: &[0xf8, 0x10, 0x72],
            scales: &[1.0, 2.0],
            zeros: None,
        };
        let weight = weight.unpack().unwrap();
        assert_eq!(weight.weight.codes, [0, 7, 8, 9, 10, 15]);
        assert_eq!(weight.weight.scales, [1.0, 2.0]);
        assert_eq!(weight.pack().unwrap().0.group(), 32);
    }

    #[test]
    fn one_scale_and_zero_point_for_all() {
        let weight = LinearWeight {
            n: 3,
            k: 1,
            bits: 4,
            signed: true,
            order: Order::Kn,
            spread: Spread::All,
            codes: &[0xf8, 0x07],
            scales: &[0.5],
            zeros: Some(&[0x0f]),
        };
        let weight = weight.columns(1..3).unwrap();
        assert_eq!((weight.n, weight.weight.codes), (2, vec![7, 15]));
        assert_eq!(weight.weight.scales, [0.5, 0.5]);
        assert_eq!(weight.weight.zeros, Some(vec![7.0, 7.0]));
    }

    #[test]
    fn three_bits_in_four_become_three() {
        let weight = |codes: &[u8], zeros: Option<Vec<f32>>| GroupedWeight {
            n: 1,
            k: codes.len(),
            bits: PanelBits::B4,
            group: 32,
            weight: UnpackedWeight { codes: codes.to_vec(), scales: vec![1.0], zeros },
        };
        let it = weight(&[4, 11, 8], Some(vec![8.0])).narrowed();
        assert_eq!(
            (it.bits, it.weight.codes, it.weight.zeros),
            (PanelBits::B3, vec![0, 7, 4], None)
        );
        let it = weight(&[3, 11, 8], None).narrowed();
        assert_eq!((it.bits, it.weight.codes), (PanelBits::B4, vec![3, 11, 8]));
        let it = weight(&[0, 3], Some(vec![1.0])).narrowed();
        assert_eq!(
            (it.bits, it.weight.codes, it.weight.zeros),
            (PanelBits::B2, vec![0, 3], Some(vec![1.0]))
        );
        let it = weight(&[7, 9], None).narrowed();
        assert_eq!((it.bits, it.weight.codes), (PanelBits::B2, vec![1, 3]));
    }

    #[test]
    fn hostile_operands_are_refused() {
        let good = NBitsWeight {
            n: 1,
            k: 32,
            bits: 4,
            block: 32,
            codes: &[0; 16],
            scales: &[1.0],
            zeros: Some(&[8]),
        };
        good.unpack().unwrap();
        assert_eq!(
            NBitsWeight { bits: 3, ..good }.unpack().unwrap_err(),
            PanelError::Width { bits: 3 }
        );
        assert!(NBitsWeight { block: 0, ..good }.unpack().is_err());
        assert!(NBitsWeight { n: usize::MAX, ..good }.unpack().is_err());
        assert!(NBitsWeight { k: usize::MAX, ..good }.unpack().is_err());
        assert!(NBitsWeight { codes: &[0; 15], ..good }.unpack().is_err());
        assert!(NBitsWeight { scales: &[], ..good }.unpack().is_err());
        assert!(NBitsWeight { zeros: Some(&[]), ..good }.unpack().is_err());
        let good = LinearWeight {
            n: 1,
            k: 32,
            bits: 4,
            signed: false,
            order: Order::Kn,
            spread: Spread::Blocks(32),
            codes: &[0; 16],
            scales: &[1.0],
            zeros: Some(&[8]),
        };
        good.unpack().unwrap();
        assert!(LinearWeight { bits: 1, ..good }.unpack().is_err());
        assert!(LinearWeight { spread: Spread::Blocks(0), ..good }.unpack().is_err());
        assert!(LinearWeight { spread: Spread::All, scales: &[], ..good }.unpack().is_err());
        assert!(LinearWeight { spread: Spread::Columns, k: 0, ..good }.unpack().is_err());
        assert!(LinearWeight { n: usize::MAX, k: 2, ..good }.unpack().is_err());
        assert!(LinearWeight { codes: &[0; 17], ..good }.unpack().is_err());
        assert!(LinearWeight { zeros: Some(&[8, 8]), ..good }.unpack().is_err());
    }
}
