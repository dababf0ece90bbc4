//! Which nodes of a graph run as one: products of the same activations, each with what the graph
//! does with its result where its kernel can do that.
//!
//! | Graph | Kernel |
//! |---|---|
//! | `Add(y, c)`, c a constant of N values | bias |
//! | `Gelu(y)` with erf, `FastGelu(y)` without a bias | gelu, gelutanh |
//! | `Mul(Mul(y, Sigmoid(y)), up)`, or with a SiLU in one node | silumul; `up` is a product of the same activations |
//!
//! A kernel may add a bias and do one of the others behind it. What such a graph must look like is
//! found by [`qcc_kernels::ends`]. A group reads its
//! activations and constants only, so that nothing outside of it lies between its nodes.

use crate::api::Failure;
use crate::around::Around;
use crate::attention::{self, is_attention};
use crate::claim::{Claim, Left, claim, is_of_products};
use crate::graph::{Graph, Node, ValueInfo};
use crate::norms::Norm;
use crate::options::Options;
use qcc_kernels::Epilogue;
use qcc_kernels::ends::{self, Gated};
use std::collections::BTreeMap;

/// What runs in the place of some nodes of a graph.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// Products by their activations.
    pub(crate) groups: Vec<Bundle<'a>>,
    /// Attention over caches, to be taken where there are groups.
    pub(crate) attentions: Vec<attention::Claim<'a>>,
    /// Attention that is not taken, and why.
    pub(crate) left_attentions: Vec<(Node<'a>, String)>,
    /// Products that are not taken, and why.
    pub(crate) left: Vec<(Node<'a>, String)>,
}

/// Products of the same activations.
#[derive(Default)]
pub(crate) struct Bundle<'a> {
    pub(crate) units: Vec<Unit<'a>>,
    /// What gives the activations, where nobody else reads them.
    pub(crate) norm: Option<Norm<'a>>,
}

impl<'a> Bundle<'a> {
    /// All nodes that it stands for.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'a>> {
        let norm = self.norm.iter().map(|it| it.node);
        norm.chain(self.units.iter().flat_map(Unit::all_nodes))
    }
}

/// A product with its end.
pub(crate) struct Unit<'a> {
    pub(crate) claim: Claim<'a>,
    pub(crate) epilogue: Epilogue,
    /// What is added, if that is not an operand of the product.
    pub(crate) bias: Option<ValueInfo<'a>>,
    /// The other factor of SiLU.
    pub(crate) up: Option<Box<Unit<'a>>>,
    /// The result.
    pub(crate) y: ValueInfo<'a>,
    /// Its number, where one is known.
    at: Option<usize>,
    /// The nodes that it stands for beside those of the weight, the product first.
    pub(crate) nodes: Vec<Node<'a>>,
}

impl<'a> Unit<'a> {
    /// The constant that is added.
    pub(crate) fn added(&self) -> Option<ValueInfo<'a>> {
        self.bias.or(self.claim.bias)
    }

    /// This and the other factor, if there is one.
    pub(crate) fn products(&self) -> impl Iterator<Item = &Self> {
        [Some(self), self.up.as_deref()].into_iter().flatten()
    }

    /// Nodes of all products and their weights.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = Node<'a>> {
        self.products().flat_map(|it| it.nodes.iter().chain(&it.claim.weight).copied())
    }
}

impl<'a> Plan<'a> {
    /// Finds products and attention.
    pub(crate) fn of(graph: &Graph<'a>, options: &Options) -> Result<Self, Failure> {
        let mut plan = Self::default();
        let (nodes, mut units) = (graph.nodes()?, Vec::new());
        let mut may_be_taken = false;
        for node in &nodes {
            may_be_taken |= is_of_products(node)? || is_attention(node)?;
        }
        if !may_be_taken {
            return Ok(plan);
        }
        let around = Around::new(nodes)?;
        for (at, node) in around.nodes.iter().enumerate() {
            if options.attention && is_attention(node)? {
                match attention::Claim::of(node) {
                    Ok(claim) => plan.attentions.push(claim),
                    Err(Left::Why(why)) => plan.left_attentions.push((*node, why)),
                    Err(Left::Failed(failure)) => return Err(failure),
                }
            }
            match claim(&around, at, options)? {
                None => {}
                Some(Ok(claim)) => {
                    let given = if claim.bias.is_some() { Epilogue::Bias } else { Epilogue::None };
                    let (y, nodes) = (claim.y, vec![*node]);
                    let (bias, up, at_y) = (None, None, around.results[at]);
                    let unit = Unit { claim, epilogue: given, bias, up, y, at: at_y, nodes };
                    units.push((at, Some(unit)));
                }
                Some(Err(why)) => plan.left.push((*node, why)),
            }
        }
        around.ends(&mut units)?;
        let mut by_input = BTreeMap::new();
        for unit in units.into_iter().filter_map(|it| it.1) {
            let next = plan.groups.len();
            let at = *by_input.entry(unit.claim.x.name()?).or_insert(next);
            if at == next {
                plan.groups.push(Bundle::default());
            }
            plan.groups[at].units.push(unit);
        }
        for bundle in &mut plan.groups {
            bundle.norm = Norm::before(&around, &bundle.units)?;
        }
        Ok(plan)
    }

