//! `--emit`: programs in C with the products of a model give the bits of the definition in plain
//! Rust, on this machine and, under an emulator, on AArch64; and what cannot be made is refused.
#![cfg(feature = "llvm")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use qcc::Model;
use qcc_engine::weights::{LowBit, low_bit};
use qcc_kernels::{Activations, Epilogue, Matrix, Operands, Pool, Product, Scalar};

use crate::bench::{Bench, SIZE, bundled, bytes_of, floats, good, model, node, numbers, product};

const STRICT: [&str; 5] = ["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"];
const CROSS: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";

fn has(programs: &[&str]) -> bool {
    let lacks = |it: &&&str| Command::new(it).arg("--version").output().is_err();
    let Some(it) = programs.iter().find(lacks) else { return true };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no {it}");
    // What a test prints is shown only if it fails; this is not.
    let how = "tools/setup, with --cross for AArch64, installs it";
    let _ = writeln!(std::io::stderr(), "not run here: --emit: no {it} ({how})");
    false
}

fn good_end(output: &Output, what: &str) {
    let text: String = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
}

/// Two products of the same activations, of an odd number of columns, and one of the results.
fn three() -> Vec<u8> {
    let mut graph = good();
    let (k, n) = (SIZE, 97);
    graph.initializer.push(floats("v", &[k, n], &numbers(k * n)));
    graph.initializer.push(floats("u", &[k, 80], &numbers(k * 80)));
    graph.node.push(node("MatMul", "/layers.0/v \"*/", &["x", "v"], "z"));
    graph.node.push(node("MatMul", "", &["y", "u"], "t"));
    graph.output.push(crate::bench::value("z", None));
    graph.output.push(crate::bench::value("t", None));
    model(graph)
}

/// The products of a model, in the order of the table.
fn products(path: &Path) -> Vec<LowBit> {
    let model = Model::open(path).unwrap();
    let graph = model.graph();
    let mut all = Vec::new();
    for scope in graph.scopes() {
        for id in graph.at(&scope).unwrap().topo() {
            all.extend(low_bit(graph, &scope, id).map(Result::unwrap));
        }
    }
    all
}

/// The results of a product, with an end and what that reads if there is one.
fn expected(it: &LowBit, x: &[f32], end: Option<(&End, &[f32])>) -> Vec<u8> {
    let weight = &it.weight;
    let matrix = Matrix::pack(weight.layout().unwrap(), &weight.weight.view()).unwrap();
    let layout = *matrix.layout();
    let own = if it.bias.is_some() { Epilogue::Bias } else { Epilogue::None };
    let epilogue = end.map_or(own, |it| it.0.0);
    let product = Product::new(Arc::new(matrix), Arc::new(Scalar), it.planes, epilogue);
    let product = product.with_overlay(it.overlay.clone().map(Arc::new));
    let mut y = vec![0.0; x.len() / layout.k() * layout.n()];
    let bias = end.map_or(it.bias.as_deref(), |it| it.0.1.as_deref());
    let operands = Operands { bias, extra: end.map(|it| it.1) };
    product.run(&Pool::new(1), &mut Activations::new(), x, operands, &mut y).unwrap();
    bytes_of(&y)
}

/// What a product ends in, and its bias.
type End = (Epilogue, Option<Vec<f32>>);

/// Builds the program against `code`, runs it on every product of `model.onnx`, and compares.
fn check(bench: &Bench, code: &str, compiler: &[&str], run: &[&str], weights: &str) {
    check_ends(bench, code, compiler, run, weights, &[]);
}

