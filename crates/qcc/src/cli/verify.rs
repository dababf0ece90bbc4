//! `--verify=full`: what was written is read back, and each weight in it decoded and compared with
//! the numbers that were chosen. The file is decoded as its operators say, not as it was packed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use qcc::{Error, Model};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{EvalCx, Graph, Node, Op as _, OpRef, Scope, Value};
use qcc_ops::dequantize::DequantizeLinear;
use qcc_ops::gather_quant::GatherBlockQuantized;
use qcc_ops::matmul_q::MatMulQ;
use qcc_ops::nbits::MatMulNBits;
use qcc_ops::outliers::MatMulQOutliers;
use qcc_ops::quant::{Form, Layout, Packed, Quant, decoded};
use qcc_ops::weight::trace;
use qcc_pass::{Before, Instrument};
use qcc_quant::rows::Order;
use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};
use qcc_report::RunRecord;
use qcc_tensor::{DType, Tensor};

/// What is verified after the output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Verify {
    /// Every weight.
    Full,
}

/// The numbers that were chosen for each weight. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Choices(Arc<Mutex<BTreeMap<String, OpRef>>>);

/// Takes note of the numbers right before they are packed.
impl Instrument for Choices {
    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        if !matches!(at.step.pass.name, "pack" | "to-fake") {
            return Ok(());
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for scope in at.graph.scopes() {
            let Some(graph) = at.graph.at(&scope) else { continue };
            for (id, node) in graph.nodes() {
                if let Some(op) = node.op().filter(|it| it.is::<Quant>().is_some()) {
                    // A `Quant` of only some uses has a longer name than the weight.
                    let own = graph.value_name(Value { node: id, slot: 0 });
                    let source = node.inputs.first().copied().flatten();
                    let source = source.map(|it| graph.value_name(it));
                    let rest = source.and_then(|it| own.strip_prefix(it));
                    let name = source.filter(|_| rest.is_some_and(|it| it.starts_with(".quant")));
                    all.insert(name.unwrap_or(own).to_owned(), op.clone());
                }
            }
        }
        Ok(())
    }
}

impl Choices {
    /// Compares every weight of the record with what the file at `path` holds. Gives how many are
    /// the same, and how many were not rounded to codes, so that there is nothing to compare.
    ///
    /// # Errors
    /// QCC0802 for the first one that differs.
    pub(super) fn compare(&self, record: &RunRecord, path: &Path) -> Result<(usize, usize), Error> {
        let typed = qcc::Compiler::new().pipeline("infer-types").run(&Model::open(path)?)?;
        let root = typed.graph();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: BTreeMap<&str, Vec<(Scope, &Node)>> = BTreeMap::new();
        for scope in root.scopes() {
            for (_, node) in root.at(&scope).into_iter().flat_map(Graph::nodes) {
                let label = match node.name.as_str() {
                    "" => node.outputs.first().map_or("", |it| it.name.as_str()),
                    name => name,
                };
                nodes.entry(label).or_default().push((scope.clone(), node));
            }
        }
        let (mut same, mut open) = (0, 0);
        for row in record.weights.iter().filter(|it| it.bits.is_some()) {
            let wrong = |site: &str, what: &str| {
                let text = format!("'{}' of the output is not what was chosen: {what}", row.name);
                Error::from(
                    Diagnostic::error(codes::QCC0802, text)
                        .at(format!("node '{site}'"))
                        .with_note(format!(
                            "'{}' is written, and should not be used",
                            path.display()
                        ))
                        .with_help("report it with the command and, if you may, the model"),
                )
            };
            let quant = all.get(&row.name).and_then(|it| it.is::<Quant>());
            let Some(quant) = quant.filter(|it| it.numbers.is_some()) else {
                open += 1;
                continue;
            };
            for site in &row.sites {
                let found = nodes.get(site.as_str()).map_or(&[][..], Vec::as_slice);
                let mut last = "there is no such node that reads codes";
                let is_right = found.iter().any(|(scope, node)| {
                    match (File { root, scope, node }).weight(quant.form) {
                        Some(held) if is_same(quant, &held) => true,
                        Some(_) => {
                            last = "it decodes to other values";
                            false
                        }
                        None => false,
                    }
                });
                if !is_right {
                    return Err(wrong(site, last));
                }
            }
            same += 1;
        }
        Ok((same, open))
    }
}

