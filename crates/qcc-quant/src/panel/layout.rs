//! Where things lie in a packed matrix.

use std::fmt;
use std::str::FromStr;

/// Columns of a tile.
const TILE: usize = 16;

/// Columns of a panel.
const PANEL: usize = 32;

/// Codes along K of a block.
const BLOCK: usize = 32;

/// Bytes of a vector, and what every part of a panel is aligned to.
const VECTOR: usize = 64;

/// Longer groups may overflow the 32 bits of a sum of products.
const LONGEST_GROUP: usize = 1 << 16;

/// Declares an enum whose variants have names, printed and read.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),* })
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$variant),)* _ => Err(()) }
            }
        }
    };
}

names! {
    /// Width of a code.
    PanelBits {
        /// 2 bits.
        B2 = "2",
        /// 3 bits, dense.
        B3 = "3",
        /// 4 bits.
        B4 = "4",
        /// 8 bits.
        B8 = "8",
    }
}

names! {
    /// How scales are stored.
    PanelScale {
        /// IEEE half precision.
        F16 = "f16",
        /// The upper half of an f32.
        Bf16 = "bf16",
        /// IEEE single precision.
        F32 = "f32",
    }
}

impl PanelBits {
    /// The width as a number.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::B2 => 2,
            Self::B3 => 3,
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }

    /// The narrowest width that holds codes of `bits`.
    #[must_use]
    pub const fn holding(bits: u8) -> Option<Self> {
        match bits {
            1..=2 => Some(Self::B2),
            3 => Some(Self::B3),
            4 => Some(Self::B4),
            5..=8 => Some(Self::B8),
            _ => None,
        }
    }

    /// The zero point of a symmetric matrix, `2^(bits - 1)`.
    #[must_use]
    pub const fn middle(self) -> u8 {
        1 << (self.bits() - 1)
    }
}

