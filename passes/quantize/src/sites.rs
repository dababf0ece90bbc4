//! Where a model multiplies by weights: every product and table lookup with a constant operand, and
//! why some of them cannot be quantized.

use std::fmt;

use qcc_ir::{Graph, Kind, Node, NodeId, Scope, Value};
use qcc_ops::contrib_attention::ContribAttention;
use qcc_ops::einsum::Einsum;
use qcc_ops::quant::{DOMAIN, Form};
use qcc_ops::weight::{Traced, trace, trace_default};
use qcc_tensor::{DType, Dim, Tensor};

/// What a weight is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Right operand of a matrix product.
    Product,
    /// Right operand of a matrix product whose result is an output of the model but for a bias,
    /// a cast, a reshape, a slice, a scale or a soft cap.
    Head,
    /// Table that rows are gathered from.
    Table,
}

/// One use of a weight.
#[derive(Clone, Debug)]
pub struct Site {
    /// Graph of the node.
    pub scope: Scope,
    /// The node.
    pub node: NodeId,
    /// Its name, or that of its first output.
    pub label: String,
    /// Its operator.
    pub op: String,
    /// Which operand is the weight.
    pub operand: usize,
    /// What for.
    pub role: Role,
    /// The weight.
    pub weight: Traced,
    /// Name of the constant.
    pub name: String,
    /// How its elements are rows; `Err` when they are not or the node cannot take codes.
    pub form: Result<Form, Skip>,
}

/// Why a weight stays in float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The weight is the left operand.
    LeftOperand,
    /// More than one matrix.
    Batch(Vec<usize>),
    /// The node does more than a product: `alpha`, `beta`, a transposed input.
    Attributes(&'static str),
    /// The node is an attention that a product and `MultiHeadAttention` cannot stand for.
    Attention(&'static str),
    /// Too few elements to gain anything.
    Small(usize),
    /// Rows that are too short.
    ShortRows(usize),
    /// One output only.
    OneRow,
    /// Not a float of 16 or 32 bits.
    Type(DType),
    /// Holds NaN or infinity.
    NotFinite,
    /// The model makes the operand of it by this operator.
    Made(String),
    /// An operator that has no form with codes.
    Operator(&'static str),
    /// Codes already.
    Quantized,
    /// Named by `exclude`, or not by `include`.
    Excluded,
    /// Set to be left by an override.
    Override,
    /// Not among the operators asked for.
    OpType,
    /// A table, and embeddings stay in float.
    Embedding,
    /// The head, and it stays in float.
    Head,
    /// Other uses of the same constant stay in float, or need other rows.
    Shared,
    /// Split over devices.
    Sharded,
    /// The default of an input, which callers may override.
    Overridable,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOperand => f.write_str("the weight is the left operand"),
            Self::Batch(dims) => write!(f, "it is a batch of matrices {dims:?}"),
            Self::Attributes(what) => write!(f, "the product has {what}"),
            Self::Attention(what) => {
                write!(f, "the attention has {what}, which MultiHeadAttention cannot be given")
            }
            Self::Small(len) => write!(f, "it has only {len} elements"),
            Self::ShortRows(k) => write!(f, "its rows have only {k} elements"),
            Self::OneRow => f.write_str("it has one output only"),
            Self::Type(dtype) => write!(f, "its element type is {dtype}"),
            Self::NotFinite => f.write_str("it holds values that are not finite"),
            Self::Made(by) => write!(
                f,
                "{by} stands between it and the product; fold before select in --passes makes one \
                 constant of both"
            ),
            Self::Operator(op) => write!(f, "{op} has no form with codes"),
            Self::Quantized => f.write_str("it is quantized already"),
            Self::Excluded => f.write_str("it is excluded"),
            Self::Override => f.write_str("it is set to be left in float"),
            Self::OpType => f.write_str("its operator is not among those asked for"),
            Self::Embedding => f.write_str("embeddings stay in float without --embeddings"),
            Self::Head => f.write_str("the head stays in float without --lm-head"),
            Self::Shared => f.write_str("another use of it needs the float values"),
            Self::Sharded => f.write_str("it is split over devices"),
            Self::Overridable => f.write_str(
                "it is an input as well, which stays in float without --treat-as-constant",
            ),
        }
    }
}

