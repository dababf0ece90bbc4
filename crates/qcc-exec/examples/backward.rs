//! Milliseconds of a part of a model forward, and forward and backward, by operator:
//!
//! ```text
//! cargo run --release -p qcc-exec --example backward -- MODEL FROM TO BATCH SEQUENCE [RUNS]
//! ```
//!
//! FROM and TO are values of floats. The gradient is by FROM and by the constants that products
//! between the two read. `RAYON_NUM_THREADS` sets the threads.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use qcc_exec::{Bound, Plan, PlanOptions, Seed, differentiate};
use qcc_ir::{Graph, Value};
use qcc_onnx::{ReadOptions, read};
use qcc_tensor::{DType, Dim, Tensor};

fn main() -> ExitCode {
    match backward() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn backward() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, from, to, batch, sequence, rest @ ..] = args.as_slice() else {
        return Err("usage: backward MODEL FROM TO BATCH SEQUENCE [RUNS]".into());
    };
    let (batch, sequence): (usize, usize) = (batch.parse()?, sequence.parse()?);
    let runs: usize = rest.first().map_or(Ok(10), |it| it.parse())?;
    let graph = read(Path::new(path), &ReadOptions::default())?.graph;
    let (from, to) = (find(&graph, from)?, find(&graph, to)?);

    let mut wrt = vec![from];
    wrt.extend(weights(&graph, from, to));
    let start = Instant::now();
    let it = differentiate(&graph, &[Seed::fed(to)], &wrt)?;
    println!("differentiated by {} values in {:.1} ms", wrt.len(), ms(start));

    let mut inputs = BTreeMap::new();
    let roots = [from].into_iter().chain(it.seeds.iter().copied());
    for value in roots.chain(it.graph.inputs().iter().map(|&node| Value { node, slot: 0 })) {
        let ty = it.graph.ty(value);
        let size = |dim: &Dim| match dim {
            Dim::Known(it) => *it,
            Dim::Symbol(it) if it.contains("batch") => batch,
            Dim::Symbol(_) | Dim::Unknown => sequence,
        };
        let dims: Vec<usize> = ty.shape().unwrap_or(&[]).iter().map(size).collect();
        let len = dims.iter().product();
        let tensor = match ty.dtype() {
            Some(DType::I64) => Tensor::from_vec(dims, vec![1i64; len])?,
            _ => {
                let list = (0..len).map(|it| (it * 37 % 61) as f32 / 8.0 - 3.75).collect();
                Tensor::from_vec::<f32>(dims, list)?
            }
        };
        inputs.insert(it.graph.value_name(value).to_owned(), tensor);
    }
    let bound: Vec<_> = inputs.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let gradients = it.wrt.iter().flatten().copied();
    for (name, outputs) in
        [("forward", vec![to]), ("both", [to].into_iter().chain(gradients).collect())]
    {
        let options =
            PlanOptions { outputs: Some(outputs), profile: true, ..PlanOptions::default() };
        let plan = Plan::new(&it.graph, &bound, &options)?;
        let mut best = f64::INFINITY;
        for _ in 0..runs {
            let start = Instant::now();
            plan.run(&inputs, &[], &mut |_, _| {})?;
            best = best.min(ms(start));
        }
        let rate = plan.flops() as f64 / best / 1e6;
        println!(
            "{name}: {best:.2} ms, {} steps, {rate:.1} GFLOP/s, {:.1} MB",
            plan.n_steps(),
            plan.peak_bytes() as f64 / 1e6
        );
        println!("{}", plan.profile());
    }
    Ok(())
}

/// Constants that products on the way from one value to the other read.
fn weights(graph: &Graph, from: Value, to: Value) -> Vec<Value> {
    let order = graph.topo();
    let mut after = vec![false; graph.id_bound()];
    let mut before = vec![false; graph.id_bound()];
    (after[from.node.index()], before[to.node.index()]) = (true, true);
    for &id in &order {
        after[id.index()] |= graph[id].uses().any(|it| after[it.node.index()]);
    }
    for &id in order.iter().rev().filter(|it| **it != from.node) {
        if before[id.index()] {
            graph[id].uses().for_each(|it| before[it.node.index()] = true);
        }
    }
    let is_between = |id: &&qcc_ir::NodeId| {
        let is_product = graph[**id].op().is_some_and(|it| ["MatMul", "Gemm"].contains(&it.name()));
        is_product && after[id.index()] && before[id.index()]
    };
    let operands = order.iter().filter(is_between).flat_map(|&id| graph[id].uses());
    operands.filter(|&it| graph.constant(it).is_some()).collect()
}

fn find(graph: &Graph, name: &str) -> Result<Value, String> {
    let mut values = graph.nodes().flat_map(|(id, _)| graph.values_of(id));
    values.find(|&it| graph.value_name(it) == name).ok_or(format!("there is no value '{name}'"))
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
