//! What a run tells: plain data from which tables, reports and metadata are made.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use qcc_diag::Diagnostic;

/// What a run tells.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Notes and warnings in the order in which they came.
    pub notes: Vec<Diagnostic>,
    /// One row for each weight, in the order in which passes met them.
    pub weights: Vec<WeightRecord>,
    /// One row for each block that was tuned, in the order in which that began.
    pub blocks: Vec<BlockRecord>,
    /// What tuning takes, known before it begins.
    pub estimate: Option<Estimate>,
    /// What other budgets would have lost; `None` where no budget was given.
    pub budget: Option<BudgetRecord>,
    /// What the last pass that wanted samples took where none were given: what they are, or that it
    /// went by the weights alone. `None` where samples were given, or no pass wants any.
    pub stand_in: Option<StandIn>,
    /// Steps that a pass had time for, where it was given a time for them.
    pub steps: BTreeMap<&'static str, u16>,
    /// Counters, named `pass.what`.
    pub counters: BTreeMap<String, u64>,
    /// One row for each pass that ran, in order.
    pub passes: Vec<PassRecord>,
    /// Where in `weights` a name was put.
    index: BTreeMap<String, usize>,
}

/// What a pass works on where no samples were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// Samples that were made: what they are.
    Samples(String),
    /// Nothing but the weights: the pass.
    Weights(&'static str),
}

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Samples(it) => f.write_str(it),
            Self::Weights(pass) => write!(f, "none: {pass} used the weights alone"),
        }
    }
}

/// What a run takes, told in advance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Wall time; `None` when nothing was measured.
    pub seconds: Option<f64>,
    /// The most memory, in bytes. Mapped files do not count.
    pub memory_bytes: u64,
}

/// What was done to one weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightRecord {
    /// Name of the initializer.
    pub name: String,
    /// Where it is used: names of the nodes, or of their outputs where they have none.
    pub sites: Vec<String>,
    /// Operator of the sites, `MatMul` say.
    pub op: String,
    /// Number of outputs.
    pub n: usize,
    /// Number of inputs.
    pub k: usize,
    /// The pass that chose the numbers; empty while none did.
    pub pass: &'static str,
    /// Width of a code; `None` in float.
    pub bits: Option<u8>,
    /// Group size, as options spell it: `64`, `per-channel`.
    pub group: String,
    /// The grid, as options spell it: `asymmetric`, say.
    pub grid: String,
    /// The layout it is written in; empty while none is chosen.
    pub layout: String,
    /// Stored bits for each weight, scales and zero points included.
    pub bpw: f64,
    /// Size before, in bytes.
    pub bytes_before: u64,
    /// Size after, in bytes.
    pub bytes_after: u64,
    /// The part of it that is codes; the rest is scales and zero points. 0 while none are stored.
    pub bytes_codes: u64,
    /// Relative weight error: the norm of the difference by the norm of the weight.
    pub relative_error: Option<f64>,
    /// Signal by noise in the weight, in dB.
    pub snr_db: Option<f64>,
    /// Signal by noise in the weight by plain rounding, in dB.
    pub rtn_snr_db: Option<f64>,
    /// What the pass made small, before it began. Its unit is that of the pass.
    pub objective_before: Option<f64>,
    /// The same, at the end.
    pub objective_after: Option<f64>,
    /// Weights that lie outside of the range of the grid.
    pub clipped: Option<u64>,
    /// How large what it is multiplied with is; `None` where no samples were run.
    pub activations: Option<ActivationRecord>,
    /// What it could become, and what was chosen; empty where nothing was to choose.
    pub candidates: Vec<Candidate>,
    /// Why it was left in float; `None` when it was not.
    pub reason_left_float: Option<String>,
}

/// How large what a weight is multiplied with is, on samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationRecord {
    /// The largest magnitude.
    pub largest: f64,
    /// The median of the largest magnitudes of groups of 32 inputs.
    pub median: f64,
    /// The share of values beyond 8 times the root mean square of their token.
    pub beyond: f64,
}

/// What a weight could become.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Width of a code.
    pub bits: u8,
    /// Group size, as options spell it.
    pub group: String,
    /// Size of the weight, scales and zero points included, in bytes.
    pub bytes: u64,
    /// What the model is expected to lose by it.
    pub loss: f64,
    /// Whether it was chosen.
    pub is_chosen: bool,
}

