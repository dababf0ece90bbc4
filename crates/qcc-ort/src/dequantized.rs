//! Products over a `DequantizeLinear` of constants, as many tools write low-bit weights.
//!
//! | Node | Taken where |
//! |---|---|
//! | `MatMul` | the weight is its right operand |
//! | `Gemm` | also: no factors, activations not turned, a bias of one value per output |
//! | `FusedMatMul` of `com.microsoft` | also: no factor, nothing turned but the weight |
//!
//! Between the two there may be `Transpose`, `Identity` and `Cast`. All these nodes are one in the
//! plan, so that the weight never exists as floats; nobody else may read what lies between.

use crate::api::Failure;
use crate::around::Around;
use crate::claim::{Claim, Left, Others, finish, input, planes_of};
use crate::graph::{Node, ValueInfo};
use crate::options::Options;
use crate::tensor::Kind;
use crate::weight::{Form, Shape};
use qcc_kernels::Planes;
use qcc_kernels::ends::Readers;
use qcc_quant::panel::Spread;
use qcc_quant::rows::Order;

/// Name of the operator.
pub(crate) const OP: &str = "DequantizeLinear";

/// What a product does besides multiplying.
#[derive(Clone, Copy, Debug, Default)]
struct Extra {
    /// A factor of the product or its bias that is not 1.
    has_factor: bool,
    turns_x: bool,
    turns_w: bool,
    has_bias: bool,
}

/// A `DequantizeLinear` behind an operand.
struct Found {
    /// By number, and those between it and the product.
    node: usize,
    between: Vec<usize>,
    is_turned: bool,
    /// Whether others read it, or what lies between.
    is_shared: bool,
    is_float: bool,
}

/// The product that node `at` is. None: no product over a `DequantizeLinear` of a constant.
pub(crate) fn claim<'a>(
    around: &Around<'a>,
    at: usize,
    options: &Options,
) -> Result<Option<Claim<'a>>, Left> {
    let node = &around.nodes[at];
    let Some(extra) = extra(node)? else { return Ok(None) };
    let operand = |at: usize, index: usize| {
        let operands = &around.operands[at];
        operands.get(index).copied().flatten().map(|it| around.values[it])
    };
    let is_constant =
        |found: &Found| operand(found.node, 0).map_or(Ok(false), |it| it.is_constant());
    let Some(found) = find(around, at, 1)? else {
        return match find(around, at, 0)? {
            Some(left) if is_constant(&left)? => Err("its weight is the left operand".into()),
            _ => Ok(None),
        };
    };
    if !is_constant(&found)? {
        return Ok(None);
    }
    if found.is_shared {
        return Err("what is dequantized is read elsewhere too".into());
    }
    let [codes, scales, zeros] = [0, 1, 2].map(|index| operand(found.node, index));
    let (Some(x), Some(codes), Some(scales)) = (operand(at, 0), codes, scales) else {
        return Err("an operand is missing".into());
    };
    let (shape, spread) = shape(&found, &extra, &around.nodes[found.node], [codes, scales])?;
    // The runtime multiplies the integers of these; of blocks it cannot.
    let producer =
        around.operands[at].first().copied().flatten().and_then(|it| around.producer(it));
    if !matches!(spread, Spread::Blocks(_))
        && let Some(producer) = producer
        && around.nodes[producer].op()? == OP
    {
        return Err("the activations are dequantized too".into());
    }
    if let Some(zeros) = zeros
        && zeros.dims()? != scales.dims()?
    {
        return Err("the zero points are not one for each scale".into());
    }
    let bias = if extra.has_bias { operand(at, 2) } else { None };
    if let Some(bias) = bias {
        let dims = bias.dims()?.unwrap_or_default();
        let is_row = dims.last() == Some(&shape.n) && dims.iter().product::<usize>() == shape.n;
        if !is_row || bias.kind()? != x.kind()? {
            return Err("the bias is not one value for each output".into());
        }
    }
    let exact = if x.kind()? == Kind::F32 { Planes::A22 } else { Planes::A15 };
    let planes = options.planes.or(options.level.filter(|it| *it != 0).map(planes_of));
    let others = Others { zeros, bias, outliers: None };
    let operands = [Some(x), Some(codes), Some(scales)];
    let mut claim = finish(node, shape, planes.unwrap_or(exact), operands, others)?;
    let nodes = found.between.iter().chain([&found.node]);
    claim.weight = nodes.map(|&it| around.nodes[it]).collect();
    Ok(Some(claim))
}

