//! Inputs of language models that follow from the token ids: masks, positions, empty pasts.
//!
//! They are recognised by name, type and rank as PyTorch, optimum, onnxruntime-genai and the
//! exporters of BERT write them. A run is one prompt from its start: nothing is masked, positions
//! count from 0, and the cache of keys and values has length 0.

use qcc_tensor::{DType, Dim, Tensor};

use crate::ModelInput;
use crate::cast::integers;

/// What an input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token ids `[batch, length]`.
    Tokens,
    /// 1 for each token that counts, `[batch, length]`.
    Mask,
    /// Which of two sentences a token belongs to, `[batch, length]`: the first.
    TokenTypes,
    /// Place of each token in its sequence: `[batch, length]`, `[length]`, or one such for each
    /// of several axes.
    Positions,
    /// Keys or values of earlier tokens, `[batch, heads, 0, size]`, or both behind one more axis.
    Past,
    /// Number of tokens, the past included: a scalar or one element.
    TotalLength,
    /// Index of the last token of each sequence, `[batch]`.
    LastIndex,
    /// Whether there is a past: false.
    UseCache,
}

impl Role {
    /// Whether its last axis counts tokens.
    pub(crate) fn is_per_token(self) -> bool {
        matches!(self, Self::Tokens | Self::Mask | Self::TokenTypes | Self::Positions)
    }
}

/// Sizes of the key and value cache, for models that leave them symbolic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Heads of keys and values.
    pub heads: usize,
    /// Elements of one head.
    pub size: usize,
}

impl CacheShape {
    /// As onnxruntime-genai writes it into `genai_config.json`; `None` when it is not there.
    pub fn from_genai_config(json: &[u8]) -> Option<Self> {
        let config: serde_json::Value = serde_json::from_slice(json).ok()?;
        let decoder = config.get("model")?.get("decoder")?;
        let number = |key: &str| usize::try_from(decoder.get(key)?.as_u64()?).ok();
        Some(Self { heads: number("num_key_value_heads")?, size: number("head_size")? })
    }
}

/// The meaning of an input other than the token ids, if it is recognised.
pub fn role(input: &ModelInput) -> Option<Role> {
    let name = input.name.rsplit(['/', ':']).next().unwrap_or(&input.name);
    let rank = |want: &[usize]| input.rank().is_none_or(|it| want.contains(&it));
    let number = input.dtype.is_none_or(|it| it.is_int() || it.is_float() || it == DType::Bool);
    let whole = input.dtype.is_none_or(DType::is_int);
    match name {
        "attention_mask" | "input_mask" if number && rank(&[2]) => Some(Role::Mask),
        "token_type_ids" | "segment_ids" if whole && rank(&[2]) => Some(Role::TokenTypes),
        "position_ids" if whole && rank(&[1, 2, 3]) => Some(Role::Positions),
        "total_sequence_length" if whole && rank(&[0, 1]) => Some(Role::TotalLength),
        "seqlens_k" if whole && rank(&[1]) => Some(Role::LastIndex),
        "use_cache_branch" if number && rank(&[0, 1]) => Some(Role::UseCache),
        _ => {
            let float = input.dtype.is_some_and(DType::is_float);
            let is_past = name.contains("past") && float && matches!(input.rank(), Some(4 | 5));
            is_past.then_some(Role::Past)
        }
    }
}

/// Which input takes the token ids: by name, else the first one of integers `[batch, length]` that
/// has no other role.
pub fn token_input(inputs: &[ModelInput]) -> Option<usize> {
    let may = |it: &ModelInput| it.is_ids() && matches!(it.rank(), None | Some(1 | 2));
    let by = |fits: &dyn Fn(&str) -> bool| inputs.iter().position(|it| may(it) && fits(&it.name));
    by(&|it| it == "input_ids")
        .or_else(|| by(&|it| it.contains("input_ids") && !it.contains("decoder")))
        .or_else(|| by(&|it| matches!(it, "tokens" | "token_ids" | "ids")))
        .or_else(|| {
            let fits = |it: &ModelInput| may(it) && it.rank() == Some(2) && role(it).is_none();
            inputs.iter().position(fits)
        })
}

