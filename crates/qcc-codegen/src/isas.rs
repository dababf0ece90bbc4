//! The instruction sets, each a row: what it needs of a CPU, and its instructions.

use crate::Architecture;
#[cfg(feature = "llvm")]
use crate::isa::{self, Instructions};
use qcc_kernels::Isa;

/// An instruction set.
pub(crate) struct Row {
    pub isa: Isa,
    /// None: any.
    pub architecture: Option<Architecture>,
    /// Features that it needs; of several lists, all of one.
    pub needs: &'static [&'static [&'static str]],
    #[cfg(feature = "llvm")]
    pub instructions: &'static dyn Instructions,
}

macro_rules! rows {
    ($($isa:ident $architecture:expr, $instructions:path, $needs:expr;)*) => {
        &[$(Row {
            isa: Isa::$isa,
            architecture: $architecture,
            needs: &$needs,
            #[cfg(feature = "llvm")]
            instructions: &$instructions,
        },)*]
    };
}

const X86: Option<Architecture> = Some(Architecture::X86_64);
const ARM: Option<Architecture> = Some(Architecture::Aarch64);

/// All of them, from the fastest to what runs anywhere.
pub(crate) static ISAS: &[Row] = rows! {
    Avx512Vnni X86, isa::avx512_vnni::AVX512_VNNI,
        [&["avx512vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c", "fma"]];
    // AVX-512 VL has the same instruction under another encoding.
    AvxVnni X86, isa::avx_vnni::AVX_VNNI, [
        &["avxvnni", "avx2", "f16c", "fma"],
        &["avx512vnni", "avx512vl", "avx2", "f16c", "fma"],
    ];
    Avx512 X86, isa::avx512::AVX512, [&["avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c", "fma"]];
    Avx2 X86, isa::avx2::AVX2, [&["avx2", "f16c", "fma"]];
    NeonI8mm ARM, isa::neon_i8mm::NEON_I8MM, [&["i8mm", "neon"]];
    NeonDot ARM, isa::neon_dot::NEON_DOT, [&["dotprod", "neon"]];
    Neon ARM, isa::neon::Neon, [&["neon"]];
    Scalar None, isa::scalar::Scalar, [&[]];
};

/// The instructions of `isa`; each has a row.
#[cfg(feature = "llvm")]
pub(crate) fn instructions(isa: Isa) -> &'static dyn Instructions {
    let row = ISAS.iter().find(|it| it.isa == isa);
    row.map_or(&isa::scalar::Scalar, |it| it.instructions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_row_and_known_features() {
        for isa in Isa::ALL {
            assert_eq!(ISAS.iter().filter(|it| it.isa == *isa).count(), 1, "{isa}");
        }
        for row in ISAS {
            for name in row.needs.iter().copied().flatten() {
                let feature = crate::features::find(name).expect(name);
                assert_eq!(Some(feature.architecture), row.architecture, "{name}");
                assert!(feature.here.is_some(), "{name}");
            }
        }
    }
}
