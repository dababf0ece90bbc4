//! Figures of the elements of a tensor.

use qcc_ir::{Attr, EvalCx};
use qcc_tensor::{DType, Tensor};
use serde_json::{Value, json};

/// Which quantiles are given, in parts of one.
const QUANTILES: [f64; 7] = [0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999];

/// How many places are named, and up to how many elements all are shown.
const FIRST: usize = 5;
const FEW: usize = 16;

/// Figures of all elements of a tensor; those of size are over the finite ones, in f64.
#[derive(Debug)]
pub(super) struct Figures {
    len: usize,
    dims: Vec<usize>,
    zeros: Places,
    nans: Places,
    infinities: Places,
    /// `None` where no element is finite.
    finite: Option<Finite>,
    /// All elements, of a small tensor.
    few: Vec<f64>,
}

/// How many elements are of a kind, and the positions of the first ones.
#[derive(Debug, Default)]
struct Places {
    count: usize,
    first: Vec<usize>,
}

#[derive(Debug)]
struct Finite {
    min: f64,
    max: f64,
    mean: f64,
    /// Root of the mean square.
    rms: f64,
    /// One for each of [`QUANTILES`]: the element at the nearest rank.
    quantiles: [f64; QUANTILES.len()],
}

/// A number that is exact in f64.
trait Number: Copy + PartialOrd + Into<f64> {}

impl Number for f32 {}
impl Number for f64 {}

impl Figures {
    /// Looks at every element.
    ///
    /// # Errors
    /// A sentence, for types that hold no real numbers.
    pub(super) fn of(tensor: &Tensor) -> Result<Self, String> {
        let dims = tensor.dims().to_vec();
        let wide = |values: Vec<f64>| Self::count(&values, dims.clone());
        let said = |error: qcc_tensor::TensorError| error.to_string();
        match tensor.dtype() {
            DType::F64 => Ok(Self::count(&tensor.as_slice::<f64>().map_err(said)?, dims)),
            DType::U64 => {
                let values = tensor.as_slice::<u64>().map_err(said)?;
                Ok(wide(values.iter().map(|&it| it as f64).collect()))
            }
            DType::I32 | DType::I64 | DType::U32 | DType::Bool => {
                let values = tensor.to_i64().map_err(said)?;
                Ok(wide(values.iter().map(|&it| it as f64).collect()))
            }
            dtype => match tensor.to_f32() {
                Ok(values) => Ok(Self::count(&values, dims)),
                // Types of few bits are taken apart by the operator that does so in models.
                Err(_) => match widened(tensor) {
                    Some(it) => Ok(Self::count(&it.to_f32().map_err(said)?, dims)),
                    None => Err(format!("elements of type {} are no real numbers", dtype.text())),
                },
            },
        }
    }

    fn count<T: Number>(values: &[T], dims: Vec<usize>) -> Self {
        let (mut zeros, mut nans, mut infinities) =
            (Places::default(), Places::default(), Places::default());
        let mut finite: Vec<T> = Vec::new();
        let (mut sum, mut squares) = (0.0, 0.0);
        for (at, &it) in values.iter().enumerate() {
            let value: f64 = it.into();
            match value {
                _ if value.is_nan() => nans.add(at),
                _ if value.is_infinite() => infinities.add(at),
                _ => {
                    if value == 0.0 {
                        zeros.add(at);
                    }
                    sum += value;
                    squares += value * value;
                    finite.push(it);
                }
            }
        }
        let count = finite.len() as f64;
        finite.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        let ends = finite.first().zip(finite.last());
        let finite = ends.map(|(&min, &max)| Finite {
            min: min.into(),
            max: max.into(),
            mean: sum / count,
            rms: (squares / count).sqrt(),
            quantiles: QUANTILES.map(|part| {
                let at = ((part * count).ceil() as usize).clamp(1, finite.len()) - 1;
                finite[at].into()
            }),
        });
        let few = if values.len() <= FEW { values } else { &[] };
        let few = few.iter().map(|&it| it.into()).collect();
        Self { len: values.len(), dims, zeros, nans, infinities, finite, few }
    }

    /// Labels and texts.
    pub(super) fn rows(&self) -> impl Iterator<Item = [String; 2]> {
        let mut rows = vec![("elements", self.len.to_string())];
        if let Some(it) = &self.finite {
            let ends = format!("{}   max {}", number(it.min), number(it.max));
            rows.push(("min", ends));
            rows.push(("mean", format!("{}   rms {}", number(it.mean), number(it.rms))));
            let pairs = QUANTILES.iter().zip(it.quantiles);
            let list: Vec<_> =
                pairs.map(|(part, it)| format!("{} % {}", part * 100.0, number(it))).collect();
            rows.push(("quantiles", list.join("   ")));
        }
        for (label, places) in
            [("zero", &self.zeros), ("NaN", &self.nans), ("infinite", &self.infinities)]
        {
            rows.push((label, self.places(places)));
        }
        if !self.few.is_empty() {
            let list: Vec<_> = self.few.iter().copied().map(number).collect();
            rows.push(("all", list.join(", ")));
        }
        rows.into_iter().map(|(label, text)| [label.to_owned(), text])
    }

