//! What the model is expected to lose by each weight at each number of bits, and what was chosen.

use std::collections::BTreeSet;

use kuva::plot::{LinePlot, MarkerShape, ScatterPlot};
use kuva::render::plots::Plot;
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::{CandidateRow, Run, WeightRow};

pub(super) const FIGURE: Figure = Figure {
    id: "sensitivity",
    title: "Sensitivity",
    question: "Why these bits?",
    needs: "a budget (--bpw or --target-size) that let choose",
    draw: Draw::Each(draw),
};

/// Pixels of a weight.
const WIDTH: f64 = 4.0;

/// Marks of a line; of more, some are left out.
const MARKS: usize = 60;

/// Weights that have marks of their own, and rows in the table.
const MANY: usize = 100;

/// Widths of codes with the names of their columns.
const WIDTHS: [(u8, &str); 8] = [
    (1, "1 bit"),
    (2, "2 bits"),
    (3, "3 bits"),
    (4, "4 bits"),
    (5, "5 bits"),
    (6, "6 bits"),
    (7, "7 bits"),
    (8, "8 bits"),
];

/// A loss that a scale of ratios has a place for.
pub(super) fn shown(loss: f64) -> Option<f64> {
    (loss > 0.0 && loss.is_finite()).then(|| loss.clamp(1e-30, 1e30))
}

/// The least loss with so many bits.
fn least(row: &WeightRow, bits: u8) -> Option<f64> {
    let own = row.candidates.iter().filter(|it| it.bits == bits);
    own.filter_map(|it| shown(it.loss)).min_by(f64::total_cmp)
}

fn chosen(row: &WeightRow) -> Option<&CandidateRow> {
    row.candidates.iter().find(|it| it.chosen)
}

fn marker(bits: u8) -> MarkerShape {
    match bits {
        2 => MarkerShape::TriangleDown,
        3 => MarkerShape::Triangle,
        4 => MarkerShape::Square,
        8 => MarkerShape::Circle,
        _ => MarkerShape::Cross,
    }
}

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let rows: Vec<&WeightRow> =
        run.record.weights.iter().filter(|it| !it.candidates.is_empty()).collect();
    let all = || rows.iter().flat_map(|it| &it.candidates);
    let widths: BTreeSet<u8> = all().map(|it| it.bits).collect();
    let widths: Vec<(u8, &str)> = WIDTHS.into_iter().filter(|it| widths.contains(&it.0)).collect();
    let (mut plots, mut legend): (Vec<Plot>, _) = (Vec::new(), Vec::new());
    for &(bits, name) in &widths {
        let each = rows.iter().enumerate();
        let points: Vec<(f64, f64)> =
            each.filter_map(|(idx, it)| Some((idx as f64 + 1.0, least(it, bits)?))).collect();
        if points.is_empty() {
            continue;
        }
        let paint = Paint::of_bits(bits);
        let every = points.len().div_ceil(MARKS).max(1);
        let marks = ScatterPlot::new()
            .with_data(points.iter().copied().step_by(every))
            .with_marker(marker(bits))
            .with_size(2.5)
            .with_color(ink.line(paint));
        let line =
            LinePlot::new().with_data(points).with_color(ink.line(paint)).with_stroke_width(1.2);
        plots.extend([line.into(), marks.into()]);
        legend.push((name.to_owned(), Mark::Shape(marker(bits), paint)));
    }
    let picks = rows.iter().enumerate().filter_map(|(idx, row)| {
        let it = chosen(row)?;
        Some(((idx as f64 + 1.0, shown(it.loss)?), tip(row, it)))
    });
    let (points, tips): (Vec<(f64, f64)>, Vec<String>) = picks.unzip();
    if plots.is_empty() || points.is_empty() {
        return None;
    }
    let mark = if points.len() > MANY {
        // Marks would touch each other, and fill the page.
        let line = LinePlot::new().with_data(points).with_color(ink.text());
        plots.push(line.with_stroke_width(1.5).into());
        MarkerShape::Circle
    } else {
        // In the color of the ground below, so that they stand out on every line.
        let marks = |size| {
            let marks = ScatterPlot::new().with_data(points.iter().copied());
            marks.with_marker(MarkerShape::Diamond).with_size(size)
        };
        plots.push(marks(5.5).with_color(ink.ground()).into());
        let marks = marks(4.0).with_color(ink.text());
        plots.push(marks.with_tooltips().with_tooltip_labels(tips).into());
        MarkerShape::Diamond
    };
    legend.push(("chosen".to_owned(), Mark::Plain(mark)));
    let worst = rows.iter().filter_map(|row| Some((row, shown(chosen(row)?.loss)?)));
    let worst = worst.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let sum: f64 = rows.iter().filter_map(|it| shown(chosen(it)?.loss)).sum();
    let share = 100.0 * worst.1 / sum;
    let frame = Frame {
        title: format!("Expected loss of {} weights by their bits", rows.len()),
        description: format!(
            "One line for each number of bits. As chosen, {} loses most: {:.2e}, {share:.1} % of all.",
            worst.0.name, worst.1
        ),
        size: ((rows.len() as f64 * WIDTH + 110.0).max(760.0), 320.0),
        x: "weight, in the order of the graph".to_owned(),
        y: "expected loss".to_owned(),
        is_log_y: true,
        legend,
        ..Default::default()
    };
    let has_groups = all().any(|it| {
        rows.first()
            .and_then(|row| row.candidates.first())
            .is_some_and(|first| first.group != it.group)
    });
    let lead = html! {
        p { "What the model is expected to lose, in nats of each token where samples were at hand, "
            "when this weight alone is rounded; less is better. The budget goes where lines fall "
            "most for a byte. As chosen, " strong title=(worst.0.name) { (shortened(&worst.0.name, 44)) }
            " loses most: " (format!("{share:.1}")) " % of all."
            @if has_groups { " Lines are of the best size of groups, marks of the chosen one." }
        }
    };
    Some(Drawing {
        lead: Some(lead),
        charts: vec![chart(ink, plots, frame)],
        tables: vec![table(&rows, &widths)],
        ..Default::default()
    })
}

