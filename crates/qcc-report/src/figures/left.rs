//! What was left in float, and why.

use std::collections::BTreeMap;

use maud::html;

use super::{Draw, Drawing, Figure};
use crate::html_table::{Cell, Table};
use crate::{Run, bytes};

pub(super) const FIGURE: Figure = Figure {
    id: "left",
    title: "What was left in float",
    question: "What else is possible?",
    needs: "weights with the reasons why they were left",
    draw: Draw::Each(|run, _| draw(run)),
};

fn draw(run: &Run) -> Option<Drawing> {
    if run.record.weights.is_empty() {
        return None;
    }
    let mut rows: Vec<_> = run.record.weights.iter().filter(|it| it.bits.is_none()).collect();
    if rows.is_empty() {
        let lead =
            html! { p { "Nothing: all " (run.record.weights.len()) " weights became codes." } };
        return Some(Drawing { lead: Some(lead), ..Default::default() });
    }
    rows.sort_by_key(|it| std::cmp::Reverse(it.bytes_before));
    let mut reasons: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for row in &rows {
        let reason = row.reason_left_float.as_deref().unwrap_or("no reason is recorded");
        let entry = reasons.entry(reason).or_default();
        *entry = (entry.0 + 1, entry.1.saturating_add(row.bytes_before));
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|it| std::cmp::Reverse(it.1.1));
    let cells = rows.iter().map(|it| {
        vec![
            Cell::Name(it.name.clone()),
            Cell::Name(it.sites.first().cloned().unwrap_or_default()),
            Cell::Text(it.op.clone()),
            Cell::Text(it.reason_left_float.clone().unwrap_or_default()),
            Cell::Bytes(it.bytes_before),
        ]
    });
    let table = Table {
        caption: format!("{} weights in float", rows.len()),
        head: vec!["weight", "node", "op", "reason", "size"],
        rows: cells.collect(),
        is_open: rows.len() <= 12,
    };
    let lead = html! {
        ul {
            @for (reason, (count, size)) in reasons { li { (count) @if count == 1 { " weight, " } @else { " weights, " } (bytes(size)) ": " (reason) } }
        }
    };
    Some(Drawing { lead: Some(lead), tables: vec![table], ..Default::default() })
}
