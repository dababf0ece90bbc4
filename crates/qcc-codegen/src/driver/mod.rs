//! The code of a [`Library`]: kernels, what calls them, tables.
//!
//! Written once over the kernels of [`crate::nest`]. What differs from product to product is in
//! a descriptor that the functions read.
//!
//! | function | compiled for |
//! |---|---|
//! | kernels, `quantize`, `multiply` | the target |
//! | what programs call: looks at its operands, then calls those | every CPU of the architecture |

mod cpu;
mod entry;
mod fields;
mod multiply;
mod quantize;
mod scalars;

use crate::code::{Code, Emitted};
use crate::emit::{Attributes, Unit, kernel};
use crate::library::{Entry, FIELD, Library, Shape, Storage, abi};
use crate::output::Output;
use crate::{Architecture, CodegenError};
use entry::{Entries, RECORD, Records};
use fields::{LINKS, Link, NUMBERS};
use inkwell::module::Linkage;
use inkwell::types::{BasicMetadataTypeEnum, BasicTypeEnum};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValueEnum, FunctionValue, GlobalValue, PointerValue,
};
use inkwell::{AddressSpace, GlobalVisibility};
use multiply::Multiply;
use qcc_kernels::{KernelSpec, Planes};
use qcc_quant::panel::PanelLayout;
use quantize::Quantize;
use std::cell::RefCell;
use std::collections::BTreeMap;

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
    let unit = Unit::new(library.target())?;
    unit.build(|code| Builder::new(code, library, output)?.build())?.emit(output)
}

/// A library in the making.
struct Builder<'a, 'c> {
    code: &'a Code<'c>,
    library: &'a Library,
    output: Output,
    kernels: BTreeMap<KernelSpec, FunctionValue<'c>>,
    quantizers: BTreeMap<Planes, FunctionValue<'c>>,
    texts: RefCell<BTreeMap<String, PointerValue<'c>>>,
    /// Weights in the object, by the place of their record.
    weights: RefCell<BTreeMap<u64, PointerValue<'c>>>,
}

impl<'a, 'c> Builder<'a, 'c> {
    fn new(code: &'a Code<'c>, library: &'a Library, output: Output) -> Emitted<Self> {
        Ok(Self {
            code,
            library,
            output,
            kernels: BTreeMap::new(),
            quantizers: BTreeMap::new(),
            texts: RefCell::default(),
            weights: RefCell::default(),
        })
    }

    fn build(mut self) -> Emitted<()> {
        for entry in self.library.entries() {
            self.kernels_of(entry)?;
            self.quantizer(entry.product.planes)?;
        }
        let multiplier = self.multiplier()?;
        let state = self.global(self.code.pointer_type().const_null().into(), "state", false);
        let entries = self.entries(state, multiplier)?;
        let run = self.function("entry_run", &[P, P, N, P, P, N, N], Some(I), Base, false)?;
        entries.emit_run(run)?;
        let mut products = Vec::new();
        for (i, entry) in self.library.entries().iter().enumerate() {
            let descriptor = self.descriptor(i, entry)?;
            products.push(self.product(entry, descriptor, &entries, run)?);
        }
        self.tables(&products, &entries)
    }

