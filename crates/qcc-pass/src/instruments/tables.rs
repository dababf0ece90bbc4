//! `Timing` and `Statistics`: what passes took and did, as tables at the end of a run.

use std::io::Write;

use qcc_diag::Diagnostic;

use crate::instruments::write;
use crate::{Instrument, Record};

/// Prints how long each pass took. Times differ from run to run and change nothing else.
pub struct Timing<'w> {
    out: Box<dyn Write + Send + 'w>,
}

impl<'w> Timing<'w> {
    /// Prints to `out`.
    pub fn new(out: impl Write + Send + 'w) -> Self {
        Self { out: Box::new(out) }
    }
}

impl Instrument for Timing<'_> {
    fn end(&mut self, record: &Record) -> Result<(), Box<Diagnostic>> {
        let total: f64 = record.passes.iter().map(|it| it.elapsed.as_secs_f64()).sum();
        let width = record.passes.iter().map(|it| it.name.len()).max().unwrap_or(0).max(5);
        let mut text =
            format!("{:<width$}  {:>10}  {:>6}  {:>8}\n", "pass", "time", "share", "patches");
        for pass in &record.passes {
            let seconds = pass.elapsed.as_secs_f64();
            let share = if total > 0.0 { 100.0 * seconds / total } else { 0.0 };
            text.push_str(&format!(
                "{:<width$}  {seconds:>8.3} s  {share:>4.0} %  {:>8}\n",
                pass.name, pass.patches
            ));
        }
        text.push_str(&format!("{:<width$}  {total:>8.3} s\n", "total"));
        write(&mut *self.out, &text)
    }
}

/// Prints the counters.
pub struct Statistics<'w> {
    out: Box<dyn Write + Send + 'w>,
}

impl<'w> Statistics<'w> {
    /// Prints to `out`.
    pub fn new(out: impl Write + Send + 'w) -> Self {
        Self { out: Box::new(out) }
    }
}

impl Instrument for Statistics<'_> {
    fn end(&mut self, record: &Record) -> Result<(), Box<Diagnostic>> {
        let rows = record.counters.iter();
        let text: String = rows.map(|(name, count)| format!("{count:>10}  {name}\n")).collect();
        write(&mut *self.out, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run_text;

    #[test]
    fn tables_have_a_row_each() {
        let (mut times, mut counts) = (Vec::new(), Vec::new());
        let mut all: [Box<dyn Instrument + '_>; 2] =
            [Box::new(Timing::new(&mut times)), Box::new(Statistics::new(&mut counts))];
        run_text("nothing,swap", &mut all).0.unwrap();
        drop(all);
        assert_eq!(String::from_utf8(counts).unwrap(), "         3  swap.swapped\n");
        let times = String::from_utf8(times).unwrap();
        let rows: Vec<Vec<&str>> =
            times.lines().map(|it| it.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["pass", "time", "share", "patches"]);
        assert_eq!((rows[1][0], rows[1][5]), ("nothing", "0"));
        assert_eq!((rows[2][0], rows[2][5]), ("swap", "3"));
        assert_eq!((rows[3][0], rows.len()), ("total", 4));
    }
}
