//! How long each product takes, beside the float model where it was timed as well.

use std::collections::BTreeSet;

use kuva::plot::BarPlot;
use maud::{Markup, html};

use super::error::label;
use super::{Draw, Drawing, Figure};
use crate::chart::{Chart, Frame, Ink, Mark, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table, number};
use crate::{LayerSpeed, LayerTime, Run, Speed};

pub(super) const FIGURE: Figure = Figure {
    id: "speed",
    title: "Speed",
    question: "Which products got faster, and by how much?",
    needs: "times: put the output of 'qcc bench --json' behind the record",
    draw: Draw::Each(draw),
};

/// Products that are drawn.
const MOST: usize = 100;

/// Products whose bars say what they are when they are pointed at.
const TOLD: usize = 40;

/// Rows of the table.
const LISTED: usize = 200;

/// Numbers of rows that have a chart.
const CHARTS: usize = 4;

/// Pixels of a product with its bars.
const WIDTH: f64 = 22.0;

/// Seconds that can be drawn, in µs.
fn micros(seconds: f64) -> Option<f64> {
    (seconds > 0.0 && seconds < 1e6).then_some(1e6 * seconds)
}

/// The reference by the model; above 1 the model is faster.
fn ratio(reference: Option<f64>, own: f64) -> Option<f64> {
    Some(micros(reference?)? / micros(own)?)
}

/// A product with its number and its time for some rows.
type Timed<'a> = (usize, &'a LayerSpeed, &'a LayerTime);

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let speed = run.speed.as_ref()?;
    let rows: BTreeSet<usize> =
        speed.layers.iter().flat_map(|it| &it.times).map(|it| it.rows).collect();
    let charts: Vec<Chart> =
        rows.iter().take(CHARTS).filter_map(|&rows| panel(speed, rows, ink)).collect();
    if charts.is_empty() && speed.whole.is_empty() {
        return None;
    }
    let mut tables = Vec::new();
    if !speed.whole.is_empty() {
        tables.push(whole(speed));
    }
    if !charts.is_empty() {
        tables.push(products(speed));
    }
    Some(Drawing { lead: Some(lead(speed)), charts, tables, ..Default::default() })
}

fn lead(speed: &Speed) -> Markup {
    let threads = match speed.limits.threads {
        0 => String::new(),
        1 => " on 1 thread".to_owned(),
        count => format!(" on {count} threads"),
    };
    let behind =
        if speed.past > 0 { format!(" behind {} others", speed.past) } else { String::new() };
    html! {
        p { "Times of the products with codes" (threads) ", each with what is fused into it"
            @if speed.reference.is_some() { ", beside those of the float model in the same engine" }
            ". Of several alike there is one bar, for one of them; the numbers are those of the table."
            @for it in &speed.whole {
                @if let Some(own) = micros(it.seconds) {
                    " The whole model takes " strong { (number(own / 1e3, 2)) " ms" } " for " (it.rows)
                    @if it.rows == 1 { " token" } @else { " tokens" } (behind)
                    @if let Some(ratio) = ratio(it.reference_seconds, it.seconds) {
                        ", the float model " (number(ratio, 2)) " times that"
                    }
                    "."
                }
            }
        }
    }
}

/// Products that were timed with so many rows, with their numbers.
fn timed(speed: &Speed, rows: usize) -> Vec<Timed<'_>> {
    let each = speed.layers.iter().enumerate().filter_map(|(idx, layer)| {
        let time = layer.times.iter().find(|it| it.rows == rows)?;
        micros(time.seconds).map(|_| (idx + 1, layer, time))
    });
    each.collect()
}

