//! Codes to panels and back.
//!
//! Four codes of a column are one 32-bit word on both sides, so that all the work is on words.

use super::{PanelBits, PanelError, PanelLayout, PanelScale};
use half::f16;
use rayon::prelude::*;

/// Columns of a tile.
const TILE: usize = 16;

/// Columns of a panel.
const PANEL: usize = 32;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// A weight as rows of columns: `dequant(n, k) = scale(n, g) * (code(n, k) - zero(n, g))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PanelWeight<'a> {
    /// `[n][k]`, each below `2^bits`.
    pub codes: &'a [u8],
    /// `[n][ceil(k / group)]`.
    pub scales: &'a [f32],
    /// `[n][ceil(k / group)]`, numbers that f16 holds, as all of 0 to 255 are; none if all are
    /// `2^(bits - 1)`.
    pub zeros: Option<&'a [f32]>,
}

/// The same, owned.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpackedWeight {
    /// As in [`PanelWeight`].
    pub codes: Vec<u8>,
    /// As in [`PanelWeight`].
    pub scales: Vec<f32>,
    /// As in [`PanelWeight`].
    pub zeros: Option<Vec<f32>>,
}

impl UnpackedWeight {
    /// Borrows the parts.
    #[must_use]
    pub fn view(&self) -> PanelWeight<'_> {
        let Self { codes, scales, zeros } = self;
        PanelWeight { codes, scales, zeros: zeros.as_deref() }
    }
}

/// Words of the 8 chunks of a column as words of its vectors; the first `bits` of them count.
#[inline(always)]
fn to_vectors(bits: PanelBits, q: [u32; 8]) -> [u32; 8] {
    const LOW_2: u32 = 0x0303_0303;
    const BIT_2: u32 = 0x0404_0404;
    match bits {
        PanelBits::B8 => q,
        PanelBits::B4 => {
            let pair = |j: usize| q[2 * j] | q[2 * j + 1] << 4;
            [pair(0), pair(1), pair(2), pair(3), 0, 0, 0, 0]
        }
        PanelBits::B2 => {
            let four = |j: usize| q[j] | q[j + 1] << 2 | q[j + 2] << 4 | q[j + 3] << 6;
            [four(0), four(4), 0, 0, 0, 0, 0, 0]
        }
        PanelBits::B3 => [
            q[0] | q[1] << 3 | (q[6] & LOW_2) << 6,
            q[2] | q[3] << 3 | (q[7] & LOW_2) << 6,
            q[4] | q[5] << 3 | (q[7] & BIT_2) << 4 | (q[6] & BIT_2) << 5,
            0,
            0,
            0,
            0,
            0,
        ],
    }
}

/// The inverse of [`to_vectors`].
#[inline(always)]
fn from_vectors(bits: PanelBits, v: [u32; 8]) -> [u32; 8] {
    const LOW_2: u32 = 0x0303_0303;
    const BIT_2: u32 = 0x0404_0404;
    const LOW_3: u32 = 0x0707_0707;
    const LOW_4: u32 = 0x0f0f_0f0f;
    match bits {
        PanelBits::B8 => v,
        PanelBits::B4 => std::array::from_fn(|c| v[c / 2] >> (4 * (c % 2)) & LOW_4),
        PanelBits::B2 => std::array::from_fn(|c| v[c / 4] >> (2 * (c % 4)) & LOW_2),
        PanelBits::B3 => {
            let field = |c: usize| v[c / 2] >> (3 * (c % 2)) & LOW_3;
            let high = |shift: u32| v[2] >> shift & BIT_2;
            let last = |low: u32, high: u32| low >> 6 & LOW_2 | high;
            let (six, seven) = (last(v[0], high(5)), last(v[1], high(4)));
            [field(0), field(1), field(2), field(3), field(4), field(5), six, seven]
        }
    }
}

