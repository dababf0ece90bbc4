//! The code of a [`Library`]: kernels, what calls them, tables.
//!
//! Written once over the kernels of [`crate::nest`]. What differs from product to product is in
//! a descriptor that the functions read.
//!
//! | function | compiled for |
//! |---|---|
//! | kernels, `quantize`, `multiply` | a target, once for each |
//! | what programs call: looks at its operands, then calls those | every CPU of the architecture |

mod choice;
mod constants;
mod cpu;
mod entry;
mod fields;
mod multiply;
mod outliers;
mod quantize;
mod scalars;
mod version;

use crate::code::{Code, Emitted};
use crate::emit::{Attributes, Unit};
use crate::library::{Entry, FIELD, Library, Storage, abi};
use crate::output::Output;
use crate::{Architecture, CodegenError, Target};
use choice::{Choice, Chooser};
use entry::Entries;
use fields::{Link, NUMBERS};
use inkwell::IntPredicate;
use inkwell::module::Linkage;
use inkwell::types::{BasicMetadataTypeEnum, BasicTypeEnum};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValueEnum, FunctionValue, GlobalValue, PointerValue,
};
use qcc_kernels::Overlay;
use qcc_quant::panel::PanelLayout;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use version::Version;

/// Where weights in an object lie.
const SECTION: &str = ".qcc_weights";

/// More bytes of weights in an object could not be reached by the code.
const MOST_INLINE: u64 = 1 << 30;

/// Emits the code of a library. Text has no weights: they are symbols of elsewhere in it.
///
/// # Errors
/// [`CodegenError::TooLarge`] for an object with more than 1 GiB of weights in it.
pub fn emit_library(library: &Library, output: Output) -> Result<Vec<u8>, CodegenError> {
    let bytes = library.object_bytes();
    if output == Output::Object && bytes > MOST_INLINE {
        return Err(CodegenError::TooLarge { bytes });
    }
    // Functions name their targets themselves.
    let unit = Unit::new(library.targets().least())?;
    unit.build(|code| Builder::new(code, library, output)?.build())?.emit(output)
}

