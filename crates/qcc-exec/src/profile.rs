//! Time per kind of operator.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time that runs of a plan spent, by operator.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<BTreeMap<String, (usize, Duration, u64)>>);

impl Clock {
    pub(crate) fn add(&self, op: &str, time: Duration, flops: u64) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A lookup before the insertion spares a new string for each node.
        if let Some(row) = table.get_mut(op) {
            *row = (row.0 + 1, row.1 + time, row.2.saturating_add(flops));
        } else {
            table.insert(op.to_owned(), (1, time, flops));
        }
    }

    pub(crate) fn table(&self) -> Profile {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(op, &(count, time, flops)): (&String, &(usize, Duration, u64))| ProfileRow {
            op: op.clone(),
            count,
            time,
            flops,
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
    /// Additions and multiplications of products of matrices, as far as shapes were known.
    pub flops: u64,
}

/// Time per kind of operator, the longest first. As text it is a table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// One row for each operator.
    pub rows: Vec<ProfileRow>,
}

impl Profile {
    /// Time of the products of matrices, and their additions and multiplications.
    pub fn products(&self) -> (Duration, u64) {
        let products = self.rows.iter().filter(|it| it.flops > 0);
        products.fold((Duration::ZERO, 0), |(time, flops), it| {
            (time + it.time, flops.saturating_add(it.flops))
        })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.rows.iter().map(|it| it.time.as_secs_f64()).sum();
        writeln!(f, "{:>10} {:>6} {:>7} {:>8}  operator", "ms", "%", "nodes", "GFLOP/s")?;
        for it in &self.rows {
            let time = it.time.as_secs_f64();
            let share = if total > 0.0 { 100.0 * time / total } else { 0.0 };
            let rate = match it.flops {
                0 => String::new(),
                flops => format!("{:.1}", flops as f64 / time.max(1e-9) / 1e9),
            };
            let (ms, count, op) = (1e3 * time, it.count, &it.op);
            writeln!(f, "{ms:>10.3} {share:>6.1} {count:>7} {rate:>8}  {op}")?;
        }
        writeln!(f, "{:>10.3} {:>6.1} {:>7} {:>8}  all", 1e3 * total, 100.0, "", "")
    }
}
