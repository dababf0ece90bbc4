//! Libraries: a C program that runs the products of one, against products in plain Rust.

use crate::product::{inputs, matrix};
use qcc_codegen::{
    CodegenError, Library, LibraryProduct, Output, ProductEnd, Storage, Target, Targets,
    emit_library,
};
use qcc_kernels::{Activations, Epilogue, Matrix, Operands, Overlay, Planes, Pool, Product, Scalar};
use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const CROSS: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
#[cfg(target_arch = "x86_64")]
const EMULATOR_X86: &str = "qemu-x86_64-static";
const STRICT: [&str; 6] = ["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow"];

/// Products of every width, group, kind of scale and number of planes, with and without what is
/// optional; shapes where nothing is a multiple of anything.
fn products() -> Vec<LibraryProduct> {
    let mut products = Vec::new();
    let rows = [
        (PanelBits::B4, 32, 100, 40, PanelScale::F16, false, Planes::A8, false),
        (PanelBits::B4, 32, 100, 80, PanelScale::F16, false, Planes::A8, true),
        (PanelBits::B2, 16, 50, 33, PanelScale::F32, true, Planes::A15, false),
        (PanelBits::B3, 64, 200, 300, PanelScale::Bf16, false, Planes::A22, true),
        (PanelBits::B8, usize::MAX, 90, 5, PanelScale::F32, false, Planes::A8, false),
        (PanelBits::B4, 96, 1000, 64, PanelScale::F16, true, Planes::A8, true),
        (PanelBits::B4, 256, 3, 1, PanelScale::F32, false, Planes::A15, false),
    ];
    for (i, (bits, group, k, n, scale, zeros, planes, bias)) in rows.into_iter().enumerate() {
        let layout = PanelLayout::new(bits, group, k, n, scale, zeros).expect("a layout");
        let bias = bias.then(|| (0..n).map(|i| i as f32 / 8.0 - 1.0).collect());
        let name = format!("/layers.{}/\"q\" *\\/ü", i / 2);
        let matrix = matrix(layout, i + 3);
        products.push(LibraryProduct { name, matrix, planes, bias, overlay: None, end: None });
    }
    products
}

/// One weight in `every`, and columns without one.
fn overlay(n: usize, k: usize, every: usize) -> Arc<Overlay> {
    let is_there = |it: &usize| (it * 2_654_435_761 >> 9).is_multiple_of(every) && it / k % 7 != 3;
    let places: Vec<usize> = (0..n * k).filter(is_there).collect();
    let starts = (0..=n).map(|c| places.partition_point(|&it| it < c * k)).collect();
    let inputs = places.iter().map(|it| (it % k) as u16).collect();
    let values = places.iter().map(|it| (it % 101) as f32 / 16.0 - 3.0).collect();
    Arc::new(Overlay::new(k, starts, inputs, values).expect("an overlay"))
}

/// Products with every end, with and without outliers.
fn with_ends() -> Vec<LibraryProduct> {
    let mut products = Vec::new();
    for (i, epilogue) in Epilogue::ALL.iter().enumerate() {
        for has_outliers in [false, true] {
            let n = [70, 300][usize::from(has_outliers)];
            let layout = PanelLayout::new(PanelBits::B4, 32, 100, n, PanelScale::F16, i == 2);
            let bias: Vec<f32> = (0..n).map(|i| i as f32 / 8.0 - 1.0).collect();
            let is_bias = *epilogue == Epilogue::Bias;
            let end = ProductEnd {
                epilogue: *epilogue,
                bias: is_bias.then(|| bias.clone()),
                factor: (*epilogue == Epilogue::SiluMul).then_some(0),
            };
            products.push(LibraryProduct {
                name: epilogue.to_string(),
                matrix: matrix(layout.expect("a layout"), i + 40),
                planes: if i == 1 { Planes::A8 } else { Planes::A15 },
                // One with a bias of its own and no end.
                bias: (*epilogue == Epilogue::None).then_some(bias),
                overlay: has_outliers.then(|| overlay(n, 100, 5 + i)),
                end: (*epilogue != Epilogue::None).then_some(end),
            });
        }
    }
    products
}

/// `extra`: with the end of the product.
fn expected(product: &LibraryProduct, x: &[f32], extra: Option<&[f32]>) -> Vec<u32> {
    let (mut epilogue, mut bias) = (Epilogue::None, product.bias.as_deref());
    if bias.is_some() {
        epilogue = Epilogue::Bias;
    }
    if let (Some(end), Some(_)) = (&product.end, extra) {
        (epilogue, bias) = (end.epilogue, end.bias.as_deref());
    }
    let matrix: &Arc<Matrix> = &product.matrix;
    let (k, n) = (matrix.layout().k(), matrix.layout().n());
    let it = Product::new(Arc::clone(matrix), Arc::new(Scalar), product.planes, epilogue);
    let it = it.with_overlay(product.overlay.clone());
    let mut y = vec![0.0; x.len() / k * n];
    let operands = Operands { bias, extra };
    it.run(&Pool::new(1), &mut Activations::new(), x, operands, &mut y).expect("a product");
    y.into_iter().map(f32::to_bits).collect()
}

