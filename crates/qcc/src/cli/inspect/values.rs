//! `qcc inspect --values NAME`: what a constant holds.

mod figures;

use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use qcc_engine::weights::{LowBit, low_bit};
use qcc_ir::{Graph, Kind, Node, NodeId, Scope, Value};
use qcc_pass::nearest;
use qcc_quantize::find_sites;
use qcc_report::columns;
use qcc_tensor::Tensor;
use serde_json::json;

use figures::Figures;

/// A constant that was asked for.
#[derive(Debug)]
pub(super) struct Row {
    name: String,
    dtype: &'static str,
    /// Bits and group of codes.
    codes: Option<(u32, usize)>,
    dims: Vec<usize>,
    figures: Result<Figures, String>,
}

/// What the constants of these names hold, those of weights that nodes of these names read, codes
/// as the floats that they stand for. Several graphs may have one name each.
///
/// # Errors
/// QCC0311 for a name that neither a constant nor a node with a constant has.
pub(super) fn of(root: &Graph, names: &[String]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for name in names {
        let found = named(root, name);
        if found.is_empty() {
            return Err(unknown(root, name));
        }
        rows.extend(found);
    }
    Ok(rows)
}

fn named(root: &Graph, name: &str) -> Vec<Row> {
    let constants: Vec<Row> =
        constants(root).filter(|it| it.0 == name).map(|it| row(it.0, it.1)).collect();
    if !constants.is_empty() {
        return constants;
    }
    let mut rows = Vec::new();
    for (scope, id, node) in nodes(root).filter(|it| label(it.2) == name) {
        if let Some(Ok(weight)) = low_bit(root, &scope, id) {
            rows.push(coded(name, &weight));
            continue;
        }
        let sites = find_sites(root).into_iter().filter(|it| it.node == id && it.scope == scope);
        let weights: Vec<Row> =
            sites.filter_map(|it| Some(row(&it.name, it.tensor(root)?))).collect();
        if !weights.is_empty() {
            rows.extend(weights);
            continue;
        }
        for &value in node.inputs.iter().flatten() {
            let Some((scope, value)) = root.resolve(&scope, value) else { continue };
            let Some(graph) = root.at(&scope) else { continue };
            rows.extend(graph.constant(value).map(|it| row(graph.value_name(value), it)));
        }
    }
    rows
}

/// Names and tensors of all constants, defaults of inputs among them.
fn constants(root: &Graph) -> impl Iterator<Item = (&str, &Tensor)> {
    let graphs: Vec<&Graph> = root.scopes().iter().filter_map(|it| root.at(it)).collect();
    graphs.into_iter().flat_map(|graph| {
        graph.nodes().filter_map(|(id, node)| match &node.kind {
            Kind::Const(it) | Kind::Input(Some(it)) => {
                Some((graph.value_name(Value { node: id, slot: 0 }), it))
            }
            _ => None,
        })
    })
}

/// All operators.
fn nodes(root: &Graph) -> impl Iterator<Item = (Scope, NodeId, &Node)> {
    root.scopes().into_iter().flat_map(|scope| {
        let nodes: Vec<_> = root.at(&scope).into_iter().flat_map(Graph::nodes).collect();
        let nodes = nodes.into_iter().filter(|it| it.1.op().is_some());
        nodes.map(move |(id, node)| (scope.clone(), id, node))
    })
}

/// The name of a node, or that of its first output.
fn label(node: &Node) -> &str {
    match node.name.as_str() {
        "" => node.outputs.first().map_or("", |it| it.name.as_str()),
        name => name,
    }
}

fn unknown(root: &Graph, name: &str) -> Error {
    let text = format!("--values '{name}' is no constant, and no node that reads one");
    let mut error = Diagnostic::error(codes::QCC0311, text).at("option --values");
    let labels: Vec<&str> = nodes(root).map(|it| label(it.2)).collect();
    if let Some(it) = nearest(name, constants(root).map(|it| it.0).chain(labels)) {
        error = error.with_help(format!("write '{it}'"));
    }
    error.with_help("qcc inspect MODEL --weights lists nodes with weights").into()
}

fn row(name: &str, tensor: &Tensor) -> Row {
    let figures = Figures::of(tensor);
    tensor.release();
    Row {
        name: name.to_owned(),
        dtype: tensor.dtype().text(),
        codes: None,
        dims: tensor.dims().to_vec(),
        figures,
    }
}

/// A weight in codes, as the matrix `[K, N]` of floats that it stands for.
fn coded(name: &str, it: &LowBit) -> Row {
    let weight = &it.weight;
    let (n, k, group) = (weight.n, weight.k, weight.group.max(1));
    let blocks = k.div_ceil(group);
    let middle = f32::from(weight.bits.middle());
    let numbers = &weight.weight;
    let mut values = vec![0.0; n * k];
    for column in 0..n {
        for (at, &code) in numbers.codes.iter().skip(column * k).take(k).enumerate() {
            let block = column * blocks + at / group;
            let scale = numbers.scales.get(block).copied().unwrap_or(f32::NAN);
            let zero = numbers.zeros.as_ref().map_or(middle, |it| it[block]);
            values[at * n + column] = (f32::from(code) - zero) * scale;
        }
        for (at, value) in it.overlay.iter().flat_map(|it| it.column(column)) {
            values[at * n + column] += value;
        }
    }
    let figures = Tensor::from_vec(vec![k, n], values).map_err(|it| it.to_string());
    Row {
        name: name.to_owned(),
        dtype: "f32",
        codes: Some((weight.bits.bits(), group)),
        dims: vec![k, n],
        figures: figures.and_then(|it| Figures::of(&it)),
    }
}

impl Row {
    /// The row as JSON; figures of no finite value are `null`.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let mut all = json!({"name": self.name, "dtype": self.dtype, "shape": self.dims});
        if let Some((bits, group)) = self.codes {
            all["codes"] = json!({"bits": bits, "group": group});
        }
        match &self.figures {
            Ok(it) => all["figures"] = it.to_json(),
            Err(why) => all["reason"] = json!(why),
        }
        all
    }

    /// The row as lines.
    pub(super) fn to_text(&self) -> String {
        let codes = self.codes.map_or(String::new(), |(bits, group)| {
            format!(", from codes of {bits} bits in groups of {group}")
        });
        let mut rows = vec![
            vec!["values".to_owned(), qcc_report::line(&self.name)],
            vec!["type".to_owned(), format!("{}{:?}{codes}", self.dtype, self.dims)],
        ];
        match &self.figures {
            Ok(it) => rows.extend(it.rows().map(Vec::from)),
            Err(why) => rows.push(vec!["figures".to_owned(), format!("none: {why}")]),
        }
        columns(&rows, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_numbers_say_so() {
        let tensor = Tensor::strings(vec![1], vec![bytes::Bytes::from_static(b"a")]).unwrap();
        let row = row("s", &tensor);
        assert!(row.to_text().contains("none: "), "{}", row.to_text());
        assert!(row.to_json()["reason"].is_string());
    }
}
