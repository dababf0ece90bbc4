//! What follows a product and is done by its kernel: a bias, GELU, `silu(gate) * up`, an addition.
//! What a graph must look like for that is found by [`qcc_kernels::ends`].
//!
//! A kernel does a bias, one of the others, or one of them behind a bias. Each is taken in only if
//! nobody else reads what lies between.
//!
//! | Graph | Kernel |
//! |---|---|
//! | `Add(y, c)`, c a constant of one value per output | bias |
//! | `Gelu(y)`, of ONNX or `com.microsoft` | gelu |
//! | `Gelu(y)` by tanh, or `FastGelu(y)` without a bias | gelutanh |
//! | `Mul(Mul(y, Sigmoid(y)), up)`, or with `Swish(y)` or `QuickGelu(y)` of factor 1 | silumul; `up` is a product of the same activations |
//! | `Add(y, v)`, any other v | residual |

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_ir::{Graph, NodeId, OpRef, Value};
use qcc_kernels::ends::{self, Added, Gated, Readers, Step};
use qcc_kernels::{ActLayout, Epilogue, Matrix, Overlay, Planes};
use qcc_ops::activation::Activation;
use qcc_ops::contrib_activation::ContribActivation;

use crate::lower::Stays;

/// A product that becomes a kernel, and what it takes in.
pub(crate) struct Candidate {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) x: Value,
    pub(crate) matrix: Arc<Matrix>,
    pub(crate) overlay: Option<Arc<Overlay>>,
    pub(crate) planes: Planes,
    pub(crate) epilogue: Epilogue,
    pub(crate) bias: Option<Vec<f32>>,
    /// The candidate whose result is the other factor.
    pub(crate) up: Option<usize>,
    pub(crate) residual: Option<Residual>,
    /// What it computes: its own result, or that of the last operator that it takes in.
    pub(crate) value: Value,
    /// Whether another one takes it in.
    pub(crate) is_taken: bool,
}

/// What is added.
pub(crate) struct Residual {
    pub(crate) value: Value,
    pub(crate) is_left: bool,
    pub(crate) add: OpRef,
}

impl Candidate {
    pub(crate) fn new(
        id: NodeId,
        name: String,
        x: Value,
        (matrix, overlay): (Arc<Matrix>, Option<Arc<Overlay>>),
        planes: Planes,
        bias: Option<Vec<f32>>,
    ) -> Self {
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        let value = Value { node: id, slot: 0 };
        let (up, residual, is_taken) = (None, None, false);
        Self { id, name, x, matrix, overlay, planes, epilogue, bias, up, residual, value, is_taken }
    }

    pub(crate) fn acts(&self) -> ActLayout {
        ActLayout::new(self.matrix.layout(), self.planes)
    }
}

/// Gives candidates the ends that their kernels can do, and notes those that they cannot.
pub(crate) fn ends(graph: &Graph, all: &mut [Candidate], apart: &mut Vec<Stays>) {
    for it in &mut *all {
        bias(graph, it, apart);
        gelu(graph, it, apart);
    }
    let products: BTreeMap<Value, usize> =
        all.iter().enumerate().map(|(at, it)| (it.value, at)).collect();
    for at in 0..all.len() {
        silu(graph, all, at, &products, apart);
    }
    let mut taken = Vec::new();
    for it in all {
        residual(graph, it, &mut taken, apart);
    }
}

/// A graph of qcc for what knows graphs of any kind.
struct Of<'g>(&'g Graph);

impl Readers for Of<'_> {
    type Node = NodeId;
    type Value = Value;

    fn users(&self, value: Value) -> Vec<NodeId> {
        self.0.users(value)
    }

    fn uses(&self, value: Value) -> usize {
        self.0.n_uses(value)
    }

    fn step(&self, node: NodeId) -> Step {
        let Some(op) = self.0.node(node).and_then(|it| it.op()) else { return Step::Other };
        match (op.is::<Activation>(), op.is::<ContribActivation>()) {
            (Some(Activation::Gelu), _) | (_, Some(ContribActivation::Gelu)) => Step::Gelu,
            (Some(Activation::GeluTanh), _) => Step::GeluTanh,
            // With a bias it reads two values.
            (_, Some(ContribActivation::FastGelu))
                if self.operands(node).iter().flatten().count() == 1 =>
            {
                Step::GeluTanh
            }
            (Some(Activation::Swish { alpha: 1.0 }), _)
            | (_, Some(ContribActivation::QuickGelu { alpha: 1.0 })) => Step::Silu,
            _ if op.is_named("Add") => Step::Add,
            _ if op.is_named("Mul") => Step::Mul,
            _ if op.is_named("Sigmoid") => Step::Sigmoid,
            _ => Step::Other,
        }
    }

    fn operands(&self, node: NodeId) -> Vec<Option<Value>> {
        self.0.node(node).map(|it| it.inputs.to_vec()).unwrap_or_default()
    }

    fn result(&self, node: NodeId) -> Value {
        result(node)
    }
}

fn result(id: NodeId) -> Value {
    Value { node: id, slot: 0 }
}

fn note(apart: &mut Vec<Stays>, it: &Candidate, why: impl Into<String>) {
    apart.push(Stays { name: it.name.clone(), why: why.into() });
}

