//! `qcc run`: arrays in and out, and text.

use std::collections::BTreeMap;

use bytes::Bytes;
use qcc_data::{npy, npz};
use qcc_tensor::Tensor;

use crate::bench::{Bench, SIZE, bundled, good, model, numbers, rtn};

fn put_array(bench: &Bench, name: &str, tensor: &Tensor) {
    bench.put(name, &npy::write(tensor).unwrap());
}

fn arrays(bench: &Bench, name: &str) -> BTreeMap<String, Tensor> {
    npz::read(&Bytes::from(bench.read(name))).unwrap().into_iter().collect()
}

/// What a command prints to the output stream; it succeeds.
fn printed(bench: &Bench, args: &[&str]) -> String {
    let output = bench.command(args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}\n{stderr}");
    text
}

fn json(bench: &Bench, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&printed(bench, &[args, &["--json"]].concat())).unwrap()
}

fn tokens(bench: &Bench, args: &[&str]) -> Vec<i64> {
    let found = json(bench, args);
    found["tokens"].as_array().unwrap().iter().map(|it| it.as_i64().unwrap()).collect()
}

fn product(x: &[f32], w: &[f32]) -> Vec<f32> {
    let row = |x: &[f32]| -> Vec<f32> {
        (0..SIZE).map(|n| (0..SIZE).map(|k| x[k] * w[k * SIZE + n]).sum()).collect()
    };
    x.chunks(SIZE).flat_map(row).collect()
}

#[test]
fn arrays_go_in_and_come_out() {
    let bench = Bench::new(&model(good()));
    let x = Tensor::from_vec(vec![3, SIZE], numbers(3 * SIZE)).unwrap();
    put_array(&bench, "x.npy", &x);
    bench.passes(&["run", "in.onnx", "--input", "x=x.npy", "--outputs", "y.npz"]);
    let y = arrays(&bench, "y.npz").remove("y").unwrap();
    assert_eq!(y.dims(), [3, SIZE]);
    let want = product(&numbers(3 * SIZE), &numbers(SIZE * SIZE));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    assert!(y.to_f32().unwrap().iter().zip(&want).all(near));

    let mut file = std::io::Cursor::new(Vec::new());
    npz::write(&mut file, [("x", &x)]).unwrap();
    bench.put("in.npz", &file.into_inner());
    let args = ["run", "in.onnx", "--inputs", "in.npz", "--outputs", "y.npz"];
    bench.refused(&args, 1, "QCC0106", &["'y.npz' exists", "--force"]);
    bench.passes(&[&args[..], &["-f"]].concat());
    assert_eq!(arrays(&bench, "y.npz")["y"], y);

    let text = printed(&bench, &["run", "in.onnx", "--inputs", "in.npz"]);
    assert!(text.contains("y") && text.contains("f32") && text.contains("[3, 64]"), "{text}");
    let found = json(&bench, &["run", "in.onnx", "--inputs", "in.npz", "--profile"]);
    assert_eq!(found["outputs"][0]["shape"], serde_json::json!([3, SIZE]));
    let largest = want.iter().copied().fold(f32::MIN, f32::max);
    let max = found["outputs"][0]["max"].as_f64().unwrap();
    assert!((max - f64::from(largest)).abs() < 1e-3, "{max}");
    assert_eq!(found["profile"][0]["operator"], "MatMul");
}

#[test]
fn quantized_models_run_on_kernels_as_without() {
    let bench = Bench::new(&model(good()));
    bench.passes(&rtn(&["--accuracy-level", "1"]));
    let x = Tensor::from_vec(vec![5, SIZE], numbers(5 * SIZE)).unwrap();
    put_array(&bench, "x.npy", &x);
    let run = |kernels: &str, name: &str| {
        let args = ["run", "out.onnx", "--input", "x=x.npy", "--kernels", kernels];
        bench.passes(&[&args[..], &["--outputs", name]].concat());
        arrays(&bench, name)["y"].to_f32().unwrap().into_owned()
    };
    let [none, scalar, auto] =
        [("none", "a.npz"), ("scalar", "b.npz"), ("auto", "c.npz")].map(|it| run(it.0, it.1));
    let top = none.iter().fold(0f32, |top, it| top.max(it.abs()));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * top;
    assert!(none.iter().zip(&auto).all(near));
    assert!(none.iter().zip(&scalar).all(near));
    let found = json(&bench, &["run", "out.onnx", "--input", "x=x.npy"]);
    assert_eq!(found["kernels"], 1);
}

