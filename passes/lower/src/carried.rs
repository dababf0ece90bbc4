//! What the end of a pipeline can carry, asked before numbers are chosen: choosing may take long.

use std::str::FromStr as _;

use qcc_ir::Graph;
use qcc_ops::quant::{Layout, Quant};
use qcc_pass::{PassError, Step};

use crate::readers::{Reader, readers};
use crate::{pack, to_function, to_nbits, to_qdq};

/// Whether the output format among `steps` has a form for each node that reads a weight that was
/// chosen. Widths and groups do not matter: see [`check_layout`].
///
/// # Errors
/// QCC0305 with the node and a way out.
pub fn check_readers(root: &Graph, steps: &[Step]) -> Result<(), PassError> {
    type Check = fn(&Graph, &Reader<'_, Quant>) -> Result<(), PassError>;
    let of = |name: &str| -> Option<Check> {
        match name {
            it if it == to_nbits::INFO.name => Some(to_nbits::carries),
            it if it == to_qdq::INFO.name => Some(to_qdq::carries),
            it if it == to_function::INFO.name => Some(to_function::carries),
            _ => None,
        }
    };
    for carries in steps.iter().filter_map(|it| of(it.pass.name)) {
        for reader in readers::<Quant>(root).iter().filter(|it| it.chosen.numbers.is_none()) {
            carries(root, reader)?;
        }
    }
    Ok(())
}

/// Whether the layout among `steps` has a place for each weight that was chosen: for its bits, its
/// group and its shape.
///
/// # Errors
/// QCC0305 with the weight and a way out.
pub fn check_layout(root: &Graph, steps: &[Step]) -> Result<(), PassError> {
    for step in steps.iter().filter(|it| it.pass.name == pack::INFO.name) {
        if let Ok(layout) = Layout::from_str(step.options.text("layout")) {
            pack::check(root, layout)?;
        }
    }
    Ok(())
}
