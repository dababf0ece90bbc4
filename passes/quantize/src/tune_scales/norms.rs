//! The weights of norms, while they are trained together with scales.
//!
//! Source: norm tweaking (arXiv 2309.02784), which trains nothing else.

use std::collections::BTreeSet;

use half::{bf16, f16};
use qcc_ir::{Graph, Kind, Node, Patch, Scope, Value};
use qcc_pass::{PassError, Tap};
use qcc_tensor::{DType, Tensor};

use super::Trained;
use super::adam::Factors;

/// Shorter vectors are no weights of a norm.
const LEAST: usize = 16;

/// How far the first step moves a weight, as a part of it.
const RATE: f32 = 0.004;

/// A vector that a norm, or a product of elements, multiplies by: each of its numbers is trained as
/// a factor of what it was.
pub(super) struct Norm {
    /// Which of the values of the whole model.
    index: usize,
    pub(super) name: String,
    value: Value,
    /// As it is stored.
    stored: Tensor,
    start: Vec<f32>,
    now: Vec<f32>,
    best: Vec<f32>,
    factors: Factors,
}

impl Norm {
    /// All of the outermost graph; `first` is the index of the first.
    pub(super) fn all(root: &Graph, first: usize) -> Result<Vec<Self>, PassError> {
        let mut found: Vec<Self> = Vec::new();
        let mut seen = BTreeSet::new();
        for id in root.topo() {
            let Some(value) = root.node(id).and_then(|it| weight_of(root, it)) else { continue };
            let Some(stored) = root.constant(value).filter(|_| seen.insert(value)) else {
                continue;
            };
            let start = stored.to_f32()?.into_owned();
            found.push(Self {
                index: first + found.len(),
                name: root.value_name(value).to_owned(),
                value,
                stored: stored.clone(),
                factors: Factors::new(start.len()),
                now: start.clone(),
                best: start.clone(),
                start,
            });
        }
        Ok(found)
    }

    /// Where it is in the graph.
    pub(super) fn tap(&self) -> Tap {
        (Scope::root(), self.value)
    }

    /// What puts the best numbers in its place; `None` when those are the ones it began with.
    pub(super) fn finish(&self, pass: &'static str) -> Result<Option<Patch>, PassError> {
        if self.best == self.start {
            return Ok(None);
        }
        let (dims, best) = (self.stored.dims().into(), self.best.iter().copied());
        let tensor = match self.stored.dtype() {
            DType::F16 => Tensor::from_vec(dims, best.map(f16::from_f32).collect())?,
            DType::BF16 => Tensor::from_vec(dims, best.map(bf16::from_f32).collect())?,
            _ => Tensor::from_vec(dims, best.collect::<Vec<f32>>())?,
        };
        let mut patch = Patch::new(pass);
        patch.replace_with_const(self.value.node, tensor);
        Ok(Some(patch))
    }

    /// A number as it will be stored.
    fn round(&self, value: f32) -> f32 {
        match self.stored.dtype() {
            DType::F16 => f16::from_f32(value).to_f32(),
            DType::BF16 => bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

impl Trained for Norm {
    fn index(&self) -> usize {
        self.index
    }

    fn rate(&self) -> f32 {
        RATE
    }

    fn tensor(&self) -> Result<Tensor, PassError> {
        Ok(Tensor::from_vec(self.stored.dims().into(), self.now.clone())?)
    }

    fn add(&mut self, gradient: &Tensor) -> Result<(), PassError> {
        let gradient = gradient.as_slice::<f32>()?;
        let each = self.factors.slopes.iter_mut().zip(gradient.iter()).zip(&self.start);
        each.for_each(|((slope, gradient), start)| *slope += gradient * start);
        Ok(())
    }

    fn step(&mut self, rate: f32, step: i32) -> bool {
        let moved = self.factors.step(rate, step);
        for at in 0..self.now.len() {
            self.now[at] = self.round(self.start[at] * self.factors.values[at]);
        }
        moved
    }

    fn keep(&mut self) {
        self.best.clone_from(&self.now);
    }
}

/// The constant vector that a node multiplies what it computes by.
fn weight_of(graph: &Graph, node: &Node) -> Option<Value> {
    let operand = |at: usize| node.inputs.get(at).copied().flatten();
    let is_weight = |it: &Value| {
        graph.constant(*it).is_some_and(|it| {
            let is_float = matches!(it.dtype(), DType::F32 | DType::F16 | DType::BF16);
            let last = it.dims().last().copied();
            is_float && it.len() >= LEAST && last == Some(it.len())
        })
    };
    let Kind::Op(op) = &node.kind else { return None };
    match op.name() {
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
            operand(1).filter(is_weight)
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            operand(2).filter(is_weight)
        }
        "Mul" => {
            let (a, b) = (operand(0)?, operand(1)?);
            // What a product of two constants gives is one.
            match (graph.constant(a), graph.constant(b)) {
                (None, Some(_)) => Some(b).filter(is_weight),
                (Some(_), None) => Some(a).filter(is_weight),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norms(text: &str) -> Vec<Norm> {
        let make = |domain: &str, name: &str, opset, attrs| {
            qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
        };
        let graphs = qcc_ir::text::parse(text, &make, &qcc_ir::text::no_bytes).unwrap();
        Norm::all(&graphs[0], 3).unwrap()
    }

    fn graph(dtype: &str) -> String {
        let ones = ["1.5"; 16].join(", ");
        format!(
            "graph @g(%x: {dtype}[2, 16]) -> (%z) {{
              %g = const {dtype}[16] [{ones}]
              %s = const {dtype}[1] [2.0]
              %n = RMSNormalization(%x, %g)
              %a = Mul(%g, %n)
              %y = Mul(%a, %s)
              %z = Add(%y, %g)
            }}"
        )
    }

    #[test]
    fn vectors_that_are_multiplied_by_are_found_once() {
        let found = norms(&graph("f32"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].index, found[0].name.as_str()), (3, "g"));
        assert!(norms("graph @g(%x: f32[2]) -> (%y) { %y = Neg(%x) }").is_empty());
    }

    #[test]
    fn a_step_goes_against_the_gradient_and_stays_in_the_type() {
        for dtype in ["f32", "f16", "bf16"] {
            let mut norm = norms(&graph(dtype)).remove(0);
            assert!(norm.finish("test").unwrap().is_none());
            let slopes: Vec<f32> = (0..16).map(|it| if it % 2 == 0 { 0.5 } else { -0.5 }).collect();
            norm.add(&Tensor::from_vec(vec![16], slopes.clone()).unwrap()).unwrap();
            assert!(norm.step(0.1, 1));
            for (now, slope) in norm.now.iter().zip(&slopes) {
                assert!((now - 1.5) * slope < 0.0, "{dtype}: {now}");
                assert_eq!(norm.round(*now), *now);
            }
            norm.keep();
            assert!(norm.finish("test").unwrap().is_some());
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_moves_nothing() {
        let mut norm = norms(&graph("f32")).remove(0);
        norm.add(&Tensor::from_vec(vec![16], vec![f32::INFINITY; 16]).unwrap()).unwrap();
        assert!(!norm.step(0.1, 1));
        assert_eq!(norm.now, norm.start);
    }
}
