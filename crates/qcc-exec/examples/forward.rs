//! Milliseconds of a forward pass, by operator:
//!
//! ```text
//! cargo run --release -p qcc-exec --example forward -- MODEL SEQUENCE [RUNS]
//! ```
//!
//! Integer inputs count up as ids do, masks are 1, floats 0.5. A symbolic dimension is 1 for the
//! batch, 0 for what is past, and SEQUENCE for the rest. `RAYON_NUM_THREADS` sets the threads.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use qcc_diag::Diagnostic;
use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::Value;
use qcc_onnx::{ReadOptions, read};
use qcc_tensor::{DType, Dim, Tensor};

fn main() -> ExitCode {
    match forward() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn forward() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, sequence, rest @ ..] = args.as_slice() else {
        return Err("usage: forward MODEL SEQUENCE [RUNS]".into());
    };
    let (sequence, runs): (usize, usize) =
        (sequence.parse()?, rest.first().map_or(Ok(3), |it| it.parse())?);
    let start = Instant::now();
    let model = read(Path::new(path), &ReadOptions::default())?;
    println!("read  {:9.1} ms", ms(start));

    let mut inputs = BTreeMap::new();
    for &node in model.graph.inputs() {
        let value = Value { node, slot: 0 };
        let (name, ty) = (model.graph.value_name(value), model.graph.ty(value));
        let size = |dim: &Dim| match dim {
            Dim::Known(it) => *it,
            Dim::Symbol(it) if it.contains("batch") => 1,
            Dim::Symbol(it) if it.contains("past") && !it.contains('+') => 0,
            Dim::Symbol(_) | Dim::Unknown => sequence,
        };
        let dims: Vec<usize> = ty.shape().unwrap_or(&[]).iter().map(size).collect();
        let len: usize = dims.iter().product();
        let ids = |it: usize| match name {
            _ if name.contains("mask") => 1,
            _ if name.contains("type") => 0,
            _ => it as i64 % 1000,
        };
        let tensor = match ty.dtype() {
            Some(DType::I64) => Tensor::from_vec(dims, (0..len).map(ids).collect::<Vec<_>>())?,
            Some(DType::F32) => Tensor::from_vec(dims, vec![0.5f32; len])?,
            other => return Err(format!("input '{name}' is {other:?}").into()),
        };
        inputs.insert(name.to_owned(), tensor);
    }
    let bound: Vec<_> = inputs.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let start = Instant::now();
    let options = PlanOptions { profile: true, ..Default::default() };
    let text = |error: ExecError| Diagnostic::from(error).to_string();
    let plan = Plan::new(&model.graph, &bound, &options).map_err(text)?;
    println!("plan  {:9.1} ms, {} nodes to run", ms(start), plan.n_steps());
    for run in 0..runs {
        let start = Instant::now();
        let outputs = plan.run(&inputs, &[], &mut |_, _| {}).map_err(text)?;
        let time = ms(start);
        let gflops = plan.flops() as f64 / time / 1e6;
        println!("run {run} {time:9.1} ms, {gflops:.1} GFLOP/s");
        // Numbers to hold against those of another runtime.
        for (name, it) in outputs.iter().filter(|_| run + 1 == runs) {
            let values = it.to_f32()?;
            let sum: f64 = values.iter().map(|it| f64::from(it.abs())).sum();
            let mean = sum / values.len().max(1) as f64;
            println!("      mean magnitude {mean:.7} of '{name}' {:?}", it.dims());
        }
    }
    let mib = |it: usize| it as f64 / f64::from(1 << 20);
    let (planned, used, kept) =
        (mib(plan.peak_bytes()), mib(plan.pool().peak_bytes()), mib(plan.kept_bytes()));
    println!("peak  {planned:.1} MiB planned, {used:.1} MiB of the pool, {kept:.1} MiB constants");
    println!("{}", plan.profile());
    Ok(())
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
