//! Attention operators.

use qcc_tensor::{DType, Tensor};

use crate::cases::{Case, Random, check, tensor};

const F32: Option<DType> = Some(DType::F32);

/// A form of `GroupQueryAttention`.
#[derive(Clone, Copy, Default)]
struct Group<'a> {
    /// New positions, past positions.
    len: usize,
    past: usize,
    /// Batch rows: two by default.
    batch: Option<usize>,
    /// Keys of each of two batch rows, when a prompt is padded behind.
    keys: Option<[i32; 2]>,
    is_packed: bool,
    has_rotary: bool,
    has_bias: bool,
    has_sink: bool,
    ints: &'a [(&'a str, i64)],
    floats: &'a [(&'a str, f32)],
}

fn group_query(form: Group<'_>) {
    let mut random = Random::new((form.len * 31 + form.past * 7 + form.ints.len()) as u64 + 1);
    let (batch, heads, kv_heads, size) = (form.batch.unwrap_or(2), 4, 2, 16);
    let total = form.len + form.past;
    let new = |random: &mut Random, heads: usize| random.floats(&[batch, form.len, heads * size]);
    let mut case = Case::new("GroupQueryAttention")
        .int("num_heads", heads as i64)
        .int("kv_num_heads", kv_heads as i64)
        .int("do_rotary", i64::from(form.has_rotary));
    case = form.ints.iter().fold(case, |case, &(name, it)| case.int(name, it));
    case = form.floats.iter().fold(case, |case, &(name, it)| case.float(name, it));
    case = if form.is_packed {
        case.input(new(&mut random, heads + 2 * kv_heads)).absent(2)
    } else {
        let case = case.input(new(&mut random, heads));
        case.input(new(&mut random, kv_heads)).input(new(&mut random, kv_heads))
    };
    for _ in 0..2 {
        let past = (form.past > 0).then(|| random.floats(&[batch, kv_heads, form.past, size]));
        case = case.maybe(past);
    }
    let keys = form.keys.unwrap_or([total as i32; 2]).map(|it| it - 1);
    case = case.input(tensor(&[batch], &keys[..batch])).input(tensor(&[1], &[total as i32]));
    let cache = |random: &mut Random| form.has_rotary.then(|| random.floats(&[80, size / 2]));
    case = case.maybe(cache(&mut random)).maybe(cache(&mut random));
    if form.has_bias || form.has_sink {
        case = case
            .absent(1)
            .maybe(form.has_bias.then(|| random.floats(&[1, heads, form.len, total])))
            .maybe(form.has_sink.then(|| random.floats(&[heads])));
    }
    check(&case.outputs(&[F32, F32, F32]));
}

#[test]
fn group_query_forms() {
    for is_packed in [false, true] {
        for (len, past) in [(5, 0), (1, 6), (70, 0)] {
            let form = Group { len, past, is_packed, ..Group::default() };
            group_query(form);
            group_query(Group { has_rotary: true, ..form });
            group_query(Group {
                has_rotary: true,
                ints: &[("rotary_interleaved", 1), ("local_window_size", 3)],
                floats: &[("softcap", 0.7), ("scale", 0.4)],
                ..form
            });
            group_query(Group { ints: &[("smooth_softmax", 1)], ..form });
            group_query(Group { has_sink: true, has_bias: true, ..form });
        }
    }
}

#[test]
fn group_query_with_several_new_tokens() {
    // ONNX Runtime takes several new tokens after a past for one batch row only.
    let batch = Some(1);
    let form = Group { len: 3, past: 4, batch, has_rotary: true, ..Group::default() };
    group_query(form);
    group_query(Group { ints: &[("local_window_size", 2)], ..form });
}

#[test]
fn group_query_steps_with_shorter_rows() {
    // The second row has fewer keys than the cache.
    group_query(Group {
        len: 1,
        past: 6,
        keys: Some([7, 4]),
        has_rotary: true,
        ..Group::default()
    });
}

/// Operands of `MultiHeadAttention` after the projections.
#[derive(Clone, Copy, Default)]
struct Heads<'a> {
    past: usize,
    has_bias: bool,
    has_attention_bias: bool,
    mask: &'a [usize],
    floats: &'a [(&'a str, f32)],
    ints: &'a [(&'a str, i64)],
}

fn mask(random: &mut Random, dims: &[usize]) -> Option<Tensor> {
    if dims.is_empty() {
        return None;
    }
    let values = (0..dims.iter().product::<usize>()).map(|i| {
        let is_count = dims.len() == 1;
        if is_count {
            [3, 4, 1, 0][i % 4]
        } else {
            i32::from(i == 0 || !random.next().is_multiple_of(3))
        }
    });
    Some(tensor(dims, &values.collect::<Vec<_>>()))
}

