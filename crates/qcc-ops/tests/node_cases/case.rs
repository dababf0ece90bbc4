//! Running one case: its nodes in order, then a comparison of the outputs.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, TensorProto};
use qcc_ir::{EvalCx, EvalError, Input, OpRef, Opaque, Type};
use qcc_tensor::{DType, Dim, Tensor};

use crate::decode::{attribute, is_tensor, tensor};

/// What came of a case.
pub(crate) enum Outcome {
    Pass,
    Skip(String),
    Fail(String),
}

type Values = BTreeMap<String, Tensor>;

/// Runs the case in a folder, with its entry of the index.
pub(crate) fn run(folder: &Path, entry: &serde_json::Value) -> Outcome {
    let bytes = std::fs::read(folder.join("model.onnx")).unwrap();
    let model = ModelProto::decode(&*bytes).unwrap();
    let graph = model.graph.as_ref().unwrap();
    let steps = match steps(&model, graph) {
        Ok(it) => it,
        Err(outcome) => return outcome,
    };
    let limits = (entry["rtol"].as_f64().unwrap(), entry["atol"].as_f64().unwrap());
    for set in 0..entry["data_sets"].as_u64().unwrap() {
        let data = folder.join(format!("test_data_set_{set}"));
        let read = |kind: &str, idx: usize| {
            let bytes = std::fs::read(data.join(format!("{kind}_{idx}.pb"))).unwrap();
            tensor(&TensorProto::decode(&*bytes).unwrap())
        };
        let mut values = Values::new();
        for it in &graph.initializer {
            values.insert(it.name.clone().unwrap_or_default(), tensor(it));
        }
        for (idx, it) in graph.input.iter().enumerate() {
            values.insert(it.name.clone().unwrap_or_default(), read("input", idx));
        }
        for (node, op) in &steps {
            if let Err(outcome) = step(node, op, &mut values) {
                return outcome;
            }
        }
        for (idx, it) in graph.output.iter().enumerate() {
            let name = it.name.as_deref().unwrap_or_default();
            if let Err(why) = compare(&values[name], &read("output", idx), limits) {
                return Outcome::Fail(format!("output {idx}: {why}"));
            }
        }
    }
    Outcome::Pass
}

/// The nodes with their operators.
fn steps<'a>(
    model: &ModelProto,
    graph: &'a GraphProto,
) -> Result<Vec<(&'a NodeProto, OpRef)>, Outcome> {
    if !graph.input.iter().chain(&graph.output).all(is_tensor) {
        return Err(Outcome::Skip("not all inputs and outputs are tensors".into()));
    }
    if !model.functions.is_empty() {
        return Err(Outcome::Skip("functions".into()));
    }
    let mut steps = Vec::new();
    for node in &graph.node {
        let (domain, name) =
            (node.domain.as_deref().unwrap_or(""), node.op_type.as_deref().unwrap_or(""));
        let opset =
            model.opset_import.iter().find(|it| it.domain.as_deref().unwrap_or("") == domain);
        let opset = opset.and_then(|it| it.version).unwrap_or(1);
        let Some(attrs) = node.attribute.iter().map(attribute).collect() else {
            return Err(Outcome::Skip(format!("{name} has regions")));
        };
        let op = qcc_ops::parse(domain, name, opset, attrs)
            .map_err(|it| Outcome::Fail(it.to_string()))?;
        if op.is::<Opaque>().is_some() {
            let name = if domain.is_empty() { name.into() } else { format!("{domain}::{name}") };
            return Err(Outcome::Skip(format!("{name} is not known")));
        }
        let again = qcc_ops::parse(domain, name, opset, op.attrs())
            .map_err(|it| Outcome::Fail(format!("its attributes: {it}")))?;
        if format!("{again:?}") != format!("{op:?}") {
            return Err(Outcome::Fail(format!("{op:?} comes back as {again:?}")));
        }
        steps.push((node, op));
    }
    Ok(steps)
}