fn tip(row: &WeightRow, it: &CandidateRow) -> String {
    format!(
        "{} [{}, {}]: {} bits in groups of {}, {:.2e}",
        row.name, row.k, row.n, it.bits, it.group, it.loss
    )
}

fn table(rows: &[&WeightRow], widths: &[(u8, &'static str)]) -> Table {
    let mut head = vec!["#", "weight", "chosen bits", "group", "size", "expected loss"];
    head.extend(widths.iter().map(|it| it.1));
    let row = |(idx, row): (usize, &&WeightRow)| {
        let it = chosen(row);
        let mut cells = vec![
            Cell::Count(idx as u64 + 1),
            Cell::Name(row.name.clone()),
            Cell::Number(it.map(|it| it.bits.into()), 0),
            Cell::Text(it.map(|it| it.group.clone()).unwrap_or_default()),
            Cell::Bytes(it.map_or(0, |it| it.bytes)),
            Cell::Power(it.map(|it| it.loss)),
        ];
        cells.extend(widths.iter().map(|it| Cell::Power(least(row, it.0))));
        cells
    };
    let mut listed: Vec<(usize, &&WeightRow)> = rows.iter().enumerate().collect();
    let mut caption = format!("expected loss of {} weights", rows.len());
    if rows.len() > MANY {
        let loss = |row: &WeightRow| chosen(row).and_then(|it| shown(it.loss)).unwrap_or(0.0);
        listed.sort_by(|a, b| loss(b.1).total_cmp(&loss(a.1)).then(a.0.cmp(&b.0)));
        listed.truncate(MANY);
        caption = format!("expected loss of the {MANY} of {} weights that lose most", rows.len());
    }
    Table { caption, head, rows: listed.into_iter().map(row).collect(), is_open: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(bits: u8, group: &str, loss: f64, chosen: bool) -> CandidateRow {
        CandidateRow { bits, group: group.to_owned(), bytes: 100, loss, chosen }
    }

    #[test]
    fn lines_are_of_the_best_groups() {
        let candidates = vec![
            candidate(2, "32", 0.5, false),
            candidate(2, "64", 0.25, false),
            candidate(4, "32", 0.125, true),
            candidate(8, "32", f64::NAN, false),
            candidate(8, "64", 0.0, false),
        ];
        let row = WeightRow { candidates, ..Default::default() };
        assert_eq!(
            (least(&row, 2), least(&row, 4), least(&row, 8)),
            (Some(0.25), Some(0.125), None)
        );
        assert_eq!(chosen(&row).unwrap().bits, 4);
    }

    #[test]
    fn a_run_without_a_budget_has_none() {
        let mut run = Run::default();
        run.record.weights.push(WeightRow::default());
        assert!(draw(&run, Ink::Page).is_none());
        // Nor has one of losses that are no numbers.
        run.record.weights[0].candidates = vec![candidate(4, "32", f64::NAN, true)];
        assert!(draw(&run, Ink::Page).is_none());
    }
}
