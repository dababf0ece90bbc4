//! Samples from `.npy` and `.npz` files.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::{ModelInput, OpenOptions, Samples, npy, npz, open};
use qcc_diag::Diagnostic;
use qcc_pass::{SampleError, SampleSource};
use qcc_tensor::{DType, Dim, Tensor};
use tempfile::TempDir;

fn input(name: &str, dtype: DType, dims: &[&str]) -> ModelInput {
    let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
    ModelInput::new(name, dtype, dims.iter().map(dim))
}

/// A decoder with the inputs that optimum writes.
fn decoder() -> Vec<ModelInput> {
    vec![
        input("input_ids", DType::I64, &["batch", "length"]),
        input("attention_mask", DType::I64, &["batch", "past + length"]),
        input("position_ids", DType::I64, &["batch", "length"]),
        input("past_key_values.0.key", DType::F32, &["batch", "2", "past", "8"]),
    ]
}

fn ids(dims: &[usize]) -> Tensor {
    let len = dims.iter().product::<usize>();
    Tensor::from_vec(dims.to_vec(), (0..len as i64).collect()).unwrap()
}

fn saved(folder: &TempDir, arrays: &[(&str, &Tensor)]) -> PathBuf {
    if let [("", array)] = arrays {
        let path = folder.path().join("calib.npy");
        fs::write(&path, npy::write(array).unwrap()).unwrap();
        return path;
    }
    let path = folder.path().join("calib.npz");
    npz::write(File::create(&path).unwrap(), arrays.iter().copied()).unwrap();
    path
}

fn opened(
    arrays: &[(&str, &Tensor)],
    inputs: &[ModelInput],
    options: &OpenOptions,
) -> Result<Samples, Box<Diagnostic>> {
    let folder = TempDir::new().unwrap();
    open(&saved(&folder, arrays), inputs, options).map_err(|it| it.0)
}

fn plain() -> OpenOptions {
    OpenOptions::default()
}

#[test]
fn token_ids_bring_the_other_inputs() {
    let samples = opened(&[("", &ids(&[3, 4]))], &decoder(), &plain()).unwrap();
    assert_eq!((samples.len(), samples.length(), samples.tokens()), (3, Some(4), Some(0)));
    assert!(samples.describe().ends_with("calib.npy: 3 samples of 4 tokens"));
    let batch = samples.batch(1).unwrap();
    let row = |values: [i64; 4]| Tensor::from_vec(vec![1, 4], values.to_vec()).unwrap();
    assert_eq!(batch[0], ("input_ids".into(), row([4, 5, 6, 7])));
    assert_eq!(batch[1], ("attention_mask".into(), row([1; 4])));
    assert_eq!(batch[2], ("position_ids".into(), row([0, 1, 2, 3])));
    assert_eq!(batch[3].1.dims(), [1, 2, 0, 8]);
    assert_eq!(samples.ids(1).unwrap(), batch[0].1);
    assert_eq!(samples.batch(3), Err(SampleError::OutOfRange { index: 3, len: 3 }));
    assert!(samples.warnings().is_empty());
}

#[test]
fn rows_are_cut_and_counted() {
    let options = OpenOptions { samples: Some(2), seq_len: Some(3), ..plain() };
    let small = Tensor::from_vec(vec![3, 4], (0..12i32).collect()).unwrap();
    let samples = opened(&[("", &small)], &decoder(), &options).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples.ids(1), Ok(Tensor::from_vec(vec![1, 3], vec![4i64, 5, 6]).unwrap()));
    let more = OpenOptions { samples: Some(9), ..plain() };
    let samples = opened(&[("", &ids(&[3, 4]))], &decoder(), &more).unwrap();
    assert_eq!(samples.len(), 3);
    assert_eq!(samples.warnings()[0].code.name(), "QCC0403");
    assert_eq!(samples.warnings()[0].message, "9 samples were asked for, and there are 3");
    let longer = OpenOptions { seq_len: Some(5), ..plain() };
    let samples = opened(&[("", &ids(&[3, 4]))], &decoder(), &longer).unwrap();
    let text = "5 tokens of a sample were asked for, and samples have 4";
    assert_eq!(samples.warnings()[0].message, text);
    let fixed = [input("input_ids", DType::I64, &["1", "3"])];
    let samples = opened(&[("", &ids(&[3, 4]))], &fixed, &longer).unwrap();
    let text = "5 tokens of a sample were asked for, and the model takes 3";
    assert_eq!(samples.warnings()[0].message, text);
}

#[test]
fn a_flat_array_is_divided_into_windows() {
    let options = OpenOptions { seq_len: Some(4), ..plain() };
    let samples = opened(&[("", &ids(&[11]))], &decoder(), &options).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples.ids(1), Ok(Tensor::from_vec(vec![1, 4], vec![4i64, 5, 6, 7]).unwrap()));
}

