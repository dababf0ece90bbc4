//! Vectors of integers of which some elements are known: what `Shape` gives where a dimension is
//! open, and what is cut and joined from that. So a number that does not depend on an open dimension
//! is known before a run, whatever stands beside it.

use qcc_ir::{EvalCx, OpRef, Type};
use qcc_ops::cast::Cast;
use qcc_ops::constant::ConstantOfShape;
use qcc_ops::expand::Expand;
use qcc_ops::reshape::Reshape;
use qcc_ops::shape::Shape;
use qcc_tensor::{DType, Dim, Tensor};

use crate::facts::Fact;

/// Most elements of such a vector.
const MOST: usize = 64;

/// One element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Known(i64),
    /// A symbol, or nothing.
    Open(Dim),
}

impl From<&Dim> for Part {
    fn from(it: &Dim) -> Self {
        match it.known().map(i64::try_from) {
            Some(Ok(it)) => Self::Known(it),
            Some(Err(_)) => Self::Open(Dim::Unknown),
            None => Self::Open(it.clone()),
        }
    }
}

/// Integers in the order of their tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parts {
    dims: Vec<usize>,
    parts: Vec<Part>,
}

impl Parts {
    /// The tensor, when all elements are known.
    pub(crate) fn tensor(&self, dtype: DType) -> Option<Tensor> {
        let known = self.parts.iter().map(|it| match it {
            Part::Known(it) => Some(*it),
            Part::Open(_) => None,
        });
        let known: Vec<i64> = known.collect::<Option<_>>()?;
        match dtype {
            DType::I64 => Tensor::from_vec(self.dims.clone(), known).ok(),
            DType::I32 => {
                let small: Result<Vec<i32>, _> = known.into_iter().map(i32::try_from).collect();
                Tensor::from_vec(self.dims.clone(), small.ok()?).ok()
            }
            _ => None,
        }
    }

    fn of(fact: &Fact) -> Option<Self> {
        if let Some(it) = &fact.parts {
            return Some(it.clone());
        }
        let tensor = fact.tensor()?;
        if tensor.len() > MOST || !matches!(tensor.dtype(), DType::I64 | DType::I32) {
            return None;
        }
        let parts = tensor.to_i64().ok()?.iter().map(|&it| Part::Known(it)).collect();
        Some(Self { dims: tensor.dims().to_vec(), parts })
    }
}

/// What is known of the elements of the result of an operator that only moves integers.
pub(crate) fn parts(op: &OpRef, inputs: &[Option<&Fact>]) -> Option<Parts> {
    let first = (*inputs.first()?)?;
    if let Some(op) = op.is::<Shape>() {
        let dims = first.ty.shape()?;
        let parts: Vec<Part> = dims.get(op.range(dims.len()))?.iter().map(Part::from).collect();
        return (parts.len() <= MOST).then(|| Parts { dims: vec![parts.len()], parts });
    }
    let is_named = |names: &[&str]| names.iter().any(|it| op.is_named(it));
    let moved = match op.is::<Cast>() {
        Some(it) if matches!(it.to, DType::I64 | DType::I32) => return Parts::of(first),
        _ if is_named(&["Concat"]) => inputs.len(),
        _ if is_named(&["Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Identity"]) => 1,
        _ => return None,
    };
    // The operator moves the places of elements instead of them.
    let mut table: Vec<Part> = Vec::new();
    let mut places: Vec<Tensor> = Vec::new();
    for fact in inputs.iter().take(moved) {
        let Parts { dims, parts } = Parts::of((*fact)?)?;
        let first = table.len() as i64;
        let these = (first..).take(parts.len()).collect();
        places.push(Tensor::from_vec(dims, these).ok()?);
        table.extend(parts);
    }
    let mut operands: Vec<Option<&Tensor>> = places.iter().map(Some).collect();
    for fact in inputs.iter().skip(moved) {
        operands.push(match fact {
            Some(it) => Some(it.tensor()?),
            None => None,
        });
    }
    let result = op.eval(&EvalCx::default(), &operands, 1).ok()?.into_iter().next()?;
    let at = |&it: &i64| table.get(usize::try_from(it).ok()?).cloned();
    let parts: Vec<Part> = result.to_i64().ok()?.iter().map(at).collect::<Option<_>>()?;
    (parts.len() <= MOST).then(|| Parts { dims: result.dims().to_vec(), parts })
}

/// The dimensions of a result whose shape is an operand that is known in part.
pub(crate) fn shaped(op: &OpRef, inputs: &[Option<&Fact>]) -> Option<Vec<Dim>> {
    let of = |at: usize| inputs.get(at).copied().flatten();
    let (data, shape, keeps_zero) = if let Some(op) = op.is::<Reshape>() {
        (of(0)?.ty.shape(), of(1)?, op.allowzero)
    } else if op.is::<Expand>().is_some() {
        (None, of(1)?, true)
    } else if op.is::<ConstantOfShape>().is_some() {
        (None, of(0)?, true)
    } else {
        return None;
    };
    let parts = &shape.parts.as_ref()?.parts;
    let is_expand = op.is::<Expand>().is_some();
    let dim = |(axis, part): (usize, &Part)| match part {
        Part::Known(0) if !keeps_zero => {
            data.and_then(|it| it.get(axis).cloned()).unwrap_or(Dim::Unknown)
        }
        // The operand of an `Expand` may be wider than the shape.
        Part::Known(1) | Part::Open(_) if is_expand => Dim::Unknown,
        Part::Known(it) => usize::try_from(*it).map_or(Dim::Unknown, Dim::Known),
        Part::Open(it) => it.clone(),
    };
    if is_expand && of(0)?.ty.rank()? > parts.len() {
        return None;
    }
    Some(parts.iter().enumerate().map(dim).collect())
}

/// A type with what its shape operand tells besides.
pub(crate) fn met(ty: Type, dims: Option<Vec<Dim>>) -> Type {
    let Some(dims) = dims else { return ty };
    let other = Type::partial(None, Some(dims));
    ty.meet(&other).unwrap_or(ty)
}
