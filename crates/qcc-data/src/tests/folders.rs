//! Samples from folders of test data, and samples without data.

use std::fs;
use std::path::Path;

use crate::{
    CacheShape, ModelInput, OpenOptions, npy, open, pseudo_normal, pseudo_shape, pseudo_tokens,
};
use bytes::Bytes;
use qcc_pass::{Rng, SampleSource};
use qcc_tensor::{DType, Dim, Tensor};
use tempfile::TempDir;

/// Stands for a serialized tensor: the name, a zero, and a `.npy` file.
fn read_pb(bytes: &[u8]) -> Result<(String, Tensor), String> {
    let zero = bytes.iter().position(|&it| it == 0).ok_or("no tensor")?;
    let name = String::from_utf8_lossy(&bytes[..zero]).into_owned();
    Ok((name, npy::read(&Bytes::copy_from_slice(&bytes[zero + 1..]))?))
}

fn write_pb(path: &Path, name: &str, tensor: &Tensor) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [name.as_bytes(), &[0], &npy::write(tensor).unwrap()].concat()).unwrap();
}

fn options() -> OpenOptions {
    OpenOptions { read_pb: Some(read_pb), ..OpenOptions::default() }
}

fn two_inputs() -> [ModelInput; 2] {
    [
        ModelInput::new("a", DType::F32, [Dim::symbol("n")]),
        ModelInput::new("b", DType::I64, [Dim::symbol("n")]),
    ]
}

#[test]
fn sets_are_taken_in_order_of_their_numbers() {
    let folder = TempDir::new().unwrap();
    for set in [10usize, 2] {
        let at = folder.path().join(format!("test_data_set_{set}"));
        // The names decide in one set, the places in the other.
        let (first, second) = if set == 2 { ("b", "a") } else { ("", "") };
        let (a, b) = (Tensor::vector(vec![set as f32]), Tensor::vector(vec![set as i64]));
        let (x, y) = if set == 2 { (&b, &a) } else { (&a, &b) };
        write_pb(&at.join("input_0.pb"), first, x);
        write_pb(&at.join("input_1.pb"), second, y);
        write_pb(&at.join("output_0.pb"), "y", &a);
    }
    let samples = open(folder.path(), &two_inputs(), &options()).unwrap();
    assert_eq!(samples.len(), 2);
    for (index, set) in [2usize, 10].into_iter().enumerate() {
        let batch = samples.batch(index).unwrap();
        assert_eq!(batch[0], ("a".into(), Tensor::vector(vec![set as f32])));
        assert_eq!(batch[1], ("b".into(), Tensor::vector(vec![set as i64])));
    }
    let set = open(&folder.path().join("test_data_set_2"), &two_inputs(), &options()).unwrap();
    assert_eq!(set.batch(0), samples.batch(0));
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let folder = TempDir::new().unwrap();
    let code = |options: &OpenOptions| {
        let error = open(folder.path(), &two_inputs(), options).unwrap_err();
        (error.0.code.name(), error.0.message)
    };
    let (name, text) = code(&options());
    assert!(name == "QCC0401" && text.contains("no test_data_set_0"), "{text}");
    assert_eq!(code(&OpenOptions::default()).0, "QCC0401");

    let at = folder.path().join("test_data_set_0");
    write_pb(&at.join("input_0.pb"), "a", &Tensor::vector(vec![1f32, 2.0]));
    let (name, text) = code(&options());
    assert!(name == "QCC0402" && text.contains("nothing is given for input 'b'"), "{text}");
    write_pb(&at.join("input_1.pb"), "c", &Tensor::vector(vec![1i64]));
    let (name, text) = code(&options());
    assert!(name == "QCC0402" && text.contains("'c', which is no input"), "{text}");
    write_pb(&at.join("input_1.pb"), "b", &Tensor::vector(vec![1i64]));
    let (name, text) = code(&options());
    assert!(name == "QCC0402" && text.contains("'n' is 2 in input 'a' and 1 in"), "{text}");
    write_pb(&at.join("input_1.pb"), "a", &Tensor::vector(vec![1f32]));
    let (name, text) = code(&options());
    assert!(name == "QCC0402" && text.contains("a second time"), "{text}");
    fs::write(at.join("input_1.pb"), "b").unwrap();
    let (name, text) = code(&options());
    assert!(name == "QCC0401" && text.contains("no tensor"), "{text}");
    assert!(text.contains("'test_data_set_0/input_1.pb'"), "{text}");
}

