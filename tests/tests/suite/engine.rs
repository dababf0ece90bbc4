//! Models of every format run on kernels, and give what the executor gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc::bench::{BenchOptions, bench};
use qcc::{Compiler, Kernels, Model};
use qcc_engine::{KernelProduct, LowerOptions, Report, lower};
use qcc_exec::run_once;
use qcc_ir::{Graph, Value};
use qcc_kernels::{Epilogue, Planes, Pool, Scalar};
use qcc_pass::{Cancel, Silent};
use qcc_tensor::Tensor;
use qcc_tests::{Bench, distance};

fn rtn(format: &str, bits: i64, group: &str, sym: bool) -> Compiler {
    let compiler = Compiler::new().recipe("rtn").unwrap().format(format).unwrap();
    let compiler = compiler.bits(bits).unwrap().group_size(group).unwrap();
    compiler.setting("select", "sym", if sym { "true" } else { "false" }).unwrap()
}

/// The graph of what a compiler makes of the bundled model, with its types.
fn graph(bench: &Bench, compiler: Compiler) -> Graph {
    let path = bench.path("out.onnx");
    std::fs::write(&path, bench.bytes(compiler)).unwrap();
    let model = Model::open(&path).unwrap();
    let typed = Compiler::new().pipeline("infer-types").run(&model).unwrap();
    typed.graph().clone()
}

fn logits(graph: &Graph) -> Vec<f32> {
    let ids: Vec<i64> = (0..12).map(|it| (it * 37 + 11) % 512).collect();
    let input = graph.value_name(Value { node: graph.inputs()[0], slot: 0 }).to_owned();
    let feed = BTreeMap::from([(input, Tensor::from_vec(vec![1, 12], ids).unwrap())]);
    run_once(graph, &feed).unwrap()[0].1.to_f32().unwrap().into_owned()
}

fn lowered(graph: &mut Graph, planes: Planes) -> Report {
    let mut options = LowerOptions::new(Arc::new(Scalar), Arc::new(Pool::new(2)));
    options.planes = Some(planes);
    lower(graph, &options).unwrap()
}

#[test]
fn every_product_of_every_format_runs_on_a_kernel() {
    let bench = Bench::new();
    for (format, bits, group, sym) in [
        ("nbits", 4, "32", false),
        ("nbits", 3, "128", true),
        ("nbits", 8, "row", false),
        ("qdq", 4, "16", true),
        ("qdq", 2, "64", false),
        ("qdq", 8, "row", true),
        ("function", 3, "32", false),
        ("function", 5, "64", true),
        ("function", 6, "32", false),
    ] {
        let name = format!("{format}, {bits} bits, groups of {group}");
        let mut graph = graph(&bench, rtn(format, bits, group, sym));
        let want = logits(&graph);
        let report = lowered(&mut graph, Planes::A22);
        assert_eq!((report.products.len(), report.stays.len()), (28, 0), "{name}: {report:?}");
        let far = distance(&want, &logits(&graph));
        assert!(far < 1e-4, "{name}: {far}");
        // q, k and v, and gate and up, read the same rows: four nodes for each of four layers.
        let is_kernel =
            |it: &qcc_ir::Node| it.op().is_some_and(|op| op.is::<KernelProduct>().is_some());
        assert_eq!(graph.nodes().filter(|it| is_kernel(it.1)).count(), 16, "{name}");
        let count = |end| report.products.iter().filter(|it| it.epilogue == end).count();
        assert_eq!((count(Epilogue::SiluMul), count(Epilogue::Residual)), (4, 8), "{name}");
    }
}

#[test]
fn outliers_run_beside_kernels() {
    let bench = Bench::new();
    for (bits, group, outliers) in [(4, "32", "0.05"), (3, "128", "0.01")] {
        let name = format!("{bits} bits, groups of {group}, {outliers} outliers");
        let adpq = |format: &str| {
            let compiler = Compiler::new().recipe("adpq").unwrap().format(format).unwrap();
            let compiler = compiler.bits(bits).unwrap().group_size(group).unwrap();
            compiler.setting("adpq", "outliers", outliers).unwrap()
        };
        let fake = logits(&graph(&bench, adpq("fake")));
        let mut graph = graph(&bench, adpq("function"));
        let far = distance(&fake, &logits(&graph));
        assert!(far < 1e-5, "{name}, operators: {far}");
        let report = lowered(&mut graph, Planes::A22);
        assert_eq!((report.products.len(), report.stays.len()), (28, 0), "{name}: {report:?}");
        assert!(report.products.iter().all(|it| it.product.overlay().is_some()), "{name}");
        let far = distance(&fake, &logits(&graph));
        assert!(far < 1e-5, "{name}, kernels: {far}");
        let count = |end| report.products.iter().filter(|it| it.epilogue == end).count();
        assert_eq!((count(Epilogue::SiluMul), count(Epilogue::Residual)), (4, 8), "{name}");
    }
}

#[test]
fn eight_bits_of_activations_are_near() {
    let bench = Bench::new();
    let mut graph = graph(&bench, rtn("nbits", 4, "32", false));
    let want = logits(&graph);
    lowered(&mut graph, Planes::A8);
    let far = distance(&want, &logits(&graph));
    assert!((1e-5..0.1).contains(&far), "{far}");
}

#[test]
fn products_and_the_whole_are_timed() {
    let files = Bench::new();
    let path = files.path("out.onnx");
    std::fs::write(&path, files.bytes(rtn("nbits", 4, "32", false))).unwrap();
    let model = Model::open(&path).unwrap();
    let options = BenchOptions { rows: vec![1, 3], runs: Some(1), ..BenchOptions::default() };
    let kernels = Kernels::new(2);
    let progress: Arc<dyn qcc_pass::Progress> = Arc::new(Silent);
    let reference = Some(files.model());
    let found =
        bench(&model, reference, &kernels, &options, &progress, &Cancel::default()).unwrap();
    assert_eq!((found.products.0, found.whole.len()), (28, 2));
    assert!(found.whole.iter().all(|it| it.seconds > 0.0 && it.reference.is_some()));
    // Kinds of nodes: q with k and v, o, gate with up, down.
    assert_eq!(found.layers.iter().map(|it| it.count).collect::<Vec<_>>(), [4; 4]);
    for layer in &found.layers {
        assert_eq!(layer.times.iter().map(|it| it.rows).collect::<Vec<_>>(), [1, 3]);
        for it in &layer.times {
            // How large the share is depends on what else the machine does.
            assert!(
                it.share.is_some_and(|it| it > 0.0 && it.is_finite()) && it.reference.is_some(),
                "{layer:?}"
            );
        }
    }
}
