//! What kernels are emitted for: an architecture, a CPU and its features.
//!
//! A name is a base and extensions: `x86-64-v4+avx512vnni`, `aarch64+dotprod`. Names are checked
//! against lists, since LLVM ends the process over some that it does not know.

use crate::error::CodegenError;
use crate::features::{Feature, extensions};
use crate::isas::ISAS;
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

    /// That of the CPU at hand.
    fn native() -> Result<Self, CodegenError> {
        if cfg!(target_arch = "x86_64") {
            Ok(Architecture::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Architecture::Aarch64)
        } else {
            Err(CodegenError::UnknownTarget { name: "native".into(), known: known() })
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
    /// What the CPU has of [`FEATURES`](crate::features::FEATURES).
    features: BTreeSet<String>,
}

/// Name, architecture, CPU of LLVM, features that count here.
type Base = (&'static str, Architecture, &'static str, &'static [&'static str]);

const BASES: &[Base] = &[
    ("x86-64", Architecture::X86_64, "x86-64", &[]),
    ("x86-64-v2", Architecture::X86_64, "x86-64-v2", &[]),
    ("x86-64-v3", Architecture::X86_64, "x86-64-v3", V3),
    ("x86-64-v4", Architecture::X86_64, "x86-64-v4", V4),
    ("aarch64", Architecture::Aarch64, "generic", &["neon"]),
];

