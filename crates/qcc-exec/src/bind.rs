//! Inputs of a plan: which values of the graph are given, and what is known of them.

use std::collections::BTreeMap;

use qcc_ir::{Graph, Kind, Type, Value};
use qcc_tensor::{DType, Dim, Tensor};

use crate::ExecError;

/// What a plan is told of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Each run brings a tensor of this element type and of these dimensions.
    Shape(DType, Vec<usize>),
    /// Each run brings a tensor of this element type and rank. A symbol is the same size wherever it
    /// stands in one run, and any size in another one.
    Open(DType, Vec<Dim>),
    /// It is this tensor in every run, so what follows from it is computed once.
    Value(Tensor),
}

impl Bound {
    /// Element type and dimensions of a tensor.
    pub fn like(tensor: &Tensor) -> Self {
        Self::Shape(tensor.dtype(), tensor.dims().to_vec())
    }

    fn ty(&self) -> Type {
        match self {
            Self::Shape(dtype, dims) => Type::tensor(*dtype, dims.iter().copied()),
            Self::Open(dtype, dims) => Type::tensor(*dtype, dims.iter().cloned()),
            Self::Value(tensor) => Type::of(tensor),
        }
    }
}

/// Values that are given, not computed.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Brought by each run, in the order in which the run brings them.
    pub(crate) fed: Vec<(Value, Type)>,
    /// The same in every run.
    pub(crate) fixed: Vec<(Value, Tensor)>,
}

/// Finds the values that are bound. A name of the graph that is not one of its inputs cuts the
/// graph there: the value is then given instead of computed.
///
/// # Errors
/// When there is no value of that name, or an input of the graph does not allow the type.
pub(crate) fn bind(graph: &Graph, inputs: &[(String, Bound)]) -> Result<Given, ExecError> {
    let mut names = BTreeMap::new();
    for (node, it) in graph.nodes() {
        for (slot, output) in (0u32..).zip(&it.outputs) {
            names.insert(output.name.as_str(), Value { node, slot });
        }
    }
    let mut given = Given::default();
    for (name, bound) in inputs {
        let value = names.get(name.as_str()).filter(|_| !name.is_empty());
        let &value = value.ok_or_else(|| ExecError::input(name, "is not in the model"))?;
        let ty = bound.ty();
        let declared = graph.ty(value);
        let is_input = graph.node(value.node).is_some_and(|it| matches!(it.kind, Kind::Input(_)));
        if is_input && declared.meet(&ty).is_none() {
            return Err(ExecError::input(name, format!("is {ty}, but the model takes {declared}")));
        }
        match bound {
            Bound::Shape(..) | Bound::Open(..) => given.fed.push((value, ty)),
            Bound::Value(tensor) => given.fixed.push((value, tensor.clone())),
        }
    }
    Ok(given)
}

/// Checks what one run brings: each tensor against its type, and each symbol against the size that
/// it has elsewhere in this run.
pub(crate) fn check<'a>(
    fed: impl Iterator<Item = (&'a str, &'a Type, &'a Tensor)>,
) -> Result<(), ExecError> {
    let mut sizes: Vec<(&str, usize, &str)> = Vec::new();
    for (name, want, tensor) in fed {
        let dims = want.shape().unwrap_or_default();
        let fits = |(dim, &size): (&Dim, &usize)| dim.known().is_none_or(|it| it == size);
        if want.dtype() != Some(tensor.dtype())
            || dims.len() != tensor.rank()
            || !dims.iter().zip(tensor.dims()).all(fits)
        {
            let what = format!("is {}, but the plan is for {want}", Type::of(tensor));
            return Err(ExecError::input(name, what));
        }
        for (dim, &size) in dims.iter().zip(tensor.dims()) {
            let Dim::Symbol(symbol) = dim else { continue };
            match sizes.iter().find(|it| it.0 == &**symbol) {
                Some(&(_, known, other)) if known != size => {
                    let ty = Type::of(tensor);
                    let what = format!("is {ty}, but '{symbol}' is {known} in input '{other}'");
                    return Err(ExecError::input(name, what));
                }
                Some(_) => {}
                None => sizes.push((symbol, size, name)),
            }
        }
    }
    Ok(())
}
