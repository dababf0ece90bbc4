//! What is compiled once for each target: kernels, and what quantizes and multiplies.

use super::fields::{Link, OF_VERSION};
use super::multiply::Multiply;
use super::outliers::Outliers;
use super::quantize::Quantize;
use super::{Builder, Level, MULTIPLIER, N, P};
use crate::code::Emitted;
use crate::emit::kernel;
use crate::library::{Entry, Shape, identifier};
use crate::{CodegenError, Target};
use inkwell::module::Linkage;
use inkwell::values::{FunctionValue, PointerValue};
use qcc_kernels::{Epilogue, KernelSpec, Planes};
use std::collections::BTreeMap;

/// Rows and tiles that there are kernels for.
const SIZES: &[(u8, u8); 12] = &[
    (1, 1),
    (1, 2),
    (2, 1),
    (2, 2),
    (3, 1),
    (3, 2),
    (4, 1),
    (4, 2),
    (5, 1),
    (5, 2),
    (KernelSpec::MOST_ROWS, 1),
    (KernelSpec::MOST_ROWS, 2),
];

/// Code for one target.
pub(super) struct Version<'a, 'c> {
    /// Its place among the versions, the best first.
    place: usize,
    pub target: &'a Target,
    /// What names end with: nothing where they are different without it.
    tail: String,
    kernel_tail: String,
    kernels: BTreeMap<KernelSpec, FunctionValue<'c>>,
    quantizers: BTreeMap<Planes, FunctionValue<'c>>,
    /// By the end that comes behind outliers, and without outliers.
    multipliers: BTreeMap<Option<Epilogue>, FunctionValue<'c>>,
}

impl<'a, 'c> Version<'a, 'c> {
    /// The version of a place without its functions.
    pub(super) fn new(targets: &'a [Target], place: usize) -> Self {
        let target = &targets[place];
        let tail = format!("_{}", identifier(target.name()));
        let is_alone = |it: bool| if it { String::new() } else { tail.clone() };
        // Kernels have the instruction set in their names.
        let alike = targets.iter().filter(|it| it.best() == target.best()).count();
        Self {
            place,
            target,
            kernel_tail: is_alone(alike == 1),
            tail: is_alone(targets.len() == 1),
            kernels: BTreeMap::new(),
            quantizers: BTreeMap::new(),
            multipliers: BTreeMap::new(),
        }
    }

    /// Adds what a product needs and is not there yet.
    pub(super) fn add(&mut self, builder: &Builder<'a, 'c>, entry: &Entry) -> Emitted<()> {
        for is_end in entry.forms() {
            for (rows, tiles) in SIZES {
                let Some(spec) = entry.spec(self.target, *rows, *tiles, is_end) else { continue };
                if !self.kernels.contains_key(&spec) {
                    let name = format!("{spec}{}", self.kernel_tail);
                    let function = kernel(builder.code, &spec, self.target, &name)?;
                    function.set_linkage(Linkage::Internal);
                    self.kernels.insert(spec, function);
                }
            }
        }
        let planes = entry.product.planes;
        if !self.quantizers.contains_key(&planes) {
            let name = format!("quantize_{planes}{}", self.tail);
            let level = Level::Target(self.target);
            let function = builder.function(&name, &[P, P, P, N, N], None, level, false)?;
            Quantize { code: builder.code, function, planes, lanes: self.lanes() }.emit()?;
            self.quantizers.insert(planes, function);
        }
        let mut forms = entry.forms();
        forms.try_for_each(|it| self.add_multiplier(builder, entry.end_behind_outliers(it)))
    }

    /// Numbers of a vector, outside of kernels.
    fn lanes(&self) -> u32 {
        if self.target.best().to_string().starts_with("avx512") { 16 } else { 8 }
    }

    /// The function that multiplies, with outliers and an end behind them, or without.
    fn add_multiplier(
        &mut self,
        builder: &Builder<'a, 'c>,
        outliers: Option<Epilogue>,
    ) -> Emitted<()> {
        if self.multipliers.contains_key(&outliers) {
            return Ok(());
        }
        let name = match outliers {
            None => format!("multiply{}", self.tail),
            Some(end) => format!("multiply_outliers_{end}{}", self.tail),
        };
        let level = Level::Target(self.target);
        let function = builder.function(&name, &MULTIPLIER, None, level, false)?;
        let outliers = outliers.map(|end| Outliers { end, lanes: self.lanes() });
        Multiply::new(builder.code, function, self.place, outliers)?.emit()?;
        self.multipliers.insert(outliers.map(|it| it.end), function);
        Ok(())
    }

    /// The pointers of a descriptor that are of this version.
    pub(super) fn links(
        &self,
        entry: &Entry,
        is_end: bool,
        null: PointerValue<'c>,
    ) -> Emitted<[PointerValue<'c>; OF_VERSION]> {
        let lost = || CodegenError::Internal("a product without its functions".into());
        let pointer = |it: Option<&FunctionValue<'c>>| {
            Emitted::Ok(it.ok_or_else(lost)?.as_global_value().as_pointer_value())
        };
        let mut links = [null; OF_VERSION];
        let place = |link: Link| link as usize - Link::Quantize as usize;
        links[place(Link::Quantize)] = pointer(self.quantizers.get(&entry.product.planes))?;
        let end = entry.end_behind_outliers(is_end);
        links[place(Link::Multiply)] = pointer(self.multipliers.get(&end))?;
        for (rows, tiles) in SIZES {
            let Some(spec) = entry.spec(self.target, *rows, *tiles, is_end) else { continue };
            let at = usize::from(tiles - 1) * Shape::KERNELS / 2 + usize::from(*rows) - 1;
            links[place(Link::Kernels) + at] = pointer(self.kernels.get(&spec))?;
        }
        Ok(links)
    }
}