/// The same; of the ends, by product, the functions with them are run as well.
fn check_ends(
    bench: &Bench,
    code: &str,
    compiler: &[&str],
    run: &[&str],
    weights: &str,
    ends: &[Option<End>],
) {
    let mut cases = Vec::new();
    let mut want = Vec::new();
    for (i, it) in products(&bench.path("model.onnx")).iter().enumerate() {
        for (rows, parts, split) in [(1, 1, 0), (7, 3, 1), (17, 2, 0)] {
            let x = numbers(rows * it.weight.k);
            let mut case = |how: usize, extra: &[f32]| {
                let head = [i, rows, parts, split + how];
                cases.extend(head.iter().flat_map(|it| (*it as u32).to_le_bytes()));
                cases.extend(bytes_of(&x));
                cases.extend(bytes_of(extra));
            };
            case(0, &[]);
            want.extend(expected(it, &x, None));
            if let Some(Some(end)) = ends.get(i) {
                let extra = numbers(rows * it.weight.n + 1).split_off(1);
                case(2, &extra);
                want.extend(expected(it, &x, Some((end, &extra))));
            }
        }
    }
    bench.put("cases", &cases);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/c/products.c");
    let mut build = Command::new(compiler[0]);
    build.args(&compiler[1..]).args(STRICT).args(["-I.", "-o", "program"]).arg(source);
    build.current_dir(bench.path(""));
    // Libraries are looked for where the program is run.
    build.args(["-x", "none", "-Wl,-rpath,."]).args([code, "-lm"]);
    good_end(&build.output().unwrap(), code);
    let program = bench.path("program");
    let mut start = match run {
        [] => Command::new(program),
        [emulator, more @ ..] => {
            let mut start = Command::new(emulator);
            start.args(more).arg(program);
            start
        }
    };
    start.current_dir(bench.path("")).args([weights, "cases", "results"]);
    good_end(&start.output().unwrap(), code);
    assert!(bench.read("results") == want, "{code}: other results");
}

fn rtn<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["in.onnx", "-O", "rtn", "-f", "-q"], more].concat()
}

#[test]
fn objects_give_the_defined_bits() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&three());
    let kinds = ["-o", "model.onnx", "--emit", "onnx,obj,header"];
    bench.passes(&rtn(&kinds));
    check(&bench, "model.o", &["cc", "-std=c99"], &[], "-");
    // Full accuracy, odd groups, three bits; weights beside it.
    let more = ["--weights", "file", "-b3", "-g", "16", "--accuracy-level", "1"];
    bench.passes(&rtn(&[&kinds[..], &more].concat()));
    check(&bench, "model.o", &["cc", "-std=c11"], &[], "model.qpk");
    // A model that is quantized already, and no other copy of it.
    let args = ["model.onnx", "-O", "none", "-q", "-f", "--emit", "obj,header"];
    bench.passes(&args);
    check(&bench, "model.o", &["cc", "-std=c99"], &[], "-");
    // C++ reads the header too.
    if has(&["c++"]) {
        check(&bench, "model.o", &["c++", "-x", "c++", "-Wno-deprecated"], &[], "-");
    }
}

#[test]
fn shared_libraries_need_nothing() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&three());
    bench.passes(&rtn(&["-o", "model.onnx", "--emit", "onnx,shared,header", "--weights", "file"]));
    check(&bench, "./model.so", &["cc", "-std=c99"], &[], "model.qpk");
    // Names of libraries that it needs would be in its table of strings.
    let bytes = bench.read("model.so");
    let names = bytes.split(|it| *it == 0).filter_map(|it| std::str::from_utf8(it).ok());
    let needed: Vec<&str> =
        names.filter(|it| it.starts_with("lib") && it.contains(".so")).collect();
    assert!(needed.is_empty(), "{needed:?}");
    // The same bytes again.
    bench.passes(&rtn(&["-o", "model.so", "--emit", "shared", "--weights", "file"]));
    assert!(bench.read("model.so") == bytes);
}

