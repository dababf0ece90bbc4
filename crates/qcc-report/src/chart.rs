//! Charts as SVG: axes, marks and legends are those of kuva; here are colors, hatching, and what
//! makes a chart part of a page.
//!
//! Text and axes take the color of the page around them, so that they are right on light and dark
//! ones. The colors of series are those of Okabe and Ito, told apart also without red and green;
//! each comes with a hatching, so that none is needed.

mod shapes;

use std::sync::Arc;

use kuva::backend::svg::SvgBackend;
use kuva::plot::MarkerShape;
use kuva::plot::legend::{LegendEntry, LegendPosition, LegendShape};
use kuva::render::layout::{AxisLabelOverlap, Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene, render_multiple};
use kuva::render::theme::Theme;
use maud::html;

use shapes::joined;

/// Where charts are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// In a page, whose style sheet names the colors.
    Page,
    /// In a file of their own, on white.
    File,
}

/// Light and dark variant of each color, by [`Paint`].
pub(crate) const COLORS: [(&str, &str); 8] = [
    ("#0072b2", "#4aa3df"),
    ("#e69f00", "#e6a61a"),
    ("#009e73", "#2fbf95"),
    ("#d55e00", "#e8783a"),
    ("#56b4e9", "#8fd0f5"),
    ("#cc79a7", "#d993b8"),
    ("#b8a800", "#f0e442"),
    ("#888888", "#9a9a9a"),
];

/// Lines over the ground of each color, in a tile of 6 by 6; the first is plain.
const HATCHES: [&str; 8] = [
    "",
    "M0,6L6,0M-1,1L1,-1M5,7L7,5",
    "M2,3h2",
    "M0,0L6,6M5,-1L7,1M-1,5L1,7",
    "M0,3H6",
    "M0,3H6M3,0V6",
    "M3,0V6",
    "M0,6L6,0M0,0L6,6",
];

/// A color with its hatching: a position in [`COLORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) usize);

impl Paint {
    /// That of codes of a width.
    pub(crate) fn of_bits(bits: u8) -> Self {
        Self(match bits {
            2 => 3,
            3 => 1,
            4 => 0,
            5 => 2,
            6 => 5,
            7 => 6,
            8 => 4,
            _ => 7,
        })
    }

    fn index(self) -> usize {
        self.0 % COLORS.len()
    }
}

impl Ink {
    /// The color alone, for lines and marks.
    pub(crate) fn line(self, paint: Paint) -> String {
        let idx = paint.index();
        match self {
            Self::Page => format!("var(--c{idx})"),
            Self::File => COLORS[idx].0.to_owned(),
        }
    }

    /// The color with its hatching, for areas.
    pub(crate) fn fill(self, paint: Paint) -> String {
        match paint.index() {
            0 => self.line(paint),
            idx => format!("url(#hatch-{idx})"),
        }
    }

    /// The color of text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Page => "currentColor",
            Self::File => "#222222",
        }
    }

    /// The color that charts stand on.
    pub(crate) fn ground(self) -> &'static str {
        match self {
            Self::Page => "var(--bg)",
            Self::File => "#ffffff",
        }
    }

    fn grid(self) -> &'static str {
        match self {
            Self::Page => "var(--grid)",
            Self::File => "#dddddd",
        }
    }

    /// What [`fill`](Self::fill) refers to: once in a page, or in each file.
    pub(crate) fn patterns(self) -> String {
        let over = match self {
            Self::Page => "var(--hatch)",
            Self::File => "#ffffff",
        };
        let mut text = String::new();
        for (idx, lines) in HATCHES.iter().enumerate().skip(1) {
            let color = self.line(Paint(idx));
            text.push_str(&format!(
                "<pattern id=\"hatch-{idx}\" width=\"6\" height=\"6\" \
                 patternUnits=\"userSpaceOnUse\"><rect width=\"6\" height=\"6\" fill=\"{color}\"/>\
                 <path d=\"{lines}\" stroke=\"{over}\" stroke-width=\"1\" fill=\"none\"/></pattern>"
            ));
        }
        text
    }
}

