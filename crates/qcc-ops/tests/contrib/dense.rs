//! Products, norms, activations and rotation.

use qcc_tensor::DType;

use crate::cases::{Case, Random, check, tensor};

#[test]
fn fused_matmul() {
    let mut random = Random::new(1);
    let mut run = |a: &[usize], b: &[usize], flags: &[&str], alpha: f32| {
        let case = Case::new("FusedMatMul").float("alpha", alpha);
        let case = flags.iter().fold(case, |case, name| case.int(name, 1));
        check(&case.input(random.floats(a)).input(random.floats(b)));
    };
    run(&[3, 4], &[4, 5], &[], 1.0);
    run(&[4, 3], &[5, 4], &["transA", "transB"], 0.25);
    run(&[2, 3, 4], &[5, 4], &["transB"], -2.0);
    run(&[2, 1, 3, 4], &[6, 4, 5], &[], 1.0);
    run(&[3, 2, 4], &[2, 4, 5], &["transBatchA"], 1.0);
    run(&[3, 2, 6, 4], &[5, 2, 6, 4], &["transBatchA", "transBatchB", "transB"], 0.5);
    run(&[4, 2, 3], &[2, 4, 5], &["transBatchA", "transA"], 1.0);
    run(&[300, 70], &[70, 600], &[], 1.0);
}

#[test]
fn activations() {
    let mut random = Random::new(2);
    let x = random.floats(&[2, 3, 7]);
    let wide = tensor(&[5], &[-9.0f32, -3.0, 0.0, 2.5, 12.0]);
    for x in [&x, &wide] {
        check(&Case::new("Gelu").input(x.clone()));
        check(&Case::new("FastGelu").input(x.clone()));
        check(&Case::new("QuickGelu").input(x.clone()));
        check(&Case::new("QuickGelu").float("alpha", 1.0).input(x.clone()));
    }
    check(&Case::new("FastGelu").input(x.clone()).input(random.floats(&[7])));
    check(&Case::new("BiasGelu").input(x).input(random.floats(&[7])));
}

#[test]
fn simplified_norm() {
    let mut random = Random::new(3);
    for (axis, scale) in [(-1, &[9][..]), (1, &[4, 9])] {
        let case = Case::onnx("SimplifiedLayerNormalization", 21).int("axis", axis);
        let case = case.float("epsilon", 1e-5).int("stash_type", 1);
        check(&case.input(random.floats(&[2, 4, 9])).input(random.floats(scale)));
    }
}

#[test]
fn skip_norms() {
    let f32s = Some(DType::F32);
    for (x, skip, has_bias) in [
        (&[2, 3, 16][..], &[2, 3, 16][..], true),
        (&[2, 3, 16], &[2, 3, 16], false),
        (&[6, 16], &[6, 16], true),
        (&[2, 3, 16], &[1, 3, 16], false),
        (&[2, 3, 16], &[3, 16], true),
        (&[0, 3, 16], &[0, 3, 16], false),
    ] {
        let mut random = Random::new(4);
        let (x, skip) = (random.floats(x), random.floats(skip));
        let (gamma, beta) = (random.floats(&[16]), random.floats(&[16]));
        let bias = has_bias.then(|| random.floats(&[16]));
        let simple = Case::new("SkipSimplifiedLayerNormalization").float("epsilon", 1e-3);
        let simple = simple.input(x.clone()).input(skip.clone()).input(gamma.clone());
        check(&simple.maybe(bias.clone()).outputs(&[f32s, None, None, f32s]));
        let full = Case::new("SkipLayerNormalization").float("epsilon", 1e-3);
        let full = full.input(x).input(skip).input(gamma);
        check(&full.maybe(has_bias.then_some(beta)).maybe(bias).outputs(&[f32s, None, None, f32s]));
    }
}

#[test]
fn embed_norm() {
    let mut random = Random::new(5);
    for (has_segment, has_mask, has_positions) in
        [(true, true, false), (false, false, true), (true, false, true)]
    {
        let ids = |random: &mut Random, end: u64, dims: &[usize]| {
            let it = random.below(end, dims).to_i64().unwrap().to_vec();
            tensor(dims, &it.into_iter().map(|it| it as i32).collect::<Vec<_>>())
        };
        let case = Case::new("EmbedLayerNormalization")
            .float("epsilon", 1e-4)
            .input(ids(&mut random, 13, &[2, 5]))
            .maybe(has_segment.then(|| ids(&mut random, 2, &[2, 5])))
            .input(random.floats(&[13, 8]))
            .input(random.floats(&[9, 8]))
            .maybe(has_segment.then(|| random.floats(&[2, 8])))
            .input(random.floats(&[8]))
            .input(random.floats(&[8]))
            .maybe(has_mask.then(|| ids(&mut random, 2, &[2, 5])));
        let case = if has_positions { case.input(ids(&mut random, 9, &[2, 5])) } else { case };
        check(&case.outputs(&[Some(DType::F32), Some(DType::I32), Some(DType::F32)]));
    }
}

#[test]
fn rotary_embedding() {
    let mut random = Random::new(6);
    for (x, heads, rotated, is_interleaved, is_offset) in [
        (&[2, 3, 32][..], 0, 0, 0, false),
        (&[2, 3, 32], 0, 0, 1, true),
        (&[2, 4, 3, 8], 0, 0, 0, false),
        (&[2, 4, 3, 8], 0, 0, 1, true),
        (&[2, 3, 32], 2, 8, 0, false),
        (&[1, 3, 32], 4, 4, 1, true),
    ] {
        let half = if rotated > 0 { rotated / 2 } else { 4 };
        let ids = if is_offset { tensor(&[1], &[4i64]) } else { random.below(10, &[x[0], 3]) };
        let case = Case::new("RotaryEmbedding")
            .int("interleaved", is_interleaved)
            .int("num_heads", heads)
            .int("rotary_embedding_dim", rotated as i64);
        let case = case.input(random.floats(x)).input(ids);
        check(&case.input(random.floats(&[10, half])).input(random.floats(&[10, half])));
    }
}
