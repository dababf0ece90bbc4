//! What the model is expected to lose by the size of its weights.

use kuva::plot::{LinePlot, MarkerShape, ScatterPlot};
use maud::html;

use super::sensitivity::shown;
use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart};
use crate::html_table::{Cell, Table, number};
use crate::{BudgetRow, Run, bytes};

pub(super) const FIGURE: Figure = Figure {
    id: "budget",
    title: "Loss by budget",
    question: "Would a larger budget help?",
    needs: "a budget (--bpw or --target-size) that let choose",
    draw: Draw::Each(draw),
};

/// Points that are drawn; a record of its own has fewer.
const MOST: usize = 256;

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let budget = run.record.budget.as_ref()?;
    let known = budget.points.iter().take(MOST);
    let mut points: Vec<(u64, f64)> = known.filter_map(|it| Some((it.0, shown(it.1)?))).collect();
    points.sort_by_key(|it| it.0);
    let (size, loss) = (budget.chosen.0, shown(budget.chosen.1)?);
    if points.len() < 2 {
        return None;
    }
    let tip = |it: &(u64, f64)| format!("{}: {:.2e}", bytes(it.0), it.1);
    let xy = |it: &(u64, f64)| (it.0 as f64 / 1e6, it.1);
    let line = LinePlot::new()
        .with_data(points.iter().map(xy))
        .with_color(ink.line(Paint(0)))
        .with_stroke_width(1.5);
    let dots = ScatterPlot::new()
        .with_data(points.iter().map(xy))
        .with_size(2.5)
        .with_color(ink.line(Paint(0)))
        .with_tooltips()
        .with_tooltip_labels(points.iter().map(tip));
    let mark = ScatterPlot::new()
        .with_data([xy(&(size, loss))])
        .with_marker(MarkerShape::Diamond)
        .with_size(6.0)
        .with_color(ink.text())
        .with_tooltips()
        .with_tooltip_labels([format!("chosen, {}", tip(&(size, loss)))]);
    let near = [0.9, 1.1].map(|by| (by, at(&points, size as f64 * by)));
    let said: Vec<String> = near
        .iter()
        .filter_map(|&(by, it)| {
            let change = 100.0 * (it? / loss - 1.0);
            let word = if by < 1.0 { "10 % less" } else { "10 % more" };
            Some(format!(
                "{word}: about {:.2e}, {}{} %",
                it?,
                if change >= 0.0 { "+" } else { "" },
                number(change, 1)
            ))
        })
        .collect();
    let said = said.join("; ");
    let frame = Frame {
        title: "Expected loss by the size of the weights".to_owned(),
        description: format!("Chosen: {}, {loss:.2e}. {said}.", bytes(size)),
        size: (760.0, 320.0),
        x: "all quantized weights, MB".to_owned(),
        y: "expected loss".to_owned(),
        is_log_y: true,
        legend: vec![
            ("least loss of any choice".to_owned(), Mark::Shape(MarkerShape::Circle, Paint(0))),
            ("chosen".to_owned(), Mark::Plain(MarkerShape::Diamond)),
        ],
        ..Default::default()
    };
    let lead = html! {
        p { "What the model is expected to lose, summed over its weights, with the best bits for each "
            "size. Chosen: " strong { (bytes(size)) } ", expected loss " (format!("{loss:.2e}")) "."
            @if !said.is_empty() { " Size of weights " (said) "." }
        }
    };
    Some(Drawing {
        lead: Some(lead),
        charts: vec![chart(ink, vec![line.into(), dots.into(), mark.into()], frame)],
        tables: vec![table(budget)],
        ..Default::default()
    })
}

/// The loss at a size, between two points of the curve.
fn at(points: &[(u64, f64)], size: f64) -> Option<f64> {
    points.windows(2).find_map(|pair| {
        let &[(a, from), (b, to)] = pair else { return None };
        let (a, b) = (a as f64, b as f64);
        let is_between = a < b && (a..=b).contains(&size);
        is_between.then(|| from + (to - from) * (size - a) / (b - a))
    })
}

fn table(budget: &BudgetRow) -> Table {
    let (size, loss) = budget.chosen;
    let row = |what: &str, it: &(u64, f64)| {
        let by_size = (size > 0).then(|| 100.0 * it.0 as f64 / size as f64);
        let by_loss = (loss > 0.0).then(|| 100.0 * it.1 / loss);
        vec![
            Cell::Bytes(it.0),
            Cell::Power(Some(it.1)),
            Cell::Number(by_size, 1),
            Cell::Number(by_loss, 1),
            Cell::Text(what.to_owned()),
        ]
    };
    let mut rows: Vec<_> = budget.points.iter().take(MOST).map(|it| row("", it)).collect();
    rows.push(row("chosen", &budget.chosen));
    Table {
        caption: format!("{} budgets", rows.len() - 1),
        head: vec!["size", "expected loss", "size, % of chosen", "loss, % of chosen", ""],
        rows,
        is_open: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_points_the_loss_is_that_of_both() {
        let points = [(100, 8.0), (200, 4.0), (400, 2.0)];
        assert_eq!(at(&points, 150.0), Some(6.0));
        assert_eq!(at(&points, 400.0), Some(2.0));
        assert_eq!((at(&points, 99.0), at(&points, 401.0)), (None, None));
    }
}
