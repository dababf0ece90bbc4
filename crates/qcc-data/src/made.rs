//! Inputs of a language model for tokens that are made one after the other, and samples of them.

use qcc_tensor::{DType, Tensor};

use crate::cast::{cast, integers};
use crate::language::{CacheShape, Role, make, role, token_input};
use crate::pseudo::made;
use crate::rows::Given;
use crate::{DataError, ModelInput, Samples};

const SOURCE: &str = "text of the model";

/// Inputs for `ids`, `i64[batch, length]`, that follow `past` tokens. The cache is among them, and
/// empty, where `past` is 0; else it is left out, since it holds what earlier runs gave.
///
/// # Errors
/// When an input does not follow from the token ids.
pub fn inputs_after(
    inputs: &[ModelInput],
    ids: &Tensor,
    past: usize,
    cache: Option<CacheShape>,
) -> Result<Vec<(String, Tensor)>, DataError> {
    let wrong = |it: String| DataError::mismatch(SOURCE, it);
    let &[batch, length] = ids.dims() else {
        return Err(wrong(format!("token ids have the shape {:?}", ids.dims())));
    };
    let tokens = token_input(inputs);
    let mut all = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let role = role(input);
        let value = if tokens == Some(at) {
            cast(ids, input.dtype.unwrap_or(DType::I64))
        } else if past > 0 && role == Some(Role::Past) {
            continue;
        } else if let Some(role) = role {
            match after(role, input, [batch, length], past) {
                Some(it) => it,
                None => make(role, input, [batch, length], cache),
            }
        } else {
            Err(format!("nothing is given for input {input}"))
        };
        all.push((input.name.clone(), value.map_err(wrong)?));
    }
    Ok(all)
}

/// An input that depends on how many tokens went before; `None` for one that does not, and when
/// there were none.
fn after(
    role: Role,
    input: &ModelInput,
    [batch, length]: [usize; 2],
    past: usize,
) -> Option<Result<Tensor, String>> {
    let total = past.checked_add(length).filter(|_| past > 0)?;
    let places: Vec<i64> = (past..total).map(|it| it as i64).collect();
    let (dims, values) = match (role, input.rank()) {
        (Role::Mask, _) => (vec![batch, total], vec![1; batch.checked_mul(total)?]),
        (Role::Positions, Some(1)) => (vec![length], places),
        (Role::Positions, Some(3)) => {
            let axes = input.known(0).unwrap_or(3);
            (vec![axes, batch, length], places.repeat(axes.checked_mul(batch)?))
        }
        (Role::Positions, _) => (vec![batch, length], places.repeat(batch)),
        (Role::TotalLength, Some(0)) => (vec![], vec![total as i64]),
        (Role::TotalLength, _) => (vec![1], vec![total as i64]),
        (Role::LastIndex, _) => (vec![batch], vec![total as i64 - 1; batch]),
        (Role::UseCache, Some(0)) => (vec![], vec![1]),
        (Role::UseCache, _) => (vec![1], vec![1]),
        (Role::Tokens | Role::TokenTypes | Role::Past, _) => return None,
    };
    let made = integers(input.dtype.unwrap_or(DType::I64), dims, &values);
    Some(made.ok_or_else(|| format!("input {input} cannot hold {total} tokens")))
}

/// For each input of the cache the output that it is fed with by the next run, by name. `None` when
/// the model has no cache, or lacks an output for one of the inputs.
pub fn cache_pairs(inputs: &[ModelInput], outputs: &[&str]) -> Option<Vec<(String, String)>> {
    let pasts = inputs.iter().filter(|it| role(it) == Some(Role::Past));
    let pairs = pasts.map(|it| {
        let names = [
            it.name.replace("past_key_values", "present"),
            it.name.replace("past_key_values", "present_key_values"),
            it.name.replace("past", "present"),
        ];
        let found = names.into_iter().find(|it| outputs.contains(&it.as_str()))?;
        Some((it.name.clone(), found))
    });
    let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
    (!pairs.is_empty()).then_some(pairs)
}