/// What is said of a chart, and how large it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// What it shows, in a line.
    pub(crate) title: String,
    /// What there is to see in it, for those who do not see it.
    pub(crate) description: String,
    /// A heading inside of the chart, for one of many.
    pub(crate) heading: Option<String>,
    /// Width and height in pixels.
    pub(crate) size: (f64, f64),
    /// Label of the horizontal axis.
    pub(crate) x: String,
    /// Label of the vertical axis.
    pub(crate) y: String,
    /// Digits behind the point of numbers at the vertical axis, where they are many.
    pub(crate) y_digits: Option<usize>,
    /// Range of the vertical axis.
    pub(crate) y_range: Option<(f64, f64)>,
    /// Range of the horizontal axis.
    pub(crate) x_range: Option<(f64, f64)>,
    /// Whether equal distances at the vertical axis are equal ratios; all values are above 0 then.
    pub(crate) is_log_y: bool,
    /// Whether its numbers are written out, not as powers of ten.
    pub(crate) is_plain_y: bool,
    /// What colors and marks stand for.
    pub(crate) legend: Vec<(String, Mark)>,
}

/// How a series is drawn in the legend.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// An area.
    Area(Paint),
    /// A mark in the color of text.
    Plain(MarkerShape),
    /// A mark in a color.
    Shape(MarkerShape, Paint),
}

/// A chart that is drawn.
pub(crate) struct Chart {
    /// What is said of it.
    pub(crate) frame: Frame,
    scene: Scene,
    ink: Ink,
}

/// Draws a chart.
pub(crate) fn draw(ink: Ink, plots: Vec<Plot>, frame: Frame) -> Chart {
    let theme = Theme {
        background: "none".to_owned(),
        axis_color: ink.text().to_owned(),
        grid_color: ink.grid().to_owned(),
        tick_color: ink.text().to_owned(),
        text_color: ink.text().to_owned(),
        legend_bg: "none".to_owned(),
        legend_border: "none".to_owned(),
        ..Theme::light()
    };
    let mut layout = Layout::auto_from_plots(&plots)
        .with_theme(theme)
        .with_width(frame.size.0)
        .with_height(frame.size.1)
        .with_font_family("system-ui, sans-serif")
        .with_label_size(13)
        .with_x_label_overlap(AxisLabelOverlap::Thin)
        .with_x_label(frame.x.clone())
        .with_y_label(frame.y.clone());
    if let Some(digits) = frame.y_digits {
        layout = layout.with_y_tick_format(TickFormat::Fixed(digits));
    }
    if let Some((low, high)) = frame.y_range {
        layout = layout.with_y_axis_min(low).with_y_axis_max(high);
    }
    if let Some((low, high)) = frame.x_range {
        layout = layout.with_x_axis_min(low).with_x_axis_max(high);
    }
    if frame.is_log_y {
        layout = layout.with_log_y();
    }
    if frame.is_plain_y {
        layout = layout.with_y_tick_format(TickFormat::Custom(Arc::new(written_out)));
    }
    if let Some(heading) = &frame.heading {
        layout = layout.with_title(heading.clone()).with_title_size(13);
    }
    if frame.legend.is_empty() {
        layout.show_legend = false;
    } else {
        let entry = |(label, mark): &(String, Mark)| LegendEntry {
            label: label.clone(),
            color: match mark {
                Mark::Area(paint) => ink.fill(*paint),
                Mark::Plain(_) => ink.text().to_owned(),
                Mark::Shape(_, paint) => ink.line(*paint),
            },
            shape: match mark {
                Mark::Area(_) => LegendShape::Rect,
                Mark::Plain(shape) | Mark::Shape(shape, _) => LegendShape::Marker(*shape),
            },
            dasharray: None,
        };
        layout = layout
            .with_legend_entries(frame.legend.iter().map(entry).collect())
            .with_legend_position(LegendPosition::OutsideBottomColumns)
            .with_legend_box(false);
    }
    let mut scene = render_multiple(plots, layout);
    // Marks end at the axes, and the names of clip paths are unlike in every run.
    scene.elements.retain(|it| !matches!(it, Primitive::ClipStart { .. } | Primitive::ClipEnd));
    scene.defs.clear();
    scene.elements = joined(std::mem::take(&mut scene.elements));
    scene.has_tooltips = false;
    scene.background_color = match ink {
        Ink::Page => None,
        Ink::File => Some("#ffffff".to_owned()),
    };
    Chart { frame, scene, ink }
}

/// A number at an axis of ratios, with one digit that counts.
fn written_out(value: f64) -> String {
    let digits = (-value.abs().log10().floor()).clamp(0.0, 20.0) as usize;
    format!("{value:.digits$}")
}