/// What is read is never written, and what is there is replaced by a whole file or stays.
#[test]
fn outputs_never_take_the_place_of_what_is_read() {
    let bench = Bench::new(&model(good()));
    let x = Tensor::from_vec(vec![3, SIZE], numbers(3 * SIZE)).unwrap();
    put_array(&bench, "x.npy", &x);
    let mut file = std::io::Cursor::new(Vec::new());
    npz::write(&mut file, [("x", &x)]).unwrap();
    bench.put("x.npz", &file.into_inner());
    std::fs::hard_link(bench.path("in.onnx"), bench.path("link.onnx")).unwrap();
    let one: &[&str] = &["--input", "x=x.npy"];
    let refused = |inputs: &[&str], output: &str, code: &str, texts: &[&str]| {
        let args = [&["run", "in.onnx", "-f", "--outputs", output], inputs].concat();
        bench.refused(&args, 1, code, texts);
    };
    for name in ["in.onnx", "./in.onnx", "link.onnx"] {
        refused(one, name, "QCC0107", &["is the input model", "--outputs another name"]);
    }
    refused(one, "x.npy", "QCC0107", &["'x.npy' is an array that is read"]);
    refused(&["--inputs", "x.npz"], "x.npz", "QCC0107", &["'x.npz' is an array that is read"]);
    std::fs::create_dir(bench.path("folder")).unwrap();
    for name in ["folder", "none/y.npz"] {
        refused(one, name, "QCC0105", &["cannot be written", "nothing was left behind"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        refused(one, "/dev/full", "QCC0105", &["it is not a file"]);
        assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    }
}

/// The folder of kernels says nothing about those that a run needs: what is not in it runs in plain
/// Rust where there is no LLVM, with one warning.
#[test]
fn without_llvm_kernels_in_plain_rust_run() {
    let bench = Bench::new(&model(good()));
    bench.passes(&rtn(&[]));
    let x = Tensor::from_vec(vec![5, SIZE], numbers(5 * SIZE)).unwrap();
    put_array(&bench, "x.npy", &x);
    for folder in ["fake", "cache/qcc/kernels"] {
        std::fs::create_dir_all(bench.path(folder)).unwrap();
    }
    for name in ["fake/libLLVM.so.22.1", "fake/libLLVM-22.so", "cache/qcc/kernels/old.qcck"] {
        bench.put(name, b"");
    }
    let run = |is_broken: bool, name: &str| {
        let args = ["run", "out.onnx", "--input", "x=x.npy", "--outputs", name];
        let mut command = bench.command(&args);
        if is_broken {
            let (fake, cache) = (bench.path("fake"), bench.path("cache"));
            command.env("LD_LIBRARY_PATH", fake).env("XDG_CACHE_HOME", cache);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        (arrays(&bench, name).remove("y").unwrap(), stderr)
    };
    let (want, _) = run(false, "a.npz");
    let (got, stderr) = run(true, "b.npz");
    assert_eq!(got, want);
    let warning = "warning[QCC0609]: products run on kernels in plain Rust, which are slow";
    assert_eq!(stderr.matches(warning).count(), 1, "{stderr}");
}

#[test]
fn wrong_arrays_are_told_with_a_way_out() {
    let bench = Bench::new(&model(good()));
    let put = |name: &str, tensor: &Tensor| put_array(&bench, name, tensor);
    put("x.npy", &Tensor::from_vec(vec![2, SIZE], numbers(2 * SIZE)).unwrap());
    put("wide.npy", &Tensor::from_vec(vec![2, 3], numbers(6)).unwrap());
    put("int.npy", &Tensor::from_vec(vec![1, SIZE], vec![1i64; SIZE]).unwrap());
    bench.put("bad.npy", b"no array");
    let refused = |args: &[&str], exit: i32, code: &str, texts: &[&str]| {
        bench.refused(&[&["run", "in.onnx"], args].concat(), exit, code, texts);
    };
    refused(&[], 1, "QCC0402", &["input 'x' f32[?, 64] is missing", "--input 'x=FILE.npy'"]);
    let texts = &["input 'x' is given f32[2, 3], but takes f32[?, 64]", "an array that does"];
    refused(&["--input", "x=wide.npy"], 1, "QCC0402", texts);
    let texts = &["input 'x' is given i64[1, 64]", "x.astype('float32')"];
    refused(&["--input", "x=int.npy"], 1, "QCC0402", texts);
    let texts = &["the model has no input 'z'", "its inputs are 'x'"];
    refused(&["--input", "z=x.npy"], 1, "QCC0402", texts);
    refused(&["--input", "x"], 2, "QCC0304", &["'x' is not NAME=FILE.npy"]);
    refused(&["--input", "x=bad.npy"], 1, "QCC0401", &["'bad.npy' cannot be read"]);
    refused(&["--input", "x=none.npy"], 1, "QCC0401", &["'none.npy' cannot be read"]);
    refused(&["--inputs", "x.npy"], 1, "QCC0401", &["'x.npy' cannot be read"]);
    let twice = &["--input", "x=x.npy", "--input", "x=x.npy"];
    refused(twice, 2, "QCC0304", &["given already"]);
    let texts = &["the model takes no token ids", "--input NAME=FILE.npy"];
    refused(&["--ids", "1,2"], 1, "QCC0406", texts);
    refused(&["--ids", "1,x"], 2, "QCC0304", &["--ids"]);
    refused(&["--ids", "1", "--top-p", "1.5"], 2, "QCC0304", &["from 0 to 1"]);
    refused(&["--ids", "1", "--input", "x=x.npy"], 2, "QCC0304", &["cannot be used with"]);
    let nowhere = &["--input", "x=x.npy", "--outputs", "none/y.npz"];
    refused(nowhere, 1, "QCC0105", &["cannot be written"]);
}

/// The bundled model has no cache: each token runs the whole text.
#[test]
fn text_of_the_bundled_model() {
    let bench = Bench::new(&bundled());
    let ids = ["run", "in.onnx", "--ids", "5,17,120,33"];
    let with = |more: &[&str]| tokens(&bench, &[&ids[..], more].concat());
    let greedy = with(&["-n", "12"]);
    assert_eq!(greedy.len(), 12);
    assert_eq!(with(&["-n", "12", "--top-k", "1", "--seed", "9"]), greedy);
    assert_eq!(with(&["-n", "12", "--kernels", "none", "-t", "1"]), greedy);

    // What it writes is what its logits say.
    let row: Vec<i64> = [5, 17, 120, 33].iter().copied().chain(greedy[..3].to_vec()).collect();
    put_array(&bench, "ids.npy", &Tensor::from_vec(vec![1, row.len()], row.clone()).unwrap());
    bench.passes(&["run", "in.onnx", "--input", "input_ids=ids.npy", "--outputs", "y.npz"]);
    let logits = arrays(&bench, "y.npz").remove("logits").unwrap();
    let logits = logits.to_f32().unwrap();
    let last = &logits[logits.len() - logits.len() / row.len()..];
    let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
    assert_eq!(best as i64, greedy[3]);

    let drawn = |threads: &str, seed: &str| {
        with(&["-n", "12", "--temperature", "1.2", "--seed", seed, "-t", threads])
    };
    assert_eq!(drawn("1", "3"), drawn("2", "3"));
    assert_ne!(drawn("1", "3"), drawn("1", "4"));
    assert_ne!(drawn("1", "3"), greedy);

    // It ends at a token, and that one is not written.
    let stop = greedy[4].to_string();
    let at = greedy.iter().position(|it| it.to_string() == stop).unwrap();
    let found = json(&bench, &[&ids[..], &["-n", "12", "--stop-id", &stop]].concat());
    assert_eq!(found["tokens"].as_array().unwrap().len(), at);
    assert_eq!((&found["end"], &found["cache"]), (&"stop".into(), &false.into()));
    bench.put("generation_config.json", format!("{{\"eos_token_id\": {stop}}}").as_bytes());
    assert_eq!(with(&["-n", "12"]), greedy[..at]);
    assert_eq!(with(&["-n", "12", "--ignore-eos"]), greedy);
    let text = printed(&bench, &[&ids[..], &["-n", "3", "--ignore-eos", "--quiet"]].concat());
    let words: Vec<String> = greedy[..3].iter().map(ToString::to_string).collect();
    assert_eq!(text, words.join(" ") + "\n");
}

/// A run that would need more memory than there is ends before it begins.
#[test]
fn what_does_not_fit_into_memory_is_refused() {
    let bench = Bench::new(&bundled());
    let texts = &["a run needs", "GiB of memory are left", "fewer tokens or rows"];
    let args = ["bench", "in.onnx", "-m1000000", "-t1", "--runs", "1", "--whole"];
    bench.refused(&args, 1, "QCC0503", texts);
    let count = 1 << 20;
    let ids = Tensor::from_vec(vec![1, count], vec![5i64; count]).unwrap();
    put_array(&bench, "ids.npy", &ids);
    bench.refused(&["run", "in.onnx", "--input", "input_ids=ids.npy"], 1, "QCC0503", texts);
}

/// What makes no sense is said before anything runs.
#[test]
fn threads_and_pasts_that_there_are_none_of() {
    let bench = Bench::new(&bundled());
    for command in ["run", "bench"] {
        for threads in ["-t0", "-t1025", "-t99999"] {
            let args = [command, "in.onnx", threads];
            bench.refused(&args, 2, "QCC0304", &["from 1 to 1024"]);
        }
    }
    let texts = &["'in.onnx' has no cache that could hold 512 tokens", "leave out --past"];
    bench.refused(&["bench", "in.onnx", "--past", "512"], 2, "QCC0304", texts);
    let ran = bench.passes(&["run", "in.onnx", "--ids", "5", "-n", "0"]);
    assert!(ran.stderr.contains("prompt 1 tokens, not run"), "{}", ran.stderr);
}

#[test]
fn text_that_cannot_be_written() {
    let bench = Bench::new(&bundled());
    let refused = |args: &[&str], code: &str, texts: &[&str]| {
        bench.refused(&[&["run", "in.onnx"], args].concat(), 1, code, texts);
    };
    let texts = &["no tokenizer.json beside the model", "--tokenizer FILE", "--ids 1,2,3"];
    refused(&["--prompt", "Once"], "QCC0406", texts);
    refused(&["--prompt", "Once", "--tokenizer", "in.onnx"], "QCC0401", &["cannot be read"]);
    refused(&["--ids", "1,99999"], "QCC0406", &["the model has no token 99999"]);
    refused(&["--ids=-1"], "QCC0406", &["the model has no token -1"]);
    refused(&["--ids", "1", "--stop", "x"], "QCC0406", &["--stop takes text"]);
    bench.put("config.json", b"{\"max_position_embeddings\": 4}");
    let texts = &["the prompt has 5 tokens, but the model takes at most 4"];
    refused(&["--ids", "1,2,3,4,5"], "QCC0406", texts);
    let found = json(&bench, &["run", "in.onnx", "--ids", "1,2", "-n", "9"]);
    assert_eq!((&found["end"], found["tokens"].as_array().unwrap().len()), (&"context".into(), 3));
}