#[test]
fn a_model_of_fixed_shape_gets_it() {
    let inputs = [input("input_ids", DType::I32, &["2", "3"])];
    let samples = opened(&[("", &ids(&[5, 4]))], &inputs, &plain()).unwrap();
    assert_eq!(samples.len(), 2);
    let want = Tensor::from_vec(vec![2, 3], vec![8i32, 9, 10, 12, 13, 14]).unwrap();
    assert_eq!(samples.ids(1), Ok(want));
    let error = opened(&[("", &ids(&[4, 2]))], &inputs, &plain()).unwrap_err();
    assert!(error.message.contains("input 'input_ids' i32[2, 3] is given i32[2, 2]"), "{error}");
    let error = opened(&[("", &ids(&[1, 4]))], &inputs, &plain()).unwrap_err();
    assert!(error.message.contains("a run takes 2 samples, and there are fewer"), "{error}");
}

#[test]
fn ids_outside_of_the_vocabulary_are_refused() {
    let options = OpenOptions { vocab: Some(10), ..plain() };
    let error = opened(&[("", &ids(&[3, 4]))], &decoder(), &options).unwrap_err();
    assert_eq!(error.code.name(), "QCC0402");
    let text = "sample 2: input 'input_ids' i64[batch, length]: token 2 is 10, outside of the";
    assert!(error.message.contains(text), "{error}");
    let masked = Tensor::from_vec(vec![1, 2], vec![1i64, -100]).unwrap();
    let error = opened(&[("", &masked)], &decoder(), &plain()).unwrap_err();
    assert!(error.message.contains("-100, which is no token id"), "{error}");
}

#[test]
fn named_arrays_go_to_their_inputs() {
    let mask = Tensor::from_vec(vec![2, 3], vec![1i32, 1, 0, 1, 0, 0]).unwrap();
    let arrays: [(&str, &Tensor); 3] =
        [("attention_mask", &mask), ("labels", &mask), ("input_ids", &ids(&[2, 3]))];
    let samples = opened(&arrays, &decoder(), &plain()).unwrap();
    let batch = samples.batch(1).unwrap();
    assert_eq!(batch[1].1, Tensor::from_vec(vec![1, 3], vec![1i64, 0, 0]).unwrap());
    let counted = Tensor::from_vec(vec![1, 3], vec![1.0f32, 0.0, 0.0]).unwrap();
    assert_eq!(samples.counted(1), Ok(Some(counted)));
    assert_eq!(samples.warnings()[0].code.name(), "QCC0402");
    assert!(samples.warnings()[0].message.contains("'labels'"));
    let cut = OpenOptions { seq_len: Some(2), ..plain() };
    let batch = opened(&arrays, &decoder(), &cut).unwrap().batch(0).unwrap();
    assert!(batch[..3].iter().all(|it| it.1.dims() == [1, 2]));
    assert_eq!(opened(&arrays, &decoder(), &cut).unwrap().counted(0), Ok(None));
}

#[test]
fn a_name_that_no_input_has_is_refused() {
    let error = opened(&[("foo", &ids(&[2, 3]))], &decoder(), &plain()).unwrap_err();
    assert_eq!(error.code.name(), "QCC0402");
    assert!(
        error.message.contains("nothing is given for 'input_ids' i64[batch, length]"),
        "{error}"
    );
    assert!(error.notes.iter().any(|it| it == "the file has 'foo'"), "{error}");
    // What numpy calls an array that was given no name.
    assert_eq!(opened(&[("arr_0", &ids(&[2, 3]))], &decoder(), &plain()).unwrap().len(), 2);
}

#[test]
fn token_ids_of_three_axes_are_runs_of_one_batch() {
    for name in ["", "input_ids"] {
        let error = opened(&[(name, &ids(&[2, 3, 4]))], &decoder(), &plain()).unwrap_err();
        assert_eq!(error.code.name(), "QCC0402");
        let text = "input 'input_ids' i64[batch, length] is given an array i64[2, 3, 4]";
        assert!(error.message.contains(text), "{error}");
        let samples = opened(&[(name, &ids(&[2, 1, 4]))], &decoder(), &plain()).unwrap();
        assert_eq!((samples.len(), samples.length()), (2, Some(4)));
    }
    let fixed = [input("input_ids", DType::I64, &["3", "4"])];
    assert_eq!(opened(&[("", &ids(&[2, 3, 4]))], &fixed, &plain()).unwrap().len(), 2);
}

