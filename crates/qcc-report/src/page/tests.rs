use super::*;
use crate::Document;
use crate::{
    ActivationRow, BlockRow, BudgetRow, CandidateRow, Environment, Gate, HeatMap, Histogram,
    LayerSpeed, LayerTime, Quality, RunRecord, SCHEMA, Speed, WeightRow, WholeSpeed, bytes, read,
};
use std::collections::BTreeMap;

fn candidates(idx: usize) -> Vec<CandidateRow> {
    let one = |(bits, group): (u8, &str)| CandidateRow {
        bits,
        group: group.to_owned(),
        bytes: 110_592 * u64::from(bits),
        loss: f64::powi(4.2, -i32::from(bits)) * (1.0 + idx as f64),
        chosen: (bits, group) == (if idx.is_multiple_of(3) { 8 } else { 4 }, "32"),
    };
    let widths = [2, 3, 4, 8].into_iter();
    widths.flat_map(|bits| ["32", "128"].map(|group| one((bits, group)))).collect()
}

/// Times of two numbers of rows.
fn speed(count: usize, prefix: &str) -> Speed {
    let time = |rows: usize| LayerTime {
        rows,
        seconds: 1.25e-5 * rows as f64,
        reference_seconds: Some(5.0e-5 * rows as f64),
        share_of_limit: Some(0.75),
    };
    let layer = |idx: usize| LayerSpeed {
        name: format!("{prefix}/model/layers.{idx}/mlp/down_proj/MatMul"),
        count: 1,
        k: 1536,
        n: vec![576],
        bits: vec![4],
        times: vec![time(1), time(16)],
    };
    let whole = |rows: usize| WholeSpeed {
        rows,
        seconds: 0.004 * rows as f64,
        reference_seconds: Some(0.01 * rows as f64),
    };
    Speed {
        input: format!("{prefix}model.q4.onnx"),
        reference: Some(format!("{prefix}model.onnx")),
        whole: vec![whole(1), whole(16)],
        layers: (0..count).map(layer).collect(),
        ..Default::default()
    }
}

/// A run with everything in it; names begin with `prefix`.
fn run(count: usize, prefix: &str) -> Run {
    let weights = (0..count).map(|idx| WeightRow {
        name: format!("{prefix}model.layers.{idx}.mlp.down_proj.weight.of.a.long.name"),
        sites: vec![format!("{prefix}/model/layers.{idx}/mlp/down_proj/MatMul")],
        op: "MatMul".to_owned(),
        k: 1536,
        n: 576,
        pass: "signround".to_owned(),
        bits: (idx % 10 != 9).then_some(if idx % 3 == 0 { 8 } else { 4 }),
        group: "32".to_owned(),
        bpw: 5.125,
        bytes_before: 3_538_944,
        bytes_after: 566_784,
        bytes_codes: 442_368,
        snr_db: Some(20.0 + idx as f64 / 100.0),
        rtn_snr_db: Some(19.0 + idx as f64 / 90.0),
        activations: Some(ActivationRow {
            largest: 3.0 + idx as f64,
            median: 0.25,
            beyond: 0.00125,
        }),
        candidates: if idx % 10 == 9 { Vec::new() } else { candidates(idx) },
        reason_left_float: (idx % 10 == 9).then(|| format!("{prefix}it is excluded")),
        ..Default::default()
    });
    let block = |idx: usize| BlockRow {
        name: format!("{prefix}layer {idx}"),
        steps: 200,
        objective: (0..200).map(|step| (step, 1.0 / (1.0 + step as f64 * 0.01))).collect(),
        ..BlockRow::default()
    };
    let histogram = |idx: usize| Histogram {
        name: format!("{prefix}model.layers.{idx}.mlp.down_proj.weight.of.a.long.name"),
        low: -0.75,
        high: 0.5,
        floats: (0..64u64).map(|it| it * (63 - it)).collect(),
        codes: (0..256u64).map(|it| it * (255 - it)).collect(),
        clipped: 17,
    };
    let heat_map = |idx: usize| HeatMap {
        name: format!("{prefix}model.layers.{idx}.mlp.down_proj.weight.of.a.long.name"),
        n: 576,
        k: 1536,
        group: 32,
        cell_rows: 9,
        cell_groups: 1,
        cells: vec![(0..48).map(|it| 0.1 + 0.01 * f64::from(it * it % 47)).collect(); 64],
    };
    let record = RunRecord {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        input: format!("{prefix}model.onnx"),
        output: Some(format!("{prefix}model.q4.onnx")),
        pipeline: "infer-types,select,signround,pack,to-nbits".to_owned(),
        bytes_before: 90_300_000_000,
        bytes_after: Some(54_600_000_000),
        weights: weights.collect(),
        blocks: (0..count.min(100)).map(block).collect(),
        histograms: (0..count.min(12)).map(histogram).collect(),
        heat_maps: (0..count.min(3)).map(heat_map).collect(),
        budget: Some(BudgetRow {
            points: (0..24).map(|it| (1_000_000 * (10 + it), 0.5 / (it + 1) as f64)).collect(),
            chosen: (15_500_000, 0.08),
        }),
        quality: Some(Quality {
            perplexity: Some(35.9216),
            reference_perplexity: Some(35.6551),
            kl_nats: Some(0.00866),
            ..Default::default()
        }),
        gates: vec![Gate { gate: "ppl:+2%".to_owned(), found: "+0.75 %".to_owned(), passed: true }],
        environment: Some(Environment {
            seconds: 12.5,
            peak_memory_bytes: Some(700_000_000),
            threads: 2,
        }),
        provenance: BTreeMap::from([("qcc.bits".to_owned(), format!("{prefix}5.12;4:28"))]),
        ..Default::default()
    };
    Run { label: format!("{prefix}model.q4.onnx"), record, speed: Some(speed(count, prefix)) }
}

