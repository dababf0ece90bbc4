//! Token ids from text: `.txt`, or `.jsonl` with `text`, `content` or `ids` in each line.
//!
//! All documents are joined, without the special tokens that a tokenizer puts around one, so that
//! windows over the tokens lose nothing. Reading stops when there are enough of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::DataError;
use crate::samples::source_name;
use crate::tokenizer::Tokenizer;

/// A plain text is tokenized in parts of about this many bytes, which end at the end of a line.
const PART: usize = 64 << 10;
/// Longest line of a file: more is no text.
const LONGEST_LINE: u64 = 64 << 20;

/// How documents are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The file is one document.
    Plain,
    /// Each line is a JSON object with one document.
    Lines,
}

/// At least `enough` token ids, if the file has so many.
pub(crate) fn read(
    path: &Path,
    form: Form,
    tokenizer: Option<&Path>,
    enough: usize,
) -> Result<Vec<i64>, DataError> {
    let source = source_name(path);
    let wrong = |it: String| DataError::unreadable(&source, it);
    let file = File::open(path).map_err(|it| wrong(it.to_string()))?;
    let mut lines = Lines { file: BufReader::new(file), number: 0 };
    let mut encoder = Encoder { path: tokenizer, source: &source, loaded: None };
    let mut ids = Vec::new();
    let mut part = String::new();
    while ids.len() < enough {
        let line = lines.next().map_err(wrong)?;
        match (form, line) {
            (Form::Plain, Some(line)) => {
                part.push_str(&line);
                if part.len() >= PART {
                    encoder.encode(&part, &mut ids)?;
                    part.clear();
                }
            }
            (Form::Plain, None) => {
                encoder.encode(&part, &mut ids)?;
                break;
            }
            (Form::Lines, Some(line)) if line.trim().is_empty() => {}
            (Form::Lines, Some(line)) => {
                let at = |what: &str| wrong(format!("line {}: {what}", lines.number));
                match document(&line).map_err(|it| at(&it))? {
                    Document::Text(text) => encoder.encode(&text, &mut ids)?,
                    Document::Ids(more) => ids.extend(more),
                }
            }
            (Form::Lines, None) => break,
        }
    }
    Ok(ids)
}

struct Lines {
    file: BufReader<File>,
    number: usize,
}

impl Lines {
    /// The next line with its end; `None` after the last one.
    fn next(&mut self) -> Result<Option<String>, String> {
        let mut line = String::new();
        self.number += 1;
        let mut some = std::io::Read::take(&mut self.file, LONGEST_LINE);
        match some.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(read) if read as u64 == LONGEST_LINE && !line.ends_with('\n') => {
                Err(format!("line {} is longer than {} MiB", self.number, LONGEST_LINE >> 20))
            }
            Ok(_) => Ok(Some(line)),
            Err(error) => Err(format!("line {}: {error}", self.number)),
        }
    }
}

enum Document {
    Text(String),
    Ids(Vec<i64>),
}

fn document(line: &str) -> Result<Document, String> {
    let value: Value = serde_json::from_str(line).map_err(|it| it.to_string())?;
    let field = |names: [&str; 2]| names.iter().find_map(|it| value.get(it));
    if let Some(Value::String(text)) = field(["text", "content"]) {
        return Ok(Document::Text(text.clone()));
    }
    let Some(Value::Array(ids)) = field(["ids", "input_ids"]) else {
        return Err("there is neither 'text' nor 'content' nor 'ids'".into());
    };
    let ids: Option<Vec<i64>> = ids.iter().map(Value::as_i64).collect();
    ids.map(Document::Ids).ok_or_else(|| "'ids' are no integers".into())
}

/// A tokenizer that is loaded when the first text comes.
struct Encoder<'a> {
    path: Option<&'a Path>,
    source: &'a str,
    loaded: Option<Tokenizer>,
}

impl Encoder<'_> {
    fn encode(&mut self, text: &str, ids: &mut Vec<i64>) -> Result<(), DataError> {
        if text.is_empty() {
            return Ok(());
        }
        let tokenizer = match self.loaded.take() {
            Some(it) => it,
            None => self.load()?,
        };
        let tokenizer = self.loaded.insert(tokenizer);
        let encoded = tokenizer.encode(text, false);
        ids.extend(encoded.map_err(|it| DataError::unreadable(self.source, it))?);
        Ok(())
    }

    fn load(&self) -> Result<Tokenizer, DataError> {
        let Some(path) = self.path else {
            let error = DataError::unreadable(self.source, "text needs a tokenizer");
            return Err(
                error.help("give --tokenizer tokenizer.json, or put that file beside the model")
            );
        };
        Tokenizer::open(path).map_err(|it| DataError::unreadable(&source_name(path), it))
    }
}
