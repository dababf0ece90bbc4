//! How the objective of each block fell while it was tuned.

use kuva::plot::{LinePlot, MarkerShape, ScatterPlot};
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Chart, Frame, Ink, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::{BlockRow, Run};

pub(super) const FIGURE: Figure = Figure {
    id: "tuning",
    title: "Tuning",
    question: "Did it converge, and was the rate right?",
    needs: "blocks that were tuned",
    draw: Draw::Each(draw),
};

/// Blocks that are drawn; the table has all.
const MOST: usize = 64;

/// Points of a curve; of more, some are left out.
const POINTS: usize = 40;

/// Points that can be drawn: steps that go on, and ratios that are numbers.
fn points(block: &BlockRow) -> Vec<(f64, f64)> {
    let known = block.objective.iter().filter(|it| it.1.is_finite());
    let known: Vec<_> = known.map(|it| (it.0 as f64, it.1.clamp(0.0, 1e6))).collect();
    let every = known.len().div_ceil(POINTS).max(1);
    let last = known.len().saturating_sub(1);
    let kept = known.iter().enumerate().filter(|it| it.0 % every == 0 || it.0 == last);
    kept.map(|it| *it.1).collect()
}

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let blocks: Vec<(&BlockRow, Vec<(f64, f64)>)> =
        run.record.blocks.iter().map(|it| (it, points(it))).filter(|it| !it.1.is_empty()).collect();
    if blocks.is_empty() {
        return None;
    }
    let shown = &blocks[..blocks.len().min(MOST)];
    let all = || shown.iter().flat_map(|it| &it.1).map(|it| it.1);
    let high = all().fold(1.0, f64::max);
    // One range for all, so that they can be compared.
    let range = (0.0, high * 1.05);
    let charts = shown.iter().map(|(block, points)| panel(block, points, range, ink)).collect();
    let rows = blocks.iter().map(|(it, points)| {
        let ratios = || points.iter().map(|it| it.1);
        vec![
            Cell::Name(it.name.clone()),
            Cell::Count(it.steps as u64),
            Cell::Number(ratios().next(), 4),
            Cell::Number(ratios().min_by(f64::total_cmp), 4),
            Cell::Number(ratios().next_back(), 4),
            Cell::Text(series(it)),
        ]
    });
    let table = Table {
        caption: format!("{} blocks", blocks.len()),
        head: vec!["block", "steps", "first", "least", "last", "step: ratio"],
        rows: rows.collect(),
        is_open: false,
    };
    let lead = html! {
        p { "The error of what a block gives, on samples that no step has seen, by that of its start, "
            "trial after trial; below 1 is better than the start. All charts have one scale."
            @if blocks.len() > MOST { " The first " (MOST) " blocks are drawn; the table has all." }
        }
    };
    Some(Drawing { lead: Some(lead), charts, tables: vec![table], ..Default::default() })
}

fn panel(block: &BlockRow, points: &[(f64, f64)], range: (f64, f64), ink: Ink) -> Chart {
    let line = LinePlot::new()
        .with_data(points.iter().copied())
        .with_color(ink.line(Paint(0)))
        .with_stroke_width(1.5);
    let end = points.last().copied().unwrap_or_default();
    let mark = ScatterPlot::new()
        .with_data([end])
        .with_marker(MarkerShape::Diamond)
        .with_size(4.0)
        .with_color(ink.text())
        .with_tooltips()
        .with_tooltip_labels([format!("step {}: {:.4}", end.0, end.1)]);
    let first = points.first().map_or(0.0, |it| it.1);
    let frame = Frame {
        title: format!("Objective of {}", shortened(&block.name, 60)),
        description: format!("From {first:.4} to {:.4} in {} steps.", end.1, block.steps),
        heading: Some(format!("{}: {:.3}", shortened(&block.name, 24), end.1)),
        size: (285.0, 200.0),
        x: "step".to_owned(),
        y: "ratio".to_owned(),
        y_range: Some(range),
        ..Default::default()
    };
    chart(ink, vec![line.into(), mark.into()], frame)
}

/// Up to [`POINTS`] points in words.
fn series(block: &BlockRow) -> String {
    let points = points(block);
    points.iter().map(|it| format!("{}: {:.4}", it.0, it.1)).collect::<Vec<_>>().join(", ")
}