fn multi_head(operands: [&[usize]; 3], form: Heads<'_>) {
    let mut random = Random::new((operands[0][1] + form.past * 5 + form.mask.len()) as u64);
    let (n, h) = (2, 8);
    let v_size = match operands[2] {
        [_, _, width] => width / n,
        [_, _, _, size] => *size,
        _ => h,
    };
    let mut case = Case::new("MultiHeadAttention").int("num_heads", n as i64);
    case = form.ints.iter().fold(case, |case, &(name, it)| case.int(name, it));
    case = form.floats.iter().fold(case, |case, &(name, it)| case.float(name, it));
    for dims in operands {
        case = case.maybe((!dims.is_empty()).then(|| random.floats(dims)));
    }
    let (len, new) = (
        operands[0][1],
        match operands[1] {
            [_, _, len, _] | [_, len] | [_, len, _] => *len,
            _ => operands[0][1],
        },
    );
    let total = new + form.past;
    case = case
        .maybe(form.has_bias.then(|| random.floats(&[n * (2 * h + v_size)])))
        .maybe(mask(&mut random, form.mask))
        .maybe(form.has_attention_bias.then(|| random.floats(&[1, n, len, total])));
    if form.past > 0 {
        case = case.input(random.floats(&[2, n, form.past, h]));
        case = case.input(random.floats(&[2, n, form.past, v_size]));
    }
    let wanted = if form.past > 0 { vec![F32; 3] } else { vec![F32] };
    check(&case.outputs(&wanted));
}

#[test]
fn multi_head_forms() {
    let plain = Heads::default();
    let qkv: [&[usize]; 3] = [&[2, 5, 16], &[2, 5, 16], &[2, 5, 16]];
    let cross: [&[usize]; 3] = [&[2, 3, 16], &[2, 5, 16], &[2, 5, 24]];
    for (operands, keys) in [(qkv, 5), (cross, 5)] {
        multi_head(operands, plain);
        multi_head(operands, Heads { has_bias: true, has_attention_bias: true, ..plain });
        multi_head(operands, Heads { mask: &[2, keys], ..plain });
        multi_head(operands, Heads { mask: &[2], floats: &[("scale", 0.3)], ..plain });
        multi_head(operands, Heads { mask: &[2, operands[0][1], keys], ..plain });
    }
    multi_head(qkv, Heads { past: 3, has_bias: true, mask: &[2, 8], ..plain });
    multi_head(qkv, Heads { ints: &[("unidirectional", 1)], ..plain });
    multi_head(qkv, Heads { past: 3, ints: &[("unidirectional", 1)], ..plain });
    multi_head([&[2, 3, 16], &[2, 2, 6, 8], &[2, 2, 6, 8]], plain);
}

#[test]
fn attention_with_projections() {
    // Without a bias ONNX Runtime ends with a fault.
    for (mask_dims, past, ints) in [
        (&[][..], 0, &[][..]),
        (&[2, 5], 0, &[]),
        (&[2], 0, &[("unidirectional", 1)]),
        (&[4], 0, &[]),
        (&[2, 5, 5], 0, &[]),
        (&[2, 8], 3, &[("unidirectional", 1)]),
    ] {
        let mut random = Random::new(mask_dims.len() as u64 + 3);
        let mut case = Case::new("Attention").int("num_heads", 2);
        case = ints.iter().fold(case, |case, &(name, it)| case.int(name, it));
        case = case
            .input(random.floats(&[2, 5, 12]))
            .input(random.floats(&[12, 48]))
            .input(random.floats(&[48]))
            .maybe(mask(&mut random, mask_dims))
            .maybe((past > 0).then(|| random.floats(&[2, 2, 2, past, 8])));
        let wanted = if past > 0 { vec![F32; 2] } else { vec![F32] };
        check(&case.outputs(&wanted));
    }
    let mut random = Random::new(9);
    let case = Case::new("Attention").int("num_heads", 2).float("scale", 0.5);
    let case = case.ints("qkv_hidden_sizes", &[16, 16, 24]);
    let case = case.input(random.floats(&[2, 5, 12])).input(random.floats(&[12, 56]));
    let case = case.input(random.floats(&[56])).absent(2);
    check(&case.input(random.floats(&[2, 2, 5, 5])));
}

#[test]
fn default_domain_attention() {
    let mut random = Random::new(10);
    // Grouped heads, longer than a task.
    let case = Case::onnx("Attention", 23).int("is_causal", 1).float("softcap", 1.5);
    let case = case.input(random.floats(&[1, 4, 80, 16]));
    check(&case.input(random.floats(&[1, 2, 80, 16])).input(random.floats(&[1, 2, 80, 8])));
    // Rank 3, a mask for all heads, a past.
    let case = Case::onnx("Attention", 23).int("q_num_heads", 4).int("kv_num_heads", 2);
    let case = case.float("scale", 0.2).input(random.floats(&[2, 3, 32]));
    let case = case.input(random.floats(&[2, 3, 16])).input(random.floats(&[2, 3, 16]));
    let case = case.input(random.floats(&[3, 7]));
    let case = case.input(random.floats(&[2, 2, 4, 8])).input(random.floats(&[2, 2, 4, 8]));
    check(&case.outputs(&[F32; 3]));
}
