//! Buffers are used again, and the peak is planned.

use qcc_diag::{Diagnostic, codes};

use crate::support::*;

/// A chain of elementwise operators with a long-lived value and views.
fn chain(length: usize) -> Graph {
    let mut text = "graph @main(%x: f32[n, 8]) -> (%y: f32[*]) {\n".to_owned();
    text += "  %flat = const i64[1] [-1]\n  %v0 = Neg(%x)\n";
    for at in 1..=length {
        let before = at - 1;
        text += &format!("  %r{at} = Reshape(%v{before}, %flat)\n  %v{at} = Abs(%r{at})\n");
    }
    text += &format!("  %r = Reshape(%v0, %flat)\n  %y = Add(%v{length}, %r)\n}}");
    graph(&text)
}

#[test]
fn peak_is_what_lives_together() {
    let inputs = inputs([("x", ramp(&[1000, 8]))]);
    let plan = plan(&chain(20), &inputs).unwrap();
    // v0 lives to the end; beside it an operand and its result. The sum comes when one is gone.
    let size = 1000 * 8 * 4;
    assert_eq!(plan.peak_bytes(), 3 * size);
    let first = run(&plan, &inputs);
    assert_eq!(plan.pool().peak_bytes(), 3 * size);
    drop(first);
    for _ in 0..3 {
        run(&plan, &inputs);
    }
    assert_eq!(plan.pool().peak_bytes(), 3 * size, "later runs use the same buffers");
}

#[test]
fn plans_may_share_a_pool() {
    let graph = chain(3);
    let inputs = inputs([("x", ramp(&[64, 8]))]);
    let options = PlanOptions::default();
    let a = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    let b = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    let first = floats(&run(&a, &inputs)[0]);
    assert_eq!(floats(&run(&b, &inputs)[0]), first);
    let alone = Plan::new(&graph, &bound(&inputs), &PlanOptions::default()).unwrap();
    run(&alone, &inputs);
    assert_eq!(options.pool.peak_bytes(), alone.pool().peak_bytes());
}

#[test]
fn runs_beside_each_other_do_not_mix() {
    let graph = chain(10);
    let samples: Vec<_> = (0..8)
        .map(|it| {
            let values = (0..80).map(|at| (at * it) as f32 - 40.0).collect();
            inputs([("x", Tensor::from_vec(vec![10, 8], values).unwrap())])
        })
        .collect();
    let plan = plan(&graph, &samples[0]).unwrap();
    let want: Vec<_> = samples.iter().map(|it| run(&plan, it)).collect();
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = samples.iter().map(|it| scope.spawn(|| run(&plan, it))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(got, want);
}

/// How large a result is may follow from numbers that only the run brings.
#[test]
fn a_result_that_the_system_has_no_memory_for_is_an_error() {
    let graph = graph(
        "graph @main(%x: f32[1], %shape: i64[1]) -> (%y: f32[*]) {
           %long = Expand(%x, %shape)
           %y = Neg(%long)
         }",
    );
    let run = |count: i64| {
        let shape = Tensor::vector(vec![count]);
        let inputs = inputs([("x", ramp(&[1])), ("shape", shape)]);
        let plan = plan(&graph, &inputs).unwrap();
        plan.run(&inputs, &[], &mut |_, _| {}).map(|it| it[0].1.len())
    };
    assert_eq!(run(7), Ok(7));
    let diagnostic = Diagnostic::from(run(1 << 46).unwrap_err());
    assert_eq!(diagnostic.code, codes::QCC0503);
    let text = format!("Expand 'long': there is no memory for {} bytes", 1u64 << 48);
    assert_eq!(diagnostic.message, text);
}

#[test]
fn a_profile_counts_nodes() {
    let graph = chain(4);
    let inputs = inputs([("x", ramp(&[2, 8]))]);
    let options = PlanOptions { profile: true, ..Default::default() };
    let plan = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    for _ in 0..2 {
        run(&plan, &inputs);
    }
    let mut counts: Vec<_> =
        plan.profile().rows.iter().map(|it| (it.op.clone(), it.count)).collect();
    counts.sort();
    let want = [("Abs", 8), ("Add", 2), ("Neg", 2), ("Reshape", 10)];
    assert_eq!(counts, want.map(|(op, count)| (op.to_owned(), count)));
}

#[test]
fn products_are_counted() {
    let graph = graph(
        "graph @main(%x: f32[b, 4], %w: f32[8, 4]) -> (%y: f32[*]) {
           %y = Gemm(%x, %w) {transB = 1}
         }",
    );
    let inputs = inputs([("x", ramp(&[3, 4])), ("w", ramp(&[8, 4]))]);
    let options = PlanOptions { profile: true, ..Default::default() };
    let plan = Plan::new(&graph, &bound(&inputs), &options).unwrap();
    assert_eq!(plan.flops(), 2 * 3 * 4 * 8);
    for runs in 1..3 {
        run(&plan, &inputs);
        let profile = plan.profile();
        let flops: Vec<_> = profile.rows.iter().map(|it| (it.op.as_str(), it.flops)).collect();
        assert_eq!(flops, [("Gemm", runs * 2 * 3 * 4 * 8)]);
        assert_eq!(profile.products(), (profile.rows[0].time, flops[0].1));
    }
}
