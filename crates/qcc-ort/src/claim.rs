//! Which nodes are products with low-bit weights that qcc can take.

use crate::api::Failure;
use crate::around::Around;
use crate::dequantized;
use crate::graph::{Node, ValueInfo};
use crate::options::Options;
use crate::tensor::Kind;
use crate::weight::{Beside, Form, Shape, function_of};
use qcc_kernels::{Overlay, OverlayError, Planes};

/// A node that qcc takes.
pub(crate) struct Claim<'a> {
    pub(crate) shape: Shape,
    pub(crate) planes: Planes,
    /// The activations.
    pub(crate) x: ValueInfo<'a>,
    pub(crate) codes: ValueInfo<'a>,
    pub(crate) scales: ValueInfo<'a>,
    pub(crate) zeros: Option<ValueInfo<'a>>,
    /// Scales and places of outliers.
    pub(crate) outliers: Option<[ValueInfo<'a>; 2]>,
    pub(crate) bias: Option<ValueInfo<'a>>,
    /// Nodes that make the weight of the constants, if there are any.
    pub(crate) weight: Vec<Node<'a>>,
    /// The results.
    pub(crate) y: ValueInfo<'a>,
}

/// What a product reads beside activations, codes and scales.
#[derive(Clone, Copy, Default)]
pub(crate) struct Others<'a> {
    pub(crate) zeros: Option<ValueInfo<'a>>,
    pub(crate) outliers: Option<[ValueInfo<'a>; 2]>,
    pub(crate) bias: Option<ValueInfo<'a>>,
}

/// Why a node is not taken: a property of it, or a call that failed.
pub(crate) enum Left {
    Why(String),
    Failed(Failure),
}

impl From<Failure> for Left {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<&str> for Left {
    fn from(why: &str) -> Self {
        Self::Why(why.into())
    }
}

/// Planes for an `accuracy_level`: 4 allows 8 bits, 2 and 3 the 16 bits of f16 and bf16.
pub(crate) fn planes_of(level: i64) -> Planes {
    match level {
        4 => Planes::A8,
        2 | 3 => Planes::A15,
        _ => Planes::A22,
    }
}

/// Whether a graph with the node may have products with low-bit weights.
pub(crate) fn is_of_products(node: &Node<'_>) -> Result<bool, Failure> {
    Ok(match node.domain()? {
        "ai.qcc" => true,
        _ => ["MatMulNBits", dequantized::OP].contains(&node.op()?),
    })
}

/// The product that node `at` is, or why it is left to others. None: no product with a low-bit
/// weight.
pub(crate) fn claim<'a>(
    around: &Around<'a>,
    at: usize,
    options: &Options,
) -> Result<Option<Result<Claim<'a>, String>>, Failure> {
    let node = &around.nodes[at];
    let (domain, op) = (node.domain()?, node.op()?);
    let taken = match (domain, op) {
        ("com.microsoft", "MatMulNBits") => nbits(node, options),
        ("ai.qcc", _) => match function_of(op) {
            Some((bits, beside)) => function(node, options, bits, beside),
            None => return Ok(None),
        },
        _ => match dequantized::claim(around, at, options) {
            Ok(None) => return Ok(None),
            Ok(Some(claim)) => Ok(claim),
            Err(left) => Err(left),
        },
    };
    match taken {
        Ok(claim) => Ok(Some(Ok(claim))),
        Err(Left::Why(why)) => Ok(Some(Err(why))),
        Err(Left::Failed(failure)) => Err(failure),
    }
}

fn nbits<'a>(node: &Node<'a>, options: &Options) -> Result<Claim<'a>, Left> {
    let bits = node.int("bits")?.unwrap_or(4);
    if ![2, 4, 8].contains(&bits) {
        return Err(Left::Why(format!("bits is {bits}")));
    }
    if node.int("weight_prepacked")?.unwrap_or(0) != 0 {
        return Err("the weight is packed for another device".into());
    }
    let level = node.int("accuracy_level")?.unwrap_or(0);
    let shape = shape(node, Form::NBits, bits as u8)?;
    let inputs = node.inputs()?;
    if input(&inputs, 4).is_some() {
        return Err("it has g_idx".into());
    }
    let planes = options.planes.unwrap_or(planes_of(level));
    let (zeros, bias) = (input(&inputs, 3), input(&inputs, 5));
    let others = Others { zeros, bias, outliers: None };
    finish(node, shape, planes, [0, 1, 2].map(|at| input(&inputs, at)), others)
}

