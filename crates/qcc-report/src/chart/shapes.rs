//! Shapes that take less space: those of one look as one.

use std::collections::BTreeMap;

use kuva::render::color::Color;
use kuva::render::render::{PathData, Primitive};

/// Shapes of one look as one, which takes half of the space: marks and lines that follow each other,
/// and cells.
pub(super) fn joined(all: Vec<Primitive>) -> Vec<Primitive> {
    let mut kept: Vec<Primitive> = Vec::with_capacity(all.len());
    for it in all {
        match (it, kept.last_mut()) {
            (Primitive::Path(it), Some(Primitive::Path(last))) if is_alike(last, &it) => {
                last.d.push_str(&it.d);
            }
            (line @ Primitive::Line { stroke_dasharray: None, .. }, last) => {
                match (path(line), last) {
                    (Some(it), Some(Primitive::Path(last))) if is_alike(last, &it) => {
                        last.d.push_str(&it.d);
                    }
                    (it, _) => kept.extend(it.map(|it| Primitive::Path(Box::new(it)))),
                }
            }
            (Primitive::RectBatch { x, y, w, h, fills }, _) => {
                let places = x.into_iter().zip(y).zip(w.into_iter().zip(h));
                let cells = places.map(|((x, y), (w, h))| [x, y, w, h]).zip(&fills);
                kept.extend(cells_by_color(cells.map(|(at, fill)| (at, fill.to_svg_string()))));
            }
            (it, _) => kept.push(it),
        }
    }
    kept
}

/// A line as a path.
fn path(line: Primitive) -> Option<PathData> {
    let Primitive::Line { x1, y1, x2, y2, stroke, stroke_width, .. } = line else { return None };
    Some(PathData {
        d: format!("M{x1} {y1}L{x2} {y2}"),
        fill: None,
        stroke,
        stroke_width,
        opacity: None,
        stroke_dasharray: None,
    })
}

fn is_alike(a: &PathData, b: &PathData) -> bool {
    let fill = |it: &PathData| it.fill.as_ref().map(Color::to_svg_string);
    let is_closed = |it: &PathData| it.d.ends_with(['Z', 'z']);
    let is_plain = |it: &PathData| it.stroke_dasharray.is_none();
    is_closed(a) == is_closed(b)
        && (is_closed(a) || a.fill.is_none())
        && is_plain(a)
        && is_plain(b)
        && fill(a) == fill(b)
        && a.stroke.to_svg_string() == b.stroke.to_svg_string()
        && (a.stroke_width, a.opacity) == (b.stroke_width, b.opacity)
}

/// Strokes of one color and width, and where the last one ends, in tenths of a pixel.
#[derive(Default)]
struct Shape {
    width: f64,
    d: String,
    at: (f64, f64),
}

/// Cells `[x, y, width, height]` of one color as strokes; those beside each other are one.
fn cells_by_color(cells: impl Iterator<Item = ([f64; 4], String)>) -> Vec<Primitive> {
    let mut runs: Vec<([f64; 4], String)> = Vec::new();
    for ([x, y, w, h], color) in cells {
        match runs.last_mut() {
            Some((last, own)) if *own == color && last[1] == y && last[0] < x => {
                last[2] = x + w - last[0];
            }
            _ => runs.push(([x, y, w, h], color)),
        }
    }
    // In tenths of a pixel, and relative to the end of the run before.
    let tenths = |it: f64| (10.0 * it).round();
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for ([x, y, w, h], color) in runs {
        let shape = shapes.entry(color).or_default();
        let [x, y, w] = [x, y + h / 2.0, w].map(tenths);
        let (dx, dy) = ((x - shape.at.0) / 10.0, (y - shape.at.1) / 10.0);
        shape.d.push_str(&format!("m{dx} {dy}h{}", w / 10.0));
        shape.at = (x + w, y);
        shape.width = h;
    }
    let path = |(color, shape): (String, Shape)| {
        Primitive::Path(Box::new(PathData {
            d: shape.d,
            fill: None,
            stroke: color.into(),
            stroke_width: shape.width,
            opacity: None,
            stroke_dasharray: None,
        }))
    };
    shapes.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_a_color_are_one_shape() {
        let cell = |x: f64, y: f64, color: &str| ([x, y, 10.04, 4.0], color.to_owned());
        let cells = [
            cell(5.0, 0.0, "#111111"),
            cell(15.0, 0.0, "#111111"),
            cell(25.0, 0.0, "#222222"),
            cell(5.0, 4.0, "#111111"),
        ];
        let paths = cells_by_color(cells.into_iter());
        let d = |it: &Primitive| match it {
            Primitive::Path(it) => (it.d.clone(), it.stroke.to_svg_string(), it.stroke_width),
            _ => panic!("no path"),
        };
        let want = [("m5 2h20", "#111111"), ("m25 2h10", "#222222")];
        assert_eq!(d(&paths[0]), (format!("{}m-20 4h10", want[0].0), want[0].1.to_owned(), 4.0));
        assert_eq!(d(&paths[1]), (want[1].0.to_owned(), want[1].1.to_owned(), 4.0));
        assert_eq!(paths.len(), 2);
    }

    #[test]
    fn lines_of_a_look_are_one_shape() {
        let line = |y: f64, color: &str| Primitive::Line {
            x1: 1.0,
            y1: y,
            x2: 5.5,
            y2: y,
            stroke: color.into(),
            stroke_width: 1.0,
            stroke_dasharray: None,
        };
        let found = joined(vec![line(1.0, "#111111"), line(2.0, "#111111"), line(3.0, "#222222")]);
        let d: Vec<&str> = found
            .iter()
            .map(|it| match it {
                Primitive::Path(it) => it.d.as_str(),
                _ => panic!("no path"),
            })
            .collect();
        assert_eq!(d, ["M1 1L5.5 1M1 2L5.5 2", "M1 3L5.5 3"]);
    }
}