/// What the model is expected to lose by the size of its weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BudgetRecord {
    /// Sizes of all weights together, in bytes, with the least loss of any choice of that size.
    /// From the smallest to the largest.
    pub points: Vec<(u64, f64)>,
    /// The same of what was chosen.
    pub chosen: (u64, f64),
}

/// How one block was tuned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockRecord {
    /// What the block is called.
    pub name: String,
    /// Steps that were taken.
    pub steps: usize,
    /// Steps, or trials, with the error of what the block gives, by that at the start.
    pub objective: Vec<(usize, f64)>,
    /// How many weights it has.
    pub weights: usize,
    /// Why they were tuned one at a time; `None` where they were together.
    pub obstacle: Option<String>,
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq)]
pub struct PassRecord {
    /// The pass.
    pub name: &'static str,
    /// How many patches were applied.
    pub patches: usize,
    /// How many notes and warnings it put down.
    pub notes: usize,
    /// How long it took, verification included. For display only.
    pub elapsed: Duration,
}

impl Record {
    /// Adds what one more pass takes: they run one after the other, so times add up, and memory is
    /// the most of them.
    pub fn expect(&mut self, more: Estimate) {
        let known = self.estimate;
        let seconds = match (known.and_then(|it| it.seconds), more.seconds) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        let memory_bytes = known.map_or(0, |it| it.memory_bytes).max(more.memory_bytes);
        self.estimate = Some(Estimate { seconds, memory_bytes });
    }

    /// The row of a weight; a new one when there is none.
    pub fn weight(&mut self, name: &str) -> &mut WeightRecord {
        let position = match self.index.get(name) {
            Some(&it) if self.weights.get(it).is_some_and(|row| row.name == name) => Some(it),
            _ => self.weights.iter().position(|row| row.name == name),
        };
        let position = position.unwrap_or_else(|| {
            self.weights.push(WeightRecord { name: name.to_owned(), ..Default::default() });
            self.weights.len() - 1
        });
        if self.index.get(name) != Some(&position) {
            self.index.insert(name.to_owned(), position);
        }
        &mut self.weights[position]
    }

    /// The row of a block; a new one when there is none.
    pub fn block(&mut self, name: &str) -> &mut BlockRecord {
        let position = self.blocks.iter().position(|it| it.name == name).unwrap_or_else(|| {
            self.blocks.push(BlockRecord { name: name.to_owned(), ..Default::default() });
            self.blocks.len() - 1
        });
        &mut self.blocks[position]
    }

    /// Adds to a counter, named `pass.what`.
    pub fn count(&mut self, name: &str, by: u64) {
        match self.counters.get_mut(name) {
            Some(count) => *count = count.saturating_add(by),
            None => {
                self.counters.insert(name.to_owned(), by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_the_most_memory_counts() {
        let mut record = Record::default();
        for (seconds, memory_bytes) in [(None, 5), (Some(2.0), 9), (Some(3.0), 1), (None, 2)] {
            record.expect(Estimate { seconds, memory_bytes });
        }
        assert_eq!(record.estimate, Some(Estimate { seconds: Some(5.0), memory_bytes: 9 }));
    }

    #[test]
    fn a_weight_has_one_row() {
        let mut record = Record::default();
        record.weight("a").n = 3;
        record.weight("b").n = 4;
        record.weight("a").k = 5;
        assert_eq!(record.weights.len(), 2);
        assert_eq!((record.weights[0].n, record.weights[0].k), (3, 5));
        // Rows may be moved by whoever holds the record.
        record.weights.reverse();
        assert_eq!(record.weight("a").n, 3);
        record.weights.remove(0);
        assert_eq!(record.weight("b").n, 0);
        assert_eq!(record.weights.len(), 2);
    }

    #[test]
    fn a_block_has_one_row() {
        let mut record = Record::default();
        record.block("layer 0").objective.push((0, 1.0));
        record.block("layer 1").steps = 9;
        record.block("layer 0").objective.push((10, 0.5));
        assert_eq!(record.blocks.len(), 2);
        assert_eq!(record.blocks[0].objective, [(0, 1.0), (10, 0.5)]);
    }

    #[test]
    fn counters_add_up() {
        let mut record = Record::default();
        record.count("fold.folded", 2);
        record.count("fold.folded", 3);
        assert_eq!(record.counters["fold.folded"], 5);
    }
}
