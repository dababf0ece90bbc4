//! The loss of the bundled model as a function of its weights.

use qcc::{OpenOptions, Samples, TUNING_COPY, passes};
use qcc_ir::Scope;
use qcc_pass::{Pipeline, Rng, Session, Tap};
use qcc_quantize::whole::{Kind, Target, Whole};
use qcc_quantize::{Role, find_sites};
use qcc_tensor::Tensor;
use qcc_tests::{Bench, books1m};

fn session() -> Session {
    let tuning_copy = Pipeline::parse(TUNING_COPY, &passes(), &[]).unwrap();
    Session { tuning_copy, ..Session::default() }
}

fn samples(bench: &Bench) -> Samples {
    let options = OpenOptions { samples: Some(2), seq_len: Some(64), ..OpenOptions::default() };
    bench.model().samples(books1m().join("calib.npy"), options).unwrap()
}

/// The weights of all products but the head, and their floats.
fn weights(bench: &Bench) -> (Vec<Tap>, Vec<Vec<f32>>) {
    let graph = bench.model().graph();
    let sites = find_sites(graph);
    let products = sites.iter().filter(|it| it.role == Role::Product && it.form.is_ok());
    let taps: Vec<Tap> = products.map(|it| (Scope::root(), it.weight.source)).collect();
    let floats = taps.iter().map(|it| graph.constant(it.1).unwrap().to_f32().unwrap().into_owned());
    let floats = floats.collect();
    (taps, floats)
}

#[test]
fn gradients_are_those_of_the_loss() {
    let (bench, session) = (Bench::new(), session());
    let samples = samples(&bench);
    let (taps, floats) = weights(&bench);
    let graph = bench.model().graph();
    let mut whole = Whole::new(graph, &session, &samples, &taps).unwrap();
    assert_eq!(whole.outputs().collect::<Vec<_>>(), [("logits", Kind::Logits)]);
    assert!(whole.left().is_empty(), "{:?}", whole.left());

    // Somewhere beside the float model, and a direction that is as large in each weight.
    let mut rng = Rng::new(7, "directions");
    let mut noise = |scale: f32| -> Vec<Vec<f32>> {
        floats
            .iter()
            .map(|x| {
                let mean = x.iter().map(|x| x.abs()).sum::<f32>() / x.len() as f32;
                x.iter().map(|_| scale * mean * rng.normal()).collect()
            })
            .collect()
    };
    let point = noise(0.3);
    let moved = |change: &[Vec<f32>], times: f64| -> Vec<(usize, Tensor)> {
        let all = floats.iter().zip(&point).zip(change).enumerate();
        all.map(|(idx, ((x, p), d))| {
            let x = x.iter().zip(p).zip(d).map(|((x, p), d)| x + p + times as f32 * d).collect();
            (idx, Tensor::from_vec(graph.constant(taps[idx].1).unwrap().dims().into(), x).unwrap())
        })
        .collect()
    };
    let zero: Vec<Vec<f32>> = floats.iter().map(|it| vec![0.0; it.len()]).collect();
    for sample in 0..2 {
        let found = whole.pull(sample, &moved(&zero, 0.0), Target::Float).unwrap();
        assert!(found.loss > 0.01, "{}", found.loss);
        for _ in 0..2 {
            let change = noise(0.3);
            let mut loss = |times| whole.loss(sample, &moved(&change, times)).unwrap().0;
            let h = 2e-2;
            let want = (loss(h) - loss(-h)) / (2.0 * h);
            let got: f64 = found
                .gradients
                .iter()
                .flat_map(|(idx, g)| {
                    let g = g.to_f32().unwrap().into_owned();
                    g.into_iter().zip(&change[*idx]).map(|(g, d)| f64::from(g) * f64::from(*d))
                })
                .sum();
            assert!((got - want).abs() < 0.01 * want.abs().max(0.01), "{got} {want}");
        }
    }
}