impl Chart {
    /// The chart as an element with title and description. `id` is one that nothing else in the
    /// page has.
    pub(crate) fn svg(&self, id: &str) -> String {
        let text = SvgBackend::new().render_scene(&self.scene);
        let body = text.split_once('>').map_or("", |it| it.1);
        let body = match body.split_once("-->") {
            Some((comment, rest)) if comment.starts_with("<!--") => rest,
            _ => body,
        };
        let (width, height) = (self.scene.width.round(), self.scene.height.round());
        let (title, description) = (format!("{id}-t"), format!("{id}-d"));
        let said = html! {
            title id=(title) { (self.frame.title) }
            desc id=(description) { (self.frame.description) }
        };
        let (fill, defs) = match self.ink {
            Ink::Page => (self.ink.text(), String::new()),
            Ink::File => (self.ink.text(), format!("<defs>{}</defs>", self.ink.patterns())),
        };
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"{title} {description}\" font-family=\"system-ui, sans-serif\" \
             fill=\"{fill}\">{}{defs}{body}",
            said.into_string(),
        );
        printable(shorter(&text))
    }

    /// Width in pixels.
    pub(crate) fn width(&self) -> f64 {
        self.scene.width.round()
    }
}

/// Without the digits that sums of floats leave behind, `61.300000000000004` say: attributes of
/// marks have two. Text is outside of tags and stays.
fn shorter(svg: &str) -> String {
    let mut text = String::with_capacity(svg.len());
    let (mut is_tag, mut decimals) = (false, None);
    for it in svg.chars() {
        is_tag = (is_tag || it == '<') && it != '>';
        decimals = match decimals {
            Some(count) if it.is_ascii_digit() => Some(count + 1),
            None if is_tag && it == '.' => Some(0),
            _ => None,
        };
        if decimals.is_none_or(|count| count <= 2) {
            text.push(it);
        }
    }
    text
}

/// Without characters that XML does not have: they come from names in models.
pub(crate) fn printable(mut text: String) -> String {
    text.retain(|it| (!it.is_control() || it == '\n') && !matches!(it, '\u{fffe}' | '\u{ffff}'));
    text
}

/// A name of at most `most` characters: a long one lacks its middle.
pub(crate) fn shortened(name: &str, most: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= most {
        return name.to_owned();
    }
    let kept = most.saturating_sub(1);
    let tail = kept / 2;
    let head: String = chars.iter().take(kept - tail).collect();
    let tail: String = chars.iter().skip(chars.len() - tail).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuva::plot::BarPlot;
    use proptest::prelude::*;

    fn chart(ink: Ink, label: &str) -> String {
        let bars = BarPlot::new()
            .with_group("a", [(1.0, ink.fill(Paint(1)))])
            .with_tooltip_labels([label])
            .with_tooltips();
        let frame = Frame {
            title: label.to_owned(),
            size: (300.0, 200.0),
            legend: vec![("bars".to_owned(), Mark::Area(Paint(1)))],
            ..Default::default()
        };
        draw(ink, vec![bars.into()], frame).svg("x")
    }

    #[test]
    fn a_chart_takes_its_colors_from_the_page() {
        let text = chart(Ink::Page, "one");
        assert!(
            text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"300\""),
            "{text}"
        );
        assert!(text.contains("role=\"img\"") && text.contains("<title id=\"x-t\">one</title>"));
        assert!(text.contains("url(#hatch-1)") && text.contains("currentColor"));
        assert!(!text.contains("#000000") && !text.contains("clip-path"), "{text}");
    }

    #[test]
    fn a_file_stands_alone() {
        let text = chart(Ink::File, "one");
        assert!(text.contains("<pattern id=\"hatch-1\""));
        assert!(!text.contains("var(") && !text.contains("currentColor"), "{text}");
    }

    #[test]
    fn only_numbers_in_tags_lose_digits() {
        let text = r#"<rect x="61.300000000000004" y="7"/><title>w.123456 &lt;.5555</title>"#;
        let want = r#"<rect x="61.30" y="7"/><title>w.123456 &lt;.5555</title>"#;
        assert_eq!(shorter(text), want);
    }

    #[test]
    fn equal_charts_are_equal_bytes() {
        assert_eq!(chart(Ink::Page, "one"), chart(Ink::Page, "one"));
    }

    #[test]
    fn numbers_of_ratios_are_written_out() {
        let found = [0.001, 0.02, 0.5, 1.0, 20.0, 1e5].map(written_out);
        assert_eq!(found, ["0.001", "0.02", "0.5", "1", "20", "100000"]);
    }

    #[test]
    fn the_middle_of_a_long_name_goes() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("abcdefghijk", 6), "abc…jk");
    }

    proptest! {
        #[test]
        fn a_short_name_is_short(name in ".*", most in 1usize..40) {
            prop_assert!(shortened(&name, most).chars().count() <= most);
        }

        #[test]
        fn hostile_labels_stay_text(label in ".*") {
            let text = chart(Ink::Page, &format!("<script>&\"'{label}"));
            prop_assert!(!text.contains("<script"));
        }
    }
}
