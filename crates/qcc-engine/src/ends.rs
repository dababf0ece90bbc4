//! What follows products in a graph that stays as it is: for code that is called product by
//! product, and has kernels with an end of their own.

use std::sync::Arc;

use qcc_ir::{Graph, NodeId, Value};
use qcc_kernels::{Epilogue, Matrix, Planes};

use crate::fuse::{self, Candidate};

/// A product of a graph.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The node.
    pub id: NodeId,
    /// What it multiplies.
    pub x: Value,
    /// The weight.
    pub matrix: Arc<Matrix>,
    /// How exactly activations are kept.
    pub planes: Planes,
    /// Whether it adds a bias itself.
    pub has_bias: bool,
}

/// What is done with the result of a product, as far as a kernel can do it.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Which it is; never [`Epilogue::None`].
    pub epilogue: Epilogue,
    /// `[n]`, where it is a bias.
    pub bias: Option<Vec<f32>>,
    /// Where it is `silu(y) * up`, the position of the product that gives `up`.
    pub factor: Option<usize>,
    /// The last node that it stands for.
    pub last: NodeId,
}

/// The ends of the products of one graph, in their order.
///
/// A value that is added counts only where it is known to have the shape of the result: what
/// repeats has no place in rows. Types should be known (`infer-types`).
#[must_use]
pub fn ends(graph: &Graph, products: &[Standing]) -> Vec<Option<End>> {
    let mut all: Vec<Candidate> = products
        .iter()
        .map(|it| {
            let weight = (Arc::clone(&it.matrix), None);
            let bias = it.has_bias.then(Vec::new);
            Candidate::new(it.id, String::new(), it.x, weight, it.planes, bias)
        })
        .collect();
    fuse::ends(graph, &mut all, &mut Vec::new());
    let end = |(it, product): (Candidate, &Standing)| {
        let is_known = match (it.epilogue, &it.residual) {
            (Epilogue::None, _) => false,
            (Epilogue::Bias, _) => !product.has_bias,
            (Epilogue::Residual, Some(residual)) => {
                let shape = |value| graph.ty(value).shape();
                let own = Value { node: it.id, slot: 0 };
                shape(residual.value).is_some() && shape(residual.value) == shape(own)
            }
            _ => true,
        };
        let Candidate { epilogue, bias, up, value, .. } = it;
        is_known.then_some(End { epilogue, bias, factor: up, last: value.node })
    };
    all.into_iter().zip(products).map(end).collect()
}