/// Makes an input from the shape of the token ids.
///
/// # Errors
/// When the cache has symbolic sizes and `cache` is not given, and for [`Role::Tokens`].
pub(crate) fn make(
    role: Role,
    input: &ModelInput,
    [batch, length]: [usize; 2],
    cache: Option<CacheShape>,
) -> Result<Tensor, String> {
    let rows =
        |value: &dyn Fn(usize) -> i64| (0..batch).flat_map(|_| (0..length).map(value)).collect();
    let one = |value: i64| match input.rank() {
        Some(0) => (vec![], vec![value]),
        _ => (vec![1], vec![value]),
    };
    let (dims, values): (Vec<usize>, Vec<i64>) = match role {
        Role::Tokens => return Err(format!("input {input} is not given")),
        Role::Mask => (vec![batch, length], rows(&|_| 1)),
        Role::TokenTypes => (vec![batch, length], rows(&|_| 0)),
        Role::Positions => match input.rank() {
            Some(1) => (vec![length], (0..length as i64).collect()),
            // One set of positions for each axis of an image: equal ones for text.
            Some(3) => {
                let axes = input.known(0).unwrap_or(3);
                let all: Vec<i64> = rows(&|it| it as i64);
                (vec![axes, batch, length], all.repeat(axes))
            }
            _ => (vec![batch, length], rows(&|it| it as i64)),
        },
        Role::Past => (past(input, batch, cache)?, vec![]),
        Role::TotalLength => one(length as i64),
        Role::LastIndex => (vec![batch], vec![length as i64 - 1; batch]),
        Role::UseCache => one(0),
    };
    let dtype = input.dtype.unwrap_or(DType::I64);
    integers(dtype, dims, &values)
        .ok_or_else(|| format!("input {input} cannot hold {length} tokens"))
}

