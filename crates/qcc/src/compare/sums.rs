//! Both models run on a sample, and what is added up of it.

use std::collections::BTreeMap;

use qcc_data::Difference;
use qcc_diag::{Diagnostic, codes};
use qcc_exec::PlanOptions;
use qcc_ir::{Graph, Type, Value};
use qcc_pass::Cancel;
use qcc_tensor::{DType, Pool, Tensor};

use super::choose::Pair;
use super::{Compared, cannot};
use crate::runner::{Feed, Runner};
use crate::{Error, Model};

/// Bytes of the first model's values that are kept until the second model has run.
const MOST_KEPT: usize = 1 << 30;

/// One of the two models.
pub(super) struct Side {
    path: String,
    runner: Runner,
}

impl Side {
    pub(super) fn new(model: &Model, cancel: &Cancel) -> Result<Self, Error> {
        let path = model.source().path().display().to_string();
        Ok(Self { path, runner: Runner::new(model, cancel)?.typed(cancel)? })
    }

    pub(super) fn graph(&self) -> &Graph {
        self.runner.graph()
    }

    /// Sets which values will be looked at.
    pub(super) fn show(&mut self, tapped: Vec<Value>, pool: &Pool) {
        let outputs = Some(Vec::new());
        let options = PlanOptions { outputs, tapped, pool: pool.clone(), profile: false };
        self.runner.set_options(options);
    }

    fn run(
        &mut self,
        feed: &Feed,
        taps: &[Value],
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<(), Error> {
        let feed = self.takes(feed);
        let ran = self.runner.run(&feed, taps, sink);
        ran.map(|_| ()).map_err(|it| self.in_model(&it))
    }

    /// Bytes of values; 0 where the shape is not known before a run.
    fn bytes(&mut self, feed: &Feed, values: &[Value]) -> Result<Vec<usize>, Error> {
        let feed = self.takes(feed);
        let plan = match self.runner.plan(&feed) {
            Ok(plan) => plan,
            Err(error) => return Err(self.in_model(&error)),
        };
        let size = |ty: &Type| {
            let len = qcc_tensor::checked_len(&ty.known_dims()?)?;
            ty.dtype().unwrap_or(DType::F32).size_of(len)
        };
        Ok(values.iter().map(|&it| plan.ty(it).and_then(size).unwrap_or(0)).collect())
    }

    /// Inputs of the model, of all that are given.
    fn takes(&self, feed: &Feed) -> Feed {
        let graph = self.graph();
        let names = graph.inputs().iter().map(|&node| graph.value_name(Value { node, slot: 0 }));
        names.filter_map(|it| Some((it.to_owned(), feed.get(it)?.clone()))).collect()
    }

    fn in_model(&self, error: &Error) -> Error {
        let mut told = error.diagnostic().clone();
        if told.code == codes::QCC0201 {
            told.help = vec!["`qcc inspect` lists the operators of a model".to_owned()];
        }
        told.with_note(format!("that was in '{}'", self.path)).into()
    }
}

/// What is added up, for each of the values that both models have.
pub(super) struct Sums<'a> {
    pairs: &'a [Pair],
    rows: Vec<Row>,
    by_a: BTreeMap<Value, usize>,
    by_b: BTreeMap<Value, usize>,
}

#[derive(Clone, Default)]
struct Row {
    difference: Difference,
    /// `None` before the first sample.
    is_float: Option<bool>,
    not_finite: [u64; 2],
    /// Types that cannot be compared.
    misfit: Option<[Type; 2]>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(pairs: &'a [Pair]) -> Self {
        Self {
            pairs,
            rows: vec![Row::default(); pairs.len()],
            by_a: pairs.iter().enumerate().map(|(idx, it)| (it.a, idx)).collect(),
            by_b: pairs.iter().enumerate().map(|(idx, it)| (it.b, idx)).collect(),
        }
    }

    /// Compares as many of the values from `start` on as may be kept at one time, on one sample;
    /// gives the next.
    pub(super) fn add(
        &mut self,
        [a, b]: &mut [Side; 2],
        feed: &Feed,
        start: usize,
    ) -> Result<usize, Error> {
        let rest = self.pairs.get(start..).unwrap_or_default();
        let values: Vec<Value> = rest.iter().map(|it| it.a).collect();
        let count = fitting(&a.bytes(feed, &values)?, MOST_KEPT);
        let mut kept: BTreeMap<usize, Tensor> = BTreeMap::new();
        a.run(feed, values.get(..count).unwrap_or_default(), &mut |value, tensor| {
            if let Some(&idx) = self.by_a.get(&value) {
                kept.insert(idx, tensor.clone());
            }
        })?;
        let values: Vec<Value> = rest.iter().take(count).map(|it| it.b).collect();
        let mut result = Ok(());
        b.run(feed, &values, &mut |value, tensor| {
            let idx = self.by_b.get(&value).copied();
            let kept = idx.and_then(|it| Some((it, kept.remove(&it)?)));
            let Some((idx, of_a)) = kept else { return };
            let (pair, row) = (self.pairs.get(idx), self.rows.get_mut(idx));
            if let (Some(pair), Some(row), true) = (pair, row, result.is_ok()) {
                result = row.add(pair, &of_a, tensor);
            }
        })?;
        result.map(|()| start.saturating_add(count))
    }