fn panel(speed: &Speed, rows: usize, ink: Ink) -> Option<Chart> {
    let all = timed(speed, rows);
    let slowest = all.iter().max_by(|a, b| a.2.seconds.total_cmp(&b.2.seconds))?;
    let has_reference = all.iter().any(|it| ratio(it.2.reference_seconds, it.2.seconds).is_some());
    let (mut bars, mut tips) = (BarPlot::new().with_width(0.8), Vec::new());
    for (number, layer, time) in all.iter().take(MOST) {
        let own = (micros(time.seconds).unwrap_or(0.0), ink.fill(Paint(0)));
        let float = time.reference_seconds.and_then(micros);
        let mut group = vec![own];
        tips.push(tip(layer, time.seconds, "codes"));
        if has_reference {
            group.push((float.unwrap_or(0.0), ink.fill(Paint(7))));
            tips.push(tip(layer, time.reference_seconds.unwrap_or(0.0), "float"));
        }
        bars = bars.with_group(label(*number, speed.layers.len()), group);
    }
    let mut legend = vec![("with codes".to_owned(), Mark::Area(Paint(0)))];
    if has_reference {
        legend.push(("float".to_owned(), Mark::Area(Paint(7))));
    }
    let (tokens, count) = (if rows == 1 { "row" } else { "rows" }, all.len().min(MOST));
    let ratios: Vec<f64> =
        all.iter().filter_map(|it| ratio(it.2.reference_seconds, it.2.seconds)).collect();
    let least = ratios.iter().copied().min_by(f64::total_cmp);
    let gain = least.zip(ratios.iter().copied().max_by(f64::total_cmp));
    let gain = gain.map_or(String::new(), |(least, most)| {
        format!(" Float takes {} to {} times as long.", number(least, 2), number(most, 2))
    });
    // Beside each other, or as wide as charts of other figures.
    let width = count as f64 * WIDTH + 90.0;
    let width = if width <= 390.0 { 390.0 } else { width.max(760.0) };
    let frame = Frame {
        title: format!("Times of {count} products, {rows} {tokens}"),
        description: format!("Slowest: {}.{gain}", tip(slowest.1, slowest.2.seconds, "codes")),
        heading: Some(format!("{rows} {tokens}")),
        size: (width, 260.0),
        x: "product, by its number in the table".to_owned(),
        y: "µs".to_owned(),
        legend,
        ..Default::default()
    };
    if count <= TOLD {
        bars = bars.with_tooltips().with_tooltip_labels(tips);
    }
    Some(chart(ink, vec![bars.into()], frame))
}

fn tip(layer: &LayerSpeed, seconds: f64, what: &str) -> String {
    let time = micros(seconds).map_or("not timed".to_owned(), |it| format!("{it:.1} µs"));
    format!("{}, {what}: {time}", shortened(&layer.name, 60))
}

fn whole(speed: &Speed) -> Table {
    let row = |it: &crate::WholeSpeed| {
        vec![
            Cell::Count(it.rows as u64),
            Cell::Number(micros(it.seconds).map(|it| it / 1e3), 2),
            Cell::Number(it.reference_seconds.and_then(micros).map(|it| it / 1e3), 2),
            Cell::Number(ratio(it.reference_seconds, it.seconds), 2),
        ]
    };
    Table {
        caption: "time of the whole model".to_owned(),
        head: vec!["tokens", "ms", "float, ms", "float by codes"],
        rows: speed.whole.iter().take(LISTED).map(row).collect(),
        is_open: false,
    }
}

fn products(speed: &Speed) -> Table {
    let words = |all: Vec<String>| all.join("+");
    let numbered = speed.layers.iter().enumerate();
    let all = numbered.flat_map(|(idx, layer)| layer.times.iter().map(move |it| (idx, layer, it)));
    let rows: Vec<Vec<Cell>> = all
        .take(LISTED)
        .map(|(idx, layer, it)| {
            vec![
                Cell::Count(idx as u64 + 1),
                Cell::Name(layer.name.clone()),
                Cell::Count(layer.count as u64),
                Cell::Text(format!("[{}, {}]", layer.k, words(each(&layer.n)))),
                Cell::Text(words(each(&layer.bits))),
                Cell::Count(it.rows as u64),
                Cell::Number(micros(it.seconds), 1),
                Cell::Number(it.reference_seconds.and_then(micros), 1),
                Cell::Number(ratio(it.reference_seconds, it.seconds), 2),
                Cell::Number(it.share_of_limit.map(|it| 100.0 * it), 0),
            ]
        })
        .collect();
    let head = vec![
        "#",
        "product",
        "alike",
        "[K, N]",
        "bits",
        "rows",
        "µs",
        "float, µs",
        "float by codes",
        "of the limit, %",
    ];
    let caption = format!("times of {} products", speed.layers.len());
    Table { caption, head, rows, is_open: false }
}

