//! Several targets of one architecture: what a library has a version of its code for each of.

use crate::error::CodegenError;
use crate::{Architecture, Target};
use std::cmp::Reverse;
use std::fmt;

/// Targets of one architecture, the best first; at least one.
///
/// Better is the instruction set that kernels prefer, then what needs more of a CPU. The order
/// in which targets are named means nothing, and neither does naming one twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    all: Vec<Target>,
}

impl Targets {
    /// Those of a list of names with commas between them, each as [`Target::parse`] takes it.
    ///
    /// # Errors
    /// Those of [`Target::parse`]; [`CodegenError::Architectures`].
    pub fn parse(names: &str) -> Result<Self, CodegenError> {
        Self::new(&names.split(',').map(Target::parse).collect::<Result<Vec<_>, _>>()?)
    }

    /// In any order. A target `native` stands for the best one with a name of its own that this
    /// CPU has.
    ///
    /// # Errors
    /// [`CodegenError::Architectures`]; [`CodegenError::UnknownTarget`] if there is none.
    pub fn new(targets: &[Target]) -> Result<Self, CodegenError> {
        let mut all: Vec<Target> = targets.iter().map(Target::named).collect();
        let Some(first) = all.first().cloned() else {
            return Err(Target::parse("").err().unwrap_or(CodegenError::NoLlvm));
        };
        if let Some(other) = all.iter().find(|it| it.architecture() != first.architecture()) {
            let [first, other] = [first, other.clone()].map(|it| it.name().to_owned());
            return Err(CodegenError::Architectures { first, other });
        }
        all.sort_by_cached_key(|it| {
            let is = (it.cpu().to_owned(), it.features());
            (it.rank(), Reverse(it.needs().len()), is, it.name().to_owned())
        });
        all.dedup_by(|a, b| a.is_same(b));
        Ok(Self { all })
    }

    /// All of them, the best first.
    #[must_use]
    pub fn all(&self) -> &[Target] {
        &self.all
    }

    /// The one that asks least of a CPU.
    #[must_use]
    pub fn least(&self) -> &Target {
        // There is one at least.
        &self.all[self.all.len() - 1]
    }

    /// That of all of them.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.least().architecture()
    }
}

impl From<Target> for Targets {
    fn from(target: Target) -> Self {
        Self { all: vec![target.named()] }
    }
}

/// The names, with commas between them.
impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.all.iter().map(Target::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_first_in_any_order() {
        let names = |list: &str| Targets::parse(list).map(|it| it.to_string());
        for list in [
            "x86-64-v2,x86-64-v3,x86-64-v4,x86-64-v3+avxvnni,x86-64",
            "x86-64,x86-64-v3+avxvnni,x86-64-v4,x86-64-v2,x86-64-v3",
            "x86-64-v4,x86-64,x86-64-v4,x86-64-v3,x86-64-v3+avxvnni,x86-64-v2,x86-64",
        ] {
            let want = "x86-64-v3+avxvnni,x86-64-v4,x86-64-v3,x86-64-v2,x86-64";
            assert_eq!(names(list), Ok(want.into()));
        }
        let want = Ok("aarch64+dotprod+i8mm,aarch64+i8mm,aarch64+dotprod,aarch64".into());
        assert_eq!(names("aarch64,aarch64+i8mm,aarch64+dotprod+i8mm,aarch64+dotprod"), want);
        // The same in other words.
        assert_eq!(
            names("aarch64+i8mm+dotprod,aarch64+dotprod+i8mm"),
            Ok("aarch64+dotprod+i8mm".into())
        );
        let targets = Targets::parse("x86-64-v4,x86-64-v2").expect("targets");
        assert_eq!(targets.least().name(), "x86-64-v2");
        assert_eq!(targets.architecture(), Architecture::X86_64);
    }

    #[test]
    fn one_name_is_that_target() {
        let target = Target::parse("x86-64-v3").expect("a target");
        let targets = Targets::from(target.clone());
        assert_eq!(targets.all(), [target]);
        assert_eq!(Targets::parse("x86-64-v3"), Ok(targets));
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        for list in ["", ",", "x86-64-v3,", ",x86-64", "x86-64-v3, x86-64-v4", "x86-64;aarch64"] {
            let error = Targets::parse(list).expect_err(list);
            assert!(matches!(error, CodegenError::UnknownTarget { .. }), "{list}");
        }
        assert!(matches!(Targets::new(&[]), Err(CodegenError::UnknownTarget { .. })));
        let error = Targets::parse("x86-64-v3,x86-64-v4,aarch64").expect_err("two architectures");
        assert_eq!(
            error.to_string(),
            "'x86-64-v3' and 'aarch64' are targets of two architectures, and a file is for one"
        );
    }
}
