//! The error of each weight in the order of the graph: as chosen, and by rounding to nearest.

use std::collections::BTreeSet;

use kuva::plot::{BarPlot, MarkerShape, ScatterPlot};
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::{Run, WeightRow};

pub(super) const FIGURE: Figure = Figure {
    id: "error",
    title: "Error by depth",
    question: "Which layers hurt, and what did the recipe change?",
    needs: "weights with their SNR",
    draw: Draw::Each(draw),
};

/// Pixels of a weight, so that it can be pointed at.
const WIDTH: f64 = 4.0;

/// SNR that bars show; whatever is beyond is drawn at the end.
const SHOWN: std::ops::RangeInclusive<f64> = 0.0..=200.0;

fn snr(value: Option<f64>) -> Option<f64> {
    value.filter(|it| it.abs() < 1e6)
}

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let rows: Vec<&WeightRow> = run.quantized().filter(|it| snr(it.snr_db).is_some()).collect();
    let worst = rows.iter().min_by(|a, b| f64::total_cmp(&of(a), &of(b)))?;
    let shown = |it: f64| it.clamp(*SHOWN.start(), *SHOWN.end());
    let bars = rows.iter().enumerate().map(|(idx, it)| {
        let fill = ink.fill(Paint::of_bits(it.bits.unwrap_or(0)));
        (label(idx + 1, rows.len()), shown(of(it)), fill)
    });
    let bars = BarPlot::new()
        .with_colored_bars(bars)
        .with_width(if rows.len() > 120 { 1.0 } else { 0.75 })
        .with_tooltips()
        .with_tooltip_labels(rows.iter().map(|it| tip(it)));
    let mut plots = vec![bars.into()];
    let plain: Vec<(f64, f64)> = rows
        .iter()
        .enumerate()
        .filter(|it| it.1.pass != "rtn")
        .filter_map(|(idx, it)| Some((idx as f64 + 1.0, shown(snr(it.rtn_snr_db)?))))
        .collect();
    let widths: BTreeSet<u8> = rows.iter().filter_map(|it| it.bits).collect();
    let mut legend: Vec<_> = widths
        .iter()
        .map(|&bits| (format!("{bits} bits"), Mark::Area(Paint::of_bits(bits))))
        .collect();
    if !plain.is_empty() {
        legend.push(("rounding to nearest".to_owned(), Mark::Plain(MarkerShape::Diamond)));
        // In the color of the ground below, so that they stand out on every bar.
        let size = if rows.len() > 120 { 1.5 } else { 3.0 };
        for (color, size) in [(ink.ground(), size + 1.5), (ink.text(), size)] {
            let marks = ScatterPlot::new()
                .with_data(plain.iter().copied())
                .with_marker(MarkerShape::Diamond)
                .with_size(size)
                .with_color(color);
            plots.push(marks.into());
        }
    }
    let name = site(worst);
    let frame = Frame {
        title: format!("SNR of {} weights in the order of the graph", rows.len()),
        description: format!("One bar a weight. The lowest is {name}, {:.2} dB.", of(worst)),
        size: ((rows.len() as f64 * WIDTH + 90.0).max(760.0), 300.0),
        x: "weight, in the order of the graph".to_owned(),
        y: "SNR, dB".to_owned(),
        legend,
        ..Default::default()
    };
    let gain = gain(&rows);
    let lead = html! {
        p { "Signal by noise in a weight, 10 log10(Σw² / Σ(w − v)²); more is better. Lowest: "
            strong title=(name) { (shortened(name, 44)) } ", " (format!("{:.2}", of(worst))) " dB."
            @if let Some(gain) = gain {
                " Against rounding to nearest: " (format!("{gain:+.2}")) " dB on average."
                @if gain < 0.0 { " Recipes that tune for outputs may lose here and win there." }
            } @else if rows.iter().all(|it| it.pass == "rtn") {
                " All weights are rounded to nearest."
            } @else if plain.is_empty() {
                " Rounding to nearest is not in this record; --record and --report measure it."
            }
        }
    };
    Some(Drawing {
        lead: Some(lead),
        charts: vec![chart(ink, plots, frame)],
        tables: vec![table(run)],
        ..Default::default()
    })
}

/// The position of a bar, where there is room for it.
pub(super) fn label(position: usize, count: usize) -> String {
    let every = match count {
        0..=40 => 1,
        41..=120 => 5,
        _ => 10,
    };
    if position.is_multiple_of(every) { position.to_string() } else { String::new() }
}

fn of(row: &WeightRow) -> f64 {
    snr(row.snr_db).unwrap_or(f64::INFINITY)
}

fn site(row: &WeightRow) -> &str {
    row.sites.first().map_or(&row.name, |it| if it.is_empty() { &row.name } else { it })
}

fn tip(row: &WeightRow) -> String {
    let plain = snr(row.rtn_snr_db).map_or(String::new(), |it| format!(", to nearest {it:.2} dB"));
    format!("{} [{}, {}]: {:.2} dB{plain}", row.name, row.k, row.n, of(row))
}

/// Mean difference where both are known and the recipe is another one.
fn gain(rows: &[&WeightRow]) -> Option<f64> {
    let both = rows.iter().filter(|it| it.pass != "rtn");
    let gains: Vec<f64> = both.filter_map(|it| Some(of(it) - snr(it.rtn_snr_db)?)).collect();
    (!gains.is_empty()).then(|| gains.iter().sum::<f64>() / gains.len() as f64)
}

fn table(run: &Run) -> Table {
    let rows: Vec<Vec<Cell>> = run
        .quantized()
        .enumerate()
        .map(|(idx, it)| {
            let gain = snr(it.snr_db).zip(snr(it.rtn_snr_db)).map(|(a, b)| a - b);
            vec![
                Cell::Count(idx as u64 + 1),
                Cell::Name(it.name.clone()),
                Cell::Name(site(it).to_owned()),
                Cell::Text(it.op.clone()),
                Cell::Text(format!("[{}, {}]", it.k, it.n)),
                Cell::Count(it.bits.unwrap_or(0).into()),
                Cell::Text(it.group.clone()),
                Cell::Number(Some(it.bpw), 2),
                Cell::Bytes(it.bytes_before),
                Cell::Bytes(it.bytes_after),
                Cell::Number(it.snr_db, 2),
                Cell::Number(it.rtn_snr_db, 2),
                Cell::Number(gain, 2),
            ]
        })
        .collect();
    Table {
        caption: format!("{} quantized weights", rows.len()),
        head: vec![
            "#",
            "weight",
            "node",
            "op",
            "[K, N]",
            "bits",
            "group",
            "bpw",
            "before",
            "after",
            "SNR, dB",
            "to nearest, dB",
            "gain, dB",
        ],
        rows,
        is_open: false,
    }
}
