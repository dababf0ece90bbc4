//! Text to token ids and back, as `tokenizer.json` says.

use std::path::Path;

/// A tokenizer of a model.
#[cfg(feature = "text")]
pub struct Tokenizer(tokenizers::Tokenizer);

#[cfg(feature = "text")]
impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub fn open(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|it| it.to_string())?;
        let mut it = tokenizers::Tokenizer::from_bytes(bytes).map_err(|it| it.to_string())?;
        // What a tokenizer does to fit one document into a batch is not wanted here.
        it.with_truncation(None).map_err(|it| it.to_string())?;
        it.with_padding(None);
        Ok(Self(it))
    }

    /// The tokens of a text; `special` puts those around it that begin or end a text.
    ///
    /// # Errors
    /// When the tokenizer cannot split the text, in its words.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i64>, String> {
        let encoding = self.0.encode_fast(text, special).map_err(|it| it.to_string())?;
        Ok(encoding.get_ids().iter().map(|&it| i64::from(it)).collect())
    }

    /// The text of tokens, without those that only mark something.
    ///
    /// # Errors
    /// When the tokenizer cannot join the tokens, in its words.
    pub fn decode(&self, ids: &[i64]) -> Result<String, String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&it| u32::try_from(it).ok()).collect();
        self.0.decode(&ids, true).map_err(|it| it.to_string())
    }
}

/// A tokenizer of a model; this program was built without them.
#[cfg(not(feature = "text"))]
pub struct Tokenizer;

#[cfg(not(feature = "text"))]
impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// That there are no tokenizers.
    pub fn open(_: &Path) -> Result<Self, String> {
        Err("this program was built without tokenizers; give token ids".into())
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// That there are no tokenizers.
    pub fn encode(&self, _: &str, _: bool) -> Result<Vec<i64>, String> {
        Self::open(Path::new("")).map(|_| Vec::new())
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// That there are no tokenizers.
    pub fn decode(&self, _: &[i64]) -> Result<String, String> {
        Self::open(Path::new("")).map(|_| String::new())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").finish_non_exhaustive()
    }
}
