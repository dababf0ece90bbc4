//! The summary of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use qcc_pass::{Record, WeightRecord};

use super::size::bytes;

/// Parts of the model with sizes before and after, bits per weight and error.
pub(super) fn summary(record: &Record, before: u64, after: u64) -> String {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for row in &record.weights {
        let label = match (row.bits, row.op.as_str()) {
            (Some(_), op) => op.to_owned(),
            (None, "Gather") => "embeddings, in float".to_owned(),
            (None, op) => format!("{op}, in float"),
        };
        parts.entry(label).or_default().add(row);
    }
    let known: u64 = record.weights.iter().map(|it| it.bytes_before).sum();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "  {:<26} {:>10} {:>10} {:>7} {:>11}   worst",
        "part", "before", "after", "bpw", "weight SNR"
    );
    let mut written = 0;
    for (label, part) in &parts {
        written += part.after;
        let label = format!("{label} ({})", part.count);
        let _ = writeln!(text, "{}", part.line(&label));
    }
    let (rest_before, rest_after) = (before.saturating_sub(known), after.saturating_sub(written));
    let _ =
        writeln!(text, "  {:<26} {:>10} {:>10}", "other", bytes(rest_before), bytes(rest_after));
    let _ = write!(text, "  {:<26} {:>10} {:>10}", "total", bytes(before), bytes(after));
    text
}

#[derive(Default)]
struct Part {
    count: usize,
    before: u64,
    after: u64,
    bits: f64,
    elements: f64,
    snr: Vec<f64>,
    worst: Option<(f64, String)>,
}

impl Part {
    fn add(&mut self, row: &WeightRecord) {
        self.count += 1;
        self.before += row.bytes_before;
        self.after += if row.bits.is_some() { row.bytes_after } else { row.bytes_before };
        let len = (row.n * row.k) as f64;
        self.elements += len;
        self.bits += len * row.bpw;
        if let Some(snr) = row.snr_db {
            self.snr.push(snr);
            if self.worst.as_ref().is_none_or(|it| snr < it.0) {
                let site = row.sites.first().unwrap_or(&row.name);
                self.worst = Some((snr, site.clone()));
            }
        }
    }

    fn line(&self, label: &str) -> String {
        let mut line =
            format!("  {label:<26} {:>10} {:>10}", bytes(self.before), bytes(self.after));
        if let Some((worst, site)) = &self.worst {
            let mean = self.snr.iter().sum::<f64>() / self.snr.len() as f64;
            let bpw = self.bits / self.elements.max(1.0);
            let _ = write!(line, " {bpw:>7.2} {mean:>8.1} dB   {site}  {worst:.1} dB");
        }
        line
    }
}

/// What was left in float, by reason.
pub(super) fn left(record: &Record) -> Vec<String> {
    let mut reasons: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for row in &record.weights {
        if let Some(reason) = &row.reason_left_float {
            let entry = reasons.entry(reason).or_default();
            entry.0 += 1;
            entry.1 += row.bytes_before;
        }
    }
    let mut lines: Vec<_> = reasons.into_iter().collect();
    lines.sort_by_key(|it| std::cmp::Reverse(it.1.1));
    lines
        .into_iter()
        .map(|(reason, (count, size))| format!("{count} in float, {}: {reason}", bytes(size)))
        .collect()
}
