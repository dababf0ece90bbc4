//! The CPU at hand, as LLVM sees it, and what of it is known without.

use crate::error::CodegenError;
#[cfg(feature = "llvm")]
use crate::features::FEATURES;
use std::collections::BTreeSet;

/// LLVM's name of the CPU, and what it has.
#[cfg(feature = "llvm")]
pub(crate) fn cpu_and_features() -> Result<(String, BTreeSet<String>), CodegenError> {
    use inkwell::targets::TargetMachine;
    crate::llvm::load()?;
    let cpu = TargetMachine::get_host_cpu_name();
    let features = TargetMachine::get_host_cpu_features();
    let has = |text: &str| text.strip_prefix('+').map(str::to_string);
    let features = features.to_string_lossy().split(',').filter_map(has).collect();
    Ok((cpu.to_string_lossy().into_owned(), features))
}

/// Without LLVM nothing is known of the CPU.
#[cfg(not(feature = "llvm"))]
pub(crate) fn cpu_and_features() -> Result<(String, BTreeSet<String>), CodegenError> {
    Err(CodegenError::NoLlvm)
}

/// Features that instruction sets need, as LLVM calls them, as far as the CPU has them.
#[cfg(feature = "llvm")]
pub(crate) fn features() -> BTreeSet<String> {
    let here = FEATURES.iter().filter(|it| it.here.is_some_and(|has| has()));
    here.map(|it| it.name.to_owned()).collect()
}

/// What tells this kind of CPU from others: a text that is the same in every process. None where
/// the system does not say.
#[cfg(feature = "llvm")]
pub(crate) fn signature() -> Option<String> {
    use std::io::{BufRead, BufReader};
    let file = std::fs::File::open("/proc/cpuinfo").ok()?;
    first(BufReader::new(file).lines().map_while(Result::ok))
}

/// That of the first CPU of a list, by its name and features; not how fast it is right now.
#[cfg(feature = "llvm")]
fn first(lines: impl Iterator<Item = String>) -> Option<String> {
    const KEYS: [&str; 9] = [
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
        "CPU variant",
    ];
    let mut kept = Vec::new();
    for line in lines.take_while(|it| !it.is_empty()) {
        let (key, value) = line.split_once(':')?;
        if KEYS.contains(&key.trim()) {
            kept.push(format!("{}={}", key.trim(), value.trim()));
        }
    }
    // Without what it can do it is not known.
    let known = kept.iter().any(|it| it.starts_with("flags=") || it.starts_with("Features="));
    (known && kept.len() > 2).then(|| kept.join("\n"))
}

#[cfg(all(test, feature = "llvm"))]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_that_llvm_finds() {
        let (_, all) = cpu_and_features().expect("LLVM");
        let here = features();
        assert!(here.is_subset(&all), "{here:?}");
        for row in ["avx2", "fma", "f16c", "avx512vnni", "avxvnni", "dotprod", "i8mm"] {
            assert_eq!(here.contains(row), all.contains(row), "{row}");
        }
    }

    #[test]
    fn a_cpu_is_told_by_its_first_block() {
        let text = "processor\t: 0\nvendor_id\t: A\ncpu family\t: 25\nmodel\t\t: 17\n\
                    cpu MHz\t\t: 3700.1\nflags\t\t: fpu avx2\npower management:\n\n\
                    processor\t: 1\nvendor_id\t: B\n";
        let of = |text: &str| first(text.lines().map(str::to_string));
        assert_eq!(of(text).unwrap(), "vendor_id=A\ncpu family=25\nmodel=17\nflags=fpu avx2");
        assert_eq!(of(&text.replace("3700.1", "800.0")), of(text));
        assert_ne!(of(&text.replace("avx2", "avx")), of(text));
        assert_eq!(of("vendor_id: A\nmodel: 1\nstepping: 2\n"), None);
        assert_eq!(of(""), None);
    }
}
