//! Time per kind of operator.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time that runs of a plan spent, by operator.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<BTreeMap<String, (usize, Duration)>>);

impl Clock {
    pub(crate) fn add(&self, op: &str, time: Duration) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A lookup before the insertion spares a new string for each node.
        if let Some(row) = table.get_mut(op) {
            *row = (row.0 + 1, row.1 + time);
        } else {
            table.insert(op.to_owned(), (1, time));
        }
    }

    pub(crate) fn table(&self) -> Profile {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(op, &(count, time)): (&String, &(usize, Duration))| ProfileRow {
            op: op.clone(),
            count,
            time,
        };
        let mut rows: Vec<ProfileRow> = table.iter().map(row).collect();
        rows.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.op.cmp(&b.op)));
        Profile { rows }
    }
}

/// Time of one kind of operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileRow {
    /// The operator; control flow counts the nodes of its regions too.
    pub op: String,
    /// How many nodes ran, over all runs.
    pub count: usize,
    /// Time of all of them together.
    pub time: Duration,
}

/// Time per kind of operator, the longest first. As text it is a table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// One row for each operator.
    pub rows: Vec<ProfileRow>,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.rows.iter().map(|it| it.time.as_secs_f64()).sum();
        writeln!(f, "{:>10} {:>6} {:>7}  operator", "ms", "%", "nodes")?;
        for it in &self.rows {
            let time = it.time.as_secs_f64();
            let share = if total > 0.0 { 100.0 * time / total } else { 0.0 };
            writeln!(f, "{:>10.3} {share:>6.1} {:>7}  {}", 1e3 * time, it.count, it.op)?;
        }
        writeln!(f, "{:>10.3} {:>6.1} {:>7}  all", 1e3 * total, 100.0, "")
    }
}