impl Site {
    /// The tensor of the weight: a constant, or the default of an input.
    pub fn tensor<'g>(&self, root: &'g Graph) -> Option<&'g Tensor> {
        match &root.at(&self.weight.scope)?.node(self.weight.source.node)?.kind {
            Kind::Const(it) | Kind::Input(Some(it)) => Some(it),
            Kind::Input(None) | Kind::Capture | Kind::Op(_) => None,
        }
    }
}

/// Weights below this size stay in float: scales and the change of operator cost more.
pub(crate) const MIN_ELEMENTS: usize = 4096;
const MIN_K: usize = 16;

/// Every use of a constant of two or more dimensions as a weight, in topological order, scope by
/// scope. Types must have been inferred.
pub fn find_sites(root: &Graph) -> Vec<Site> {
    let mut sites = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            let Some(node) = graph.node(id) else { continue };
            let Some(op) = node.op() else { continue };
            let Some((operand, role)) = weight_operand(op.domain(), op.name()) else { continue };
            for (operand, skip) in operand {
                let Some(value) = node.inputs.get(*operand).copied().flatten() else { continue };
                let found = trace(root, &scope, value).map(|it| (it, Ok(())));
                let found = found.or_else(|| {
                    trace_default(root, &scope, value).map(|it| (it, Err(Skip::Overridable)))
                });
                let Some((weight, is_fixed)) = found else { continue };
                let site = site(root, &scope, id, node, *operand, role, weight, skip);
                sites.extend(site.map(|it| Site {
                    form: it.form.and_then(|form| is_fixed.map(|()| form)),
                    ..it
                }));
            }
        }
    }
    crate::head::mark(root, &mut sites);
    sites
}

type Operands = &'static [(usize, Option<Skip>)];

/// The operands of an operator that may be weights, with the reason against it if there is one.
fn weight_operand(domain: &str, name: &str) -> Option<(Operands, Role)> {
    const RIGHT: Operands = &[(0, Some(Skip::LeftOperand)), (1, None)];
    const TABLE: Operands = &[(0, None)];
    const CONV: Operands = &[(1, Some(Skip::Operator("Conv")))];
    const TURNED_CONV: Operands = &[(1, Some(Skip::Operator("ConvTranspose")))];
    const PROJECTIONS: Operands = &[(1, None)];
    const EXPERTS: Operands = &[
        (2, Some(Skip::Operator("MoE"))),
        (4, Some(Skip::Operator("MoE"))),
        (6, Some(Skip::Operator("MoE"))),
    ];
    const PACKED: Operands = &[(1, Some(Skip::Operator("PackedAttention")))];
    const MASKED: Operands = &[(1, Some(Skip::Operator("DecoderMaskedSelfAttention")))];
    const LONG: Operands = &[
        (1, Some(Skip::Operator("LongformerAttention"))),
        (4, Some(Skip::Operator("LongformerAttention"))),
    ];
    const DECODER: Operands = &[
        (2, Some(Skip::Operator("DecoderAttention"))),
        (3, Some(Skip::Operator("DecoderAttention"))),
    ];
    const FUSED_GEMM: Operands = &[(1, Some(Skip::Operator("FusedGemm")))];
    const FUSED_CONV: Operands = &[(1, Some(Skip::Operator("FusedConv")))];
    const LSTM: Operands = &[(1, Some(Skip::Operator("LSTM"))), (2, Some(Skip::Operator("LSTM")))];
    const GRU: Operands = &[(1, Some(Skip::Operator("GRU"))), (2, Some(Skip::Operator("GRU")))];
    const RNN: Operands = &[(1, Some(Skip::Operator("RNN"))), (2, Some(Skip::Operator("RNN")))];
    Some(match (domain, name) {
        ("", "MatMul" | "Gemm" | "Einsum") | ("com.microsoft", "FusedMatMul") => {
            (RIGHT, Role::Product)
        }
        ("", "Gather") => (TABLE, Role::Table),
        ("", "Conv") => (CONV, Role::Product),
        ("", "ConvTranspose") => (TURNED_CONV, Role::Product),
        ("", "LSTM") => (LSTM, Role::Product),
        ("", "GRU") => (GRU, Role::Product),
        ("", "RNN") => (RNN, Role::Product),
        ("com.microsoft", "Attention") => (PROJECTIONS, Role::Product),
        ("com.microsoft", "PackedAttention") => (PACKED, Role::Product),
        ("com.microsoft", "DecoderMaskedSelfAttention") => (MASKED, Role::Product),
        ("com.microsoft", "LongformerAttention") => (LONG, Role::Product),
        ("com.microsoft", "DecoderAttention") => (DECODER, Role::Product),
        ("com.microsoft", "FusedGemm") => (FUSED_GEMM, Role::Product),
        ("com.microsoft", "FusedConv") => (FUSED_CONV, Role::Product),
        ("com.microsoft", "MoE") => (EXPERTS, Role::Product),
        _ => return None,
    })
}

