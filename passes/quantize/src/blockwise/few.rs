//! Some of the samples: no more are run than steps and trials see.

use qcc_pass::{SampleError, SampleSource};
use qcc_tensor::Tensor;

use super::{Options, Steps};
use crate::held;

/// Least number of samples, if there are as many: scales are searched with means over them.
const LEAST: usize = 32;

/// Samples at equal distances in those that there are.
pub(super) struct Few<'a> {
    samples: &'a dyn SampleSource,
    count: usize,
}

impl<'a> Few<'a> {
    /// As many as tuning needs; all where nobody knows how many steps there are.
    pub(super) fn of(samples: &'a dyn SampleSource, options: Options) -> Self {
        let all = samples.len();
        let count = match options.steps {
            Steps::Count(steps) => needed(all, steps, options.batch),
            Steps::Within(_) => all,
        };
        Self { samples, count }
    }

    /// The first alone.
    pub(super) fn first(samples: &'a dyn SampleSource) -> Self {
        Self { samples, count: samples.len().min(1) }
    }

    /// Which of all samples one of them is.
    pub(super) fn number(&self, index: usize) -> usize {
        index * self.samples.len() / self.count.max(1)
    }
}

/// How many of `all` samples so many steps of `batch` samples need.
pub(super) fn needed(all: usize, steps: u16, batch: usize) -> usize {
    held::enough(usize::from(steps) * batch, all).max(LEAST).min(all)
}

impl SampleSource for Few<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        self.samples.batch(self.number(index))
    }

    fn counted(&self, index: usize) -> Result<Option<Tensor>, SampleError> {
        self.samples.counted(self.number(index))
    }

    fn describe(&self) -> String {
        self.samples.describe()
    }

    fn is_text(&self) -> bool {
        self.samples.is_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blockwise::{Inputs, Select, Start};
    use qcc_quant::tuner::Scales;

    struct Numbers(usize);

    impl SampleSource for Numbers {
        fn len(&self) -> usize {
            self.0
        }

        fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
            let number = Tensor::from_vec(vec![], vec![index as i64]).unwrap();
            Ok(vec![("n".to_owned(), number)])
        }

        fn describe(&self) -> String {
            "numbers".to_owned()
        }
    }

    fn indices(all: usize, steps: Steps, batch: usize) -> Vec<i64> {
        let (inputs, scales, start) = (Inputs::Quantized, Scales::Tuned, Start::Searched);
        let options =
            Options { steps, rate: None, batch, inputs, scales, start, select: Select::Held };
        let numbers = Numbers(all);
        let few = Few::of(&numbers, options);
        (0..few.len()).map(|it| few.batch(it).unwrap()[0].1.as_slice::<i64>().unwrap()[0]).collect()
    }

    #[test]
    fn no_sample_is_run_that_no_step_draws() {
        assert_eq!(indices(128, Steps::Count(20), 1), (0..32).map(|it| 4 * it).collect::<Vec<_>>());
        assert_eq!(indices(100, Steps::Count(60), 1).len(), 63, "3 are held");
        assert_eq!(indices(10, Steps::Count(1), 1), (0..10).collect::<Vec<_>>(), "means need more");
        assert_eq!(indices(128, Steps::Count(50), 8).len(), 128);
        let within = Steps::Within(std::time::Duration::from_secs(1));
        assert_eq!(indices(128, within, 1).len(), 128, "nobody knows how many steps");
        assert_eq!(indices(0, Steps::Count(20), 1), [] as [i64; 0]);
    }
}
