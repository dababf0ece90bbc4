//! Two numbers made one, for updates that meet what is there.

use bytemuck::Pod;
use half::{bf16, f16};
use qcc_tensor::DType;

/// How two numbers are made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Sum; integers wrap around.
    Add,
    /// Product; integers wrap around.
    Mul,
    /// The larger one; NaN if one is.
    Max,
    /// The smaller one; NaN if one is.
    Min,
}

/// Combines each element of the first slice with that of the second one.
pub(crate) type Combiner = fn(&mut [u8], &[u8]);

/// The function over packed elements; `None` for types that are no numbers.
pub(crate) fn combiner(dtype: DType, how: Combine) -> Option<Combiner> {
    Some(match dtype {
        DType::F32 => of::<f32>(how),
        DType::F64 => of::<f64>(how),
        DType::F16 => of::<f16>(how),
        DType::BF16 => of::<bf16>(how),
        DType::U8 => of::<u8>(how),
        DType::I8 => of::<i8>(how),
        DType::U16 => of::<u16>(how),
        DType::I16 => of::<i16>(how),
        DType::U32 => of::<u32>(how),
        DType::I32 => of::<i32>(how),
        DType::U64 => of::<u64>(how),
        DType::I64 => of::<i64>(how),
        // Sum is `or`, product is `and`.
        DType::Bool => match how {
            Combine::Add | Combine::Max => each::<u8, 0>,
            Combine::Mul | Combine::Min => each::<u8, 1>,
        },
        _ => return None,
    })
}

/// Index of each way among the arguments of [`each`].
const MAX: u8 = 0;
const MIN: u8 = 1;
const ADD: u8 = 2;
const MUL: u8 = 3;

fn of<T: Number>(how: Combine) -> Combiner {
    match how {
        Combine::Add => each::<T, ADD>,
        Combine::Mul => each::<T, MUL>,
        Combine::Max => each::<T, MAX>,
        Combine::Min => each::<T, MIN>,
    }
}

fn each<T: Number, const HOW: u8>(out: &mut [u8], other: &[u8]) {
    let size = size_of::<T>();
    for (a, b) in out.chunks_exact_mut(size).zip(other.chunks_exact(size)) {
        let (x, y): (T, T) = (bytemuck::pod_read_unaligned(a), bytemuck::pod_read_unaligned(b));
        let z = match HOW {
            ADD => x.add(y),
            MUL => x.mul(y),
            MAX => x.larger(y),
            _ => x.smaller(y),
        };
        a.copy_from_slice(bytemuck::bytes_of(&z));
    }
}

trait Number: Pod + PartialOrd {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;

    /// NaN compares with nothing, itself included, and wins.
    fn larger(self, other: Self) -> Self {
        if other > self || other.partial_cmp(&other).is_none() { other } else { self }
    }

    fn smaller(self, other: Self) -> Self {
        if other < self || other.partial_cmp(&other).is_none() { other } else { self }
    }
}

macro_rules! numbers {
    ($($ty:ty: |$a:ident, $b:ident| $add:expr, $mul:expr;)*) => {
        $(impl Number for $ty {
            fn add(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $add
            }

            fn mul(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $mul
            }
        })*
    };
}

numbers! {
    f32: |a, b| a + b, a * b;
    f64: |a, b| a + b, a * b;
    f16: |a, b| a + b, a * b;
    bf16: |a, b| a + b, a * b;
    u8: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i8: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    u16: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i16: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    u32: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i32: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    u64: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i64: |a, b| a.wrapping_add(b), a.wrapping_mul(b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair<T: Number + std::fmt::Debug>(dtype: DType, how: Combine, a: T, b: T) -> T {
        let mut out = bytemuck::bytes_of(&a).to_vec();
        combiner(dtype, how).unwrap()(&mut out, bytemuck::bytes_of(&b));
        bytemuck::pod_read_unaligned(&out)
    }

    #[test]
    fn known_values() {
        assert_eq!(pair(DType::F32, Combine::Mul, 3f32, -2.0), -6.0);
        assert_eq!(pair(DType::I8, Combine::Add, 127i8, 1), -128);
        assert_eq!(pair(DType::F16, Combine::Min, f16::ONE, f16::NEG_ONE), f16::NEG_ONE);
        assert_eq!(pair(DType::Bool, Combine::Add, 1u8, 1), 1);
        assert_eq!(pair(DType::Bool, Combine::Mul, 1u8, 0), 0);
        assert!(combiner(DType::Str, Combine::Add).is_none());
    }

    #[test]
    fn nan_wins() {
        for how in [Combine::Max, Combine::Min] {
            assert!(pair(DType::F32, how, f32::NAN, 1.0).is_nan());
            assert!(pair(DType::F32, how, 1.0, f32::NAN).is_nan());
        }
    }
}
