//! Products with low-bit weights, found in a graph.
//!
//! | Operator | Weight |
//! |---|---|
//! | `com.microsoft::MatMulNBits` | codes, scales, zero points, bias: constants |
//! | `MatMul`, `Gemm`, `FusedMatMul` | `DequantizeLinear` of constant codes of 2, 4 or 8 bits |
//! | `ai.qcc::MatMulQ<b>` | codes at their true width, scales, zero points: constants |
//! | `ai.qcc::MatMulQ<b>Outliers` | the same with outliers, which become an [`Overlay`] |
//!
//! All of them become the same numbers: codes, scales and zero points by group along K.

mod dense;
mod linear;
mod nbits;

use std::borrow::Cow;
use std::fmt;

use qcc_ir::{Graph, Node, NodeId, Opaque, Scope, Value};
use qcc_kernels::{Overlay, Planes};
use qcc_ops::fused_matmul::FusedMatMul;
use qcc_ops::matmul::{Gemm, MatMul};
use qcc_ops::matmul_q::MatMulQ;
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::outliers::MatMulQOutliers;
use qcc_quant::panel::{GroupedWeight, PanelError};
use qcc_tensor::{DType, Tensor};

/// A product `x[.., k] W^T + bias` whose weight is stored in few bits.
#[derive(Clone, Debug)]
pub struct LowBit {
    /// The activations, a value of the graph that the product stands in.
    pub x: Value,
    /// The numbers of the weight, in the fewest bits that hold them.
    pub weight: GroupedWeight,
    /// Weights that are added to it: its outliers.
    pub overlay: Option<Overlay>,
    /// `[n]`, added to each row.
    pub bias: Option<Vec<f32>>,
    /// How exactly activations have to be kept for the result that the model asks for.
    pub planes: Planes,
    /// Codes, scales and zero points in the graphs that hold them: products with equal sources
    /// have equal weights.
    pub source: WeightSource,
}

/// The constants that a weight is made of, and how they are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightSource {
    /// Codes, scales and, where there are any, zero points, or scales and places of outliers.
    pub values: Vec<(Scope, Value)>,
    /// Columns and codes of a column.
    pub shape: [usize; 2],
    /// Whether the rows of the stored matrix are those of the product.
    pub is_turned: bool,
}

/// Why a product with a low-bit weight is not one of [`LowBit`]: a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Refused {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<PanelError> for Refused {
    fn from(error: PanelError) -> Self {
        Self(format!("its weight has no packed form: {error}"))
    }
}

/// The product that a node computes, if its weight is stored in few bits. `None` for other nodes.
///
/// `scope` names the graph that the node stands in; constants may lie in the graphs around it.
pub fn low_bit(root: &Graph, scope: &Scope, id: NodeId) -> Option<Result<LowBit, Refused>> {
    let place = Place { root, scope, node: root.at(scope)?.node(id)? };
    let op = place.node.op()?;
    if let Some(op) = op.is::<MatMulNBits>() {
        Some(nbits::read(&place, op))
    } else if let Some(op) = op.is::<MatMulQ>() {
        Some(dense::read(&place, op))
    } else if let Some(op) = op.is::<MatMulQOutliers>() {
        Some(dense::read_outliers(&place, op))
    } else if op.is::<MatMul>().is_some() {
        linear::read(&place, linear::Form { alpha: 1.0, turns_x: false, turns_w: false })
    } else if let Some(op) = op.is::<Gemm>() {
        let alpha = if op.beta == 1.0 || place.node.inputs.len() < 3 { op.alpha } else { f32::NAN };
        let form = linear::Form { alpha, turns_x: op.trans_a, turns_w: op.trans_b };
        linear::read(&place, form)
    } else if let Some(op) = op.is::<FusedMatMul>() {
        let turns_x = op.a.matrix || op.a.batch || op.b.batch;
        linear::read(&place, linear::Form { alpha: op.alpha, turns_x, turns_w: op.b.matrix })
    } else {
        op.is::<Opaque>().and_then(unread).map(Err)
    }
}

