//! Tables for the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{RunRecord, WeightRow, bytes};

/// Parts of the model with sizes before and after, bits per weight and error. Sizes after are
/// those of the output, where one was written.
pub fn summary(record: &RunRecord) -> String {
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
    let before = record.bytes_before;
    let after = record.bytes_after.unwrap_or(written + before.saturating_sub(known));
    let rest = [before.saturating_sub(known), after.saturating_sub(written)];
    for (label, [before, after]) in [("other", rest), ("total", [before, after])] {
        let _ = writeln!(text, "  {label:<26} {:>10} {:>10}", bytes(before), bytes(after));
    }
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
    fn add(&mut self, row: &WeightRow) {
        self.count += 1;
        self.before += row.bytes_before;
        self.after += row.bytes_after;
        let len = row.n as f64 * row.k as f64;
        self.elements += len;
        self.bits += len * row.bpw;
        if let Some(snr) = row.snr_db {
            self.snr.push(snr);
            if self.worst.as_ref().is_none_or(|it| snr < it.0) {
                let site = row.sites.first().unwrap_or(&row.name);
                self.worst = Some((snr, line(site)));
            }
        }
    }

    fn line(&self, label: &str) -> String {
        let mut line =
            format!("  {label:<26} {:>10} {:>10}", bytes(self.before), bytes(self.after));
        if let Some((worst, site)) = &self.worst {
            // Weights of zeros have no error.
            let with_error: Vec<f64> =
                self.snr.iter().copied().filter(|it| it.is_finite()).collect();
            let mean = match with_error.len() {
                0 => f64::INFINITY,
                count => with_error.iter().sum::<f64>() / count as f64,
            };
            let bpw = self.bits / self.elements.max(1.0);
            let _ = write!(line, " {bpw:>7.2} {mean:>8.1} dB   {site}  {worst:.1} dB");
        }
        line
    }
}

/// Text of a model as one line that a terminal can show: without control characters, and cut.
pub fn line(text: &str) -> String {
    /// Longest piece of text that is shown, in characters.
    const LONGEST: usize = 100;
    let clean = |it: char| if it.is_control() { ' ' } else { it };
    let mut out: String = text.chars().take(LONGEST).map(clean).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// What was left in float, by reason, the largest part first.
pub fn left(record: &RunRecord) -> Vec<String> {
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
        .map(|(reason, (count, size))| {
            format!("{count} in float, {}: {}", bytes(size), line(reason))
        })
        .collect()
}

/// The weights that were tuned one at a time since their block has no gradient, with the first
/// reason; `None` where there are none.
pub fn apart(record: &RunRecord) -> Option<String> {
    let blocks = || record.blocks.iter().filter_map(|it| Some((it, it.obstacle.as_ref()?)));
    let (first, why) = blocks().next()?;
    let count: usize = blocks().map(|it| it.0.weights).sum();
    let weights = if count == 1 { "weight" } else { "weights" };
    let more = match blocks().count() {
        1 => String::new(),
        2 => " and 1 more".to_owned(),
        count => format!(" and {} more", count - 1),
    };
    let (name, why) = (line(&first.name), line(why));
    Some(format!("{count} {weights} of {name}{more} one at a time: {why}"))
}

/// Rows of cells as lines, each column as wide as its widest cell; the columns of `right` are
/// flush right.
pub fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|it| it.get(column)).map(|it| it.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { " " } else { "   " };
            let _ = match right.contains(&column) {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:<width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(op: &str, bits: Option<u8>, snr: f64) -> WeightRow {
        WeightRow {
            name: format!("w{snr}"),
            op: op.to_owned(),
            n: 100,
            k: 100,
            bits,
            bpw: 5.0,
            bytes_before: 40_000,
            bytes_after: if bits.is_some() { 6_250 } else { 40_000 },
            snr_db: bits.map(|_| snr),
            reason_left_float: bits.is_none().then(|| "it is excluded".to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn parts_add_up_to_the_file() {
        let weights = vec![
            row("MatMul", Some(4), 20.0),
            row("MatMul", Some(4), 22.0),
            row("Gather", None, 0.0),
        ];
        let record = RunRecord {
            bytes_before: 121_000,
            bytes_after: Some(53_700),
            weights,
            ..Default::default()
        };
        insta::assert_snapshot!(summary(&record), @r"
          part                           before      after     bpw  weight SNR   worst
          MatMul (2)                    80.0 kB    12.5 kB    5.00     21.0 dB   w20  20.0 dB
          embeddings, in float (1)      40.0 kB    40.0 kB
          other                          1.0 kB     1.2 kB
          total                        121.0 kB    53.7 kB
        ");
        assert_eq!(left(&record), ["1 in float, 40.0 kB: it is excluded"]);
    }

    #[test]
    fn a_weight_of_zeros_hides_no_error_of_others() {
        let weights = vec![
            row("MatMul", Some(4), 20.0),
            row("MatMul", Some(4), f64::INFINITY),
            row("MatMul", Some(4), 30.0),
        ];
        let record = RunRecord { bytes_after: Some(1), weights, ..Default::default() };
        let text = summary(&record);
        assert!(text.contains("25.0 dB") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn names_do_not_reach_a_terminal_as_they_are() {
        let mut bad = row("MatMul", Some(4), 20.0);
        bad.name = "w\u{1b}[31m\nerror: \u{7}".to_owned();
        let weights = vec![bad.clone()];
        let record = RunRecord { bytes_after: Some(1), weights, ..Default::default() };
        let text = summary(&record);
        assert!(text.contains("w [31m error:  ") && !text.contains('\u{1b}'), "{text:?}");
        assert_eq!(line(&"x".repeat(200)).chars().count(), 101);
    }

    #[test]
    fn without_an_output_the_total_is_an_estimate() {
        let record = RunRecord {
            bytes_before: 41_000,
            weights: vec![row("MatMul", Some(4), 20.0)],
            ..Default::default()
        };
        assert!(summary(&record).ends_with("41.0 kB     7.2 kB\n"), "{}", summary(&record));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "size"], ["long", "7 B"]].map(|it| it.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows, &[1]), "  a      size\n  long    7 B\n");
    }
}
