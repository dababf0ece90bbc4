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
mod cpu;
mod entry;
mod fields;
mod multiply;
mod quantize;
mod scalars;
mod version;

use crate::code::{Code, Emitted};
use crate::emit::{Attributes, Unit};
use crate::library::{Entry, FIELD, Library, Storage, abi};
use crate::output::Output;
use crate::{Architecture, CodegenError, Target};
use choice::{Choice, Chooser};
use entry::{Entries, Multiplier, RECORD, Records};
use fields::{Link, NUMBERS};
use inkwell::module::Linkage;
use inkwell::types::{BasicMetadataTypeEnum, BasicTypeEnum};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValueEnum, FunctionValue, GlobalValue, PointerValue,
};
use inkwell::{AddressSpace, GlobalVisibility, IntPredicate};
use qcc_quant::panel::PanelLayout;
use std::cell::RefCell;
use std::collections::BTreeMap;
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
    let bytes = library.weight_bytes();
    if library.storage() == Storage::Inline && output == Output::Object && bytes > MOST_INLINE {
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
}

impl<'a, 'c> Builder<'a, 'c> {
    fn new(code: &'a Code<'c>, library: &'a Library, output: Output) -> Emitted<Self> {
        Ok(Self { code, library, output, texts: RefCell::default(), weights: RefCell::default() })
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
        let multiplier = self.multiplier(&versions, chooser.choice)?;
        let state = self.global(self.code.pointer_type().const_null().into(), "state", false);
        let entries = self.entries(state, multiplier)?;
        let run = self.function("entry_run", &[P, P, N, P, P, N, N], Some(I), Base, false)?;
        entries.emit_run(run)?;
        let mut products = Vec::new();
        for (i, entry) in self.library.entries().iter().enumerate() {
            let descriptor = self.descriptor(i, entry, &versions)?;
            products.push(self.product(entry, descriptor, &entries, run)?);
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
        let function = code.module.add_function(name, ty, Some(linkage));
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

    fn multiplier(
        &self,
        versions: &[Version<'a, 'c>],
        choice: Choice<'c>,
    ) -> Emitted<Multiplier<'c>> {
        let all = versions.iter().map(|it| it.multiplier(self));
        let all = all.collect::<Emitted<Vec<FunctionValue<'c>>>>()?;
        if let [one] = all[..] {
            return Ok(Multiplier::One(one));
        }
        let Some(ty) = all.first().map(|it| it.get_type()) else {
            return Err(CodegenError::Internal("a library without a target".into()));
        };
        let all: Vec<_> = all.iter().map(|it| it.as_global_value().as_pointer_value()).collect();
        let table = self.code.pointer_type().const_array(&all);
        let table = self.global(table.into(), "multipliers", true).as_pointer_value();
        Ok(Multiplier::Of { choice, table, ty })
    }

    fn entries(
        &self,
        state: GlobalValue<'c>,
        multiplier: Multiplier<'c>,
    ) -> Emitted<Entries<'a, 'c>> {
        let code = self.code;
        let kinds = [P, P, P, N, N].map(|it| it.of(code).into());
        let quantizer = code.context.void_type().fn_type(&kinds, false);
        let kinds = [P, P, N, P, N, N];
        let quantize = self.function("entry_quantize", &kinds, Some(I), Base, false)?;
        let mut entries =
            Entries { code, state, quantize, multiply: quantize, quantizer, multiplier };
        entries.emit_quantize()?;
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
    ) -> Emitted<PointerValue<'c>> {
        let code = self.code;
        let null = code.pointer_type().const_null();
        let inline = self.library.storage() == Storage::Inline;
        let first_panel = entry.at + PanelLayout::FIRST_PANEL as u64;
        let weights_at = if inline { 0 } else { first_panel };
        let mut fields: Vec<BasicValueEnum<'c>> =
            entry.shape.numbers().map(|it| code.index(it).into()).to_vec();
        fields.push(code.index(weights_at).into());
        let mut links = vec![null; fields::links(0)];
        if inline {
            links[Link::Weights as usize] = self.weights(i, entry);
        }
        if let Some(bias) = &entry.product.bias {
            let bytes: Vec<u8> = bias.iter().flat_map(|it| it.to_le_bytes()).collect();
            let value = code.context.const_string(&bytes, false);
            links[Link::Bias as usize] = self.global(value.into(), "bias", true).as_pointer_value();
        }
        for version in versions {
            links.extend(version.links(entry, null)?);
        }
        fields.extend(links.into_iter().map(BasicValueEnum::from));
        debug_assert_eq!(fields.len() as u64, NUMBERS + fields::links(versions.len()) as u64);
        let value = code.context.const_struct(&fields, false);
        let global = self.global(value.into(), &format!("descriptor_{i}"), true);
        global.set_alignment(8 * FIELD as u32);
        Ok(global.as_pointer_value())
    }

