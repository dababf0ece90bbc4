//! Norms with what is added before them.

use qcc_ir::{Attr, Attrs, Value};
use qcc_tensor::DType;

use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] = &[
    Lowering { name: "SkipLayerNormalization", since: 17, lower: skip_layer_norm },
    Lowering { name: "SkipSimplifiedLayerNormalization", since: 23, lower: skip_rms_norm },
    Lowering { name: "EmbedLayerNormalization", since: 17, lower: embed_layer_norm },
];

/// Over the last dimension.
fn attrs(site: &Site<'_>) -> Attrs {
    let epsilon = site.float("epsilon", 1e-12);
    vec![("axis".into(), Attr::Int(-1)), ("epsilon".into(), Attr::Float(epsilon))]
}

/// `input + skip + bias`.
fn sum(site: &mut Site<'_>, bias: usize) -> Result<Value, String> {
    let sum = [site.need(0)?, site.need(1)?];
    let sum = site.plain("Add", sum)?;
    match site.input(bias) {
        Some(bias) => site.plain("Add", [sum, bias]),
        None => Ok(sum),
    }
}

fn skip_layer_norm(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let sum = sum(site, 4)?;
    let operands = [Some(sum), Some(site.need(2)?), site.input(3)];
    let norm = site.op("LayerNormalization", &operands, attrs(site))?;
    Ok(vec![Some(norm), None, None, Some(sum)])
}

fn skip_rms_norm(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let sum = sum(site, 3)?;
    let operands = [Some(sum), Some(site.need(2)?)];
    let norm = site.op("RMSNormalization", &operands, attrs(site))?;
    Ok(vec![Some(norm), None, None, Some(sum)])
}

/// Operands: ids, segments, tables of words, positions and segments, gamma, beta, mask, positions.
fn embed_layer_norm(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let ids = site.need(0)?;
    let words = site.need(2)?;
    let words = site.plain("Gather", [words, ids])?;
    let positions = match site.input(8) {
        Some(it) => it,
        None => {
            let len = site.size(ids, 1)?;
            let (zero, one) = (site.int_scalar(0), site.int_scalar(1));
            site.plain("Range", [zero, len, one])?
        }
    };
    let table = site.need(3)?;
    let positions = site.plain("Gather", [table, positions])?;
    let mut sum = site.plain("Add", [words, positions])?;
    if let (Some(segments), Some(table)) = (site.input(1), site.input(4)) {
        let segments = site.plain("Gather", [table, segments])?;
        sum = site.plain("Add", [sum, segments])?;
    }
    let operands = [Some(sum), Some(site.need(5)?), Some(site.need(6)?)];
    let norm = site.op("LayerNormalization", &operands, attrs(site))?;
    // How many ones a row of the mask has.
    let mut counts = None;
    let is_i32 = site.ty(ids).dtype() == Some(DType::I32);
    if let Some(mask) = site.input(7).filter(|_| is_i32 && site.is_read(1)) {
        let one = site.int_scalar(1);
        let one = site.plain("CastLike", [one, mask])?;
        let is_one = site.plain("Equal", [mask, one])?;
        let to = vec![("to".into(), Attr::Int(i64::from(DType::I32.onnx_code())))];
        let ones = site.op("Cast", &[Some(is_one)], to)?;
        let axes = site.ints(&[1]);
        let keep = vec![("keepdims".into(), Attr::Int(0))];
        counts = Some(site.op("ReduceSum", &[Some(ones), Some(axes)], keep)?);
    }
    Ok(vec![Some(norm), counts, Some(sum)])
}
