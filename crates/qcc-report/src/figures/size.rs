//! Where the bytes are, before and after, as two stacked bars.

use kuva::plot::BarPlot;
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart};
use crate::html_table::{Cell, Table};
use crate::run::Part;
use crate::{Run, bytes};

pub(super) const FIGURE: Figure = Figure {
    id: "size",
    title: "Where the bytes are",
    question: "Why is the file still so big?",
    needs: "weights with their sizes",
    draw: Draw::Each(draw),
};

fn paint(part: Part) -> Paint {
    Paint(match part {
        Part::Embeddings => 4,
        Part::Attention => 0,
        Part::FeedForward => 2,
        Part::Products => 1,
        Part::Head => 5,
        Part::Scales => 3,
        Part::Other => 7,
    })
}

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let parts = run.parts();
    if run.record.weights.is_empty() || parts.is_empty() {
        return None;
    }
    let (before, after) = (run.record.bytes_before, run.bytes_after());
    let mut tips = Vec::new();
    let mut bar = |name: &str, all: u64, of: fn(&(Part, u64, u64)) -> u64| {
        let values = parts.iter().map(|it| {
            let share = 100.0 * of(it) as f64 / (all.max(1)) as f64;
            tips.push(format!("{}, {name}: {}, {share:.1} %", it.0.name(), bytes(of(it))));
            (of(it) as f64 / 1e6, ink.fill(paint(it.0)))
        });
        values.collect::<Vec<_>>()
    };
    let (first, second) = (bar("before", before, |it| it.1), bar("after", after, |it| it.2));
    // The first group is the lowest bar.
    let count = tips.len() / 2;
    tips.rotate_left(count);
    let bars = BarPlot::new()
        .with_group("after", second)
        .with_group("before", first)
        .with_width(0.7)
        .with_stacked()
        .with_horizontal(true)
        .with_tooltips()
        .with_tooltip_labels(tips);
    let largest = parts.iter().max_by_key(|it| it.2)?;
    let frame = Frame {
        title: format!("Sizes before and after: {} and {}", bytes(before), bytes(after)),
        description: format!(
            "Two stacked bars. Largest part after: {}, {}.",
            largest.0.name(),
            bytes(largest.2)
        ),
        size: (760.0, 230.0),
        x: "MB".to_owned(),
        legend: parts.iter().map(|it| (it.0.name().to_owned(), Mark::Area(paint(it.0)))).collect(),
        ..Default::default()
    };
    let mut rows: Vec<_> =
        parts.iter().map(|&(part, before, after)| row(part.name(), before, after)).collect();
    rows.push(row("total", before, after));
    let table = Table {
        caption: "bytes by part".to_owned(),
        head: vec!["part", "before", "after", "after, % of before"],
        rows,
        is_open: false,
    };
    let lead = html! {
        p { "Largest part after: " strong { (largest.0.name()) } ", " (bytes(largest.2))
            ". Attention and feed-forward are told by names, where names say so." }
    };
    Some(Drawing {
        lead: Some(lead),
        charts: vec![chart(ink, vec![bars.into()], frame)],
        tables: vec![table],
        ..Default::default()
    })
}

fn row(name: &str, before: u64, after: u64) -> Vec<Cell> {
    let share = (before > 0).then(|| 100.0 * after as f64 / before as f64);
    vec![
        Cell::Text(name.to_owned()),
        Cell::Bytes(before),
        Cell::Bytes(after),
        Cell::Number(share, 1),
    ]
}