/// A library in the making.
struct Builder<'a, 'c> {
    code: &'a Code<'c>,
    library: &'a Library,
    output: Output,
    texts: RefCell<BTreeMap<String, PointerValue<'c>>>,
    /// Weights in the object, by the place of their record.
    weights: RefCell<BTreeMap<u64, PointerValue<'c>>>,
    outliers: RefCell<Vec<(Arc<Overlay>, [PointerValue<'c>; 4])>>,
}

impl<'a, 'c> Builder<'a, 'c> {
    fn new(code: &'a Code<'c>, library: &'a Library, output: Output) -> Emitted<Self> {
        let (texts, weights, outliers) = Default::default();
        Ok(Self { code, library, output, texts, weights, outliers })
    }

    fn build(self) -> Emitted<()> {
        let targets = self.library.targets().all();
        let mut versions: Vec<Version<'a, 'c>> =
            (0..targets.len()).map(|place| Version::new(targets, place)).collect();
        for version in &mut versions {
            for entry in self.library.entries() {
                version.add(&self, entry)?;
            }
        }
        let chooser = self.chooser()?;
        let state = self.global(self.code.pointer_type().const_null().into(), "state", false);
        let choice = Some(chooser.choice).filter(|_| versions.len() > 1);
        let entries = self.entries(state, choice)?;
        let run = self.function("entry_run", &[P, P, N, P, P, N, N, P], Some(I), Base, false)?;
        entries.emit_run(run)?;
        let mut products = Vec::new();
        for (i, entry) in self.library.entries().iter().enumerate() {
            products.push(self.product(i, entry, &versions, &entries, run)?);
        }
        self.tables(&products, &entries, &chooser)
    }

    /// A function; `exported`, or known here only.
    fn function(
        &self,
        name: &str,
        parameters: &[Kind],
        result: Option<Kind>,
        level: Level<'_>,
        exported: bool,
    ) -> Emitted<FunctionValue<'c>> {
        let code = self.code;
        let parameters: Vec<BasicMetadataTypeEnum<'c>> =
            parameters.iter().map(|it| it.of(code).into()).collect();
        let ty = match result.map(|it| it.of(code)) {
            Some(BasicTypeEnum::IntType(int)) => int.fn_type(&parameters, false),
            Some(BasicTypeEnum::PointerType(pointer)) => pointer.fn_type(&parameters, false),
            _ => code.context.void_type().fn_type(&parameters, false),
        };
        let linkage = if exported { Linkage::External } else { Linkage::Internal };
        // No symbol of a product has a point in it, whatever the library and the node are called.
        let name = if exported { name.to_owned() } else { name.replacen('_', ".", 1) };
        let function = code.module.add_function(&name, ty, Some(linkage));
        let attributes = match (level, self.library.targets().architecture()) {
            (Level::Target(target), _) => Attributes::of(target),
            (Base, Architecture::X86_64) => Attributes::plain("x86-64", "+sse2"),
            (Base, Architecture::Aarch64) => Attributes::plain("generic", "+neon"),
        };
        attributes.set(code, function);
        let entry = code.context.append_basic_block(function, "entry");
        code.builder.position_at_end(entry);
        Ok(function)
    }

    /// A constant, or memory if `constant` is false, that is known here only.
    fn global(&self, value: BasicValueEnum<'c>, name: &str, constant: bool) -> GlobalValue<'c> {
        let global = self.code.module.add_global(value.get_type(), None, name);
        global.set_initializer(&value);
        global.set_constant(constant);
        global.set_linkage(Linkage::Internal);
        global.set_alignment(8);
        global
    }

    /// A text that ends with a zero.
    fn text(&self, text: &str) -> PointerValue<'c> {
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.get(text) {
            return *known;
        }
        let value = self.code.context.const_string(text.as_bytes(), true);
        let global = self.global(value.into(), "text", true);
        global.set_alignment(1);
        texts.insert(text.to_owned(), global.as_pointer_value());
        global.as_pointer_value()
    }

    /// The functions that choose between versions, with their bodies.
    fn chooser(&self) -> Emitted<Chooser<'a, 'c>> {
        let code = self.code;
        let none = code.context.i64_type().const_array(&[code.index(0), code.index(0)]);
        let memory = self.global(none.into(), "choice", false).as_pointer_value();
        let own = |name, parameters: &[Kind]| self.function(name, parameters, Some(N), Base, false);
        let chooser = Chooser {
            code,
            choice: Choice { memory },
            targets: self.library.targets().all(),
            runs: own("choice_runs", &[])?,
            pick: own("choice_pick", &[])?,
            is_same: own("choice_is_same", &[P, P, N])?,
        };
        for (function, emit) in [
            (chooser.runs, Chooser::emit_runs as fn(&Chooser<'a, 'c>) -> Emitted<()>),
            (chooser.pick, Chooser::emit_pick),
            (chooser.is_same, Chooser::emit_is_same),
        ] {
            self.enter(function)?;
            emit(&chooser)?;
        }
        Ok(chooser)
    }

    /// The next instructions are the first of a function.
    fn enter(&self, function: FunctionValue<'c>) -> Emitted<()> {
        let lost = || CodegenError::Internal("a function without a body".into());
        self.code.builder.position_at_end(function.get_first_basic_block().ok_or_else(lost)?);
        Ok(())
    }

    fn entries(
        &self,
        state: GlobalValue<'c>,
        choice: Option<Choice<'c>>,
    ) -> Emitted<Entries<'a, 'c>> {
        let code = self.code;
        let ty = |kinds: &[Kind]| {
            let kinds: Vec<BasicMetadataTypeEnum<'c>> =
                kinds.iter().map(|it| it.of(code).into()).collect();
            code.context.void_type().fn_type(&kinds, false)
        };
        let (quantizer, multiplier) = (ty(&[P, P, P, N, N]), ty(&MULTIPLIER));
        let kinds = [P, P, N, P, N, N];
        let quantize = self.function("entry_quantize", &kinds, Some(I), Base, false)?;
        let multiply = quantize;
        let mut entries =
            Entries { code, state, quantize, multiply, quantizer, multiplier, choice };
        entries.emit_quantize()?;
        let kinds = [P, P, N, P, N, N, P];
        entries.multiply = self.function("entry_multiply", &kinds, Some(I), Base, false)?;
        entries.emit_multiply()?;
        Ok(entries)
    }

    /// Sizes, weights, bias and kernels of a product.
    fn descriptor(
        &self,
        i: usize,
        entry: &Entry,
        versions: &[Version<'a, 'c>],
        is_end: bool,
    ) -> Emitted<PointerValue<'c>> {
        let code = self.code;
        let null = code.pointer_type().const_null();
        let inline = self.library.storage() == Storage::Inline;
        let first_panel = entry.at + PanelLayout::FIRST_PANEL as u64;
        let weights_at = if inline { 0 } else { first_panel };
        let mut fields: Vec<BasicValueEnum<'c>> =
            entry.shape.numbers().map(|it| code.index(it).into()).to_vec();
        fields.push(code.index(weights_at).into());
        fields.push(code.index(entry.epilogue(is_end).reads_extra().into()).into());
        let mut links = vec![null; fields::links(0)];
        if inline {
            links[Link::Weights as usize] = self.weights(i, entry);
        }
        if let Some(bias) = entry.bias(is_end) {
            let bytes: Vec<u8> = bias.iter().flat_map(|it| it.to_le_bytes()).collect();
            links[Link::Bias as usize] = self.bytes(&bytes, "bias").as_pointer_value();
        }
        if let Some(overlay) = &entry.product.overlay {
            let all = self.outliers(i, overlay);
            links[Link::Order as usize..][..all.len()].copy_from_slice(&all);
        }
        for version in versions {
            links.extend(version.links(entry, is_end, null)?);
        }
        fields.extend(links.into_iter().map(BasicValueEnum::from));
        debug_assert_eq!(fields.len() as u64, NUMBERS + fields::links(versions.len()) as u64);
        let value = code.context.const_struct(&fields, false);
        let end = if is_end { "_end" } else { "" };
        let global = self.global(value.into(), &format!("descriptor_{i}{end}"), true);
        global.set_alignment(8 * FIELD as u32);
        Ok(global.as_pointer_value())
    }