/// Nodes behind products: a gate and what it lets through, an addition, a bias.
fn with_ends() -> Vec<u8> {
    let mut graph = good();
    graph.node.clear();
    for (i, name) in ["gate", "up", "down", "biased", "read"].into_iter().enumerate() {
        let weight = numbers(SIZE * SIZE + i).split_off(i);
        graph.initializer.push(floats(name, &[SIZE, SIZE], &weight));
    }
    graph.initializer.push(floats("c", &[SIZE], &numbers(SIZE)));
    for (op, name, inputs, output) in [
        ("MatMul", "gate", ["x", "gate"], "g"),
        ("MatMul", "up", ["x", "up"], "u"),
        ("Sigmoid", "", ["g", ""], "s"),
        ("Mul", "", ["g", "s"], "silu"),
        ("Mul", "", ["silu", "u"], "h"),
        ("MatMul", "down", ["h", "down"], "d"),
        ("Add", "", ["x", "d"], "y"),
        ("MatMul", "biased", ["x", "biased"], "b"),
        ("Add", "", ["b", "c"], "z"),
        ("MatMul", "read", ["x", "read"], "r"),
        ("Add", "", ["r", "x"], "t"),
    ] {
        let inputs: Vec<&str> = inputs.into_iter().filter(|it| !it.is_empty()).collect();
        graph.node.push(node(op, name, &inputs, output));
    }
    // The result of the last product is read before the addition too.
    for name in ["z", "r", "t"] {
        graph.output.push(crate::bench::value(name, None));
    }
    model(graph)
}

/// What the model does with results has functions of its own, and outliers are part of products.
#[test]
fn ends_and_outliers_give_the_defined_bits() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&with_ends());
    let ends = [
        Some((Epilogue::SiluMul, None)),
        None,
        Some((Epilogue::Residual, None)),
        Some((Epilogue::Bias, Some(numbers(SIZE)))),
        None,
    ];
    let kinds = ["in.onnx", "-fq", "--lm-head=4", "-omodel.onnx", "--emit", "onnx,obj,header"];
    for recipe in [["-O", "rtn", "-b4"], ["-O", "adpq", "--format=function"]] {
        bench.passes(&[&kinds[..], &recipe].concat());
        check_ends(&bench, "model.o", &["cc", "-std=c99"], &[], "-", &ends);
        let text = String::from_utf8(bench.read("model.h")).unwrap();
        assert_eq!(text.matches("outliers */").count(), if recipe[1] == "adpq" { 5 } else { 0 });
        assert_eq!(text.matches("/* With its end, ").count(), 3, "{text}");
        for line in [
            "silu(y) * extra, which is the result of model_up. */\nint model_gate_end(",
            "y + extra. */\nint model_down_end(",
            "y + a bias of the model. */\nint model_biased_end(",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}

/// One object and one library with code for several targets; weights are there once.
#[cfg(target_arch = "x86_64")]
#[test]
fn files_for_several_targets_give_the_defined_bits() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&three());
    let kinds = ["-o", "model.onnx", "--emit", "onnx,obj,shared,header"];
    let all = ["--target", "x86-64-v4,x86-64,x86-64-v3,native"];
    bench.passes(&rtn(&[&kinds[..], &all].concat()));
    let compiler = ["cc", "-std=c99"];
    check(&bench, "./model.so", &compiler, &[], "-");
    check(&bench, "model.o", &[&compiler[..], &["-static"]].concat(), &[], "-");
    // The same bytes, whatever the order.
    let object = bench.read("model.o");
    let other = ["--target", "native,x86-64-v3,x86-64,x86-64-v4,x86-64-v3"];
    bench.passes(&rtn(&[&kinds[..], &other].concat()));
    assert!(bench.read("model.o") == object);
}

#[test]
fn objects_for_aarch64_run_under_an_emulator() {
    if !has(&[CROSS, EMULATOR]) {
        return;
    }
    let bench = Bench::new(&three());
    let kinds = ["-o", "model.onnx", "--emit", "onnx,obj,shared,header"];
    for target in ["aarch64", "aarch64+dotprod", "aarch64+i8mm"] {
        bench.passes(&rtn(&[&kinds[..], &["--target", target]].concat()));
        let compiler = [CROSS, "-static", "-std=c99"];
        check(&bench, "model.o", &compiler, &[EMULATOR, "-cpu", "max"], "-");
    }
}

