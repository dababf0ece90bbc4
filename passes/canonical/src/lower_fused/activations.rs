//! Activations, some with a bias before them.

use qcc_ir::{Attr, Attrs, Value};

use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] = &[
    Lowering { name: "Gelu", since: 20, lower: gelu },
    Lowering { name: "BiasGelu", since: 20, lower: gelu },
    Lowering { name: "FastGelu", since: 20, lower: fast_gelu },
    Lowering { name: "QuickGelu", since: 24, lower: quick_gelu },
];

/// `x + bias`, where there is a bias.
fn biased(site: &mut Site<'_>) -> Result<Value, String> {
    let x = site.need(0)?;
    match site.input(1) {
        Some(bias) => site.plain("Add", [x, bias]),
        None => Ok(x),
    }
}

fn gelu(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let x = biased(site)?;
    Ok(vec![Some(site.op("Gelu", &[Some(x)], Attrs::new())?)])
}

fn fast_gelu(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let x = biased(site)?;
    let attrs = vec![("approximate".into(), Attr::from("tanh"))];
    Ok(vec![Some(site.op("Gelu", &[Some(x)], attrs)?)])
}

/// `x * sigmoid(alpha x)`.
fn quick_gelu(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let attrs = vec![("alpha".into(), Attr::Float(site.float("alpha", 1.702)))];
    let x = site.need(0)?;
    Ok(vec![Some(site.op("Swish", &[Some(x)], attrs)?)])
}
