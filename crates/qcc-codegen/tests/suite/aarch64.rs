//! Kernels for AArch64, linked with a C program and run by an emulator.

use crate::case::{Case, Shape, shapes};
use crate::oracle::expected;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use qcc_codegen::{Output, Target, emit};
use qcc_kernels::{Isa, KernelSpec};
use std::fs;
use std::path::Path;
use std::process::Command;

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Of each instruction set.
const CASES: usize = 16;

#[test]
fn kernels_run_under_an_emulator() {
    for program in [COMPILER, EMULATOR] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("SKIP AArch64: no {program} (tools/setup --cross installs it)");
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut runner = TestRunner::deterministic();
    let isas = [Isa::Neon, Isa::NeonDot, Isa::NeonI8mm, Isa::Scalar];
    let shapes = isas.iter().flat_map(|isa| {
        let shapes = shapes(*isa);
        (0..CASES)
            .map(|_| shapes.new_tree(&mut runner).expect("a shape").current())
            .collect::<Vec<_>>()
    });
    run(&shapes.collect::<Vec<Shape>>(), folder.path());
}

fn run(shapes: &[Shape], folder: &Path) {
    let mut specs: Vec<KernelSpec> = shapes.iter().map(|shape| shape.spec).collect();
    specs.sort();
    specs.dedup();
    let target = Target::parse("aarch64+dotprod+i8mm").expect("a target");
    let object = emit(&specs, &target, Output::Object).expect("an object file");
    let cases: Vec<Case> = shapes.iter().map(Case::new).collect();
    let mut operands = Vec::new();
    for case in &cases {
        let which = specs.iter().position(|spec| *spec == case.spec).expect("emitted");
        case.write(which, &mut operands);
    }

    let [object_file, table, driver, operands_file, results] =
        ["kernels.o", "table.c", "driver", "operands", "results"].map(|name| folder.join(name));
    fs::write(&object_file, object).expect("written");
    fs::write(&table, table_of(&specs)).expect("written");
    fs::write(&operands_file, operands).expect("written");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/driver.c");
    let mut link = Command::new(COMPILER);
    link.args(["-static", "-O1", "-o"]).arg(&driver).args([&source, &table, &object_file]);
    succeed(link.arg("-lm"));
    let mut emulate = Command::new(EMULATOR);
    succeed(emulate.args(["-cpu", "max"]).args([&driver, &operands_file, &results]));

    let bytes = fs::read(&results).expect("results");
    let mut results = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    for (case, shape) in cases.iter().zip(shapes) {
        for want in expected(case) {
            assert_eq!(results.next(), Some(want.to_bits()), "{}: {shape:?}", case.spec);
        }
    }
    assert_eq!(results.next(), None);
}

/// C source of the table of kernels.
fn table_of(specs: &[KernelSpec]) -> String {
    let declarations: String =
        specs.iter().map(|spec| format!("void {spec}(const void *);\n")).collect();
    let names: String = specs.iter().map(|spec| format!("  {spec},\n")).collect();
    format!("{declarations}void (*const kernels[])(const void *) = {{\n{names}}};\n")
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}
