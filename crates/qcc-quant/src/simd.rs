//! Runs loops over floats with the vector instructions the CPU has.
//!
//! A `Kernel` is a plain loop, compiled for each level; a [`VectorKernel`] is written over a
//! [`Vector`] of [`LANES`] floats where the compiler does not find the vectors by itself. Every
//! level computes the same bits: float sums are not reordered, and multiply and add are fused by
//! [`Vector::mul_add`] alone, there at every level.

#[cfg(target_arch = "x86_64")]
mod x86;

/// Floats of a vector: one AVX-512 register.
pub const LANES: usize = 16;

/// Adding and subtracting it rounds a float of magnitude below 2^22 to an integer, half to even;
/// the low byte of the sum is the integer modulo 256.
pub(crate) const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

/// A plain loop over slices. `run` and what it calls must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;
    /// The loop.
    fn run(self) -> Self::Output;
}

/// A loop over vectors. `run` and what it calls must be `#[inline(always)]`.
pub trait VectorKernel {
    /// What the loop returns.
    type Output;
    /// The loop, on vectors of one level.
    fn run<V: Vector>(self) -> Self::Output;
}

/// [`LANES`] floats. Comparisons are false for NaN.
pub trait Vector: Copy {
    /// `x` in every lane.
    fn splat(x: f32) -> Self;
    /// Lane `i` from `values[i]`.
    fn load(values: &[f32; LANES]) -> Self;
    /// Lane `i` into `values[i]`.
    fn store(self, values: &mut [f32; LANES]);
    /// The low 16 bits of each lane, and above them those of `high`.
    fn store_halves(self, high: Self, words: &mut [u32; LANES]);
    /// The low byte of the bits of each lane.
    fn store_low_bytes(self, bytes: &mut [u8; LANES]);
    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self - other`.
    fn sub(self, other: Self) -> Self;
    /// `self * other`.
    fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `if self > other { self } else { other }`.
    fn max(self, other: Self) -> Self;
    /// `if self < other { self } else { other }`.
    fn min(self, other: Self) -> Self;
    /// `if self > bound { yes } else { no }`, lane by lane.
    fn select_greater(self, bound: Self, yes: Self, no: Self) -> Self;

    /// Lanes from `values`, the missing ones `fill`. `values` holds at most [`LANES`].
    #[inline(always)]
    fn load_part(values: &[f32], fill: f32) -> Self {
        let mut all = [fill; LANES];
        all[..values.len()].copy_from_slice(values);
        Self::load(&all)
    }

    /// To whole numbers, half to even; magnitudes are below 2^22.
    #[inline(always)]
    fn round(self) -> Self {
        let rounder = Self::splat(ROUNDER);
        self.add(rounder).sub(rounder)
    }

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        lanes
    }

    /// Lane `i` of `out[j]` is lane `j` of `tile[i]`.
    fn transpose(tile: [Self; LANES]) -> [Self; LANES];

    /// The least lane.
    #[inline(always)]
    fn least(self) -> f32 {
        fold(self.lanes(), |a, b| if a < b { a } else { b })
    }

    /// The greatest lane.
    #[inline(always)]
    fn greatest(self) -> f32 {
        fold(self.lanes(), |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// The vector of any CPU, and the definition of the others.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| join(self.0[i], other.0[i])))
    }
}

impl Vector for Plain {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(*values)
    }
    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }
    #[inline(always)]
    fn store_halves(self, high: Self, words: &mut [u32; LANES]) {
        let join = |i: usize| self.0[i].to_bits() & 0xffff | high.0[i].to_bits() << 16;
        *words = std::array::from_fn(join);
    }
    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [u8; LANES]) {
        *bytes = self.0.map(|x| x.to_bits() as u8);
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_greater(self, bound: Self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn transpose(tile: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|j| Self(std::array::from_fn(|i| tile[i].0[j])))
    }
}

/// Runs `kernel` at the best level of this CPU.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_vectors(Loop(kernel))
}

/// Runs `kernel` on the vectors of the best level of this CPU.
#[inline]
pub fn dispatch_vectors<K: VectorKernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    return x86::dispatch(x86::level(), kernel);
    #[cfg(not(target_arch = "x86_64"))]
    kernel.run::<Plain>()
}

struct Loop<K>(K);

impl<K: Kernel> VectorKernel for Loop<K> {
    type Output = K::Output;
    #[inline(always)]
    fn run<V: Vector>(self) -> K::Output {
        self.0.run()
    }
}

/// Bytes `4 j ..` of `out[i]` are those of `tile[j][i]`, the low one first.
#[inline(always)]
pub(crate) fn transpose_words(tile: [[u32; LANES]; LANES / 4]) -> [[u8; LANES]; LANES] {
    #[cfg(target_arch = "x86_64")]
    return x86::transpose_words(tile);
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| std::array::from_fn(|j| tile[j / 4][i].to_le_bytes()[j % 4]))
}

/// Asks for the cache line of `bytes[at]`, if there is one.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        x86::prefetch(byte);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even() {
        for (x, expected) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-128.0, -128)] {
            assert_eq!(Plain::splat(x).round().0, [expected as f32; LANES]);
            assert_eq!((x + ROUNDER).to_bits() as u8, expected as u8);
        }
    }

    /// Every operation of a vector, on awkward values.
    struct Operations;

    impl VectorKernel for Operations {
        type Output = (Vec<[u32; LANES]>, [u32; LANES], [u8; LANES], [u32; 2]);
        #[inline(always)]
        fn run<V: Vector>(self) -> Self::Output {
            let a: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.3) * 1.7);
            let mut b: [f32; LANES] = std::array::from_fn(|i| 5.1 - i as f32 * 0.9);
            b[3] = a[3];
            let (a, b) = (V::load(&a), V::load(&b));
            let part = V::load_part(&[-0.0, 1e-40, -3.0], -9.0);
            let bits = [
                a.add(b),
                a.sub(b),
                a.mul(b),
                a.mul_add(b, part),
                a.max(b),
                a.min(b),
                a.round(),
                a.select_greater(b, b, V::splat(0.25)),
                part.max(V::splat(0.0)),
            ]
            .map(|v| v.lanes().map(f32::to_bits));
            let tile =
                std::array::from_fn(|i| V::load(&std::array::from_fn(|j| (i * LANES + j) as f32)));
            for (j, line) in V::transpose(tile).into_iter().enumerate() {
                let expected: [f32; LANES] = std::array::from_fn(|i| (i * LANES + j) as f32);
                assert_eq!(line.lanes(), expected);
            }
            let mut bytes = [0; LANES];
            a.add(V::splat(ROUNDER)).store_low_bytes(&mut bytes);
            let mut words = [0; LANES];
            a.store_halves(b, &mut words);
            let ends = [a.least(), b.greatest()].map(f32::to_bits);
            (bits.to_vec(), words, bytes, ends)
        }
    }

    #[test]
    fn words_are_transposed() {
        let word = |byte: usize| u32::from_le_bytes(std::array::from_fn(|i| (byte + i) as u8));
        let tile = std::array::from_fn(|j| std::array::from_fn(|i| word(i * LANES + 4 * j)));
        for (i, line) in transpose_words(tile).iter().enumerate() {
            assert_eq!(*line, std::array::from_fn(|j| (i * LANES + j) as u8));
        }
    }

    #[test]
    fn every_level_computes_the_same_bits() {
        let expected = Operations.run::<Plain>();
        #[cfg(target_arch = "x86_64")]
        for level in x86::levels() {
            assert_eq!(x86::dispatch(level, Operations), expected, "{level:?}");
        }
        assert_eq!(dispatch_vectors(Operations), expected);
    }
}
