//! Calibration samples that cannot be read or do not fit the model.

use std::io::Cursor;
use std::path::Path;

use qcc_data::{npy, npz};
use qcc_tensor::Tensor;

use crate::bench::{Bench, SIZE, bundled, good, model, numbers, rtn};

const CANNOT_BE_READ: &str = "QCC0401";
const DO_NOT_FIT: &str = "QCC0402";

fn ids(dims: &[usize], wrong: &[(usize, i64)]) -> Tensor {
    let len = dims.iter().product::<usize>() as i64;
    let mut ids: Vec<i64> = (0..len).collect();
    for &(at, id) in wrong {
        ids[at] = id;
    }
    Tensor::from_vec(dims.to_vec(), ids).unwrap()
}

fn archive(arrays: &[(&str, Tensor)]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    npz::write(&mut file, arrays.iter().map(|it| (it.0, &it.1))).unwrap();
    file.into_inner()
}

#[test]
fn samples_that_cannot_be_used() {
    let bench = Bench::new(&bundled());
    let good = npy::write(&ids(&[2, 16], &[])).unwrap();
    let array = |it: Tensor| npy::write(&it).unwrap();
    let half = good[..good.len() / 2].to_vec();
    let two = archive(&[("tokens", ids(&[2, 16], &[])), ("other", ids(&[2, 16], &[]))]);
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("empty.npy", Vec::new(), CANNOT_BE_READ, "no .npy file"),
        ("text.npy", b"1 2 3\n".to_vec(), CANNOT_BE_READ, "no .npy file"),
        ("cut.npy", half, CANNOT_BE_READ, "it ends early"),
        ("empty.npz", Vec::new(), CANNOT_BE_READ, "empty.npz"),
        ("text.npz", good.clone(), CANNOT_BE_READ, "text.npz"),
        ("ids.bin", good, CANNOT_BE_READ, "samples are .npy, .npz"),
        ("foo.npz", archive(&[("foo", ids(&[2, 16], &[]))]), DO_NOT_FIT, "nothing is given for"),
        ("rank.npy", array(ids(&[2, 3, 4], &[])), DO_NOT_FIT, "is given an array i64[2, 3, 4]"),
        ("names.npz", two, DO_NOT_FIT, "nothing is given for 'input_ids'"),
        (
            "floats.npy",
            array(Tensor::vector(vec![1f32; 8])),
            DO_NOT_FIT,
            "takes token ids, not f32",
        ),
        ("none.npy", array(ids(&[0, 16], &[])), DO_NOT_FIT, "there are no samples"),
        ("short.npy", array(ids(&[2, 0], &[])), DO_NOT_FIT, "there are no tokens"),
        ("minus.npy", array(ids(&[2, 16], &[(3, -1)])), DO_NOT_FIT, "token 3 is -1"),
        ("large.npy", array(ids(&[2, 16], &[(20, 1536)])), DO_NOT_FIT, "token 4 is 1536"),
    ];
    for (name, bytes, code, text) in cases {
        bench.put(name, &bytes);
        bench.refused(&rtn(&["--calib", name]), 1, code, &[text, "help: ", &format!("--> {name}")]);
    }
    bench.refused(&rtn(&["--calib", "missing.npy"]), 1, CANNOT_BE_READ, &["missing.npy", "help: "]);
}

#[test]
fn inputs_that_are_not_finite_end_the_run() {
    let bench = Bench::new(&model(good()));
    let mut values = numbers(3 * SIZE);
    (values[SIZE + 5], values[SIZE + 7]) = (f32::NAN, f32::INFINITY);
    let x = Tensor::from_vec(vec![3, SIZE], values).unwrap();
    bench.put("x.npz", &archive(&[("x", x)]));
    for recipe in ["kl", "gptq", "signround"] {
        let args = ["in.onnx", "-O", recipe, "-o", "out.onnx", "--calib", "x.npz"];
        let texts = ["'x' is given values that are not finite on sample", "-O rtn"];
        bench.refused(&args, 1, "QCC0408", &texts);
    }
}

#[test]
fn the_last_token_of_the_vocabulary_is_one() {
    let bench = Bench::new(&bundled());
    bench.put("ids.npy", &npy::write(&ids(&[2, 16], &[(20, 1535), (3, 0)])).unwrap());
    bench.passes(&["in.onnx", "-O", "kl", "--calib", "ids.npy", "--dry-run"]);
}

#[test]
fn evaluation_of_what_does_not_fit() {
    let bench = Bench::new(&bundled());
    bench.put("ids.npy", &npy::write(&ids(&[1, 16], &[(3, -1)])).unwrap());
    bench.put("other.onnx", &model(good()));
    bench.put("cut.onnx", &bundled()[..5000]);
    let eval = |model: &str, more: &[&str], code: &str, texts: &[&str]| {
        bench.refused(&[&["eval", model], more].concat(), 1, code, texts);
    };
    eval("in.onnx", &["-d", "ids.npy"], DO_NOT_FIT, &["token 3 is -1", "help: "]);
    eval("in.onnx", &["-d", "missing.npy"], CANNOT_BE_READ, &["missing.npy", "help: "]);
    eval("cut.onnx", &["-d", "ids.npy"], "QCC0102", &["cut.onnx", "help: "]);
    bench.put("ids.npy", &npy::write(&ids(&[1, 16], &[])).unwrap());
    eval("in.onnx", &["-d", "ids.npy", "--ref", "cut.onnx"], "QCC0102", &["cut.onnx"]);
    eval(
        "in.onnx",
        &["-d", "ids.npy", "--ref", "other.onnx"],
        DO_NOT_FIT,
        &["takes 'x'", "help: "],
    );
    bench.refused(&["inspect", "cut.onnx", "--weights"], 1, "QCC0102", &["cut.onnx", "help: "]);
}

#[test]
fn text_is_read_with_the_tokenizer_beside_the_model() {
    let bench = Bench::new(&bundled());
    bench.put("notes.txt", &b"I am here, and so are you. ".repeat(40));
    let args = ["in.onnx", "-O", "kl", "--calib", "notes.txt", "-n", "2", "--seq-len", "16"];
    let args = [&args[..], &["-f", "-o", "out.onnx"]].concat();
    bench.refused(&args, 1, "QCC0401", &["text needs a tokenizer", "beside the model"]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M");
    bench.put("tokenizer.json", &std::fs::read(folder.join("tokenizer.json")).unwrap());
    bench.passes(&args);
}
