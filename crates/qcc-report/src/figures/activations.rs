//! How large what each weight is multiplied with is: its range, and inputs that stand out.

use kuva::plot::{LinePlot, MarkerShape, ScatterPlot};
use kuva::render::plots::Plot;
use maud::html;

use super::sensitivity::shown;
use super::{Draw, Drawing, Figure};
use crate::chart::{Frame, Ink, Mark, Paint, draw as chart, shortened};
use crate::html_table::{Cell, Table, number};
use crate::{ActivationRow, Run, WeightRow};

pub(super) const FIGURE: Figure = Figure {
    id: "activations",
    title: "Activations",
    question: "Are 8 bits for activations thinkable?",
    needs: "magnitudes of activations, which recipes that run samples record",
    draw: Draw::Each(draw),
};

/// An input whose largest magnitude is more than so many times the median stands out.
const OUTLIER: f64 = 30.0;

/// Pixels of a weight.
const WIDTH: f64 = 4.0;

/// Weights that have marks of their own, and rows in the table.
const MANY: usize = 100;

/// Names in the text.
const NAMED: usize = 3;

/// A weight, its place among those of the figure, and what it is multiplied with.
struct Place<'a> {
    at: usize,
    row: &'a WeightRow,
    found: ActivationRow,
}

impl Place<'_> {
    /// The largest magnitude by the median of the largest of groups.
    fn ratio(&self) -> Option<f64> {
        Some(shown(self.found.largest)? / shown(self.found.median)?)
    }

    fn stands_out(&self) -> bool {
        self.ratio().is_some_and(|it| it > OUTLIER)
    }

    fn point(&self, of: fn(&ActivationRow) -> f64) -> Option<(f64, f64)> {
        Some((self.at as f64, shown(of(&self.found))?))
    }
}

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let known = run.record.weights.iter().filter_map(|it| Some((it, it.activations?)));
    let all: Vec<Place<'_>> =
        known.enumerate().map(|(at, (row, found))| Place { at: at + 1, row, found }).collect();
    let worst = all.iter().filter(|it| it.ratio().is_some());
    let worst =
        worst.max_by(|a, b| a.ratio().unwrap_or(0.0).total_cmp(&b.ratio().unwrap_or(0.0)))?;
    let mut outliers: Vec<&Place<'_>> = all.iter().filter(|it| it.stands_out()).collect();
    let count = outliers.len();
    if count > MANY {
        outliers.sort_by(|a, b| b.ratio().unwrap_or(0.0).total_cmp(&a.ratio().unwrap_or(0.0)));
        outliers.truncate(MANY);
    }
    let size = if all.len() > MANY { 1.5 } else { 3.0 };
    let series = |of: fn(&ActivationRow) -> f64, shape: MarkerShape, paint: Paint| -> Plot {
        let points = all.iter().filter_map(|it| it.point(of));
        if all.len() > MANY {
            // Marks would touch each other, and fill the page.
            let line = LinePlot::new().with_data(points).with_color(ink.line(paint));
            return line.with_stroke_width(1.2).into();
        }
        let marks = ScatterPlot::new().with_data(points).with_marker(shape);
        marks.with_size(size).with_color(ink.line(paint)).into()
    };
    let mut plots = vec![
        series(|it| it.median, MarkerShape::Circle, Paint(0)),
        series(|it| it.largest, MarkerShape::Triangle, Paint(2)),
    ];
    let apart: Vec<(f64, f64)> =
        outliers.iter().filter_map(|it| it.point(|it| it.largest)).collect();
    let mut legend = vec![
        ("median of groups".to_owned(), Mark::Shape(MarkerShape::Circle, Paint(0))),
        ("largest".to_owned(), Mark::Shape(MarkerShape::Triangle, Paint(2))),
    ];
    if !apart.is_empty() {
        let text = format!("largest, more than {OUTLIER} times the median");
        legend.push((text, Mark::Shape(MarkerShape::Diamond, Paint(3))));
        let marks = ScatterPlot::new().with_data(apart).with_marker(MarkerShape::Diamond);
        let tips: Vec<String> = outliers.iter().map(|it| tip(it)).collect();
        let marks = marks.with_size(size + 1.0).with_color(ink.line(Paint(3)));
        plots.push(marks.with_tooltips().with_tooltip_labels(tips).into());
    }
    let known = all.iter().flat_map(|it| [it.found.median, it.found.largest]).filter_map(shown);
    let (least, most) =
        known.fold((f64::MAX, 0.0), |(a, b), it| (f64::min(a, it), f64::max(b, it)));
    let frame = Frame {
        title: format!("Magnitudes of the inputs of {} weights", all.len()),
        description: format!(
            "Two marks a weight. {} of {} weights have inputs that stand out; most in {}: {}.",
            count,
            all.len(),
            worst.row.name,
            tip(worst),
        ),
        size: ((all.len() as f64 * WIDTH + 110.0).max(760.0), 300.0),
        x: "weight, in the order of the graph".to_owned(),
        y: "magnitude".to_owned(),
        is_log_y: true,
        is_plain_y: least >= 1e-3 && most <= 1e4,
        legend,
        ..Default::default()
    };
    let others = count.saturating_sub(NAMED);
    let lead = html! {
        p { "The largest magnitude of what a weight is multiplied with, and the median of the largest "
            "ones of 32 inputs each. Where they are near each other, 8 bits hold activations well. "
            @if outliers.is_empty() {
                "No input is more than " (OUTLIER) " times the median."
            } @else {
                "More than " (OUTLIER) " times the median, so that one scale for all leaves few codes "
                "to the others: "
                @for (idx, it) in outliers.iter().take(NAMED).enumerate() {
                    @if idx > 0 { ", " }
                    strong title=(it.row.name) { (shortened(&it.row.name, 44)) }
                    " (" (number(it.ratio().unwrap_or(0.0), 0)) " times)"
                }
                @if others > 0 { " and " (others) " more" }
                "."
            }
        }
    };
    Some(Drawing {
        lead: Some(lead),
        charts: vec![chart(ink, plots, frame)],
        tables: vec![table(all)],
        ..Default::default()
    })
}

