//! What is known of each value before a run: its type at the bound shapes, and its value where
//! that follows from shapes and constants alone.
//!
//! Source of the idea: constant folding of ONNX Runtime, with `Shape` answered from the type.

use std::collections::BTreeMap;

use qcc_ir::{EvalCx, EvalError, Graph, Input, Kind, Node, NodeId, Type, Value};
use qcc_ops::shape::{Shape, Size};
use qcc_tensor::{DType, Tensor, checked_len};

use crate::control;
use crate::error::{ExecError, Label};
use crate::partly::{self, Parts};

/// Most elements, of operands together and of a result, of what is computed while planning. What
/// is larger is computed when a run first needs it.
const EAGER: usize = 1 << 16;

/// When a value is known.
#[derive(Clone, Debug)]
pub(crate) enum Hold {
    /// Only in a run.
    Live,
    /// Now.
    Fixed(Tensor),
    /// Once, since it follows from constants, but it is not computed yet.
    Lazy,
}

/// What is known of one value.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) ty: Type,
    pub(crate) hold: Hold,
    /// Elements, where only some of them are known.
    pub(crate) parts: Option<Parts>,
}

impl Fact {
    pub(crate) fn fixed(tensor: Tensor) -> Self {
        Self { ty: Type::of(&tensor), hold: Hold::Fixed(tensor), parts: None }
    }

    pub(crate) fn live(ty: Type) -> Self {
        Self { ty, hold: Hold::Live, parts: None }
    }

    pub(crate) fn tensor(&self) -> Option<&Tensor> {
        match &self.hold {
            Hold::Fixed(it) => Some(it),
            Hold::Live | Hold::Lazy => None,
        }
    }
}

/// What is known of all values, and why some nodes cannot be run.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) values: BTreeMap<Value, Fact>,
    pub(crate) errors: BTreeMap<NodeId, ExecError>,
}

impl Facts {
    pub(crate) fn get(&self, value: Value) -> Option<&Fact> {
        self.values.get(&value)
    }

    /// Finds out about the outputs of a node; its operands must be settled.
    pub(crate) fn settle(&mut self, graph: &Graph, id: NodeId, node: &Node) {
        let facts = match &node.kind {
            Kind::Const(tensor) | Kind::Input(Some(tensor)) => vec![Fact::fixed(tensor.clone())],
            Kind::Input(None) | Kind::Capture => {
                let name = node.outputs.first().map_or("", |it| &it.name);
                if !self.values.contains_key(&Value { node: id, slot: 0 }) {
                    self.errors.insert(id, ExecError::input(name, "is missing"));
                }
                vec![Fact::live(Type::Unknown)]
            }
            Kind::Op(_) => match self.of_op(node) {
                Ok(facts) => facts,
                Err((inputs, error)) => {
                    let error = ExecError::node(&Label::of(node), &inputs, error);
                    self.errors.insert(id, error);
                    Vec::new()
                }
            },
        };
        let facts = facts.into_iter().chain(std::iter::repeat(Fact::live(Type::Unknown)));
        for (value, fact) in graph.values_of(id).zip(facts) {
            self.values.entry(value).or_insert(fact); // given values stay
        }
    }

    fn of_op(&self, node: &Node) -> Result<Vec<Fact>, (Vec<Option<Type>>, EvalError)> {
        let Some(op) = node.op() else { return Ok(Vec::new()) };
        if control::is_control(op) {
            let types = control::types(self, node);
            return Ok(types.into_iter().map(Fact::live).collect());
        }
        let facts: Vec<Option<&Fact>> =
            node.inputs.iter().map(|it| it.and_then(|it| self.get(it))).collect();
        let fail =
            |error: EvalError| (facts.iter().map(|it| it.map(|it| it.ty.clone())).collect(), error);
        let inputs: Vec<Option<Input<'_>>> =
            facts.iter().map(|it| it.map(|it| Input { ty: &it.ty, value: it.tensor() })).collect();
        let types = op.infer(&inputs, node.outputs.len()).map_err(|it| fail(it.into()))?;
        // The dimensions of a value may be known where the value is not.
        let of_shape = match facts.as_slice() {
            [Some(it)] if op.is::<Size>().is_some() => {
                let count = it.ty.known_dims().and_then(|it| checked_len(&it));
                count.map(|it| Tensor::scalar(it as i64))
            }
            [Some(it)] => op.is::<Shape>().and_then(|op| op.value_of(&it.ty)),
            _ => None,
        };
        if let Some(value) = of_shape {
            return Ok(vec![Fact::fixed(value)]);
        }
        let is_live = |it: &Option<&Fact>| it.is_some_and(|it| matches!(it.hold, Hold::Live));
        if !op.is_pure() || !node.regions.is_empty() || facts.iter().any(is_live) {
            let parts = if op.is_pure() { partly::parts(op, &facts) } else { None };
            let dims = partly::shaped(op, &facts);
            let mut types = types.into_iter();
            let first = types.next().map(|it| partly::met(it, dims));
            let dtype = first.as_ref().and_then(Type::dtype);
            if let Some(value) = parts.as_ref().zip(dtype).and_then(|(it, dtype)| it.tensor(dtype))
            {
                return Ok(vec![Fact::fixed(value)]);
            }
            let first = first.map(|ty| Fact { ty, hold: Hold::Live, parts });
            return Ok(first.into_iter().chain(types.map(Fact::live)).collect());
        }
        let tensors: Vec<Option<&Tensor>> =
            facts.iter().map(|it| it.and_then(Fact::tensor)).collect();
        let is_known = facts.iter().zip(&tensors).all(|(a, b)| a.is_some() == b.is_some());
        let total = tensors.iter().flatten().try_fold(0usize, |sum, it| sum.checked_add(it.len()));
        let is_small = total.is_some_and(|it| it <= EAGER)
            && types.iter().all(|it| count(it).is_none_or(|it| it <= EAGER));
        if is_known && is_small {
            let values = op.eval(&EvalCx::default(), &tensors, node.outputs.len());
            return Ok(values.map_err(fail)?.into_iter().map(Fact::fixed).collect());
        }
        Ok(types.into_iter().map(|ty| Fact { ty, hold: Hold::Lazy, parts: None }).collect())
    }
}

/// Number of elements, if the type tells it.
fn count(ty: &Type) -> Option<usize> {
    Some(checked_len(&ty.known_dims()?).unwrap_or(usize::MAX))
}

/// Bytes of a value of this type; 0 when it does not tell.
pub(crate) fn bytes(ty: &Type) -> usize {
    let size = |dtype: DType| dtype.size_of(count(ty)?);
    ty.dtype().and_then(size).unwrap_or(0)
}
