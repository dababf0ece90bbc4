//! Features of CPUs, as LLVM calls them, each a row: what targets imply and name, what instruction
//! sets need, and where a CPU tells of it.

use crate::Architecture;
use Registers::{Any, Avx, Avx512};

/// A feature of CPUs.
pub(crate) struct Feature {
    /// LLVM's name.
    pub name: &'static str,
    pub architecture: Architecture,
    /// Where a library for C looks for it: on x86-64 one of the words of
    /// [`driver::cpu`](crate::driver), on AArch64 a key of the auxiliary vector; and the bit.
    pub place: (u32, u32),
    /// What the system has to keep of a thread besides.
    pub registers: Registers,
    /// The oldest base of a target that it can follow by name: what LLVM takes to come with it,
    /// and what its kernels need, must be there as well. None: bases imply it.
    pub extends: Option<&'static str>,
    /// Whether the CPU at hand has it. None where only targets imply it, and no instruction set
    /// asks.
    pub here: Option<fn() -> bool>,
}

/// Registers that the system keeps of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    /// Those that it always keeps.
    Any,
    /// Those of AVX.
    Avx,
    /// Those of AVX-512.
    Avx512,
}

macro_rules! features {
    ($($architecture:ident $name:tt $place:tt $registers:ident
        $(extends $base:literal)? $(seen by $seen:ident)?;)*) => {
        &[$(Feature {
            name: $name,
            architecture: Architecture::$architecture,
            place: $place,
            registers: $registers,
            extends: features!(@base $($base)?),
            here: features!(@here $name $($seen)?),
        },)*]
    };
    (@base) => { None };
    (@base $base:literal) => { Some($base) };
    (@here $name:tt) => { None };
    (@here $name:tt x86_64) => {
        Some(|| {
            #[cfg(target_arch = "x86_64")]
            return std::arch::is_x86_feature_detected!($name);
            #[cfg(not(target_arch = "x86_64"))]
            return false;
        })
    };
    (@here $name:tt aarch64) => {
        Some(|| {
            #[cfg(target_arch = "aarch64")]
            return std::arch::is_aarch64_feature_detected!($name);
            #[cfg(not(target_arch = "aarch64"))]
            return false;
        })
    };
}

/// All of them.
pub(crate) const FEATURES: &[Feature] = features! {
    X86_64 "sse3" (0, 0) Any;
    X86_64 "ssse3" (0, 9) Any;
    X86_64 "fma" (0, 12) Avx seen by x86_64;
    X86_64 "cx16" (0, 13) Any;
    X86_64 "sse4.1" (0, 19) Any;
    X86_64 "sse4.2" (0, 20) Any;
    X86_64 "movbe" (0, 22) Any;
    X86_64 "popcnt" (0, 23) Any;
    X86_64 "avx" (0, 28) Avx;
    X86_64 "f16c" (0, 29) Avx seen by x86_64;
    X86_64 "bmi" (1, 3) Any;
    X86_64 "avx2" (1, 5) Avx seen by x86_64;
    X86_64 "bmi2" (1, 8) Any;
    X86_64 "avx512f" (1, 16) Avx512 seen by x86_64;
    X86_64 "avx512dq" (1, 17) Avx512 seen by x86_64;
    X86_64 "avx512cd" (1, 28) Avx512 seen by x86_64;
    X86_64 "avx512bw" (1, 30) Avx512 seen by x86_64;
    X86_64 "avx512vl" (1, 31) Avx512 seen by x86_64;
    X86_64 "avx512vnni" (2, 11) Avx512 extends "x86-64-v4" seen by x86_64;
    X86_64 "avxvnni" (3, 4) Avx extends "x86-64-v3" seen by x86_64;
    X86_64 "sahf" (4, 0) Any;
    X86_64 "lzcnt" (4, 5) Any;
    Aarch64 "neon" (16, 1) Any seen by aarch64;
    Aarch64 "dotprod" (16, 20) Any extends "aarch64" seen by aarch64;
    Aarch64 "i8mm" (26, 13) Any extends "aarch64" seen by aarch64;
};

/// The row of a feature.
pub(crate) fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|it| it.name == name)
}

/// Those that a target can name, and the oldest base of each.
pub(crate) fn extensions() -> impl Iterator<Item = (&'static Feature, &'static str)> {
    FEATURES.iter().filter_map(|it| Some((it, it.extends?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_row() {
        for (at, it) in FEATURES.iter().enumerate() {
            let same = |other: &Feature| {
                other.name == it.name
                    || (other.architecture, other.place) == (it.architecture, it.place)
            };
            assert_eq!(FEATURES.iter().position(same), Some(at), "{}", it.name);
        }
    }
}
