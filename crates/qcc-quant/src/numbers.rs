//! The numbers of a quantized weight at rest: codes in fields, a scale and a zero point a group.
//!
//! Row `r` of the codes starts at byte `r * row_bytes`, where `row_bytes = ceil(k * field / 8)`.
//! Where rows are whole blocks these are the bytes of the `nbits` layout.
//!
//! Some weights of a group, its outliers, may have another scale than the rest.

use crate::{
    codes::{Codes, decode},
    fields::{field_bits, field_bytes, pack_fields, unpack_fields},
    spec::WeightSpec,
};

/// Sizes of the numbers of a weight `[n][k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumbersShape {
    /// Rows.
    pub n: usize,
    /// Weights in a row.
    pub k: usize,
    /// What the weight is rounded to.
    pub spec: WeightSpec,
}

impl NumbersShape {
    /// Width in bits of the field of a code: 2, 4 or 8.
    pub fn field(&self) -> u8 {
        field_bits(self.spec.bits.get())
    }

    /// Bytes of the codes of a row.
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.k, self.field())
    }

    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.spec.group.count(self.k)
    }
}

fn row_bytes(k: usize, field: u8) -> usize {
    field_bytes(k, field).unwrap_or(usize::MAX)
}

/// Where numbers go.
#[derive(Debug)]
pub struct NumbersMut<'a> {
    /// Width of a field of `codes` in bits: 2, 4 or 8.
    pub field: u8,
    /// `[n][row_bytes]`, fields of codes.
    pub codes: &'a mut [u8],
    /// `[n][groups]`, scales rounded to the stored type.
    pub scales: &'a mut [f32],
    /// `[n][groups]`, one byte a zero point.
    pub zeros: &'a mut [u8],
}

impl NumbersMut<'_> {
    /// Writes codes of one byte into the fields.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn set(self, codes: &Codes) {
        self.scales.copy_from_slice(&codes.scales);
        self.zeros.copy_from_slice(&codes.zeros);
        let width = row_bytes(codes.k, self.field);
        if width == 0 {
            return;
        }
        assert_eq!(self.codes.len(), codes.n * width, "rows of these codes");
        for (out, row) in self.codes.chunks_exact_mut(width).zip(codes.codes.chunks_exact(codes.k))
        {
            pack_fields(row, self.field, out);
        }
    }
}

/// Numbers to read.
#[derive(Clone, Copy, Debug)]
pub struct NumbersRef<'a> {
    /// Their sizes.
    pub shape: NumbersShape,
    /// `[n][row_bytes]`.
    pub codes: &'a [u8],
    /// `[n][groups]`.
    pub scales: &'a [f32],
    /// `[n][groups]`.
    pub zeros: &'a [u8],
    /// Weights with a scale of their own.
    pub outliers: OutliersRef<'a>,
}

/// Weights whose code stands for another scale than that of their group. By default none.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutliersRef<'a> {
    /// Which they are: indices into `[n][k]`, ascending.
    pub places: &'a [u64],
    /// `[n][groups]`, the scale of those of a group; empty without any.
    pub scales: &'a [f32],
}

impl OutliersRef<'_> {
    /// Those of a row: columns, ascending.
    pub fn row(&self, row: usize, k: usize) -> impl Iterator<Item = usize> {
        let (start, end) = ((row * k) as u64, ((row + 1) * k) as u64);
        let first = self.places.partition_point(|&it| it < start);
        let places = self.places[first..].iter().take_while(move |&&it| it < end);
        places.map(move |it| (it - start) as usize)
    }
}

impl NumbersRef<'_> {
    /// The codes of a row, one byte each, `out: [k]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, out: &mut [u8]) {
        let width = self.shape.row_bytes();
        unpack_fields(&self.codes[row * width..(row + 1) * width], self.shape.field(), out);
    }

    /// A row as floats, `out: [k]`, by way of `codes: [k]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dequantize(&self, row: usize, codes: &mut [u8], out: &mut [f32]) {
        self.row(row, codes);
        let (groups, size) = (self.shape.groups(), self.shape.spec.group.len(self.shape.k));
        let grids = self.scales[row * groups..].iter().zip(&self.zeros[row * groups..]);
        for ((out, codes), (&scale, &zero)) in
            out.chunks_mut(size).zip(codes.chunks(size)).zip(grids)
        {
            for (x, &code) in out.iter_mut().zip(codes) {
                *x = decode(code, scale, zero);
            }
        }
        for column in self.outliers.row(row, self.shape.k) {
            let group = row * groups + column / size;
            out[column] = decode(codes[column], self.outliers.scales[group], self.zeros[group]);
        }
    }

    /// All codes, one byte each, `[n][k]`.
    pub fn unpacked(&self) -> Vec<u8> {
        let NumbersShape { n, k, .. } = self.shape;
        let mut out = vec![0; n * k];
        for (row, out) in out.chunks_exact_mut(k.max(1)).enumerate() {
            self.row(row, out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::specs;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_come_back(spec in specs(), n in 1usize..4, k in 1usize..70, seed in any::<u8>()) {
            let mut codes = Codes::zeroed(n, k, spec);
            for (i, code) in codes.codes.iter_mut().enumerate() {
                *code = (i as u8).wrapping_mul(31).wrapping_add(seed) & spec.bits.max_code();
            }
            for (i, scale) in codes.scales.iter_mut().enumerate() {
                *scale = 0.5 + i as f32;
            }
            let shape = NumbersShape { n, k, spec };
            let mut bytes = vec![0; n * shape.row_bytes()];
            let (mut scales, mut zeros) = (codes.scales.clone(), codes.zeros.clone());
            let out = NumbersMut {
                field: shape.field(), codes: &mut bytes, scales: &mut scales, zeros: &mut zeros,
            };
            out.set(&codes);
            let outliers = OutliersRef::default();
            let numbers =
                NumbersRef { shape, codes: &bytes, scales: &scales, zeros: &zeros, outliers };
            prop_assert_eq!(&numbers.unpacked(), &codes.codes);
            let (mut a, mut b, mut row) = (vec![0.0; k], vec![0.0; k], vec![0; k]);
            for i in 0..n {
                codes.dequantize(i, &mut a);
                numbers.dequantize(i, &mut row, &mut b);
                prop_assert_eq!(&a, &b);
            }
            // Every third weight is an outlier of the scale -2.
            let places: Vec<u64> = (0..(n * k) as u64).step_by(3).collect();
            let other = vec![-2.0; scales.len()];
            let outliers = OutliersRef { places: &places, scales: &other };
            let numbers = NumbersRef { outliers, ..numbers };
            let whole = Codes { scales: other.clone(), ..codes.clone() };
            let mut c = vec![0.0; k];
            for i in 0..n {
                codes.dequantize(i, &mut a);
                whole.dequantize(i, &mut c);
                numbers.dequantize(i, &mut row, &mut b);
                for column in 0..k {
                    let want = if (i * k + column) % 3 == 0 { c[column] } else { a[column] };
                    prop_assert_eq!(b[column], want);
                }
            }
        }
    }
}