    /// The figures, what they belong to, and what was left out.
    pub(super) fn finish(self) -> (Vec<Compared>, Vec<&'a Pair>, Vec<Diagnostic>) {
        let (mut values, mut pairs, mut misfits) = (Vec::new(), Vec::new(), Vec::new());
        for (pair, row) in self.pairs.iter().zip(self.rows) {
            match (&row.misfit, row.is_float) {
                (Some([a, b]), _) => misfits.push(format!("'{}' is {a} and {b}", pair.name)),
                // Indices and shapes inside of a model say nothing about its quality.
                (None, Some(false)) if !pair.is_output => {}
                _ => {
                    values.push(row.figures(pair));
                    pairs.push(pair);
                }
            }
        }
        let mut notes = Vec::new();
        if !misfits.is_empty() {
            /// Values that a message lists before it only counts them.
            const LISTED: usize = 5;
            let count = misfits.len();
            let text = match count {
                1 => "an inner value has the same name and another type: it is left out".to_owned(),
                _ => format!("{count} inner values have the same name and another type: left out"),
            };
            let note = Diagnostic::warning(codes::QCC0405, text);
            notes.push(misfits.into_iter().take(LISTED).fold(note, Diagnostic::with_note));
        }
        (values, pairs, notes)
    }
}

/// How many of the first sizes have a sum within `most`, and at least one.
fn fitting(sizes: &[usize], most: usize) -> usize {
    let mut sum = 0usize;
    let fits = |it: &&usize| {
        sum = sum.saturating_add(**it);
        sum <= most
    };
    sizes.iter().take_while(fits).count().max(1)
}

impl Row {
    fn add(&mut self, pair: &Pair, a: &Tensor, b: &Tensor) -> Result<(), Error> {
        let floats = [a, b].map(|it| it.dtype().is_float());
        if a.dims() != b.dims() || floats[0] != floats[1] {
            let types = [Type::of(a), Type::of(b)];
            if pair.is_output {
                let [a, b] = types;
                return Err(cannot(format!("output '{}' is {a} and {b}", pair.name))
                    .with_note("both models ran on the same sample")
                    .with_help("compare models whose outputs have equal shapes")
                    .into());
            }
            self.misfit = Some(types);
            return Ok(());
        }
        self.is_float = Some(floats[0]);
        if floats[0] {
            for (sum, tensor) in self.not_finite.iter_mut().zip([a, b]) {
                *sum = sum.saturating_add(not_finite(tensor));
            }
        } else if !pair.is_output {
            return Ok(());
        }
        self.difference.add(a, b).map_err(|it| Error::from(it.0))
    }

    fn figures(&self, pair: &Pair) -> Compared {
        let it = &self.difference;
        Compared {
            name: pair.name.clone(),
            is_output: pair.is_output,
            block: pair.block.clone(),
            is_float: self.is_float != Some(false),
            elements: it.count(),
            max_abs: it.max_abs(),
            relative: it.relative(),
            cosine: it.cosine(),
            snr_db: it.snr_db(),
            unequal: it.unequal(),
            not_finite: self.not_finite,
            not_finite_differ: it.not_finite(),
        }
    }
}

/// Elements that are NaN or infinite.
fn not_finite(tensor: &Tensor) -> u64 {
    let count = match tensor.dtype() {
        DType::F64 => {
            tensor.as_slice::<f64>().map(|it| it.iter().filter(|it| !it.is_finite()).count())
        }
        _ => tensor.to_f32().map(|it| it.iter().filter(|it| !it.is_finite()).count()),
    };
    // A type without such a view cannot be compared either, which is told there.
    count.unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_fit_and_one_at_least() {
        assert_eq!(fitting(&[3, 4, 3, 1], 10), 3);
        assert_eq!(fitting(&[30, 4], 10), 1);
        assert_eq!(fitting(&[0, 0], 0), 2);
        assert_eq!(fitting(&[usize::MAX, 1], usize::MAX - 1), 1);
    }

    #[test]
    fn infinite_and_nan_are_counted() {
        assert_eq!(not_finite(&Tensor::vector(vec![1f32, f32::NAN, f32::NEG_INFINITY])), 2);
        assert_eq!(not_finite(&Tensor::vector(vec![1f64, f64::INFINITY, 1e300])), 1);
    }
}