    /// A function; `exported`, or known here only.
    fn function(
        &self,
        name: &str,
        parameters: &[Kind],
        result: Option<Kind>,
        level: Level,
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
        let target = self.library.target();
        let attributes = match (level, target.architecture()) {
            (Target, _) => Attributes::of(target),
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

    fn kernels_of(&mut self, entry: &Entry) -> Emitted<()> {
        for rows in 1..=KernelSpec::MOST_ROWS {
            for tiles in 1..=2 {
                let Some(spec) = entry.spec(self.library.target(), rows, tiles) else { continue };
                if !self.kernels.contains_key(&spec) {
                    let function = kernel(self.code, &spec, self.library.target())?;
                    function.set_linkage(Linkage::Internal);
                    self.kernels.insert(spec, function);
                }
            }
        }
        Ok(())
    }

    fn quantizer(&mut self, planes: Planes) -> Emitted<()> {
        if self.quantizers.contains_key(&planes) {
            return Ok(());
        }
        let name = format!("quantize_{planes}");
        let function = self.function(&name, &[P, P, P, N, N], None, Target, false)?;
        let wide = self.library.target().best().to_string().starts_with("avx512");
        let lanes = if wide { 16 } else { 8 };
        Quantize { code: self.code, function, planes, lanes }.emit()?;
        self.quantizers.insert(planes, function);
        Ok(())
    }

    fn multiplier(&self) -> Emitted<FunctionValue<'c>> {
        let parameters = [P, P, P, N, P, N, N];
        let function = self.function("multiply", &parameters, None, Target, false)?;
        Multiply::new(self.code, function)?.emit()?;
        Ok(function)
    }

    fn entries(
        &self,
        state: GlobalValue<'c>,
        multiplier: FunctionValue<'c>,
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
    fn descriptor(&self, i: usize, entry: &Entry) -> Emitted<PointerValue<'c>> {
        let code = self.code;
        let null = code.pointer_type().const_null();
        let inline = self.library.storage() == Storage::Inline;
        let first_panel = entry.at + PanelLayout::FIRST_PANEL as u64;
        let weights_at = if inline { 0 } else { first_panel };
        let mut fields: Vec<BasicValueEnum<'c>> =
            entry.shape.numbers().map(|it| code.index(it).into()).to_vec();
        fields.push(code.index(weights_at).into());
        let mut links = [null; LINKS];
        if inline {
            links[Link::Weights as usize] = self.weights(i, entry);
        }
        if let Some(bias) = &entry.product.bias {
            let bytes: Vec<u8> = bias.iter().flat_map(|it| it.to_le_bytes()).collect();
            let value = code.context.const_string(&bytes, false);
            links[Link::Bias as usize] = self.global(value.into(), "bias", true).as_pointer_value();
        }
        let lost = || CodegenError::Internal("a product without its functions".into());
        let pointer = |function: &FunctionValue<'c>| function.as_global_value().as_pointer_value();
        let quantizer = self.quantizers.get(&entry.product.planes).ok_or_else(lost)?;
        links[Link::Quantize as usize] = pointer(quantizer);
        for tiles in 1..=2 {
            for rows in 1..=KernelSpec::MOST_ROWS {
                let Some(spec) = entry.spec(self.library.target(), rows, tiles) else { continue };
                let at = usize::from(tiles - 1) * Shape::KERNELS / 2 + usize::from(rows) - 1;
                let kernel = self.kernels.get(&spec).ok_or_else(lost)?;
                links[Link::Kernels as usize + at] = pointer(kernel);
            }
        }
        fields.extend(links.map(BasicValueEnum::from));
        debug_assert_eq!(fields.len() as u64, NUMBERS + LINKS as u64);
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

    /// What the library as a whole has: the table of products, `open`, `missing`.
    fn tables(&self, products: &[BasicValueEnum<'c>], entries: &Entries<'a, 'c>) -> Emitted<()> {
        let (code, library) = (self.code, self.library);
        let name = |what: &str| format!("{}_{what}", library.prefix());
        let missing = self.function(&name("missing"), &[], Some(P), Base, true)?;
        cpu::missing(code, missing, library.target(), &|text| Ok(self.text(text)))?;
        let open = self.function(&name("open"), &[P, N], Some(I), Base, true)?;
        let records = match library.storage() {
            Storage::Inline => None,
            Storage::File => Some(self.records()),
        };
        entries.emit_open(open, missing, records.as_ref())?;

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
        let all = code.context.const_struct(
            &[
                small(abi::VERSION).into(),
                small(abi::PRODUCT_BYTES).into(),
                code.index(rows.len() as u64).into(),
                table.into(),
                self.text(library.target().name()).into(),
                code.index(bytes).into(),
                pointer(open).into(),
                pointer(missing).into(),
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
enum Level {
    Target,
    Base,
}
use Level::{Base, Target};

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