/// Why a product that is stored in few bits by its name has attributes that no product has.
/// `None` for other operators.
fn unread(op: &Opaque) -> Option<Refused> {
    let of_products = [qcc_ops::nbits::OPS, qcc_ops::matmul_q::OPS, qcc_ops::outliers::OPS];
    let mut known = of_products.into_iter().flatten();
    let is_product = known.any(|it| (it.domain, it.name) == (&*op.domain, &*op.name));
    // Their attributes are the same in all versions of their domains.
    let parsed = is_product.then(|| qcc_ops::parse(&op.domain, &op.name, 1, op.attrs.clone()));
    parsed?.err().map(|error| Refused(error.to_string()))
}

/// How exactly activations are kept. Without a level that allows less, as exactly as their type.
fn planes(accuracy_level: i64, x: Option<DType>) -> Planes {
    let is_short = matches!(x, Some(DType::F16 | DType::BF16));
    match accuracy_level {
        4 => Planes::A8,
        2 | 3 => Planes::A15,
        1 => Planes::A22,
        _ if is_short => Planes::A15,
        _ => Planes::A22,
    }
}

/// A node with the graphs around it.
struct Place<'a> {
    root: &'a Graph,
    scope: &'a Scope,
    node: &'a Node,
}

impl<'a> Place<'a> {
    /// An operand that is there.
    fn operand(&self, index: usize) -> Option<Value> {
        self.node.inputs.get(index).copied().flatten()
    }

    /// The activations.
    fn x(&self) -> Result<Value, Refused> {
        self.operand(0).ok_or_else(|| Refused::new("it has no activations"))
    }

    fn x_type(&self) -> Option<DType> {
        self.root.at(self.scope)?.ty(self.operand(0)?).dtype()
    }

    /// An operand that is there and constant, and where it lies.
    fn constant(&self, index: usize, what: &str) -> Result<((Scope, Value), &'a Tensor), Refused> {
        let value = self.operand(index);
        let value = value.ok_or_else(|| Refused::new(format!("it has no {what}")))?;
        constant(self.root, self.scope, value, what)
    }

    /// An operand that may be absent, and is constant where it is there.
    #[allow(clippy::type_complexity, reason = "as `constant`, or nothing")]
    fn optional(
        &self,
        index: usize,
        what: &str,
    ) -> Result<Option<((Scope, Value), &'a Tensor)>, Refused> {
        self.operand(index).map(|it| constant(self.root, self.scope, it, what)).transpose()
    }

    /// A bias of one value per column.
    fn bias(&self, index: usize, n: usize) -> Result<Option<Vec<f32>>, Refused> {
        let Some((_, bias)) = self.optional(index, "bias")? else { return Ok(None) };
        let dims: Vec<usize> = bias.dims().iter().copied().filter(|&it| it != 1).collect();
        let values = floats(bias, "bias")?;
        match (values.len(), dims.as_slice()) {
            (len, [] | [_]) if len == n && bias.dims().last() == Some(&n) => {
                Ok(Some(values.into_owned()))
            }
            _ => Err(Refused::new(format!(
                "its bias has the shape {:?}, not one value for each of {n} outputs",
                bias.dims()
            ))),
        }
    }
}

fn constant<'a>(
    root: &'a Graph,
    scope: &Scope,
    value: Value,
    what: &str,
) -> Result<((Scope, Value), &'a Tensor), Refused> {
    let found = root.resolve(scope, value).and_then(|(scope, value)| {
        let tensor = root.at(&scope)?.constant(value)?;
        Some(((scope, value), tensor))
    });
    let verb = if what.ends_with('s') && what != "bias" { "are" } else { "is" };
    found.ok_or_else(|| Refused(format!("its {what} {verb} no constant")))
}

fn floats<'a>(tensor: &'a Tensor, what: &str) -> Result<Cow<'a, [f32]>, Refused> {
    tensor.to_f32().map_err(|error| Refused(format!("its {what} cannot be read: {error}")))
}

#[cfg(test)]
mod tests;
