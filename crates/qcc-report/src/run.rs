//! A run as the figures see it: its record, with numbers that several figures share.

use crate::{RunRecord, Speed, WeightRow};

/// A run that a report shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// What it is called: the name of its output, say.
    pub label: String,
    /// What it did.
    pub record: RunRecord,
    /// How fast its output is, where that was timed.
    pub speed: Option<Speed>,
}

/// A part of a model by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Embeddings,
    Attention,
    FeedForward,
    Products,
    Head,
    Scales,
    Other,
}

impl Part {
    pub(crate) const ALL: [Self; 7] = [
        Self::Embeddings,
        Self::Attention,
        Self::FeedForward,
        Self::Products,
        Self::Head,
        Self::Scales,
        Self::Other,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Attention => "attention",
            Self::FeedForward => "feed-forward",
            Self::Products => "other products",
            Self::Head => "head",
            Self::Scales => "scales and zero points",
            Self::Other => "everything else",
        }
    }

    /// What a weight is for: by its operator, by why it was left, and by what names say.
    pub(crate) fn of(row: &WeightRow) -> Self {
        let names = || std::iter::once(&row.name).chain(&row.sites).map(|it| it.to_lowercase());
        let says = |words: &[&str]| names().any(|name| words.iter().any(|it| name.contains(it)));
        let reason = row.reason_left_float.as_deref().unwrap_or_default();
        if row.op == "Gather" || row.op == "GatherBlockQuantized" {
            Self::Embeddings
        } else if reason.contains("the head") || says(&["lm_head", "lm-head"]) {
            Self::Head
        } else if says(&["attn", "attention"]) {
            Self::Attention
        } else if says(&["mlp", "ffn", "feed_forward", "feedforward", "intermediate"]) {
            Self::FeedForward
        } else {
            Self::Products
        }
    }
}

impl Run {
    /// Weights that became codes, in order.
    pub(crate) fn quantized(&self) -> impl Iterator<Item = &WeightRow> {
        self.record.weights.iter().filter(|it| it.bits.is_some())
    }

    /// Size of the output: as it was written, or what the weights say it would be.
    pub(crate) fn bytes_after(&self) -> u64 {
        let record = &self.record;
        record.bytes_after.unwrap_or_else(|| {
            let of = |f: fn(&WeightRow) -> u64| total(record.weights.iter().map(f));
            let rest = record.bytes_before.saturating_sub(of(|it| it.bytes_before));
            rest.saturating_add(of(|it| it.bytes_after))
        })
    }

    /// Stored bits for each weight over the weights that became codes. From the metadata of the
    /// output where no weight is listed.
    pub(crate) fn bits_per_weight(&self) -> Option<f64> {
        let (mut bits, mut count) = (0.0, 0.0);
        for row in self.quantized() {
            let len = row.n as f64 * row.k as f64;
            bits += row.bpw * len;
            count += len;
        }
        if count > 0.0 {
            return Some(bits / count).filter(|it| it.is_finite());
        }
        let text = self.record.provenance.get("qcc.bits")?;
        text.split(';').next()?.parse().ok().filter(|it: &f64| it.is_finite() && *it > 0.0)
    }

    /// Bytes of each part before and after; their sums are the sizes of the files.
    pub(crate) fn parts(&self) -> Vec<(Part, u64, u64)> {
        let mut sums = Part::ALL.map(|part| (part, 0u64, 0u64));
        let mut add = |part: Part, before: u64, after: u64| {
            for (_, b, a) in sums.iter_mut().filter(|it| it.0 == part) {
                (*b, *a) = (b.saturating_add(before), a.saturating_add(after));
            }
        };
        for row in &self.record.weights {
            let scales = match row.bytes_codes {
                0 => 0,
                codes => row.bytes_after.saturating_sub(codes),
            };
            add(Part::of(row), row.bytes_before, row.bytes_after - scales);
            add(Part::Scales, 0, scales);
        }
        let (before, after) = sums
            .iter()
            .fold((0u64, 0u64), |sum, it| (sum.0.saturating_add(it.1), sum.1.saturating_add(it.2)));
        sums[Part::ALL.len() - 1] = (
            Part::Other,
            self.record.bytes_before.saturating_sub(before),
            self.bytes_after().saturating_sub(after),
        );
        sums.into_iter().filter(|it| it.1 > 0 || it.2 > 0).collect()
    }
}

/// A sum that stays at the end of the range.
pub(crate) fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, op: &str, reason: Option<&str>) -> WeightRow {
        WeightRow {
            name: name.to_owned(),
            op: op.to_owned(),
            reason_left_float: reason.map(str::to_owned),
            bytes_before: 100,
            bytes_after: 30,
            bytes_codes: 20,
            ..Default::default()
        }
    }

    #[test]
    fn parts_are_told_by_operator_reason_and_name() {
        let cases = [
            (row("model.embed_tokens.weight", "Gather", None), Part::Embeddings),
            (row("layers.0.self_attn.q_proj.weight", "MatMul", None), Part::Attention),
            (row("layers.0.MLP.up_proj.weight", "MatMul", None), Part::FeedForward),
            (row("w", "MatMul", Some("the head stays in float without --lm-head")), Part::Head),
            (row("val_7", "MatMul", None), Part::Products),
        ];
        for (row, want) in cases {
            assert_eq!(Part::of(&row), want, "{}", row.name);
        }
    }

    #[test]
    fn parts_add_up_to_the_files() {
        let weights = vec![row("a.mlp", "MatMul", None), row("e", "Gather", None)];
        let record =
            RunRecord { bytes_before: 250, bytes_after: Some(75), weights, ..Default::default() };
        let run = Run { record, ..Default::default() };
        let want = [
            (Part::Embeddings, 100, 20),
            (Part::FeedForward, 100, 20),
            (Part::Scales, 0, 20),
            (Part::Other, 50, 15),
        ];
        assert_eq!(run.parts(), want);
    }

    #[test]
    fn sizes_beyond_the_range_stay_at_its_end() {
        let huge =
            WeightRow { bytes_before: u64::MAX, bytes_after: u64::MAX, ..row("a", "b", None) };
        let record = RunRecord { weights: vec![huge.clone(), huge], ..Default::default() };
        let run = Run { record, ..Default::default() };
        assert_eq!(run.bytes_after(), u64::MAX);
        assert!(!run.parts().is_empty());
    }
}
