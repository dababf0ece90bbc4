//! From specs to text or object files: IR, verified, optimised, verified again, emitted.

use crate::code::{Code, Emitted};
use crate::nest::Nest;
use crate::output::Output;
use crate::{CodegenError, Target};
use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target as Backend, TargetMachine,
    TargetTriple,
};
use inkwell::values::FunctionValue;
use qcc_kernels::KernelSpec;
use std::sync::Once;

/// What the emitter leaves to LLVM: common subexpressions, invariants out of loops. Loops are as
/// long as they were written.
const PASSES: &str = "function(mem2reg,instcombine<no-verify-fixpoint>,early-cse,loop-mssa(licm),\
                      early-cse,adce)";

/// Emits `specs` as one module for `target`. Each kernel is a function of the name that its spec
/// prints.
///
/// # Errors
/// An instruction set that the target lacks; a spec that there is no kernel for.
pub fn emit(
    specs: &[KernelSpec],
    target: &Target,
    output: Output,
) -> Result<Vec<u8>, CodegenError> {
    Unit::new(target)?.draft(specs)?.emit(output)
}

/// The version of LLVM that kernels come from; none where it cannot be loaded.
#[must_use]
pub fn llvm_version() -> Option<String> {
    crate::llvm::load().ok()?;
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    Some(format!("{major}.{minor}.{patch}"))
}

/// What a module needs around it.
pub(crate) struct Unit<'t> {
    target: &'t Target,
    machine: TargetMachine,
    context: Context,
}

impl<'t> Unit<'t> {
    pub(crate) fn new(target: &'t Target) -> Emitted<Self> {
        Ok(Unit { target, machine: machine(target)?, context: Context::create() })
    }

    /// The IR of `specs`, verified, before the passes.
    pub(crate) fn draft(&self, specs: &[KernelSpec]) -> Emitted<Draft<'_>> {
        self.build(|code| {
            specs.iter().try_for_each(|spec| {
                self.target.check(spec.isa)?;
                kernel(code, spec, self.target, &spec.to_string()).map(|_| ())
            })
        })
    }

    /// What `fill` puts into a module, verified, before the passes.
    pub(crate) fn build<'u>(
        &'u self,
        fill: impl FnOnce(&Code<'u>) -> Emitted<()>,
    ) -> Emitted<Draft<'u>> {
        let code = Code::new(&self.context, "qcc");
        code.module.set_triple(&self.machine.get_triple());
        code.module.set_data_layout(&self.machine.get_target_data().get_data_layout());
        fill(&code)?;
        code.module.verify()?;
        Ok(Draft { module: code.module, machine: &self.machine })
    }
}

/// A module before the passes.
pub(crate) struct Draft<'u> {
    module: Module<'u>,
    machine: &'u TargetMachine,
}

impl Draft<'_> {
    pub(crate) fn object(self) -> Emitted<Vec<u8>> {
        self.emit(Output::Object)
    }

    /// Runs the passes and emits.
    pub(crate) fn emit(self, output: Output) -> Emitted<Vec<u8>> {
        let options = PassBuilderOptions::create();
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_loop_unrolling(false);
        self.module.run_passes(PASSES, self.machine, options)?;
        self.module.verify()?;
        let file_type = match output {
            Output::LlvmIr => return Ok(self.module.print_to_string().to_bytes().to_vec()),
            Output::Asm => FileType::Assembly,
            Output::Object => FileType::Object,
        };
        let buffer = self.machine.write_to_memory_buffer(&self.module, file_type)?;
        let bytes = buffer.as_slice();
        // LLVM ends text with a zero byte.
        let text = bytes.strip_suffix(&[0]).filter(|_| output == Output::Asm);
        Ok(text.unwrap_or(bytes).to_vec())
    }
}

/// What a function is compiled for.
pub(crate) struct Attributes {
    cpu: String,
    features: String,
    tune: Option<&'static str>,
    wide: bool,
}

impl Attributes {
    /// All that the target has.
    pub(crate) fn of(target: &Target) -> Self {
        let (cpu, features) = (target.cpu().to_owned(), target.features());
        Self { cpu, features, tune: target.tune(), wide: true }
    }

    /// A CPU and features as LLVM calls them.
    pub(crate) fn plain(cpu: &str, features: &str) -> Self {
        Self { cpu: cpu.into(), features: features.into(), tune: None, wide: false }
    }

    pub(crate) fn set<'c>(&self, code: &Code<'c>, function: FunctionValue<'c>) {
        let context = code.context;
        let set = |key: &str, value: &str| {
            let attribute = context.create_string_attribute(key, value);
            function.add_attribute(AttributeLoc::Function, attribute);
        };
        set("target-cpu", &self.cpu);
        set("target-features", &self.features);
        if let Some(tune) = self.tune {
            set("tune-cpu", tune);
        }
        if self.wide {
            set("prefer-vector-width", "512");
            set("min-legal-vector-width", "512");
        }
        let kind = Attribute::get_named_enum_kind_id("nounwind");
        function.add_attribute(AttributeLoc::Function, context.create_enum_attribute(kind, 0));
    }
}

/// Adds the function of one spec under a name.
pub(crate) fn kernel<'c>(
    code: &Code<'c>,
    spec: &KernelSpec,
    target: &Target,
    name: &str,
) -> Emitted<FunctionValue<'c>> {
    let context = code.context;
    let ty = context.void_type().fn_type(&[code.pointer_type().into()], false);
    let function = code.module.add_function(name, ty, None);
    Attributes::of(target).set(code, function);
    let word = |place, name: &str| {
        let kind = Attribute::get_named_enum_kind_id(name);
        function.add_attribute(place, context.create_enum_attribute(kind, 0));
    };
    for name in ["noalias", "nonnull", "readonly"] {
        word(AttributeLoc::Param(0), name);
    }
    let entry = context.append_basic_block(function, "entry");
    code.builder.position_at_end(entry);
    Nest::new(code, function, spec)?.emit()?;
    Ok(function)
}

/// Loads LLVM and makes its back ends known to it.
pub(crate) fn backends() -> Emitted<()> {
    static BACKENDS: Once = Once::new();
    crate::llvm::load()?;
    BACKENDS.call_once(|| {
        let config = InitializationConfig::default();
        Backend::initialize_x86(&config);
        Backend::initialize_aarch64(&config);
    });
    Ok(())
}

/// A machine of LLVM for the target.
pub(crate) fn machine(target: &Target) -> Emitted<TargetMachine> {
    backends()?;
    let triple = TargetTriple::create(target.architecture().triple());
    let backend = Backend::from_triple(&triple)?;
    let machine = backend.create_target_machine(
        &triple,
        target.cpu(),
        &target.features(),
        OptimizationLevel::Aggressive,
        RelocMode::PIC,
        CodeModel::Default,
    );
    machine.ok_or_else(|| CodegenError::Internal(format!("no machine for {target}")))
}
