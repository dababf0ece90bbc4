//! Calibration on text that the model writes, on the bundled model.

use qcc::{Compiler, OwnTextSize};
use qcc_tests::Bench;

fn own(recipe: &str) -> Compiler {
    let size = OwnTextSize { samples: Some(8), length: Some(24) };
    Compiler::new().recipe(recipe).unwrap().bits(2).unwrap().own_text(Some(size))
}

#[test]
fn threads_and_runs_do_not_change_the_bytes() {
    let bench = Bench::new();
    let run = |threads| bench.bytes(own("signround{iters=2,batch=4}").threads(threads));
    let one = run(1);
    assert!(one == run(2), "another number of threads");
    assert!(one == run(1), "another run");
    let seeded = |seed| bench.plain_bytes(own("gptq").seed(seed));
    assert!(seeded(42) != seeded(7), "another seed");
}

#[test]
fn it_is_written_where_it_is_read_and_noted() {
    let bench = Bench::new();
    let notes = |compiler: Compiler| {
        let output = compiler.run(bench.model()).unwrap();
        let notes = &output.record().notes;
        let made: Vec<_> = notes.iter().filter(|it| it.code.to_string() == "QCC0605").collect();
        made.iter().map(|it| it.message.clone()).collect::<Vec<_>>()
    };
    let text = "text that the model writes, 4 rounds, seed 42: 8 samples of 24 tokens";
    assert!(notes(own("gptq"))[0].ends_with(text));
    assert!(notes(own("kl"))[0].ends_with(text), "asked for, so read by all");
    assert!(notes(Compiler::new().recipe("kl").unwrap())[0].contains("random tokens"));
    assert!(notes(own("gptq").own_text(None))[0].contains("random tokens"));
    assert_eq!(notes(own("rtn")), Vec::<String>::new());
}

#[test]
fn blocks_are_tuned_on_text_and_single_weights_on_random_tokens() {
    let bench = Bench::new();
    let bytes = |recipe: &str| bench.plain_bytes(own(recipe));
    assert!(bytes("signround{iters=2}") == bytes("signround{iters=2,objective=block}"));
    let random = |recipe: &str| bench.plain_bytes(own(recipe).own_text(None));
    assert!(random("signround") == random("signround{objective=layer}"));
}
