//! Float weights read as rows `[N][K]`, wherever their bytes lie and in whichever order.

use crate::simd::{Kernel, LANES, Vector, VectorKernel, dispatch, dispatch_vectors, prefetch};
use bytemuck::pod_read_unaligned;
use rayon::prelude::*;

/// Type of the floats of a weight, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatKind {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl FloatKind {
    /// Bytes of one float.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// Which index of a weight runs fastest in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `[N][K]`: a row is contiguous.
    Nk,
    /// `[K][N]`, the order of the right operand of `MatMul`.
    Kn,
}

/// Bytes that cannot hold the weight they are said to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weight of {n} x {k} floats of {float_bytes} bytes does not fill {bytes} bytes")]
pub struct RowsError {
    /// Rows.
    pub n: usize,
    /// Weights in a row.
    pub k: usize,
    /// Bytes of one float.
    pub float_bytes: usize,
    /// Bytes given.
    pub bytes: usize,
}

/// A float weight as rows `[N][K]`. Its bytes may lie at any address.
#[derive(Clone, Copy, Debug)]
pub struct WeightRows<'a> {
    bytes: &'a [u8],
    kind: FloatKind,
    n: usize,
    k: usize,
    order: Order,
    factor: f32,
}

/// Values of a weight that are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// Index of the first of them, counted in the order of the bytes.
    pub first: usize,
    /// How many there are, at least one.
    pub count: usize,
}

/// Bytes of one task of the search for values that are not finite.
const SCAN_BYTES: usize = 1 << 20;
/// Floats widened at a time in that search.
const SCAN_FLOATS: usize = 1024;

/// Bytes of a line of the cache.
const CACHE_LINE: usize = 64;

impl<'a> WeightRows<'a> {
    /// A weight of `n * k` floats. Fails unless they fill `bytes` exactly.
    pub fn new(
        bytes: &'a [u8],
        kind: FloatKind,
        n: usize,
        k: usize,
        order: Order,
    ) -> Result<Self, RowsError> {
        let float_bytes = kind.bytes();
        let expected = n.checked_mul(k).and_then(|floats| floats.checked_mul(float_bytes));
        if expected != Some(bytes.len()) {
            return Err(RowsError { n, k, float_bytes, bytes: bytes.len() });
        }
        Ok(Self { bytes, kind, n, k, order, factor: 1.0 })
    }

    /// Floats `[n][k]`.
    ///
    /// # Panics
    /// If there are not `n * k` of them.
    pub(crate) fn of(floats: &'a [f32], n: usize, k: usize) -> Self {
        assert_eq!(floats.len(), n * k);
        let (kind, order) = (FloatKind::F32, Order::Nk);
        Self { bytes: bytemuck::cast_slice(floats), kind, n, k, order, factor: 1.0 }
    }

    /// The same weight with every value multiplied by `factor` as it is read.
    pub fn with_factor(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Weights in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Order of the bytes.
    pub fn order(&self) -> Order {
        self.order
    }

    /// The same bytes with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let order = match self.order {
            Order::Nk => Order::Kn,
            Order::Kn => Order::Nk,
        };
        Self { n: self.k, k: self.n, order, ..*self }
    }

    /// Rows `first_row ..` into `out`, as many as `out` holds whole.
    ///
    /// # Panics
    /// If `out` is not whole rows or runs past the last one.
    pub fn read(&self, first_row: usize, out: &mut [f32]) {
        if self.k == 0 {
            return;
        }
        assert_eq!(out.len() % self.k, 0, "`out` holds whole rows");
        self.read_tile(first_row, 0, self.k, out);
    }

    /// Columns `first_column .. first_column + columns` of the rows from `first_row` into `out`,
    /// `[rows][columns]`. A `[K][N]` weight is read fastest with 16 rows and more.
    ///
    /// # Panics
    /// If `out` is not whole rows or the tile leaves the weight.
    pub fn read_tile(
        &self,
        first_row: usize,
        first_column: usize,
        columns: usize,
        out: &mut [f32],
    ) {
        let rows = out.len().checked_div(columns).unwrap_or(0);
        assert!(rows * columns == out.len(), "`out` holds whole rows");
        assert!(first_row + rows <= self.n && first_column + columns <= self.k);
        match self.order {
            Order::Nk if columns == self.k => self.widen(first_row * self.k, out),
            Order::Nk => {
                for (row, line) in out.chunks_exact_mut(columns).enumerate() {
                    self.widen((first_row + row) * self.k + first_column, line);
                }
            }
            Order::Kn => self.read_transposed(first_row, first_column, columns, out),
        }
    }

    /// The values that are not finite when read; `None` if all are finite. Reads the weight once,
    /// in parallel.
    pub fn non_finite(&self) -> Option<NonFinite> {
        let (len, step) = (self.n * self.k, SCAN_BYTES / self.kind.bytes());
        let of_task = |task: usize| {
            let mut buffer = [0.0f32; SCAN_FLOATS];
            let mut found: Option<NonFinite> = None;
            let end = len.min((task + 1) * step);
            for start in (task * step..end).step_by(SCAN_FLOATS) {
                let values = &mut buffer[..SCAN_FLOATS.min(end - start)];
                self.widen(start, values);
                if dispatch(HasNonFinite(values)) {
                    let wrong = values.iter().enumerate().filter(|it| !it.1.is_finite());
                    for (at, _) in wrong {
                        let first = found.map_or(start + at, |it| it.first);
                        found =
                            Some(NonFinite { first, count: found.map_or(0, |it| it.count) + 1 });
                    }
                }
            }
            found
        };
        (0..len.div_ceil(step))
            .into_par_iter()
            .filter_map(of_task)
            .reduce_with(|a, b| NonFinite { first: a.first.min(b.first), count: a.count + b.count })
    }

    /// Floats `start ..` in the order of the bytes.
    fn widen(&self, start: usize, out: &mut [f32]) {
        let size = self.kind.bytes();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        dispatch(Widen { kind: self.kind, bytes, factor: self.factor, out });
    }

    fn read_transposed(&self, row: usize, column: usize, columns: usize, out: &mut [f32]) {
        dispatch_vectors(Transposed { weight: self, row, column, columns, out });
    }
}

