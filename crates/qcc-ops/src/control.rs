//! Control flow: `If`, `Loop` and `Scan` (opset 1, 1 and 8). Their graphs are regions of the node
//! and are run by who runs the graph; here are the other attributes.
//!
//! Source: onnx/defs/controlflow/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::Tensor;

use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "If", parse: |_| Ok(Arc::new(If)) },
    OpDef { domain: "", name: "Loop", parse: |_| Ok(Arc::new(Loop)) },
    OpDef { domain: "", name: "Scan", parse: Scan::parse },
];

/// One of two regions, `then_branch` and `else_branch`, by a `bool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct If;

/// A region, `body`, again and again: `Loop(M?, cond?, v_initial..)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop;

/// A region, `body`, for each slice of its last operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// How many of the operands, the last ones, are read slice by slice.
    pub num_scan_inputs: usize,
    /// For each of these the axis of the slices; all 0 when absent.
    pub input_axes: Option<Vec<i64>>,
    /// For each of these whether the slices come in order (0) or in reverse (1); all 0 when absent.
    pub input_directions: Option<Vec<i64>>,
    /// For each result that is made slice by slice the axis; all 0 when absent.
    pub output_axes: Option<Vec<i64>>,
    /// For each of these whether a slice goes to the end (0) or to the start (1); all 0 when absent.
    pub output_directions: Option<Vec<i64>>,
    /// Whether it is the batched form of opset 8, with the lengths of the sequences as operand 0.
    pub batched: bool,
}

/// Names of the list attributes, in the order of the fields.
const LISTS: [&str; 4] =
    ["scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions"];

/// Name in opset 8 of the directions of the operands.
const DIRECTIONS: &str = "directions";

impl Scan {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let num_scan_inputs = usize::try_from(reader.need_int("num_scan_inputs")?)
            .map_err(|_| reader.error("num_scan_inputs", "is negative"))?;
        let list = |name: &str| Ok::<_, AttrError>(reader.opt_ints(name)?.map(<[i64]>::to_vec));
        if reader.opset() < 9 {
            return Ok(Arc::new(Self {
                num_scan_inputs,
                input_axes: None,
                input_directions: list(DIRECTIONS)?,
                output_axes: None,
                output_directions: None,
                batched: true,
            }));
        }
        let [a, b, c, d] = LISTS;
        Ok(Arc::new(Self {
            num_scan_inputs,
            input_axes: list(a)?,
            input_directions: list(b)?,
            output_axes: list(c)?,
            output_directions: list(d)?,
            batched: false,
        }))
    }
}

fn unknown(n_outputs: usize) -> Result<Vec<Type>, TypeError> {
    Ok(vec![Type::Unknown; n_outputs])
}

fn is_region(op: &dyn Op) -> Result<Vec<Tensor>, EvalError> {
    Err(EvalError::unsupported(op, "its regions are needed"))
}

impl Op for If {
    fn name(&self) -> &str {
        "If"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    fn infer(&self, _: &[Option<Input<'_>>], n_outputs: usize) -> Result<Vec<Type>, TypeError> {
        unknown(n_outputs)
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        is_region(self)
    }

    /// What the regions do is not seen here.
    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for Loop {
    fn name(&self) -> &str {
        "Loop"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    fn infer(&self, _: &[Option<Input<'_>>], n_outputs: usize) -> Result<Vec<Type>, TypeError> {
        unknown(n_outputs)
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        is_region(self)
    }

    /// What the region does is not seen here.
    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for Scan {
    fn name(&self) -> &str {
        "Scan"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs =
            vec![("num_scan_inputs".into(), (self.num_scan_inputs as i64).into())];
        let mut list = |name: &str, list: &Option<Vec<i64>>| {
            attrs.extend(list.clone().map(|it| (name.to_owned(), Attr::Ints(it))));
        };
        if self.batched {
            list(DIRECTIONS, &self.input_directions);
            return attrs;
        }
        let [a, b, c, d] = LISTS;
        list(a, &self.input_axes);
        list(b, &self.input_directions);
        list(c, &self.output_axes);
        list(d, &self.output_directions);
        attrs
    }

    fn infer(&self, _: &[Option<Input<'_>>], n_outputs: usize) -> Result<Vec<Type>, TypeError> {
        unknown(n_outputs)
    }

    fn eval(&self, _: &EvalCx, _: &[Option<&Tensor>], _: usize) -> Result<Vec<Tensor>, EvalError> {
        is_region(self)
    }

    /// What the region does is not seen here.
    fn is_pure(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_scan_come_back() {
        let attrs = |name: &str| -> Attrs {
            vec![("num_scan_inputs".into(), 2.into()), (name.into(), vec![0, 1].into())]
        };
        for (opset, name) in [(8, "directions"), (9, "scan_output_axes"), (24, "scan_input_axes")] {
            let op = crate::parse("", "Scan", opset, attrs(name)).unwrap();
            assert_eq!(op.attrs(), attrs(name));
            assert_eq!(op.is::<Scan>().unwrap().batched, opset < 9);
        }
        assert!(crate::parse("", "Scan", 9, attrs("directions")).is_err());
        assert!(crate::parse("", "Scan", 9, Attrs::new()).is_err());
    }
}
