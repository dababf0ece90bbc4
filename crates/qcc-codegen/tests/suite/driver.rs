//! Kernels linked with a C program, and what that gives for operands of a file.

use crate::absent::missing;
use crate::case::{Case, Shape, shapes};
use crate::oracle::expected;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use qcc_codegen::{Output, Target, emit};
use qcc_kernels::{Isa, KernelSpec};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Cases of an instruction set.
const CASES: usize = 16;

/// How kernels become a program, and what runs it.
pub(crate) struct Driver {
    pub target: &'static str,
    pub compiler: &'static str,
    /// Behind the files that are linked.
    pub link: &'static [&'static str],
    /// What comes before the program: an emulator with its options, or nothing.
    pub run: &'static [&'static str],
    /// What is done to the assembly; without it kernels are an object file of LLVM.
    pub edit: Option<fn(&str) -> String>,
}

impl Driver {
    /// Runs random kernels of some instruction sets, if the programs are there: bit for bit the
    /// definition.
    pub(crate) fn check(&self, isas: &[Isa]) {
        for program in [Some(&self.compiler), self.run.first()].into_iter().flatten() {
            if Command::new(program).arg("--version").output().is_err() {
                missing(self.target, &format!("no {program} (tools/setup --cross installs it)"));
                return;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut runner = TestRunner::deterministic();
        let shapes = isas.iter().flat_map(|isa| {
            let shapes = shapes(*isa);
            (0..CASES)
                .map(|_| shapes.new_tree(&mut runner).expect("a shape").current())
                .collect::<Vec<_>>()
        });
        self.all(&shapes.collect::<Vec<Shape>>(), folder.path());
    }

    /// The file that kernels are in.
    fn kernels(&self, specs: &[KernelSpec], folder: &Path) -> std::path::PathBuf {
        let target = Target::parse(self.target).expect("a target");
        let output = if self.edit.is_some() { Output::Asm } else { Output::Object };
        let code = emit(specs, &target, output).expect("code");
        let (name, code) = match self.edit {
            Some(edit) => ("kernels.s", edit(&String::from_utf8(code).expect("text")).into_bytes()),
            None => ("kernels.o", code),
        };
        fs::write(folder.join(name), code).expect("written");
        folder.join(name)
    }

    fn all(&self, shapes: &[Shape], folder: &Path) {
        let mut specs: Vec<KernelSpec> = shapes.iter().map(|shape| shape.spec).collect();
        specs.sort();
        specs.dedup();
        let kernels = self.kernels(&specs, folder);
        let cases: Vec<Case> = shapes.iter().map(Case::new).collect();
        let mut operands = Vec::new();
        for case in &cases {
            let which = specs.iter().position(|spec| *spec == case.spec).expect("emitted");
            case.write(which, &mut operands);
        }

        let [table, driver, operands_file, results] =
            ["table.c", "driver", "operands", "results"].map(|name| folder.join(name));
        fs::write(&table, table_of(&specs)).expect("written");
        fs::write(&operands_file, operands).expect("written");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/driver.c");
        let mut link = Command::new(self.compiler);
        link.args(["-O1", "-o"]).arg(&driver).args([&source, &table, &kernels]);
        succeed(link.args(self.link).arg("-lm"));
        let driver = driver.to_string_lossy();
        let mut line = self.run.iter().copied().chain([&*driver]);
        let mut run = Command::new(line.next().expect("the driver"));
        succeed(run.args(line).args([&operands_file, &results]));

        let bytes = fs::read(&results).expect("results");
        let mut results = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        for (case, shape) in cases.iter().zip(shapes) {
            for want in expected(case) {
                assert_eq!(results.next(), Some(want.to_bits()), "{}: {shape:?}", case.spec);
            }
        }
        assert_eq!(results.next(), None);
    }
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
