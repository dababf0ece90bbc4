//! Which nodes are products with low-bit weights that qcc can take.

use crate::api::Failure;
use crate::graph::{Node, ValueInfo};
use crate::options::Options;
use crate::tensor::Kind;
use crate::weight::{Form, Shape};
use qcc_kernels::Planes;

/// A node that qcc takes.
pub(crate) struct Claim<'a> {
    pub(crate) shape: Shape,
    pub(crate) planes: Planes,
    /// The activations.
    pub(crate) x: ValueInfo<'a>,
    pub(crate) codes: ValueInfo<'a>,
    pub(crate) scales: ValueInfo<'a>,
    pub(crate) zeros: Option<ValueInfo<'a>>,
    pub(crate) bias: Option<ValueInfo<'a>>,
    /// The results.
    pub(crate) y: ValueInfo<'a>,
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
fn planes_of(level: i64) -> Planes {
    match level {
        4 => Planes::A8,
        2 | 3 => Planes::A15,
        _ => Planes::A22,
    }
}

/// The product that a node is, or why it is left to others. None: no product with a low-bit weight.
pub(crate) fn claim<'a>(
    node: &Node<'a>,
    options: &Options,
) -> Result<Option<Result<Claim<'a>, String>>, Failure> {
    let (domain, op) = (node.domain()?, node.op()?);
    let taken = match (domain, op) {
        ("com.microsoft", "MatMulNBits") => nbits(node, options),
        ("ai.qcc", _) => match Form::of_function(op) {
            Some((bits, zeros)) => function(node, options, bits, zeros),
            None if op.ends_with("Outliers") => Err("it has outliers".into()),
            None => return Ok(None),
        },
        _ => return Ok(None),
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
    finish(node, shape, planes, &inputs, input(&inputs, 3), input(&inputs, 5))
}

fn function<'a>(
    node: &Node<'a>,
    options: &Options,
    bits: u8,
    zeros: bool,
) -> Result<Claim<'a>, Left> {
    let version = node.version()?;
    if version > 1 {
        return Err(Left::Why(format!("version {version} of ai.qcc is not known")));
    }
    let shape = shape(node, Form::Dense, bits)?;
    let inputs = node.inputs()?;
    let zeros = if zeros { Some(input(&inputs, 3).ok_or("it has no zero points")?) } else { None };
    // The body multiplies floats.
    let planes = options.planes.unwrap_or(Planes::A22);
    finish(node, shape, planes, &inputs, zeros, None)
}

fn input<'a>(inputs: &[Option<ValueInfo<'a>>], at: usize) -> Option<ValueInfo<'a>> {
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

fn finish<'a>(
    node: &Node<'a>,
    shape: Shape,
    planes: Planes,
    inputs: &[Option<ValueInfo<'a>>],
    zeros: Option<ValueInfo<'a>>,
    bias: Option<ValueInfo<'a>>,
) -> Result<Claim<'a>, Left> {
    let [Some(x), Some(codes), Some(scales)] = [0, 1, 2].map(|at| input(inputs, at)) else {
        return Err("an operand is missing".into());
    };
    let Some(y) = node.outputs()?.first().copied().flatten() else {
        return Err("nobody reads it".into());
    };
    for (what, value) in [
        ("the weight is", Some(codes)),
        ("the scales are", Some(scales)),
        ("the zero points are", zeros),
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
    if codes.kind()? != Kind::U8 {
        return Err("the weight is not uint8".into());
    }
    if !scales.kind()?.is_float() {
        return Err("the scales are not floats".into());
    }
    if let Some(zeros) = zeros
        && zeros.kind()? != Kind::U8
    {
        return Err("the zero points are floats".into());
    }
    Ok(Claim { shape, planes, x, codes, scales, zeros, bias, y })
}