/// A tile of a `[K][N]` weight.
struct Transposed<'a> {
    weight: &'a WeightRows<'a>,
    row: usize,
    column: usize,
    columns: usize,
    out: &'a mut [f32],
}

impl VectorKernel for Transposed<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { weight, row, column, columns, out } = self;
        let rows = out.len() / columns.max(1);
        let (n, size) = (weight.n, weight.kind.bytes());
        let factor = V::splat(weight.factor);
        for left in (0..columns).step_by(LANES) {
            // The lines of the next tiles, too far apart for the CPU to foresee.
            for ahead in left + LANES..left + 2 * LANES {
                let start = ((column + ahead) * n + row) * size;
                for line in (0..rows * size).step_by(CACHE_LINE) {
                    prefetch(weight.bytes, start + line);
                }
            }
            let width = LANES.min(columns - left);
            for top in (0..rows).step_by(LANES) {
                let height = LANES.min(rows - top);
                let mut tile = [V::splat(0.0); LANES];
                for (i, line) in tile.iter_mut().enumerate().take(width) {
                    let start = ((column + left + i) * n + row + top) * size;
                    let bytes = &weight.bytes[start..start + height * size];
                    let floats = if height == LANES {
                        widen_lanes(weight.kind, bytes)
                    } else {
                        let mut padded = [0; LANES * 4];
                        padded[..bytes.len()].copy_from_slice(bytes);
                        widen_lanes(weight.kind, &padded)
                    };
                    *line = V::load(&floats).mul(factor);
                }
                let target = &mut out[top * columns + left..];
                for (line, out) in V::transpose(tile).into_iter().zip(target.chunks_mut(columns)) {
                    if let Some(out) = out.first_chunk_mut().filter(|_| width == LANES) {
                        line.store(out);
                    } else {
                        let width = width.min(out.len());
                        out[..width].copy_from_slice(&line.lanes()[..width]);
                    }
                }
            }
        }
    }
}

/// The first floats of `bytes`, which holds that many.
#[inline(always)]
fn widen_lanes(kind: FloatKind, bytes: &[u8]) -> [f32; LANES] {
    let bytes = &bytes[..LANES * kind.bytes()];
    match kind {
        FloatKind::F32 => {
            pod_read_unaligned::<[u32; LANES]>(bytes).map(|bits| f32::from_bits(u32::from_le(bits)))
        }
        FloatKind::F16 => {
            pod_read_unaligned::<[u16; LANES]>(bytes).map(|bits| widen_f16(u16::from_le(bits)))
        }
        FloatKind::BF16 => pod_read_unaligned::<[u16; LANES]>(bytes)
            .map(|bits| f32::from_bits(u32::from(u16::from_le(bits)) << 16)),
    }
}

