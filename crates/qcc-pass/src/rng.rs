//! Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
//! 1, 2, 3", 2011; Random123), keyed by seed and purpose.
//!
//! The key and the upper half of the counter are a BLAKE3 hash of seed and purpose; the lower half
//! counts blocks of four words. Any other purpose gives an unrelated stream, and a number depends
//! on nothing but seed, purpose and position.

/// Words in a block.
const LANES: usize = 4;
/// Random123: multipliers of Philox4x32.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Random123: Weyl steps of the key.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Random123: rounds of the recommended variant.
const ROUNDS: usize = 10;

/// A stream of random numbers; see [`crate::Session::rng`].
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    nonce: [u32; 2],
    /// The next block.
    block: u64,
    words: [u32; LANES],
    /// How many of `words` were given out.
    used: usize,
}

impl Rng {
    /// The stream of a seed and purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("qcc random numbers, version 1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        let hash = hasher.finalize();
        let word = |at: usize| {
            let bytes = hash.as_bytes();
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            key: [word(0), word(4)],
            nonce: [word(8), word(12)],
            block: 0,
            words: [0; LANES],
            used: LANES,
        }
    }

    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        if self.used == LANES {
            let [low, high] = [self.block as u32, (self.block >> 32) as u32];
            self.words = philox([low, high, self.nonce[0], self.nonce[1]], self.key);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        let low = u64::from(self.u32());
        low | u64::from(self.u32()) << 32
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn f32(&mut self) -> f32 {
        (self.u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn f64(&mut self) -> f64 {
        (self.u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0 .. end`, without bias (Lemire, "Fast Random Integer Generation in an
    /// Interval", 2019); 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 {
            return 0;
        }
        // The lowest 2^64 mod end products of each run would come once too often.
        let threshold = end.wrapping_neg() % end;
        loop {
            let product = u128::from(self.u64()) * u128::from(end);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in a range; its start when it is empty.
    pub fn range(&mut self, range: std::ops::Range<usize>) -> usize {
        let len = range.end.saturating_sub(range.start);
        range.start + self.below(len as u64) as usize
    }

    /// Normally distributed with mean 0 and variance 1 (Marsaglia's polar method). The same on
    /// every platform.
    pub fn normal(&mut self) -> f32 {
        loop {
            let (x, y) = (2.0 * self.f64() - 1.0, 2.0 * self.f64() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return (x * (-2.0 * libm::log(square) / square).sqrt()) as f32;
            }
        }
    }

    /// Puts a slice into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.range(0..last + 1);
            items.swap(last, other);
        }
    }
}

fn philox(mut counter: [u32; LANES], mut key: [u32; 2]) -> [u32; LANES] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let products = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        counter = [
            (products[1] >> 32) as u32 ^ counter[1] ^ key[0],
            products[1] as u32,
            (products[0] >> 32) as u32 ^ counter[3] ^ key[1],
            products[0] as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox(counter, key), want);
        }
    }

    fn first(seed: u64, purpose: &str) -> [u64; 3] {
        let mut rng = Rng::new(seed, purpose);
        [rng.u64(), rng.u64(), rng.u64()]
    }

    #[test]
    fn seed_and_purpose_decide() {
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
    }

    /// Results are stored with their seed, so these must not change between versions.
    #[test]
    fn numbers_stay() {
        let want =
            [9_172_227_053_878_770_152, 7_309_073_122_107_139_471, 8_194_810_399_055_658_704];
        assert_eq!(first(42, "shuffle"), want);
    }

    #[test]
    fn purposes_are_independent() {
        // The correlation of n uniform pairs has a standard deviation of 1 / sqrt(n) = 0.01.
        let (mut a, mut b) = (Rng::new(7, "a"), Rng::new(7, "b"));
        let n = 10_000;
        let sum: f64 = (0..n).map(|_| (a.f64() - 0.5) * (b.f64() - 0.5)).sum();
        let correlation = 12.0 * sum / f64::from(n);
        assert!(correlation.abs() < 0.05, "{correlation}");
    }

    #[test]
    fn moments() {
        let mut rng = Rng::new(3, "moments");
        let n = 20_000;
        let uniform: f64 = (0..n).map(|_| f64::from(rng.f32())).sum::<f64>() / f64::from(n);
        let normal: Vec<f64> = (0..n).map(|_| f64::from(rng.normal())).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let variance = normal.iter().map(|it| it * it).sum::<f64>() / f64::from(n);
        // Five standard deviations: 1 / sqrt(12 n), 1 / sqrt(n), sqrt(2 / n).
        assert!((uniform - 0.5).abs() < 0.0102, "{uniform}");
        assert!(mean.abs() < 0.0354, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn ranges_hold_and_are_reached() {
        let mut rng = Rng::new(0, "range");
        let mut seen = [0; 5];
        for _ in 0..500 {
            seen[rng.range(10..15) - 10] += 1;
        }
        assert!(seen.iter().all(|&it| it > 60), "{seen:?}");
        assert_eq!(rng.range(4..4), 4);
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn shuffle_permutes() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(0, "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
