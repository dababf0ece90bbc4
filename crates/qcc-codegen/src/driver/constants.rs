//! Constants of a library: weights and outliers, and what a file of weights must hold.

use super::entry::{RECORD, Records};
use super::outliers::SIDE;
use super::{Builder, SECTION};
use crate::library::Entry;
use crate::output::Output;
use inkwell::values::{GlobalValue, PointerValue};
use inkwell::{AddressSpace, GlobalVisibility};
use qcc_kernels::{Overlay, OverlayParts};
use qcc_quant::panel::PanelLayout;
use std::sync::Arc;

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

    /// Of product `i` the parts of its outliers: order, starts, inputs, values.
    pub(super) fn outliers(&self, i: usize, overlay: &Arc<Overlay>) -> [PointerValue<'c>; 4] {
        let mut all = self.outliers.borrow_mut();
        if let Some((_, known)) = all.iter().find(|it| Arc::ptr_eq(&it.0, overlay)) {
            return *known;
        }
        let OverlayParts { order, starts, inputs, values } = overlay.parts();
        let starts = starts.iter().flat_map(|&it| (it as u32).to_le_bytes()).collect();
        let mut inputs: Vec<u8> =
            inputs.as_flattened().iter().flat_map(|it| it.to_le_bytes()).collect();
        let mut values: Vec<u8> =
            values.as_flattened().iter().flat_map(|it| it.to_le_bytes()).collect();
        // What is read, and not used, where the last columns have none.
        inputs.extend([0; 2 * SIDE as usize]);
        values.extend([0; 4 * SIDE as usize]);
        let parts: [(&str, Vec<u8>); 4] =
            [("order", order.to_vec()), ("starts", starts), ("inputs", inputs), ("values", values)];
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
