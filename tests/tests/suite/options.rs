//! Every format says the same as `fake`.

use qcc::Compiler;
use qcc_tests::{Bench, distance};

fn rtn() -> Compiler {
    Compiler::new().recipe("rtn").unwrap()
}

#[test]
fn formats_agree_with_fake() {
    let bench = Bench::new();
    // Bits and groups that each format can carry, symmetric and not.
    let cells: &[(&str, &[i64], &[&str])] = &[
        ("nbits", &[2, 3, 4, 5, 8], &["32", "128", "row"]),
        ("qdq", &[2, 4, 6, 8], &["16", "64", "row"]),
        ("function", &[2, 3, 4, 5, 6, 8], &["8", "32"]),
    ];
    for (format, all_bits, groups) in cells {
        for (idx, &bits) in all_bits.iter().enumerate() {
            let group = groups[idx % groups.len()];
            let sym = if idx % 2 == 0 { "false" } else { "true" };
            let compiler = || {
                rtn()
                    .bits(bits)
                    .unwrap()
                    .group_size(group)
                    .unwrap()
                    .setting("select", "sym", sym)
                    .unwrap()
                    .setting("select", "head", &bits.to_string())
                    .unwrap()
            };
            let fake = bench.logits(&bench.bytes(compiler().format("fake").unwrap()));
            let other = bench.logits(&bench.bytes(compiler().format(format).unwrap()));
            let far = distance(&fake, &other);
            assert!(far < 1e-4, "{format}, {bits} bits, group {group}, sym {sym}: {far}");
        }
    }
}

#[test]
fn embeddings_and_head_agree_with_fake() {
    let bench = Bench::new();
    let compiler = |format: &str| {
        rtn()
            .setting("select", "head", "4")
            .unwrap()
            .setting("select", "embeddings", "4")
            .unwrap()
            .format(format)
            .unwrap()
    };
    let fake = bench.logits(&bench.bytes(compiler("fake")));
    let nbits = bench.logits(&bench.bytes(compiler("nbits")));
    assert!(distance(&fake, &nbits) < 1e-4);
}
