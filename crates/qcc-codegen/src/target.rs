//! What kernels are emitted for: an architecture, a CPU and its features.
//!
//! A name is a base and extensions: `x86-64-v4+avx512vnni`, `aarch64+dotprod`. Names are checked
//! against lists, since LLVM ends the process over some that it does not know.

use crate::error::CodegenError;
use qcc_kernels::Isa;
use std::collections::BTreeSet;
use std::fmt;

/// Instruction set architecture of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// 64-bit x86 under Linux.
    X86_64,
    /// 64-bit Arm under Linux.
    Aarch64,
}

impl Architecture {
    /// The triple of LLVM.
    #[must_use]
    pub fn triple(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64-unknown-linux-gnu",
            Architecture::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// What kernels are emitted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    name: String,
    architecture: Architecture,
    /// LLVM's name of the CPU.
    cpu: String,
    /// What the CPU has, of [`EXTENSIONS`] and of what the base implies.
    features: BTreeSet<String>,
}

/// Name, architecture, CPU of LLVM, features that count here.
const BASES: &[(&str, Architecture, &str, &[&str])] = &[
    ("x86-64", Architecture::X86_64, "x86-64", &[]),
    ("x86-64-v2", Architecture::X86_64, "x86-64-v2", &[]),
    ("x86-64-v3", Architecture::X86_64, "x86-64-v3", V3),
    ("x86-64-v4", Architecture::X86_64, "x86-64-v4", V4),
    ("aarch64", Architecture::Aarch64, "generic", &["neon"]),
];

const V3: &[&str] = &["avx2", "f16c", "fma"];
const V4: &[&str] =
    &["avx2", "f16c", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// Extensions that can follow a base.
const EXTENSIONS: &[(&str, Architecture)] = &[
    ("avx512vnni", Architecture::X86_64),
    ("avxvnni", Architecture::X86_64),
    ("dotprod", Architecture::Aarch64),
    ("i8mm", Architecture::Aarch64),
];

/// From the best to what runs anywhere: architecture, if it is of one, and needed features.
const ISAS: &[(Isa, Option<Architecture>, &[&str])] = &[
    (
        Isa::Avx512Vnni,
        Some(Architecture::X86_64),
        &["avx512vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c", "fma"],
    ),
    (Isa::AvxVnni, Some(Architecture::X86_64), &["avxvnni", "avx2", "f16c", "fma"]),
    // AVX-512 VL has the same instruction under another encoding.
    (Isa::AvxVnni, Some(Architecture::X86_64), &["avx512vnni", "avx512vl", "avx2", "f16c", "fma"]),
    (
        Isa::Avx512,
        Some(Architecture::X86_64),
        &["avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c", "fma"],
    ),
    (Isa::Avx2, Some(Architecture::X86_64), &["avx2", "f16c", "fma"]),
    (Isa::NeonI8mm, Some(Architecture::Aarch64), &["i8mm", "neon"]),
    (Isa::NeonDot, Some(Architecture::Aarch64), &["dotprod", "neon"]),
    (Isa::Neon, Some(Architecture::Aarch64), &["neon"]),
    (Isa::Scalar, None, &[]),
];

impl Target {
    /// The target of a name: `native`, or a base with extensions behind `+`.
    ///
    /// # Errors
    /// [`CodegenError::UnknownTarget`]; [`CodegenError::NoLlvm`] for `native` without LLVM.
    pub fn parse(name: &str) -> Result<Self, CodegenError> {
        if name == "native" {
            return Self::native();
        }
        let unknown = || CodegenError::UnknownTarget { name: name.into(), known: known() };
        let mut parts = name.split('+');
        let base = parts.next().unwrap_or_default();
        let (_, architecture, cpu, implied) =
            BASES.iter().find(|(known, ..)| *known == base).ok_or_else(unknown)?;
        let mut features: BTreeSet<String> = implied.iter().map(ToString::to_string).collect();
        for part in parts {
            let fits = |(known, of): &&(&str, Architecture)| *known == part && of == architecture;
            let (feature, _) = EXTENSIONS.iter().find(fits).ok_or_else(unknown)?;
            features.insert((*feature).to_string());
        }
        Ok(Target { name: name.into(), architecture: *architecture, cpu: (*cpu).into(), features })
    }

    /// The CPU at hand.
    ///
    /// # Errors
    /// [`CodegenError::NoLlvm`] without LLVM; [`CodegenError::UnknownTarget`] if qcc has no
    /// kernels for this architecture.
    pub fn native() -> Result<Self, CodegenError> {
        let architecture = if cfg!(target_arch = "x86_64") {
            Architecture::X86_64
        } else if cfg!(target_arch = "aarch64") {
            Architecture::Aarch64
        } else {
            return Err(CodegenError::UnknownTarget { name: "native".into(), known: known() });
        };
        let (cpu, features) = crate::host::cpu_and_features()?;
        Ok(Target { name: "native".into(), architecture, cpu, features })
    }

    /// The name that it was made from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// LLVM's name of the CPU.
    #[must_use]
    pub fn cpu(&self) -> &str {
        &self.cpu
    }

    /// The CPU whose timing instructions are ordered by, if it is not [`Self::cpu`].
    ///
    /// What LLVM takes for the timing of `x86-64-v4` makes it hold more values at a time than
    /// there are registers.
    #[must_use]
    pub fn tune(&self) -> Option<&'static str> {
        (self.cpu == "x86-64-v4").then_some("znver4")
    }

    /// Features as LLVM takes them, sorted: `+avx2,+fma`.
    #[must_use]
    pub fn features(&self) -> String {
        let all: Vec<String> = self.features.iter().map(|name| format!("+{name}")).collect();
        all.join(",")
    }

    /// Instruction sets that run on it, the fastest first.
    #[must_use]
    pub fn isas(&self) -> Vec<Isa> {
        let mut isas: Vec<Isa> = ISAS.iter().map(|(isa, ..)| *isa).collect();
        isas.retain(|isa| self.check(*isa).is_ok());
        isas.dedup();
        isas
    }

    /// The fastest instruction set that runs on it.
    #[must_use]
    pub fn best(&self) -> Isa {
        self.isas().first().copied().unwrap_or(Isa::Scalar)
    }

    /// Whether `isa` runs on it.
    ///
    /// # Errors
    /// [`CodegenError::WrongArchitecture`] or [`CodegenError::MissingFeatures`].
    pub fn check(&self, isa: Isa) -> Result<(), CodegenError> {
        let mut missing: Option<Vec<&str>> = None;
        for (_, architecture, needs) in ISAS.iter().filter(|(known, ..)| *known == isa) {
            if architecture.is_some_and(|a| a != self.architecture) {
                return Err(CodegenError::WrongArchitecture {
                    isa: isa.to_string(),
                    architecture: self.architecture.triple().into(),
                });
            }
            let lacks = |name: &&&str| !self.features.contains(**name);
            let lacking: Vec<&str> = needs.iter().filter(lacks).copied().collect();
            if lacking.is_empty() {
                return Ok(());
            }
            missing.get_or_insert(lacking);
        }
        Err(CodegenError::MissingFeatures {
            isa: isa.to_string(),
            cpu: self.cpu.clone(),
            missing: missing.unwrap_or_default().join(", "),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn known() -> String {
    let bases = BASES.iter().map(|(name, ..)| (*name).to_string());
    let extensions = EXTENSIONS.iter().map(|(name, _)| format!("+{name}"));
    let native = std::iter::once("native".to_string());
    native.chain(bases).chain(extensions).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_base_and_extensions() {
        let best = |name| Target::parse(name).map(|target| target.best());
        assert_eq!(best("x86-64"), Ok(Isa::Scalar));
        assert_eq!(best("x86-64-v3"), Ok(Isa::Avx2));
        assert_eq!(best("x86-64-v3+avxvnni"), Ok(Isa::AvxVnni));
        assert_eq!(best("x86-64-v4"), Ok(Isa::Avx512));
        assert_eq!(best("x86-64-v4+avx512vnni"), Ok(Isa::Avx512Vnni));
        assert_eq!(best("aarch64"), Ok(Isa::Neon));
        assert_eq!(best("aarch64+dotprod"), Ok(Isa::NeonDot));
        assert_eq!(best("aarch64+dotprod+i8mm"), Ok(Isa::NeonI8mm));
    }

    #[test]
    fn unknown_names_say_what_is_known() {
        for name in ["", "x86", "x86-64-v3+i8mm", "x86-64-v3+", "aarch64+sve", "x86-64-v3 "] {
            let error = Target::parse(name).expect_err(name).to_string();
            assert!(error.starts_with(&format!("unknown target '{name}'; known: native, ")));
            assert!(error.contains("x86-64-v4") && error.contains("+dotprod"), "{error}");
        }
    }

    #[test]
    fn a_missing_feature_is_named() {
        let target = Target::parse("x86-64-v4").expect("a known name");
        assert_eq!(
            target.check(Isa::Avx512Vnni).expect_err("no VNNI").to_string(),
            "avx512vnni kernels need the CPU features avx512vnni, which x86-64-v4 lacks"
        );
        assert!(matches!(target.check(Isa::NeonDot), Err(CodegenError::WrongArchitecture { .. })));
    }

    #[test]
    fn every_isa_has_a_row() {
        let mut rows: Vec<Isa> = ISAS.iter().map(|(isa, ..)| *isa).collect();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), Isa::ALL.len());
    }
}