/// Samples of token ids that were made, `i64[rows, length]`; `source` says how.
///
/// # Errors
/// When the model takes no token ids, or other inputs do not follow from them.
pub fn made_tokens(
    source: &str,
    inputs: &[ModelInput],
    ids: Tensor,
    cache: Option<CacheShape>,
) -> Result<Samples, DataError> {
    let wrong = |it: String| DataError::mismatch(source, it);
    let at = token_input(inputs);
    let (at, input) = at
        .and_then(|at| Some((at, inputs.get(at)?)))
        .ok_or_else(|| wrong("the model takes no token ids".to_owned()))?;
    let rows = ids.dims().first().copied().unwrap_or(0);
    let runs = rows / input.known(0).filter(|_| input.rank() == Some(2)).unwrap_or(1).max(1);
    if runs == 0 || ids.is_empty() {
        return Err(wrong("there are no tokens".to_owned()));
    }
    let given = vec![Given::new(at, input, ids).map_err(wrong)?];
    made(source.to_owned(), inputs, given, runs, cache, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_pass::SampleSource as _;
    use qcc_tensor::Dim;

    fn input(name: &str, dtype: DType, dims: &[&str]) -> ModelInput {
        let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
        ModelInput::new(name, dtype, dims.iter().map(dim))
    }

    fn decoder() -> Vec<ModelInput> {
        vec![
            input("input_ids", DType::I64, &["b", "t"]),
            input("attention_mask", DType::I64, &["b", "all"]),
            input("position_ids", DType::I64, &["b", "t"]),
            input("past_key_values.0.key", DType::F32, &["b", "2", "past", "4"]),
            input("total_sequence_length", DType::I32, &[]),
            input("seqlens_k", DType::I32, &["b"]),
            input("use_cache_branch", DType::Bool, &["1"]),
        ]
    }

    fn ids(dims: [usize; 2]) -> Tensor {
        Tensor::from_vec(dims.to_vec(), vec![3i64; dims[0] * dims[1]]).unwrap()
    }

    #[test]
    fn inputs_count_on_from_the_cache() {
        let all = inputs_after(&decoder(), &ids([2, 1]), 5, None).unwrap();
        let find = |name: &str| all.iter().find(|it| it.0 == name).map(|it| it.1.clone());
        assert_eq!(find("attention_mask").unwrap().dims(), [2, 6]);
        assert_eq!(find("position_ids").unwrap().to_i64().unwrap().to_vec(), [5, 5]);
        assert_eq!(find("total_sequence_length").unwrap(), Tensor::scalar(6i32));
        assert_eq!(find("seqlens_k").unwrap(), Tensor::vector(vec![5i32, 5]));
        assert_eq!(
            find("use_cache_branch").unwrap(),
            Tensor::from_bools(vec![1], &[true]).unwrap()
        );
        assert!(find("past_key_values.0.key").is_none());

        let first = inputs_after(&decoder(), &ids([2, 1]), 0, None).unwrap();
        let past = first.iter().find(|it| it.0.starts_with("past")).unwrap();
        assert_eq!(past.1.dims(), [2, 2, 0, 4]);
        let other = [decoder(), vec![input("image", DType::F32, &["b", "3"])]].concat();
        assert!(inputs_after(&other, &ids([2, 1]), 0, None).is_err());
    }

    #[test]
    fn each_past_has_its_present() {
        let pair = |from: &str, to: &str| {
            let input = input(from, DType::F32, &["b", "2", "past", "4"]);
            cache_pairs(&[input], &["logits", to]).map(|it| it[0].1.clone())
        };
        for (from, to) in [
            ("past_key_values.0.key", "present.0.key"),
            ("past_key_values.0.key", "present_key_values.0.key"),
            ("past_0", "present_0"),
        ] {
            assert_eq!(pair(from, to).as_deref(), Some(to));
        }
        assert_eq!(pair("past_0", "present_1"), None);
        assert_eq!(cache_pairs(&[], &["logits"]), None);
    }

    #[test]
    fn made_tokens_are_samples() {
        let samples = made_tokens("own", &decoder(), ids([3, 4]), None).unwrap();
        assert_eq!(samples.describe(), "own: 3 samples of 4 tokens");
        assert_eq!(samples.batch(2).unwrap()[0].1.dims(), [1, 4]);
        assert!(made_tokens("own", &decoder(), ids([0, 4]), None).is_err());
        assert!(made_tokens("own", &[], ids([3, 4]), None).is_err());
    }
}
