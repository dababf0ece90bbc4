use super::*;

pub(super) fn op(attrs: &[(&str, i64)]) -> OpRef {
    let heads = [("num_heads", 2), ("kv_num_heads", 1)];
    let attrs = heads.iter().chain(attrs);
    let attrs = attrs.map(|&(name, it)| (name.to_owned(), Attr::Int(it))).collect();
    crate::parse("com.microsoft", NAME, 1, attrs).unwrap()
}

#[test]
fn attributes_come_back() {
    let it = op(&[("do_rotary", 1), ("rotary_interleaved", 1), ("qk_output", 1)]);
    let again = crate::parse("com.microsoft", NAME, 1, it.attrs()).unwrap();
    assert_eq!(again.is::<GroupQueryAttention>(), it.is::<GroupQueryAttention>());
    assert_eq!(it.is::<GroupQueryAttention>().unwrap().rest.len(), 1);
}

#[test]
fn a_step_equals_the_last_row_of_the_prompt() {
    let op = op(&[("local_window_size", 3)]);
    let (len, width) = (5, 8);
    let x: Vec<f32> = (0..len * width).map(|it| ((it * 7) % 11) as f32 / 4.0).collect();
    let scalar = |it: usize| Tensor::vector(vec![it as i32]);
    let run = |x: Vec<f32>, past: Option<&[Tensor]>, total: usize| {
        let x = Tensor::from_vec(vec![1, x.len() / width, width], x).unwrap();
        let (last, total) = (scalar(total - 1), scalar(total));
        let past = |i: usize| past.map(|it| &it[i]);
        let inputs = [Some(&x), None, None, past(1), past(2), Some(&last), Some(&total)];
        op.eval(&EvalCx::default(), &inputs, 3).unwrap()
    };
    let all = run(x.clone(), None, len);
    let most = run(x[..4 * width].to_vec(), None, 4);
    let step = run(x[4 * width..].to_vec(), Some(&most), len);
    let (a, b) = (all[0].to_f32().unwrap(), step[0].to_f32().unwrap());
    assert!(a[16..].iter().zip(b.iter()).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_eq!(all[1..], step[1..], "the caches are equal");
}

#[test]
fn norms_are_those_of_the_operands() {
    let values: Vec<f32> = (0..16).map(|it| ((it * 7) % 11) as f32 / 4.0 - 1.0).collect();
    let scale = [0.5f32, 2.0];
    let rows = Rows { norm: Norm::Rms, epsilon: 1e-6, scale: &scale, shift: None };
    let mut normed = values.clone();
    // Of each position: two heads of queries and one of keys, then one of values.
    for at in [0, 8] {
        rows.run(&values[at..at + 6], &mut normed[at..at + 6]);
    }
    let (last, total) = (Tensor::vector(vec![1i32]), Tensor::vector(vec![2i32]));
    let scale = Tensor::vector(scale.to_vec());
    let run = |x: Vec<f32>, scale: Option<&Tensor>| {
        let x = Tensor::from_vec(vec![1, 2, 8], x).unwrap();
        let mut inputs = [None; 16];
        inputs[0] = Some(&x);
        (inputs[5], inputs[6]) = (Some(&last), Some(&total));
        (inputs[14], inputs[15]) = (scale, scale);
        op(&[]).eval(&EvalCx::default(), &inputs, 3).unwrap()
    };
    assert_eq!(run(values, Some(&scale)), run(normed, None));
}

#[test]
fn lengths_beyond_the_cache_are_refused() {
    let x = Tensor::from_vec(vec![1, 2, 8], vec![0f32; 16]).unwrap();
    for (last, total) in [(5, 2), (1, i32::MAX), (-2, 2), (0, 1), (1, -1)] {
        let (last, total) = (Tensor::vector(vec![last]), Tensor::vector(vec![total]));
        let inputs = [Some(&x), None, None, None, None, Some(&last), Some(&total)];
        assert!(op(&[]).eval(&EvalCx::default(), &inputs, 1).is_err());
    }
}
