//! Samples without data: uniformly random token ids, or standard normal values.
//!
//! Second moments of activations over random tokens weigh the errors of weights almost as well as
//! those over text; 2048 tokens are enough.

use qcc_pass::Rng;
use qcc_tensor::{DType, Tensor, checked_len};

use crate::cast::cast;
use crate::language::{CacheShape, Role, role, token_input};
use crate::rows::Given;
use crate::samples::{Feed, Parts};
use crate::{DataError, ModelInput, Samples};

/// Samples and tokens of each for a model: 4 x 512, for encoders of sentences 32 x 64; the length
/// is cut to what the model takes. `None` when it takes no token ids.
pub fn pseudo_shape(inputs: &[ModelInput], max_len: Option<usize>) -> Option<(usize, usize)> {
    let tokens = inputs.get(token_input(inputs)?)?;
    let is = |it: &ModelInput, want: Role| role(it) == Some(want);
    let encoder = inputs.iter().any(|it| is(it, Role::TokenTypes))
        && !inputs.iter().any(|it| is(it, Role::Past));
    let (samples, length) = if encoder { (32, 64) } else { (4, 512) };
    let fixed = tokens.rank().and_then(|it| tokens.known(it.checked_sub(1)?));
    let length = fixed.unwrap_or(length).min(max_len.unwrap_or(usize::MAX)).max(1);
    Some((samples, length))
}

/// Uniformly random token ids `0 .. vocab`: `samples` runs of `length` tokens. `None` when the
/// model takes no token ids.
///
/// # Errors
/// When other inputs do not follow from the token ids.
pub fn pseudo_tokens(
    inputs: &[ModelInput],
    vocab: usize,
    (samples, length): (usize, usize),
    cache: Option<CacheShape>,
    rng: &mut Rng,
) -> Result<Option<Samples>, DataError> {
    let source = "random tokens".to_owned();
    let Some(at) = token_input(inputs) else { return Ok(None) };
    let Some(input) = inputs.get(at) else { return Ok(None) };
    let rows = input.known(0).filter(|_| input.rank() == Some(2)).unwrap_or(1);
    let dims = vec![samples.saturating_mul(rows), length];
    let len = checked_len(&dims).filter(|_| vocab > 0 && samples > 0);
    let len = len.ok_or_else(|| DataError::mismatch(&source, "there are no tokens"))?;
    let ids: Vec<i64> = (0..len).map(|_| rng.below(vocab as u64) as i64).collect();
    let wrong = |it: String| DataError::mismatch(&source, it);
    let ids = Tensor::from_vec(dims, ids).map_err(|it| wrong(it.to_string()))?;
    let given = vec![Given::new(at, input, ids).map_err(wrong)?];
    made(source, inputs, given, samples, cache, false).map(Some)
}

/// Standard normal values for models of float inputs. Each run has one item where the first
/// dimension is not a number.
///
/// # Errors
/// When an input is not of floats, or leaves another dimension open.
pub fn pseudo_normal(
    inputs: &[ModelInput],
    samples: usize,
    rng: &mut Rng,
) -> Result<Samples, DataError> {
    let source = "random values".to_owned();
    let wrong = |it: String| DataError::mismatch(&source, it);
    let mut given = Vec::new();
    for (at, input) in inputs.iter().enumerate() {
        let dtype = input.dtype.unwrap_or(DType::F32);
        let open = || wrong(format!("input {input} cannot be drawn at random"));
        let dims = input.dims.as_ref().filter(|_| dtype.is_float()).ok_or_else(open)?;
        let size = |(axis, dim): (usize, &qcc_tensor::Dim)| match dim.known() {
            None if axis == 0 => Some(1),
            known => known,
        };
        let dims: Option<Vec<usize>> = dims.iter().enumerate().map(size).collect();
        let mut dims = dims.ok_or_else(open)?;
        dims.insert(0, samples);
        let len = checked_len(&dims).filter(|it| it.checked_mul(4).is_some()).ok_or_else(open)?;
        let values: Vec<f32> = (0..len).map(|_| rng.normal()).collect();
        let values = Tensor::from_vec(dims, values).map_err(|it| wrong(it.to_string()))?;
        let values = cast(&values, dtype).map_err(wrong)?;
        given.push(Given::new(at, input, values).map_err(wrong)?);
    }
    if given.is_empty() || samples == 0 {
        return Err(wrong("there are no inputs".into()));
    }
    made(source.clone(), inputs, given, samples, None, false)
}

/// Samples of arrays that were made, not read.
pub(crate) fn made(
    source: String,
    inputs: &[ModelInput],
    given: Vec<Given>,
    runs: usize,
    cache: Option<CacheShape>,
    is_text: bool,
) -> Result<Samples, DataError> {
    let feed = Feed::Arrays(given);
    let inputs = inputs.to_vec();
    let (seq_len, vocab, warnings) = (None, None, Vec::new());
    let mut samples = Samples::new(Parts {
        source,
        inputs,
        feed,
        runs,
        seq_len,
        vocab,
        cache,
        warnings,
        is_text,
    })?;
    samples.forget_warnings(); // that short random rows repeat is no news
    Ok(samples)
}