/// What a product does besides multiplying; None for other nodes.
fn extra(node: &Node<'_>) -> Result<Option<Extra>, Failure> {
    let is_set = |name: &str| Ok::<_, Failure>(node.int(name)?.unwrap_or(0) != 0);
    let is_factor = |name: &str| Ok::<_, Failure>(node.float(name)?.unwrap_or(1.0) != 1.0);
    Ok(match (node.domain()?, node.op()?) {
        ("" | "ai.onnx", "MatMul") => Some(Extra::default()),
        ("" | "ai.onnx", "Gemm") => {
            let has_bias = input(&node.inputs()?, 2).is_some();
            Some(Extra {
                has_factor: is_factor("alpha")? || (has_bias && is_factor("beta")?),
                turns_x: is_set("transA")?,
                turns_w: is_set("transB")?,
                has_bias,
            })
        }
        ("com.microsoft", "FusedMatMul") => Some(Extra {
            has_factor: is_factor("alpha")?,
            turns_x: is_set("transA")? || is_set("transBatchA")? || is_set("transBatchB")?,
            turns_w: is_set("transB")?,
            has_bias: false,
        }),
        _ => None,
    })
}

/// Follows an operand back to a `DequantizeLinear`.
fn find(around: &Around<'_>, at: usize, index: usize) -> Result<Option<Found>, Failure> {
    let (mut between, mut is_turned) = (Vec::new(), false);
    let (mut is_shared, mut is_float) = (false, true);
    let mut value = around.operands[at].get(index).copied().flatten();
    while let Some(from) = value {
        let Some(node) = around.producer(from) else { break };
        is_shared |= around.uses(from) != 1;
        is_float &= around.values[from].kind()?.is_float();
        let it = &around.nodes[node];
        match (it.domain()?, it.op()?) {
            ("" | "ai.onnx" | "com.microsoft", OP) => {
                return Ok(Some(Found { node, between, is_turned, is_shared, is_float }));
            }
            ("" | "ai.onnx", "Transpose") => match it.ints::<8>("perm")?.as_deref() {
                None | Some([1, 0]) => is_turned = !is_turned,
                Some([0, 1]) => {}
                _ => break,
            },
            ("" | "ai.onnx", "Identity" | "Cast") => {}
            _ => break,
        }
        between.push(node);
        value = around.operands[node].first().copied().flatten();
    }
    Ok(None)
}

/// The shape of a weight, and what shares a scale.
fn shape(
    found: &Found,
    extra: &Extra,
    node: &Node<'_>,
    [codes, scales]: [ValueInfo<'_>; 2],
) -> Result<(Shape, Spread), Left> {
    if extra.has_factor {
        return Err("the product or its bias has a factor".into());
    }
    if extra.turns_x {
        return Err("it turns its activations".into());
    }
    if !found.is_float {
        return Err("what is dequantized becomes another type".into());
    }
    let Some((bits, signed)) = codes.kind()?.codes() else {
        return Err("its weight is not codes of 2, 4 or 8 bits".into());
    };
    let (Some(dims), Some(spread)) = (codes.dims()?, scales.dims()?) else {
        return Err("the weight has no shape".into());
    };
    let Ok(dims) = <[usize; 2]>::try_from(dims) else {
        return Err("its weight has not two dimensions".into());
    };
    let is_turned = found.is_turned != extra.turns_w;
    let (k_axis, order) = if is_turned { (1, Order::Nk) } else { (0, Order::Kn) };
    let (k, n) = (dims[k_axis], dims[1 - k_axis]);
    let block = node.int("block_size")?.unwrap_or(0);
    let block = usize::try_from(block).map_err(|_| Left::from("block_size is not a size"))?;
    let axis = node.int("axis")?.unwrap_or(1);
    let spread = Spread::of((axis, block), &spread, dims, k_axis);
    let spread = spread.map_err(|error| Left::Why(error.to_string()))?;
    let form = Form::Linear { signed, order, spread };
    let shape = Shape { form, n, k, bits, block: spread.group(k) };
    match shape.has_panels() {
        Ok(()) => Ok((shape, spread)),
        Err(error) => Err(Left::Why(error.to_string())),
    }
}
