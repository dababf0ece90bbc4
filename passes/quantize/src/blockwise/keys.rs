//! Keys of finished blocks: a key covers all that the numbers of a block follow from, and nothing
//! else, so that runs that differ in a later part take the earlier blocks from each other.
//!
//! Each block has two hashes, both on top of those of the block before it. One is of the float
//! model up to there: operators, constants by their bytes, and which values go on. The other adds
//! what is tuned, and how; where a block reads the float model, that of its own weights alone.

use std::collections::{BTreeMap, BTreeSet};

use blake3::Hash;
use qcc_ir::{Graph, Kind, Node, NodeId, Value, text};
use qcc_tensor::Tensor;

use super::outline::Outline;
use super::{Inputs, Options, Start};
use crate::blocks::Block;
use crate::choose::Weight;

/// What blocks follow from, by itself: before the options are known.
pub(super) struct Parts {
    /// The whole model.
    model: Hash,
    blocks: Vec<Part>,
    inputs: Inputs,
}

/// A block by itself.
struct Part {
    /// What runs.
    float: Hash,
    /// What is tuned.
    tuned: Hash,
    /// Which values later blocks read, of this block and those before it.
    live: Hash,
}

/// Keys of the blocks of a run, in hexadecimal digits.
pub(super) struct Keys(Vec<Key>);

struct Key {
    codes: Hash,
    chain: Hash,
}

impl Parts {
    /// Reads the model; the bytes of every constant once.
    pub(super) fn of(outline: &Outline, weights: &[Weight], options: Options) -> Self {
        let graph = &outline.graph;
        let order = graph.topo();
        let mut nodes = BTreeMap::new();
        for &it in &order {
            let hash = node(graph, it, &nodes);
            nodes.insert(it, hash);
        }
        // A call is one node, whatever it calls.
        let called = hashed(|all| {
            if !graph.functions().is_empty() {
                all.update(text::print(graph).as_bytes());
            }
        });
        let model = hashed(|all| {
            all.update(called.as_bytes());
            order.iter().for_each(|it| _ = all.update(nodes[it].as_bytes()));
            names(all, graph, graph.outputs().iter());
        });
        let mut known = BTreeSet::new();
        let mut blocks = Vec::with_capacity(outline.blocks.len());
        for (at, (block, reads)) in outline.blocks.iter().zip(&outline.reads).enumerate() {
            let run = run(graph, block, &known);
            let float = hashed(|all| {
                all.update(called.as_bytes());
                order.iter().filter(|it| run.contains(it)).for_each(|it| {
                    all.update(nodes[it].as_bytes());
                });
                for values in [&block.inputs, &block.side, &block.outputs, &block.others] {
                    names(all, graph, values.iter());
                }
            });
            known.extend(block.results());
            let later = outline.blocks[at + 1..].iter();
            let read: BTreeSet<Value> =
                later.flat_map(|it| it.inputs.iter().chain(&it.side)).copied().collect();
            let live = hashed(|all| names(all, graph, known.intersection(&read)));
            let tuned = hashed(|all| {
                for read in reads {
                    all.update(nodes[&read.weight.node].as_bytes());
                    names(all, graph, read.lefts.iter());
                    weight(all, &weights[read.index], options);
                }
            });
            blocks.push(Part { float, tuned, live });
        }
        Self { model, blocks, inputs: options.inputs }
    }

    /// BLAKE3 of the whole model, in hexadecimal digits.
    pub(super) fn model(&self) -> String {
        self.model.to_hex().to_string()
    }

    /// The keys where `base` is what all blocks follow from, and each has so many steps.
    pub(super) fn keys(&self, base: &str, steps: u16) -> Keys {
        let start = hashed(|all| _ = all.update(format!("{base} {steps}").as_bytes()));
        let (mut float, mut before) = (start, start);
        let each = self.blocks.iter().map(|it| {
            float = joined([float, it.float]);
            let codes = match self.inputs {
                Inputs::Quantized => joined([before, it.float, it.tuned]),
                Inputs::Float => joined([float, it.tuned]),
            };
            before = codes;
            let chain = match self.inputs {
                Inputs::Quantized => joined([codes, it.live]),
                Inputs::Float => joined([float, it.live]),
            };
            Key { codes, chain }
        });
        Keys(each.collect())
    }
}

impl Keys {
    /// That of the numbers of a block.
    pub(super) fn codes(&self, block: usize) -> Option<String> {
        Some(format!("{} codes", self.0.get(block)?.codes.to_hex()))
    }

    /// That of the samples behind it.
    pub(super) fn chain(&self, block: usize) -> Option<String> {
        Some(format!("{} chain", self.0.get(block)?.chain.to_hex()))
    }
}

fn hashed(fill: impl FnOnce(&mut blake3::Hasher)) -> Hash {
    let mut hash = blake3::Hasher::new();
    fill(&mut hash);
    hash.finalize()
}

fn joined<const N: usize>(each: [Hash; N]) -> Hash {
    hashed(|all| each.iter().for_each(|it| _ = all.update(it.as_bytes())))
}

/// Names and types of values, and how many there are.
fn names<'a>(hash: &mut blake3::Hasher, graph: &Graph, values: impl Iterator<Item = &'a Value>) {
    let mut count = 0u64;
    for it in values {
        hash.update(format!("{:?} {}\n", graph.value_name(*it), graph.ty(*it)).as_bytes());
        count += 1;
    }
    hash.update(&count.to_le_bytes());
}

