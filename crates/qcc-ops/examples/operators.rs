//! Prints how fast the operators of a transformer block run: best of some runs.
//!
//! `cargo run --release -p qcc-ops --example operators [THREADS]`

use std::time::Instant;

use qcc_ir::{Attr, EvalCx};
use qcc_tensor::Tensor;

fn tensor(dims: &[usize]) -> Tensor {
    let values =
        (0..dims.iter().product()).map(|it: usize| (it * 7919 % 1000) as f32 / 500.0 - 1.0);
    Tensor::from_vec(dims.to_vec(), values.collect()).unwrap_or_else(|_| Tensor::scalar(0f32))
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    if rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_err() {
        return;
    }
    let cases: [(&str, &[&[usize]], f64); 19] = [
        ("MatMul", &[&[1, 512, 576], &[576, 576]], 2.0 * 512.0 * 576.0 * 576.0),
        ("MatMul", &[&[1, 512, 576], &[576, 192]], 2.0 * 512.0 * 576.0 * 192.0),
        ("MatMul", &[&[1, 512, 576], &[576, 1536]], 2.0 * 512.0 * 576.0 * 1536.0),
        ("MatMul", &[&[1, 512, 1536], &[1536, 576]], 2.0 * 512.0 * 576.0 * 1536.0),
        ("MatMul", &[&[1, 512, 576], &[576, 49152]], 2.0 * 512.0 * 576.0 * 49152.0),
        ("MatMul", &[&[1, 9, 512, 64], &[1, 9, 64, 512]], 2.0 * 9.0 * 512.0 * 512.0 * 64.0),
        ("MatMul", &[&[1, 9, 512, 512], &[1, 9, 512, 64]], 2.0 * 9.0 * 512.0 * 512.0 * 64.0),
        ("MatMul", &[&[1, 1, 576], &[576, 1536]], 2.0 * 576.0 * 1536.0),
        ("MatMul", &[&[1, 1, 576], &[576, 49152]], 2.0 * 576.0 * 49152.0),
        ("Softmax", &[&[1, 9, 512, 512]], 9.0 * 512.0 * 512.0),
        ("Add", &[&[1, 9, 512, 512], &[1, 1, 512, 512]], 9.0 * 512.0 * 512.0),
        ("Mul", &[&[1, 512, 1536], &[1, 512, 1536]], 512.0 * 1536.0),
        ("Mul", &[&[1, 512, 576], &[576]], 512.0 * 576.0),
        ("Sigmoid", &[&[1, 512, 1536]], 512.0 * 1536.0),
        ("Gelu", &[&[1, 512, 1536]], 512.0 * 1536.0),
        ("Erf", &[&[1, 512, 1536]], 512.0 * 1536.0),
        ("Tanh", &[&[1, 512, 1536]], 512.0 * 1536.0),
        ("LayerNormalization", &[&[1, 512, 576], &[576]], 512.0 * 576.0),
        ("ReduceMean", &[&[1, 512, 576]], 512.0 * 576.0),
    ];
    let cx = EvalCx::default();
    for (name, shapes, count) in cases {
        let attrs = match name {
            "ReduceMean" => vec![("axes".to_owned(), Attr::Ints(vec![-1]))],
            _ => Vec::new(),
        };
        let Ok(op) = qcc_ops::parse("", name, 20, attrs) else { continue };
        let inputs: Vec<Tensor> = shapes.iter().map(|it| tensor(it)).collect();
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = Instant::now();
            let out = op.eval(&cx, &inputs, 1);
            best = best.min(start.elapsed().as_secs_f64());
            if let Err(error) = out {
                println!("{name}: {error}");
            }
        }
        let shapes = shapes.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(" ");
        println!("{name:20} {shapes:40} {:9.3} ms {:8.2} G/s", best * 1e3, count / best / 1e9);
    }
}