fn tip(it: &Place<'_>) -> String {
    let ratio = it.ratio().map_or(String::new(), |it| format!(", {} times", number(it, 1)));
    let (largest, median) = (it.found.largest, it.found.median);
    format!("{}: {largest:.3e}, median {median:.3e}{ratio}", shortened(&it.row.name, 60))
}

fn table(mut all: Vec<Place<'_>>) -> Table {
    let mut caption = format!("what {} weights are multiplied with", all.len());
    if all.len() > MANY {
        let ratio = |it: &Place<'_>| it.ratio().unwrap_or(0.0);
        all.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)).then(a.at.cmp(&b.at)));
        caption = format!("the {MANY} of {} weights whose inputs stand out most", all.len());
        all.truncate(MANY);
    }
    let row = |it: &Place<'_>| {
        vec![
            Cell::Count(it.at as u64),
            Cell::Name(it.row.name.clone()),
            Cell::Power(Some(it.found.largest)),
            Cell::Power(Some(it.found.median)),
            Cell::Number(it.ratio(), 1),
            Cell::Number(Some(100.0 * it.found.beyond), 3),
        ]
    };
    Table {
        caption,
        head: vec![
            "#",
            "weight",
            "largest",
            "median of groups",
            "by the median",
            "beyond 8 RMS, %",
        ],
        rows: all.iter().map(row).collect(),
        is_open: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(all: &[(f64, f64)]) -> Run {
        let row = |(idx, &(largest, median)): (usize, &(f64, f64))| WeightRow {
            name: format!("w{idx}"),
            activations: Some(ActivationRow { largest, median, beyond: 0.001 }),
            ..Default::default()
        };
        let mut run = Run::default();
        run.record.weights = all.iter().enumerate().map(row).collect();
        run.record.weights.push(WeightRow::default());
        run
    }

    #[test]
    fn weights_whose_inputs_stand_out_are_named() {
        let run = run(&[(2.0, 1.0), (310.0, 10.0), (1e4, 2.0), (300.0, 10.0)]);
        let found = draw(&run, Ink::Page).unwrap();
        let lead = found.lead.unwrap().into_string();
        assert!(lead.contains("w1</strong> (31 times), <strong title=\"w2\">"), "{lead}");
        assert!(!lead.contains("w0") && !lead.contains("w3") && !lead.contains("more."), "{lead}");
        let said = &found.charts[0].frame.description;
        assert!(said.contains("2 of 4 weights") && said.contains("most in w2"), "{said}");
        assert_eq!(found.tables[0].rows.len(), 4);
    }

    #[test]
    fn even_inputs_are_said_to_be_so() {
        let found = draw(&run(&[(2.0, 1.0), (0.0, 0.0)]), Ink::Page).unwrap();
        let lead = found.lead.unwrap().into_string();
        assert!(lead.contains("No input is more than 30 times the median."), "{lead}");
        assert_eq!(found.charts[0].frame.legend.len(), 2);
    }

    #[test]
    fn numbers_that_are_none_are_not_drawn() {
        assert!(draw(&run(&[]), Ink::Page).is_none());
        assert!(
            draw(&run(&[(f64::NAN, 1.0), (1.0, 0.0), (f64::INFINITY, 2.0)]), Ink::Page).is_none()
        );
        let found = draw(&run(&[(f64::MAX, f64::MIN_POSITIVE), (1.0, -1.0)]), Ink::Page).unwrap();
        assert!(!found.charts[0].svg("x").contains("NaN"));
    }

    #[test]
    fn of_many_weights_the_table_has_the_worst() {
        let all: Vec<(f64, f64)> = (0..300).map(|it| (f64::from(it) + 1.0, 1.0)).collect();
        let table = draw(&run(&all), Ink::Page).unwrap().tables.remove(0);
        assert_eq!(table.rows.len(), MANY);
        assert!(matches!(table.rows[0][0], Cell::Count(300)));
    }
}
