//! Checking derivatives against central differences.
//!
//! The forward operator and the nodes of its derivative both run in f64, so the differences are
//! exact to their step; then the derivative runs in f32 and is compared with f64.

use std::collections::BTreeMap;

use qcc_ir::{Emitter, EvalCx, Graph, Io, Kind, Op, Type, Value};
use qcc_tensor::{DType, Dim, Tensor};

/// Step of a difference, for an element of size 1.
const STEP: f64 = 1e-4;
/// Bound of the difference from central differences, relative to the largest element.
const BOUND: f64 = 1e-5;
/// Bound of f32 against f64, relative to the largest element: sums of a few hundred roundings.
const SINGLE: f64 = 1e-5;

/// An operand: floats, by which the operator is differentiated, or something else.
#[derive(Clone, Debug)]
pub(crate) struct Arg {
    tensor: Tensor,
    wanted: bool,
    /// Whether its type always has numbers for dimensions.
    is_known: bool,
}

impl From<Tensor> for Arg {
    fn from(tensor: Tensor) -> Self {
        Self { tensor, wanted: false, is_known: false }
    }
}

/// Floats of both signs, none of which is near another one or near 0.
pub(crate) fn values(dims: &[usize]) -> Arg {
    let len: usize = dims.iter().product();
    // 37 goes through all residues of 101, and the offset keeps off 0.
    let value = |it: usize| ((it * 37 + 11 * len) % 101) as f64 / 25.0 - 2.013 + it as f64 * 1e-3;
    let tensor = Tensor::from_vec(dims.to_vec(), (0..len).map(value).collect()).unwrap();
    Arg { tensor, wanted: true, is_known: false }
}

/// Floats between 0.5 and 2.
pub(crate) fn spread(dims: &[usize]) -> Arg {
    let arg = values(dims);
    let list = arg.tensor.as_slice::<f64>().unwrap();
    let list = list.iter().map(|it| 0.5 + 0.35 * (it + 2.1)).collect();
    let tensor = Tensor::from_vec::<f64>(dims.to_vec(), list).unwrap();
    Arg { tensor, ..arg }
}

/// Floats that are given.
pub(crate) fn floats(list: &[f64]) -> Arg {
    Arg { tensor: Tensor::vector(list.to_vec()), ..values(&[]) }
}

/// Rows of `width` elements, each divided by its deviation or by the root of its mean square.
pub(crate) fn layer_norm(x: &[f64], width: usize, epsilon: f64, centered: bool) -> Vec<f64> {
    let rows = x.chunks_exact(width).flat_map(|row| {
        let mean = if centered { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
        let square = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (square + epsilon).sqrt();
        row.iter().map(move |x| (x - mean) * inverse).collect::<Vec<_>>()
    });
    rows.collect()
}

/// Integers.
pub(crate) fn ints(list: &[i64]) -> Arg {
    Tensor::vector(list.to_vec()).into()
}

impl Arg {
    /// The same operand, by which nothing is differentiated.
    pub(crate) fn fixed(self) -> Self {
        Self { wanted: false, ..self }
    }

    /// The same operand, with numbers for dimensions where others have symbols.
    pub(crate) fn sized(self) -> Self {
        Self { is_known: true, ..self }
    }
}

/// Checks the derivative of an operator with `n` outputs at these operands.
#[track_caller]
pub(crate) fn check_vjp(op: &dyn Op, args: &[Arg], n: usize) {
    let forward = |inputs: &[&Tensor]| run(op, inputs, n);
    check_against(op, args, &forward);
}

/// As [`check_vjp`], against another way to compute the outputs in f64, for operators that compute
/// in f32 themselves.
#[track_caller]
pub(crate) fn check_against(
    op: &dyn Op,
    args: &[Arg],
    forward: &dyn Fn(&[&Tensor]) -> Vec<Tensor>,
) {
    let tensors: Vec<&Tensor> = args.iter().map(|it| &it.tensor).collect();
    let outputs = forward(&tensors);
    let floats: Vec<bool> = outputs.iter().map(|it| it.dtype() == DType::F64).collect();
    let dy: Vec<Tensor> = outputs.iter().map(|it| adjoint(it.dims())).collect();
    let loss = |outputs: &[Tensor]| -> f64 {
        let of = |(y, dy): (&Tensor, &Tensor)| -> f64 {
            let (y, dy) = (y.as_slice::<f64>().unwrap(), dy.as_slice::<f64>().unwrap());
            y.iter().zip(&*dy).map(|(y, dy)| y * dy).sum()
        };
        outputs.iter().zip(&dy).zip(&floats).filter(|it| *it.1).map(|it| of(it.0)).sum()
    };
    for known in [true, false] {
        let wide = derivative(op, args, &outputs, &dy, known, Tensor::clone);
        let single = derivative(op, args, &outputs, &dy, known, |it| match it.dtype() {
            DType::F64 => {
                let list = it.as_slice::<f64>().unwrap().iter().map(|&it| it as f32).collect();
                Tensor::from_vec::<f32>(it.dims().to_vec(), list).unwrap()
            }
            _ => it.clone(),
        });
        for (at, arg) in args.iter().enumerate().filter(|it| it.1.wanted) {
            let x = arg.tensor.as_slice::<f64>().unwrap();
            let differences: Vec<f64> = (0..x.len())
                .map(|index| {
                    let step = STEP * x[index].abs().max(1.0);
                    let moved = |by: f64| {
                        let mut x = x.to_vec();
                        x[index] += by;
                        let moved = Tensor::from_vec(arg.tensor.dims().to_vec(), x).unwrap();
                        let mut inputs = tensors.clone();
                        inputs[at] = &moved;
                        loss(&forward(&inputs))
                    };
                    (moved(step) - moved(-step)) / (2.0 * step)
                })
                .collect();
            let (wide, single) = (&wide[at], &single[at]);
            assert_eq!(wide.dims(), arg.tensor.dims(), "{op:?}: shape of operand {at}");
            let wide = wide.as_slice::<f64>().unwrap();
            let size = wide.iter().fold(1e-3, |a: f64, b| a.max(b.abs()));
            for (index, (got, want)) in wide.iter().zip(&differences).enumerate() {
                assert!(
                    (got - want).abs() <= BOUND * size,
                    "{op:?} {at}[{index}]: {got}, not {want}"
                );
            }
            for (index, (got, want)) in single.to_f32().unwrap().iter().zip(&*wide).enumerate() {
                let near = (f64::from(*got) - want).abs() <= SINGLE * size;
                assert!(near, "{op:?} {at}[{index}] in f32: {got}, not {want}");
            }
        }
    }
}

fn run(op: &dyn Op, inputs: &[&Tensor], n: usize) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|it| Some(*it)).collect();
    op.eval(&EvalCx::default(), &inputs, n).unwrap()
}

