//! What all passes that choose numbers have in common: every chosen weight in order, its rows, and
//! the patch that puts the numbers into its `Quant`.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, NodeId, Patch, Scope, Value};
use qcc_ops::quant::{Numbers, NumbersBuffer, Quant};
use qcc_pass::{Ctx, PassError};
use qcc_quant::codes::Codes;
use qcc_quant::error::{SquaredError, measure, measure_codes};
use qcc_quant::numbers::NumbersMut;
use qcc_quant::rows::{NonFinite, WeightRows};
use qcc_tensor::Tensor;

use crate::select::{damaged, left_in_float};
use crate::sites::Skip;

/// A weight that `select` has chosen.
pub(crate) struct Weight {
    pub(crate) scope: Scope,
    pub(crate) node: NodeId,
    pub(crate) quant: Quant,
    /// The float weight.
    pub(crate) tensor: Tensor,
    /// Its name, under which the record knows it.
    pub(crate) name: String,
}

impl Weight {
    /// The numbers that a pass has chosen, as codes; `None` where outliers have other scales.
    pub(crate) fn codes(&self) -> Option<Codes> {
        let numbers = self.quant.numbers.as_ref()?.view();
        numbers.outliers.places.is_empty().then(|| Codes {
            n: numbers.shape.n,
            k: numbers.shape.k,
            spec: numbers.shape.spec,
            codes: numbers.unpacked(),
            scales: numbers.scales.into(),
            zeros: numbers.zeros.into(),
        })
    }

    /// Whether some of its numbers have scales of their own.
    pub(crate) fn has_outliers(&self) -> bool {
        let numbers = self.quant.numbers.as_ref();
        numbers.is_some_and(|it| !it.view().outliers.places.is_empty())
    }

    pub(crate) fn rows(&self) -> Result<WeightRows<'_>, PassError> {
        self.quant.form.rows(&self.tensor).ok_or_else(|| {
            PassError::internal(format!("'{}' is not the rows that were chosen", self.name))
        })
    }
}

/// Every chosen weight, scope by scope in topological order.
pub(crate) fn weights(root: &Graph) -> Vec<Weight> {
    let mut found = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for node in graph.topo() {
            let Some(it) = graph.node(node) else { continue };
            let Some(quant) = it.op().and_then(|it| it.is::<Quant>()) else { continue };
            let Some(source) = it.inputs.first().copied().flatten() else { continue };
            let Some(tensor) = graph.constant(source) else { continue };
            // A `Quant` around a whole weight has its name; one of only some uses has a longer one.
            let own = graph.value_name(Value { node, slot: 0 });
            let name = graph.value_name(source);
            let name = name.strip_suffix(".inner").filter(|it| *it == own).unwrap_or(name);
            found.push(Weight {
                scope: scope.clone(),
                node,
                quant: quant.clone(),
                tensor: tensor.clone(),
                name: name.to_owned(),
            });
        }
    }
    found
}

/// Chooses numbers for weights: `choose` gets one at a time, works on its rows in parallel,
/// and writes them where they stay. A weight that is not finite is left in float.
pub(crate) fn for_each(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    weights: &[Weight],
    mut choose: impl FnMut(&Weight, &WeightRows<'_>, NumbersMut<'_>) -> SquaredError,
) -> Result<Vec<Patch>, PassError> {
    let total: u64 = weights.iter().map(|it| it.tensor.len() as u64).sum();
    ctx.session.progress.start(pass, total);
    let mut patches = Vec::with_capacity(weights.len());
    for weight in weights {
        ctx.check_cancelled()?;
        let rows = weight.rows()?;
        let mut buffer = buffer(ctx, weight)?;
        let error = choose(weight, &rows, buffer.numbers_mut());
        // One bad value shows in the sum of all squares, which huge ones exceed as well.
        let bad = (!error.energy.is_finite()).then(|| rows.non_finite()).flatten();
        patches.push(match bad {
            Some(found) => leave(root, ctx, weight, found, pass)?,
            None => {
                let numbers = buffer.finish()?;
                let is_small = error.energy.is_finite() && error.squared.is_finite();
                let error = if is_small { error } else { measured(&rows, &numbers) };
                patch(root, ctx, weight, numbers, error, pass)?
            }
        });
        ctx.session.progress.step(weight.tensor.len() as u64, &weight.name);
    }
    ctx.session.progress.finish();
    Ok(patches)
}