const V3: &[&str] = &["avx2", "f16c", "fma"];
const V4: &[&str] =
    &["avx2", "f16c", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// All that the levels of x86-64 have, older features first.
const LEVELS: &[(&str, &[&str])] = &[("x86-64-v2", L2), ("x86-64-v3", &L3), ("x86-64-v4", &L4)];
const L2: &[&str] = &["sse3", "ssse3", "cx16", "sse4.1", "sse4.2", "popcnt", "sahf"];
const L3: [&str; 15] = [
    "sse3", "ssse3", "cx16", "sse4.1", "sse4.2", "popcnt", "sahf", "movbe", "avx", "f16c", "fma",
    "bmi", "avx2", "bmi2", "lzcnt",
];
const L4: [&str; 20] = [
    "sse3", "ssse3", "cx16", "sse4.1", "sse4.2", "popcnt", "sahf", "movbe", "avx", "f16c", "fma",
    "bmi", "avx2", "bmi2", "lzcnt", "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl",
];

/// Whether an extension that needs base `oldest` can follow `base`; both of one architecture.
fn stands(oldest: &str, base: &str) -> bool {
    let place = |name: &str| BASES.iter().position(|it| it.0 == name);
    place(oldest) <= place(base)
}

impl Target {
    /// The target of a name: `native`, or a base with extensions behind `+`.
    ///
    /// # Errors
    /// [`CodegenError::UnknownTarget`]; [`CodegenError::OldBase`]; [`CodegenError::NoLlvm`] for
    /// `native` without LLVM.
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
        let mut said = base.to_owned(); // each extension once
        for part in parts {
            let fits = |it: &&Feature| it.name == part && it.architecture == *architecture;
            let (_, oldest) = extensions().find(|it| fits(&it.0)).ok_or_else(unknown)?;
            if !stands(oldest, base) {
                let (extension, needs) = (part.into(), oldest.into());
                return Err(CodegenError::OldBase { name: name.into(), extension, needs });
            }
            if features.insert(part.to_owned()) {
                said = format!("{said}+{part}");
            }
        }
        Ok(Target { name: said, architecture: *architecture, cpu: (*cpu).into(), features })
    }

    /// The CPU at hand.
    ///
    /// # Errors
    /// [`CodegenError::NoLlvm`] or [`CodegenError::Load`] without LLVM;
    /// [`CodegenError::UnknownTarget`] if qcc has no kernels for this architecture.
    pub fn native() -> Result<Self, CodegenError> {
        let architecture = Architecture::native()?;
        let (cpu, features) = crate::host::cpu_and_features()?;
        Ok(Target { name: "native".into(), architecture, cpu, features })
    }

    /// The CPU at hand as far as it is known without LLVM: enough to choose an instruction set.
    #[cfg(feature = "llvm")]
    pub(crate) fn here() -> Result<Self, CodegenError> {
        let (architecture, features) = (Architecture::native()?, crate::host::features());
        Ok(Target { name: "native".into(), architecture, cpu: "this CPU".into(), features })
    }

    /// The best target with a name of its own that runs wherever this one does: what `native`
    /// stands for in files that leave the machine.
    #[must_use]
    pub fn named(&self) -> Self {
        if self.name != "native" {
            return self.clone();
        }
        let has = |name: &str| self.features.contains(name);
        let fits = |row: &&Base| {
            let level = LEVELS.iter().find(|(cpu, _)| *cpu == row.2);
            row.1 == self.architecture && level.map_or(row.3, |it| it.1).iter().all(|it| has(it))
        };
        let Some((base, architecture, cpu, implied)) = BASES.iter().rev().find(fits) else {
            return self.clone();
        };
        let more = extensions().filter(|(it, _)| it.architecture == *architecture && has(it.name));
        let more = more.filter(|(_, oldest)| stands(oldest, base));
        let more: Vec<&str> = more.map(|(it, _)| it.name).collect();
        Target {
            name: [&[*base], &more[..]].concat().join("+"),
            architecture: *architecture,
            cpu: (*cpu).into(),
            features: implied.iter().chain(&more).map(ToString::to_string).collect(),
        }
    }

    /// All names that a target is made of.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let bases = BASES.iter().map(|(name, ..)| *name);
        std::iter::once("native").chain(bases).chain(extensions().map(|(it, _)| it.name))
    }

    /// What a CPU must have to run it, beyond what every CPU of the architecture has; each as LLVM
    /// calls it.
    #[must_use]
    pub fn needs(&self) -> Vec<&str> {
        let base = LEVELS.iter().find(|(cpu, _)| *cpu == self.cpu);
        let base = base.map_or(&[][..], |(_, features)| *features);
        let more = self.features.iter().map(String::as_str);
        let more = more.filter(|it| !base.contains(it) && *it != "neon");
        base.iter().copied().chain(more).collect()
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
        ISAS.iter().map(|it| it.isa).filter(|isa| self.check(*isa).is_ok()).collect()
    }

    /// The fastest instruction set that runs on it.
    #[must_use]
    pub fn best(&self) -> Isa {
        self.isas().first().copied().unwrap_or(Isa::Scalar)
    }

    /// The place of its fastest instruction set, from the best of all on.
    pub(crate) fn rank(&self) -> usize {
        let best = self.best();
        ISAS.iter().position(|it| it.isa == best).unwrap_or(ISAS.len())
    }

    /// Whether code for it is code for `other`, whatever their names are.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.cpu, &self.features) == (&other.cpu, &other.features)
    }

    /// Whether `isa` runs on it.
    ///
    /// # Errors
    /// [`CodegenError::WrongArchitecture`] or [`CodegenError::MissingFeatures`].
    pub fn check(&self, isa: Isa) -> Result<(), CodegenError> {
        let Some(row) = ISAS.iter().find(|it| it.isa == isa) else { return Ok(()) };
        if row.architecture.is_some_and(|it| it != self.architecture) {
            return Err(CodegenError::WrongArchitecture {
                isa: isa.to_string(),
                architecture: self.architecture.triple().into(),
            });
        }
        let lacks = |name: &&&str| !self.features.contains(**name);
        let lacking = |needs: &[&'static str]| needs.iter().filter(lacks).copied().collect();
        let missing: Vec<Vec<&str>> = row.needs.iter().map(|it| lacking(it)).collect();
        if missing.iter().any(Vec::is_empty) {
            return Ok(());
        }
        Err(CodegenError::MissingFeatures {
            isa: isa.to_string(),
            cpu: self.cpu.clone(),
            missing: missing.first().map_or_else(String::new, |it| it.join(", ")),
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
    let extensions = extensions().map(|(it, _)| format!("+{}", it.name));
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
        let twice = Target::parse("aarch64+dotprod+i8mm+dotprod").expect("a known name");
        assert_eq!(twice.name(), "aarch64+dotprod+i8mm");
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
    fn extensions_need_a_base() {
        for (name, needs) in [
            ("x86-64-v2+avx512vnni", "avx512vnni needs x86-64-v4 or newer"),
            ("x86-64-v3+avxvnni+avx512vnni", "avx512vnni needs x86-64-v4 or newer"),
            ("x86-64+avxvnni", "avxvnni needs x86-64-v3 or newer"),
        ] {
            let error = Target::parse(name).expect_err(name).to_string();
            assert_eq!(error, format!("target '{name}': {needs}"));
        }
        assert!(Target::parse("x86-64-v4+avxvnni+avx512vnni").is_ok());
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
    fn native_has_a_name_that_runs_wherever_it_does() {
        let made = |architecture, features: &[&str]| Target {
            name: "native".into(),
            architecture,
            cpu: "some".into(),
            features: features.iter().map(ToString::to_string).collect(),
        };
        let x86 = |features: &[&str]| made(Architecture::X86_64, features).named();
        assert_eq!(x86(&[]).name(), "x86-64");
        let all: Vec<&str> = L4.iter().copied().chain(["avx512vnni", "gfni"]).collect();
        let it = x86(&all);
        assert_eq!((it.name(), it.cpu()), ("x86-64-v4+avx512vnni", "x86-64-v4"));
        assert_eq!(Target::parse(it.name()), Ok(it));
        let without: Vec<&str> = all.into_iter().filter(|it| *it != "popcnt").collect();
        assert_eq!(x86(&without).name(), "x86-64");
        let arm = made(Architecture::Aarch64, &["neon", "dotprod", "sve"]).named();
        assert_eq!((arm.name(), arm.needs()), ("aarch64+dotprod", vec!["dotprod"]));
    }

    #[test]
    fn needs_are_the_level_and_the_extensions() {
        let needs = |name| Target::parse(name).map(|it| it.needs().join(" "));
        assert_eq!(needs("x86-64"), Ok(String::new()));
        assert_eq!(needs("x86-64-v2"), Ok(L2.join(" ")));
        let v3 = format!("{} avxvnni", L3.join(" "));
        assert_eq!(needs("x86-64-v3+avxvnni"), Ok(v3));
        assert_eq!(needs("aarch64+i8mm"), Ok("i8mm".into()));
        for (cpu, features) in LEVELS {
            let (_, _, _, implied) = BASES.iter().find(|it| it.2 == *cpu).expect("a base");
            assert!(implied.iter().all(|it| features.contains(it)), "{cpu}");
        }
    }
}