/// A weight as the file holds it, `[n, k]` or `[k, n]` by the order.
struct Held {
    tensor: Tensor,
    order: Order,
}

/// Whether the numbers stand for the same bytes.
fn is_same(quant: &Quant, held: &Held) -> bool {
    let Some(numbers) = &quant.numbers else { return false };
    let dims = held.tensor.dims().to_vec();
    let want = decoded(numbers, held.order, held.tensor.dtype(), dims);
    want.is_ok_and(|it| it.bytes() == held.tensor.bytes())
}

/// A node of the file that should read a weight.
struct File<'a> {
    root: &'a Graph,
    scope: &'a Scope,
    node: &'a Node,
}

impl File<'_> {
    fn input(&self, idx: usize) -> Option<Tensor> {
        self.value(self.node.inputs.get(idx).copied().flatten()?)
    }

    /// A constant, also in another shape.
    fn value(&self, value: Value) -> Option<Tensor> {
        let (scope, value) = self.root.resolve(self.scope, value)?;
        let graph = self.root.at(&scope)?;
        if let Some(it) = graph.constant(value) {
            return Some(it.clone());
        }
        let node = graph.node(value.node)?;
        let op = node.op().filter(|it| it.is_named("Reshape"))?;
        let around = File { root: self.root, scope: &scope, node };
        evaluate(op, &[Some(around.input(0)?), Some(around.input(1)?)])
    }

    fn weight(&self, form: Form) -> Option<Held> {
        let op = self.node.op()?;
        if let Some(it) = op.is::<MatMulNBits>() {
            return self.nbits(it);
        }
        if let Some(it) = op.is::<MatMulQ>() {
            let (bits, grid) = (it.bits, if it.is_symmetric { Grid::Sym } else { Grid::Asym });
            return self.dense(bits, grid, (it.n, it.k, it.block_size));
        }
        if let Some(it) = op.is::<MatMulQOutliers>() {
            return self.dense(it.bits, Grid::Sym, (it.n, it.k, it.block_size));
        }
        if op.is::<GatherBlockQuantized>().is_some() {
            let data = self.input(0)?;
            let ids = rows(*data.dims().first()?)?;
            let inputs = [Some(data), Some(ids), Some(self.input(2)?), self.input(3)];
            return Some(Held { tensor: cut(&evaluate(op, &inputs)?, form.k)?, order: Order::Nk });
        }
        let operand = if op.name() == "Gather" { 0 } else { 1 };
        let value = self.node.inputs.get(operand).copied().flatten()?;
        let (scope, source) = self.root.resolve(self.scope, value)?;
        let node = self.root.at(&scope)?.node(source.node)?;
        if let Some(op) = node.op().filter(|it| it.is::<DequantizeLinear>().is_some()) {
            let inner = File { root: self.root, scope: &scope, node };
            let inputs = [inner.input(0), inner.input(1), inner.input(2)];
            let count = node.inputs.len().min(3);
            return Some(Held { tensor: evaluate(op, &inputs[..count])?, order: Order::Kn });
        }
        // Floats after rounding, in the order of the weight itself.
        let traced = trace(self.root, self.scope, value)?;
        let tensor = self.root.at(&traced.scope)?.constant(traced.source)?.clone();
        let is_float = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
        is_float.then_some(Held { tensor, order: form.order })
    }

    /// A table of the same codes gives all rows; the last block of each may be longer than K.
    fn nbits(&self, it: &MatMulNBits) -> Option<Held> {
        let attrs = vec![
            ("bits".to_owned(), qcc_ir::Attr::Int(it.bits.into())),
            ("block_size".to_owned(), qcc_ir::Attr::Int(i64::try_from(it.block_size).ok()?)),
        ];
        let op = qcc_ops::parse("com.microsoft", "GatherBlockQuantized", 1, attrs).ok()?;
        let codes = self.input(1)?;
        let width = codes.len().checked_div(it.n)?;
        let codes = codes.reshape(vec![it.n, width]).ok()?;
        let inputs = [Some(codes), Some(rows(it.n)?), Some(self.input(2)?), self.input(3)];
        let wide = evaluate(&op, &inputs)?;
        Some(Held { tensor: cut(&wide, it.k)?, order: Order::Nk })
    }

    /// Rows `n` of `k` in blocks.
    fn dense(&self, bits: u8, grid: Grid, (n, k, block): (usize, usize, usize)) -> Option<Held> {
        let scales = self.input(2)?;
        let dtype = scales.dtype();
        let scale = match dtype {
            DType::F16 => ScaleType::F16,
            DType::BF16 => ScaleType::BF16,
            _ => ScaleType::F32,
        };
        let spec = WeightSpec {
            bits: Bits::new(bits)?,
            group: GroupSize::of(u32::try_from(block).ok()?)?,
            grid,
            scale,
        };
        let packed = Packed {
            spec,
            form: Form { n, k, order: Order::Nk },
            layout: Layout::Dense,
            block,
            dtype,
            dims: vec![n, k],
            by: String::new(),
        };
        let codes = self.input(1)?;
        // Zero points, or scales and places of outliers.
        let more = [self.input(3), self.input(4)];
        let more = more.each_ref().map(Option::as_ref);
        let inputs = match more {
            [own, Some(places)] => vec![Some(&codes), Some(&scales), None, own, Some(places)],
            [zeros, None] => vec![Some(&codes), Some(&scales), zeros],
        };
        let tensor = packed.eval(&EvalCx::default(), &inputs, 1).ok()?.into_iter().next()?;
        Some(Held { tensor, order: Order::Nk })
    }
}

