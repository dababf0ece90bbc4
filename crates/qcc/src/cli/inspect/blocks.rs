//! `qcc inspect --blocks`: the layers of a model, what lies before and after them, and the values
//! that cross between.
//!
//! They are those of the graph with its functions inlined, which is what passes run. How the weights
//! of each can be tuned is that of the copy that is differentiated.

use std::collections::BTreeSet;

use qcc::{Compiler, Error, Model, Output, TUNING_COPY, WORKING_COPY, passes};
use qcc_ir::Graph;
use qcc_pass::{Pipeline, Session, WorkingCopy};
use qcc_quantize::blocks::{Block, BlockOptions, Method, blocks};
use qcc_quantize::{Role, Site, find_sites};
use qcc_report::columns;
use serde_json::{Value, json};

/// The blocks of a model.
pub(super) struct Blocks {
    typed: Output,
    sites: Vec<Site>,
    blocks: Vec<Block>,
    /// For each block; `None` where the copy that is differentiated has no block of its weights.
    methods: Vec<Option<Method>>,
}

impl Blocks {
    /// Looks for blocks.
    pub(super) fn of(model: &Model) -> Result<Self, Error> {
        let pipeline = format!("{WORKING_COPY},infer-types");
        let typed = Compiler::new().pipeline(&pipeline).run(model)?;
        let sites = find_sites(typed.graph());
        let blocks = blocks(typed.graph(), &sites, &BlockOptions::default());
        let mut found = methods(model)?;
        let mut method = |it: &Block| {
            let weights = weights(&sites, it);
            let at = found.iter().position(|it| it.0 == weights);
            match weights.is_empty() {
                true => Some(Method::None),
                false => at.map(|it| found.remove(it).1),
            }
        };
        let methods = blocks.iter().map(&mut method).collect();
        Ok(Self { typed, sites, blocks, methods })
    }

    /// The rows as JSON.
    pub(super) fn to_json(&self) -> Value {
        self.blocks.iter().enumerate().map(|(idx, it)| self.row(idx, it)).collect()
    }

    fn row(&self, idx: usize, block: &Block) -> Value {
        let method = self.methods.get(idx).and_then(Option::as_ref);
        let obstacle = match method {
            Some(Method::Layer(why)) => Some(why),
            _ => None,
        };
        let graph = self.typed.graph();
        let weights = block.weights.iter().filter_map(|it| self.sites.get(*it));
        let weights = weights.filter(|it| it.role != Role::Table);
        json!({
            "kind": block.kind.text(),
            "layer": block.layer,
            "inputs": names(graph, &block.inputs),
            "side": names(graph, &block.side),
            "outputs": names(graph, &block.outputs),
            "others": names(graph, &block.others),
            "nodes": block.nodes.len(),
            "products": block.products.len(),
            "weights": weights.map(|it| it.name.as_str()).collect::<Vec<_>>(),
            "params": block.params,
            "class": format!("{:016x}", block.class),
            "method": method.map(Method::text),
            "obstacle": obstacle,
        })
    }

    /// A table of one row for each block.
    pub(super) fn to_text(&self) -> String {
        let graph = self.typed.graph();
        let head = ["block", "kind", "reads", "gives", "products", "params", "class", "tuned by"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for (idx, block) in self.blocks.iter().enumerate() {
            let kind = match block.layer {
                Some(layer) => format!("{} {layer}", block.kind.text()),
                None => block.kind.text().to_owned(),
            };
            let side = match block.side.len() {
                0 => String::new(),
                count => format!(" + {count} side"),
            };
            cells.push(vec![
                idx.to_string(),
                kind,
                format!("{}{side}", list(&names(graph, &block.inputs))),
                list(&names(graph, &block.outputs)),
                block.products.len().to_string(),
                block.params.to_string(),
                format!("{:08x}", block.class >> 32),
                match self.methods.get(idx).and_then(Option::as_ref) {
                    None => "?".to_owned(),
                    Some(Method::Layer(why)) => format!("layer: {}", qcc_report::line(why)),
                    Some(method) => method.text().to_owned(),
                },
            ]);
        }
        let mut text = match self.blocks.as_slice() {
            [] => String::from("  no blocks\n"),
            _ => columns(&cells, &[0, 4, 5]),
        };
        let layers = self.blocks.iter().filter_map(|it| it.layer).max().map_or(0, |it| it + 1);
        text.push_str(&format!("  {layers} layers in {} blocks\n", self.blocks.len()));
        text
    }
}

/// Names of what a block multiplies by.
fn weights(sites: &[Site], block: &Block) -> BTreeSet<String> {
    let sites = block.weights.iter().filter_map(|it| sites.get(*it));
    sites.filter(|it| it.role != Role::Table).map(|it| it.name.clone()).collect()
}

/// How the weights of each block can be tuned, and which they are, by the copy that is
/// differentiated: it may have other blocks without weights.
fn methods(model: &Model) -> Result<Vec<(BTreeSet<String>, Method)>, Error> {
    let pipeline = Pipeline::parse(TUNING_COPY, &passes(), &[])?;
    let copy = WorkingCopy::through(model.graph(), &[], &pipeline, &Session::default());
    let graph = copy.map_err(|it| it.into_diagnostic("inspect"))?.graph;
    let sites = find_sites(&graph);
    let blocks = blocks(&graph, &sites, &BlockOptions::default());
    let methods = Method::each(&graph, &sites, &blocks);
    Ok(blocks.iter().map(|it| weights(&sites, it)).zip(methods).collect())
}

fn names<'g>(graph: &'g Graph, values: &[qcc_ir::Value]) -> Vec<&'g str> {
    values.iter().map(|it| graph.value_name(*it)).collect()
}

/// The first names, and how many more there are.
fn list(names: &[&str]) -> String {
    /// Most names that are shown.
    const MOST: usize = 3;
    let shown: Vec<String> = names.iter().take(MOST).map(|it| qcc_report::line(it)).collect();
    match names.len().checked_sub(MOST) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} + {more}", shown.join(", ")),
    }
}
