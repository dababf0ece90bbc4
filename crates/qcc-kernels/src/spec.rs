//! Names of kernels.
//!
//! `qcc_mm_b{bits}_g{group}_m{rows}_t{tiles}_{scale}[_asym]_{planes}[_{epilogue}]_{isa}`

use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale};
use std::fmt;
use std::str::FromStr;

/// One kernel. Prints as the name of its symbol, and is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelSpec {
    /// Width of a code.
    pub bits: PanelBits,
    /// Group size along K.
    pub group: KernelGroup,
    /// Rows of activations, 1 to [`KernelSpec::MOST_ROWS`].
    pub rows: u8,
    /// Tiles of 16 columns of a panel, 1 or 2.
    pub tiles: u8,
    /// How weight scales are stored.
    pub scale: PanelScale,
    /// Whether zero points are stored; else they are `2^(bits - 1)`.
    pub asymmetric: bool,
    /// Planes of the activations.
    pub planes: Planes,
    /// What is done to the results before they are stored.
    pub epilogue: Epilogue,
    /// Instruction set.
    pub isa: Isa,
}

/// Declares an enum whose variants have names, printed and read.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),* })
            }
        }

        impl FromStr for $name {
            type Err = SpecError;

            fn from_str(text: &str) -> Result<Self, SpecError> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(SpecError(text.to_owned())),
                }
            }
        }
    };
}

names! {
    /// Planes of 8 bits that an activation is made of, high to low, each 128 times the next.
    Planes {
        /// One: codes to ±127.
        A8 = "a8",
        /// Two: codes to ±16319.
        A15 = "a15",
        /// Three: codes to ±2088895.
        A22 = "a22",
    }
}

names! {
    /// What is done to a result `y` before it is stored. Functions are those of
    /// [`crate::epilogue`], to the bit.
    Epilogue {
        /// Nothing.
        None = "none",
        /// `y + bias`.
        Bias = "bias",
        /// `y + extra`.
        Residual = "residual",
        /// `silu(y) * extra`.
        SiluMul = "silumul",
        /// `gelu(y)`.
        Gelu = "gelu",
        /// `gelu_tanh(y)`.
        GeluTanh = "gelutanh",
        /// `(y + bias) + extra`.
        BiasResidual = "biasresidual",
        /// `silu(y + bias) * extra`.
        BiasSiluMul = "biassilumul",
        /// `gelu(y + bias)`.
        BiasGelu = "biasgelu",
        /// `gelu_tanh(y + bias)`.
        BiasGeluTanh = "biasgelutanh",
    }
}

names! {
    /// Instruction set of a kernel.
    Isa {
        /// Any CPU: the definition.
        Scalar = "scalar",
        /// AVX-512 with VNNI.
        Avx512Vnni = "avx512vnni",
        /// AVX-512 without VNNI.
        Avx512 = "avx512",
        /// AVX2 with AVX-VNNI.
        AvxVnni = "avxvnni",
        /// AVX2 with FMA and F16C.
        Avx2 = "avx2",
        /// NEON with the dot product.
        NeonDot = "neondot",
        /// NEON with products of small matrices of `i8`.
        NeonI8mm = "neoni8mm",
        /// NEON without either.
        Neon = "neon",
    }
}

/// Group size along K of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelGroup {
    /// 16: two groups to a block of 32 k. Prints as `16`.
    Half,
    /// So many blocks of 32 k. Prints as the number of k.
    Blocks(u8),
    /// As many blocks as the call says. Prints as `n`.
    Counted,
}

impl KernelGroup {
    /// Blocks that have kernels of their own.
    pub const FIXED: [u8; 4] = [1, 2, 4, 8];

    /// That of a layout.
    #[must_use]
    pub fn of(layout: &PanelLayout) -> Self {
        if layout.step_groups() == 2 {
            return Self::Half;
        }
        match u8::try_from(layout.step_blocks()) {
            Ok(blocks) if Self::FIXED.contains(&blocks) => Self::Blocks(blocks),
            _ => Self::Counted,
        }
    }
}

impl fmt::Display for KernelGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Half => f.write_str("16"),
            Self::Blocks(blocks) => write!(f, "{}", 32 * u32::from(*blocks)),
            Self::Counted => f.write_str("n"),
        }
    }
}

impl FromStr for KernelGroup {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let all = Self::FIXED.map(Self::Blocks).into_iter().chain([Self::Half, Self::Counted]);
        all.into_iter().find(|it| it.to_string() == text).ok_or_else(|| SpecError(text.to_owned()))
    }
}

impl Planes {
    /// How many planes.
    #[must_use]
    pub const fn count(self) -> u32 {
        self as u32 + 1
    }

    /// Largest code of all planes together: `127 * 128^(count - 1)` and 63 for each lower plane.
    #[must_use]
    pub const fn largest(self) -> i32 {
        match self {
            Self::A8 => 127,
            Self::A15 => 128 * 127 + 63,
            Self::A22 => 128 * (128 * 127 + 63) + 63,
        }
    }
}

impl KernelSpec {
    /// Most rows of a kernel.
    pub const MOST_ROWS: u8 = 6;

    /// The kernel for a matrix.
    #[must_use]
    pub fn new(layout: &PanelLayout, rows: u8, tiles: u8, planes: Planes, isa: Isa) -> Self {
        KernelSpec {
            bits: layout.bits(),
            group: KernelGroup::of(layout),
            rows,
            tiles,
            scale: layout.scale(),
            asymmetric: layout.zeros(),
            planes,
            epilogue: Epilogue::None,
            isa,
        }
    }

