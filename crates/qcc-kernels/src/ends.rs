//! What a graph does with the result of a product, as far as a kernel can do it at its end: see
//! [`Epilogue`].
//!
//! | Graph | Found by | Kernel |
//! |---|---|---|
//! | `Add(y, v)` | [`added`] | bias, or residual |
//! | `Gelu(y)` | [`gelu`] | gelu, or gelutanh |
//! | `Mul(Mul(y, Sigmoid(y)), v)`, or with a SiLU in one node | [`gated`] | silumul |
//!
//! Each of them may come behind the addition of a bias. What is found is read by nobody else on the
//! way. Any program that has a graph may ask: it tells of its own by [`Readers`].

use crate::spec::Epilogue;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sum of two values.
    Add,
    /// The product of two values, by element.
    Mul,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x / (1 + e^-x)`, in one node.
    Silu,
    /// GELU with the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// Something else.
    Other,
}

/// A graph, as far as it has to be known here.
pub trait Readers {
    /// Names a node.
    type Node: Copy + PartialEq;
    /// Names a value.
    type Value: Copy + PartialEq;

    /// The nodes that read a value, each once.
    fn users(&self, value: Self::Value) -> Vec<Self::Node>;

    /// How often a value is read, by nodes, by graphs inside them, and as a result of the graph.
    fn uses(&self, value: Self::Value) -> usize;

    /// What a node does.
    fn step(&self, node: Self::Node) -> Step;

    /// What a node reads, in its order; None for what it does without.
    fn operands(&self, node: Self::Node) -> Vec<Option<Self::Value>>;

    /// The first result of a node.
    fn result(&self, node: Self::Node) -> Self::Value;
}

/// An addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added<N, V> {
    /// The addition.
    pub node: N,
    /// The other operand.
    pub other: V,
    /// Whether that is the left one.
    pub is_left: bool,
}

/// What becomes of a result that goes through SiLU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gated<N, V> {
    /// `silu(y) * factor`.
    Product {
        /// Nodes from the first reader of y on; the last one gives the product.
        nodes: Vec<N>,
        /// What SiLU is multiplied with.
        factor: V,
    },
    /// Something else is done with the SiLU.
    Apart,
}

/// The only reader of a value, and which operand it is there; None when there are others, or the
/// value is a result of the graph.
pub fn only_reader<G: Readers>(graph: &G, value: G::Value) -> Option<(G::Node, usize)> {
    let [node] = graph.users(value)[..] else { return None };
    let at = graph.operands(node).iter().position(|it| *it == Some(value))?;
    (graph.uses(value) == 1).then_some((node, at))
}

/// The other operand of a node of two, of which `value` is one.
pub fn other<G: Readers>(graph: &G, node: G::Node, value: G::Value) -> Option<G::Value> {
    match graph.operands(node)[..] {
        [Some(a), Some(b)] if a == value => Some(b),
        [Some(a), Some(b)] if b == value => Some(a),
        _ => None,
    }
}

/// The addition that is the only reader of a value.
pub fn added<G: Readers>(graph: &G, value: G::Value) -> Option<Added<G::Node, G::Value>> {
    let (node, at) = only_reader(graph, value)?;
    let is_add = graph.step(node) == Step::Add;
    let other = other(graph, node, value).filter(|_| is_add)?;
    Some(Added { node, other, is_left: at == 1 })
}

/// The GELU that is the only reader of a value, and which it is.
pub fn gelu<G: Readers>(graph: &G, value: G::Value) -> Option<(G::Node, Epilogue)> {
    let (node, _) = only_reader(graph, value)?;
    let epilogue = match graph.step(node) {
        Step::Gelu => Epilogue::Gelu,
        Step::GeluTanh => Epilogue::GeluTanh,
        _ => return None,
    };
    Some((node, epilogue))
}

/// What follows the SiLU of a value; None where the value goes elsewhere.
pub fn gated<G: Readers>(graph: &G, value: G::Value) -> Option<Gated<G::Node, G::Value>> {
    let mut nodes = silu(graph, value)?;
    let silu = graph.result(*nodes.last()?);
    let times = only_reader(graph, silu).filter(|it| graph.step(it.0) == Step::Mul);
    let factor = times.and_then(|(mul, _)| Some((mul, other(graph, mul, silu)?)));
    Some(match factor {
        Some((mul, factor)) => {
            nodes.push(mul);
            Gated::Product { nodes, factor }
        }
        None => Gated::Apart,
    })
}

/// Nodes that make `silu(value)`, if nobody reads what lies between.
fn silu<G: Readers>(graph: &G, value: G::Value) -> Option<Vec<G::Node>> {
    if let Some((node, _)) = only_reader(graph, value) {
        return (graph.step(node) == Step::Silu).then(|| vec![node]);
    }
    let users = graph.users(value);
    let &sigmoid = users.iter().find(|&&it| graph.step(it) == Step::Sigmoid)?;
    let sigma = graph.result(sigmoid);
    let (mul, _) = only_reader(graph, sigma).filter(|it| graph.step(it.0) == Step::Mul)?;
    let is_both = other(graph, mul, sigma) == Some(value) && graph.uses(value) == 2;
    is_both.then(|| vec![sigmoid, mul])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes with the values that they read; node i gives value 10 + i. Values below are inputs.
    struct Few {
        nodes: Vec<(Step, Vec<usize>)>,
        results: Vec<usize>,
    }

    impl Readers for Few {
        type Node = usize;
        type Value = usize;

        fn users(&self, value: usize) -> Vec<usize> {
            (0..self.nodes.len()).filter(|&it| self.nodes[it].1.contains(&value)).collect()
        }

        fn uses(&self, value: usize) -> usize {
            let reads = self.nodes.iter().flat_map(|it| &it.1).chain(&self.results);
            reads.filter(|it| **it == value).count()
        }

        fn step(&self, node: usize) -> Step {
            self.nodes[node].0
        }

        fn operands(&self, node: usize) -> Vec<Option<usize>> {
            self.nodes[node].1.iter().copied().map(Some).collect()
        }

        fn result(&self, node: usize) -> usize {
            10 + node
        }
    }

    fn few(nodes: &[(Step, &[usize])], results: &[usize]) -> Few {
        let nodes = nodes.iter().map(|it| (it.0, it.1.to_vec())).collect();
        Few { nodes, results: results.to_vec() }
    }

    /// Value 0 is the result of a product.
    fn gate(swapped: bool, more: &[usize]) -> Few {
        let pair = |a: usize, b: usize| if swapped { [b, a] } else { [a, b] };
        let results: Vec<usize> = [12].iter().chain(more).copied().collect();
        few(
            &[(Step::Sigmoid, &[0]), (Step::Mul, &pair(0, 10)), (Step::Mul, &pair(11, 1))],
            &results,
        )
    }

    #[test]
    fn silu_times_something_in_any_order() {
        for swapped in [false, true] {
            let found = gated(&gate(swapped, &[]), 0);
            assert_eq!(found, Some(Gated::Product { nodes: vec![0, 1, 2], factor: 1 }));
        }
        let one = few(&[(Step::Silu, &[0]), (Step::Mul, &[1, 10])], &[11]);
        assert_eq!(gated(&one, 0), Some(Gated::Product { nodes: vec![0, 1], factor: 1 }));
    }

    #[test]
    fn what_others_read_is_not_taken() {
        assert_eq!(gated(&gate(false, &[0]), 0), None);
        assert_eq!(gated(&gate(false, &[10]), 0), None);
        assert_eq!(gated(&gate(false, &[11]), 0), Some(Gated::Apart));
        // The square of a SiLU, and a SiLU that is a result.
        let square = few(&[(Step::Silu, &[0]), (Step::Mul, &[10, 10])], &[11]);
        assert_eq!(gated(&square, 0), Some(Gated::Apart));
        assert_eq!(gated(&few(&[(Step::Silu, &[0])], &[10]), 0), Some(Gated::Apart));
        // y sigmoid(z) is no SiLU of y.
        let mixed = few(&[(Step::Sigmoid, &[2]), (Step::Mul, &[0, 10])], &[11]);
        assert_eq!(gated(&mixed, 0), None);
    }

    #[test]
    fn additions_and_gelu() {
        for (operands, is_left) in [([0, 1], false), ([1, 0], true)] {
            let graph = few(&[(Step::Add, &operands)], &[10]);
            assert_eq!(added(&graph, 0), Some(Added { node: 0, other: 1, is_left }));
        }
        assert_eq!(added(&few(&[(Step::Add, &[0, 0])], &[10]), 0), None);
        assert_eq!(added(&few(&[(Step::Add, &[0, 1])], &[10, 0]), 0), None);
        assert_eq!(added(&few(&[(Step::Mul, &[0, 1])], &[10]), 0), None);
        let found = |step| gelu(&few(&[(step, &[0])], &[10]), 0);
        assert_eq!(found(Step::Gelu), Some((0, Epilogue::Gelu)));
        assert_eq!(found(Step::GeluTanh), Some((0, Epilogue::GeluTanh)));
        assert_eq!(found(Step::Silu), None);
        assert_eq!(gelu(&few(&[(Step::Gelu, &[0])], &[10, 0]), 0), None);
    }
}
