//! Samples from text.

use std::fs;

use crate::{ModelInput, OpenOptions, Samples, open};
use qcc_diag::Diagnostic;
use qcc_pass::SampleSource;
use qcc_tensor::{DType, Dim};
use tempfile::TempDir;

fn opened(name: &str, content: &str, options: &OpenOptions) -> Result<Samples, Box<Diagnostic>> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let dims = [Dim::symbol("batch"), Dim::symbol("length")];
    let inputs = [ModelInput::new("input_ids", DType::I64, dims)];
    open(&path, &inputs, options).map_err(|it| it.0)
}

fn all_ids(samples: &Samples) -> Vec<i64> {
    let ids = |index| samples.ids(index).unwrap().to_i64().unwrap().into_owned();
    (0..samples.len()).flat_map(ids).collect()
}

#[test]
fn lines_of_ids_are_joined() {
    let options = OpenOptions { seq_len: Some(2), ..OpenOptions::default() };
    let lines = "{\"ids\": [1, 2, 3]}\n\n{\"input_ids\": [4, 5]}\n";
    let samples = opened("calib.jsonl", lines, &options).unwrap();
    assert_eq!(all_ids(&samples), [1, 2, 3, 4]);
    for (line, text) in [("{\"ids\": [1.5]}", "integers"), ("{}", "neither"), ("{", "line 1")] {
        let error = opened("calib.jsonl", line, &options).unwrap_err();
        assert_eq!(error.code.name(), "QCC0401");
        assert!(error.message.contains(text), "{error}");
    }
    assert!(opened("calib.jsonl", "", &options).unwrap_err().message.contains("no tokens"));
}

#[test]
fn text_without_a_tokenizer_says_what_to_give() {
    let error = opened("calib.txt", "some words", &OpenOptions::default()).unwrap_err();
    assert_eq!(error.code.name(), "QCC0401");
    assert_eq!(error.help, ["give --tokenizer tokenizer.json, or put that file beside the model"]);
}

#[cfg(feature = "text")]
mod with_tokenizer {
    use std::path::Path;

    use super::*;

    const TEXT: &str = "It is a truth universally acknowledged,\nthat a single man in possession";

    fn options(seq_len: usize, samples: Option<usize>) -> OpenOptions {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tokenizer = Some(here.join("../../tests/models/books1M/tokenizer.json"));
        let seq_len = Some(seq_len);
        OpenOptions { seq_len, samples, tokenizer, vocab: Some(1536), ..OpenOptions::default() }
    }

    #[test]
    fn plain_text_becomes_windows() {
        let whole = opened("a.txt", TEXT, &options(1000, None)).unwrap();
        assert_eq!(whole.len(), 1);
        let ids = all_ids(&whole);
        // "It", " is", " a", " tr", "uth": as the tokenizers package of Python has them.
        assert_eq!(ids[..5], [995, 363, 259, 1193, 1476]);
        assert_eq!(ids.len(), 27);
        let windows = opened("a.txt", TEXT, &options(5, None)).unwrap();
        assert_eq!(windows.len(), ids.len() / 5);
        assert_eq!(all_ids(&windows), ids[..ids.len() / 5 * 5]);
        assert_eq!(opened("a.txt", TEXT, &options(5, Some(2))).unwrap().len(), 2);
    }

    #[test]
    fn documents_are_joined() {
        let lines = "{\"text\": \"It is a\"}\n{\"content\": \" truth\", \"id\": 7}\n";
        let joined = opened("a.jsonl", lines, &options(1000, None)).unwrap();
        let whole = opened("a.txt", "It is a truth", &options(1000, None)).unwrap();
        assert_eq!(all_ids(&joined), all_ids(&whole));
    }

    #[test]
    fn long_text_is_read_as_far_as_needed() {
        let long = format!("{TEXT}\n").repeat(20_000);
        let samples = opened("a.txt", &long, &options(16, Some(3))).unwrap();
        assert_eq!(samples.len(), 3);
        assert!(samples.warnings().is_empty());
    }

    #[test]
    fn a_broken_tokenizer_is_named() {
        let tokenizer = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        let options = OpenOptions { tokenizer, ..OpenOptions::default() };
        let error = opened("a.txt", TEXT, &options).unwrap_err();
        assert!(error.message.contains("Cargo.toml' cannot be read"), "{error}");
    }
}