#[allow(clippy::too_many_arguments)] // all of them are read off one node by the only caller
fn site(
    root: &Graph,
    scope: &Scope,
    id: NodeId,
    node: &Node,
    operand: usize,
    role: Role,
    weight: Traced,
    skip: &Option<Skip>,
) -> Option<Site> {
    let op = node.op()?;
    let source = root.at(&weight.scope)?;
    let is_marked = source.node(weight.source.node)?.op().is_some_and(|it| it.domain() == DOMAIN);
    let long = weight.dims.iter().filter(|&&it| it > 1).count();
    if weight.dims.len() < 2 || long == 0 {
        return None; // a vector or a scalar is no weight
    }
    let form = match skip {
        _ if is_marked => Err(Skip::Quantized),
        Some(skip) => Err(skip.clone()),
        None => form(op.as_ref(), root.at(scope)?, id, role, &weight),
    };
    let stored = source.ty(weight.source).dtype();
    let form = form.and_then(|form| check(form, &weight, stored));
    let name = source.value_name(weight.source).to_owned();
    let label = if node.name.is_empty() {
        node.outputs.first().map_or(String::new(), |it| it.name.clone())
    } else {
        node.name.clone()
    };
    let op = op.name().to_owned();
    Some(Site { scope: scope.clone(), node: id, label, op, operand, role, weight, name, form })
}

/// How the operand is rows, as the operator reads it.
fn form(
    op: &dyn qcc_ir::Op,
    graph: &Graph,
    id: NodeId,
    role: Role,
    weight: &Traced,
) -> Result<Form, Skip> {
    let inputs = graph.node(id).map_or(&[][..], |it| &it.inputs);
    let attrs = op.attrs();
    let int = |name: &str| {
        attrs.iter().find(|it| it.0 == name).and_then(|it| match it.1 {
            qcc_ir::Attr::Int(it) => Some(it),
            _ => None,
        })
    };
    let float = |name: &str| {
        attrs.iter().find(|it| it.0 == name).and_then(|it| match it.1 {
            qcc_ir::Attr::Float(it) => Some(it),
            _ => None,
        })
    };
    let outputs_last = match (role, op.name()) {
        (Role::Table, _) => {
            if int("axis").unwrap_or(0) != 0 {
                return Err(Skip::Attributes("another axis than 0"));
            }
            false
        }
        (_, "Gemm") => {
            if int("transA").unwrap_or(0) != 0 {
                return Err(Skip::Attributes("a transposed input"));
            }
            // The scales could take alpha, but the bias would then need its inverse.
            if float("alpha").unwrap_or(1.0) != 1.0 {
                return Err(Skip::Attributes("alpha other than 1"));
            }
            let has_bias = inputs.get(2).is_some_and(Option::is_some);
            if has_bias && !matches!(float("beta").unwrap_or(1.0), 0.0 | 1.0) {
                return Err(Skip::Attributes("beta other than 0 and 1"));
            }
            int("transB").unwrap_or(0) == 0
        }
        (_, "FusedMatMul") => {
            if int("transA").unwrap_or(0) != 0 || int("transBatchA").unwrap_or(0) != 0 {
                return Err(Skip::Attributes("a transposed input"));
            }
            if int("transBatchB").unwrap_or(0) != 0 {
                return Err(Skip::Attributes("a transposed batch"));
            }
            int("transB").unwrap_or(0) == 0
        }
        (_, "Attention") => {
            let attention = op.is::<ContribAttention>().ok_or(Skip::Operator("Attention"))?;
            let types: Vec<_> = inputs.iter().map(|it| it.map(|it| graph.ty(it))).collect();
            let is_cached = graph.n_uses(Value { node: id, slot: 1 }) > 0;
            attention.parted(&types, is_cached).map_err(Skip::Attention)?;
            true
        }
        (_, "Einsum") => {
            let equation = op.is::<Einsum>();
            let outputs_last = equation
                .and_then(Einsum::matmul_form)
                .ok_or(Skip::Attributes("an equation that is no product with a matrix"))?;
            // An axis of length 1 repeats, which that of a MatMul does not.
            let left = inputs.first().copied().flatten();
            let last = left.and_then(|it| graph.ty(it).shape()?.last().cloned());
            if last == Some(Dim::Known(1)) {
                return Err(Skip::Attributes("an input that repeats"));
            }
            outputs_last
        }
        _ => true,
    };
    weight.form(outputs_last).ok_or_else(|| Skip::Batch(weight.dims.clone()))
}

