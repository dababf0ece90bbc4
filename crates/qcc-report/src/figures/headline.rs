//! The headline: sizes, error, quality, time, memory and gates in a few numbers.

use maud::{Markup, html};

use super::{Draw, Drawing, Figure};
use crate::html_table::{Cell, Table, number};
use crate::run::total;
use crate::{Run, bytes};

pub(super) const FIGURE: Figure = Figure {
    id: "headline",
    title: "In short",
    question: "Is it good enough?",
    needs: "a record",
    draw: Draw::Each(|run, _| Some(draw(run))),
};

/// A number with what it is, and what there is to say of it.
struct Tile {
    label: &'static str,
    value: String,
    note: String,
}

fn draw(run: &Run) -> Drawing {
    let tiles = tiles(run);
    let rows = tiles.iter().map(|it| {
        vec![
            Cell::Text(it.label.to_owned()),
            Cell::Text(it.value.clone()),
            Cell::Text(it.note.clone()),
        ]
    });
    let table = Table {
        caption: "these numbers".to_owned(),
        head: vec!["what", "value", "note"],
        rows: rows.collect(),
        is_open: false,
    };
    Drawing { lead: Some(markup(run, &tiles)), tables: vec![table], ..Default::default() }
}

fn markup(run: &Run, tiles: &[Tile]) -> Markup {
    html! {
        @if run.record.output.is_none() {
            p {
                "A dry run: nothing was written, and weights were rounded to nearest where the \
                 pipeline searches or tunes."
            }
        }
        dl.tiles {
            @for it in tiles {
                div { dt { (it.label) } dd.value { (it.value) } @if !it.note.is_empty() { dd { (it.note) } } }
            }
        }
        @if !run.record.gates.is_empty() {
            ul.gates {
                @for gate in &run.record.gates {
                    li class=[(!gate.passed).then_some("failed")] {
                        @if gate.passed { "✓ passed: " } @else { "✗ failed: " }
                        (gate.gate) " (" (gate.found) ")"
                    }
                }
            }
        }
    }
}

fn tiles(run: &Run) -> Vec<Tile> {
    let record = &run.record;
    let mut tiles = Vec::new();
    let mut tile = |label, value, note: String| tiles.push(Tile { label, value, note });
    let (before, after) = (record.bytes_before, run.bytes_after());
    if before > 0 {
        let share = 100.0 * after as f64 / before as f64;
        let is_written = if record.output.is_some() { "" } else { ", as planned" };
        let text = format!("{} → {}", bytes(before), bytes(after));
        tile("size", text, format!("{share:.1} % of before{is_written}"));
    } else if after > 0 {
        tile("size", bytes(after), "of the file".to_owned());
    }
    let (count, all) = (run.quantized().count(), record.weights.len());
    if let Some(bpw) = run.bits_per_weight() {
        let note = if all > 0 { format!("{count} of {all} weights") } else { String::new() };
        tile("stored bits per weight", number(bpw, 2), note);
    }
    let snr: Vec<f64> =
        run.quantized().filter_map(|it| it.snr_db).filter(|it| it.is_finite()).collect();
    if let Some(worst) = snr.iter().copied().min_by(f64::total_cmp) {
        let mean = snr.iter().sum::<f64>() / snr.len() as f64;
        tile(
            "mean SNR of weights",
            format!("{} dB", number(mean, 1)),
            format!("worst {} dB", number(worst, 1)),
        );
    }
    let left = record.weights.iter().filter(|it| it.bits.is_none()).map(|it| it.bytes_before);
    if count < all {
        let text = bytes(total(left));
        let note = match all - count {
            1 => "1 weight".to_owned(),
            count => format!("{count} weights"),
        };
        tile("left in float", text, note);
    }
    quality(run, &mut tile);
    if let Some(it) = &record.environment {
        let threads = match it.threads {
            0 => String::new(),
            count => format!("{count} threads"),
        };
        tile("time", format!("{} s", number(it.seconds, 1)), threads);
        if let Some(peak) = it.peak_memory_bytes {
            tile("memory, at most", bytes(peak), "without mapped files".to_owned());
        }
    }
    tiles
}

fn quality(run: &Run, tile: &mut impl FnMut(&'static str, String, String)) {
    let Some(quality) = &run.record.quality else { return };
    if let Some(after) = quality.perplexity.filter(|it| it.is_finite()) {
        let before = quality.reference_perplexity.filter(|it| *it > 0.0);
        let text = before.map_or(String::new(), |it| format!("{} → ", number(it, 4)));
        let change = before.map(|it| {
            let change = 100.0 * (after / it - 1.0);
            format!("{}{} %", if change >= 0.0 { "+" } else { "" }, number(change, 2))
        });
        let tokens = (quality.tokens > 0).then(|| format!("{} tokens", quality.tokens));
        let note = change.into_iter().chain(tokens).collect::<Vec<_>>().join(", ");
        let text = text + &number(after, 4);
        tile("perplexity", text, note);
    }
    if let Some(kl) = quality.kl_nats.filter(|it| it.is_finite()) {
        tile("KL from before", format!("{} nats", number(kl, 5)), "for each token".to_owned());
    }
    if let Some(top1) = quality.top1 {
        tile("same token first", format!("{} %", number(100.0 * top1, 2)), String::new());
    }
    let worst = quality.outputs.iter().filter(|it| it.snr_db.is_some_and(f64::is_finite));
    let by_snr = |a: &&crate::OutputQuality, b: &&crate::OutputQuality| {
        f64::total_cmp(&a.snr_db.unwrap_or(0.0), &b.snr_db.unwrap_or(0.0))
    };
    if let Some(it) = worst.min_by(by_snr) {
        let snr = it.snr_db.unwrap_or(0.0);
        let name = crate::chart::shortened(&it.name, 24);
        tile("SNR of the output", format!("{} dB", number(snr, 1)), name);
    }
}
