//! The weights with the largest errors: how their values lie, and which codes they became.

use kuva::plot::{BarPlot, LinePlot};
use kuva::render::plots::Plot;
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Chart, Frame, Ink, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::run::total;
use crate::{Histogram, Run};

pub(super) const FIGURE: Figure = Figure {
    id: "histograms",
    title: "The weights with the lowest SNR",
    question: "What went wrong in this weight?",
    needs: "histograms, which --record and --report write",
    draw: Draw::Each(draw),
};

/// Weights that are drawn; a record holds no more of its own.
const MOST: usize = 12;

/// Bars of a histogram that are drawn.
const BARS: usize = 256;

/// Codes that have a bar each; more of them are one shape.
const WIDE: usize = 16;

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let all: Vec<&Histogram> = run.record.histograms.iter().take(MOST).collect();
    if all.is_empty() {
        return None;
    }
    let charts = all.iter().filter_map(|it| Some([values(it, ink)?, codes(it, ink)?])).flatten();
    let rows = all.iter().map(|it| {
        let count = total(it.codes.iter().copied());
        let unused = it.codes.iter().filter(|&&it| it == 0).count();
        let clipped = (count > 0).then(|| 100.0 * it.clipped as f64 / count as f64);
        let snr = run.record.weights.iter().find(|row| row.name == it.name);
        vec![
            Cell::Name(it.name.clone()),
            Cell::Number(snr.and_then(|it| it.snr_db), 2),
            Cell::Number(Some(it.low), 5),
            Cell::Number(Some(it.high), 5),
            Cell::Count(count),
            Cell::Number(clipped, 3),
            Cell::Count(unused as u64),
            Cell::Text(it.codes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")),
        ]
    });
    let table = Table {
        caption: format!("{} weights", all.len()),
        head: vec![
            "weight",
            "SNR, dB",
            "least",
            "largest",
            "values",
            "clipped, %",
            "unused codes",
            "values of each code, from 0",
        ],
        rows: rows.collect(),
        is_open: false,
    };
    let lead = html! {
        p { "For each weight, its float values on the left and the codes that they became on the "
            "right. Clipped values lie more than half a step outside of the grid of their group." }
    };
    Some(Drawing { lead: Some(lead), charts: charts.collect(), beside: 2, tables: vec![table] })
}

const SIZE: (f64, f64) = (285.0, 185.0);

fn values(it: &Histogram, ink: Ink) -> Option<Chart> {
    let count = it.floats.len();
    let width = it.high - it.low;
    // A width that has a number of digits can be divided and labeled.
    let is_wide = width.is_finite() && width > 1e-30;
    if !is_wide || !(1..=BARS).contains(&count) {
        return None;
    }
    let edge = |idx: usize| it.low + width * idx as f64 / count as f64;
    Some(panel(
        it,
        ink,
        outline(&it.floats, edge, Paint(7), ink),
        "float values",
        "float value",
        false,
    ))
}

fn codes(it: &Histogram, ink: Ink) -> Option<Chart> {
    let count = it.codes.len();
    if !(1..=BARS).contains(&count) {
        return None;
    }
    let bits = u8::try_from(count.next_power_of_two().trailing_zeros()).unwrap_or(0);
    let paint = Paint::of_bits(bits);
    if count > WIDE {
        let plot = outline(&it.codes, |idx| idx as f64 - 0.5, paint, ink);
        return Some(panel(it, ink, plot, "codes", "code", true));
    }
    let bars = it.codes.iter().enumerate();
    // Every second code is named where all would not fit.
    let label = |code: usize| match count > 8 && code % 2 == 1 {
        true => String::new(),
        false => code.to_string(),
    };
    let bars = bars.map(|(code, &count)| (label(code), count as f64, ink.fill(paint)));
    let bars = BarPlot::new().with_colored_bars(bars).with_width(0.9);
    Some(panel(it, ink, bars.into(), "codes", "code", true))
}

/// Bars without lines between them, as one shape: many bars would make the page large.
fn outline(counts: &[u64], edge: impl Fn(usize) -> f64, paint: Paint, ink: Ink) -> Plot {
    let mut points: Vec<(f64, f64)> =
        counts.iter().enumerate().map(|(idx, &it)| (edge(idx), it as f64)).collect();
    points.extend(points.last().map(|it| (edge(counts.len()), it.1)));
    LinePlot::new()
        .with_data(points)
        .with_color(ink.line(paint))
        .with_stroke_width(1.0)
        .with_step()
        .with_fill()
        .with_fill_opacity(0.5)
        .into()
}

fn panel(it: &Histogram, ink: Ink, plot: Plot, what: &str, x: &str, is_codes: bool) -> Chart {
    let unused = it.codes.iter().filter(|&&it| it == 0).count();
    let description = match is_codes {
        true => format!(
            "{} codes, {unused} of them unused, {} values clipped.",
            it.codes.len(),
            it.clipped
        ),
        false => format!("Values from {:.5} to {:.5}.", it.low, it.high),
    };
    let frame = Frame {
        title: format!("{}: {what}", shortened(&it.name, 60)),
        description,
        heading: Some(shortened(&it.name, 30)),
        size: SIZE,
        x: x.to_owned(),
        y: "values".to_owned(),
        ..Default::default()
    };
    chart(ink, vec![plot], frame)
}