#[test]
fn a_full_record_has_every_figure_but_the_comparison() {
    let report = report(&[run(10, "")], false);
    let want: Vec<&str> = ALL.iter().map(|it| it.id).filter(|it| *it != "compare").collect();
    assert_eq!(report.figures, want);
    assert!(!report.html.contains("What these records do not hold"));
    // Two charts for each of ten histograms, one for each of ten blocks and three heat maps, two of
    // times; sizes, errors, sensitivities, budgets and activations.
    assert_eq!(report.html.matches("role=\"img\"").count(), 40);
    assert_eq!(report.html.matches("<desc id=").count(), 40);
}

#[test]
fn numbers_are_those_of_the_record() {
    let run = run(10, "");
    let html = report(std::slice::from_ref(&run), false).html;
    let record = &run.record;
    for row in record.weights.iter().filter(|it| it.bits.is_some()) {
        let (snr, plain) = (row.snr_db.unwrap(), row.rtn_snr_db.unwrap());
        let cells = format!(
            "<td class=\"n\">{snr:.2}</td><td class=\"n\">{plain:.2}</td><td class=\"n\">{:.2}</td>",
            snr - plain
        );
        assert!(html.contains(&cells), "{cells}");
        assert!(html.contains(&format!(
            "<td class=\"n\" data-v=\"{}\">{}</td><td class=\"n\" data-v=\"{}\">{}</td>",
            row.bytes_before,
            bytes(row.bytes_before),
            row.bytes_after,
            bytes(row.bytes_after)
        )));
    }
    for text in [
        "90.30 GB → 54.60 GB",
        "60.5 % of before",
        "9 of 10 weights",
        "35.6551 → 35.9216",
        "<dd>+0.75 %</dd>",
        "0.00866 nats",
        "12.5 s",
        "700.0 MB",
        "✓ passed: ppl:+2% (+0.75 %)",
    ] {
        assert!(html.contains(text), "{text}");
    }
    for it in record.weights.iter().filter_map(|it| it.candidates.iter().find(|it| it.chosen)) {
        let text = format!("{}</td><td class=\"n\">{:.2e}</td>", bytes(it.bytes), it.loss);
        assert!(html.contains(&text), "{text}");
    }
    let budget = record.budget.as_ref().unwrap();
    for (size, loss) in budget.points.iter().chain([&budget.chosen]) {
        let text = format!(
            "<td class=\"n\" data-v=\"{size}\">{}</td><td class=\"n\">{loss:.2e}</td>",
            bytes(*size)
        );
        assert!(html.contains(&text), "{text}");
    }
    // 10 % less is 13.95 MB, between 0.125 and 0.1.
    assert!(html.contains("10 % less: about 1.01e-1, +26.6 %; 10 % more: about 6.22e-2, -22.3 %"));
    // 12 by 0.25, and 50 by 12.5 µs.
    for text in [
        "1.20e1</td><td class=\"n\">2.50e-1</td><td class=\"n\">48.0</td><td class=\"n\">0.125",
        "<td class=\"n\">12.5</td><td class=\"n\">50.0</td><td class=\"n\">4.00</td><td class=\"n\">75",
    ] {
        assert!(html.contains(text), "{text}");
    }
    let hottest = record.heat_maps[0].cells[0].iter().copied().fold(0.0, f64::max);
    assert!(html.contains(&format!("<td class=\"n\">{:.2}</td>", 100.0 * hottest)));
    let total: u64 = record
        .weights
        .iter()
        .filter(|it| it.bits.is_some())
        .map(|it| it.bytes_after - it.bytes_codes)
        .sum();
    assert!(html.contains(&format!("scales and zero points</td><td class=\"n\" data-v=\"0\">0 B</td><td class=\"n\" data-v=\"{}\">", total + 124_416)));
}

