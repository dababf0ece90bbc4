use qcc_ir::{Emitter, OpRef, Scope, Type};
use qcc_pass::SampleError;

use super::*;

/// Two samples of three tokens of 6 numbers; of the second the last token is padding.
struct Two;

impl SampleSource for Two {
    fn len(&self) -> usize {
        2
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        let x = values(18, index as u64 + 5).into_iter().map(|it| 2.0 * it).collect();
        Ok(vec![("x".to_owned(), Tensor::from_vec(vec![1, 3, 6], x).unwrap())])
    }

    fn counted(&self, index: usize) -> Result<Option<Tensor>, SampleError> {
        let row = if index == 0 { vec![1f32; 3] } else { vec![1.0, 1.0, 0.0] };
        Ok(Some(Tensor::from_vec(vec![1, 3], row).unwrap()))
    }

    fn describe(&self) -> String {
        "two samples".to_owned()
    }
}

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = qcc_pass::Rng::new(seed, "values");
    (0..count).map(|_| rng.f32() - 0.5).collect()
}

fn op(name: &str) -> OpRef {
    qcc_ops::parse("", name, 21, Vec::new()).unwrap()
}

/// `y = Tanh(x A) B`, and `B` doubled for what `extra` says: another path to the output.
fn model(output: &str, extra: Option<&str>) -> (Graph, Vec<Tap>) {
    let mut b = Emitter::on(Graph::default());
    let x = b.input("x", Type::tensor(DType::F32, [1usize, 3, 6]));
    let first = b.constant(Tensor::from_vec(vec![6, 5], values(30, 1)).unwrap());
    let second = b.constant(Tensor::from_vec(vec![5, 7], values(35, 2)).unwrap());
    let third = b.constant(Tensor::from_vec(vec![6, 7], values(42, 3)).unwrap());
    let inner = b.op(op("MatMul"), &[x, first]);
    let inner = b.op(op("Tanh"), &[inner]);
    let mut y = b.op(op("MatMul"), &[inner, second]);
    if let Some(extra) = extra {
        let other = b.op(op("MatMul"), &[x, third]);
        let other = b.op(op(extra), &[other]);
        y = b.op(op("Add"), &[y, other]);
    }
    b.rename(y, output);
    let graph = b.finish(vec![y]);
    let taps = [first, second, third].map(|it| (Scope::root(), it));
    (graph, taps.into())
}

fn tensor(root: &Graph, tap: &Tap) -> Vec<f32> {
    root.constant(tap.1).unwrap().to_f32().unwrap().into_owned()
}

/// The weights with a change added, `times` over.
fn moved(root: &Graph, taps: &[Tap], change: &[Vec<f32>], times: f64) -> Vec<(usize, Tensor)> {
    let each = taps.iter().zip(change).enumerate().map(|(idx, (tap, change))| {
        let x = tensor(root, tap).iter().zip(change).map(|(x, d)| x + times as f32 * d).collect();
        let dims = root.constant(tap.1).unwrap().dims().into();
        (idx, Tensor::from_vec(dims, x).unwrap())
    });
    each.collect()
}

fn along(found: &Pulled, change: &[Vec<f32>]) -> f64 {
    let dot = |(idx, it): &(usize, Tensor)| -> f64 {
        let g = it.to_f32().unwrap();
        g.iter().zip(&change[*idx]).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum()
    };
    found.gradients.iter().map(dot).sum()
}

#[test]
fn gradients_are_those_of_the_loss() {
    let session = Session::default();
    for (output, kind) in [("logits", Kind::Logits), ("hidden", Kind::Values)] {
        let (graph, taps) = model(output, Some("Sigmoid"));
        let mut whole = Whole::new(&graph, &session, &Two, &taps).unwrap();
        assert_eq!(whole.outputs().collect::<Vec<_>>(), [(output, kind)]);
        assert!(whole.left().is_empty());
        let point: Vec<Vec<f32>> = [30, 35, 42].map(|it| values(it, it as u64)).into();
        for sample in 0..2 {
            assert_eq!(whole.loss(sample, &[]).unwrap(), (0.0, [3.0, 2.0][sample]));
            let at = moved(&graph, &taps, &point, 1.0);
            let found = whole.pull(sample, &at, Target::Float).unwrap();
            assert_eq!(found.loss, whole.loss(sample, &at).unwrap().0);
            for seed in 0..4 {
                let change: Vec<Vec<f32>> = [30, 35, 42].map(|it| values(it, 100 + seed)).into();
                let step = |h: f64| {
                    let sum = point.iter().zip(&change);
                    let sum: Vec<Vec<f32>> = sum
                        .map(|(p, d)| p.iter().zip(d).map(|(p, d)| p + h as f32 * d).collect())
                        .collect();
                    sum
                };
                let mut loss =
                    |h: f64| whole.loss(sample, &moved(&graph, &taps, &step(h), 1.0)).unwrap().0;
                let h = 1e-2;
                let want = (loss(h) - loss(-h)) / (2.0 * h);
                let got = along(&found, &change);
                assert!((got - want).abs() < 2e-3 * want.abs().max(0.05), "{got} {want}");
            }
        }
    }
}

