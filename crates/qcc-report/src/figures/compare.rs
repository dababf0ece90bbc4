//! Several runs in one table, and size against quality.

use kuva::plot::{MarkerShape, ScatterPlot};
use kuva::render::plots::Plot;
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::{Quality, Run, bytes};

pub(super) const FIGURE: Figure = Figure {
    id: "compare",
    title: "Side by side",
    question: "Which one is worth its size?",
    needs: "two or more records",
    draw: Draw::All(draw),
};

const MARKS: [MarkerShape; 8] = [
    MarkerShape::Circle,
    MarkerShape::Square,
    MarkerShape::Triangle,
    MarkerShape::Diamond,
    MarkerShape::TriangleDown,
    MarkerShape::Pentagon,
    MarkerShape::Star,
    MarkerShape::Cross,
];

/// A measure of quality that every run has which was measured at all.
struct Measure {
    label: &'static str,
    of: fn(&Quality) -> Option<f64>,
    digits: usize,
}

const MEASURES: [Measure; 3] = [
    Measure { label: "KL from before, nats for each token", of: |it| it.kl_nats, digits: 4 },
    Measure { label: "perplexity", of: |it| it.perplexity, digits: 2 },
    Measure {
        label: "SNR of the first output, dB",
        of: |it| it.outputs.first().and_then(|it| it.snr_db),
        digits: 1,
    },
];

fn draw(runs: &[Run], ink: Ink) -> Option<Drawing> {
    if runs.len() < 2 {
        return None;
    }
    let number = |of: fn(&Quality) -> Option<f64>, run: &Run| {
        run.record.quality.as_ref().and_then(of).filter(|it| it.is_finite())
    };
    let rows = runs.iter().map(|run| {
        let snr: Vec<f64> =
            run.quantized().filter_map(|it| it.snr_db).filter(|it| it.is_finite()).collect();
        let mean = (!snr.is_empty()).then(|| snr.iter().sum::<f64>() / snr.len() as f64);
        vec![
            Cell::Name(run.label.clone()),
            Cell::Bytes(run.record.bytes_before),
            Cell::Bytes(run.bytes_after()),
            Cell::Number(run.bits_per_weight(), 2),
            Cell::Number(mean, 2),
            Cell::Number(number(|it| it.perplexity, run), 4),
            Cell::Number(number(|it| it.kl_nats, run), 5),
            Cell::Number(number(|it| it.top1, run).map(|it| 100.0 * it), 2),
            Cell::Number(run.record.environment.as_ref().map(|it| it.seconds), 1),
        ]
    });
    let table = Table {
        caption: format!("{} runs", runs.len()),
        head: vec![
            "run",
            "before",
            "after",
            "bpw",
            "mean SNR, dB",
            "perplexity",
            "KL, nats",
            "same first, %",
            "time, s",
        ],
        rows: rows.collect(),
        is_open: true,
    };
    let measured = |it: &&Measure| runs.iter().filter(|run| number(it.of, run).is_some()).count();
    // The first of those that most runs have.
    let best = MEASURES.iter().rev().max_by_key(measured).filter(|it| measured(it) >= 2);
    let Some(measure) = best else {
        let lead = html! {
            p { "Size against quality is drawn where two or more runs have a measured quality: give "
                "the output of " code { "qcc eval --json" } " behind the record that it belongs to." }
        };
        return Some(Drawing { lead: Some(lead), tables: vec![table], ..Default::default() });
    };
    let (mut plots, mut legend, mut said): (Vec<Plot>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    for (idx, run) in runs.iter().enumerate() {
        let Some(y) = number(measure.of, run) else { continue };
        let size = run.bytes_after();
        let (paint, mark) = (Paint(idx), MARKS[idx % MARKS.len()]);
        let label = shortened(&run.label, 40);
        said.push(format!("{label}: {}, {y:.5}", bytes(size)));
        let point = ScatterPlot::new()
            .with_data([(size as f64 / 1e6, y)])
            .with_marker(mark)
            .with_size(6.0)
            .with_color(ink.line(paint))
            .with_tooltips()
            .with_tooltip_labels([format!("{}: {}, {y:.5}", run.label, bytes(size))]);
        legend.push((label, Mark::Shape(mark, paint)));
        plots.push(point.into());
    }
    let frame = Frame {
        title: format!("Size against {}", measure.label),
        description: said.join("; "),
        size: (760.0, 340.0),
        x: "size after, MB".to_owned(),
        y: measure.label.to_owned(),
        y_digits: Some(measure.digits),
        legend,
        ..Default::default()
    };
    let charts = vec![chart(ink, plots, frame)];
    Some(Drawing { charts, tables: vec![table], ..Default::default() })
}