fn function<'a>(
    node: &Node<'a>,
    options: &Options,
    bits: u8,
    beside: Beside,
) -> Result<Claim<'a>, Left> {
    let version = node.version()?;
    if version > 1 {
        return Err(Left::Why(format!("version {version} of ai.qcc is not known")));
    }
    let shape = shape(node, Form::Dense, bits)?;
    let inputs = node.inputs()?;
    let mut others = Others::default();
    match beside {
        Beside::Nothing => {}
        Beside::Zeros => others.zeros = Some(input(&inputs, 3).ok_or("it has no zero points")?),
        Beside::Outliers => {
            let [Some(scales), Some(places)] = [3, 4].map(|at| input(&inputs, at)) else {
                return Err("it has no outliers".into());
            };
            if shape.k > Overlay::MOST_INPUTS {
                return Err(Left::Why(OverlayError::Inputs(shape.k).to_string()));
            }
            others.outliers = Some([scales, places]);
        }
    }
    // The body multiplies floats.
    let planes = options.planes.unwrap_or(Planes::A22);
    finish(node, shape, planes, [0, 1, 2].map(|at| input(&inputs, at)), others)
}

pub(crate) fn input<'a>(inputs: &[Option<ValueInfo<'a>>], at: usize) -> Option<ValueInfo<'a>> {
    inputs.get(at).copied().flatten()
}

fn shape(node: &Node<'_>, form: Form, bits: u8) -> Result<Shape, Left> {
    let size = |name: &str| match node.int(name)?.map(usize::try_from) {
        Some(Ok(size)) if size > 0 => Ok(size),
        _ => Err(Left::Why(format!("{name} is not a size"))),
    };
    let shape = Shape { form, n: size("N")?, k: size("K")?, bits, block: size("block_size")? };
    match shape.has_panels() {
        Ok(()) => Ok(shape),
        Err(error) => Err(Left::Why(error.to_string())),
    }
}

/// A claim of operands `x`, codes and scales, whose types and kinds are looked at here.
pub(crate) fn finish<'a>(
    node: &Node<'a>,
    shape: Shape,
    planes: Planes,
    [x, codes, scales]: [Option<ValueInfo<'a>>; 3],
    others: Others<'a>,
) -> Result<Claim<'a>, Left> {
    let (Some(x), Some(codes), Some(scales)) = (x, codes, scales) else {
        return Err("an operand is missing".into());
    };
    let Some(y) = node.outputs()?.first().copied().flatten() else {
        return Err("nobody reads it".into());
    };
    let Others { zeros, outliers, bias } = others;
    for (what, value) in [
        ("the weight is", Some(codes)),
        ("the scales are", Some(scales)),
        ("the zero points are", zeros),
        ("the scales of outliers are", outliers.map(|it| it[0])),
        ("the places of outliers are", outliers.map(|it| it[1])),
        ("the bias is", bias),
    ] {
        if let Some(value) = value
            && !value.is_constant()?
        {
            return Err(Left::Why(format!("{what} not constant")));
        }
    }
    if x.is_constant()? {
        return Err("the activations are constant".into());
    }
    let kind = x.kind()?;
    if !kind.is_float() || y.kind()? != kind {
        return Err("the activations are not floats".into());
    }
    let is_linear = matches!(shape.form, Form::Linear { .. });
    let stored = codes.kind()?;
    if stored != Kind::U8 && !is_linear {
        return Err("the weight is not uint8".into());
    }
    if !scales.kind()?.is_float() {
        return Err("the scales are not floats".into());
    }
    if let Some(zeros) = zeros
        && zeros.kind()? != stored
    {
        let floats = "the zero points are floats";
        return Err(if is_linear { "the zero points are of another type" } else { floats }.into());
    }
    if let Some([scales, places]) = outliers {
        if !scales.kind()?.is_float() {
            return Err("the scales of outliers are not floats".into());
        }
        if places.kind()? != Kind::U8 {
            return Err("the places of outliers are not uint8".into());
        }
    }
    let weight = Vec::new();
    Ok(Claim { shape, planes, x, codes, scales, zeros, outliers, bias, weight, y })
}
