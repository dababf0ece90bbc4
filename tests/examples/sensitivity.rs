//! Which figure of a weight says best what the model loses when it alone is rounded.
//!
//!     cargo run --profile ci -p qcc-tests --example sensitivity -- MODEL IDS [SAMPLES [LENGTH [EVERY]]]
//!
//! For every weight (or every `EVERY`th) and width: the KL of the model with this weight alone in
//! codes, over the samples, and what is predicted for it from gradients that are made once. At the
//! end, for each predictor, the rank correlation with the KL over all of them, and the mean
//! difference of the logarithms once a common factor is taken out.

use std::collections::BTreeMap;
use std::env;

use qcc::{Model, OpenOptions, TUNING_COPY, passes};
use qcc_ops::quant::floats;
use qcc_pass::{Pipeline, SampleSource as _, Session, Tap};
use qcc_quant::search::{SearchKind, search};
use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};
use qcc_quantize::whole::{Target, Whole};
use qcc_quantize::{Role, find_sites};
use qcc_tensor::{DType, Tensor};

const WIDTHS: [u8; 3] = [2, 4, 8];
const NAMES: [&str; 7] = [
    "weight error",
    "relative error",
    "first order at 4 bits",
    "its absolute values",
    "diagonal Fisher",
    "Fisher by row",
    "Fisher",
];

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let args: Vec<String> = env::args().skip(1).collect();
    let number =
        |at: usize, other: usize| args.get(at).and_then(|it| it.parse().ok()).unwrap_or(other);
    let (model, ids) = (args.first().ok_or("MODEL")?, args.get(1).ok_or("IDS")?);
    let model = Model::open(model)?;
    let options = OpenOptions {
        samples: Some(number(2, 32)),
        seq_len: Some(number(3, 128)),
        ..OpenOptions::default()
    };
    let samples = model.samples(ids, options)?;
    let mut graph = model.graph().clone();
    let tuning_copy = Pipeline::parse(TUNING_COPY, &passes(), &[]).map_err(|it| it.message)?;
    let session = Session { tuning_copy, ..Session::default() };
    let types = Pipeline::parse("infer-types", &passes(), &[]).map_err(|it| it.message)?;
    let record = &mut qcc_pass::Record::default();
    qcc_pass::run(&mut graph, &types, &session, record, &mut []).map_err(|it| it.message)?;

    let mut taps: Vec<Tap> = Vec::new();
    let mut weights = Vec::new();
    for site in find_sites(&graph) {
        let (Role::Product, Ok(form)) = (site.role, site.form) else { continue };
        let tap = (site.weight.scope, site.weight.source);
        if !taps.contains(&tap) {
            let tensor = graph.constant(tap.1).ok_or("no constant")?.clone();
            taps.push(tap);
            weights.push((site.name, form, tensor));
        }
    }
    let every = number(4, 1);
    let mut whole = Whole::new(&graph, &session, &samples, &taps)?;
    eprintln!("{} weights, left {:?}", taps.len(), whole.left());

    // What each weight becomes.
    let mut rounded: Vec<Vec<Tensor>> = Vec::new();
    for (_, form, tensor) in &weights {
        let rows = form.rows(tensor).ok_or("no rows")?;
        let each = WIDTHS.map(|bits| {
            let spec = WeightSpec {
                bits: Bits::new(bits)?,
                group: GroupSize::of(32)?,
                grid: Grid::Asym,
                scale: ScaleType::F32,
            };
            let codes = search(&rows, &spec, SearchKind::Grid, None);
            let fill = &mut |row: usize, out: &mut [f32]| codes.dequantize(row, out);
            floats(*form, DType::F32, tensor.dims().into(), fill).ok()
        });
        rounded.push(each.into_iter().collect::<Option<_>>().ok_or("it cannot be rounded")?);
    }
    let change = |idx: usize, width: usize| -> Result<Vec<f64>, Failed> {
        let (new, old) = (rounded[idx][width].to_f32()?, weights[idx].2.to_f32()?);
        Ok(new.iter().zip(old.iter()).map(|(a, b)| f64::from(a - b)).collect())
    };
    let changes: Vec<Vec<Vec<f64>>> = (0..weights.len())
        .map(|idx| (0..WIDTHS.len()).map(|width| change(idx, width)).collect())
        .collect::<Result<_, _>>()?;

    let count = samples.len() as f64;
    let mut found: BTreeMap<(usize, usize), [f64; 7]> = BTreeMap::new();
    for (idx, it) in changes.iter().enumerate() {
        let energy: f64 = weights[idx].2.to_f32()?.iter().map(|it| f64::from(it * it)).sum();
        for (width, d) in it.iter().enumerate() {
            let row = found.entry((idx, width)).or_default();
            row[0] = d.iter().map(|it| it * it).sum();
            row[1] = row[0] / energy;
        }
    }
    // First order, where all weights have 4 bits.
    let four: Vec<(usize, Tensor)> = rounded.iter().map(|it| it[1].clone()).enumerate().collect();
    let mut mean: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    whole.each(&four, Target::Float, &mut |it| {
        for (idx, g) in it.gradients {
            let g = g.to_f32()?;
            let sum = mean.entry(idx).or_insert_with(|| vec![0.0; g.len()]);
            sum.iter_mut().zip(g.iter()).for_each(|(sum, g)| *sum += f64::from(*g) / count);
        }
        Ok(())
    })?;
    for (idx, g) in &mean {
        for (width, d) in changes[*idx].iter().enumerate() {
            let row = found.entry((*idx, width)).or_default();
            row[2] = g.iter().zip(d).map(|(g, d)| g * d).sum::<f64>().abs();
            row[3] = g.iter().zip(d).map(|(g, d)| (g * d).abs()).sum();
        }
    }
    // Second order at the float weights.
    let mut diagonal: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let began = std::time::Instant::now();
    whole.each(&[], Target::Drawn(0), &mut |it| {
        for (idx, g) in it.gradients {
            let g = g.to_f32()?;
            let sum = diagonal.entry(idx).or_insert_with(|| vec![0.0; g.len()]);
            sum.iter_mut().zip(g.iter()).for_each(|(sum, g)| *sum += f64::from(*g).powi(2) / count);
            let form = weights[idx].1;
            for (width, d) in changes[idx].iter().enumerate() {
                let row = found.entry((idx, width)).or_default();
                let mut rows = vec![0.0; form.n];
                for (at, (g, d)) in g.iter().zip(d).enumerate() {
                    let at = match form.order {
                        qcc_quant::rows::Order::Nk => at / form.k,
                        qcc_quant::rows::Order::Kn => at % form.n,
                    };
                    rows[at] += f64::from(*g) * d;
                }
                row[5] += rows.iter().map(|it| it * it).sum::<f64>() / 2.0 / count;
                row[6] += rows.iter().sum::<f64>().powi(2) / 2.0 / count;
            }
        }
        Ok(())
    })?;
    eprintln!("draws took {:.1} s", began.elapsed().as_secs_f64());
    for (idx, f) in &diagonal {
        for (width, d) in changes[*idx].iter().enumerate() {
            let row = found.entry((*idx, width)).or_default();
            row[4] = f.iter().zip(d).map(|(f, d)| f * d * d).sum::<f64>() / 2.0;
        }
    }

    // What is lost.
    println!("| Weight | Bits | KL | {} |", NAMES.join(" | "));
    let mut table: Vec<(usize, f64, [f64; 7])> = Vec::new();
    for idx in (0..weights.len()).step_by(every) {
        for (width, bits) in WIDTHS.iter().enumerate() {
            let one = [(idx, rounded[idx][width].clone())];
            let mut kl = 0.0;
            for sample in 0..samples.len() {
                kl += whole.loss(sample, &one)?.0 / count;
            }
            let row = found.get(&(idx, width)).copied().unwrap_or_default();
            let cells: Vec<String> = row.iter().map(|it| format!("{it:.3e}")).collect();
            println!("| {} | {bits} | {kl:.3e} | {} |", weights[idx].0, cells.join(" | "));
            table.push((width, kl, row));
        }
    }
    println!("\n| Predictor | Rank correlation, all | at 2 bits | at 4 bits | Spread, all |");
    for (at, name) in NAMES.iter().enumerate() {
        let pairs = |width: Option<usize>| -> Vec<(f64, f64)> {
            let rows = table.iter().filter(|it| width.is_none_or(|width| it.0 == width));
            rows.map(|it| (it.1, it.2[at])).collect()
        };
        let (all, two, four) = (pairs(None), pairs(Some(0)), pairs(Some(1)));
        println!(
            "| {name} | {:.3} | {:.3} | {:.3} | {:.3} |",
            ranks(&all),
            ranks(&two),
            ranks(&four),
            spread(&all)
        );
    }
    Ok(())
}

/// The rank correlation of pairs.
fn ranks(pairs: &[(f64, f64)]) -> f64 {
    let rank = |of: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|a, b| of(&pairs[*a]).total_cmp(&of(&pairs[*b])));
        let mut ranks = vec![0.0; pairs.len()];
        order.iter().enumerate().for_each(|(rank, at)| ranks[*at] = rank as f64);
        ranks
    };
    let (a, b) = (rank(&|it| it.0), rank(&|it| it.1));
    let n = pairs.len() as f64;
    let sum: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    1.0 - 6.0 * sum / (n * (n * n - 1.0))
}

/// The standard deviation of the logarithm of the ratio.
fn spread(pairs: &[(f64, f64)]) -> f64 {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a.max(1e-30) / b.max(1e-30)).ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    (logs.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt()
}