    fn places(&self, places: &Places) -> String {
        let mut text = places.count.to_string();
        if places.count > 0 {
            let list: Vec<_> =
                places.first.iter().map(|&it| format!("{:?}", self.index(it))).collect();
            let more = if places.count > list.len() { ", ..." } else { "" };
            text += &format!(" at {}{more}", list.join(", "));
        }
        text
    }

    /// The index of a position, outermost axis first.
    fn index(&self, mut at: usize) -> Vec<usize> {
        let mut index: Vec<usize> = Vec::new();
        for &dim in self.dims.iter().rev() {
            index.push(at % dim.max(1));
            at /= dim.max(1);
        }
        index.reverse();
        index
    }

    /// All of it, not rounded.
    pub(super) fn to_json(&self) -> Value {
        let places = |it: &Places| {
            let first: Vec<_> = it.first.iter().map(|&it| self.index(it)).collect();
            json!({"count": it.count, "first": first})
        };
        let finite = self.finite.as_ref();
        let quantiles = finite.map(|it| {
            let pairs = QUANTILES.iter().zip(it.quantiles);
            serde_json::Map::from_iter(pairs.map(|(part, it)| (part.to_string(), json!(it))))
        });
        let mut all = json!({
            "elements": self.len,
            "min": finite.map(|it| it.min),
            "max": finite.map(|it| it.max),
            "mean": finite.map(|it| it.mean),
            "rms": finite.map(|it| it.rms),
            "quantiles": quantiles,
            "zero": places(&self.zeros),
            "nan": places(&self.nans),
            "infinite": places(&self.infinities),
        });
        if !self.few.is_empty() {
            all["all"] = json!(self.few);
        }
        all
    }
}

impl Places {
    fn add(&mut self, at: usize) {
        self.count += 1;
        if self.first.len() < FIRST {
            self.first.push(at);
        }
    }
}

/// A number of a few digits, as short as it can be read.
fn number(it: f64) -> String {
    let size = it.abs();
    match size {
        _ if !it.is_finite() || (it.fract() == 0.0 && size < 1e7) => it.to_string(),
        1e-3..1e7 => format!("{it:.5}").trim_end_matches('0').to_owned(),
        _ => format!("{it:.4e}"),
    }
}

/// The elements as f32, by `Cast`.
fn widened(tensor: &Tensor) -> Option<Tensor> {
    let attrs = vec![("to".to_owned(), Attr::Int(DType::F32.onnx_code().into()))];
    let cast = qcc_ops::parse("", "Cast", 25, attrs).ok()?;
    cast.eval(&EvalCx::default(), &[Some(tensor)], 1).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_over_finite_elements() {
        let values = vec![1.0f32, f32::NAN, 0.0, -3.0, f32::INFINITY, 2.0];
        let found = Figures::of(&Tensor::from_vec(vec![2, 3], values).unwrap()).unwrap();
        let finite = found.finite.as_ref().unwrap();
        assert_eq!((finite.min, finite.max, finite.mean), (-3.0, 2.0, 0.0));
        assert_eq!(finite.rms, (14.0f64 / 4.0).sqrt());
        // The second of four is at the half.
        assert_eq!(finite.quantiles[3], 0.0);
        assert_eq!(found.places(&found.nans), "1 at [0, 1]");
        assert_eq!(found.places(&found.infinities), "1 at [1, 1]");
        assert_eq!(found.places(&found.zeros), "1 at [0, 2]");
    }

    #[test]
    fn the_first_places_stand_for_all() {
        let found = Figures::of(&Tensor::from_vec(vec![20], vec![0i8; 20]).unwrap()).unwrap();
        assert_eq!(found.places(&found.zeros), "20 at [0], [1], [2], [3], [4], ...");
        assert!(found.few.is_empty());
    }

    #[test]
    fn nothing_finite_has_no_figures() {
        let found = Figures::of(&Tensor::from_vec(vec![1], vec![f64::NAN]).unwrap()).unwrap();
        assert!(found.to_json()["min"].is_null());
        let found = Figures::of(&Tensor::from_vec(vec![0], Vec::<f32>::new()).unwrap()).unwrap();
        assert!(found.to_json()["quantiles"].is_null());
    }

    #[test]
    fn codes_of_few_bits_are_numbers() {
        let bytes = bytes::Bytes::from_static(&[0xf1]);
        let found = Figures::of(&Tensor::new(DType::I4, vec![2], bytes).unwrap()).unwrap();
        assert_eq!(found.few, [1.0, -1.0]);
    }

    #[test]
    fn integers_are_exact() {
        let values = vec![i64::from(i32::MAX), 1 << 52];
        let found = Figures::of(&Tensor::from_vec(vec![2], values).unwrap()).unwrap();
        assert_eq!(found.to_json()["max"], json!((1i64 << 52) as f64));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 3.0, 0.5, 0.123456789, 1e-9, 1e20].map(number);
        assert_eq!(texts, ["0", "3", "0.5", "0.12346", "1.0000e-9", "1.0000e20"]);
    }
}