    /// The same kernel with an epilogue.
    #[must_use]
    pub fn with_epilogue(self, epilogue: Epilogue) -> Self {
        KernelSpec { epilogue, ..self }
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KernelSpec { bits, group, rows, tiles, scale, planes, epilogue, isa, .. } = self;
        let asymmetric = if self.asymmetric { "_asym" } else { "" };
        write!(f, "qcc_mm_b{bits}_g{group}_m{rows}_t{tiles}_{scale}{asymmetric}_{planes}")?;
        if *epilogue != Epilogue::None {
            write!(f, "_{epilogue}")?;
        }
        write!(f, "_{isa}")
    }
}

/// A name that no kernel has: the word that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kernel has '{0}' in its name")]
pub struct SpecError(pub String);

impl FromStr for KernelSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = |word: &str| SpecError(word.to_owned());
        let words = text.strip_prefix("qcc_mm_").ok_or_else(|| wrong(text))?;
        let mut words = words.split('_').peekable();
        let mut next = |prefix: &str| {
            let word = words.next().ok_or_else(|| wrong(text))?;
            word.strip_prefix(prefix).ok_or_else(|| wrong(word))
        };
        let bits = next("b")?;
        let bits = bits.parse().map_err(|()| wrong(bits))?;
        let group = next("g")?.parse()?;
        let small = |word: &str, most: u8| {
            let number = (1..=most).find(|it| it.to_string() == word);
            number.ok_or_else(|| wrong(word))
        };
        let rows = small(next("m")?, Self::MOST_ROWS)?;
        let tiles = small(next("t")?, 2)?;
        let scale = next("")?;
        let scale = scale.parse().map_err(|()| wrong(scale))?;
        let mut word = next("")?;
        let asymmetric = word == "asym";
        if asymmetric {
            word = next("")?;
        }
        let planes = word.parse()?;
        let word = next("")?;
        let (epilogue, isa) = match next("") {
            Ok(isa) => (word.parse()?, isa),
            Err(_) => (Epilogue::None, word),
        };
        let isa = isa.parse()?;
        let spec = Self { bits, group, rows, tiles, scale, asymmetric, planes, epilogue, isa };
        if spec.to_string() == text { Ok(spec) } else { Err(wrong(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn specs() -> impl Strategy<Value = KernelSpec> {
        let groups = [1, 2, 4, 8].map(KernelGroup::Blocks);
        let groups = [groups.as_slice(), &[KernelGroup::Half, KernelGroup::Counted]].concat();
        (
            prop::sample::select(PanelBits::ALL),
            prop::sample::select(groups),
            (1..=KernelSpec::MOST_ROWS, 1u8..=2, any::<bool>()),
            prop::sample::select(PanelScale::ALL),
            prop::sample::select(Planes::ALL),
            prop::sample::select(Epilogue::ALL),
            prop::sample::select(Isa::ALL),
        )
            .prop_map(
                |(bits, group, (rows, tiles, asymmetric), scale, planes, epilogue, isa)| {
                    KernelSpec {
                        bits,
                        group,
                        rows,
                        tiles,
                        scale,
                        asymmetric,
                        planes,
                        epilogue,
                        isa,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn names_come_back(spec in specs()) {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }

    #[test]
    fn names_by_hand() {
        let layout = PanelLayout::new(PanelBits::B4, 32, 64, 64, PanelScale::F16, false).unwrap();
        let spec = KernelSpec::new(&layout, 6, 2, Planes::A8, Isa::Avx512Vnni);
        assert_eq!(spec.to_string(), "qcc_mm_b4_g32_m6_t2_f16_a8_avx512vnni");
        let name = "qcc_mm_b3_gn_m1_t1_f32_asym_a22_silumul_neon";
        assert_eq!(name.parse::<KernelSpec>().unwrap().to_string(), name);
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "qcc_mm_",
            "mm_b4_g32_m6_t2_f16_a8_avx512vnni",
            "qcc_mm_b5_g32_m6_t2_f16_a8_avx512vnni",
            "qcc_mm_b4_g48_m6_t2_f16_a8_avx512vnni",
            "qcc_mm_b4_g32_m7_t2_f16_a8_avx512vnni",
            "qcc_mm_b4_g32_m6_t0_f16_a8_avx512vnni",
            "qcc_mm_b4_g32_m6_t2_f16_a8_none_avx512vnni",
            "qcc_mm_b4_g32_m6_t2_f16_a8_avx512vnni_",
            "qcc_mm_b4_g32_m6_t2_f16_a8",
        ] {
            assert!(name.parse::<KernelSpec>().is_err(), "{name}");
        }
    }

    #[test]
    fn groups_of_layouts() {
        let of = |group, k| {
            let layout = PanelLayout::new(PanelBits::B2, group, k, 1, PanelScale::F32, true);
            KernelGroup::of(&layout.unwrap())
        };
        assert_eq!(of(16, 999), KernelGroup::Half);
        assert_eq!(of(32, 999), KernelGroup::Blocks(1));
        assert_eq!(of(256, 999), KernelGroup::Blocks(8));
        assert_eq!(of(96, 999), KernelGroup::Counted);
        assert_eq!(of(8192, 8192), KernelGroup::Counted);
    }

    #[test]
    fn planes_hold_their_largest_code() {
        assert_eq!(
            Planes::ALL.iter().map(|it| it.largest()).collect::<Vec<_>>(),
            [127, 16319, 2_088_895]
        );
    }
}
