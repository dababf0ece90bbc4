//! Elements of tensors as text. Each element is its bit pattern in the low bits of a `u64`, a
//! complex number two of them.
//!
//! Floats of 16 to 64 bits are decimal, the shortest text that reads back as the same bits; `nan`
//! is the quiet one without payload and `nan(0x7fc00001)` any other. Integers are decimal. Smaller
//! floats are written as codes, `0x3c`: their values say little, and the formats differ in which
//! codes are numbers at all.

use std::fmt;

use half::{bf16, f16};
use qcc_tensor::DType;

/// What one part of an element is, and how many parts there are: 2 for complex numbers.
pub(super) fn parts(dtype: DType) -> (DType, usize) {
    match dtype {
        DType::C64 => (DType::F32, 2),
        DType::C128 => (DType::F64, 2),
        it => (it, 1),
    }
}

/// Bits at a position of a packed buffer, the first ones lowest; 0 beyond its end. `bits` is at
/// most 64.
pub(super) fn bits_at(bytes: &[u8], bits: usize, idx: usize) -> u64 {
    let start = idx.saturating_mul(bits);
    let window = bytes.get(start / 8..).unwrap_or_default().iter().take(9).enumerate();
    let all = window.fold(0u128, |all, (at, &byte)| all | (u128::from(byte) << (8 * at)));
    (all >> (start % 8)) as u64 & mask(bits)
}

fn mask(bits: usize) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Puts bit patterns behind each other, the first one lowest.
#[derive(Debug, Default)]
pub(super) struct Packer {
    bytes: Vec<u8>,
    pending: u128,
    n_pending: usize,
}

impl Packer {
    pub(super) fn push(&mut self, bits: usize, code: u64) {
        self.pending |= u128::from(code & mask(bits)) << self.n_pending;
        self.n_pending += bits;
        while self.n_pending >= 8 {
            self.flush();
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.n_pending > 0 {
            self.flush();
        }
        self.bytes
    }

    fn flush(&mut self) {
        self.bytes.push(self.pending as u8);
        self.pending >>= 8;
        self.n_pending = self.n_pending.saturating_sub(8);
    }
}

/// The text of one part of an element.
pub(super) struct Part(pub(super) DType, pub(super) u64);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self(dtype, code) = self;
        if let Some(nan) = quiet_nan(dtype)
            && is_nan(dtype, code)
        {
            return if code == nan { f.write_str("nan") } else { write!(f, "nan({code:#x})") };
        }
        match dtype {
            DType::F64 => write!(f, "{:?}", f64::from_bits(code)),
            DType::F32 => write!(f, "{:?}", f32::from_bits(code as u32)),
            DType::F16 => write!(f, "{:?}", f16::from_bits(code as u16).to_f32()),
            DType::BF16 => write!(f, "{:?}", bf16::from_bits(code as u16).to_f32()),
            DType::Bool if code < 2 => write!(f, "{}", code == 1),
            it => match int_range(it) {
                Some((low, _)) if low < 0 => {
                    let shift = 64 - it.bits();
                    write!(f, "{}", ((code << shift) as i64) >> shift)
                }
                Some(_) => write!(f, "{code}"),
                None => write!(f, "{code:#x}"),
            },
        }
    }
}

/// The bits of a number, given as the parser finds it: `true`, `-3`, `1e-5`, `-inf`, `0x3c`.
///
/// # Errors
/// In words that go on from the text.
pub(super) fn parse_part(dtype: DType, text: &str) -> Result<u64, String> {
    if quiet_nan(dtype).is_some() {
        return parse_float(dtype, text);
    }
    match (dtype, text) {
        (DType::Bool, "false") => return Ok(0),
        (DType::Bool, "true") => return Ok(1),
        _ => {}
    }
    if let Some((low, high)) = int_range(dtype) {
        let is_digits = text.bytes().all(|it| it.is_ascii_digit() || it == b'-');
        return match text.parse::<i128>() {
            Ok(it) if (low..=high).contains(&it) => Ok(it as u64 & mask(dtype.bits())),
            Err(_) if !is_digits && dtype == DType::Bool => {
                Err("is neither true nor false".to_owned())
            }
            Err(_) if !is_digits => Err("is not an integer".to_owned()),
            _ => Err(format!("does not fit into {dtype}, which ends at {low} and {high}")),
        };
    }
    match text.strip_prefix("0x").map(|it| u64::from_str_radix(it, 16)) {
        Some(Ok(it)) if it <= mask(dtype.bits()) => Ok(it),
        _ => Err(format!("is not a code of {dtype}, {} bits written as 0x..", dtype.bits())),
    }
}

/// The bits of `nan(0x..)`.
///
/// # Errors
/// In words that go on from the text.
pub(super) fn parse_nan(dtype: DType, text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x").map(|it| u64::from_str_radix(it, 16)) {
        Some(Ok(it)) if it <= mask(dtype.bits()) && is_nan(dtype, it) => Ok(it),
        _ => Err(format!("are not the bits of a NaN of {dtype}")),
    }
}