/// What a node gives, from what: constants by their bytes, since a weight that is tuned has another
/// name than one that is left in float. `nodes` are those before it.
fn node(graph: &Graph, id: NodeId, nodes: &BTreeMap<NodeId, Hash>) -> Hash {
    hashed(|all| {
        let Some(node) = graph.node(id) else { return };
        match &node.kind {
            Kind::Const(it) => return tensor(all, it),
            Kind::Input(Some(it)) => tensor(all, it),
            Kind::Input(None) | Kind::Capture => {}
            Kind::Op(_) => _ = all.update(text::operator(graph, id).as_bytes()),
        }
        let captures = node.regions.iter().flat_map(|it| it.captures.iter().copied().map(Some));
        for operand in node.inputs.iter().copied().chain(captures) {
            match operand {
                Some(it) if graph.constant(it).is_some() => {
                    all.update(b"constant").update(nodes[&it.node].as_bytes());
                }
                Some(it) => names(all, graph, [it].iter()),
                None => _ = all.update(b"absent"),
            }
        }
        names(all, graph, graph.values_of(id).collect::<Vec<_>>().iter());
    })
}

fn tensor(hash: &mut blake3::Hasher, tensor: &Tensor) {
    hash.update(format!("{:?} {:?}\n", tensor.dtype(), tensor.dims()).as_bytes());
    match tensor.as_strings() {
        Some(strings) => strings.iter().for_each(|it| {
            hash.update(&(it.len() as u64).to_le_bytes()).update(it);
        }),
        None => _ = hash.update(tensor.bytes()),
    }
    tensor.release();
}

/// The nodes that a block runs on what blocks before it give, the `known` values.
fn run(graph: &Graph, block: &Block, known: &BTreeSet<Value>) -> BTreeSet<NodeId> {
    let given =
        |it: &Value| known.contains(it) && (block.inputs.contains(it) || block.side.contains(it));
    let mut found = BTreeSet::new();
    let mut open = block.results();
    while let Some(value) = open.pop() {
        if !given(&value) && found.insert(value.node) {
            open.extend(graph.node(value.node).into_iter().flat_map(Node::uses));
        }
    }
    found
}

/// How a weight is tuned, and from which numbers.
fn weight(hash: &mut blake3::Hasher, weight: &Weight, options: Options) {
    let (dtype, quant) = (weight.tensor.dtype(), &weight.quant);
    hash.update(format!("{dtype:?} {:?} {:?}\n", quant.spec, quant.form).as_bytes());
    if options.start == Start::Given
        && let Some(numbers) = &quant.numbers
    {
        let view = numbers.view();
        hash.update(&[u8::from(weight.has_outliers())]);
        let scales = bytemuck::cast_slice(view.scales);
        for bytes in [view.codes, scales, view.zeros] {
            hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(inputs: Inputs, each: [(&str, &str); 3]) -> Parts {
        let hash = |text: &str| blake3::hash(text.as_bytes());
        let part =
            |(float, tuned)| Part { float: hash(float), tuned: hash(tuned), live: hash("x") };
        Parts { model: hash("model"), blocks: each.map(part).into(), inputs }
    }

    /// Which keys of blocks, and of the samples behind them, are equal.
    fn equal(a: &Keys, b: &Keys) -> ([bool; 3], [bool; 3]) {
        (
            [0, 1, 2].map(|it| a.codes(it) == b.codes(it)),
            [0, 1, 2].map(|it| a.chain(it) == b.chain(it)),
        )
    }

    const ALL: [(&str, &str); 3] = [("a", "w"), ("b", "w"), ("c", "w")];

    #[test]
    fn a_block_follows_from_those_before_it() {
        let (yes, no) = (true, false);
        let of = |each| parts(Inputs::Quantized, each).keys("base", 4);
        let with = |at: usize, part| {
            let mut each = ALL;
            each[at] = part;
            equal(&of(ALL), &of(each))
        };
        for part in [("z", "w"), ("b", "v")] {
            assert_eq!(with(1, part), ([yes, no, no], [yes, no, no]), "{part:?}");
        }
        let swapped = [ALL[1], ALL[0], ALL[2]];
        assert_eq!(equal(&of(ALL), &of(swapped)), ([no; 3], [no; 3]));
    }

    #[test]
    fn on_float_inputs_it_follows_from_the_float_model_and_its_own_weights() {
        let (yes, no) = (true, false);
        let of = |each| parts(Inputs::Float, each).keys("base", 4);
        let tuned = equal(&of(ALL), &of([ALL[0], ("b", "v"), ALL[2]]));
        assert_eq!(tuned, ([yes, no, yes], [yes; 3]));
        let model = equal(&of(ALL), &of([ALL[0], ("z", "w"), ALL[2]]));
        assert_eq!(model, ([yes, no, no], [yes, no, no]));
    }

    #[test]
    fn other_steps_or_options_share_nothing() {
        let it = parts(Inputs::Quantized, ALL);
        for other in [it.keys("base", 5), it.keys("other", 4)] {
            assert_eq!(equal(&it.keys("base", 4), &other), ([false; 3], [false; 3]));
        }
        let keys = it.keys("base", 4);
        assert_ne!(keys.codes(0), keys.chain(0));
        assert_eq!(keys.codes(3), None);
    }
}