#[test]
fn draws_have_the_curvature_of_the_loss() {
    let session = Session::default();
    for output in ["logits", "hidden"] {
        let (graph, taps) = model(output, None);
        let mut whole = Whole::new(&graph, &session, &Two, &taps[..2]).unwrap();
        let change: Vec<Vec<f32>> = [30, 35].map(|it| values(it, 9)).into();
        let h = 0.05;
        let want = whole.loss(1, &moved(&graph, &taps[..2], &change, h)).unwrap().0 / (h * h);
        let count = 2000;
        let mut sum = 0.0;
        for number in 0..count {
            let found = whole.pull(1, &[], Target::Drawn(number)).unwrap();
            sum += along(&found, &change).powi(2) / 2.0 / count as f64;
        }
        assert!((sum / want - 1.0).abs() < 0.1, "{output}: {sum} {want}");
    }
}

#[test]
fn padding_does_not_count() {
    let session = Session::default();
    let (graph, taps) = model("logits", None);
    let mut whole = Whole::new(&graph, &session, &Two, &taps[..2]).unwrap();
    let goal = &whole.goals[0];
    let counted = Two.counted(1).unwrap();
    let wanted = Tensor::from_vec(vec![1, 3, 7], values(21, 4)).unwrap();
    let mut found = wanted.to_f32().unwrap().into_owned();
    found[20] += 3.0;
    let found = Tensor::from_vec(vec![1, 3, 7], found).unwrap();
    assert_eq!(goal.loss(&found, &wanted, counted.as_ref()).unwrap(), (0.0, 2.0));
    assert!(goal.loss(&found, &wanted, None).unwrap().0 > 0.1);
    let mut sums = Vec::new();
    whole
        .each(&[], Target::Drawn(0), &mut |it| {
            sums.push((it.sample, it.tokens, it.gradients.len()));
            Ok(())
        })
        .unwrap();
    assert_eq!(sums, [(0, 3.0, 2), (1, 2.0, 2)]);
}

#[test]
fn weights_without_a_gradient_are_named() {
    let session = Session::default();
    let (graph, mut taps) = model("logits", Some("Hardmax"));
    let whole = Whole::new(&graph, &session, &Two, &taps).unwrap();
    let left: Vec<(usize, &str)> = whole.left().iter().map(|(k, it)| (*k, it.as_str())).collect();
    assert_eq!(left.len(), 1);
    assert!(left[0].0 == 2 && left[0].1.contains("Hardmax"), "{left:?}");
    // One that is there twice, and one that nothing reads.
    let (graph, mut all) = model("logits", None);
    taps.clear();
    taps.append(&mut all);
    taps[1] = taps[0].clone();
    let mut whole = Whole::new(&graph, &session, &Two, &taps).unwrap();
    assert_eq!(whole.left().keys().copied().collect::<Vec<_>>(), [1, 2]);
    let found = whole.pull(0, &[], Target::Drawn(0)).unwrap();
    assert_eq!(found.gradients.iter().map(|it| it.0).collect::<Vec<_>>(), [0]);
}

#[test]
fn draws_are_the_same_for_the_same_number() {
    let session = Session::default();
    let (graph, taps) = model("logits", None);
    let mut whole = Whole::new(&graph, &session, &Two, &taps[..2]).unwrap();
    let mut pull = |number| {
        let found = whole.pull(0, &[], Target::Drawn(number)).unwrap();
        found.gradients.iter().flat_map(|it| Vec::from(it.1.bytes().as_ref())).collect::<Vec<u8>>()
    };
    let first = pull(1);
    assert!(first != pull(2));
    assert!(first == pull(1));
}
