//! What a weight is rounded to: bits, group size, grid and scale type.
//!
//! A stored weight is `scale * (code - zero)` with one scale and one zero point for each group of
//! weights along K. A group never crosses a row; the last group of a row may be shorter.

use std::{fmt, num::NonZeroU32, str::FromStr};

/// Width of a code, 2 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(u8);

impl Bits {
    /// `None` unless `2 <= bits <= 8`.
    pub const fn new(bits: u8) -> Option<Self> {
        if matches!(bits, 2..=8) { Some(Self(bits)) } else { None }
    }

    /// The width as a number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Number of codes, `2^bits`.
    pub const fn levels(self) -> usize {
        1 << self.0
    }

    /// The largest code, `2^bits - 1`.
    pub const fn max_code(self) -> u8 {
        u8::MAX >> (8 - self.0)
    }

    /// The zero point of the symmetric grid, `2^(bits - 1)`.
    pub const fn middle(self) -> u8 {
        1 << (self.0 - 1)
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many weights along K share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupSize {
    /// This many; the last group of a row holds what is left.
    Of(NonZeroU32),
    /// The whole row.
    Row,
}

impl GroupSize {
    /// `None` for zero.
    pub const fn of(size: u32) -> Option<Self> {
        match NonZeroU32::new(size) {
            Some(size) => Some(Self::Of(size)),
            None => None,
        }
    }

    /// Weights in a full group of a row of `k`: at most `k`, at least 1.
    pub fn len(self, k: usize) -> usize {
        match self {
            Self::Of(size) => (size.get() as usize).min(k).max(1),
            Self::Row => k.max(1),
        }
    }

    /// Groups in a row of `k` weights, a short last one included.
    pub fn count(self, k: usize) -> usize {
        k.div_ceil(self.len(k))
    }
}

impl fmt::Display for GroupSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(size) => size.fmt(f),
            Self::Row => f.pad("row"),
        }
    }
}

/// Text that names no group size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group size is a number above zero or 'row'")]
pub struct ParseGroupSizeError;

impl FromStr for GroupSize {
    type Err = ParseGroupSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "row" => Ok(Self::Row),
            _ => text.parse().map(Self::Of).map_err(|_| ParseGroupSizeError),
        }
    }
}

/// Where the grid of a group lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// Zero point fixed at `2^(bits - 1)`. The scale carries a sign, so that the longer half of
    /// the range, `-2^(bits - 1)`, falls on the side of the largest weight.
    Sym,
    /// Any zero point `0 ..= 2^bits - 1`, scale above zero.
    Asym,
}

/// Type a scale is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl ScaleType {
    /// The least magnitude a scale is stored with. For the types with the exponents of
    /// f32 this is the least normal f32, so that `1 / scale` is finite; for f16 the least
    /// subnormal.
    pub const fn least(self) -> f32 {
        match self {
            Self::F32 | Self::BF16 => f32::MIN_POSITIVE,
            Self::F16 => 1.0 / 16_777_216.0,
        }
    }

    /// The largest magnitude a scale is stored with: `scale * 255` is finite in f32.
    pub const fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::from_bits(0x7b7f_ffff),  // MAX / 256
            Self::BF16 => f32::from_bits(0x7b7f_0000), // the same in bf16
            Self::F16 => 65_504.0,
        }
    }

    /// `x` as it is stored: to nearest, half to even, its magnitude clamped to
    /// [`least`](Self::least) and [`largest`](Self::largest). Never zero; `x` is not NaN.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        let magnitude = x.abs();
        let bits = magnitude.min(self.largest()).to_bits();
        let rounded = match self {
            Self::F32 => f32::from_bits(bits),
            Self::BF16 => f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & !0xffff),
            Self::F16 => {
                let normal = f32::from_bits((bits + 0xfff + ((bits >> 13) & 1)) & !0x1fff);
                // Floats in [0.5, 1) have the step of f16 subnormals, 2^-24.
                let subnormal = (f32::from_bits(bits) + 0.5) - 0.5;
                if magnitude < 6.103_515_6e-5 { subnormal } else { normal }
            }
        };
        rounded.max(self.least()).copysign(x)
    }

    /// Whether storing `x` costs more precision than a normal number of the type would lose:
    /// `x` is too small or too large, and a wider type should hold it.
    pub fn is_out_of_range(self, x: f32) -> bool {
        let unit = match self {
            Self::F32 => f64::powi(2.0, -24),
            Self::F16 => f64::powi(2.0, -11),
            Self::BF16 => f64::powi(2.0, -8),
        };
        let x = f64::from(x);
        (f64::from(self.round(x as f32)) - x).abs() > unit * x.abs()
    }

    /// Bytes of one scale.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// What one weight is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightSpec {
    /// Width of a code.
    pub bits: Bits,
    /// Weights that share a scale.
    pub group: GroupSize,
    /// Where the grid of a group lies.
    pub grid: Grid,
    /// Type of the stored scale.
    pub scale: ScaleType,
}