/// Numbers of both signs.
fn adjoint(dims: &[usize]) -> Tensor {
    let len: usize = dims.iter().product();
    let value = |it: usize| ((it * 29 + 5) % 53) as f64 / 26.0 - 1.01;
    Tensor::from_vec(dims.to_vec(), (0..len).map(value).collect()).unwrap()
}

/// The adjoints of all operands, zeros where there are none. The nodes know shapes, or only ranks.
fn derivative(
    op: &dyn Op,
    args: &[Arg],
    outputs: &[Tensor],
    dy: &[Tensor],
    known: bool,
    narrow: impl Fn(&Tensor) -> Tensor,
) -> Vec<Tensor> {
    let ty = |it: &Tensor, name: &str, known: bool| {
        let dims = it.dims().iter().enumerate();
        let symbol = |(at, &dim): (usize, &usize)| match (known, dim) {
            (true, dim) => Dim::Known(dim),
            (false, _) => Dim::symbol(&format!("{name}{at}")),
        };
        Type::tensor(it.dtype(), dims.map(symbol).collect::<Vec<_>>())
    };
    let mut b = Emitter::on(Graph::default());
    b.set_prefix("t");
    let mut given = BTreeMap::new();
    let mut value = |b: &mut Emitter, name: &str, tensor: &Tensor, known: bool| {
        let value = b.input(name, ty(tensor, name, known));
        given.insert(value, tensor.clone());
        value
    };
    let mut inputs = Vec::new();
    for (at, arg) in args.iter().enumerate() {
        let tensor = narrow(&arg.tensor);
        let is_number = tensor.dtype().is_int() || !arg.wanted && tensor.rank() == 0;
        inputs.push(Some(if is_number && known {
            b.constant(tensor)
        } else {
            value(&mut b, &format!("x{at}_"), &tensor, known || arg.is_known)
        }));
    }
    let ys: Vec<Value> = outputs
        .iter()
        .enumerate()
        .map(|(at, it)| value(&mut b, &format!("y{at}_"), &narrow(it), known))
        .collect();
    let gs: Vec<Option<Value>> = outputs
        .iter()
        .zip(dy)
        .enumerate()
        .map(|(at, (y, it))| {
            (y.dtype() == DType::F64).then(|| value(&mut b, &format!("y{at}_"), &narrow(it), known))
        })
        .collect();
    let wanted: Vec<bool> = args.iter().map(|it| it.wanted).collect();
    let io = Io { inputs: &inputs, outputs: &ys, wanted: &wanted };
    let adjoints = op.vjp(&mut b, &io, &gs).unwrap();
    assert_eq!(b.error(), None, "{op:?}");
    for (x, d) in inputs.iter().zip(&adjoints) {
        if let (Some(x), Some(d)) = (x, d) {
            let ty = b.ty(*x).clone();
            b.refine(*d, &ty);
        }
    }
    assert_eq!(b.error(), None, "{op:?}");
    let graph = b.finish(adjoints.iter().flatten().copied().collect());
    assert_eq!(qcc_ir::verify(&graph), [], "{op:?}");
    let done = evaluate(&graph, given);
    let zeros = |it: &Tensor| {
        let list: Vec<f64> = vec![0.0; it.len()];
        narrow(&Tensor::from_vec(it.dims().to_vec(), list).unwrap())
    };
    (0..args.len())
        .map(|at| match adjoints.get(at).copied().flatten() {
            Some(it) => done[&it].clone(),
            None => zeros(&args[at].tensor),
        })
        .collect()
}

/// Values of all nodes of a graph without regions.
fn evaluate(graph: &Graph, mut done: BTreeMap<Value, Tensor>) -> BTreeMap<Value, Tensor> {
    for id in graph.topo() {
        let node = &graph[id];
        match &node.kind {
            Kind::Const(it) => {
                done.insert(Value { node: id, slot: 0 }, it.clone());
            }
            Kind::Op(op) => {
                let inputs: Vec<Option<&Tensor>> =
                    node.inputs.iter().map(|it| it.map(|it| &done[&it])).collect();
                let results = op.eval(&EvalCx::default(), &inputs, node.outputs.len());
                let results = results.unwrap_or_else(|it| panic!("{}: {it}", op.name()));
                let values: Vec<Value> = graph.values_of(id).collect();
                done.extend(values.into_iter().zip(results));
            }
            Kind::Input(_) | Kind::Capture => {}
        }
    }
    done
}
