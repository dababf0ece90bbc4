//! Samples for a model: those of a file, or made without data.

use std::path::Path;
use std::sync::Arc;

use qcc_data::{CacheShape, ModelInput, OpenOptions, Samples, pseudo_shape, pseudo_tokens};
use qcc_ir::{Attr, Graph, Kind, Value};
use qcc_pass::Session;
use qcc_quantize::{Role, find_sites};

use crate::{Error, Model};

impl Model {
    /// The inputs that each run needs; those with a default are left out.
    pub fn inputs(&self) -> Vec<ModelInput> {
        let graph = self.graph();
        graph
            .inputs()
            .iter()
            .filter_map(|&id| {
                let node = graph.node(id)?;
                let output = node.outputs.first()?;
                matches!(node.kind, Kind::Input(None)).then(|| ModelInput {
                    name: output.name.clone(),
                    dtype: output.ty.dtype(),
                    dims: output.ty.shape().map(<[_]>::to_vec),
                })
            })
            .collect()
    }

    /// Number of tokens that the model knows: rows of the table that its token ids look up. `None`
    /// when it takes none.
    pub fn vocabulary(&self) -> Option<usize> {
        let graph = self.graph();
        let inputs = self.inputs();
        let tokens = &inputs.get(qcc_data::token_input(&inputs)?)?.name;
        let id = graph.inputs().iter().find(|&&it| {
            graph.node(it).and_then(|it| it.outputs.first()).is_some_and(|it| it.name == *tokens)
        })?;
        let ids = Value { node: *id, slot: 0 };
        let is_lookup = |site: &&qcc_quantize::Site| {
            site.role == Role::Table
                && graph.node(site.node).is_some_and(|it| it.inputs.get(1) == Some(&Some(ids)))
        };
        let sites = find_sites(graph);
        let table = sites.iter().find(is_lookup)?;
        table.weight.dims.first().copied()
    }

    /// Opens samples from a file or folder; what `options` leave open is taken from the model.
    ///
    /// # Errors
    /// When nothing can be read, or it does not fit the model.
    pub fn samples(&self, path: impl AsRef<Path>, options: OpenOptions) -> Result<Samples, Error> {
        let beside = || Some(self.source().path().with_file_name("tokenizer.json"));
        let options = OpenOptions {
            tokenizer: options.tokenizer.or_else(|| beside().filter(|it| it.is_file())),
            vocab: options.vocab.or_else(|| self.vocabulary()),
            cache: options.cache.or_else(|| self.cache_shape()),
            read_pb: options.read_pb.or(Some(qcc_onnx::read_tensor)),
            ..options
        };
        let samples = qcc_data::open(path.as_ref(), &self.inputs(), &options);
        samples.map_err(|it| Error::from(it.0))
    }

    /// Positions that the model knows: rows of the table of rotations. `None` when it has none.
    pub(crate) fn context(&self) -> Option<usize> {
        let graph = self.graph();
        let rows = graph.nodes().filter_map(|(_, node)| {
            let op = node.op()?;
            let table = match (op.domain(), op.name()) {
                ("com.microsoft", "GroupQueryAttention") => node.inputs.get(7),
                ("com.microsoft", "RotaryEmbedding") => node.inputs.get(2),
                _ => None,
            };
            graph.constant((*table?)?)?.dims().first().copied()
        });
        rows.min()
    }

    /// Heads and head size of the cache, for models that leave them open: from the
    /// `genai_config.json` beside the model, else as grouped attention has them.
    pub(crate) fn cache_shape(&self) -> Option<CacheShape> {
        let config = self.source().path().with_file_name("genai_config.json");
        let config = std::fs::read(config).ok();
        config
            .and_then(|it| CacheShape::from_genai_config(&it))
            .or_else(|| grouped_cache(self.graph()))
    }

    /// Samples without data: random token ids. `None` for a model that takes none. Of `options`,
    /// the number of samples and of tokens count.
    ///
    /// # Errors
    /// When other inputs do not follow from the token ids.
    pub fn random_samples(&self, options: &OpenOptions) -> Result<Option<Samples>, Error> {
        self.made(&Session::default(), options)
    }

    /// [`Model::random_samples`] of a session, for passes; `None` when they cannot be made.
    pub(crate) fn pseudo_samples(&self, session: &Session) -> Option<Arc<Samples>> {
        self.made(session, &OpenOptions::default()).ok().flatten().map(Arc::new)
    }

    fn made(&self, session: &Session, options: &OpenOptions) -> Result<Option<Samples>, Error> {
        let inputs = self.inputs();
        let mut rng = session.rng("pseudo samples");
        let vocab = self.vocabulary();
        let Some((vocab, shape)) = vocab.zip(pseudo_shape(&inputs, self.context())) else {
            return Ok(None);
        };
        let count = options.samples.unwrap_or(shape.0);
        let length = options.seq_len.unwrap_or(shape.1);
        let made = pseudo_tokens(&inputs, vocab, (count, length), self.cache_shape(), &mut rng);
        made.map_err(|it| Error::from(it.0))
    }
}

/// The cache of the first `GroupQueryAttention` whose query has a known width: its heads are in
/// the query, and those of keys and values behind them where these are no operands.
fn grouped_cache(graph: &Graph) -> Option<CacheShape> {
    graph.nodes().find_map(|(_, node)| {
        let op = node.op().filter(|it| it.name() == "GroupQueryAttention")?;
        let attrs = op.attrs();
        let number = |name: &str| match attrs.iter().find(|it| it.0 == name)?.1 {
            Attr::Int(it) => usize::try_from(it).ok(),
            _ => None,
        };
        let (query, heads) = (number("num_heads")?, number("kv_num_heads")?);
        let is_packed = !node.inputs.get(1).is_some_and(Option::is_some);
        let parts = if is_packed { query.checked_add(heads.checked_mul(2)?)? } else { query };
        let width = graph.ty((*node.inputs.first()?)?).shape()?.last()?.known()?;
        let size = width.checked_div(parts).filter(|it| it * parts == width)?;
        Some(CacheShape { heads, size })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(head: &str, operands: &str) -> Option<CacheShape> {
        let text = format!(
            "graph @gqa({head}, %last: i32[b], %total: i32[]) -> (%y) {{
               %y = com.microsoft::GroupQueryAttention({operands}, _, _, %last, %total) {{num_heads = 4, kv_num_heads = 2}}
             }}"
        );
        let make = |domain: &str, name: &str, opset, attrs| {
            qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
        };
        let graphs = qcc_ir::text::parse(&text, &make, &qcc_ir::text::no_bytes).unwrap();
        grouped_cache(&graphs[0])
    }

    #[test]
    fn heads_of_the_cache_follow_from_the_query() {
        let of = |heads, size| Some(CacheShape { heads, size });
        assert_eq!(cache("%q: f32[b, t, 40]", "%q, _, _"), of(2, 5), "keys and values in it");
        let apart = "%q: f32[b, t, 40], %k: f32[b, t, 20], %v: f32[b, t, 20]";
        assert_eq!(cache(apart, "%q, %k, %v"), of(2, 10));
        assert_eq!(cache("%q: f32[b, t, 41]", "%q, _, _"), None);
        assert_eq!(cache("%q: f32[b, t, width]", "%q, _, _"), None);
    }
}