/// Shape of an empty cache: `[batch, heads, past, size]`, with 2 in front if it holds both keys
/// and values.
fn past(input: &ModelInput, batch: usize, cache: Option<CacheShape>) -> Result<Vec<usize>, String> {
    let dims = input.dims.as_deref().unwrap_or_default();
    let front = dims.len().saturating_sub(4);
    let named = |it: &Dim| matches!(it, Dim::Symbol(name) if name.contains("past"));
    let open = |from: usize| dims.iter().skip(from).filter(|it| it.known().is_none()).count();
    let empty = match dims.iter().skip(front + 1).position(named) {
        Some(at) => front + 1 + at,
        // The only size that is open besides the batch, or else the usual place.
        None if open(front + 1) == 1 => {
            let at = dims.iter().skip(front + 1).position(|it| it.known().is_none());
            front + 1 + at.unwrap_or(1)
        }
        None => front + 2,
    };
    let size = |(axis, dim): (usize, &Dim)| match dim.known() {
        _ if axis == empty => Ok(0),
        Some(known) => Ok(known),
        None if axis < front => Ok(2),
        None if axis == front => Ok(batch),
        // Heads come before the size of one, whichever place the past has between them.
        None => match cache {
            Some(it) if axis == dims.len() - 1 || (axis == dims.len() - 2 && empty > axis) => {
                Ok(it.size)
            }
            Some(it) => Ok(it.heads),
            None => Err(format!("input {input} leaves the size '{dim}' of the cache open")),
        },
    };
    dims.iter().enumerate().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dtype: DType, dims: &[&str]) -> ModelInput {
        let dim = |it: &&str| it.parse().map_or_else(|_| Dim::symbol(it), Dim::Known);
        ModelInput::new(name, dtype, dims.iter().map(dim))
    }

    fn made(it: &ModelInput, cache: Option<CacheShape>) -> Result<Tensor, String> {
        make(role(it).unwrap(), it, [1, 3], cache)
    }

    #[test]
    fn inputs_of_optimum() {
        let inputs = [
            input("input_ids", DType::I64, &["batch_size", "sequence_length"]),
            input("attention_mask", DType::I64, &["batch_size", "past_sequence_length + 1"]),
            input("position_ids", DType::I64, &["batch_size", "sequence_length"]),
            input(
                "past_key_values.0.key",
                DType::F32,
                &["batch_size", "3", "past_sequence_length", "64"],
            ),
            input("use_cache_branch", DType::Bool, &["1"]),
        ];
        assert_eq!(token_input(&inputs), Some(0));
        let ids = |values: &[i64]| Tensor::from_vec(vec![1, 3], values.to_vec()).unwrap();
        assert_eq!(made(&inputs[1], None).unwrap(), ids(&[1, 1, 1]));
        assert_eq!(made(&inputs[2], None).unwrap(), ids(&[0, 1, 2]));
        assert_eq!(made(&inputs[3], None).unwrap().dims(), [1, 3, 0, 64]);
        assert_eq!(made(&inputs[4], None), Ok(Tensor::from_bools(vec![1], &[false]).unwrap()));
    }

    #[test]
    fn inputs_of_genai() {
        let dims = ["batch_size", "3", "past_sequence_length", "kv_cache_dim"];
        let key = input("past_key_values.0.key", DType::F16, &dims);
        let text = made(&key, None).unwrap_err();
        assert!(text.ends_with("leaves the size 'kv_cache_dim' of the cache open"), "{text}");
        let config = br#"{"model": {"decoder": {"num_key_value_heads": 3, "head_size": 64}}}"#;
        let cache = CacheShape::from_genai_config(config);
        let past = made(&key, cache).unwrap();
        assert_eq!((past.dtype(), past.dims()), (DType::F16, &[1, 3, 0, 64][..]));
        let total = input("total_sequence_length", DType::I32, &[]);
        assert_eq!(made(&total, None), Ok(Tensor::scalar(3i32)));
        let last = input("seqlens_k", DType::I32, &["batch"]);
        assert_eq!(made(&last, None), Ok(Tensor::vector(vec![2i32])));
        assert_eq!(CacheShape::from_genai_config(b"{}"), None);
    }

    #[test]
    fn layouts_of_the_past() {
        let cache = Some(CacheShape { heads: 2, size: 8 });
        let dims = |shape: &[&str]| made(&input("past_0", DType::F32, shape), cache).unwrap();
        assert_eq!(dims(&["b", "n", "past", "h"]).dims(), [1, 2, 0, 8]);
        assert_eq!(dims(&["b", "n", "h", "past"]).dims(), [1, 2, 8, 0]);
        assert_eq!(dims(&["b", "past", "n", "h"]).dims(), [1, 0, 2, 8]);
        assert_eq!(dims(&["b", "2", "8", "t"]).dims(), [1, 2, 8, 0]);
        assert_eq!(dims(&["2", "b", "2", "past", "8"]).dims(), [2, 1, 2, 0, 8]);
    }

    #[test]
    fn inputs_of_bert() {
        let inputs = [
            input("input_mask", DType::I32, &["batch", "length"]),
            input("segment_ids", DType::I32, &["batch", "length"]),
            input("words", DType::I32, &["batch", "length"]),
        ];
        assert_eq!(token_input(&inputs), Some(2));
        let rows = |values: [i32; 3]| Tensor::from_vec(vec![1, 3], values.to_vec()).unwrap();
        assert_eq!(made(&inputs[0], None).unwrap(), rows([1, 1, 1]));
        assert_eq!(made(&inputs[1], None).unwrap(), rows([0, 0, 0]));
        let float = input("attention_mask", DType::F32, &["batch", "length"]);
        assert_eq!(made(&float, None).unwrap().dtype(), DType::F32);
    }

    #[test]
    fn other_inputs_have_no_role() {
        assert_eq!(token_input(&[input("image", DType::F32, &["n", "3"])]), None);
        assert_eq!(token_input(&[input("decoder_input_ids", DType::F32, &["n", "t"])]), None);
        assert_eq!(role(&input("image", DType::F32, &["n", "3", "8", "8"])), None);
        assert_eq!(role(&input("attention_mask", DType::F32, &["n", "1", "t", "t"])), None);
        assert_eq!(role(&input("past_length", DType::I64, &["1"])), None);
    }

    #[test]
    fn positions_of_several_axes() {
        let axes = input("position_ids", DType::I64, &["3", "batch", "length"]);
        let tensor = make(Role::Positions, &axes, [1, 2], None).unwrap();
        assert_eq!(tensor, Tensor::from_vec(vec![3, 1, 2], vec![0i64, 1, 0, 1, 0, 1]).unwrap());
    }
}