/// Activations: ordinary ones, and groups of zeros, tiny, infinite and undefined numbers.
fn activations(rows: usize, k: usize) -> Vec<f32> {
    let mut x = inputs(rows, k);
    for (i, row) in x.chunks_mut(k).enumerate() {
        match i % 5 {
            1 => row[k / 2] = f32::INFINITY,
            2 => row[k - 1] = f32::NAN,
            3 => row.fill(if i == 3 { 0.0 } else { 1e-31 }),
            _ => {}
        }
    }
    x
}

/// How a library is built and run.
struct Setting<'a> {
    /// Targets with commas between them.
    target: &'a str,
    storage: Storage,
    compiler: &'a str,
    link: &'a [&'a str],
    /// What runs programs: an emulator and its arguments.
    run: &'a [&'a str],
    /// How many products: those that are not run need not be many.
    count: usize,
    /// Those with ends instead.
    ends: bool,
}

impl Setting<'_> {
    /// Builds the program in `folder`, runs it, and gives its status.
    fn check(&self, folder: &Path) -> Option<i32> {
        self.build(folder).run(self.run).0
    }

    /// Builds the program in `folder`.
    fn build<'f>(&self, folder: &'f Path) -> Built<'f> {
        let mut products = if self.ends { with_ends() } else { products() };
        products.truncate(self.count);
        let targets = Targets::parse(self.target).expect("targets");
        let library = Library::new("model", &targets, self.storage, products.clone());
        let at = |name: &str| folder.join(name);
        fs::write(at("model.h"), library.header("model.qpk")).expect("written");
        let object = emit_library(&library, Output::Object).expect("an object");
        fs::write(at("model.o"), object).expect("written");
        let mut weights = "-".into();
        if self.storage == Storage::File {
            weights = at("model.qpk").into_os_string();
            library.write_weights(&mut fs::File::create(&weights).expect("made")).expect("written");
        }
        let (mut cases, mut want) = (Vec::new(), Vec::new());
        for (i, product) in products.iter().enumerate() {
            for (rows, parts, how) in
                [(1_u32, 1_u32, 0_u32), (7, 1, 0), (2, 3, 1), (20, 2, 1), (23, 40, 0)]
            {
                let layout = product.matrix.layout();
                let x = activations(rows as usize, layout.k());
                let extra: Vec<f32> =
                    (0..rows as usize * layout.n()).map(|i| (i % 13) as f32 / 4.0 - 1.0).collect();
                let hows = [how, how + 2, how + 2 + 4];
                let count = if product.end.is_some() { 3 } else { 1 };
                for how in &hows[..count] {
                    let head = [i as u32, rows, parts, *how];
                    cases.extend(head.iter().flat_map(|it| it.to_le_bytes()));
                    cases.extend(x.iter().flat_map(|it| it.to_le_bytes()));
                    let extra = (how & 2 != 0).then_some(&extra[..]);
                    cases.extend(extra.unwrap_or(&[]).iter().flat_map(|it| it.to_le_bytes()));
                    want.push((i, rows, expected(product, &x, extra)));
                }
            }
        }
        fs::write(at("cases"), cases).expect("written");

        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/c/products.c");
        let mut link = Command::new(self.compiler);
        link.arg("-std=c99").args(STRICT).arg("-I").arg(folder).arg("-o").arg(at("program"));
        let output =
            link.arg(source).arg(at("model.o")).args(self.link).output().expect("a compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Built { folder, target: self.target.to_owned(), products, weights, want }
    }
}

/// A program with a library in it.
struct Built<'f> {
    folder: &'f Path,
    target: String,
    products: Vec<LibraryProduct>,
    weights: OsString,
    /// Product, rows and results of each case.
    want: Vec<(usize, u32, Vec<u32>)>,
}