/// The error of numbers, from squares that f32 does not hold.
fn measured(rows: &WeightRows<'_>, numbers: &Numbers) -> SquaredError {
    let view = numbers.view();
    measure(rows, None, &|row, out| view.dequantize(row, &mut vec![0; rows.k()], out)).plain()
}

/// The numbers of codes, and their error.
pub(crate) fn numbers(
    ctx: &Ctx<'_>,
    weight: &Weight,
    codes: &Codes,
) -> Result<(Numbers, SquaredError), PassError> {
    let mut buffer = buffer(ctx, weight)?;
    buffer.numbers_mut().set(codes);
    let error = measure_codes(&weight.rows()?, None, codes).plain();
    Ok((buffer.finish()?, error))
}

/// Room for the numbers of a weight.
pub(crate) fn buffer(ctx: &Ctx<'_>, weight: &Weight) -> Result<NumbersBuffer, PassError> {
    let Quant { form, spec, .. } = weight.quant;
    NumbersBuffer::new(form, spec, &ctx.session.store)
        .map_err(|error| no_room(&weight.name, &error))
}

pub(crate) fn no_room(name: &str, error: &std::io::Error) -> PassError {
    Diagnostic::error(codes::QCC0502, format!("there is no room for the codes of '{name}'"))
        .with_note(error.to_string())
        .with_help("raise --max-mem, or set TMPDIR to a folder with more space")
        .into()
}

/// The patch that puts numbers into a weight. Notes in the record what they cost.
pub(crate) fn patch(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    weight: &Weight,
    numbers: Numbers,
    error: SquaredError,
    pass: &'static str,
) -> Result<Patch, PassError> {
    let graph = scope_of(root, weight)?;
    let row = ctx.record.weight(&weight.name);
    row.pass = pass;
    row.relative_error = Some(error.relative());
    row.snr_db = Some(error.snr_db());
    let old = Value { node: weight.node, slot: 0 };
    let op = Arc::new(Quant {
        spec: weight.quant.spec,
        form: weight.quant.form,
        numbers: Some(numbers),
        by: pass.to_owned(),
    });
    let node = &graph[weight.node];
    let mut patch = Patch::within(pass, weight.scope.clone());
    patch.at(weight.node);
    let new = patch.op1(&node.name, op, node.inputs.clone(), graph.ty(old).clone());
    patch.replace(old, new);
    Ok(patch)
}

fn scope_of<'a>(root: &'a Graph, weight: &Weight) -> Result<&'a Graph, PassError> {
    root.at(&weight.scope).ok_or_else(|| PassError::internal("a scope is gone"))
}

/// The patch that takes the choice of a weight back that has values which are not finite. Says so,
/// and notes it in the record.
fn leave(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    weight: &Weight,
    found: NonFinite,
    pass: &'static str,
) -> Result<Patch, PassError> {
    let graph = scope_of(root, weight)?;
    let source = graph[weight.node].inputs.first().copied().flatten();
    let Some(source) = source else { return Err(PassError::internal("a weight is gone")) };
    let note = damaged(&weight.name, &weight.tensor, found);
    let row = ctx.record.weight(&weight.name);
    (row.bits, row.bpw) = (None, 0.0);
    (row.group, row.grid) = (String::new(), String::new());
    row.reason_left_float = Some(Skip::NotFinite.to_string());
    let left: Vec<Diagnostic> = row
        .sites
        .iter()
        .map(|it| left_in_float(&row.name, &row.op, it, &Skip::NotFinite))
        .collect();
    ctx.note(note);
    left.into_iter().for_each(|it| ctx.note(it));
    let mut patch = Patch::within(pass, weight.scope.clone());
    patch.at(weight.node);
    let old = Value { node: weight.node, slot: 0 };
    // The name of a weight whose uses were all chosen is that of its `Quant`.
    let is_whole = graph.value_name(old) == weight.name;
    let new = if is_whole { patch.constant("", weight.tensor.clone()) } else { source };
    patch.replace(old, new);
    Ok(patch)
}
