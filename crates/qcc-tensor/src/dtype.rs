//! Element types: those of ONNX IR version 14, with their codes.
//!
//! Source: `TensorProto.DataType` of ONNX 1.23.

use std::fmt;
use std::str::FromStr;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $bits:literal;)*) => {
        /// The type of one element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DType { $($(#[$doc])* $name,)* }

        impl DType {
            /// Every type, by ONNX code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The value of `TensorProto.DataType`.
            pub fn onnx_code(self) -> i32 {
                match self { $(Self::$name => $code),* }
            }

            /// The type of an ONNX code; `None` for 0 and for codes of later versions.
            pub fn from_onnx_code(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// Bits of one element in a packed buffer; 0 for strings.
            pub fn bits(self) -> usize {
                match self { $(Self::$name => $bits),* }
            }

            /// The name in the text form of graphs: `f32`, `i64`, `u4`.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

dtypes! {
    /// IEEE binary32.
    F32 = 1, "f32", 32;
    /// Unsigned byte.
    U8 = 2, "u8", 8;
    /// Signed byte.
    I8 = 3, "i8", 8;
    /// Unsigned, 16 bits.
    U16 = 4, "u16", 16;
    /// Signed, 16 bits.
    I16 = 5, "i16", 16;
    /// Signed, 32 bits.
    I32 = 6, "i32", 32;
    /// Signed, 64 bits.
    I64 = 7, "i64", 64;
    /// Byte string of any length.
    Str = 8, "str", 0;
    /// One byte, 0 or 1.
    Bool = 9, "bool", 8;
    /// IEEE binary16.
    F16 = 10, "f16", 16;
    /// IEEE binary64.
    F64 = 11, "f64", 64;
    /// Unsigned, 32 bits.
    U32 = 12, "u32", 32;
    /// Unsigned, 64 bits.
    U64 = 13, "u64", 64;
    /// Two binary32: real, imaginary.
    C64 = 14, "c64", 64;
    /// Two binary64: real, imaginary.
    C128 = 15, "c128", 128;
    /// The upper half of a binary32.
    BF16 = 16, "bf16", 16;
    /// Float, 4 exponent and 3 mantissa bits, no infinities.
    F8E4M3FN = 17, "f8e4m3fn", 8;
    /// As `F8E4M3FN`, without negative zero.
    F8E4M3FNUZ = 18, "f8e4m3fnuz", 8;
    /// Float, 5 exponent and 2 mantissa bits.
    F8E5M2 = 19, "f8e5m2", 8;
    /// As `F8E5M2`, without negative zero and infinities.
    F8E5M2FNUZ = 20, "f8e5m2fnuz", 8;
    /// Unsigned nibble, two in a byte, the first one low.
    U4 = 21, "u4", 4;
    /// Signed nibble, two in a byte, the first one low.
    I4 = 22, "i4", 4;
    /// Float, 2 exponent and 1 mantissa bits, two in a byte.
    F4E2M1 = 23, "f4e2m1", 4;
    /// Power of two.
    F8E8M0 = 24, "f8e8m0", 8;
    /// Unsigned, four in a byte, the first one lowest.
    U2 = 25, "u2", 2;
    /// Signed, four in a byte, the first one lowest.
    I2 = 26, "i2", 2;
    /// Float, 2 exponent and 3 mantissa bits, a dense bit stream.
    F6E2M3 = 27, "f6e2m3", 6;
    /// Float, 3 exponent and 2 mantissa bits, a dense bit stream.
    F6E3M2 = 28, "f6e3m2", 6;
}

impl DType {
    /// Bytes of `len` elements in a packed buffer; `None` on overflow and for strings.
    pub fn size_of(self, len: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits => Some(len.checked_mul(bits)?.div_ceil(8)),
        }
    }

    /// Whether it is a float of 16, 32 or 64 bits.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// Whether it is an integer of 8 to 64 bits, `bool` not included.
    pub fn is_int(self) -> bool {
        matches!(
            self,
            Self::U8
                | Self::I8
                | Self::U16
                | Self::I16
                | Self::I32
                | Self::I64
                | Self::U32
                | Self::U64
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for DType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|it| it.text() == text).copied().ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_each_others_inverse() {
        for &it in DType::ALL {
            assert_eq!(DType::from_onnx_code(it.onnx_code()), Some(it));
            assert_eq!(it.text().parse(), Ok(it));
        }
        assert_eq!(DType::ALL.len(), 28);
        assert_eq!(DType::from_onnx_code(0), None);
    }

    #[test]
    fn packed_sizes_round_up() {
        assert_eq!(DType::I4.size_of(15), Some(8));
        assert_eq!(DType::U2.size_of(5), Some(2));
        assert_eq!(DType::F6E2M3.size_of(3), Some(3));
        assert_eq!(DType::F32.size_of(usize::MAX), None);
    }
}
