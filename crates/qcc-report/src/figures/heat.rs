//! Where the errors of the worst weights are: by blocks of outputs and groups of inputs.

use kuva::plot::Heatmap;
use kuva::plot::heatmap::ColorMap;
use maud::html;

use super::{Draw, Drawing, Figure};
use crate::chart::{Chart, Frame, Ink, draw as chart, shortened};
use crate::html_table::{Cell, Table};
use crate::{HeatMap, Run};

pub(super) const FIGURE: Figure = Figure {
    id: "heat",
    title: "Where the errors are",
    question: "Is it an outlier column?",
    needs: "heat maps, which --record and --report write",
    draw: Draw::Each(draw),
};

/// Weights that are drawn; a record holds no more of its own.
const MOST: usize = 3;

/// Cells of a side that are drawn.
const SIDE: usize = 64;

/// Colors.
const LEVELS: f64 = 16.0;

/// Cells that the table has of each weight.
const WORST: usize = 10;

/// A cell: its block of rows, its block of groups, and its error.
type Place = (usize, usize, f64);

fn draw(run: &Run, ink: Ink) -> Option<Drawing> {
    let all: Vec<(&HeatMap, Vec<Place>)> =
        run.record.heat_maps.iter().filter_map(|it| Some((it, places(it)?))).take(MOST).collect();
    if all.is_empty() {
        return None;
    }
    let rows = all.iter().flat_map(|(it, places)| {
        places.iter().take(WORST).map(|place| {
            let (rows, inputs) = spans(it, place);
            vec![
                Cell::Name(it.name.clone()),
                Cell::Text(rows),
                Cell::Text(inputs),
                Cell::Number(Some(100.0 * place.2), 2),
                Cell::Number(by_median(places, place), 2),
            ]
        })
    });
    let table = Table {
        caption: format!("the {WORST} worst cells of {} weights", all.len()),
        head: vec!["weight", "outputs", "inputs", "error, %", "by the median"],
        rows: rows.collect(),
        is_open: false,
    };
    let lead = html! {
        p { "The error in each block of outputs and groups, √(mean (w − v)²), by the root mean square "
            "of the weight. A bright column is an input whose weights are larger than those of its "
            "group; a bright row is an output of large weights." }
    };
    let charts = all.iter().map(|(it, places)| panel(it, places, ink)).collect();
    Some(Drawing { lead: Some(lead), charts, tables: vec![table], ..Default::default() })
}

/// All cells, the largest error first; `None` where they are no map.
fn places(it: &HeatMap) -> Option<Vec<Place>> {
    let width = it.cells.first()?.len();
    let fits = (1..=SIDE).contains(&width) && it.cells.len() <= SIDE;
    let is_known = |it: &f64| (0.0..1e6).contains(it);
    if !fits || it.cells.iter().any(|row| row.len() != width || !row.iter().all(is_known)) {
        return None;
    }
    let rows = it.cells.iter().enumerate();
    let mut all: Vec<Place> = rows
        .flat_map(|(y, row)| row.iter().enumerate().map(move |(x, &error)| (y, x, error)))
        .collect();
    all.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
    Some(all)
}

fn by_median(places: &[Place], place: &Place) -> Option<f64> {
    let median = places.get(places.len() / 2)?.2;
    (median > 0.0).then(|| place.2 / median)
}

/// Outputs and inputs of a cell, counted from 0.
fn spans(it: &HeatMap, place: &Place) -> (String, String) {
    let span = |at: usize, size: usize, all: usize| {
        let (from, to) = (at.saturating_mul(size), (at + 1).saturating_mul(size).min(all));
        format!("{from} to {}", to.saturating_sub(1))
    };
    (
        span(place.0, it.cell_rows, it.n),
        span(place.1, it.cell_groups.saturating_mul(it.group), it.k),
    )
}

fn panel(it: &HeatMap, places: &[Place], ink: Ink) -> Chart {
    let high = places.first().map_or(0.0, |it| it.2);
    let low = places.last().map_or(0.0, |it| it.2);
    // Few colors make few shapes.
    let step = (high - low) / LEVELS;
    let level = |&it: &f64| match step > 0.0 {
        true => 100.0 * (low + ((it - low) / step).round() * step),
        false => 100.0 * it,
    };
    let (width, height) = (it.cells.first().map_or(0, Vec::len) as f64, it.cells.len() as f64);
    let wide = width * it.cell_groups as f64 * it.group as f64;
    let high = (height * it.cell_rows as f64).max(1.0);
    let map = Heatmap::new()
        .with_data(it.cells.iter().map(|row| row.iter().map(level)))
        .with_color_map(ColorMap::Viridis)
        .with_x_range(0.0, wide.max(1.0))
        .with_y_range(0.0, high)
        .with_cell_size(1.0);
    let description = places.first().map(|worst| {
        let (rows, inputs) = spans(it, worst);
        let by = by_median(places, worst)
            .map_or(String::new(), |it| format!(", {it:.1} times the median"));
        format!("Largest error in outputs {rows}, inputs {inputs}: {:.2} %{by}.", 100.0 * worst.2)
    });
    let frame = Frame {
        title: format!("{}: error by outputs and inputs", shortened(&it.name, 60)),
        description: description.unwrap_or_default(),
        heading: Some(format!("{}: error, %", shortened(&it.name, 30))),
        size: (390.0, 330.0),
        x: "input".to_owned(),
        y: "output".to_owned(),
        x_range: Some((0.0, wide.max(1.0))),
        y_range: Some((0.0, high)),
        ..Default::default()
    };
    chart(ink, vec![map.into()], frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> HeatMap {
        HeatMap {
            name: "w".to_owned(),
            n: 5,
            k: 90,
            group: 32,
            cell_rows: 2,
            cell_groups: 1,
            cells: vec![vec![0.1, 0.1, 0.4], vec![0.1, 0.1, 0.3], vec![0.1, 0.1, 0.2]],
        }
    }

    #[test]
    fn the_largest_error_comes_first() {
        let it = map();
        let places = places(&it).unwrap();
        assert_eq!(places[..2], [(0, 2, 0.4), (1, 2, 0.3)]);
        assert_eq!(by_median(&places, &places[0]), Some(4.0));
        assert_eq!(spans(&it, &(2, 2, 0.2)), ("4 to 4".to_owned(), "64 to 89".to_owned()));
        let chart = panel(&it, &places, Ink::Page);
        assert!(chart.frame.description.contains("outputs 0 to 1, inputs 64 to 89: 40.00 %"));
        assert!(!chart.svg("x").contains("NaN"));
    }

    #[test]
    fn cells_that_are_no_map_are_not_drawn() {
        let with = |cells: Vec<Vec<f64>>| places(&HeatMap { cells, ..map() });
        assert!(with(vec![]).is_none() && with(vec![vec![]]).is_none());
        assert!(with(vec![vec![0.1], vec![0.1, 0.2]]).is_none());
        assert!(with(vec![vec![f64::NAN]]).is_none() && with(vec![vec![-1.0]]).is_none());
        assert!(with(vec![vec![0.1; 65]]).is_none() && with(vec![vec![0.0; 64]; 64]).is_some());
    }
}
