//! `MatMul` and its kind over `DequantizeLinear` of constant codes, perhaps turned on the way.

use qcc_ir::{Graph, NodeId, Scope, Value};
use qcc_ops::dequantize::DequantizeLinear;
use qcc_ops::transpose::Transpose;
use qcc_ops::weight::is_step;
use qcc_quant::panel::{LinearWeight, Spread};
use qcc_quant::rows::Order;
use qcc_tensor::DType;

use super::{LowBit, Place, Refused, WeightSource, constant, floats, planes};

/// What the operator does besides multiplying.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Factor of the product; NaN where the bias has one too.
    pub(super) alpha: f32,
    /// Whether it turns its left operand, or batches.
    pub(super) turns_x: bool,
    /// Whether it turns its right operand.
    pub(super) turns_w: bool,
}

/// A `DequantizeLinear` behind an operand.
struct Found<'a> {
    scope: Scope,
    id: NodeId,
    op: &'a DequantizeLinear,
    is_turned: bool,
    /// An operator on the way that moves elements otherwise than by turning.
    odd: Option<String>,
}

pub(super) fn read(place: &Place<'_>, form: Form) -> Option<Result<LowBit, Refused>> {
    let Some(found) = find(place, 1) else {
        let left = find(place, 0)?;
        let codes = place.root.at(&left.scope)?.node(left.id)?.inputs.first().copied().flatten()?;
        constant(place.root, &left.scope, codes, "weight").ok()?;
        return Some(Err(Refused::new("its weight is the left operand")));
    };
    Some(weight(place, &form, &found))
}

/// Follows an operand back to a `DequantizeLinear`.
fn find<'a>(place: &Place<'a>, index: usize) -> Option<Found<'a>> {
    let (mut scope, mut value) = place.root.resolve(place.scope, place.operand(index)?)?;
    let (mut is_turned, mut odd) = (false, None);
    loop {
        let graph: &Graph = place.root.at(&scope)?;
        let node = graph.node(value.node)?;
        let op = node.op()?;
        if let Some(op) = op.is::<DequantizeLinear>() {
            return Some(Found { scope, id: value.node, op, is_turned, odd });
        }
        if !is_step(graph, value.node) {
            return None;
        }
        if let Some(transpose) = op.is::<Transpose>() {
            match transpose.order(2).as_deref() {
                Ok([1, 0]) => is_turned = !is_turned,
                Ok([0, 1]) => {}
                _ => odd = Some(op.name().to_owned()),
            }
        } else if !["Identity", "Cast", "CastLike"].contains(&op.name()) {
            odd = Some(op.name().to_owned());
        }
        let input = node.inputs.first().copied().flatten()?;
        (scope, value) = place.root.resolve(&scope, input)?;
    }
}

fn weight(place: &Place<'_>, form: &Form, found: &Found<'_>) -> Result<LowBit, Refused> {
    let node = place.root.at(&found.scope).and_then(|it| it.node(found.id));
    let operands = node.map_or(&[][..], |it| &it.inputs);
    let operand = |index: usize| operands.get(index).copied().flatten();
    let named = |index: usize, what: &str| {
        let value: Value = operand(index).ok_or_else(|| Refused(format!("it has no {what}")))?;
        constant(place.root, &found.scope, value, what)
    };
    let (codes_at, codes) = named(0, "weight")?;
    let (scales_at, scales) = named(1, "scales")?;
    if let Some(name) = &found.odd {
        return Err(Refused(format!("a {name} stands between its weight and the product")));
    }
    if form.alpha != 1.0 {
        return Err(Refused::new("the product or its bias has a factor"));
    }
    if form.turns_x {
        return Err(Refused::new("it turns its activations"));
    }
    let signed = match codes.dtype() {
        DType::I2 | DType::I4 | DType::I8 => true,
        DType::U2 | DType::U4 | DType::U8 => false,
        other => return Err(Refused(format!("its weight is {other}, not codes of 2 to 8 bits"))),
    };
    let bits = codes.dtype().bits() as u8;
    let &[rows, cols] = codes.dims() else {
        return Err(Refused(format!("its weight has {} dimensions", codes.rank())));
    };
    let is_turned = found.is_turned != form.turns_w;
    let (n, k) = if is_turned { (rows, cols) } else { (cols, rows) };
    let k_axis = usize::from(is_turned);
    let shape = (found.op.axis.unwrap_or(i64::MAX), found.op.block_size);
    let spread = Spread::of(shape, scales.dims(), [rows, cols], k_axis)
        .map_err(|error| Refused(error.to_string()))?;
    let scales = floats(scales, "scales")?;
    let zeros = operand(2).map(|_| named(2, "zero points")).transpose()?;
    if let Some((_, it)) = &zeros {
        if it.dtype() != codes.dtype() {
            let (zero, code) = (it.dtype(), codes.dtype());
            return Err(Refused(format!("its zero points are {zero}, its codes {code}")));
        }
        if it.len() != scales.len() {
            let (zeros, scales) = (it.len(), scales.len());
            return Err(Refused(format!("it has {zeros} zero points for {scales} scales")));
        }
    }
    let weight = LinearWeight {
        n,
        k,
        bits,
        signed,
        order: if is_turned { Order::Nk } else { Order::Kn },
        spread,
        codes: codes.bytes(),
        scales: &scales,
        zeros: zeros.as_ref().map(|it| &**it.1.bytes()),
    };
    let weight = weight.unpack()?.narrowed();
    weight.layout()?;
    let values = [Some(codes_at), Some(scales_at), zeros.map(|it| it.0)];
    Ok(LowBit {
        x: place.x()?,
        weight,
        overlay: None,
        bias: place.bias(2, n)?,
        planes: planes(0, place.x_type()),
        source: WeightSource {
            values: values.into_iter().flatten().collect(),
            shape: [n, k],
            is_turned,
        },
    })
}