#[test]
fn names_of_a_hostile_model_stay_text() {
    let prefix = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&\u{0}\u{1b}[31m";
    let report = report(&[run(10, prefix), run(3, "b")], true);
    let all = report.files.iter().map(|it| it.1.as_str()).chain([report.html.as_str()]);
    for text in all {
        assert!(!text.contains("<script>alert") && !text.contains("<img"));
        assert!(!text.contains('\u{0}') && !text.contains('\u{1b}'));
    }
    // The one of the page itself.
    assert_eq!(report.html.matches("<script").count(), 1);
}

#[test]
fn a_thousand_weights_stay_under_two_megabytes() {
    let report = report(&[run(1000, "")], false);
    assert!(report.html.len() < 2_000_000, "{}", report.html.len());
}

#[test]
fn a_report_of_metadata_says_what_it_lacks() {
    let record = RunRecord {
        pipeline: "rtn".to_owned(),
        bytes_after: Some(1000),
        provenance: BTreeMap::from([("qcc.bits".to_owned(), "5.12;4:28,32:3".to_owned())]),
        ..Default::default()
    };
    let report = report(&[Run { label: "m.q4.onnx".to_owned(), record, speed: None }], false);
    assert_eq!(report.figures, ["headline", "provenance"]);
    assert!(report.html.contains("What these records do not hold"));
    assert!(report.html.contains("5.12"));
}

#[test]
fn several_records_stand_side_by_side() {
    let (first, mut second) = (run(10, ""), run(10, ""));
    second.label = "other".to_owned();
    second.record.histograms.clear();
    let report = report(&[first, second], true);
    assert!(report.figures.contains(&"compare"));
    assert_eq!(report.html.matches("<h3>other</h3>").count(), report.figures.len() - 1);
    assert!(report.html.contains("This record lacks histograms"));
    let names: Vec<&str> = report.files.iter().map(|it| it.0.as_str()).collect();
    assert!(names.contains(&"compare.svg") && names.contains(&"error-2.svg"), "{names:?}");
    assert!(report.files.iter().all(|it| !it.1.contains("var(")));
}

#[test]
fn names_of_elements_are_unique() {
    let html = report(&[run(10, ""), run(10, "")], false).html;
    let mut ids: Vec<&str> =
        html.split(" id=\"").skip(1).filter_map(|it| it.split('"').next()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn numbers_from_the_ends_of_their_ranges_are_drawn() {
    let mut run = run(4, "");
    for (row, value) in run.record.weights.iter_mut().zip([f64::MAX, f64::MIN, 0.0, f64::NAN]) {
        (row.snr_db, row.rtn_snr_db, row.bpw) = (Some(value), Some(value), value);
        (row.bytes_before, row.bytes_after, row.k) = (u64::MAX, u64::MAX, usize::MAX);
    }
    run.record.bytes_before = u64::MAX;
    run.record.blocks[0].objective = vec![(usize::MAX, f64::MAX), (0, -1.0), (0, f64::NAN)];
    run.record.histograms[0] = Histogram {
        low: f64::MIN,
        high: f64::MAX,
        floats: vec![u64::MAX; 2],
        ..Default::default()
    };
    run.record.histograms[1] =
        Histogram { floats: vec![u64::MAX; 300], codes: vec![0; 300], ..Default::default() };
    run.record.histograms[2] = Histogram {
        low: 0.0,
        high: 1e-300,
        floats: vec![u64::MAX; 3],
        codes: vec![u64::MAX],
        ..Default::default()
    };
    let losses = [f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN];
    for (row, loss) in run.record.weights.iter_mut().zip(losses) {
        row.candidates.iter_mut().for_each(|it| (it.loss, it.bytes) = (loss, u64::MAX));
    }
    run.record.budget = Some(BudgetRow {
        points: losses.map(|it| (u64::MAX, it)).into(),
        chosen: (u64::MAX, f64::MAX),
    });
    for (row, value) in run.record.weights.iter_mut().zip(losses) {
        row.activations = Some(ActivationRow { largest: value, median: f64::MAX, beyond: value });
    }
    for (layer, value) in run.speed.iter_mut().flat_map(|it| &mut it.layers).zip(losses) {
        (layer.times[0].seconds, layer.times[1].reference_seconds) = (value, Some(value));
        (layer.count, layer.k) = (usize::MAX, usize::MAX);
    }
    run.record.heat_maps[0].cells[0][0] = f64::NAN;
    let map = &mut run.record.heat_maps[1];
    (map.n, map.k, map.group) = (usize::MAX, usize::MAX, usize::MAX);
    (map.cell_rows, map.cell_groups) = (usize::MAX, usize::MAX);
    run.record.heat_maps[2].cells = vec![vec![0.0; 64]; 64];
    if let Some(it) = &mut run.record.quality {
        (it.perplexity, it.kl_nats) = (Some(f64::MAX), Some(f64::INFINITY));
    }
    let report = report(&[run.clone(), run], true);
    for word in ["NaN", "=\"inf", " inf", "9223372036854775808"] {
        assert!(!report.html.contains(word), "{word}: coordinates are numbers");
    }
}

#[test]
fn a_report_of_what_was_read_back_is_the_same() {
    let first = run(10, "");
    let text = serde_json::to_vec(&first.record).unwrap();
    let Document::Run(record) = read(&text).unwrap() else { panic!() };
    let second = Run { label: first.label.clone(), record: *record, speed: first.speed.clone() };
    assert_eq!(report(&[first], false).html, report(&[second], false).html);
}