/// The program of the guide, on the bundled model.
#[test]
fn the_example_of_the_page_runs() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&bundled());
    bench.passes(&rtn(&["-o", "books", "--emit", "obj,header", "--weights", "file"]));
    let page = include_str!("../../../../docs/aot.md");
    let (_, rest) = page.split_once("```c\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    bench.put("example.c", program.as_bytes());
    let mut build = Command::new("cc");
    build.args(["-std=c99"]).args(STRICT).args(["example.c", "books.o", "-o", "example"]);
    good_end(&build.current_dir(bench.path("")).output().unwrap(), "example.c");
    let mut run = Command::new(bench.path("example"));
    let ran = run.current_dir(bench.path("")).output().unwrap();
    good_end(&ran, "the example");
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(text.starts_with("28 products for "), "{text}");
    assert!(text.contains("node_linear: 128 x 128, y[0] = "), "{text}");
}

/// A shared library that took the place of the one that a program was built with.
#[test]
fn a_library_of_another_header_is_not_opened() {
    if !has(&["cc"]) {
        return;
    }
    let bench = Bench::new(&three());
    bench.passes(&rtn(&["-o", "model", "--emit", "obj,header"]));
    let header = String::from_utf8(bench.read("model.h")).unwrap();
    let program = "#include \"model.h\"\nint main(void) { return model_open(0, 0); }\n";
    bench.put("program.c", program.as_bytes());
    let opened = |header: &str| {
        bench.put("model.h", header.as_bytes());
        let mut build = Command::new("cc");
        build.args(["-std=c99"]).args(STRICT).args(["program.c", "model.o", "-o", "program"]);
        good_end(&build.current_dir(bench.path("")).output().unwrap(), "program.c");
        Command::new(bench.path("program")).status().unwrap().code()
    };
    assert_eq!(opened(&header), Some(0));
    assert_eq!(
        opened(&header.replace("QCC_AOT_ABI 1u", "QCC_AOT_ABI 2u").replace("!= 1u", "!= 2u")),
        Some(12)
    );
    assert_eq!(opened(&header.replace("model_PRODUCTS 3", "model_PRODUCTS 4")), Some(12));
    let both = [
        &header,
        "#undef QCC_AOT_ABI\n#define QCC_AOT_ABI 2u\n",
        &header.replace("model", "other"),
    ]
    .concat();
    bench.put("both.h", both.as_bytes());
    let mut build = Command::new("cc");
    let built =
        build.args(["-fsyntax-only", "both.h"]).current_dir(bench.path("")).output().unwrap();
    assert!(String::from_utf8_lossy(&built.stderr).contains("two versions of qcc"));
}

