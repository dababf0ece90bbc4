//! The report: one page with everything in it, and its charts as files.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::Run;
use crate::chart::{COLORS, Chart, Ink, printable};
use crate::figures::{ALL, Draw, Drawing, Figure};
use crate::html_table::Table;

/// Charts that are at most this wide stand beside each other.
const SMALL: f64 = 400.0;

/// Charts that are wider than this keep their size.
const WIDE: f64 = 900.0;

/// A report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The page.
    pub html: String,
    /// The figures that it has, by name.
    pub figures: Vec<&'static str>,
    /// Its charts as files, names with contents; none unless asked for.
    pub files: Vec<(String, String)>,
}

/// Makes the report on some runs. Equal runs give equal bytes.
pub fn report(runs: &[Run], with_files: bool) -> Report {
    let mut shown = Vec::new();
    let mut missing = Vec::new();
    for figure in ALL {
        match section(figure, runs) {
            Some(it) => shown.push((figure, it)),
            None => missing.push(figure),
        }
    }
    let html = page(runs, &shown, &missing).into_string();
    Report {
        html: printable(html),
        figures: shown.iter().map(|it| it.0.id).collect(),
        files: if with_files { files(runs) } else { Vec::new() },
    }
}

/// What a figure draws for each run, or for all.
fn drawings(figure: &Figure, runs: &[Run], ink: Ink) -> Vec<Option<Drawing>> {
    match figure.draw {
        Draw::Each(draw) => runs.iter().map(|it| draw(it, ink)).collect(),
        Draw::All(draw) => vec![draw(runs, ink)],
    }
}

fn section(figure: &Figure, runs: &[Run]) -> Option<Markup> {
    let drawings = drawings(figure, runs, Ink::Page);
    if drawings.iter().all(Option::is_none) {
        return None;
    }
    let is_several = drawings.len() > 1;
    Some(html! {
        section id=(figure.id) aria-labelledby={ (figure.id) "-h" } {
            h2 id={ (figure.id) "-h" } { (figure.title) }
            p.question { (figure.question) }
            div.runs {
                @for (idx, (run, drawing)) in runs.iter().zip(&drawings).enumerate() {
                    div.run {
                        @if is_several { h3 { (run.label) } }
                        @match drawing {
                            Some(it) => (body(it, &format!("{}-{idx}", figure.id))),
                            None => p { "This record lacks " (figure.needs) "." },
                        }
                    }
                }
            }
        }
    })
}

fn body(drawing: &Drawing, id: &str) -> Markup {
    let is_small = |it: &Chart| it.width() <= SMALL;
    let beside = drawing.beside.max(1);
    let class = match drawing.charts.first() {
        Some(it) if is_small(it) => "charts small",
        _ => "charts",
    };
    html! {
        @if let Some(lead) = &drawing.lead { (lead) }
        @if !drawing.charts.is_empty() {
            div class=(class) {
                @for (first, charts) in drawing.charts.chunks(beside).enumerate() {
                    @if beside > 1 { div.beside { (each(charts, id, first * beside)) } }
                    @else { (each(charts, id, first)) }
                }
            }
        }
        @for table in &drawing.tables { (Table::markup(table)) }
    }
}

/// Charts, of which the first has number `from` among those of its figure.
fn each(charts: &[Chart], id: &str, from: usize) -> Markup {
    html! {
        @for (idx, it) in charts.iter().enumerate() {
            // What is wider than a page is scrolled, and can be by keys.
            div class=(if it.width() > WIDE { "chart wide" } else { "chart" }) tabindex=[(it.width() > SMALL).then_some("0")] {
                (PreEscaped(it.svg(&format!("{id}-{}", from + idx))))
            }
        }
    }
}

fn page(runs: &[Run], shown: &[(&Figure, Markup)], missing: &[&Figure]) -> Markup {
    let title = match runs {
        [run] => format!("qcc: {}", run.label),
        _ => format!("qcc: {} runs", runs.len()),
    };
    let policy =
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Nothing is loaded, whatever the names in a model say.
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "qcc " (env!("CARGO_PKG_VERSION")) };
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(colors())) (PreEscaped(include_str!("page/style.css"))) }
            }
            body {
                svg.defs width="0" height="0" aria-hidden="true" {
                    defs { (PreEscaped(Ink::Page.patterns())) }
                }
                header {
                    h1 { (title) }
                    nav aria-label="Figures" {
                        ul { @for (figure, _) in shown { li { a href={ "#" (figure.id) } { (figure.title) } } } }
                    }
                }
                main {
                    @for (_, section) in shown { (section) }
                    @if missing.iter().any(|it| it.id != "compare") {
                        section aria-labelledby="missing-h" {
                            h2 id="missing-h" { "What these records do not hold" }
                            ul {
                                @for it in missing.iter().filter(|it| it.id != "compare") {
                                    li { (it.title) ": needs " (it.needs) }
                                }
                            }
                        }
                    }
                }
                footer { p { "Made by qcc " (env!("CARGO_PKG_VERSION")) ". MB is 10⁶ bytes." } }
                script { (PreEscaped(include_str!("page/script.js"))) }
            }
        }
    }
}

/// The colors of charts as variables, for light and dark.
fn colors() -> String {
    let all = |of: fn(&(&'static str, &'static str)) -> &'static str| {
        let all = COLORS.iter().enumerate().map(|(idx, it)| format!("--c{idx}:{};", of(it)));
        all.collect::<String>()
    };
    let (light, dark) = (all(|it| it.0), all(|it| it.1));
    format!(":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}")
}

fn files(runs: &[Run]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for figure in ALL {
        let drawings = drawings(figure, runs, Ink::File);
        let is_several = drawings.len() > 1;
        for (run, drawing) in drawings.iter().enumerate() {
            let charts = drawing.iter().flat_map(|it| &it.charts).collect::<Vec<_>>();
            for (idx, chart) in charts.iter().enumerate() {
                let mut name = figure.id.to_owned();
                if is_several {
                    name.push_str(&format!("-{}", run + 1));
                }
                if charts.len() > 1 {
                    name.push_str(&format!("-{:02}", idx + 1));
                }
                files.push((format!("{name}.svg"), chart.svg("chart")));
            }
        }
    }
    files
}

#[cfg(test)]
mod tests;