    /// The functions of a product, and its row of the table.
    fn product(
        &self,
        i: usize,
        entry: &Entry,
        versions: &[Version<'a, 'c>],
        entries: &Entries<'a, 'c>,
        run: FunctionValue<'c>,
    ) -> Emitted<BasicValueEnum<'c>> {
        let code = self.code;
        let null = code.pointer_type().const_null();
        let descriptor = self.descriptor(i, entry, versions, false)?;
        // `order`: which parameter each operand is; what is beyond them is a null pointer.
        let wrap = |of: PointerValue<'c>, suffix: &str, kinds: &[Kind], inner, order: &[u32]| {
            let name = format!("{}{suffix}", entry.symbol);
            let function = self.function(&name, kinds, Some(I), Base, true)?;
            let mut operands: Vec<BasicMetadataValueEnum<'c>> = vec![of.into()];
            operands.extend(order.iter().map(|&it| match function.get_nth_param(it) {
                Some(value) => BasicMetadataValueEnum::from(value),
                None => null.into(),
            }));
            let result = entries.call(inner, &operands)?;
            code.builder.build_return(Some(&result))?;
            Emitted::Ok(function.as_global_value().as_pointer_value())
        };
        let kinds = [P, N, P, P, N, N];
        let run_plain = wrap(descriptor, "", &kinds, run, &[0, 1, 2, 3, 4, 5, 6])?;
        let kinds = [P, N, P, N, N];
        let quantize = wrap(descriptor, "_quantize", &kinds, entries.quantize, &[0, 1, 2, 3, 4])?;
        let order = [0, 1, 2, 3, 4, 5];
        let multiply = wrap(descriptor, "_multiply", &kinds, entries.multiply, &order)?;
        let (mut run_end, mut multiply_end) = (null, null);
        if entry.product.end.is_some() {
            let descriptor = self.descriptor(i, entry, versions, true)?;
            let kinds = [P, N, P, P, P, N, N];
            run_end = wrap(descriptor, "_end", &kinds, run, &[0, 1, 3, 4, 5, 6, 2])?;
            let (kinds, order) = ([P, N, P, P, N, N], [0, 1, 3, 4, 5, 2]);
            let inner = entries.multiply;
            multiply_end = wrap(descriptor, "_multiply_end", &kinds, inner, &order)?;
        }
        let Entry { product, shape, .. } = entry;
        let layout = product.matrix.layout();
        let small = |value: u64| code.context.i32_type().const_int(value, false).into();
        let end = product.end.as_ref();
        let factor = end.and_then(|it| it.factor).map_or(u64::MAX, |it| it as u64);
        let outliers = product.overlay.as_ref().map_or(0, |it| it.len() as u64);
        let row = code.context.const_struct(
            &[
                self.text(&product.name.replace('\0', "")).into(),
                code.index(shape.k).into(),
                code.index(shape.n).into(),
                small(layout.bits().bits().into()),
                small(shape.group),
                small(shape.planes),
                small(entry.class.into()),
                small(product.bias.is_some().into()),
                small(end.map_or(0, |it| it.epilogue as u64)),
                code.index(shape.row).into(),
                code.index(entry.at).into(),
                code.index(layout.bytes() as u64).into(),
                run_plain.into(),
                quantize.into(),
                multiply.into(),
                code.index(outliers).into(),
                code.index(factor).into(),
                run_end.into(),
                multiply_end.into(),
            ],
            false,
        );
        Ok(row.into())
    }

    /// What the library as a whole has: the table of products, `open`, `missing`, `target`,
    /// `select`.
    fn tables(
        &self,
        products: &[BasicValueEnum<'c>],
        entries: &Entries<'a, 'c>,
        chooser: &Chooser<'a, 'c>,
    ) -> Emitted<()> {
        let (code, library) = (self.code, self.library);
        let name = |what: &str| format!("{}_{what}", library.prefix());
        let (targets, text) = (library.targets(), |it: &str| self.text(it));
        let is_alone = targets.all().len() == 1;
        let picked = || Emitted::Ok(code.ask(chooser.pick, &[])?.into_int_value());

        let missing = self.function(&name("missing"), &[], Some(P), Base, true)?;
        if !is_alone {
            // What the version lacks that asks least.
            let found = code.compare(IntPredicate::NE, picked()?, code.index(0))?;
            let none = code.pointer_type().const_null();
            code.last_when(missing, found, || {
                code.builder.build_return(Some(&none))?;
                Ok(())
            })?;
        }
        let first = cpu::missing(code, missing, targets.least(), &text)?;
        code.builder.build_return(Some(&first))?;
        let open = self.function(&name("open"), &[P, N], Some(I), Base, true)?;
        let records = match library.storage() {
            Storage::Inline => None,
            Storage::File => Some(self.records()),
        };
        let lacks = if is_alone {
            let missing = code.ask(missing, &[])?.into_pointer_value();
            code.builder.build_is_not_null(missing, "")?
        } else {
            code.is_zero(picked()?)?
        };
        entries.emit_open(open, lacks, records.as_ref())?;
        let target = self.function(&name("target"), &[], Some(P), Base, true)?;
        chooser.emit_target(&text)?;
        let select = self.function(&name("select"), &[P], Some(I), Base, true)?;
        chooser.emit_select(select, &text)?;

        let export = |global: GlobalValue<'c>| {
            global.set_linkage(Linkage::External);
            global.as_pointer_value()
        };
        let small = |value: u32| code.context.i32_type().const_int(value.into(), false);
        let rows: Vec<_> = products.iter().map(|it| it.into_struct_value()).collect();
        let Some(first) = rows.first() else {
            return Err(CodegenError::Internal("a library without products".into()));
        };
        let table = first.get_type().const_array(&rows);
        let table = export(self.global(table.into(), &name("products"), true));
        export(self.global(small(abi::VERSION).into(), &name("abi"), true));
        let pointer = |function: FunctionValue<'c>| function.as_global_value().as_pointer_value();
        let bytes = if records.is_some() { library.weight_bytes() } else { 0 };
        let null = code.pointer_type().const_null();
        let names = targets.all().iter().map(|it| text(it.name())).chain([null]);
        let names = code.pointer_type().const_array(&names.collect::<Vec<_>>());
        let names = self.global(names.into(), "targets", true).as_pointer_value();
        let all = code.context.const_struct(
            &[
                small(abi::VERSION).into(),
                small(abi::PRODUCT_BYTES).into(),
                code.index(rows.len() as u64).into(),
                table.into(),
                text(&targets.to_string()).into(),
                code.index(bytes).into(),
                pointer(open).into(),
                pointer(missing).into(),
                names.into(),
                pointer(target).into(),
                pointer(select).into(),
            ],
            false,
        );
        export(self.global(all.into(), &name("library"), true));
        Ok(())
    }
}

/// What a function is compiled for.
#[derive(Clone, Copy)]
enum Level<'t> {
    Target(&'t Target),
    Base,
}
use Level::Base;

/// What functions that multiply are called with.
const MULTIPLIER: [Kind; 8] = [P, P, P, N, P, N, N, P];

/// Type of a parameter or result.
#[derive(Clone, Copy)]
enum Kind {
    Pointer,
    Number,
    Verdict,
}
use Kind::{Number as N, Pointer as P, Verdict as I};

impl Kind {
    fn of<'c>(self, code: &Code<'c>) -> BasicTypeEnum<'c> {
        match self {
            Kind::Pointer => code.pointer_type().into(),
            Kind::Number => code.context.i64_type().into(),
            Kind::Verdict => code.context.i32_type().into(),
        }
    }
}
