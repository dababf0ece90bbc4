//! Floats and integers of 2 to 8 bits: from and to wider numbers, packed.
//!
//! Sources: "FP8 Formats for Deep Learning" (arXiv 2209.05433), the OCP Microscaling formats 1.0,
//! and the tables of ONNX Cast-28.

use qcc_tensor::DType;

/// A small float: how its codes are numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MiniFloat {
    /// Bits of the exponent.
    exponent: u32,
    /// Bits of the mantissa.
    mantissa: u32,
    /// What is taken off the exponent.
    bias: i32,
    /// Code of the largest number.
    largest: u8,
    /// Code of infinity.
    infinity: Option<u8>,
    /// Code of NaN.
    nan: Option<u8>,
    /// There is one zero, and the other one's code is NaN.
    one_zero: bool,
}

impl MiniFloat {
    /// The format of a signed element type; `None` for other types.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        let make = |exponent, mantissa, bias, largest, infinity, nan, one_zero| {
            Some(Self { exponent, mantissa, bias, largest, infinity, nan, one_zero })
        };
        match dtype {
            DType::F8E4M3FN => make(4, 3, 7, 0x7e, None, Some(0x7f), false),
            DType::F8E4M3FNUZ => make(4, 3, 8, 0x7f, None, Some(0x80), true),
            DType::F8E5M2 => make(5, 2, 15, 0x7b, Some(0x7c), Some(0x7e), false),
            DType::F8E5M2FNUZ => make(5, 2, 16, 0x7f, None, Some(0x80), true),
            DType::F6E2M3 => make(2, 3, 1, 0x1f, None, None, false),
            DType::F6E3M2 => make(3, 2, 3, 0x1f, None, None, false),
            DType::F4E2M1 => make(2, 1, 1, 0x07, None, None, false),
            _ => None,
        }
    }

    /// The code nearest to a number, half to even. What is too large becomes the largest number if
    /// `saturate`, or if there is neither infinity nor NaN; else one of these. NaN becomes -0 where
    /// there is none.
    pub(crate) fn encode(self, x: f64, saturate: bool) -> u8 {
        let sign_bit = 1u8 << (self.exponent + self.mantissa);
        let sign = if x.is_sign_negative() { sign_bit } else { 0 };
        let signed = |code: u8| if self.one_zero && code == 0 { 0 } else { code | sign };
        let nan = match self.nan {
            Some(it) if self.one_zero => it,
            Some(it) => it | sign,
            None => sign_bit, // -0, as ml_dtypes has it
        };
        if x.is_nan() {
            return nan;
        }
        let size = x.abs();
        let least = 1 - self.bias;
        let power = ((size.to_bits() >> 52) as i32 - 1023).max(least);
        let steps = size / 2f64.powi(power - self.mantissa as i32);
        // A carry out of the mantissa is one more in the exponent, as it should be.
        let steps = steps.round_ties_even();
        let code = steps + f64::from((power - least) << self.mantissa);
        if code <= f64::from(self.largest) {
            return signed(code as u8);
        }
        match (saturate, self.infinity, self.nan) {
            (false, Some(infinity), _) => signed(infinity),
            (false, None, Some(_)) => nan,
            _ => signed(self.largest),
        }
    }

    /// The number that a code stands for.
    pub(crate) fn decode(self, code: u8) -> f64 {
        let sign_bit = 1u8 << (self.exponent + self.mantissa);
        let size = code & (sign_bit - 1);
        let negative = code & sign_bit != 0;
        if self.one_zero && code == sign_bit {
            return f64::NAN;
        }
        let value = if size <= self.largest {
            let power = i32::from(size >> self.mantissa);
            let fraction = f64::from(size & ((1 << self.mantissa) - 1));
            let one = if power > 0 { f64::from(1u32 << self.mantissa) } else { 0.0 };
            (one + fraction) * 2f64.powi(power.max(1) - self.bias - self.mantissa as i32)
        } else if self.infinity == Some(size) {
            f64::INFINITY
        } else {
            f64::NAN
        };
        if negative { -value } else { value }
    }
}

/// How a number between two powers of two becomes an `F8E8M0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRounding {
    /// The larger one.
    Up,
    /// The smaller one.
    Down,
    /// The nearer one, the middle up.
    Nearest,
}