/// Readers of a value that a kernel could take in, if there were no others.
fn reads_much(graph: &Graph, it: &Candidate, test: impl Fn(NodeId) -> bool) -> bool {
    graph.n_uses(it.value) > 1 && graph.users(it.value).into_iter().any(test)
}

fn bias(graph: &Graph, it: &mut Candidate, apart: &mut Vec<Stays>) {
    let n = it.matrix.layout().n();
    let of = |id: NodeId, value: Value| {
        let graph_of = Of(graph);
        let added = ends::other(&graph_of, id, value);
        let tensor = graph.constant(added.filter(|_| graph_of.step(id) == Step::Add)?)?;
        let (last, around) = tensor.dims().split_last()?;
        // Leading ones may add dimensions where the rank is not known.
        let rank = graph.ty(value).rank().unwrap_or(1);
        let fits = *last == n && around.iter().all(|&it| it == 1) && tensor.rank() <= rank;
        let values = fits.then(|| tensor.to_f32().ok()).flatten()?;
        Some(values.into_owned())
    };
    if reads_much(graph, it, |id| of(id, it.value).is_some()) {
        note(apart, it, "its result is read without its bias too, so the addition stays");
        return;
    }
    let Some(Added { node: id, .. }) = ends::added(&Of(graph), it.value) else { return };
    let Some(values) = of(id, it.value) else { return };
    if it.bias.is_some() {
        note(apart, it, "it has a bias already, so the addition of another one stays");
        return;
    }
    it.bias = Some(values);
    it.epilogue = Epilogue::Bias;
    it.value = result(id);
}

fn gelu(graph: &Graph, it: &mut Candidate, apart: &mut Vec<Stays>) {
    let is_gelu = |id| matches!(Of(graph).step(id), Step::Gelu | Step::GeluTanh);
    if reads_much(graph, it, is_gelu) {
        note(apart, it, "its result is read before GELU too, so GELU stays");
        return;
    }
    let Some((id, end)) = ends::gelu(&Of(graph), it.value) else { return };
    let Some(epilogue) = it.epilogue.then(end) else { return };
    it.epilogue = epilogue;
    it.value = result(id);
}

fn silu(
    graph: &Graph,
    all: &mut [Candidate],
    at: usize,
    products: &BTreeMap<Value, usize>,
    apart: &mut Vec<Stays>,
) {
    let Some(gate) = all.get(at).filter(|it| !it.is_taken) else { return };
    let Some(epilogue) = gate.epilogue.then(Epilogue::SiluMul) else { return };
    let (mul, factor) = match ends::gated(&Of(graph), gate.value) {
        Some(Gated::Product { nodes, factor }) => {
            let Some(&mul) = nodes.last() else { return };
            (mul, factor)
        }
        Some(Gated::Apart) => {
            note(apart, gate, "its SiLU is read by more than one product of two values");
            return;
        }
        None => return,
    };
    let up = products.get(&factor).and_then(|&up| Some((up, all.get(up)?)));
    let why = match up {
        None => Some("the other factor of its SiLU is no product with a low-bit weight"),
        Some((_, up)) if up.x != gate.x => {
            Some("the other factor of its SiLU is a product of other activations")
        }
        Some((_, up)) if !up.acts().serves(&gate.acts()) => {
            Some("the other factor of its SiLU has other groups, bits or planes")
        }
        Some((_, up)) if up.matrix.layout().n() != gate.matrix.layout().n() => {
            Some("the other factor of its SiLU has another number of outputs")
        }
        Some((_, up)) if up.epilogue.behind_bias() != Epilogue::None || up.is_taken => {
            Some("the other factor of its SiLU ends in a function")
        }
        Some(_) if graph.n_uses(factor) != 1 => {
            Some("the other factor of its SiLU is read elsewhere")
        }
        Some(_) => None,
    };
    if let Some(why) = why {
        note(apart, gate, why);
        return;
    }
    let Some((up, _)) = up else { return };
    if let Some(it) = all.get_mut(up) {
        it.is_taken = true;
    }
    if let Some(it) = all.get_mut(at) {
        it.epilogue = epilogue;
        it.up = Some(up);
        it.value = result(mul);
    }
}

fn residual(graph: &Graph, it: &mut Candidate, taken: &mut Vec<NodeId>, apart: &mut Vec<Stays>) {
    let found = ends::added(&Of(graph), it.value).filter(|_| !it.is_taken);
    let Some(Added { node: id, other: value, is_left }) = found else { return };
    let Some(add) = graph.node(id).and_then(|it| it.op()).cloned() else { return };
    if taken.contains(&id) {
        return;
    }
    // A second bias was noted; it is not added row by row.
    let n = it.matrix.layout().n();
    let is_row = graph.constant(value).is_some_and(|it| it.dims().iter().product::<usize>() == n);
    if it.bias.is_some() && is_row {
        return;
    }
    let Some(epilogue) = it.epilogue.then(Epilogue::Residual) else {
        note(apart, it, "its kernel ends in a function, so the addition of a value stays");
        return;
    };
    taken.push(id);
    it.epilogue = epilogue;
    it.residual = Some(Residual { value, is_left, add });
    it.value = result(id);
}