/// Bytes to floats times `factor`.
struct Widen<'a> {
    kind: FloatKind,
    bytes: &'a [u8],
    factor: f32,
    out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { kind, bytes, factor, out } = self;
        match kind {
            FloatKind::F32 => {
                for (value, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(bytes);
                }
            }
            FloatKind::F16 => {
                for (value, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = widen_f16(u16::from_le_bytes(bytes));
                }
            }
            FloatKind::BF16 => {
                for (value, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
                }
            }
        }
        if factor != 1.0 {
            for value in out {
                *value *= factor;
            }
        }
    }
}

/// A binary16 as f32, without branches.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    // Exponent and fraction in place, the exponent short by 127 - 15: the product sets it right,
    // for subnormals too.
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    let special = if scaled >= 65_536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | ((bits & 0x8000) << 16))
}

struct HasNonFinite<'a>(&'a [f32]);

impl Kernel for HasNonFinite<'_> {
    type Output = bool;
    #[inline(always)]
    fn run(self) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        self.0.iter().fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// Value of row `n`, column `k`; exact in every kind.
    fn value(n: usize, k: usize) -> f32 {
        ((n * 37 + k * 11) % 251) as f32 - 125.0
    }

    fn store(kind: FloatKind, n: usize, k: usize, order: Order) -> Vec<u8> {
        let floats: Vec<f32> = match order {
            Order::Nk => (0..n * k).map(|i| value(i / k, i % k)).collect(),
            Order::Kn => (0..n * k).map(|i| value(i % n, i / n)).collect(),
        };
        let mut bytes = vec![0xee]; // so that no float is aligned
        for x in floats {
            match kind {
                FloatKind::F32 => bytes.extend(x.to_le_bytes()),
                FloatKind::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                FloatKind::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn rows_are_read_in_every_kind_and_order(
            n in 1usize..50,
            k in 1usize..60,
            kind in prop::sample::select(vec![FloatKind::F32, FloatKind::F16, FloatKind::BF16]),
            order in prop::sample::select(vec![Order::Nk, Order::Kn]),
            window in any::<[prop::sample::Index; 4]>(),
        ) {
            let bytes = store(kind, n, k, order);
            let rows = WeightRows::new(&bytes[1..], kind, n, k, order).unwrap().with_factor(2.0);
            let first = window[0].index(n);
            let mut out = vec![f32::NAN; (n - first) * k];
            rows.read(first, &mut out);
            for (i, &x) in out.iter().enumerate() {
                prop_assert_eq!(x, 2.0 * value(first + i / k, i % k));
            }
            let count = 1 + window[1].index(n - first);
            let left = window[2].index(k);
            let columns = 1 + window[3].index(k - left);
            let mut out = vec![f32::NAN; count * columns];
            rows.read_tile(first, left, columns, &mut out);
            for (i, &x) in out.iter().enumerate() {
                prop_assert_eq!(x, 2.0 * value(first + i / columns, left + i % columns));
            }
            prop_assert_eq!(rows.non_finite(), None);
        }
    }

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(ours == expected || (ours.is_nan() && expected.is_nan()), "{bits:04x}");
            assert_eq!(ours.is_sign_negative(), expected.is_sign_negative(), "{bits:04x}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_counted() {
        for order in [Order::Nk, Order::Kn] {
            let mut floats = vec![1.0f32; 70 * 7000];
            for wrong in [35_003, 35_004, 300_000, 70 * 7000 - 1] {
                floats[wrong] = f32::NEG_INFINITY;
            }
            let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
            let rows = WeightRows::new(&bytes, FloatKind::F32, 70, 7000, order).unwrap();
            assert_eq!(rows.non_finite(), Some(NonFinite { first: 35_003, count: 4 }));
        }
        let bytes = f32::MAX.to_le_bytes();
        let rows = WeightRows::new(&bytes, FloatKind::F32, 1, 1, Order::Nk).unwrap();
        assert_eq!(rows.non_finite(), None);
        let found = rows.with_factor(2.0).non_finite();
        assert_eq!(found, Some(NonFinite { first: 0, count: 1 }));
    }

    #[test]
    fn bytes_must_fill_the_weight() {
        let bytes = [0u8; 24];
        assert!(WeightRows::new(&bytes, FloatKind::F32, 2, 3, Order::Nk).is_ok());
        assert!(WeightRows::new(&bytes, FloatKind::F16, 2, 3, Order::Nk).is_err());
        assert!(WeightRows::new(&bytes, FloatKind::F32, usize::MAX, 3, Order::Nk).is_err());
        let empty = WeightRows::new(&[], FloatKind::F32, 0, 3, Order::Kn).unwrap();
        assert_eq!(empty.non_finite(), None);
        empty.read(0, &mut []);
    }
}