/// The code of a power of two. What lies outside becomes an end of the range if `saturate`, else
/// NaN.
pub(crate) fn encode_power(x: f64, rounding: PowerRounding, saturate: bool) -> u8 {
    const NAN: u8 = 0xff;
    let outside = |end: u8| if saturate { end } else { NAN };
    if x.is_nan() {
        return NAN;
    }
    let size = x.abs();
    if size == f64::INFINITY {
        return outside(0xfe);
    }
    let power = (size.to_bits() >> 52) as i32 - 1023;
    let rest = size.to_bits() & ((1 << 52) - 1);
    let up = match rounding {
        PowerRounding::Up => rest > 0,
        PowerRounding::Down => false,
        PowerRounding::Nearest => rest >= 1 << 51,
    };
    match power + 127 + i32::from(up) {
        code if code < 0 => outside(0),
        code if code > 0xfe => outside(0xfe),
        code => code as u8,
    }
}

/// The power of two of a code.
pub(crate) fn decode_power(code: u8) -> f64 {
    if code == 0xff { f64::NAN } else { 2f64.powi(i32::from(code) - 127) }
}

/// Codes of `bits` bits, the first one lowest, one in a byte each.
pub(crate) fn unpack(bytes: &[u8], bits: usize, len: usize) -> Vec<u8> {
    let mask = ((1u16 << bits) - 1) as u8;
    (0..len)
        .map(|index| {
            let (byte, shift) = (index * bits / 8, index * bits % 8);
            let high = bytes.get(byte + 1).copied().unwrap_or(0);
            (u16::from_le_bytes([bytes[byte], high]) >> shift) as u8 & mask
        })
        .collect()
}

/// The inverse of [`unpack`]; codes have no bits above `bits`.
pub(crate) fn pack(codes: &[u8], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; (codes.len() * bits).div_ceil(8)];
    for (index, &code) in codes.iter().enumerate() {
        let (byte, shift) = (index * bits / 8, index * bits % 8);
        let [low, high] = (u16::from(code) << shift).to_le_bytes();
        bytes[byte] |= low;
        if high != 0 {
            bytes[byte + 1] |= high;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOATS: [DType; 7] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F6E2M3,
        DType::F6E3M2,
        DType::F4E2M1,
    ];

    #[test]
    fn every_number_keeps_its_code() {
        for dtype in FLOATS {
            let format = MiniFloat::of(dtype).unwrap();
            for code in 0..=((1u16 << dtype.bits()) - 1) as u8 {
                let x = format.decode(code);
                if !x.is_nan() {
                    assert_eq!(format.encode(x, false), code, "{dtype} {code:#x} {x}");
                }
            }
        }
        for code in 0..=254 {
            let x = decode_power(code);
            for rounding in [PowerRounding::Up, PowerRounding::Down, PowerRounding::Nearest] {
                assert_eq!(encode_power(x, rounding, false), code);
            }
        }
    }

    #[test]
    fn largest_numbers_are_those_of_the_formats() {
        let largest = FLOATS.map(|it| {
            let format = MiniFloat::of(it).unwrap();
            format.decode(format.encode(1e9, true))
        });
        assert_eq!(largest, [448.0, 240.0, 57344.0, 57344.0, 7.5, 28.0, 6.0]);
        let fn_ = MiniFloat::of(DType::F8E4M3FN).unwrap();
        assert_eq!([fn_.encode(464.0, false), fn_.encode(465.0, false)], [0x7e, 0x7f]);
        assert_eq!([fn_.encode(-1e9, false), fn_.encode(-0.0, false)], [0xff, 0x80]);
        let e5 = MiniFloat::of(DType::F8E5M2).unwrap();
        assert_eq!([e5.encode(1e9, false), e5.encode(f64::INFINITY, true)], [0x7c, 0x7b]);
    }

    proptest! {
        #[test]
        fn no_number_is_nearer(x in -8.0f64..8.0, which in 0usize..7) {
            let format = MiniFloat::of(FLOATS[which]).unwrap();
            let got = (format.decode(format.encode(x, true)) - x).abs();
            for code in 0..=((1u16 << FLOATS[which].bits()) - 1) as u8 {
                let other = (format.decode(code) - x).abs();
                prop_assert!(other.is_nan() || got <= other);
            }
        }

        #[test]
        fn packing_is_undone(bits in prop::sample::select(vec![2usize, 4, 6, 8]), len in 0usize..40) {
            let mask = ((1u16 << bits) - 1) as u8;
            let codes: Vec<u8> = (0..len).map(|it| (it * 37 + 5) as u8 & mask).collect();
            prop_assert_eq!(unpack(&pack(&codes, bits), bits, len), codes);
        }
    }
}
