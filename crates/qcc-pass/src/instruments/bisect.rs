//! `BisectLimit`: only the first patches of a run are applied, to find the one that does harm.

use std::io::Write;

use qcc_diag::Diagnostic;
use qcc_ir::Patch;

use crate::describe::describe;
use crate::instruments::write;
use crate::{Before, Instrument, Record};

/// Lets only the first patches of a run through, and tells which one was the last.
///
/// Passes still run when the limit is reached, as later ones may depend on what they record, but
/// nothing is changed any more. Halving the limit finds the first patch that does harm.
pub struct BisectLimit<'w> {
    limit: u64,
    seen: u64,
    last: Option<String>,
    out: Box<dyn Write + Send + 'w>,
}

impl<'w> BisectLimit<'w> {
    /// Lets `limit` patches through; `out` is told about the last of them.
    pub fn new(limit: u64, out: impl Write + Send + 'w) -> Self {
        Self { limit, seen: 0, last: None, out: Box::new(out) }
    }
}

impl Instrument for BisectLimit<'_> {
    fn select(&mut self, at: &Before<'_>, patches: &mut Vec<Patch>) {
        let left = self.limit.saturating_sub(self.seen);
        self.seen = self.seen.saturating_add(patches.len() as u64);
        patches.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(last) = patches.last() {
            let number = self.seen.min(self.limit);
            self.last = Some(format!("patch {number}, {}", describe(at.graph, last)));
        }
    }

    fn end(&mut self, _: &Record) -> Result<(), Box<Diagnostic>> {
        let last = self.last.as_deref().unwrap_or("none");
        let text = format!(
            "bisect: limit {}, {} patches in all; last applied: {last}\n",
            self.limit, self.seen
        );
        write(&mut *self.out, &text)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{ops, run_text};
    use crate::{BisectLimit, Instrument, Outcome};

    fn bisect(limit: u64) -> (String, String) {
        let mut out = Vec::new();
        let mut all: [Box<dyn Instrument + '_>; 1] = [Box::new(BisectLimit::new(limit, &mut out))];
        let (end, graph, _) = run_text("swap,nothing,swap", &mut all);
        assert_eq!(end, Ok(Outcome::Finished));
        drop(all);
        (ops(&graph).join(" "), String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_limit_holds_over_the_whole_run() {
        let (ops, text) = bisect(2);
        assert_eq!(ops, "Neg Abs Abs");
        // The second `swap` still wants what the first was kept from.
        assert_eq!(text, "bisect: limit 2, 4 patches in all; last applied: patch 2, swap at 'b'\n");
        assert_eq!(bisect(0).1, "bisect: limit 0, 6 patches in all; last applied: none\n");
        assert_eq!(bisect(9).0, "Abs Abs Abs");
    }
}
