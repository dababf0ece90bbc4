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
    /// Which it is, behind what the product does itself; never [`Epilogue::None`].
    pub epilogue: Epilogue,
    /// `[n]`, where it adds a bias.
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
    // What gives a factor is called by itself, so that a bias behind it is not in its result.
    let is_whole: Vec<bool> =
        all.iter().zip(products).map(|(it, of)| of.has_bias || it.bias.is_none()).collect();
    let end = |(it, product): (Candidate, &Standing)| {
        let fits = match (&it.residual, it.up) {
            (Some(residual), _) => {
                let shape = |value| graph.ty(value).shape();
                let own = Value { node: it.id, slot: 0 };
                shape(residual.value).is_some() && shape(residual.value) == shape(own)
            }
            (None, Some(up)) => is_whole.get(up) == Some(&true),
            (None, None) => true,
        };
        let Candidate { epilogue, bias, up, value, .. } = it;
        let (epilogue, bias) =
            if product.has_bias { (epilogue.behind_bias(), None) } else { (epilogue, bias) };
        let is_end = fits && epilogue != Epilogue::None;
        is_end.then_some(End { epilogue, bias, factor: up, last: value.node })
    };
    all.into_iter().zip(products).map(end).collect()
}
