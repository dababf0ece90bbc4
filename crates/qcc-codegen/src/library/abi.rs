//! Numbers of the C interface: what the header says and the driver does.

/// Version of the interface. It changes when a program built against an older header would not
/// work any more.
pub(crate) const VERSION: u32 = 1;

/// Most parts that a product is shared in: larger numbers could overflow.
pub(crate) const MOST_PARTS: u64 = 1 << 16;

/// Bytes of `struct qcc_product`: 13 fields of 8 bytes, six of 4.
pub(crate) const PRODUCT_BYTES: u32 = 13 * 8 + 6 * 4;

/// Name in C and meaning of what a product may end in, by its number: that of the epilogue.
pub(crate) const ENDS: &[(&str, &str)] = &[
    ("QCC_END_NONE", "there is none"),
    ("QCC_END_BIAS", "y + a bias of the model"),
    ("QCC_END_RESIDUAL", "y + extra"),
    ("QCC_END_SILU_MUL", "silu(y) * extra"),
    ("QCC_END_GELU", "gelu(y), with the error function"),
    ("QCC_END_GELU_TANH", "gelu(y), by the hyperbolic tangent"),
    ("QCC_END_BIAS_RESIDUAL", "y + a bias of the model + extra"),
    ("QCC_END_BIAS_SILU_MUL", "silu(y + a bias of the model) * extra"),
    ("QCC_END_BIAS_GELU", "gelu(y + a bias of the model), with the error function"),
    ("QCC_END_BIAS_GELU_TANH", "gelu(y + a bias of the model), by the hyperbolic tangent"),
];

/// Declares what functions return.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $c:literal $text:literal,)*) => {
        /// What functions return.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$doc])* $name = $number,)* }

        /// Name in C, number and meaning of each.
        pub(crate) const CODES: &[(&str, u32, &str)] = &[$(($c, $number, $text),)*];
    };
}

codes! {
    /// Done.
    Ok = 0 "QCC_OK" "done",
    /// A null pointer.
    Null = 1 "QCC_ERR_NULL" "a pointer is null",
    /// A pointer that is not aligned.
    Align = 2 "QCC_ERR_ALIGN" "a pointer is not aligned: floats to 4 bytes, workspace and weights to 64",
    /// More rows than memory can hold.
    Rows = 3 "QCC_ERR_ROWS" "more rows than there can be memory for",
    /// A part that does not exist.
    Part = 4 "QCC_ERR_PART" "part is not below parts, or parts is 0 or above 65536",
    /// The CPU lacks a feature.
    Cpu = 5 "QCC_ERR_CPU" "the CPU lacks a feature that the library was compiled for",
    /// Not opened.
    Closed = 6 "QCC_ERR_CLOSED" "the library was not opened, or opening it failed",
    /// Weights that are none.
    Magic = 7 "QCC_ERR_MAGIC" "the weights do not begin with QPK1",
    /// Weights of another version.
    Version = 8 "QCC_ERR_VERSION" "the weights are of another version",
    /// Weights of another shape.
    Shape = 9 "QCC_ERR_SHAPE" "the weights are those of another model",
    /// Weights that are cut off.
    Short = 10 "QCC_ERR_SHORT" "the weights are cut off",
    /// No version of this name.
    Target = 11 "QCC_ERR_TARGET" "the library was not compiled for a target of this name",
    /// Another library than that of the header, which looks before it calls anything.
    Library = 12 "QCC_ERR_LIBRARY" "the library is not the one that the header was written for",
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_kernels::Epilogue;

    #[test]
    fn numbers_are_in_order() {
        for (i, (_, number, _)) in CODES.iter().enumerate() {
            assert_eq!(*number as usize, i);
        }
        assert_eq!(Code::Library as usize, CODES.len() - 1);
    }

    #[test]
    fn ends_are_in_the_order_of_epilogues() {
        let names = ENDS.iter().map(|it| it.0.trim_start_matches("QCC_END_").to_lowercase());
        let names: Vec<String> = names.map(|it| it.replace('_', "")).collect();
        let epilogues: Vec<String> = Epilogue::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, epilogues);
        for (i, epilogue) in Epilogue::ALL.iter().enumerate() {
            assert_eq!(*epilogue as usize, i);
        }
    }
}