impl PanelLayout {
    /// Packs a weight into `out`, which holds [`Self::bytes`].
    ///
    /// # Errors
    /// [`PanelError::Length`], [`PanelError::Code`], [`PanelError::Inexact`].
    pub fn pack(&self, weight: &PanelWeight<'_>, out: &mut [u8]) -> Result<(), PanelError> {
        let groups = self.n() * self.groups();
        check("codes", weight.codes.len(), self.n() * self.k())?;
        check("scales", weight.scales.len(), groups)?;
        check(
            "zero points",
            weight.zeros.map_or(0, <[f32]>::len),
            if self.zeros() { groups } else { 0 },
        )?;
        check("bytes", out.len(), self.bytes())?;
        let found = PanelScale::holding(weight.scales);
        if self.scale() != PanelScale::F32 && found != self.scale() {
            // Not the shortest, but exact all the same?
            let inexact = |it: &&f32| self.scale().nearest(**it).to_bits() != it.to_bits();
            if let Some(&value) = weight.scales.iter().find(inexact) {
                return Err(PanelError::Inexact { what: "scale", value });
            }
        }
        if let Some(&zero) = weight.zeros.and_then(|all| all.iter().find(|&&it| !is_zero_point(it)))
        {
            return Err(PanelError::Inexact { what: "zero point", value: zero });
        }
        out.par_chunks_mut(self.panel_stride()).enumerate().try_for_each(|(panel, out)| match self
            .bits()
        {
            // The width is a constant in each of them.
            PanelBits::B2 => self.pack_panel(PanelBits::B2, weight, panel, out),
            PanelBits::B3 => self.pack_panel(PanelBits::B3, weight, panel, out),
            PanelBits::B4 => self.pack_panel(PanelBits::B4, weight, panel, out),
            PanelBits::B8 => self.pack_panel(PanelBits::B8, weight, panel, out),
        })
    }