fn decoder() -> Vec<ModelInput> {
    let symbols = |names: &[&str]| names.iter().map(|it| Dim::symbol(it)).collect::<Vec<_>>();
    vec![
        ModelInput::new("input_ids", DType::I64, symbols(&["batch", "length"])),
        ModelInput::new("past_0", DType::F32, symbols(&["batch", "heads", "past", "size"])),
    ]
}

#[test]
fn random_tokens() {
    let cache = Some(CacheShape { heads: 3, size: 8 });
    let draw = |seed| {
        let mut rng = Rng::new(seed, "pseudo");
        pseudo_tokens(&decoder(), 50, (4, 100), cache, &mut rng).unwrap().unwrap()
    };
    let samples = draw(1);
    assert_eq!((samples.len(), samples.length()), (4, Some(100)));
    assert_eq!(samples.describe(), "random tokens: 4 samples of 100 tokens");
    let mut seen = [0; 50];
    for index in 0..4 {
        let ids = samples.ids(index).unwrap();
        ids.to_i64().unwrap().iter().for_each(|&it| seen[it as usize] += 1);
        assert_eq!(samples.batch(index).unwrap()[1].1.dims(), [1, 3, 0, 8]);
    }
    assert!(seen.iter().all(|&it| it > 0), "{seen:?}");
    assert_eq!(samples.blake3(), draw(1).blake3());
    assert_ne!(samples.blake3(), draw(2).blake3());

    let image = [ModelInput::new("image", DType::F32, [1usize, 3])];
    let mut rng = Rng::new(0, "pseudo");
    assert!(pseudo_tokens(&image, 50, (1, 2), None, &mut rng).unwrap().is_none());
    assert!(pseudo_tokens(&decoder(), 50, (1, 2), None, &mut rng).is_err());
    assert!(pseudo_tokens(&decoder(), 0, (1, 2), cache, &mut rng).is_err());
}

#[test]
fn shapes_of_random_tokens() {
    assert_eq!(pseudo_shape(&decoder(), None), Some((4, 512)));
    assert_eq!(pseudo_shape(&decoder(), Some(128)), Some((4, 128)));
    let mut encoder = decoder();
    encoder[1] = ModelInput::new("token_type_ids", DType::I64, [Dim::Unknown, Dim::Unknown]);
    assert_eq!(pseudo_shape(&encoder, None), Some((32, 64)));
    encoder[0].dims = Some(vec![Dim::Known(1), Dim::Known(16)]);
    assert_eq!(pseudo_shape(&encoder, None), Some((32, 16)));
    assert_eq!(pseudo_shape(&[], None), None);
}

#[test]
fn random_values() {
    let inputs = [
        ModelInput::new("image", DType::F16, [Dim::symbol("n"), Dim::Known(2), Dim::Known(5)]),
        ModelInput::new("x", DType::F32, [3usize]),
    ];
    let samples = pseudo_normal(&inputs, 6, &mut Rng::new(0, "pseudo")).unwrap();
    assert_eq!(samples.len(), 6);
    let (first, last) = (samples.batch(0).unwrap(), samples.batch(5).unwrap());
    assert_eq!((last[0].1.dtype(), last[0].1.dims()), (DType::F16, &[1, 2, 5][..]));
    assert_eq!(last[1].1.dims(), [3]);
    assert_ne!(first, last);
    let open = [ModelInput::new("x", DType::F32, [Dim::symbol("n"), Dim::symbol("t")])];
    assert!(pseudo_normal(&open, 1, &mut Rng::new(0, "pseudo")).is_err());
    let whole = [ModelInput::new("x", DType::I64, [3usize])];
    assert!(pseudo_normal(&whole, 1, &mut Rng::new(0, "pseudo")).is_err());
}
