//! Words that options take, and what is said to a wrong one.

use clap::ValueEnum;
use qcc::Error;
use qcc_diag::{Diagnostic, codes};

/// Adds the name that was meant to an error, where one is near.
pub(super) fn meant(error: Diagnostic, name: Option<impl AsRef<str>>) -> Diagnostic {
    match name {
        Some(name) => error.with_help(format!("write '{}'", name.as_ref())),
        None => error,
    }
}

/// Element type of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ScaleType {
    /// That of the weight.
    Auto,
    /// `float32`.
    #[value(aliases = ["fp32", "float32", "float"])]
    F32,
    /// `float16`.
    #[value(aliases = ["fp16", "float16"])]
    F16,
    /// `bfloat16`.
    #[value(aliases = ["bfloat16"])]
    Bf16,
}

impl ScaleType {
    /// As the pass `select` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Operators whose weights can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OpType {
    /// Matrix product.
    #[value(name = "MatMul")]
    MatMul,
    /// Matrix product with a bias.
    #[value(name = "Gemm")]
    Gemm,
    /// Matrix product of `com.microsoft`.
    #[value(name = "FusedMatMul")]
    FusedMatMul,
}

impl OpType {
    /// Name in ONNX.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MatMul => "MatMul",
            Self::Gemm => "Gemm",
            Self::FusedMatMul => "FusedMatMul",
        }
    }
}

/// The name of a format in the words of other tools.
pub(super) fn format(name: &str) -> &str {
    match name.to_ascii_lowercase().as_str() {
        "matmulnbits" | "qoperator" => "nbits",
        "qdq" => "qdq",
        "qcc" => "function",
        _ => name,
    }
}

/// A number of things, at least one.
///
/// # Errors
/// Says so.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it takes a whole number from 1 on".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// More threads than any machine makes use of are a mistake.
const MOST_THREADS: usize = 1024;

/// A number of threads.
///
/// # Errors
/// Says what it takes.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    positive(text)
        .ok()
        .filter(|it| *it <= MOST_THREADS)
        .ok_or_else(|| format!("it takes a whole number from 1 to {MOST_THREADS}"))
}

/// Lets commands without an option for it take their threads from `QCC_THREADS`.
///
/// # Errors
/// When it is no number of threads.
pub(super) fn limit_threads() -> Result<(), Error> {
    let Some(text) = std::env::var_os("QCC_THREADS") else { return Ok(()) };
    let text = text.to_string_lossy();
    let count = threads(&text).map_err(|what| {
        let text = format!("invalid value '{text}' of QCC_THREADS: {what}");
        Diagnostic::error(codes::QCC0304, text).at("environment")
    })?;
    // A pool that exists already stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    Ok(())
}

/// Bits of a code.
///
/// # Errors
/// Says what it takes, and of a fraction which option takes it.
pub(super) fn bits(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(it @ 2..=8) => Ok(it),
        _ if text.contains('.') && bpw(text).is_ok() => {
            Err(format!("it takes a whole number from 2 to 8; write --bpw {text} for a mean"))
        }
        _ => Err("it takes a whole number from 2 to 8".to_owned()),
    }
}

/// Stored bits for each weight.
///
/// # Errors
/// Says so.
pub(super) fn bpw(text: &str) -> Result<f64, String> {
    let found = text.parse::<f64>().ok().filter(|it| (0.0..=64.0).contains(it));
    found.ok_or_else(|| {
        "it takes the stored bits of a weight, such as 4.5, and 64 at most".to_owned()
    })
}

/// Bits of weights and of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    /// Bits of a weight, 2 to 8.
    pub(super) bits: u8,
    /// Whether activations are rounded to 8 bits.
    pub(super) is_int8: bool,
}

impl Scheme {
    /// Reads `W4A16`.
    ///
    /// # Errors
    /// Says what a scheme looks like.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let parts = upper.strip_prefix('W').and_then(|it| it.split_once('A'));
        let bits = parts.and_then(|it| it.0.parse().ok()).filter(|it| (2..=8).contains(it));
        match (bits, parts.map(|it| it.1)) {
            (Some(bits), Some("16")) => Ok(Self { bits, is_int8: false }),
            (Some(bits), Some("8")) => Ok(Self { bits, is_int8: true }),
            (Some(_), Some(other)) => {
                Err(format!("activations have 16 or 8 bits, A16 or A8, not A{other}"))
            }
            _ => Err("a scheme is W with 2 to 8 bits, then A16 or A8: W4A16".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        assert_eq!(Scheme::parse("W4A16"), Ok(Scheme { bits: 4, is_int8: false }));
        assert_eq!(Scheme::parse("w3a8"), Ok(Scheme { bits: 3, is_int8: true }));
        for text in ["W9A16", "W1A16", "4A16", "W4", "W4A4", "W4A16_MIXED", "MXFP4", ""] {
            assert!(Scheme::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_those_of_the_parser() {
        for it in ScaleType::value_variants() {
            assert_eq!(it.to_possible_value().unwrap().get_name(), it.name());
        }
        for it in OpType::value_variants() {
            assert_eq!(it.to_possible_value().unwrap().get_name(), it.name());
        }
    }
}