impl Built<'_> {
    /// Runs the program, in an emulator if one is given, and compares. Gives the status, and what
    /// it says: of versions the one that was picked, then all that ran; or the feature that is
    /// missing.
    fn run(&self, emulator: &[&str]) -> (Option<i32>, String) {
        let at = |name: &str| self.folder.join(name);
        let mut run = match emulator {
            [] => Command::new(at("program")),
            [emulator, more @ ..] => {
                let mut run = Command::new(emulator);
                run.args(more).arg(at("program"));
                run
            }
        };
        run.arg(&self.weights).args([at("cases"), at("results")]);
        let output = run.output().expect("started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(3) {
            println!("{}: {text}", self.target);
            return (Some(3), text.trim().lines().last().unwrap_or_default().to_owned());
        }
        assert!(output.status.success(), "{}: {} {text}", self.target, output.status);
        let bytes = fs::read(at("results")).expect("results");
        let mut results = bytes.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it));
        for (product, rows, want) in &self.want {
            let n = self.products[*product].matrix.layout().n();
            for (i, want) in want.iter().enumerate() {
                let got = results.next().expect("a result");
                let same =
                    got == *want || f32::from_bits(got).is_nan() && f32::from_bits(*want).is_nan();
                assert!(
                    same,
                    "{} product {product} of {rows} rows: row {}, column {}: {} for {}",
                    self.target,
                    i / n,
                    i % n,
                    f32::from_bits(got),
                    f32::from_bits(*want)
                );
            }
        }
        assert_eq!(results.next(), None);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs the program on CPUs of an emulator; of each what the program says is told.
    fn run_on(&self, emulator: &str, cpus: &[(&str, &str)]) {
        for (cpu, want) in cpus {
            let status = if want.ends_with("missing") { 3 } else { 0 };
            let said = self.run(&[emulator, "-cpu", cpu]);
            assert_eq!(said, (Some(status), (*want).to_owned()), "{} on {cpu}", self.target);
        }
    }
}

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
        println!("SKIP: no cc");
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
        let setting = Setting { target, storage, compiler: "cc", link: &["-lm"], run: &[], count, ends: false };
        let status = setting.check(folder.path());
        assert!(status == Some(0) || target == "x86-64-v3", "{target}");
    }
}

/// What the model does with results, done by kernels; outliers of a weight behind them.
#[test]
fn ends_and_outliers_give_the_defined_bits() {
    if !has("cc") {
        println!("SKIP: no cc");
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
        println!("SKIP: no cc");
        return;
    }
    let here = Target::native().expect("this CPU").named();
    let has = |name: &str| here.isas().contains(&Target::parse(name).expect("a target").best());
    let folder = tempfile::tempdir().expect("a folder");
    for (target, storage, count) in [
        ("x86-64,x86-64-v3,x86-64-v4,x86-64-v4+avx512vnni,x86-64-v2", Storage::File, 4),
        ("x86-64-v3,x86-64", Storage::Inline, 3),
    ] {
        let targets = Targets::parse(target).expect("targets");
        let runs: Vec<&str> = targets.all().iter().map(Target::name).filter(|it| has(it)).collect();
        let setting = Setting { target, storage, compiler: "cc", link: &["-lm"], run: &[], count, ends: false };
        let want = format!("{} {}", runs[0], runs.join(" "));
        assert_eq!(setting.build(folder.path()).run(&[]), (Some(0), want));
    }
}

/// Threads that find the best version, and select others, at the same time.
#[test]
fn versions_change_while_products_run() {
    if !has("cc") {
        println!("SKIP: no cc");
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
            println!("SKIP: no {program}");
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let build = |target| {
        let (storage, link) = (Storage::Inline, &["-static", "-lm"]);
        let setting = Setting { target, storage, compiler: "cc", link, run: &[], count: 2, ends: false };
        setting.build(folder.path())
    };
    build("x86-64-v2,x86-64-v4,x86-64-v3").run_on(
        EMULATOR_X86,
        &[
            ("Haswell", "x86-64-v3 x86-64-v3 x86-64-v2"),
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
    let missing = [
        ("x86-64-v3+avxvnni", std::is_x86_feature_detected!("avxvnni")),
        ("x86-64-v4+avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
    ];
    let Some((target, _)) = missing.into_iter().find(|(_, has)| !has) else {
        println!("SKIP: this CPU has every feature");
        return;
    };
    if !has("cc") {
        println!("SKIP: no cc");
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
            println!("SKIP AArch64: no {program} (tools/setup --cross installs it)");
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
        let setting = Setting { target, storage, compiler: CROSS, link, run: &run, count, ends: false };
        assert_eq!(setting.check(folder.path()), Some(status), "{target} on {cpu}");
    }
    // Several in one object.
    let build = |target| {
        let (storage, link) = (Storage::File, &["-static"]);
        let setting = Setting { target, storage, compiler: CROSS, link, run: &[], count: 3, ends: false };
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
        count: ALL,
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

/// Ends and outliers need nothing of elsewhere either.
#[test]
fn text_with_ends_names_nothing_else() {
    let targets = Targets::parse("x86-64-v4,x86-64-v3").expect("targets");
    let library = Library::new("model", &targets, Storage::File, with_ends());
    let text = |output| String::from_utf8(emit_library(&library, output).expect("text"));
    let (ir, asm) = (text(Output::LlvmIr).expect("UTF-8"), text(Output::Asm).expect("UTF-8"));
    let outside = ir.lines().filter_map(|it| it.strip_prefix("declare "));
    assert!(outside.clone().all(|it| it.contains("@llvm.")), "{}", outside.collect::<String>());
    assert!(ir.contains("@model_outliers_1_starts = external hidden constant"));
    assert!(ir.contains("define internal void @multiply_outliers_gelu_x86_64_v3("));
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
                ["model_", "entry_", "choice_"].iter().any(|first| it.starts_with(first))
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