#[test]
fn inputs_that_are_no_tokens() {
    let inputs = [
        input("image", DType::F32, &["n", "2", "2"]),
        input("scale", DType::F32, &[]),
        input("anchors", DType::F32, &["3"]),
    ];
    let image = Tensor::from_vec(vec![2, 2, 2], (0..8).map(f64::from).collect()).unwrap();
    let anchors = Tensor::from_vec(vec![2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let arrays: [(&str, &Tensor); 3] =
        [("image", &image), ("scale", &Tensor::scalar(0.5f32)), ("anchors", &anchors)];
    let samples = opened(&arrays, &inputs, &plain()).unwrap();
    assert_eq!((samples.len(), samples.length()), (2, None));
    let batch = samples.batch(1).unwrap();
    assert_eq!(batch[0].1, Tensor::from_vec(vec![1, 2, 2], vec![4f32, 5.0, 6.0, 7.0]).unwrap());
    assert_eq!(batch[1].1, Tensor::scalar(0.5f32));
    assert_eq!(batch[2].1, Tensor::vector(vec![4f32, 5.0, 6.0]));
    let alone = opened(&[("", &image)], &inputs[..1], &plain()).unwrap();
    assert_eq!(alone.batch(1).unwrap()[0], batch[0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |arrays: &[(&str, &Tensor)], inputs: &[ModelInput], text: &str| {
        let error = opened(arrays, inputs, &plain()).unwrap_err();
        assert_eq!(error.code.name(), "QCC0402");
        assert!(error.message.contains(text), "{error}");
    };
    let image = [input("image", DType::F32, &["n", "3", "2"]), input("x", DType::F32, &["n"])];
    let (three, floats) = (ids(&[2, 3]), Tensor::vector(vec![1f32, 2.0]));
    refused(&[("x", &floats), ("y", &floats)], &image, "for 'image' f32[n, 3, 2]");
    refused(&[("", &floats)], &image, "several inputs");
    refused(&[("x", &floats), ("image", &three)], &image, "is given an array i64[2, 3]");
    refused(&[("", &floats)], &image[..1], "is given an array f32[2]");
    refused(&[("", &three)], &image[1..], "i64 cannot be used as f32");
    refused(&[("", &floats)], &decoder()[..1], "takes token ids, not f32");
    refused(&[("", &ids(&[0, 4]))], &decoder(), "there are no samples");
    refused(&[("", &ids(&[4, 0]))], &decoder(), "there are no tokens");
    let arrays: [(&str, &Tensor); 2] = [("input_ids", &three), ("position_ids", &ids(&[3, 3]))];
    refused(&arrays, &decoder(), "2 runs of input 'input_ids'");
    let arrays: [(&str, &Tensor); 2] = [("input_ids", &three), ("position_ids", &ids(&[2, 2]))];
    refused(&arrays, &decoder(), "'length' is 3 in input 'input_ids' and 2 in input");
    let mut other = decoder();
    other.push(input("pixels", DType::F32, &["batch", "9"]));
    refused(&[("", &three)], &other, "nothing is given for 'pixels' f32[batch, 9]");
}

#[test]
fn broken_files_are_unreadable() {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in [("a.npy", "NUMPY"), ("a.npz", "PK"), ("a.csv", "1,2"), ("a.npy", "")] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = open(&path, &decoder(), &plain()).unwrap_err();
        assert_eq!(error.0.code.name(), "QCC0401");
    }
    let error = open(&folder.path().join("none.npy"), &decoder(), &plain()).unwrap_err();
    assert_eq!(error.0.code.name(), "QCC0401");
    assert!(error.0.place.unwrap().ends_with("none.npy"));
}

#[test]
fn samples_that_repeat_are_named() {
    let rows = Tensor::from_vec(vec![3, 2], vec![1i64, 2, 3, 4, 1, 2]).unwrap();
    let samples = opened(&[("", &rows)], &decoder(), &plain()).unwrap();
    assert_eq!(samples.warnings()[0].message, "1 of 3 samples repeat");
    assert_eq!(samples.warnings()[0].notes, ["sample 2 repeats sample 0"]);
}

#[test]
fn the_digest_is_of_the_samples_used() {
    let digest = |arrays: &[(&str, &Tensor)], samples| {
        let options = OpenOptions { samples: Some(samples), ..plain() };
        opened(arrays, &decoder(), &options).unwrap().blake3().to_owned()
    };
    let all = digest(&[("", &ids(&[3, 4]))], 3);
    assert_eq!(all.len(), 64);
    assert_eq!(all, digest(&[("input_ids", &ids(&[3, 4]))], 3));
    assert_eq!(digest(&[("", &ids(&[3, 4]))], 2), digest(&[("", &ids(&[2, 4]))], 2));
    assert_ne!(all, digest(&[("", &ids(&[3, 4]))], 2));
}