impl PanelScale {
    /// Bytes of one scale.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Why there is no such packed matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PanelError {
    /// Groups must fill blocks of 32 k, or be halves of one, or whole rows.
    #[error(
        "no panel has groups of {group} (16, multiples of 32 up to 65536, and whole rows are possible)"
    )]
    Group {
        /// The size asked for.
        group: usize,
    },
    /// The operator has no such width.
    #[error("elements of {bits} bits (2, 4 and 8 are possible)")]
    Width {
        /// The width.
        bits: u8,
    },
    /// No rows or no columns.
    #[error("a packed matrix of {k} x {n} codes has none")]
    Empty {
        /// Codes along K.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// The bytes would not fit the address space.
    #[error("a packed matrix of {k} x {n} codes is too large")]
    TooLarge {
        /// Codes along K.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// An operand has another length than the shape says.
    #[error("{what} of a packed matrix: {got} given, {want} needed")]
    Length {
        /// Which operand.
        what: &'static str,
        /// Elements given.
        got: usize,
        /// Elements needed.
        want: usize,
    },
    /// A code needs more bits than the matrix has.
    #[error("a code of {code} in a matrix of {bits} bits")]
    Code {
        /// The code.
        code: u8,
        /// The width.
        bits: u32,
    },
    /// A number that is not stored exactly.
    #[error("the {what} {value} has no exact form in the packed matrix")]
    Inexact {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f32,
    },
    /// Bytes that no matrix packs to.
    #[error("damaged packed matrix: {0}")]
    Damaged(&'static str),
}

/// Shape of a packed matrix: what each byte of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    bits: PanelBits,
    group: usize,
    k: usize,
    n: usize,
    scale: PanelScale,
    zeros: bool,
}

impl PanelLayout {
    /// A matrix of `n` columns of `k` codes each, in groups of `group` along K; a group of `k` or
    /// more is the whole row. `zeros`: with zero points, else they are the middle of the codes.
    ///
    /// # Errors
    /// [`PanelError::Group`], [`PanelError::Empty`], [`PanelError::TooLarge`].
    pub fn new(
        bits: PanelBits,
        group: usize,
        k: usize,
        n: usize,
        scale: PanelScale,
        zeros: bool,
    ) -> Result<Self, PanelError> {
        if k == 0 || n == 0 {
            return Err(PanelError::Empty { k, n });
        }
        let too_large = PanelError::TooLarge { k, n };
        let row = k.checked_next_multiple_of(BLOCK).ok_or(too_large.clone())?;
        // Zero is no group; a row in a group of its own needs no padding beyond its last block.
        let whole = group >= k && (group != TILE || k > TILE);
        let inner = if whole { row } else { group };
        if inner == 0 || inner > LONGEST_GROUP || (inner != 16 && !inner.is_multiple_of(BLOCK)) {
            return Err(PanelError::Group { group });
        }
        let layout = Self { bits, group: inner, k, n, scale, zeros };
        // Nothing below overflows if this does not: f32 scales per group of 16 are the most.
        let columns = n.checked_next_multiple_of(PANEL).ok_or(too_large.clone())?;
        let row = k.checked_next_multiple_of(inner.max(BLOCK)).ok_or(too_large.clone())?;
        let most = columns.checked_mul(row).and_then(|it| it.checked_mul(4));
        most.filter(|&it| isize::try_from(it).is_ok()).ok_or(too_large)?;
        Ok(layout)
    }

    /// Width of a code.
    #[must_use]
    pub fn bits(&self) -> PanelBits {
        self.bits
    }

    /// Codes of a group along K: 16 or a multiple of 32.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// Codes along K.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// How scales are stored.
    #[must_use]
    pub fn scale(&self) -> PanelScale {
        self.scale
    }

    /// Whether zero points are stored.
    #[must_use]
    pub fn zeros(&self) -> bool {
        self.zeros
    }

    /// Groups of a column that hold codes.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }

    /// Groups of a step: what stands between two runs of scales.
    #[must_use]
    pub fn step_groups(&self) -> usize {
        if self.group < BLOCK { BLOCK / self.group } else { 1 }
    }

    /// Steps of a panel along K.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.groups().div_ceil(self.step_groups())
    }

    /// Blocks of 32 k of a step.
    #[must_use]
    pub fn step_blocks(&self) -> usize {
        self.group.div_ceil(BLOCK)
    }

    /// Groups of a column that are stored: [`Self::groups`], made even for groups of 16.
    #[must_use]
    pub fn stored_groups(&self) -> usize {
        self.steps() * self.step_groups()
    }

    /// Codes of a column that are stored, a multiple of 32.
    #[must_use]
    pub fn stored_k(&self) -> usize {
        self.stored_groups() * self.group
    }

    /// Panels.
    #[must_use]
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Tiles of a panel, 1 or 2.
    #[must_use]
    pub fn tiles(&self, panel: usize) -> usize {
        self.columns(panel).div_ceil(TILE)
    }

    /// Columns of a panel, 1 to 32; 0 beyond the last.
    #[must_use]
    pub fn columns(&self, panel: usize) -> usize {
        self.n.saturating_sub(panel.saturating_mul(PANEL)).min(PANEL)
    }

    /// Bytes of a block of 32 k of a panel of `tiles`.
    #[must_use]
    pub fn block_bytes(&self, tiles: usize) -> usize {
        tiles * self.bits.bits() as usize * VECTOR
    }

    /// Bytes of the codes of a step, which come first.
    #[must_use]
    pub fn code_bytes(&self, tiles: usize) -> usize {
        self.step_blocks() * self.block_bytes(tiles)
    }

    /// Bytes of the scales of one group.
    #[must_use]
    pub fn scale_bytes(&self, tiles: usize) -> usize {
        (tiles * TILE * self.scale.bytes()).next_multiple_of(VECTOR)
    }

    /// Bytes of the zero points of one group, which follow its scales.
    #[must_use]
    pub fn zero_bytes(&self, tiles: usize) -> usize {
        if self.zeros { (tiles * TILE * 2).next_multiple_of(VECTOR) } else { 0 }
    }

    /// Bytes of a step: its codes, then scales and zero points of each of its groups.
    #[must_use]
    pub fn step_bytes(&self, tiles: usize) -> usize {
        let group = self.scale_bytes(tiles) + self.zero_bytes(tiles);
        self.code_bytes(tiles) + self.step_groups() * group
    }

    /// Bytes from one panel to the next.
    #[must_use]
    pub fn panel_stride(&self) -> usize {
        self.steps() * self.step_bytes(2)
    }

    /// Bytes of all panels.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let last = self.panels() - 1;
        last * self.panel_stride() + self.steps() * self.step_bytes(self.tiles(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(group: usize, k: usize, n: usize) -> PanelLayout {
        PanelLayout::new(PanelBits::B4, group, k, n, PanelScale::F16, false).unwrap()
    }

    #[test]
    fn sizes_by_hand() {
        // 4 bits in groups of 32: 32 columns take 512 bytes of codes and 64 of scales.
        let it = layout(32, 100, 40);
        assert_eq!((it.groups(), it.steps(), it.stored_k(), it.panels()), (4, 4, 128, 2));
        assert_eq!((it.columns(0), it.columns(1), it.columns(2)), (32, 8, 0));
        assert_eq!((it.tiles(0), it.tiles(1)), (2, 1));
        assert_eq!((it.panel_stride(), it.step_bytes(1)), (4 * 576, 256 + 64));
        assert_eq!(it.bytes(), 4 * 576 + 4 * 320);
        let zeros = PanelLayout::new(PanelBits::B3, 64, 64, 32, PanelScale::F32, true).unwrap();
        assert_eq!(zeros.step_bytes(2), 2 * 384 + 128 + 64);
    }

    #[test]
    fn halves_come_in_pairs_and_whole_rows_end_with_their_block() {
        let it = layout(16, 40, 32);
        assert_eq!((it.groups(), it.steps(), it.stored_groups(), it.stored_k()), (3, 2, 4, 64));
        assert_eq!((it.step_blocks(), it.step_bytes(2)), (1, 512 + 2 * 64));
        assert_eq!((layout(usize::MAX, 40, 1).group(), layout(128, 40, 1).group()), (64, 64));
        assert_eq!(layout(16, 10, 1).group(), 16);
        assert_eq!(layout(24, 24, 1).group(), 32);
    }

    #[test]
    fn what_there_is_no_layout_for_is_refused() {
        let new = |group, k, n| PanelLayout::new(PanelBits::B8, group, k, n, PanelScale::F32, true);
        for group in [0, 8, 24, 48, 100] {
            assert_eq!(new(group, 128, 1), Err(PanelError::Group { group }));
        }
        assert_eq!(new(1 << 17, 1 << 17, 1), Err(PanelError::Group { group: 1 << 17 }));
        assert_eq!(new(32, 0, 1), Err(PanelError::Empty { k: 0, n: 1 }));
        let (k, n) = (1 << 40, 1 << 40);
        assert_eq!(new(32, k, n), Err(PanelError::TooLarge { k, n }));
        assert!(new(32, usize::MAX, 1).is_err() && new(32, 1, usize::MAX).is_err());
    }

    #[test]
    fn names_come_back() {
        for bits in PanelBits::ALL {
            assert_eq!(bits.to_string().parse(), Ok(*bits));
            assert_eq!(bits.to_string(), bits.bits().to_string());
        }
        for scale in PanelScale::ALL {
            assert_eq!(scale.to_string().parse(), Ok(*scale));
        }
        assert_eq!("5".parse::<PanelBits>(), Err(()));
    }
}