/// `stored` is the element type of the constant, which a cast may stand behind.
fn check(form: Form, weight: &Traced, stored: Option<DType>) -> Result<Form, Skip> {
    let Form { n, k, .. } = form;
    for dtype in [Some(weight.dtype), stored].into_iter().flatten() {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Skip::Type(dtype));
        }
    }
    if n == 1 {
        return Err(Skip::OneRow);
    }
    if k < MIN_K {
        return Err(Skip::ShortRows(k));
    }
    if n * k < MIN_ELEMENTS {
        return Err(Skip::Small(n * k));
    }
    Ok(form)
}

/// A value of a scope, to find uses of it.
pub(crate) type Place = (Scope, Value);

/// Every operand that reads a value through nothing but steps, in all scopes; `None` when it
/// reaches an output of a graph as well.
pub(crate) fn leaf_uses(root: &Graph, place: &Place) -> Option<Vec<(Scope, NodeId, usize)>> {
    let mut uses = Vec::new();
    let mut open = vec![place.clone()];
    while let Some((scope, value)) = open.pop() {
        let graph = root.at(&scope)?;
        if graph.is_output(value) {
            return None;
        }
        for user in graph.users(value) {
            let node = graph.node(user)?;
            if qcc_ops::weight::is_step(graph, user) && node.inputs.first() == Some(&Some(value)) {
                open.push((scope.clone(), Value { node: user, slot: 0 }));
                continue;
            }
            for (operand, input) in node.inputs.iter().enumerate() {
                if *input == Some(value) {
                    uses.push((scope.clone(), user, operand));
                }
            }
            for (idx, region) in node.regions.iter().enumerate() {
                for (capture, outer) in region.graph.captures().iter().zip(&region.captures) {
                    if *outer == value {
                        let inner = Value { node: *capture, slot: 0 };
                        open.push((scope.inner(user, idx), inner));
                    }
                }
            }
        }
    }
    Some(uses)
}

#[cfg(test)]
mod tests {
    use qcc_ir::{GraphBuilder, Output, Type};
    use qcc_tensor::Tensor;

    use super::*;

    #[test]
    fn a_long_chain_does_not_fill_the_stack() {
        let mut builder = GraphBuilder::new("g");
        let make = |name: &str| qcc_ops::parse("", name, 17, Vec::new()).unwrap();
        let weight = builder.constant("w", Tensor::vector(vec![0f32; 4]));
        let mut value = weight;
        for idx in 0..100_000 {
            let output = Output::new(format!("v{idx}"), Type::Unknown);
            let node = builder.op("", make("Identity"), vec![Some(value)], vec![output]);
            value = Value { node, slot: 0 };
        }
        let output = Output::new("y", Type::Unknown);
        let end = builder.op("", make("Relu"), vec![Some(value)], vec![output]);
        let graph = builder.finish().unwrap();
        let uses = leaf_uses(&graph, &(Scope::root(), weight)).unwrap();
        assert_eq!(uses, [(Scope::root(), end, 0)]);
    }
}
