//! The head of a file of panels.
//!
//! 64 bytes, numbers little-endian, the rest of them 0; panels begin at byte 4096.
//!
//! | byte | what |
//! |---|---|
//! | 0 | `QPK1` |
//! | 4 | `u32` version, 1 |
//! | 8 | `u8` bits: 2, 3, 4, 8 |
//! | 9 | `u8` scales: 0 f16, 1 bf16, 2 f32 |
//! | 10 | `u8` zero points: 0 none, 1 f16 |
//! | 16 | `u64` K |
//! | 24 | `u64` N |
//! | 32 | `u64` group: 16 or a multiple of 32; K filled up to 32 for whole rows |
//! | 40 | `u64` bytes of all panels |

use super::{PanelBits, PanelError, PanelLayout, PanelScale};

/// What a file begins with.
const MAGIC: [u8; 4] = *b"QPK1";

/// The version that is read and written.
const VERSION: u32 = 1;

impl PanelLayout {
    /// Bytes of a header.
    pub const HEADER: usize = 64;

    /// Where panels begin in a file.
    pub const FIRST_PANEL: usize = 4096;

    /// The head of a file of these panels.
    #[must_use]
    pub fn header(&self) -> [u8; Self::HEADER] {
        let mut head = [0; Self::HEADER];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&VERSION.to_le_bytes());
        head[8] = self.bits().bits() as u8;
        head[9] = self.scale() as u8;
        head[10] = u8::from(self.zeros());
        let numbers = [self.k(), self.n(), self.group(), self.bytes()];
        for (to, number) in head[16..].chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&(number as u64).to_le_bytes());
        }
        head
    }

    /// The layout that a file begins with. Whether the file is long enough is not looked at.
    ///
    /// # Errors
    /// [`PanelError::Damaged`] for bytes that [`Self::header`] does not write, and those of
    /// [`Self::new`].
    pub fn from_header(file: &[u8]) -> Result<Self, PanelError> {
        let head = file.first_chunk::<{ Self::HEADER }>();
        let head = head.ok_or(PanelError::Damaged("a header that is cut off"))?;
        if head[..4] != MAGIC {
            return Err(PanelError::Damaged("no QPK1 at the start"));
        }
        if head[4..8] != VERSION.to_le_bytes() {
            return Err(PanelError::Damaged("another version"));
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            let number = usize::try_from(u64::from_le_bytes(bytes));
            number.map_err(|_| PanelError::Damaged("a size beyond the address space"))
        };
        let bits = PanelBits::ALL.iter().find(|it| it.bits() == u32::from(head[8]));
        let bits = *bits.ok_or(PanelError::Damaged("a width"))?;
        let scale = PanelScale::ALL.iter().find(|&&it| it as u8 == head[9]);
        let scale = *scale.ok_or(PanelError::Damaged("a kind of scales"))?;
        let layout = Self::new(bits, number(32)?, number(16)?, number(24)?, scale, head[10] == 1)?;
        // Whatever else is wrong: sizes that do not follow from the shape, bytes that are not 0.
        if layout.header() == *head { Ok(layout) } else { Err(PanelError::Damaged("the header")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_by_hand() {
        let layout = PanelLayout::new(PanelBits::B3, 64, 100, 33, PanelScale::Bf16, true).unwrap();
        let mut want = [0; 64];
        want[..11].copy_from_slice(b"QPK1\x01\0\0\0\x03\x01\x01");
        (want[16], want[24], want[32]) = (100, 33, 64);
        // Two groups: 768 of codes, 64 of scales, 64 of zero points, and half the codes in the
        // panel of one tile.
        want[40..42].copy_from_slice(&(2 * (768 + 128) + 2 * (384 + 128) as u16).to_le_bytes());
        assert_eq!(layout.header(), want);
        assert_eq!(PanelLayout::from_header(&want), Ok(layout));
        assert!(PanelLayout::from_header(&want[1..]).is_err());
    }

    proptest! {
        #[test]
        fn headers_come_back_and_damage_is_seen(
            bits in prop::sample::select(PanelBits::ALL),
            group in prop::sample::select(vec![16usize, 32, 96, 1024]),
            (k, n) in (1usize..3000, 1usize..3000), scale in prop::sample::select(PanelScale::ALL),
            zeros in any::<bool>(), at in 0usize..64, flip in 1u8..=255,
        ) {
            let layout = PanelLayout::new(bits, group, k, n, scale, zeros).unwrap();
            let mut head = layout.header();
            prop_assert_eq!(PanelLayout::from_header(&head), Ok(layout));
            head[at] ^= flip;
            // Either an error or another layout that is as good.
            if let Ok(other) = PanelLayout::from_header(&head) {
                prop_assert_eq!(other.header(), head);
            }
        }
    }
}
