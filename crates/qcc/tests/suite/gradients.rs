//! Models that cannot be tuned as a whole: operators without a derivative, values that overflow.

use std::path::Path;

use onnx_protobuf::{
    AttributeProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
};
use qcc_data::npy;
use qcc_tensor::Tensor;

use crate::bench::{Bench, bundled, bytes_of, floats, model, node, numbers, product};

const SAMPLES: &[&str] = &["--calib", "calib.npy", "-n", "4", "--seq-len", "16"];

/// The weight of the last product of layer 1.
const DOWN: &str = "val_398";

/// The bundled model, changed, and its samples.
pub(crate) fn bench(change: impl Fn(&mut ModelProto)) -> Bench {
    let mut model = ModelProto::decode(&*bundled()).unwrap();
    change(&mut model);
    let bench = Bench::new(&model.encode_to_vec());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("calib.npy", &std::fs::read(folder.join("calib.npy")).unwrap());
    bench
}

/// What the last product of layer 1 reads goes through an operator without a derivative.
pub(crate) fn without_derivative(model: &mut ModelProto) {
    let graph = model.graph.as_mut().unwrap();
    let at = graph.node.iter().position(|it| it.input.iter().any(|it| it == DOWN)).unwrap();
    let read = std::mem::replace(&mut graph.node[at].input[0], "cut".to_owned());
    let mut cut = node("Mod", "no_gradient", &[&read, "limit"], "cut");
    cut.attribute.push(AttributeProto {
        name: Some("fmod".to_owned()),
        r#type: Some(2),
        i: Some(1),
        ..AttributeProto::default()
    });
    graph.node.insert(at, cut);
    graph.initializer.push(floats("limit", &[], &[1000.0]));
}

#[test]
fn the_summary_names_a_block_that_has_no_gradient() {
    let bench = bench(without_derivative);
    let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=2}"];
    for more in [&[][..], &["--dry-run"]] {
        let ran = bench.passes(&[&args[..], SAMPLES, more].concat());
        let lines: Vec<&str> =
            ran.stderr.lines().filter(|it| it.contains("no derivative")).collect();
        assert_eq!(lines.len(), 1, "{more:?}: {}", ran.stderr);
        for text in ["7 weights", "block 2", "Mod 'no_gradient'"] {
            assert!(lines[0].contains(text), "{text}: {}", lines[0]);
        }
    }
    let output = bench.command(&["inspect", "in.onnx", "--blocks"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |idx: &str| text.lines().find(|it| it.trim_start().starts_with(idx)).unwrap();
    assert!(row("2 ").ends_with("layer: Mod 'no_gradient': Mod has no derivative"), "{text}");
    assert!(row("1 ").ends_with("block"), "{text}");
    let output = bench.command(&["inspect", "in.onnx", "--blocks", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"method\": \"layer\"") && text.contains("Mod 'no_gradient'"), "{text}");
}

/// What the last product of layer 1 reads is rounded, so that no gradient goes back.
fn rounded(model: &mut ModelProto) {
    let graph = model.graph.as_mut().unwrap();
    let at = graph.node.iter().position(|it| it.input.iter().any(|it| it == DOWN)).unwrap();
    let read = std::mem::replace(&mut graph.node[at].input[0], "cut".to_owned());
    graph.node.insert(at, node("Round", "to_whole", &[&read], "cut"));
}

#[test]
fn an_operator_that_passes_no_gradient_on_is_named() {
    let bench = bench(rounded);
    let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=2}"];
    let ran = bench.passes(&[&args[..], SAMPLES].concat());
    let text = "7 weights of block 2 one at a time: Round 'to_whole' passes no gradient on";
    assert!(ran.stderr.contains(text), "{}", ran.stderr);
}

/// An operator that nobody knows reads what each layer gives, for an output of the model.
fn unknown_beside(model: &mut ModelProto) {
    let graph = model.graph.as_mut().unwrap();
    let weights: Vec<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let is_product =
        |it: &&NodeProto| it.op_type() == "MatMul" && weights.contains(&it.input[1].as_str());
    let products: Vec<&NodeProto> = graph.node.iter().filter(is_product).collect();
    // The last of the seven products of each layer; behind them there is the head.
    let downs = products.chunks_exact(7).map(|it| it[6].output[0].clone());
    let downs: Vec<String> = downs.collect();
    assert_eq!(downs.len(), 4);
    for (layer, down) in downs.iter().enumerate() {
        let sum = graph.node.iter().find(|it| it.input.contains(down)).unwrap();
        assert_eq!(sum.op_type(), "Add");
        let name = format!("extra{layer}");
        let mut unknown = node("Unknown", &name, &[&sum.output[0]], &name);
        unknown.domain = Some("my".to_owned());
        graph.node.push(unknown);
        let mut extra = graph.output[0].clone();
        extra.name = Some(name);
        graph.output.push(extra);
    }
    model.opset_import.push(OperatorSetIdProto { domain: Some("my".to_owned()), version: Some(1) });
}