fn each<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WholeSpeed;

    fn layer(name: &str, times: &[(usize, f64, Option<f64>)]) -> LayerSpeed {
        let time = |&(rows, seconds, reference_seconds): &(usize, f64, Option<f64>)| LayerTime {
            rows,
            seconds,
            reference_seconds,
            share_of_limit: Some(0.8),
        };
        let (n, bits) = (vec![96, 32], vec![4, 3]);
        let times = times.iter().map(time).collect();
        LayerSpeed { name: name.to_owned(), count: 4, k: 64, n, bits, times }
    }

    fn run(layers: Vec<LayerSpeed>) -> Run {
        let whole = vec![WholeSpeed { rows: 1, seconds: 0.002, reference_seconds: Some(0.007) }];
        let speed = Speed {
            reference: Some("model.onnx".to_owned()),
            past: 512,
            whole,
            layers,
            ..Default::default()
        };
        Run { speed: Some(speed), ..Default::default() }
    }

    #[test]
    fn each_number_of_rows_has_a_chart_and_each_time_a_row() {
        let layers = vec![
            layer("q_proj", &[(1, 2e-6, Some(7e-6)), (16, 3e-5, Some(6e-5))]),
            layer("down_proj", &[(1, 5e-6, Some(1e-5)), (16, 9e-5, None)]),
        ];
        let found = draw(&run(layers), Ink::Page).unwrap();
        let said: Vec<&str> = found.charts.iter().map(|it| it.frame.description.as_str()).collect();
        let want = [
            "Slowest: down_proj, codes: 5.0 µs. Float takes 2.00 to 3.50 times as long.",
            "Slowest: down_proj, codes: 90.0 µs. Float takes 2.00 to 2.00 times as long.",
        ];
        assert_eq!(said, want);
        let lead = found.lead.unwrap().into_string();
        assert!(lead.contains("<strong>2.00 ms</strong> for 1 token behind 512 others"), "{lead}");
        assert!(lead.contains("the float model 3.50 times that."), "{lead}");
        assert_eq!(found.tables.iter().map(|it| it.rows.len()).collect::<Vec<_>>(), [1, 4]);
        let text = found.tables[1].markup().into_string();
        assert!(text.contains("<td>[64, 96+32]</td><td>4+3</td>"), "{text}");
        assert!(text.contains("<td class=\"n\">7.0</td><td class=\"n\">3.50</td>"), "{text}");
    }

    #[test]
    fn without_a_reference_there_is_one_bar() {
        let found = draw(&run(vec![layer("q", &[(1, 2e-6, None)])]), Ink::Page).unwrap();
        assert_eq!(found.charts[0].frame.legend.len(), 1);
        assert!(!found.charts[0].frame.description.contains("Float"));
    }

    #[test]
    fn times_that_are_none_are_not_drawn() {
        assert!(draw(&Run::default(), Ink::Page).is_none());
        let bad = [f64::NAN, -1.0, 0.0, f64::INFINITY, f64::MAX];
        let layers = bad.map(|it| layer("w", &[(usize::MAX, it, Some(it))])).to_vec();
        let mut run = run(layers);
        let speed = run.speed.as_mut().unwrap();
        speed.whole[0].seconds = f64::NAN;
        let found = draw(&run, Ink::Page).unwrap();
        assert!(found.charts.is_empty() && found.tables.len() == 1);
        run.speed.as_mut().unwrap().whole.clear();
        assert!(draw(&run, Ink::Page).is_none());
    }
}
