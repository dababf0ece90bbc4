//! Attention over a cache, `com.microsoft.GroupQueryAttention`, in models whose products are taken.
//!
//! Taken are nodes in f32 with a past and a present, with or without turned queries and keys. All
//! else that the operator may do is left to the runtime: windows, soft caps, biases, sinks, norms,
//! positions that are given, and caches of codes.
//! Source: ONNX Runtime docs/ContribOperators.md, contrib_ops/cpu/bert/gqa_attention_base.h.

use crate::api::{Api, Failure, ort};
use crate::claim::{Left, input};
use crate::fused::{Places, Work};
use crate::graph::{Node, ValueInfo};
use crate::linear::{Room, Scratch};
use crate::tensor::{Kind, Memory, Output, Tensor};
use ort_sys::{OrtKernelContext, OrtValue};
use qcc_kernels::attention::{Attention, AttentionShape, Past, Rotary, Span, Tokens};
use std::borrow::Cow;
use std::ptr;

/// Whether the node may be taken.
pub(crate) fn is_attention(node: &Node<'_>) -> Result<bool, Failure> {
    Ok((node.domain()?, node.op()?) == ("com.microsoft", "GroupQueryAttention"))
}

/// A node that qcc takes.
pub(crate) struct Claim<'a> {
    pub(crate) node: Node<'a>,
    heads: usize,
    kv_heads: usize,
    /// Factor of the scores; 0 for `1 / sqrt(features of a head)`.
    scale: f32,
    inputs: [Option<ValueInfo<'a>>; INPUTS],
    outputs: [ValueInfo<'a>; 3],
}

/// Query, key, value, past of both, last keys, total, cos and sin.
const INPUTS: usize = 9;

/// Attributes that change what is computed, with the values that change nothing.
const PLAIN: [(&str, &[i64]); 6] = [
    ("local_window_size", &[-1]),
    ("smooth_softmax", &[-1, 0]),
    ("qk_output", &[0]),
    ("kv_cache_bit_width", &[0]),
    ("sliding_window_cache", &[0]),
    ("causal", &[1]),
];

impl<'a> Claim<'a> {
    /// The attention that a node is, or why it is left.
    pub(crate) fn of(node: &Node<'a>) -> Result<Self, Left> {
        let size = |name: &str| match node.int(name)?.map(usize::try_from) {
            Some(Ok(size)) if size > 0 => Ok(size),
            _ => Err(Left::Why(format!("{name} is not a size"))),
        };
        let (heads, kv_heads) = (size("num_heads")?, size("kv_num_heads")?);
        if !heads.is_multiple_of(kv_heads) {
            return Err("kv_num_heads does not divide num_heads".into());
        }
        for (name, plain) in PLAIN {
            if let Some(value) = node.int(name)?.filter(|it| !plain.contains(it)) {
                return Err(Left::Why(format!("{name} is {value}")));
            }
        }
        if node.float("softcap")?.is_some_and(|it| it != 0.0) {
            return Err("it has a soft cap".into());
        }
        let given = node.inputs()?;
        if given.iter().skip(INPUTS).any(Option::is_some) {
            return Err("it has positions, a bias, a sink, norms or a cache of codes".into());
        }
        let mut inputs = std::array::from_fn(|at| input(&given, at));
        if inputs[1].is_some() != inputs[2].is_some() {
            return Err("key and value do not come together".into());
        }
        if [0, 3, 4, 5, 6].iter().any(|&at: &usize| inputs[at].is_none()) {
            return Err("it has no past".into());
        }
        let is_turned = node.int("do_rotary")?.unwrap_or(0) != 0;
        if is_turned && node.int("rotary_interleaved")?.unwrap_or(0) != 0 {
            return Err("pairs of turned features lie side by side".into());
        }
        match is_turned {
            true if inputs[7].is_none() || inputs[8].is_none() => {
                return Err("turns are missing".into());
            }
            true => {}
            false => inputs[7..].fill(None),
        }
        for (at, value) in inputs.iter().enumerate() {
            let Some(value) = value else { continue };
            let is_number = [5, 6].contains(&at);
            if value.kind()? != if is_number { Kind::I32 } else { Kind::F32 } {
                return Err(
                    if is_number { "a length is not int32" } else { "it is not f32" }.into()
                );
            }
        }
        let [Some(y), Some(keys), Some(values)] = node.outputs()?[..] else {
            return Err("it has not three results".into());
        };
        let scale = node.float("scale")?.unwrap_or(0.0);
        let outputs = [y, keys, values];
        Ok(Self { node: *node, heads, kv_heads, scale, inputs, outputs })
    }

    /// What runs in its place, by places of the node that was made of it.
    pub(crate) fn work(&self, places: &Places<'_>) -> Result<Box<dyn Work>, Failure> {
        let mut inputs = [None; INPUTS];
        for (to, value) in inputs.iter_mut().zip(&self.inputs) {
            *to = value.as_ref().map(|it| places.input(it)).transpose()?;
        }
        let [y, keys, values] = &self.outputs;
        let outputs = [places.output(y)?, places.output(keys)?, places.output(values)?];
        let Self { heads, kv_heads, scale, .. } = *self;
        Ok(Box::new(Cached { heads, kv_heads, scale, inputs, outputs }))
    }
}

/// Attention of a session.
struct Cached {
    heads: usize,
    kv_heads: usize,
    scale: f32,
    inputs: [Option<usize>; INPUTS],
    outputs: [usize; 3],
}

/// The inputs of a run.
struct Inputs<'a> {
    tokens: [Option<Tensor<'a>>; 3],
    past: [Memory<'a>; 2],
    last_keys: Tensor<'a>,
    total: Tensor<'a>,
    turns: Option<[Tensor<'a>; 2]>,
}

fn wrong<T>(what: &str) -> Result<T, Failure> {
    Err(Failure::wrong(format!("attention: {what}")))
}

impl Cached {
    fn inputs<'a>(
        &self,
        api: &'a Api,
        context: *mut OrtKernelContext,
    ) -> Result<Inputs<'a>, Failure> {
        let memory = |at: usize| {
            let Some(place) = self.inputs[at] else { return Ok(None) };
            let mut value: *const OrtValue = ptr::null();
            ort!(api, KernelContext_GetInput(context, place, &raw mut value))?;
            // SAFETY: inputs live while the operator runs.
            unsafe { Memory::new(api, value) }.map(Some)
        };
        // SAFETY: nobody writes other inputs than the past while the operator runs.
        let read = |at| memory(at).map(|it| it.map(|it| unsafe { it.read() }));
        let need = |at: usize| read(at)?.ok_or_else(|| Failure::wrong("an operand is missing"));
        let past = |at: usize| memory(at)?.ok_or_else(|| Failure::wrong("a past is missing"));
        Ok(Inputs {
            tokens: [Some(need(0)?), read(1)?, read(2)?],
            past: [past(3)?, past(4)?],
            last_keys: need(5)?,
            total: need(6)?,
            turns: read(7)?.zip(read(8)?).map(|(cos, sin)| [cos, sin]),
        })
    }

    /// Sizes of a run, the rows of its batch and positions of its past.
    fn shape(&self, inputs: &Inputs<'_>) -> Result<(AttentionShape, usize, usize), Failure> {
        let Self { heads, kv_heads, .. } = *self;
        let sizes = |dims: &[i64]| dims.iter().map(|&it| usize::try_from(it).ok()).collect();
        let dims = |it: &Tensor<'_>| -> Option<Vec<usize>> { sizes(it.dims) };
        let query = inputs.tokens[0].as_ref().and_then(dims);
        let Some([rows, len, width]) = query.as_deref() else {
            return wrong("the query has rank 3");
        };
        let is_packed = inputs.tokens[1].is_none();
        let all = heads + if is_packed { 2 * kv_heads } else { 0 };
        let size = width / all;
        if size == 0 || size * all != *width {
            return wrong("heads do not divide the query");
        }
        for tokens in inputs.tokens[1..].iter().flatten() {
            if dims(tokens).as_deref() != Some(&[*rows, *len, kv_heads * size]) {
                return wrong("key or value do not fit the query");
            }
        }
        let past = sizes(inputs.past[0].dims).unwrap_or_default();
        let [b, h, positions, s] = past[..] else { return wrong("the past has rank 4") };
        if [b, h, s] != [*rows, kv_heads, size] || inputs.past[0].dims != inputs.past[1].dims {
            return wrong("the past does not fit the query");
        }
        let total = inputs.total.ints()?;
        let Some(total) = total.first().and_then(|&it| usize::try_from(it).ok()) else {
            return wrong("total_sequence_length is one number");
        };
        // New keys are at most `len` beyond the past, so a hostile total allocates nothing.
        if total > positions.saturating_add(*len) {
            return wrong("total_sequence_length is beyond past and query");
        }
        let present = positions.max(total);
        Ok((AttentionShape { heads, kv_heads, size, len: *len, present }, *rows, positions))
    }
}

/// Where the tokens of each row of the batch stand.
fn spans(inputs: &Inputs<'_>, rows: usize, at: &AttentionShape) -> Result<Vec<Span>, Failure> {
    let last = inputs.last_keys.ints()?;
    if last.len() != rows {
        return wrong("seqlens_k has one number for each row of the batch");
    }
    let total = inputs.total.ints()?;
    let is_prompt = total.first().is_some_and(|&it| usize::try_from(it) == Ok(at.len));
    last.iter()
        .map(|&last| {
            let keys = usize::try_from(i64::from(last) + 1).ok().filter(|it| *it <= at.present);
            let Some(keys) = keys else { return wrong("seqlens_k is beyond the cache") };
            // Rows of a prompt that are shorter are padded behind.
            let first = if is_prompt { Some(0) } else { keys.checked_sub(at.len) };
            match first.filter(|it| it + at.len <= at.present) {
                Some(first) => Ok(Span { first, keys }),
                None => wrong("seqlens_k is less than the query"),
            }
        })
        .collect()
}

impl Work for Cached {
    fn compute(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        room: &Room,
    ) -> Result<(), Failure> {
        let inputs = self.inputs(api, context)?;
        let (shape, rows, positions) = self.shape(&inputs)?;
        let AttentionShape { heads, kv_heads, size, len, present } = shape;
        let spans = spans(&inputs, rows, &shape)?;
        let count = |it: usize| it as i64;
        let output = |at: usize, dims: &[usize]| {
            let dims: Vec<i64> = dims.iter().copied().map(count).collect();
            let (place, mut value) = (self.outputs[at], ptr::null_mut());
            let out = &raw mut value;
            ort!(api, KernelContext_GetOutput(context, place, dims.as_ptr(), dims.len(), out))?;
            if value.is_null() {
                return Err(Failure::other("a result is not wanted"));
            }
            Ok(value)
        };
        let floats = |value: *mut OrtValue, count: usize| {
            // SAFETY: a result of f32, as the operator has; a past in the same memory is not read.
            unsafe { Output::new(api, value, Kind::F32, count) }
        };
        let dims = [rows, kv_heads, present, size];
        let cache = [output(1, &dims)?, output(2, &dims)?];
        let mut past: [Option<(Cow<'_, [f32]>, usize)>; 2] = [None, None];
        for ((to, memory), &value) in past.iter_mut().zip(inputs.past).zip(&cache) {
            // SAFETY: a result of the runtime.
            let is_shared = unsafe { Memory::new(api, value) }?.data == memory.data;
            if is_shared && positions != present {
                return wrong("the cache is too short for past and query");
            }
            if !is_shared {
                // SAFETY: it lies in other memory than the results.
                *to = Some((unsafe { memory.read() }.floats()?, positions));
            }
        }
        let of_cache = dims.iter().product();
        let [mut keys, mut values] = [floats(cache[0], of_cache)?, floats(cache[1], of_cache)?];
        let mut y = floats(output(0, &[rows, len, heads * size])?, rows * len * heads * size)?;

        let mut tokens = [Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..])];
        for (to, from) in tokens.iter_mut().zip(&inputs.tokens) {
            if let Some(from) = from {
                *to = from.floats()?;
            }
        }
        let new = match inputs.tokens[1] {
            None => [0, heads, heads + kv_heads].map(|first| {
                let width = (heads + 2 * kv_heads) * size;
                Tokens { data: &tokens[0], width, first: first * size }
            }),
            Some(_) => [(0, heads), (1, kv_heads), (2, kv_heads)].map(|(at, heads)| {
                let data: &[f32] = &tokens[at];
                Tokens { data, width: heads * size, first: 0 }
            }),
        };
        let turns = match &inputs.turns {
            Some([cos, sin]) => match (cos.dims, sin.dims) {
                ([_, half], [_, _]) if *half > 0 => Some((cos.floats()?, sin.floats()?, *half)),
                _ => return wrong("turns have rank 2"),
            },
            None => None,
        };
        let rotary = turns.as_ref().map(|(cos, sin, half)| {
            let half = usize::try_from(*half).unwrap_or(0);
            Rotary { cos, sin, half }
        });
        let scale = if self.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { self.scale };
        let past = past.each_ref().map(|it| {
            let it = it.as_ref();
            it.map(|(data, positions)| Past { data, positions: *positions })
        });
        let attention = Attention { shape, scale, new, rotary, spans: &spans, past };
        room.run(api, context, attention.work(), |threads, scratch: &mut Scratch| {
            let (_, turned) = scratch.floats(attention.room());
            attention.run(threads, [keys.floats(), values.floats()], turned, y.floats())
        })
        .map_err(|error| Failure::wrong(error.to_string()))
    }
}