    #[inline(always)]
    fn pack_panel(
        &self,
        bits: PanelBits,
        weight: &PanelWeight<'_>,
        panel: usize,
        out: &mut [u8],
    ) -> Result<(), PanelError> {
        let tiles = self.tiles(panel);
        let first = panel * PANEL;
        let mut all = 0u32;
        for column in 0..tiles * TILE {
            let row = if first + column < self.n() {
                &weight.codes[(first + column) * self.k()..][..self.k()]
            } else {
                &[]
            };
            let mut blocks = row.chunks(32);
            for step in out.chunks_exact_mut(self.step_bytes(tiles)) {
                let codes = &mut step[..self.code_bytes(tiles)];
                for block in codes.chunks_exact_mut(self.block_bytes(tiles)) {
                    let mut bytes = [0u8; 32];
                    match blocks.next() {
                        Some(full) if full.len() == 32 => bytes.copy_from_slice(full),
                        Some(part) => bytes[..part.len()].copy_from_slice(part),
                        None => {}
                    }
                    let (words, _) = bytes.as_chunks::<4>();
                    let words = std::array::from_fn(|i| u32::from_le_bytes(words[i]));
                    all = words.iter().fold(all, |all, it| all | it);
                    let at = column / TILE * VECTOR + column % TILE * 4;
                    for (j, word) in
                        to_vectors(bits, words)[..bits.bits() as usize].iter().enumerate()
                    {
                        block[at + j * tiles * VECTOR..][..4].copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
        let most = all.to_le_bytes().into_iter().fold(0, |all, it| all | it);
        if most.checked_shr(bits.bits()).unwrap_or(0) != 0 {
            return Err(PanelError::Code { code: most, bits: bits.bits() });
        }
        let groups = self.groups();
        for (i, step) in out.chunks_exact_mut(self.step_bytes(tiles)).enumerate() {
            let mut rest = &mut step[self.code_bytes(tiles)..];
            for half in 0..self.step_groups() {
                let group = i * self.step_groups() + half;
                let of = |numbers: &[f32], column: usize| {
                    if group < groups { numbers[column * groups + group] } else { 0.0 }
                };
                let columns = first..first + self.columns(panel);
                let (scales, after) = rest.split_at_mut(self.scale_bytes(tiles));
                self.scale().write(columns.clone().map(|it| of(weight.scales, it)), scales);
                let (zeros, after) = after.split_at_mut(self.zero_bytes(tiles));
                if let Some(numbers) = weight.zeros {
                    PanelScale::F16.write(columns.map(|it| of(numbers, it)), zeros);
                }
                rest = after;
            }
        }
        Ok(())
    }

    /// The weight that packs to `bytes`.
    ///
    /// # Errors
    /// [`PanelError::Length`]; [`PanelError::Damaged`] if there is no such weight.
    pub fn unpack(&self, bytes: &[u8]) -> Result<UnpackedWeight, PanelError> {
        check("bytes", bytes.len(), self.bytes())?;
        let (k, groups) = (self.k(), self.groups());
        let mut weight = UnpackedWeight {
            codes: vec![0; self.n() * k],
            scales: vec![0.0; self.n() * groups],
            zeros: self.zeros().then(|| vec![0.0; self.n() * groups]),
        };
        for (panel, bytes) in bytes.chunks(self.panel_stride()).enumerate() {
            let tiles = self.tiles(panel);
            for (i, step) in bytes.chunks_exact(self.step_bytes(tiles)).enumerate() {
                for n in panel * PANEL..panel * PANEL + self.columns(panel) {
                    let codes = &mut weight.codes[n * k..][..k];
                    let from = (i * self.step_blocks() * 32).min(k);
                    for (codes, block) in codes[from..].chunks_mut(32).zip(0..self.step_blocks()) {
                        let block = &step[block * self.block_bytes(tiles)..];
                        codes.copy_from_slice(
                            &self.column_codes(block, tiles, n % PANEL)[..codes.len()],
                        );
                    }
                    for half in 0..self.step_groups() {
                        let group = i * self.step_groups() + half;
                        if group < groups {
                            let (scale, zero) = self.group_numbers(step, tiles, half, n % PANEL);
                            weight.scales[n * groups + group] = scale;
                            if let Some(zeros) = &mut weight.zeros {
                                zeros[n * groups + group] = zero;
                            }
                        }
                    }
                }
            }
        }
        // Padding may hold anything but zeros, scales may be written in two ways: pack and look.
        let mut again = vec![0; bytes.len()];
        self.pack(&weight.view(), &mut again).map_err(|_| PanelError::Damaged("a number"))?;
        if again == bytes { Ok(weight) } else { Err(PanelError::Damaged("padding is not zero")) }
    }

    /// Codes of column `c` of the panel in a block of `tiles`.
    fn column_codes(&self, block: &[u8], tiles: usize, c: usize) -> [u8; 32] {
        let mut vectors = [0; 8];
        for (j, word) in vectors[..self.bits().bits() as usize].iter_mut().enumerate() {
            let at = (j * tiles + c / TILE) * VECTOR + c % TILE * 4;
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&block[at..at + 4]);
            *word = u32::from_le_bytes(bytes);
        }
        let words = from_vectors(self.bits(), vectors);
        let mut codes = [0; 32];
        for (to, word) in codes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        codes
    }

    /// Scale and zero point of column `c` of the panel in group `half` of a step.
    fn group_numbers(&self, step: &[u8], tiles: usize, half: usize, c: usize) -> (f32, f32) {
        let size = self.scale().bytes();
        let group = self.scale_bytes(tiles) + self.zero_bytes(tiles);
        let scales = &step[self.code_bytes(tiles) + half * group..];
        let scale = self.scale().read(&scales[c * size..][..size]);
        let zero = if self.zeros() {
            PanelScale::F16.read(&scales[self.scale_bytes(tiles) + 2 * c..][..2])
        } else {
            f32::from(self.bits().middle())
        };
        (scale, zero)
    }
}

/// Whether f16 holds a zero point.
fn is_zero_point(zero: f32) -> bool {
    zero.is_finite() && f16::from_f32(zero).to_f32().to_bits() == zero.to_bits()
}

fn check(what: &'static str, got: usize, want: usize) -> Result<(), PanelError> {
    if got == want { Ok(()) } else { Err(PanelError::Length { what, got, want }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    /// Numbers that follow from a seed.
    fn random(seed: u64) -> impl FnMut() -> u32 {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        }
    }

    fn weight(layout: &PanelLayout, seed: u64) -> UnpackedWeight {
        let mut next = random(seed);
        let groups = layout.n() * layout.groups();
        let mask = u8::MAX >> (8 - layout.bits().bits());
        UnpackedWeight {
            codes: (0..layout.n() * layout.k()).map(|_| next() as u8 & mask).collect(),
            scales: (0..groups)
                .map(|_| match layout.scale() {
                    PanelScale::F32 => f32::from_bits(next() & 0xbfff_ffff),
                    PanelScale::Bf16 => bf16::from_bits(next() as u16 & 0xbfff).to_f32(),
                    PanelScale::F16 => f16::from_bits(next() as u16 & 0xbfff).to_f32(),
                })
                .collect(),
            zeros: layout.zeros().then(|| (0..groups).map(|_| f32::from(next() as u8)).collect()),
        }
    }

    fn layouts() -> impl Strategy<Value = PanelLayout> {
        (
            prop::sample::select(PanelBits::ALL),
            prop::sample::select(vec![16usize, 32, 64, 96, 128, 256, 4096]),
            (1usize..300, 1usize..80),
            prop::sample::select(PanelScale::ALL),
            any::<bool>(),
        )
            .prop_map(|(bits, group, (k, n), scale, zeros)| {
                PanelLayout::new(bits, group, k, n, scale, zeros).unwrap()
            })
    }

    /// The code of the definition in the header of the module, from bits alone.
    fn code(layout: &PanelLayout, bytes: &[u8], n: usize, k: usize) -> u8 {
        let (panel, column, tiles) = (n / 32, n % 32, layout.tiles(n / 32));
        let block = k / 32;
        let step = block / layout.step_blocks();
        let at = panel * layout.panel_stride()
            + step * layout.step_bytes(tiles)
            + block % layout.step_blocks() * layout.block_bytes(tiles);
        let (chunk, i) = (k % 32 / 4, k % 4);
        let byte = |j: usize| bytes[at + (j * tiles + column / 16) * 64 + 4 * (column % 16) + i];
        match (layout.bits(), chunk) {
            (PanelBits::B8, c) => byte(c),
            (PanelBits::B4, c) => byte(c / 2) >> (4 * (c % 2)) & 15,
            (PanelBits::B2, c) => byte(c / 4) >> (2 * (c % 4)) & 3,
            (PanelBits::B3, 6) => byte(0) >> 6 | byte(2) >> 7 << 2,
            (PanelBits::B3, 7) => byte(1) >> 6 | (byte(2) >> 6 & 1) << 2,
            (PanelBits::B3, c) => byte(c / 2) >> (3 * (c % 2)) & 7,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_packed_comes_back(layout in layouts(), seed in any::<u64>()) {
            let weight = weight(&layout, seed);
            let mut bytes = vec![0xff; layout.bytes()];
            layout.pack(&weight.view(), &mut bytes).unwrap();
            for n in 0..layout.n() {
                for k in 0..layout.k() {
                    prop_assert_eq!(code(&layout, &bytes, n, k), weight.codes[n * layout.k() + k]);
                }
            }
            prop_assert_eq!(layout.unpack(&bytes).unwrap(), weight);
        }

        #[test]
        fn what_was_unpacked_packs_to_the_same(
            bits in prop::sample::select(PanelBits::ALL), seed in any::<u64>(),
        ) {
            // No padding: any bytes of codes are some codes. Exponents are made small.
            let layout = PanelLayout::new(bits, 32, 64, 32, PanelScale::Bf16, false).unwrap();
            let mut next = random(seed);
            let mut bytes: Vec<u8> = (0..layout.bytes()).map(|_| next() as u8).collect();
            for step in bytes.chunks_exact_mut(layout.step_bytes(2)) {
                step[layout.code_bytes(2)..].iter_mut().for_each(|it| *it &= 0xbf);
            }
            let weight = layout.unpack(&bytes).unwrap();
            let mut again = vec![0; bytes.len()];
            layout.pack(&weight.view(), &mut again).unwrap();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn bytes_by_hand() {
        // One column, k = 0..32 with codes k % 8: chunks are 0 1 2 3 and 4 5 6 7 in turn.
        let codes: Vec<u8> = (0..32).map(|it| it % 8).collect();
        let weight = PanelWeight { codes: &codes, scales: &[-0.5], zeros: None };
        let pack = |bits| {
            let layout = PanelLayout::new(bits, 32, 32, 1, PanelScale::F16, false).unwrap();
            let mut bytes = vec![0xff; layout.bytes()];
            layout.pack(&weight, &mut bytes).unwrap();
            bytes
        };
        let bytes = pack(PanelBits::B4);
        assert_eq!(bytes.len(), 4 * 64 + 64);
        for vector in 0..4 {
            assert_eq!(bytes[64 * vector..][..5], [0x40, 0x51, 0x62, 0x73, 0]);
        }
        assert_eq!(bytes[256..260], [0x00, 0xb8, 0, 0]);
        // c0 | c1 << 3 | (c6 & 3) << 6 with c0 = c6 = 0..4 and c1 = c7 = 4..8.
        let bytes = pack(PanelBits::B3);
        assert_eq!(bytes[..4], [0o040, 0o151, 0o262, 0o373]);
        assert_eq!(bytes[64..68], [0o040, 0o151, 0o262, 0o373]);
        assert_eq!(bytes[128..132], [0o140, 0o151, 0o162, 0o173]);
    }

    #[test]
    fn zero_points_follow_scales() {
        let layout = PanelLayout::new(PanelBits::B8, 16, 32, 17, PanelScale::F32, true).unwrap();
        let groups = 2 * 17;
        let numbers: Vec<f32> = (0..groups).map(|it| it as f32).collect();
        let codes = vec![0; 17 * 32];
        let weight = PanelWeight { codes: &codes, scales: &numbers, zeros: Some(&numbers) };
        let mut bytes = vec![0xff; layout.bytes()];
        layout.pack(&weight, &mut bytes).unwrap();
        // Codes, then 128 of scales and 64 of zeros for each half. Column 16 has 32 and 33.
        let second = 1024 + 128 + 64;
        assert_eq!(bytes[second + 64..second + 72], [0, 0, 4, 66, 0, 0, 0, 0]);
        let zeros = second + 128;
        assert_eq!(f16::from_le_bytes([bytes[zeros + 32], bytes[zeros + 33]]).to_f32(), 33.0);
        assert_eq!(bytes[zeros + 34..], [0; 30]);
    }

    #[test]
    fn wrong_operands_are_refused() {
        let layout = PanelLayout::new(PanelBits::B2, 32, 33, 2, PanelScale::F16, true).unwrap();
        let (codes, scales, zeros) = (vec![3; 66], vec![1.0; 4], vec![2.0; 4]);
        let good = PanelWeight { codes: &codes, scales: &scales, zeros: Some(&zeros) };
        let mut bytes = vec![0; layout.bytes()];
        let mut pack = |weight| layout.pack(&weight, &mut bytes);
        pack(good).unwrap();
        assert!(pack(PanelWeight { codes: &codes[1..], ..good }).is_err());
        assert!(pack(PanelWeight { scales: &scales[1..], ..good }).is_err());
        assert!(pack(PanelWeight { zeros: None, ..good }).is_err());
        let inexact = |what, value| Err(PanelError::Inexact { what, value });
        assert_eq!(
            pack(PanelWeight { scales: &[1.0, 0.1, 1.0, 1.0], ..good }),
            inexact("scale", 0.1)
        );
        assert_eq!(
            pack(PanelWeight { zeros: Some(&[0.1; 4]), ..good }),
            inexact("zero point", 0.1)
        );
        assert_eq!(
            pack(PanelWeight { codes: &[4; 66], ..good }),
            Err(PanelError::Code { code: 4, bits: 2 })
        );
        assert!(layout.unpack(&bytes[1..]).is_err());
        let last = bytes.len() - 1;
        bytes[last] = 1;
        assert!(matches!(layout.unpack(&bytes), Err(PanelError::Damaged(_))));
    }
}
