//! What the files beside a model say about writing text: which tokens end it, and how long it may
//! be. `genai_config.json` is that of onnxruntime-genai, the others are those of transformers.

use std::path::Path;

use serde_json::Value;

/// What is known of a model besides its graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextConfig {
    /// Tokens after which a text is complete.
    pub stop: Vec<i64>,
    /// Most tokens that the model takes.
    pub context: Option<usize>,
}

impl TextConfig {
    /// Reads `generation_config.json`, `config.json` and `genai_config.json` beside a model, the
    /// first that says something. Files that are not there or say nothing are no error.
    pub fn beside(model: &Path) -> Self {
        let read = |name: &str| -> Option<Value> {
            serde_json::from_slice(&std::fs::read(model.with_file_name(name)).ok()?).ok()
        };
        let genai = read("genai_config.json");
        let generation = read("generation_config.json");
        let config = read("config.json");
        let model = genai.as_ref().and_then(|it| it.get("model"));
        let all = [generation.as_ref(), config.as_ref(), model];
        let stop = all.iter().flatten().map(|it| ids(it.get("eos_token_id")));
        let names = ["max_position_embeddings", "n_positions", "context_length"];
        let size = |it: &&Value| names.iter().find_map(|name| it.get(name)?.as_u64());
        Self {
            stop: stop.into_iter().find(|it| !it.is_empty()).unwrap_or_default(),
            context: all.iter().flatten().find_map(size).and_then(|it| usize::try_from(it).ok()),
        }
    }
}

/// One number or a list of them.
fn ids(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_i64).collect(),
        Some(it) => it.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beside_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model.onnx");
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(TextConfig::beside(&model), TextConfig::default());
        put("genai_config.json", r#"{"model": {"eos_token_id": [7, 8], "context_length": 99}}"#);
        let all = |stop: &[i64], context| TextConfig { stop: stop.to_vec(), context };
        assert_eq!(TextConfig::beside(&model), all(&[7, 8], Some(99)));
        put("config.json", r#"{"eos_token_id": null, "max_position_embeddings": 64}"#);
        assert_eq!(TextConfig::beside(&model), all(&[7, 8], Some(64)));
        put("generation_config.json", r#"{"eos_token_id": 2}"#);
        assert_eq!(TextConfig::beside(&model), all(&[2], Some(64)));
        put("generation_config.json", "no json");
        put("config.json", "[]");
        assert_eq!(TextConfig::beside(&model), all(&[7, 8], Some(99)));
    }
}
