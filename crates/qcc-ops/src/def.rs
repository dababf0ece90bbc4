//! The entry of an operator in the table.

use qcc_ir::OpRef;

use crate::{AttrError, AttrReader};

/// How to make one operator from its attributes.
#[derive(Clone, Copy)]
pub struct OpDef {
    /// ONNX domain; empty for the default one.
    pub domain: &'static str,
    /// ONNX `op_type`.
    pub name: &'static str,
    /// Makes the operator. Attributes that it does not ask for are an error of the reader.
    pub parse: fn(&mut AttrReader<'_>) -> Result<OpRef, AttrError>,
}
