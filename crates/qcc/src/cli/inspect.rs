//! `qcc inspect`: what is in a model.

mod blocks;
mod values;
mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use qcc::{Compiler, Error, Model, Output};
use qcc_ir::{Graph, Kind, Value};
use qcc_report::{Note, bytes, columns, line};
use serde_json::{Map, json};

use super::exit::{Ended, say, show};
use super::streams;

/// Options of `inspect`.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// The model, float or quantized; - is the input stream
    pub(super) input: PathBuf,

    /// One row for each use of a weight: what it is, whether it can be quantized, and how well
    #[arg(long)]
    pub(super) weights: bool,

    /// One row for each block: the layers of the model, found from its graph
    #[arg(long)]
    pub(super) blocks: bool,

    /// What a constant, or the weight of a node, holds: range, mean, quantiles, and where values are
    /// zero, NaN or infinite; codes as floats; repeatable
    #[arg(long, value_name = "NAME")]
    pub(super) values: Vec<String>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
pub(super) fn run(args: &InspectArgs) -> Result<Ended, Error> {
    let model = streams::open(&args.input)?;
    model.warnings().iter().for_each(say);
    let typed = Compiler::new().pipeline("infer-types").run(&model)?;
    let facts = Facts::of(&typed);
    let weights = args.weights.then(|| weights::Weights::of(typed.graph()));
    let blocks = args.blocks.then(|| blocks::Blocks::of(&model)).transpose()?;
    let values = values::of(typed.graph(), &args.values)?;
    if args.json {
        let mut all = to_json(args, &model, &facts, weights.as_ref());
        if !values.is_empty() {
            all["values"] = values.iter().map(values::Row::to_json).collect();
        }
        if let Some(blocks) = blocks {
            all["blocks"] = blocks.to_json();
        }
        return show(&format!("{all:#}\n"));
    }
    let mut text = to_text(args, &model, &facts);
    if let Some(weights) = weights {
        text.push('\n');
        text.push_str(&weights::table(&weights));
    }
    if let Some(blocks) = blocks {
        text.push('\n');
        text.push_str(&blocks.to_text());
    }
    for row in values {
        text.push('\n');
        text.push_str(&row.to_text());
    }
    show(&text)
}

/// Operators that hold or make codes.
const QUANTIZED: &[&str] = &[
    "MatMulNBits",
    "GatherBlockQuantized",
    "DequantizeLinear",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearMatMul",
    "ConvInteger",
    "QLinearConv",
    "DynamicQuantizeMatMul",
];

/// The domain of operators that carry their own bodies.
const OWN_DOMAIN: &str = "ai.qcc";

/// What is counted.
#[derive(Default)]
struct Facts {
    graphs: usize,
    nodes: usize,
    /// Operators with their domain, and how often they are used.
    operators: BTreeMap<String, usize>,
    /// The ones among them that hold or make codes.
    quantized: BTreeMap<String, usize>,
    /// Number and bytes of constants by element type.
    constants: BTreeMap<&'static str, (usize, u64)>,
    /// Name and type.
    inputs: Vec<(String, String)>,
    outputs: Vec<(String, String)>,
}

impl Facts {
    fn of(typed: &Output) -> Self {
        let graph = typed.graph();
        let typed_name = |it: Value| (graph.value_name(it).to_owned(), graph.ty(it).to_string());
        let mut facts = Self {
            inputs: graph
                .inputs()
                .iter()
                .map(|&node| typed_name(Value { node, slot: 0 }))
                .collect(),
            outputs: graph.outputs().iter().map(|&it| typed_name(it)).collect(),
            ..Self::default()
        };
        for scope in graph.scopes() {
            if let Some(graph) = graph.at(&scope) {
                facts.add(graph);
            }
        }
        facts
    }

    fn add(&mut self, graph: &Graph) {
        self.graphs += 1;
        for (_, node) in graph.nodes() {
            match &node.kind {
                Kind::Const(tensor) => {
                    let entry = self.constants.entry(tensor.dtype().text()).or_default();
                    entry.0 += 1;
                    entry.1 += tensor.bytes().len() as u64;
                }
                Kind::Op(op) => {
                    self.nodes += 1;
                    let name = match op.domain() {
                        "" => op.name().to_owned(),
                        domain => format!("{domain}::{}", op.name()),
                    };
                    if QUANTIZED.contains(&op.name()) || op.domain() == OWN_DOMAIN {
                        *self.quantized.entry(name.clone()).or_default() += 1;
                    }
                    *self.operators.entry(name).or_default() += 1;
                }
                _ => {}
            }
        }
    }
}

