//! Tables of a page. A script of the page sorts and filters them; without it they are as they are.

use maud::{Markup, html};

use crate::bytes;
use crate::chart::shortened;

/// The longest name that is shown whole.
const NAME: usize = 44;

/// Text that takes several lines.
const LONG: usize = 60;

/// What a cell holds.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// The name of something; a long one is shortened, and whole in its tooltip.
    Name(String),
    /// A count.
    Count(u64),
    /// A number with so many digits behind the point; an absent one is a dash.
    Number(Option<f64>, usize),
    /// A small number, as a power of ten; an absent one is a dash.
    Power(Option<f64>),
    /// A number of bytes.
    Bytes(u64),
}

/// A table with a caption.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// What it lists.
    pub(crate) caption: String,
    /// Names of the columns.
    pub(crate) head: Vec<&'static str>,
    /// Rows of as many cells.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Whether it is shown at once, or when asked for.
    pub(crate) is_open: bool,
}

impl Cell {
    fn markup(&self) -> Markup {
        match self {
            // A long word may be broken, a short one is not.
            Self::Text(text) => {
                html! { td class=[(text.len() > LONG).then_some("long")] { (text) } }
            }
            Self::Name(name) => {
                let short = shortened(name, NAME);
                let title = (short != *name).then_some(name);
                html! { td.name title=[title] { (short) } }
            }
            Self::Count(count) => html! { td.n { (count) } },
            Self::Number(value, digits) => match value.filter(|it| it.is_finite()) {
                Some(value) => html! { td.n { (number(value, *digits)) } },
                None => html! { td.n data-v="" { "–" } },
            },
            Self::Power(value) => match value.filter(|it| it.is_finite()) {
                Some(value) => html! { td.n { (format!("{value:.2e}")) } },
                None => html! { td.n data-v="" { "–" } },
            },
            Self::Bytes(count) => html! { td.n data-v=(count) { (bytes(*count)) } },
        }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Name(_))
    }
}

/// A number with so many digits behind the point, or as a power of ten when it is huge.
pub(crate) fn number(value: f64, digits: usize) -> String {
    if value.abs() < 1e15 { format!("{value:.digits$}") } else { format!("{value:.digits$e}") }
}

impl Table {
    /// The table; behind its caption unless it is open.
    pub(crate) fn markup(&self) -> Markup {
        let is_number =
            |idx: usize| self.rows.first().and_then(|it| it.get(idx)).is_some_and(Cell::is_number);
        let table = html! {
            div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                table {
                    caption { (self.caption) }
                    thead { tr {
                        @for (idx, name) in self.head.iter().enumerate() {
                            th scope="col" class=[is_number(idx).then_some("n")] { (name) }
                        }
                    } }
                    tbody {
                        @for row in &self.rows { tr { @for cell in row { (cell.markup()) } } }
                    }
                }
            }
        };
        if self.is_open {
            return table;
        }
        html! { details { summary { "Table: " (self.caption) } (table) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_and_long_names_shortened() {
        let long = format!("{}<b>", "x".repeat(60));
        let rows = vec![vec![
            Cell::Name(long.clone()),
            Cell::Text("a & b".to_owned()),
            Cell::Bytes(1_234_567),
            Cell::Number(Some(21.456), 2),
            Cell::Number(Some(f64::INFINITY), 2),
        ]];
        let head = vec!["name", "text", "size", "SNR", "none"];
        let table = Table { caption: "1 <weight>".to_owned(), head, rows, is_open: false };
        let text = table.markup().into_string();
        assert!(text.contains(&format!("title=\"{}&lt;b&gt;\"", "x".repeat(60))), "{text}");
        assert!(text.contains("<td>a &amp; b</td><td class=\"n\" data-v=\"1234567\">1.2 MB</td>"));
        assert!(text.contains("<td class=\"n\">21.46</td><td class=\"n\" data-v=\"\">–</td>"));
        assert!(text.starts_with("<details><summary>Table: 1 &lt;weight&gt;</summary>"), "{text}");
        assert!(!text.contains("<b>"));
    }
}
