//! `signround{objective=block}` on the bundled model.

use std::sync::Arc;

use qcc::{Compiler, OpenOptions, Samples, SaveOptions};
use qcc_tests::{Bench, books1m};

fn samples(bench: &Bench, count: usize) -> Arc<Samples> {
    let options = OpenOptions { samples: Some(count), ..OpenOptions::default() };
    Arc::new(bench.model().samples(books1m().join("calib.npy"), options).unwrap())
}

fn tuned(recipe: &str, samples: &Arc<Samples>, threads: usize) -> Compiler {
    let compiler = Compiler::new().recipe(recipe).unwrap().bits(2).unwrap();
    compiler.calibration(samples.clone()).threads(threads)
}

#[test]
fn threads_and_runs_do_not_change_the_bytes() {
    let bench = Bench::new();
    let samples = samples(&bench, 8);
    let run = |threads| {
        bench.bytes(tuned("signround{objective=block,iters=3,batch=4}", &samples, threads))
    };
    let one = run(1);
    assert!(one == run(2), "another number of threads");
    assert!(one == run(1), "another run");
}

#[test]
fn blocks_lose_less_than_searched_scales_and_the_head_is_tuned_by_itself() {
    let bench = Bench::new();
    let samples = samples(&bench, 16);
    let with_head =
        |recipe: &str| tuned(recipe, &samples, 2).setting("select", "head", "2").unwrap();
    let output = with_head("signround{iters=10}").run(bench.model()).unwrap();
    let of_head: Vec<&str> = output
        .record()
        .notes
        .iter()
        .filter(|it| it.code.to_string() == "QCC0606")
        .map(|it| it.message.as_str())
        .collect();
    assert_eq!(of_head.len(), 1, "{of_head:?}");
    assert!(of_head[0].contains("it is the head of the model"), "{of_head:?}");

    let float = std::fs::read(books1m().join("model.onnx")).unwrap();
    let want = bench.logits(&float);
    let off = |recipe: &str| {
        let got = bench.logits(&bench.bytes(tuned(recipe, &samples, 2)));
        want.iter().zip(&got).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
    };
    let (searched, blocks) = (off("kl"), off("signround{iters=10}"));
    assert!(blocks < searched, "{blocks} against {searched}");
}

#[test]
fn numbers_of_a_pass_before_are_where_blocks_start() {
    let bench = Bench::new();
    let samples = samples(&bench, 8);
    let run = |first: &str, start: &str| {
        let passes = format!(
            "infer-types,select{{bits=2}},{first},signround{{objective=block,iters=1,start={start}}},pack,to-nbits"
        );
        let compiler = Compiler::new().pipeline(&passes);
        bench.logits(&bench.bytes(compiler.calibration(samples.clone()).threads(2)))
    };
    assert!(
        run("rtn", "searched") == run("gptq", "searched"),
        "what was chosen before is not read"
    );
    assert!(run("rtn", "given") != run("gptq", "given"));
    assert!(run("rtn", "given") != run("rtn", "searched"));
}

#[test]
fn few_samples_judge_what_none_are_left_to_judge() {
    let bench = Bench::new();
    // (samples, whether none is kept for trials)
    for (count, is_few) in [(1, true), (3, true), (4, false)] {
        let samples = samples(&bench, count);
        let run = |passes: &str| {
            let passes = format!("infer-types,select{{bits=4}},{passes},pack,to-nbits");
            let compiler = Compiler::new().pipeline(&passes).calibration(samples.clone());
            let output = compiler.threads(2).run(bench.model()).unwrap();
            let path = bench.path("out.onnx");
            let options = SaveOptions { overwrite: true, ..SaveOptions::default() };
            output.save(&path, &options).unwrap();
            let record = output.record();
            let told: Vec<String> = record
                .notes
                .iter()
                .filter(|it| {
                    it.code.to_string() == "QCC0407" && it.severity.to_string() == "warning"
                })
                .map(|it| format!("{} {}", it.message, it.help.join(" ")))
                .collect();
            let worse = record.blocks.iter().flat_map(|it| it.objective.iter().skip(1));
            // Behind a block that is worse than before, any other may be better.
            let is_kept = passes.contains("select=last");
            let all_worse = worse.clone().all(|it| it.1 > 1.0);
            assert!(is_kept || all_worse, "{passes}: {:?}", record.blocks);
            let has_curves = record.blocks.iter().all(|it| it.objective.len() > 1);
            assert!(has_curves, "{passes}: {:?}", record.blocks);
            let is_judged = worse.count() > 0 && !is_kept;
            assert_eq!(told.len(), usize::from(is_few && is_judged), "{passes}: {told:?}");
            assert!(told.iter().all(|it| it.contains("-n")), "{told:?}");
            bench.logits(&std::fs::read(path).unwrap())
        };
        let plain = run("rtn");
        // A single step moves codes and scales by all they may move; a rate of 1 takes scales away.
        let blocks = run("rtn,signround{objective=block,iters=1,start=given}");
        assert!(plain == blocks, "{count}: worse blocks are kept");
        let last = run("rtn,signround{objective=block,iters=1,start=given,select=last}");
        assert!(plain != last, "{count}: the last step is not kept");
        let scales = run("rtn,tune-scales{iters=2,rate=1.0}");
        assert!(plain == scales, "{count}: worse scales are kept");
    }
}
