//! Inputs of a model, and whether a tensor fits one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use qcc_tensor::{DType, Dim, Tensor};

/// An input that each run of the model needs; inputs with a default value are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInput {
    /// Its name.
    pub name: String,
    /// Element type, if known.
    pub dtype: Option<DType>,
    /// Dimensions; `None` when not even the rank is known.
    pub dims: Option<Vec<Dim>>,
}

impl ModelInput {
    /// An input of known type and rank.
    pub fn new(name: &str, dtype: DType, dims: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        let dims = dims.into_iter().map(Into::into).collect();
        Self { name: name.to_owned(), dtype: Some(dtype), dims: Some(dims) }
    }

    /// Number of dimensions, if known.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Size of a dimension, if it is a number.
    pub(crate) fn known(&self, axis: usize) -> Option<usize> {
        self.dims.as_ref()?.get(axis)?.known()
    }

    /// Whether it takes integers of 32 or 64 bits, as token ids are.
    pub(crate) fn is_ids(&self) -> bool {
        matches!(self.dtype, Some(DType::I64 | DType::I32))
    }
}

/// `'input_ids' i64[batch, sequence]`.
impl fmt::Display for ModelInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' ", self.name)?;
        match self.dtype {
            Some(dtype) => write!(f, "{dtype}")?,
            None => f.write_str("?")?,
        }
        let Some(dims) = &self.dims else { return f.write_str("[...]") };
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// All inputs, for a message.
pub(crate) fn list(inputs: &[ModelInput]) -> String {
    let texts: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// Sizes that symbols have in one run: equal names are equal numbers.
#[derive(Debug, Default)]
pub(crate) struct Sizes(BTreeMap<Arc<str>, (usize, String)>);

impl Sizes {
    /// Whether a tensor has the rank and the sizes that `input` declares.
    ///
    /// # Errors
    /// What is expected and what is there.
    pub(crate) fn fit(&mut self, input: &ModelInput, tensor: &Tensor) -> Result<(), String> {
        let Some(dims) = &input.dims else { return Ok(()) };
        let got = tensor.dims();
        let sizes_fit =
            dims.iter().zip(got).all(|(dim, &size)| dim.known().is_none_or(|it| it == size));
        if dims.len() != got.len() || !sizes_fit {
            return Err(format!("input {input} is given {}{got:?}", tensor.dtype()));
        }
        for (dim, &size) in dims.iter().zip(got) {
            let Dim::Symbol(symbol) = dim else { continue };
            let (known, by) = self.0.entry(symbol.clone()).or_insert((size, input.name.clone()));
            if *known != size {
                return Err(format!(
                    "'{symbol}' is {known} in input '{by}' and {size} in input {input}, \
                     which is given {}{got:?}",
                    tensor.dtype()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbolic(name: &str, dims: &[&str]) -> ModelInput {
        ModelInput::new(name, DType::I64, dims.iter().map(|it| Dim::symbol(it)))
    }

    fn ids(dims: &[usize]) -> Tensor {
        Tensor::from_vec(dims.to_vec(), vec![0i64; dims.iter().product()]).unwrap()
    }

    #[test]
    fn ranks_and_numbers_must_fit() {
        let input = ModelInput::new("x", DType::F32, [1usize, 3]);
        let mut sizes = Sizes::default();
        assert_eq!(sizes.fit(&input, &ids(&[1, 3])), Ok(()));
        let text = sizes.fit(&input, &ids(&[2, 3])).unwrap_err();
        assert_eq!(text, "input 'x' f32[1, 3] is given i64[2, 3]");
        assert!(sizes.fit(&input, &ids(&[3])).is_err());
        let any = ModelInput { name: "x".into(), dtype: None, dims: None };
        assert_eq!(sizes.fit(&any, &ids(&[5])), Ok(()));
    }

    #[test]
    fn one_symbol_is_one_number() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.fit(&symbolic("ids", &["batch", "length"]), &ids(&[1, 4])), Ok(()));
        assert_eq!(sizes.fit(&symbolic("mask", &["batch", "length"]), &ids(&[1, 4])), Ok(()));
        let text = sizes.fit(&symbolic("types", &["batch", "length"]), &ids(&[1, 3])).unwrap_err();
        assert!(text.starts_with("'length' is 4 in input 'ids' and 3 in input 'types'"), "{text}");
    }
}
