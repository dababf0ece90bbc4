//! Every option reaches the output, and every format says the same as `fake`.

use std::collections::BTreeMap;

use qcc::Compiler;
use qcc_tests::{Bench, distance};

fn rtn() -> Compiler {
    Compiler::new().recipe("rtn").unwrap()
}

#[test]
fn each_option_changes_the_bytes() {
    let bench = Bench::new();
    let mut seen: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut check = |what: &str, compiler: Compiler| {
        let bytes = bench.bytes(compiler);
        if let Some(other) = seen.insert(bytes, what.to_owned()) {
            panic!("'{what}' and '{other}' give the same bytes");
        }
    };
    check("defaults", rtn());
    for bits in [2, 3, 5, 6, 7, 8] {
        check(&format!("bits {bits}"), rtn().bits(bits).unwrap());
    }
    for group in ["16", "64", "128", "row"] {
        check(&format!("group {group}"), rtn().group_size(group).unwrap());
    }
    for (name, value) in [
        ("sym", "true"),
        ("embeddings", "4"),
        ("head", "4"),
        ("op-types", "Gemm,MatMul"), // named in provenance
        ("exclude", "node_linear_2"),
        ("include", "node_linear_2"),
        ("set", "node_linear_2:bits=8"),
        ("set", "node_linear_2:group=64"),
        ("set", "node_linear_2:sym"),
        ("set", "node_linear_2:skip"),
    ] {
        check(&format!("{name}={value}"), rtn().setting("select", name, value).unwrap());
    }
    check("level 0", rtn().setting("to-nbits", "accuracy-level", "0").unwrap());
    for format in ["qdq", "function", "fake"] {
        check(format, rtn().format(format).unwrap());
    }
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