/// `[n, wide]` without what fills up the last block of each row: `[n, k]`.
fn cut(wide: &Tensor, k: usize) -> Option<Tensor> {
    let &[n, row] = wide.dims() else { return None };
    let size = wide.bytes().len().checked_div(wide.len())?;
    let chunks = wide.bytes().chunks_exact(row.checked_mul(size)?.max(1));
    let cut: Option<Vec<&[u8]>> = chunks.map(|it| it.get(..k.checked_mul(size)?)).collect();
    Tensor::new(wide.dtype(), vec![n, k], cut?.concat().into()).ok()
}

fn rows(count: usize) -> Option<Tensor> {
    Some(Tensor::vector((0..i64::try_from(count).ok()?).collect::<Vec<_>>()))
}

fn evaluate(op: &OpRef, inputs: &[Option<Tensor>]) -> Option<Tensor> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    op.eval(&EvalCx::default(), &inputs, 1).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use qcc::{Compiler, SaveOptions};

    use super::*;
    use crate::cli::record::record;

    #[test]
    fn a_byte_that_changed_is_found() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../lit-tests/cli/Inputs/equal.onnx");
        let dir = tempfile::tempdir().unwrap();
        let rtn = ["nbits", "qdq", "function", "fake"].map(|it| ("rtn", it));
        for (recipe, format) in rtn.into_iter().chain([("adpq", "function"), ("adpq", "fake")]) {
            let choices = Choices::default();
            let compiler = Compiler::new().recipe(recipe).unwrap().format(format).unwrap();
            let compiler = compiler.instrument(Box::new(choices.clone()));
            let output = compiler.run(&Model::open(model).unwrap()).unwrap();
            let path = dir.path().join(format!("{recipe}-{format}.onnx"));
            output.save(&path, &SaveOptions::default()).unwrap();
            let record = record(&output, 42);
            assert_eq!(choices.compare(&record, &path).unwrap(), (2, 0));

            // The largest constant is one of codes, or of floats after rounding.
            let held = Model::open(&path).unwrap();
            let codes = held
                .graph()
                .nodes()
                .filter_map(|(id, _)| held.graph().constant(Value { node: id, slot: 0 }))
                .max_by_key(|it| it.bytes().len())
                .unwrap();
            let codes = codes.bytes().to_vec();
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.windows(codes.len()).position(|it| it == codes).unwrap();
            bytes[at + codes.len() / 2] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let error = choices.compare(&record, &path).unwrap_err();
            assert_eq!(error.code(), codes::QCC0802, "{recipe} {format}");
        }
    }

    #[test]
    fn what_has_no_codes_is_counted() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../lit-tests/cli/Inputs/equal.onnx");
        // Nobody took note of what was chosen, as with a pass that writes floats itself.
        let compiler = Compiler::new().recipe("rtn").unwrap().format("fake").unwrap();
        let output = compiler.run(&Model::open(model).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        output.save(&path, &SaveOptions::default()).unwrap();
        assert_eq!(Choices::default().compare(&record(&output, 42), &path).unwrap(), (0, 2));
    }
}