    /// The panels in the object; a symbol of elsewhere in text.
    fn weights(&self, i: usize, entry: &Entry) -> PointerValue<'c> {
        let code = self.code;
        if let Some(known) = self.weights.borrow().get(&entry.at) {
            return *known;
        }
        let bytes = entry.product.matrix.bytes();
        let name = format!("{}_weights_{i}", self.library.prefix());
        let global = if self.output == Output::Object {
            let global = self.global(code.context.const_string(bytes, false).into(), &name, true);
            global.set_section(Some(SECTION));
            global
        } else {
            let ty = code.context.i8_type().array_type(bytes.len() as u32);
            let global = code.module.add_global(ty, None::<AddressSpace>, &name);
            global.set_constant(true);
            global.set_visibility(GlobalVisibility::Hidden);
            global
        };
        global.set_alignment(64);
        self.weights.borrow_mut().insert(entry.at, global.as_pointer_value());
        global.as_pointer_value()
    }

    /// The functions of a product, and its row of the table.
    fn product(
        &self,
        entry: &Entry,
        descriptor: PointerValue<'c>,
        entries: &Entries<'a, 'c>,
        run: FunctionValue<'c>,
    ) -> Emitted<BasicValueEnum<'c>> {
        let code = self.code;
        let wrap = |suffix: &str, kinds: &[Kind], inner: FunctionValue<'c>| {
            let name = format!("{}{suffix}", entry.symbol);
            let function = self.function(&name, kinds, Some(I), Base, true)?;
            let mut operands = vec![descriptor.into()];
            operands.extend(function.get_param_iter().map(BasicMetadataValueEnum::from));
            let result = entries.call(inner, &operands)?;
            code.builder.build_return(Some(&result))?;
            Emitted::Ok(function.as_global_value().as_pointer_value())
        };
        let run = wrap("", &[P, N, P, P, N, N], run)?;
        let quantize = wrap("_quantize", &[P, N, P, N, N], entries.quantize)?;
        let multiply = wrap("_multiply", &[P, N, P, N, N], entries.multiply)?;
        let Entry { product, shape, .. } = entry;
        let layout = product.matrix.layout();
        let small = |value: u64| code.context.i32_type().const_int(value, false).into();
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
                small(0),
                code.index(shape.row).into(),
                code.index(entry.at).into(),
                code.index(layout.bytes() as u64).into(),
                run.into(),
                quantize.into(),
                multiply.into(),
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

    /// What a file of weights must hold.
    fn records(&self) -> Records<'c> {
        let mut bytes = Vec::new();
        for entry in self.library.records() {
            let layout = entry.product.matrix.layout();
            let length = (PanelLayout::FIRST_PANEL + layout.bytes()) as u64;
            bytes.extend(entry.at.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(layout.header());
        }
        let value = self.code.context.const_string(&bytes, false);
        let table = self.global(value.into(), "records", true).as_pointer_value();
        Records { table, count: bytes.len() as u64 / RECORD }
    }
}

/// What a function is compiled for.
#[derive(Clone, Copy)]
enum Level<'t> {
    Target(&'t Target),
    Base,
}
use Level::Base;

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