#[test]
fn what_cannot_be_made_is_refused() {
    let bench = Bench::new(&model(good()));
    let refused = |args: &[&str], exit, code, texts: &[&str]| {
        bench.refused(&[&["in.onnx", "-O", "rtn"], args].concat(), exit, code, texts);
    };
    let near = ["no target is called 'aarch64+dotprd'", "help: write 'aarch64+dotprod'"];
    refused(&["--emit", "obj", "--target", "aarch64+dotprd"], 2, "QCC0304", &near);
    let old = ["avx512vnni needs x86-64-v4 or newer", "help: write 'x86-64-v4+avx512vnni'"];
    refused(&["--emit", "obj", "--target", "x86-64-v2+avx512vnni"], 2, "QCC0304", &old);
    let two = ["two architectures", "help: run qcc once for each"];
    refused(&["--emit", "obj", "--target", "x86-64-v3,aarch64"], 2, "QCC0304", &two);
    refused(
        &["--emit", "shared", "--linker", "./none"],
        1,
        "QCC0704",
        &["'./none' does not start"],
    );
    refused(&["--emit", "shared", "--linker", "false"], 1, "QCC0704", &["'false' failed"]);
    refused(&["--emit", "obj", "-o", "in.onnx", "-f"], 1, "QCC0107", &["is the input model"]);
    refused(&["--emit", "obj", "-o", "none/m.o"], 1, "QCC0105", &["help: choose another"]);
    refused(&["--emit", "obj", "--verify", "full"], 2, "QCC0304", &["--emit asks for none"]);
    refused(&["--emit", "obj", "--format", "fake"], 1, "QCC0702", &["no product"]);
    let none = ["in.onnx", "-O", "none", "--emit", "obj,header"];
    bench.refused(&none, 1, "QCC0702", &["no product with a low-bit weight"]);
    let unknown = bench.run(&["in.onnx", "--emit", "objct"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("'obj'"), "{}", unknown.stderr);
    // One of several is there: nothing is written.
    bench.put("m.h", b"precious");
    refused(&["--emit", "onnx,header", "-o", "m"], 1, "QCC0106", &["'m.h' exists"]);
    std::fs::create_dir(bench.path("d.s")).unwrap();
    std::fs::create_dir(bench.path("folder")).unwrap();
    for output in ["folder", "folder/", "none/"] {
        let args = ["--emit", "obj,header", "-o", output, "-f"];
        refused(&args, 1, "QCC0105", &[output, "is a directory", "help: choose another"]);
    }
    refused(&["--emit", "asm,llvm-ir", "-o", "d", "-f"], 1, "QCC0105", &["it is not a file"]);
}

/// A weight that no kernel takes is named; the others are there.
#[test]
fn weights_without_a_kernel_are_named() {
    let bench = Bench::new(&three());
    bench.passes(&rtn(&["-o", "q.onnx", "-g", "24", "--format", "function"]));
    let args = ["q.onnx", "-O", "none", "--emit", "obj"];
    let texts = &["'product' is left out: ", "groups of 24", "quantize the float model again"];
    bench.refused(&args, 1, "QCC0702", texts);
    let sets = ["--set", "v:group=32", "-g", "24", "--format", "function"];
    bench.passes(&rtn(&[&["-o", "q.onnx"], &sets[..]].concat()));
    let ran = bench.passes(&args);
    assert!(ran.stderr.contains("warning[QCC0703]: 'product' is left out"), "{}", ran.stderr);
    bench.refused(&[&args[..], &["--strict", "-f"]].concat(), 1, "QCC0703", &["'product'"]);
}

/// What another tool wrote wrongly is carried in a model, but no product of a program.
#[test]
fn products_with_wrong_attributes_are_named() {
    let bench = Bench::new(&three());
    bench.passes(&rtn(&["-o", "q.onnx"]));
    let mut bytes = bench.read("q.onnx");
    let four: &[u8] = b"bits\x18\x04"; // a name, then its integer
    let at = bytes.windows(four.len()).position(|it| it == four).unwrap() + four.len() - 1;
    bytes[at] = 5;
    bench.put("q.onnx", &bytes);
    let args = ["q.onnx", "-O", "none", "--emit", "obj"];
    let ran = bench.passes(&args);
    let text = "is left out: MatMulNBits: attribute 'bits' is not 2, 4 or 8";
    assert!(ran.stderr.contains("warning[QCC0703]") && ran.stderr.contains(text), "{}", ran.stderr);
    bench.refused(&[&args[..], &["--strict", "-f"]].concat(), 1, "QCC0703", &[text]);
}

#[test]
fn a_wide_product_is_one_of_a_few_columns() {
    let bench = Bench::new(&model(product(&[-1, 512], floats("w", &[512, 8], &numbers(4096)))));
    bench.passes(&rtn(&["--emit", "asm,llvm-ir,header", "-o", "m", "--target", "x86-64-v3"]));
    let text = String::from_utf8(bench.read("m.ll")).unwrap();
    assert!(text.contains("define internal void @qcc_mm_b4_g32_m1_t1_"), "{text}");
    assert!(String::from_utf8(bench.read("m.s")).unwrap().contains("m_product:"));
}
