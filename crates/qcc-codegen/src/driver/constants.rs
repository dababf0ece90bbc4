//! Constants of a library: weights and outliers, and what a file of weights must hold.

use super::entry::{RECORD, Records};
use super::{Builder, SECTION};
use crate::library::Entry;
use crate::output::Output;
use inkwell::values::{GlobalValue, PointerValue};
use inkwell::{AddressSpace, GlobalVisibility};
use qcc_kernels::Overlay;
use qcc_quant::panel::PanelLayout;
use std::sync::Arc;

/// How many outliers are multiplied at a time: so many are there behind the last one.
pub(super) const QUAD: usize = 4;

impl<'c> Builder<'_, 'c> {
    /// Some bytes that are known here only.
    pub(super) fn bytes(&self, bytes: &[u8], name: &str) -> GlobalValue<'c> {
        self.global(self.code.context.const_string(bytes, false).into(), name, true)
    }

    /// Bytes of a weight: in the object; a symbol of elsewhere in text.
    fn stored(&self, bytes: &[u8], name: &str) -> PointerValue<'c> {
        let code = self.code;
        let name = format!("{}_{name}", self.library.prefix());
        let global = if self.output == Output::Object {
            let global = self.bytes(bytes, &name);
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
        global.as_pointer_value()
    }

    /// The panels of product `i`.
    pub(super) fn weights(&self, i: usize, entry: &Entry) -> PointerValue<'c> {
        if let Some(known) = self.weights.borrow().get(&entry.at) {
            return *known;
        }
        let at = self.stored(entry.product.matrix.bytes(), &format!("weights_{i}"));
        self.weights.borrow_mut().insert(entry.at, at);
        at
    }

    /// Of product `i` where the outliers of each column begin, their inputs, their values.
    pub(super) fn outliers(&self, i: usize, overlay: &Arc<Overlay>) -> [PointerValue<'c>; 3] {
        let mut all = self.outliers.borrow_mut();
        if let Some((_, known)) = all.iter().find(|it| Arc::ptr_eq(&it.0, overlay)) {
            return *known;
        }
        let (mut starts, mut inputs, mut values) = (vec![0; 4], Vec::new(), Vec::new());
        for column in 0..overlay.n() {
            for (input, value) in overlay.column(column) {
                inputs.extend((input as u16).to_le_bytes());
                values.extend(value.to_le_bytes());
            }
            starts.extend(((values.len() / 4) as u32).to_le_bytes());
        }
        inputs.extend([0; 2 * QUAD]);
        values.extend([0; 4 * QUAD]);
        let parts = [("starts", starts), ("inputs", inputs), ("values", values)];
        let parts = parts.map(|(what, bytes)| self.stored(&bytes, &format!("outliers_{i}_{what}")));
        all.push((Arc::clone(overlay), parts));
        parts
    }

    /// What a file of weights must hold.
    pub(super) fn records(&self) -> Records<'c> {
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