    /// Products that are taken.
    pub(crate) fn products(&self) -> usize {
        self.units().map(|it| it.products().count()).sum()
    }

    fn units(&self) -> impl Iterator<Item = &Unit<'a>> {
        self.groups.iter().flat_map(|it| &it.units)
    }

    /// Norms before products that are taken with them.
    pub(crate) fn norms(&self) -> usize {
        self.groups.iter().filter(|it| it.norm.is_some()).count()
    }

    /// Nodes after products that are taken with them.
    pub(crate) fn ends(&self) -> usize {
        self.units().flat_map(Unit::products).map(|it| it.nodes.len() - 1).sum()
    }
}

/// A unit by the number of its product; None where another one has it.
type Units<'a> = Vec<(usize, Option<Unit<'a>>)>;

impl<'a> Around<'a> {
    /// Gives products the ends that their kernels can do.
    fn ends(&self, units: &mut Units<'a>) -> Result<(), Failure> {
        for unit in units.iter_mut().filter_map(|it| it.1.as_mut()) {
            self.bias(unit)?;
            self.gelu(unit);
        }
        for at in 0..units.len() {
            self.gate(units, at)?;
        }
        Ok(())
    }

    /// Takes nodes in, of which the last one gives the result.
    fn take(&self, unit: &mut Unit<'a>, nodes: &[usize], end: Epilogue) {
        let Some(y) = nodes.last().and_then(|&it| self.results[it]) else { return };
        let Some(epilogue) = unit.epilogue.then(end) else { return };
        unit.nodes.extend(nodes.iter().map(|&it| self.nodes[it]));
        unit.epilogue = epilogue;
        (unit.y, unit.at) = (self.values[y], Some(y));
    }

    fn bias(&self, unit: &mut Unit<'a>) -> Result<(), Failure> {
        let Some(y) = unit.at.filter(|_| unit.epilogue == Epilogue::None) else { return Ok(()) };
        let Some(added) = ends::added(self, y) else { return Ok(()) };
        let value = self.values[added.other];
        // Of any other shape it may be added to other places.
        let fits = value.is_constant()?
            && value.kind()? == unit.claim.y.kind()?
            && value.tensor()?.dims == [unit.claim.shape.n as i64];
        if fits {
            unit.bias = Some(value);
            self.take(unit, &[added.node], Epilogue::Bias);
        }
        Ok(())
    }

    fn gelu(&self, unit: &mut Unit<'a>) {
        if let Some((node, end)) = unit.at.and_then(|y| ends::gelu(self, y)) {
            self.take(unit, &[node], end);
        }
    }

    fn gate(&self, units: &mut Units<'a>, at: usize) -> Result<(), Failure> {
        // At most a bias is in it yet.
        let plain =
            |unit: &&Unit<'a>| unit.epilogue.behind_bias() == Epilogue::None && unit.up.is_none();
        let gate = units[at].1.as_ref().filter(plain);
        let Some(y) = gate.and_then(|it| it.at) else { return Ok(()) };
        let Some(Gated::Product { nodes, factor }) = ends::gated(self, y) else { return Ok(()) };
        let is_factor = |it: &(usize, Option<Unit<'a>>)| {
            it.1.as_ref().filter(plain).is_some_and(|it| it.at == Some(factor))
        };
        let Some(up) = units.iter().position(is_factor) else { return Ok(()) };
        let ([Some(a), Some(b)], 1) = ([at, up].map(|it| units[it].1.as_ref()), self.uses[factor])
        else {
            return Ok(());
        };
        let alike = a.claim.shape == b.claim.shape && a.claim.planes == b.claim.planes;
        if !alike || a.claim.x.name()? != b.claim.x.name()? {
            return Ok(());
        }
        let up = units[up].1.take();
        if let Some(gate) = &mut units[at].1 {
            gate.up = up.map(Box::new);
            self.take(gate, &nodes, Epilogue::SiluMul);
        }
        Ok(())
    }
}