#[test]
fn what_no_later_layer_reads_need_not_run() {
    let bench = bench(unknown_beside);
    let args = ["in.onnx", "-f", "-o", "out.onnx", "-O", "signround{iters=2}"];
    let ran = bench.passes(&[&args[..], SAMPLES].concat());
    assert!(!ran.stderr.contains("QCC0606"), "{}", ran.stderr);
    let nodes = ModelProto::decode(&*bench.read("out.onnx")).unwrap().graph.unwrap().node;
    assert_eq!(nodes.iter().filter(|it| it.op_type() == "MatMulNBits").count(), 28);
    assert_eq!(nodes.iter().filter(|it| it.op_type() == "Unknown").count(), 4);
}

#[test]
fn fused_operators_have_gradients_whatever_the_opset() {
    // The norm becomes a sum and a norm, which is a block without weights in the copy.
    let mut norm = node("SkipLayerNormalization", "norm", &["a", "x", "n"], "y");
    let mut attention = node("Attention", "attends", &["x", "w", "b"], "a");
    for it in [&mut norm, &mut attention] {
        it.domain = Some("com.microsoft".to_owned());
    }
    attention.attribute.push(AttributeProto {
        name: Some("num_heads".to_owned()),
        r#type: Some(2),
        i: Some(4),
        ..AttributeProto::default()
    });
    let mut graph = product(&[1, 4, 64], floats("w", &[64, 192], &numbers(64 * 192)));
    graph.initializer.push(floats("b", &[192], &numbers(192)));
    graph.initializer.push(floats("n", &[64], &numbers(64)));
    graph.node = vec![attention, norm];
    let mut model = ModelProto::decode(&*model(graph)).unwrap();
    let import = |domain: &str, version: i64| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    model.opset_import = vec![import("", 11), import("com.microsoft", 1)];
    let bench = Bench::new(&model.encode_to_vec());
    let output = bench.command(&["inspect", "in.onnx", "--blocks"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().find(|it| it.trim_start().starts_with("0 ")).unwrap();
    assert!(row.ends_with("block"), "{text}");
    let x = Tensor::from_vec(vec![6, 4, 64], numbers(6 * 4 * 64)).unwrap();
    bench.put("x.npy", &npy::write(&x).unwrap());
    let args = ["in.onnx", "-o", "out.onnx", "-O", "signround{iters=2}", "--calib", "x.npy"];
    let ran = bench.passes(&args);
    assert!(!ran.stderr.contains("one at a time"), "{}", ran.stderr);
}

#[test]
fn values_that_overflow_stop_the_run_and_are_named() {
    let bench = bench(|model| {
        let graph = model.graph.as_mut().unwrap();
        let name = "m.model.layers.1.post_attention_layernorm.weight";
        let weight = graph.initializer.iter_mut().find(|it| it.name() == name).unwrap();
        weight.raw_data = Some(bytes_of(&[3e38; 128]).into());
        let norm = graph.node.iter_mut().find(|it| it.input.iter().any(|it| it == name)).unwrap();
        norm.name = Some("overflows".to_owned());
    });
    for recipe in ["signround{iters=2}", "signround{objective=layer}", "gptq", "kl"] {
        let args = ["in.onnx", "-o", "out.onnx", "-O", recipe];
        let texts = ["Mul 'overflows' gives values that are not finite", "sample 0", "-O rtn"];
        // Blocks before it are kept, so the folder changes.
        let ran = bench.run(&[&args[..], SAMPLES].concat());
        ran.is_refusal(1, "QCC0408", &texts);
        assert!(!bench.path("out.onnx").exists(), "{recipe}");
        assert_eq!(ran.stderr.matches("QCC0408]").count(), 1, "{recipe}: {}", ran.stderr);
        let is_kept = ran.stderr.contains("finished blocks are kept");
        assert_eq!(is_kept, recipe == "signround{iters=2}", "{}", ran.stderr);
        assert_eq!(is_kept, ran.stderr.contains("stops there again"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("goes on behind"), "{}", ran.stderr);
    }
    // Random tokens are no samples of the user: without them it goes on.
    let ran = bench.passes(&["in.onnx", "-o", "out.onnx", "-O", "kl", "--calib", "random"]);
    assert!(ran.stderr.contains("'overflows' gives values"), "{}", ran.stderr);
}

#[test]
fn the_sample_and_the_constant_are_named() {
    /// A token that only one sample has.
    const TOKEN: usize = 7;
    let bench = bench(|model| {
        let graph = model.graph.as_mut().unwrap();
        let table = graph.initializer.iter_mut().find(|it| it.dims == [1536, 128]).unwrap();
        let mut bytes = table.raw_data.as_deref().unwrap().to_vec();
        bytes[TOKEN * 512..TOKEN * 512 + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        table.raw_data = Some(bytes.into());
    });
    let ids =
        (0..6 * 16).map(|it| if it == 2 * 16 + 3 { TOKEN as i64 } else { 100 + it }).collect();
    let ids = Tensor::from_vec(vec![6, 16], ids).unwrap();
    bench.put("ids.npy", &npy::write(&ids).unwrap());
    for recipe in ["signround{iters=2,batch=4}", "gptq"] {
        let args = ["in.onnx", "-o", "out.onnx", "-O", recipe, "--calib", "ids.npy"];
        let texts = ["the constant 'm.model.embed_tokens.weight' holds values", "sample 2"];
        bench.refused(&args, 1, "QCC0408", &texts);
    }
}
