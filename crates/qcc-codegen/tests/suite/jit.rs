//! The source of kernels: errors, threads, the folder of compiled kernels.

use crate::case::{Case, Shape};
use crate::oracle::expected;
use qcc_codegen::{CodegenError, Jit, KernelCache, Output, Target, emit};
use qcc_kernels::{Isa, KernelSource, KernelSpec};
use std::fs;
use std::path::Path;

fn spec(name: &str, isa: Isa) -> KernelSpec {
    format!("{name}_{isa}").parse().expect("a spec")
}

fn works(jit: &Jit, spec: KernelSpec) {
    let shape = Shape { spec, steps: 2, blocks: 1, panels: 1, columns: 9, extreme: false, seed: 3 };
    let case = Case::new(&shape);
    let kernel = KernelSource::kernel(jit, &spec).expect("a kernel");
    let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(case.run(kernel)), bits(expected(&case)));
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Any number of threads get the same pointer, of a kernel that is compiled once.
#[test]
fn threads_share_kernels() {
    let jit = Jit::new().expect("LLVM");
    let specs: Vec<KernelSpec> =
        (1..=4).map(|rows| spec(&format!("qcc_mm_b4_g64_m{rows}_t1_f32_a8"), jit.isa())).collect();
    let addresses: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let kernel = |spec| jit.kernel(spec).expect("a kernel") as usize;
                    specs.iter().map(kernel).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(addresses.windows(2).all(|pair| pair[0] == pair[1]));
    specs.iter().for_each(|spec| works(&jit, *spec));
}

/// A second start reads what the first one compiled, and damage is compiled again.
#[test]
fn kernels_are_kept_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let cached = || Jit::new().expect("LLVM").with_cache(KernelCache::new(folder.path()));
    let jit = cached();
    let spec = spec("qcc_mm_b3_g32_m2_t2_f16_asym_a15", jit.isa());
    works(&jit, spec);
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    let whole = fs::read(file).expect("the file");

    // What is loaded is what is kept: with other code under the same name there is another result.
    let other = format!("qcc_mm_b3_g32_m2_t2_f16_a15_{}", jit.isa()).parse().expect("a spec");
    works(&cached(), spec);
    assert_eq!(fs::read(file).expect("the file"), whole);

    for damaged in [&[][..], b"qcc kernel 1\nno", &whole[..whole.len() / 2]] {
        fs::write(file, damaged).expect("written");
        works(&cached(), spec);
        assert_eq!(fs::read(file).expect("the file"), whole, "compiled again and kept");
    }
    works(&cached(), other);
    assert_eq!(files(folder.path()).len(), 2);
}

/// A folder that cannot be used costs nothing but time.
#[test]
fn a_useless_folder_does_no_harm() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let jit = Jit::new().expect("LLVM").with_cache(KernelCache::new(file.path().join("below")));
    works(&jit, spec("qcc_mm_b8_gn_m1_t1_bf16_a8", jit.isa()));
}

#[test]
fn instruction_sets_of_other_machines_are_refused() {
    let jit = Jit::new().expect("LLVM");
    let foreign = if cfg!(target_arch = "x86_64") { Isa::NeonDot } else { Isa::Avx2 };
    let error = jit.kernel(&spec("qcc_mm_b4_g32_m1_t2_f16_a8", foreign)).expect_err("foreign");
    assert!(matches!(error, CodegenError::WrongArchitecture { .. }), "{error}");
    assert!(Jit::new().expect("LLVM").with_isa(foreign).is_err());
    let spec = spec("qcc_mm_b4_g32_m1_t2_f16_a8", Isa::Avx512Vnni);
    let old = Target::parse("x86-64-v3").expect("a target");
    assert_eq!(
        emit(&[spec], &old, Output::Asm).expect_err("no AVX-512").to_string(),
        "avx512vnni kernels need the CPU features avx512vnni, avx512f, avx512bw, avx512dq, \
         avx512vl, which x86-64-v3 lacks"
    );
}

/// Sizes that no layout has.
#[test]
fn impossible_specs_are_refused() {
    let jit = Jit::new().expect("LLVM");
    let good = spec("qcc_mm_b4_g32_m1_t2_f16_a8", jit.isa());
    let group = qcc_kernels::KernelGroup::Blocks(0);
    for spec in [
        KernelSpec { rows: 0, ..good },
        KernelSpec { rows: 7, ..good },
        KernelSpec { tiles: 0, ..good },
        KernelSpec { tiles: 3, ..good },
        KernelSpec { group, ..good },
    ] {
        let error = jit.kernel(&spec).expect_err("impossible");
        assert!(matches!(error, CodegenError::Unsupported { .. }), "{error}");
    }
}

/// The same input gives the same bytes.
#[test]
fn objects_are_the_same_each_time() {
    let target = Target::parse("x86-64-v4+avx512vnni").expect("a target");
    let specs: Vec<KernelSpec> = (1..=3)
        .map(|rows| spec(&format!("qcc_mm_b2_g16_m{rows}_t2_f32_asym_a22_gelu"), Isa::Avx2))
        .collect();
    for output in [Output::LlvmIr, Output::Asm, Output::Object] {
        let one = emit(&specs, &target, output).expect("emitted");
        assert_eq!(one, emit(&specs, &target, output).expect("emitted"));
        assert!(!one.is_empty());
    }
}
