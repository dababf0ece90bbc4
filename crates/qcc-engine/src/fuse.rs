//! What follows a product and is done by its kernel: a bias, GELU, `silu(gate) * up`, an addition.
//!
//! A kernel does one of them. Each is taken in only if nobody else reads what lies between.
//!
//! | Graph | Kernel |
//! |---|---|
//! | `Add(y, c)`, c a constant of one value per output | bias |
//! | `Gelu(y)`, of ONNX or `com.microsoft` | gelu |
//! | `Mul(Mul(y, Sigmoid(y)), up)`, or with `Swish(y)` or `QuickGelu(y)` of factor 1 | silumul; `up` is a product of the same activations |
//! | `Add(y, v)`, any other v | residual |

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_ir::{Graph, NodeId, OpRef, Value};
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

/// The only reader of a value, and which operand it is there; `None` when there are others, or the
/// value is a result of the graph.
fn only_reader(graph: &Graph, value: Value) -> Option<(NodeId, usize)> {
    let [id] = graph.users(value)[..] else { return None };
    let at = graph.node(id)?.inputs.iter().position(|it| *it == Some(value))?;
    (graph.n_uses(value) == 1).then_some((id, at))
}

/// The operand of a node of two that is not `at`.
fn other(graph: &Graph, id: NodeId, at: usize) -> Option<Value> {
    match *graph.node(id)?.inputs.as_slice() {
        [Some(a), Some(b)] => Some(if at == 0 { b } else { a }),
        _ => None,
    }
}

fn is_named(graph: &Graph, id: NodeId, name: &str) -> bool {
    graph.node(id).and_then(|it| it.op()).is_some_and(|it| it.is_named(name))
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
        let node = graph.node(id).filter(|_| is_named(graph, id, "Add"))?;
        let at = node.inputs.iter().position(|it| *it == Some(value))?;
        let tensor = graph.constant(other(graph, id, at)?)?;
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
    let Some((id, _)) = only_reader(graph, it.value) else { return };
    let Some(values) = of(id, it.value) else { return };
    if it.bias.is_some() {
        note(apart, it, "it has a bias already, so the addition of another one stays");
        return;
    }
    it.bias = Some(values);
    it.epilogue = Epilogue::Bias;
    it.value = result(id);
}

fn is_gelu(graph: &Graph, id: NodeId) -> bool {
    let Some(op) = graph.node(id).and_then(|it| it.op()) else { return false };
    op.is::<Activation>() == Some(&Activation::Gelu)
        || op.is::<ContribActivation>() == Some(&ContribActivation::Gelu)
}

fn gelu(graph: &Graph, it: &mut Candidate, apart: &mut Vec<Stays>) {
    if reads_much(graph, it, |id| is_gelu(graph, id)) {
        note(apart, it, "its result is read before GELU too, so GELU stays");
        return;
    }
    let Some((id, _)) = only_reader(graph, it.value) else { return };
    if !is_gelu(graph, id) {
        return;
    }
    if it.epilogue != Epilogue::None {
        note(apart, it, "its kernel adds a bias, so GELU stays");
        return;
    }
    it.epilogue = Epilogue::Gelu;
    it.value = result(id);
}

/// `value * sigmoid(value)`, if nobody reads what lies between.
fn silu_of(graph: &Graph, value: Value) -> Option<Value> {
    if let Some((id, _)) = only_reader(graph, value) {
        let op = graph.node(id)?.op()?;
        let is_silu = op.is::<Activation>() == Some(&Activation::Swish { alpha: 1.0 })
            || op.is::<ContribActivation>() == Some(&ContribActivation::QuickGelu { alpha: 1.0 });
        return is_silu.then_some(result(id));
    }
    let users = graph.users(value);
    let &sigmoid = users.iter().find(|&&id| is_named(graph, id, "Sigmoid"))?;
    let (mul, at) = only_reader(graph, result(sigmoid))?;
    let is_both = is_named(graph, mul, "Mul") && other(graph, mul, at) == Some(value);
    (is_both && graph.n_uses(value) == 2).then(|| result(mul))
}

fn silu(
    graph: &Graph,
    all: &mut [Candidate],
    at: usize,
    products: &BTreeMap<Value, usize>,
    apart: &mut Vec<Stays>,
) {
    let Some(gate) = all.get(at).filter(|it| !it.is_taken) else { return };
    let Some(silu) = silu_of(graph, gate.value) else { return };
    let found = only_reader(graph, silu)
        .filter(|it| is_named(graph, it.0, "Mul"))
        .and_then(|(id, at)| Some((id, other(graph, id, at)?)));
    let Some((mul, factor)) = found else {
        note(apart, gate, "its SiLU is read by more than one product of two values");
        return;
    };
    let up = products.get(&factor).and_then(|&up| Some((up, all.get(up)?)));
    let why = match up {
        _ if gate.epilogue != Epilogue::None => Some("its kernel adds a bias, so SiLU stays"),
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
        Some((_, up)) if up.epilogue != Epilogue::None || up.is_taken => {
            Some("the other factor of its SiLU has a bias")
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
        it.epilogue = Epilogue::SiluMul;
        it.up = Some(up);
        it.value = result(mul);
    }
}

fn residual(graph: &Graph, it: &mut Candidate, taken: &mut Vec<NodeId>, apart: &mut Vec<Stays>) {
    let Some((id, at)) = only_reader(graph, it.value).filter(|_| !it.is_taken) else { return };
    if !is_named(graph, id, "Add") || taken.contains(&id) {
        return;
    }
    let (Some(value), Some(add)) =
        (other(graph, id, at), graph.node(id).and_then(|it| it.op()).cloned())
    else {
        return;
    };
    if it.epilogue != Epilogue::None {
        let what = if it.bias.is_some() { "adds a bias" } else { "ends in a function" };
        note(apart, it, format!("its kernel {what}, so the addition of a value stays"));
        return;
    }
    taken.push(id);
    it.epilogue = Epilogue::Residual;
    it.residual = Some(Residual { value, is_left: at == 1, add });
    it.value = result(id);
}
