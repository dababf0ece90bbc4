//! Libraries: a C program that runs the products of one, against products in plain Rust.

use crate::absent::missing;
use crate::program::{STRICT, Setting, products, with_ends};
use qcc_codegen::{
    CodegenError, Library, LibraryProduct, Output, Storage, Target, Targets, emit_library,
};
use std::fs;
use std::path::Path;
use std::process::Command;

const CROSS: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
#[cfg(target_arch = "x86_64")]
const EMULATOR_X86: &str = "qemu-x86_64-static";

/// More than there are.
const ALL: usize = 100;

/// What text is made of.
fn two() -> Vec<LibraryProduct> {
    products().into_iter().take(2).collect()
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn programs_in_c_give_the_defined_bits() {
    if !has("cc") {
        missing("libraries for C", "no cc");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (target, storage, count) in [
        ("native", Storage::Inline, ALL),
        ("native", Storage::File, 2),
        #[cfg(target_arch = "x86_64")]
        ("x86-64-v3", Storage::File, 3),
        #[cfg(target_arch = "x86_64")]
        ("x86-64", Storage::Inline, 3),
    ] {
        let setting = Setting {
            target,
            storage,
            compiler: "cc",
            link: &["-lm"],
            run: &[],
            count,
            ends: false,
        };
        let status = setting.check(folder.path());
        assert!(status == Some(0) || target == "x86-64-v3", "{target}");
    }
}

/// What the model does with results, done by kernels; outliers of a weight behind them.
#[test]
fn ends_and_outliers_give_the_defined_bits() {
    if !has("cc") {
        missing("libraries for C", "no cc");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let target = if cfg!(target_arch = "x86_64") { "native,x86-64-v3" } else { "native" };
    let (storage, link) = (Storage::File, &["-lm"]);
    let setting =
        Setting { target, storage, compiler: "cc", link, run: &[], count: ALL, ends: true };
    assert_eq!(setting.check(folder.path()), Some(0));
}

/// Of several versions the best runs, and each of them gives the same bits.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_best_version_for_this_cpu_runs() {
    if !has("cc") {
        missing("libraries for C", "no cc");
        return;
    }
    let here = Target::native().expect("this CPU").named();
    let has = |name: &str| here.isas().contains(&Target::parse(name).expect("a target").best());
    let folder = tempfile::tempdir().expect("a folder");
    for (target, storage, count) in [
        ("x86-64,x86-64-v3,x86-64-v4,x86-64-v4+avx512vnni,x86-64-v2", Storage::File, 2),
        ("x86-64-v3,x86-64", Storage::Inline, 1),
    ] {
        let targets = Targets::parse(target).expect("targets");
        let runs: Vec<&str> = targets.all().iter().map(Target::name).filter(|it| has(it)).collect();
        let setting = Setting {
            target,
            storage,
            compiler: "cc",
            link: &["-lm"],
            run: &[],
            count,
            ends: false,
        };
        let want = format!("{} {}", runs[0], runs.join(" "));
        assert_eq!(setting.build(folder.path()).run(&[]), (Some(0), want));
    }
}

/// Threads that find the best version, and select others, at the same time.
#[test]
fn versions_change_while_products_run() {
    if !has("cc") {
        missing("libraries for C", "no cc");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let targets = if cfg!(target_arch = "x86_64") {
        "x86-64,x86-64-v3,x86-64-v4,x86-64-v4+avx512vnni"
    } else {
        "aarch64,aarch64+dotprod"
    };
    let targets = Targets::parse(targets).expect("targets");
    let library = Library::new("model", &targets, Storage::Inline, two());
    fs::write(at("model.h"), library.header("")).expect("written");
    fs::write(at("model.o"), emit_library(&library, Output::Object).expect("an object"))
        .expect("written");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/c/threads.c");
    let mut link = Command::new("cc");
    link.args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-pthread"]).args(STRICT);
    link.arg("-I").arg(folder.path()).arg("-o").arg(at("program")).arg(source).arg(at("model.o"));
    let output = link.arg("-lm").output().expect("a compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(at("program")).output().expect("started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {text}", output.status);
}

/// CPUs of an emulator, which has no AVX-512.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_best_version_for_other_cpus_runs() {
    for program in ["cc", EMULATOR_X86] {
        if !has(program) {
            missing("libraries on other CPUs", &format!("no {program}"));
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let build = |target| {
        let (storage, link) = (Storage::Inline, &["-static", "-lm"]);
        let setting =
            Setting { target, storage, compiler: "cc", link, run: &[], count: 2, ends: false };
        setting.build(folder.path())
    };
    build("x86-64-v2,x86-64-v4,x86-64-v3").run_on(
        EMULATOR_X86,
        &[
            ("Haswell", "x86-64-v3 x86-64-v3 x86-64-v2"),
            // A system that does not keep the wide registers.
            ("Haswell,-xsave", "x86-64-v2 x86-64-v2"),
            // AVX, but no AVX2.
            ("SandyBridge", "x86-64-v2 x86-64-v2"),
            ("Nehalem", "x86-64-v2 x86-64-v2"),
            ("qemu64", "ssse3 is missing"),
        ],
    );
    build("x86-64-v4,x86-64-v3").run_on(EMULATOR_X86, &[("Nehalem", "movbe is missing")]);
}

/// A library for other CPUs says so and runs nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_missing_feature_is_a_code() {
    let features = [
        ("x86-64-v3+avxvnni", std::is_x86_feature_detected!("avxvnni")),
        ("x86-64-v4+avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
    ];
    let Some((target, _)) = features.into_iter().find(|(_, has)| !has) else {
        crate::absent::apart("a library that lacks a feature", "this CPU has every feature");
        return;
    };
    if !has("cc") {
        missing("libraries for C", "no cc");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let setting = Setting {
        target,
        storage: Storage::File,
        compiler: "cc",
        link: &["-lm"],
        run: &[],
        count: 1,
        ends: false,
    };
    assert_eq!(setting.check(folder.path()), Some(3));
}

#[test]
fn programs_for_aarch64_run_under_an_emulator() {
    for program in [CROSS, EMULATOR] {
        if !has(program) {
            let why = format!("no {program} (tools/setup --cross installs it)");
            missing("libraries on AArch64", &why);
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (target, storage, cpu, status, count) in [
        ("aarch64", Storage::Inline, "cortex-a53", 0, 3),
        ("aarch64+dotprod", Storage::File, "max", 0, ALL),
        ("aarch64+dotprod+i8mm", Storage::Inline, "max", 0, 3),
        // A CPU without either.
        ("aarch64+dotprod", Storage::Inline, "cortex-a53", 3, 1),
        ("aarch64+i8mm", Storage::Inline, "neoverse-n1", 3, 1),
    ] {
        let run = [EMULATOR, "-cpu", cpu];
        let link = &["-static"];
        let setting =
            Setting { target, storage, compiler: CROSS, link, run: &run, count, ends: false };
        assert_eq!(setting.check(folder.path()), Some(status), "{target} on {cpu}");
    }
    // Several in one object.
    let build = |target| {
        let (storage, link) = (Storage::File, &["-static"]);
        let setting =
            Setting { target, storage, compiler: CROSS, link, run: &[], count: 2, ends: false };
        setting.build(folder.path())
    };
    build("aarch64,aarch64+i8mm,aarch64+dotprod").run_on(
        EMULATOR,
        &[
            ("max", "aarch64+i8mm aarch64+i8mm aarch64+dotprod aarch64"),
            ("neoverse-n1", "aarch64+dotprod aarch64+dotprod aarch64"),
            ("cortex-a53", "aarch64 aarch64"),
        ],
    );
    let setting = Setting {
        target: "aarch64+dotprod",
        storage: Storage::Inline,
        compiler: CROSS,
        link: &["-static"],
        run: &[],
        count: 5,
        ends: true,
    };
    let want = "aarch64+dotprod aarch64+dotprod";
    setting.build(folder.path()).run_on(EMULATOR, &[("max", want)]);
    let missing = [("cortex-a53", "dotprod is missing")];
    build("aarch64+dotprod,aarch64+i8mm").run_on(EMULATOR, &missing);
}

/// Nothing of elsewhere is needed, but for rounding products and sums at once on old CPUs.
#[test]
fn text_names_what_is_needed() {
    let text = |target: &str, storage, output| {
        let targets = Targets::parse(target).expect("targets");
        let library = Library::new("model", &targets, storage, two());
        String::from_utf8(emit_library(&library, output).expect("text")).expect("UTF-8")
    };
    let needs = |target: &str, storage| {
        let ir = text(target, storage, Output::LlvmIr);
        let declared = ir.lines().filter_map(|it| it.strip_prefix("declare "));
        let names = declared.filter_map(|it| it.split(['@', '(']).nth(1).map(str::to_owned));
        let outside = names.filter(|it| !it.starts_with("llvm.")).collect::<Vec<_>>();
        (outside, ir.contains("@model_weights_0 = external hidden constant"))
    };
    assert_eq!(needs("x86-64-v4", Storage::File), (vec![], false));
    assert_eq!(needs("x86-64-v4", Storage::Inline), (vec![], true));
    assert_eq!(needs("aarch64+dotprod", Storage::File), (vec!["getauxval".into()], false));
    assert_eq!(needs("aarch64", Storage::File), (vec![], false));
    assert_eq!(needs("x86-64-v3,x86-64-v4", Storage::Inline), (vec![], true));
    let needed = needs("aarch64,aarch64+i8mm", Storage::File);
    assert_eq!(needed, (vec!["getauxval".into()], false));
    let asm = text("x86-64-v4", Storage::File, Output::Asm);
    for call in ["memset", "memcpy", "fmaf", "bcmp"] {
        assert!(!asm.contains(call), "{call}");
    }
    // Only entries are seen from outside, and none of them has a register of the target.
    let visible = asm.lines().filter_map(|it| it.trim().strip_prefix(".globl\t"));
    assert!(visible.clone().all(|it| it.starts_with("model_")));
    assert_eq!(visible.count(), 3 * two().len() + 7);
}

/// Symbols are what the header says, also where functions inside are called alike.
#[test]
fn names_of_products_are_not_those_of_functions_inside() {
    for (prefix, name) in [("entry", "run"), ("choice", "pick"), ("quantize", "a8")] {
        let mut products = two();
        products[0].name = name.into();
        let targets = Targets::parse("x86-64-v3").expect("targets");
        let library = Library::new(prefix, &targets, Storage::File, products);
        let ir = emit_library(&library, Output::LlvmIr).expect("text");
        let ir = String::from_utf8(ir).expect("UTF-8");
        assert!(ir.contains(&format!("define i32 @{prefix}_{name}(")), "{prefix}");
    }
}

/// Ends and outliers need nothing of elsewhere either.
#[test]
fn text_with_ends_names_nothing_else() {
    let targets = Targets::parse("x86-64-v4,x86-64-v3").expect("targets");
    let library = Library::new("model", &targets, Storage::File, with_ends());
    let text = |output| String::from_utf8(emit_library(&library, output).expect("text"));
    let (ir, asm) = (text(Output::LlvmIr).expect("UTF-8"), text(Output::Asm).expect("UTF-8"));
    let outside = ir.lines().filter_map(|it| it.strip_prefix("declare "));
    assert!(outside.clone().all(|it| it.contains("@llvm.")), "{}", outside.collect::<String>());
    assert!(ir.contains("@model_outliers_0_starts = external hidden constant"));
    assert!(ir.contains("define internal void @multiply.outliers_gelu_x86_64_v3("));
    for call in ["memset", "memcpy", "fmaf", "bcmp"] {
        assert!(!asm.contains(call), "{call}");
    }
}

#[test]
fn entries_are_for_every_cpu() {
    for targets in ["x86-64-v4+avx512vnni", "x86-64-v4+avx512vnni,x86-64-v3"] {
        entries_of(targets);
    }
}

fn entries_of(targets: &str) {
    let targets = Targets::parse(targets).expect("targets");
    let library = Library::new("model", &targets, Storage::File, two());
    let asm = emit_library(&library, Output::Asm).expect("text");
    let asm = String::from_utf8(asm).expect("UTF-8");
    let mut inside = None;
    let mut seen = 0;
    for line in asm.lines() {
        if let Some(label) = line.strip_suffix(':').filter(|it| !it.starts_with('.')) {
            inside = Some(label).filter(|it| {
                ["model_", "entry.", "choice."].iter().any(|first| it.starts_with(first))
            });
            seen += usize::from(inside.is_some());
        }
        if let Some(name) = inside {
            let vector = ["%ymm", "%zmm", "\tv", "{vex}", "%k1"];
            assert!(!vector.iter().any(|it| line.contains(it)), "{name}: {line}");
        }
    }
    assert!(seen >= 3 * two().len() + 10, "{seen}");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let make = || {
        let targets = Targets::parse("aarch64+dotprod,aarch64").expect("targets");
        let library = Library::new("model", &targets, Storage::Inline, two());
        emit_library(&library, Output::Object)
    };
    assert!(make().expect("an object") == make().expect("an object"));
    let error = CodegenError::TooLarge { bytes: 2 << 30 }.to_string();
    assert!(error.starts_with("2147483648 bytes of weights"), "{error}");
}