fn to_text(args: &InspectArgs, model: &Model, facts: &Facts) -> String {
    let source = model.source();
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |label: &str, text: String| rows.push([label.to_owned(), text]);
    row("file", format!("{}, {}", args.input.display(), bytes(source.size_bytes())));
    for (name, file) in source.data_files() {
        row("data file", format!("{}, {}", line(name), bytes(file.bytes().len() as u64)));
    }
    let opset = |it: &(String, i64)| match it.0.as_str() {
        "" => it.1.to_string(),
        domain => format!("{} {}", line(domain), it.1),
    };
    row("opset", source.opsets().iter().map(opset).collect::<Vec<_>>().join(", "));
    row("IR version", source.ir_version().to_string());
    row("producer", line(source.producer()));
    row(
        "nodes",
        match facts.graphs {
            1 => facts.nodes.to_string(),
            graphs => format!("{} in {graphs} graphs", facts.nodes),
        },
    );
    row("operators", counts(&facts.operators));
    let constant = |(dtype, (count, size)): (&&str, &(usize, u64))| {
        format!("{count} {dtype} of {}", bytes(*size))
    };
    row("constants", facts.constants.iter().map(constant).collect::<Vec<_>>().join(", "));
    if !source.functions().is_empty() {
        row("functions", source.functions().len().to_string());
    }
    let quantized = match facts.quantized.is_empty() {
        true => "nothing".to_owned(),
        false => counts(&facts.quantized),
    };
    row("quantized", quantized);
    for (label, list) in [("input", &facts.inputs), ("output", &facts.outputs)] {
        for (name, ty) in list {
            row(label, format!("{}  {ty}", line(name)));
        }
    }
    for (key, value) in source.metadata() {
        row("metadata", format!("{} = {}", line(key), line(value)));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    columns(&rows, &[])
}

/// The most frequent first.
fn counts(map: &BTreeMap<String, usize>) -> String {
    let mut list: Vec<_> = map.iter().collect();
    list.sort_by_key(|it| std::cmp::Reverse(*it.1));
    let list: Vec<String> =
        list.iter().map(|(name, count)| format!("{count} {}", line(name))).collect();
    list.join(", ")
}

fn to_json(
    args: &InspectArgs,
    model: &Model,
    facts: &Facts,
    weights: Option<&weights::Weights>,
) -> serde_json::Value {
    let source = model.source();
    let values = |list: &[(String, String)]| -> Vec<_> {
        list.iter().map(|(name, ty)| json!({"name": name, "type": ty})).collect()
    };
    let opsets = source.opsets().iter().map(|(domain, version)| (domain.clone(), json!(version)));
    let metadata = source.metadata().iter().map(|(key, value)| (key.clone(), json!(value)));
    let constants = facts.constants.iter().map(|(dtype, (count, size))| {
        ((*dtype).to_owned(), json!({"count": count, "bytes": size}))
    });
    let files = source.data_files().iter();
    let files: Vec<_> =
        files.map(|(name, file)| json!({"name": name, "bytes": file.bytes().len()})).collect();
    let mut all = json!({
        "input": args.input.display().to_string(),
        "bytes": source.size_bytes(),
        "data_files": files,
        "opsets": Map::from_iter(opsets),
        "ir_version": source.ir_version(),
        "producer": source.producer(),
        "nodes": facts.nodes,
        "graphs": facts.graphs,
        "operators": facts.operators,
        "constants": Map::from_iter(constants),
        "functions": source.functions().len(),
        "quantized": facts.quantized,
        "inputs": values(&facts.inputs),
        "outputs": values(&facts.outputs),
        "metadata": Map::from_iter(metadata),
        "notes": model.warnings().iter().map(Note::from).collect::<Vec<_>>(),
    });
    if let Some(weights) = weights {
        all["weights"] = weights.to_json();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_model_is_one_short_line() {
        assert_eq!(line("a\nb\u{1b}[31m"), "a b [31m");
        let long = line(&"ä".repeat(101));
        assert_eq!(long.chars().count(), 101);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn the_most_frequent_operator_comes_first() {
        let map = [("Add", 2), ("MatMul", 5), ("Relu", 2)];
        let map = map.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(counts(&map), "5 MatMul, 2 Add, 2 Relu");
    }
}