fn step(node: &NodeProto, op: &OpRef, values: &mut Values) -> Result<(), Outcome> {
    let inputs: Vec<Option<&Tensor>> = node.input.iter().map(|it| values.get(it)).collect();
    let count = node.output.len();
    let results = match op.eval(&EvalCx::default(), &inputs, count) {
        Ok(it) => it,
        Err(it @ EvalError::Unsupported { .. }) => return Err(Outcome::Skip(it.to_string())),
        Err(it) => return Err(Outcome::Fail(it.to_string())),
    };
    let named = |idx: usize| node.output.get(idx).is_some_and(|it| !it.is_empty());
    if results.len() < (0..count).filter(|&it| named(it)).max().map_or(0, |it| it + 1) {
        return Err(Outcome::Fail(format!("{} gave {} outputs", op.name(), results.len())));
    }
    for view in [View::Types, View::Values, View::Symbols, View::Ranks, View::DTypes] {
        let types: Vec<Option<Type>> = inputs.iter().map(|it| it.map(|it| view.of(it))).collect();
        let operands: Vec<Option<Input<'_>>> = inputs
            .iter()
            .zip(&types)
            .map(|(value, ty)| {
                let value = value.filter(|_| matches!(view, View::Values));
                ty.as_ref().map(|ty| Input { ty, value })
            })
            .collect();
        let fail = |why: String| Outcome::Fail(format!("{} of {view:?}: {why}", op.name()));
        let types = op.infer(&operands, count).map_err(|it| fail(it.to_string()))?;
        if types.len() != count {
            return Err(fail(format!("{} types", types.len())));
        }
        for (idx, (ty, value)) in types.iter().zip(&results).enumerate() {
            let holds = ty.meet(&Type::of(value)).is_some() && symbols_hold(ty, value);
            if named(idx) && !holds {
                return Err(fail(format!("{ty} for {}", Type::of(value))));
            }
            if matches!(view, View::Values) && named(idx) && *ty == Type::Unknown {
                return Err(fail(format!("nothing known of output {idx}")));
            }
        }
    }
    for (name, value) in node.output.iter().zip(results) {
        values.insert(name.clone(), value);
    }
    values.remove("");
    Ok(())
}

/// What type inference is shown of the operands.
#[derive(Clone, Copy, Debug)]
enum View {
    /// Element types and sizes.
    Types,
    /// The values too.
    Values,
    /// A symbol for each size, the same one for equal sizes.
    Symbols,
    /// Element types and ranks.
    Ranks,
    /// Element types only.
    DTypes,
}

impl View {
    fn of(self, value: &Tensor) -> Type {
        let full = Type::of(value);
        let dims = value.dims().iter();
        let shape = match self {
            Self::Types | Self::Values => return full,
            Self::Symbols => Some(dims.map(|it| Dim::symbol(&format!("d{it}"))).collect()),
            Self::Ranks => Some(dims.map(|_| Dim::Unknown).collect()),
            Self::DTypes => None,
        };
        full.with_shape(shape)
    }
}

/// Whether every symbol stands for the size that it was made of.
fn symbols_hold(ty: &Type, value: &Tensor) -> bool {
    let dims = ty.shape().unwrap_or_default().iter().zip(value.dims());
    dims.into_iter().all(|(dim, size)| match dim {
        Dim::Symbol(name) if name.starts_with('d') => **name == format!("d{size}"),
        _ => true,
    })
}

fn compare(got: &Tensor, want: &Tensor, (rtol, atol): (f64, f64)) -> Result<(), String> {
    let types = (Type::of(got), Type::of(want));
    if types.0 != types.1 {
        return Err(format!("{} instead of {}", types.0, types.1));
    }
    if !want.dtype().is_float() {
        let text = |it: &Tensor| match it.as_strings() {
            Some(it) => format!("{it:?}"),
            None => format!("{:?}", &it.bytes()[..it.bytes().len().min(64)]),
        };
        return if got == want { Ok(()) } else { Err(format!("{} not {}", text(got), text(want))) };
    }
    let wide = |it: &Tensor| -> Vec<f64> {
        match it.dtype() {
            DType::F64 => it.as_slice::<f64>().unwrap().to_vec(),
            _ => it.to_f32().unwrap().iter().map(|&it| it.into()).collect(),
        }
    };
    // The tests round to the type after every step, the operators once: a result may be two steps
    // of the type away.
    let rtol = match want.dtype() {
        DType::BF16 => 2.0 / 128.0,
        DType::F16 => 2.0 / 1024.0,
        _ => rtol,
    };
    for (idx, (got, want)) in wide(got).into_iter().zip(wide(want)).enumerate() {
        let near = (got - want).abs() <= atol + rtol * want.abs();
        if !(near || got == want || got.is_nan() && want.is_nan()) {
            return Err(format!("element {idx} is {got}, not {want}"));
        }
    }
    Ok(())
}