fn parse_float(dtype: DType, text: &str) -> Result<u64, String> {
    match text {
        "nan" => return Ok(quiet_nan(dtype).unwrap_or_default()),
        "inf" => return Ok(infinity(dtype)),
        "-inf" => return Ok(infinity(dtype) | (1 << (dtype.bits() - 1))),
        _ => {}
    }
    // The standard library also reads `infinity`, `+1` and `.5`; one spelling is enough.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|it: char| it.is_ascii_digit()) {
        return Err("is not a number".to_owned());
    }
    let wrong = |_| "is not a number".to_owned();
    let code = match dtype {
        DType::F32 => u64::from(text.parse::<f32>().map_err(wrong)?.to_bits()),
        DType::F16 => u64::from(f16::from_f64(text.parse().map_err(wrong)?).to_bits()),
        DType::BF16 => u64::from(bf16::from_f64(text.parse().map_err(wrong)?).to_bits()),
        _ => text.parse::<f64>().map_err(wrong)?.to_bits(),
    };
    if code & infinity(dtype) == infinity(dtype) {
        return Err(format!("is too large for {dtype}"));
    }
    Ok(code)
}

/// All exponent bits set, for floats that have infinities.
fn infinity(dtype: DType) -> u64 {
    match dtype {
        DType::F16 => 0x7c00,
        DType::BF16 => 0x7f80,
        DType::F32 => 0x7f80_0000,
        _ => 0x7ff0_0000_0000_0000,
    }
}

fn quiet_nan(dtype: DType) -> Option<u64> {
    match dtype {
        DType::F16 => Some(0x7e00),
        DType::BF16 => Some(0x7fc0),
        DType::F32 => Some(0x7fc0_0000),
        DType::F64 => Some(0x7ff8_0000_0000_0000),
        _ => None,
    }
}

fn is_nan(dtype: DType, code: u64) -> bool {
    code & mask(dtype.bits() - 1) > infinity(dtype)
}

/// Least and largest number of an integer type; a byte that is `bool` may hold any.
fn int_range(dtype: DType) -> Option<(i128, i128)> {
    let bits = dtype.bits();
    match dtype {
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::U4 | DType::U2 | DType::Bool => {
            Some((0, (1 << bits) - 1))
        }
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::I4 | DType::I2 => {
            Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(dtype: DType, code: u64) {
        let text = Part(dtype, code).to_string();
        let back = match text.strip_prefix("nan(").and_then(|it| it.strip_suffix(')')) {
            Some(bits) => parse_nan(dtype, bits),
            None => parse_part(dtype, &text),
        };
        assert_eq!(back, Ok(code), "{dtype} {text}");
    }

    #[test]
    fn every_code_of_small_types_reads_back() {
        for &dtype in DType::ALL.iter().filter(|it| (1..=16).contains(&it.bits())) {
            (0..=mask(dtype.bits())).for_each(|code| check(dtype, code));
        }
    }

    #[test]
    fn spelling() {
        let f32 = |it: f32| Part(DType::F32, u64::from(it.to_bits())).to_string();
        assert_eq!(f32(0.1), "0.1");
        assert_eq!(f32(-0.0), "-0.0");
        assert_eq!(f32(1e-5), "1e-5");
        assert_eq!(f32(f32::NEG_INFINITY), "-inf");
        assert_eq!(f32(f32::NAN), "nan");
        assert_eq!(f32(-f32::NAN), "nan(0xffc00000)");
        assert_eq!(Part(DType::I4, 15).to_string(), "-1");
        assert_eq!(Part(DType::I64, u64::MAX).to_string(), "-1");
        assert_eq!(Part(DType::Bool, 2).to_string(), "2");
        assert_eq!(Part(DType::F8E4M3FN, 0x3c).to_string(), "0x3c");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (dtype, text) in [
            (DType::U4, "16"),
            (DType::I8, "-129"),
            (DType::I64, "9223372036854775808"),
            (DType::I64, "1.0"),
            (DType::U8, "-"),
            (DType::F32, "1e39"),
            (DType::F16, "65520.0"),
            (DType::F32, "-infinity"),
            (DType::F32, "0x10"),
            (DType::F6E2M3, "0x40"),
            (DType::Bool, "yes"),
        ] {
            assert!(parse_part(dtype, text).is_err(), "{dtype} {text}");
        }
        assert!(parse_nan(DType::F32, "0x7f800000").is_err());
        assert!(parse_nan(DType::F16, "0x7fc00000").is_err());
        assert_eq!(parse_part(DType::F32, "2"), Ok(u64::from(2f32.to_bits())));
    }

    proptest! {
        #[test]
        fn wide_codes_read_back(code: u64, at in 0usize..7) {
            let wide = [DType::F32, DType::F64, DType::I32, DType::U32, DType::I64, DType::U64];
            let dtype = wide[at % wide.len()];
            check(dtype, code & mask(dtype.bits()));
        }

        #[test]
        fn packing_is_undone(codes: Vec<u64>, bits in 1usize..=64) {
            let mut packer = Packer::default();
            codes.iter().for_each(|&it| packer.push(bits, it));
            let bytes = packer.finish();
            prop_assert_eq!(bytes.len(), (codes.len() * bits).div_ceil(8));
            for (idx, code) in codes.iter().enumerate() {
                prop_assert_eq!(bits_at(&bytes, bits, idx), code & mask(bits));
            }
        }
    }
}