impl WeightSpec {
    /// Stored bits per weight of a row of `k`: codes, scales and, on the asymmetric grid, packed
    /// zero points. Padding that a layout adds is not counted.
    pub fn bpw(&self, k: usize) -> f64 {
        let bits = f64::from(self.bits.get());
        let zero_bits = match self.grid {
            Grid::Sym => 0.0,
            Grid::Asym => bits,
        };
        let group_bits = 8.0 * self.scale.bytes() as f64 + zero_bits;
        bits + group_bits * self.group.count(k) as f64 / k.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn bits_bound_the_codes() {
        assert_eq!(Bits::new(1), None);
        assert_eq!(Bits::new(9), None);
        let bits = Bits::new(4).unwrap();
        assert_eq!((bits.levels(), bits.max_code(), bits.middle()), (16, 15, 8));
        assert_eq!(Bits::new(8).unwrap().max_code(), 255);
    }

    #[test]
    fn group_sizes_read_and_print() {
        let g32: GroupSize = "32".parse().unwrap();
        assert_eq!((g32.to_string().as_str(), g32.len(100), g32.count(100)), ("32", 32, 4));
        assert_eq!((g32.len(20), g32.count(20)), (20, 1));
        let row: GroupSize = "row".parse().unwrap();
        assert_eq!((row.to_string().as_str(), row.len(100), row.count(100)), ("row", 100, 1));
        for text in ["0", "", "-1", "Row", "3.5"] {
            assert_eq!(text.parse::<GroupSize>(), Err(ParseGroupSizeError), "{text}");
        }
    }

    #[test]
    fn bpw_counts_scales_and_zero_points() {
        let mut spec = WeightSpec {
            bits: Bits::new(4).unwrap(),
            group: GroupSize::of(128).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F16,
        };
        assert_eq!(spec.bpw(1024), 4.15625);
        spec.grid = Grid::Sym;
        spec.scale = ScaleType::F32;
        assert_eq!(spec.bpw(1024), 4.25);
        assert_eq!(spec.bpw(64), 4.5, "a short row pays for its own scale");
    }

    #[test]
    fn scales_saturate_and_never_vanish() {
        assert_eq!(ScaleType::F16.round(1e6), 65_504.0);
        assert_eq!(ScaleType::F16.round(-65_519.0), -65_504.0);
        assert_eq!(ScaleType::F16.round(-1e-30), -5.960_464_5e-8);
        for scale in [ScaleType::F32, ScaleType::BF16] {
            assert_eq!(scale.round(1e-44), f32::MIN_POSITIVE);
            assert!((scale.round(f32::MAX) * 255.0).is_finite());
        }
        for scale in [ScaleType::F32, ScaleType::F16, ScaleType::BF16] {
            assert_eq!(scale.round(-0.0), -scale.least());
            assert_eq!(scale.round(scale.round(0.1)), scale.round(0.1));
            assert_eq!(scale.round(scale.largest()), scale.largest());
            assert_eq!(scale.round(scale.least()), scale.least());
            assert!(!scale.is_out_of_range(0.013));
        }
        assert!(ScaleType::F16.is_out_of_range(1e-7));
        assert!(ScaleType::F16.is_out_of_range(1e5));
        assert!(!ScaleType::BF16.is_out_of_range(1e-7));
    }

    proptest! {
        #[test]
        fn rounding_agrees_with_half(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            prop_assume!(x.is_finite());
            let (least, largest) = (ScaleType::F16.least(), ScaleType::F16.largest());
            let expected = f16::from_f32(x).to_f32();
            if expected != 0.0 && expected.is_finite() {
                prop_assert_eq!(ScaleType::F16.round(x).to_bits(), expected.to_bits());
            } else {
                let stored = ScaleType::F16.round(x).abs();
                prop_assert!(stored == least || stored == largest);
            }
            if x.abs() >= f32::MIN_POSITIVE && x.abs() <= ScaleType::BF16.largest() {
                let expected = bf16::from_f32(x).to_f32();
                prop_assert_eq!(ScaleType::BF16.round(x).to_bits(), expected.to_bits());
            }
        }

        #[test]
        fn small_scales_agree_with_half(x in -1e-4f32..1e-4) {
            let expected = f16::from_f32(x).to_f32();
            prop_assume!(expected != 0.0);
            prop_assert_eq!(ScaleType::F16.round(x).to_bits(), expected.to_bits());
        }
    }
}
