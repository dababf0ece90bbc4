//! What is compiled once for each target: kernels, and what quantizes and multiplies.

use super::multiply::Multiply;
use super::quantize::Quantize;
use super::{Builder, Level, N, P};
use crate::code::Emitted;
use crate::emit::kernel;
use crate::library::{Shape, identifier};
use crate::{CodegenError, Target};
use inkwell::module::Linkage;
use inkwell::values::{FunctionValue, PointerValue};
use qcc_kernels::{KernelSpec, Planes};
use std::collections::BTreeMap;

use super::fields::{Link, OF_VERSION};
use crate::library::Entry;

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
        }
    }

    /// Adds what a product needs and is not there yet.
    pub(super) fn add(&mut self, builder: &Builder<'a, 'c>, entry: &Entry) -> Emitted<()> {
        for rows in 1..=KernelSpec::MOST_ROWS {
            for tiles in 1..=2 {
                let Some(spec) = entry.spec(self.target, rows, tiles) else { continue };
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
            let wide = self.target.best().to_string().starts_with("avx512");
            let lanes = if wide { 16 } else { 8 };
            Quantize { code: builder.code, function, planes, lanes }.emit()?;
            self.quantizers.insert(planes, function);
        }
        Ok(())
    }

    /// The function that multiplies.
    pub(super) fn multiplier(&self, builder: &Builder<'a, 'c>) -> Emitted<FunctionValue<'c>> {
        let parameters = [P, P, P, N, P, N, N];
        let (name, level) = (format!("multiply{}", self.tail), Level::Target(self.target));
        let function = builder.function(&name, &parameters, None, level, false)?;
        Multiply::new(builder.code, function, self.place)?.emit()?;
        Ok(function)
    }

    /// The pointers of a descriptor that are of this version.
    pub(super) fn links(
        &self,
        entry: &Entry,
        null: PointerValue<'c>,
    ) -> Emitted<[PointerValue<'c>; OF_VERSION]> {
        let lost = || CodegenError::Internal("a product without its functions".into());
        let pointer = |function: &FunctionValue<'c>| function.as_global_value().as_pointer_value();
        let mut links = [null; OF_VERSION];
        let first = Link::Quantize as usize;
        links[0] = pointer(self.quantizers.get(&entry.product.planes).ok_or_else(lost)?);
        for tiles in 1..=2 {
            for rows in 1..=KernelSpec::MOST_ROWS {
                let Some(spec) = entry.spec(self.target, rows, tiles) else { continue };
                let at = usize::from(tiles - 1) * Shape::KERNELS / 2 + usize::from(rows) - 1;
                let kernel = self.kernels.get(&spec).ok_or_else(lost)?;
                links[Link::Kernels as usize - first + at] = pointer(kernel);
            }
        }
        Ok(links)
    }
}
