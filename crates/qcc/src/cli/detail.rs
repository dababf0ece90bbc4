//! What reports show of each weight beyond what passes record: its error by plain rounding, and for
//! the worst ones how values and codes are distributed, and where the errors are. It takes a look at each weight twice, so it
//! is measured only for `--record` and `--report`.

mod heat;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, Value};
use qcc_ops::quant::{Numbers, Quant};
use qcc_pass::{Before, Instrument};
use qcc_quant::error::{SquaredError, measure_codes};
use qcc_quant::rows::WeightRows;
use qcc_quant::rtn::rtn;
use qcc_report::{HeatMap, Histogram, RunRecord};
use qcc_tensor::Tensor;
use rayon::prelude::*;

/// Weights that have histograms: those with the largest errors.
const WORST: usize = 12;

/// Weights of which it is told where the errors are.
const MAPPED: usize = 3;

/// Parts of the range of values.
const BINS: usize = 64;

/// Rows that are read at once; sums are added in their order, whatever threads do.
const ROWS: usize = 64;

/// What was measured. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Detail(Arc<Mutex<Found>>);

#[derive(Default)]
struct Found {
    /// SNR by rounding to nearest, by the name of the weight; not where that was the recipe.
    plain: BTreeMap<String, f64>,
    histograms: Vec<Histogram>,
    heat_maps: Vec<HeatMap>,
}

/// Looks at the numbers right before they are packed.
impl Instrument for Detail {
    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        if matches!(at.step.pass.name, "pack" | "to-fake") {
            let found = measure(at.graph);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
        Ok(())
    }
}

impl Detail {
    /// Adds what was measured to a record.
    pub(super) fn add_to(&self, record: &mut RunRecord) {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for row in &mut record.weights {
            let plain = match row.pass.as_str() {
                "rtn" => row.snr_db,
                _ => found.plain.get(&row.name).copied(),
            };
            row.rtn_snr_db = row.rtn_snr_db.or(plain.filter(|it| it.is_finite()));
        }
        record.histograms = found.histograms.clone();
        record.heat_maps = found.heat_maps.clone();
    }
}

/// A weight with its numbers.
struct Weight<'a> {
    name: String,
    quant: &'a Quant,
    numbers: &'a Numbers,
    tensor: &'a Tensor,
}

impl Weight<'_> {
    fn rows(&self) -> Option<WeightRows<'_>> {
        self.quant.form.rows(self.tensor)
    }
}

fn measure(root: &Graph) -> Found {
    let mut found = Found::default();
    let mut errors: Vec<(f64, Weight<'_>)> = Vec::new();
    for scope in root.scopes() {
        for weight in root.at(&scope).into_iter().flat_map(weights) {
            let Some(rows) = weight.rows() else { continue };
            let snr = error(&rows, weight.numbers).snr_db();
            if weight.quant.by != "rtn" {
                let codes = rtn(&rows, &weight.quant.spec);
                let plain = measure_codes(&rows, None, &codes).plain().snr_db();
                found.plain.insert(weight.name.clone(), plain);
            }
            errors.push((snr, weight));
        }
    }
    errors.sort_by(|a, b| match a.0.total_cmp(&b.0) {
        Ordering::Equal => a.1.name.cmp(&b.1.name),
        order => order,
    });
    let worst = || errors.iter().take(WORST).filter(|it| it.0.is_finite()).map(|it| &it.1);
    found.histograms = worst().filter_map(histogram).collect();
    found.heat_maps = worst().take(MAPPED).filter_map(heat::map).collect();
    found
}

/// The weights of a graph that have numbers.
fn weights(graph: &Graph) -> Vec<Weight<'_>> {
    let mut all = Vec::new();
    for (node, it) in graph.nodes() {
        let Some(quant) = it.op().and_then(|it| it.is::<Quant>()) else { continue };
        let Some(numbers) = &quant.numbers else { continue };
        let Some(source) = it.inputs.first().copied().flatten() else { continue };
        let Some(tensor) = graph.constant(source) else { continue };
        // A `Quant` around a whole weight has its name; one of only some uses has a longer one.
        let own = graph.value_name(Value { node, slot: 0 });
        let name = graph.value_name(source);
        let name = name.strip_suffix(".inner").filter(|it| *it == own).unwrap_or(name);
        all.push(Weight { name: name.to_owned(), quant, numbers, tensor });
    }
    all
}

/// Runs `each` on chunks of rows: the first row, and the values. Gives what it returns, in order.
fn by_chunks<T: Send>(rows: &WeightRows<'_>, each: impl Fn(usize, &[f32]) -> T + Sync) -> Vec<T> {
    let (n, k) = (rows.n(), rows.k());
    (0..n.div_ceil(ROWS))
        .into_par_iter()
        .map(|chunk| {
            let first = chunk * ROWS;
            let mut values = vec![0.0; (n - first).min(ROWS) * k];
            rows.read(first, &mut values);
            each(first, &values)
        })
        .collect()
}

fn error(rows: &WeightRows<'_>, numbers: &Numbers) -> SquaredError {
    let (view, k) = (numbers.view(), rows.k());
    let parts = by_chunks(rows, |first, values| {
        let (mut codes, mut out) = (vec![0; k], vec![0.0; k]);
        let mut sum = SquaredError::default();
        for (row, values) in values.chunks_exact(k).enumerate() {
            view.dequantize(first + row, &mut codes, &mut out);
            for (&w, &v) in values.iter().zip(&out) {
                sum.energy += f64::from(w) * f64::from(w);
                sum.squared += f64::from(w - v) * f64::from(w - v);
            }
        }
        sum
    });
    parts.into_iter().fold(SquaredError::default(), |sum, it| sum + it)
}

fn histogram(weight: &Weight<'_>) -> Option<Histogram> {
    let rows = weight.rows()?;
    let ranges = by_chunks(&rows, |_, values| {
        let range = (f32::INFINITY, f32::NEG_INFINITY);
        values.iter().fold(range, |(low, high), &it| (low.min(it), high.max(it)))
    });
    let low = ranges.iter().map(|it| it.0).fold(f32::INFINITY, f32::min);
    let high = ranges.iter().map(|it| it.1).fold(f32::NEG_INFINITY, f32::max);
    let (low, high) = (f64::from(low), f64::from(high));
    let scale = BINS as f64 / (high - low);
    let (view, k) = (weight.numbers.view(), rows.k());
    let (bits, size) = (weight.quant.spec.bits.get(), weight.quant.spec.group.len(k));
    let groups = weight.quant.spec.group.count(k);
    let most = (1u32 << bits) - 1;
    let parts = by_chunks(&rows, |first, values| {
        let mut part = (vec![0u64; BINS], vec![0u64; most as usize + 1], 0u64);
        let mut codes = vec![0; k];
        for (row, values) in values.chunks_exact(k).enumerate() {
            let row = first + row;
            view.row(row, &mut codes);
            for &code in &codes {
                part.1[usize::from(code)] += 1;
            }
            let grids = view.scales[row * groups..].iter().zip(&view.zeros[row * groups..]);
            for (values, (&scale_of_group, &zero)) in values.chunks(size).zip(grids) {
                for &w in values {
                    let bin = ((f64::from(w) - low) * scale) as usize;
                    part.0[bin.min(BINS - 1)] += 1;
                    let at = w / scale_of_group + f32::from(zero);
                    let is_inside = (-0.5..=most as f32 + 0.5).contains(&at);
                    part.2 += u64::from(!is_inside);
                }
            }
        }
        part
    });
    let mut all = Histogram {
        name: weight.name.clone(),
        low,
        high,
        floats: vec![0; BINS],
        codes: vec![0; most as usize + 1],
        clipped: 0,
    };
    for (floats, codes, clipped) in parts {
        all.floats.iter_mut().zip(floats).for_each(|(sum, it)| *sum += it);
        all.codes.iter_mut().zip(codes).for_each(|(sum, it)| *sum += it);
        all.clipped += clipped;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_ops::quant::Form;
    use qcc_quant::rows::Order;
    use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};

    /// A weight of rows of `k` values, in 2 bits and groups of 8.
    pub(super) fn weight(values: &[f32], k: usize, check: impl FnOnce(&Weight<'_>)) {
        let spec = WeightSpec {
            bits: Bits::new(2).unwrap(),
            group: GroupSize::of(8).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F32,
        };
        let form = Form { n: values.len() / k, k, order: Order::Nk };
        let tensor = Tensor::from_vec(vec![form.n, form.k], values.to_vec()).unwrap();
        let codes = rtn(&form.rows(&tensor).unwrap(), &spec);
        let numbers = Numbers::from_codes(&codes, &qcc_tensor::Store::default()).unwrap();
        let quant = Quant { spec, form, numbers: Some(numbers.clone()), by: "rtn".to_owned() };
        check(&Weight { name: "w".to_owned(), quant: &quant, numbers: &numbers, tensor: &tensor });
    }

    #[test]
    fn every_value_and_code_is_counted() {
        // Rows beyond one chunk; each row is the four points of its grid, twice.
        let values: Vec<f32> = (0..70 * 8).map(|it| (it % 4) as f32 - 1.0).collect();
        weight(&values, 8, |it| {
            let found = histogram(it).unwrap();
            assert_eq!((found.low, found.high, found.clipped), (-1.0, 2.0, 0));
            assert_eq!(found.codes, [140; 4]);
            assert_eq!(found.floats.iter().sum::<u64>(), 560);
            assert_eq!((found.floats[0], found.floats[BINS - 1]), (140, 140));
            assert_eq!(error(&it.rows().unwrap(), it.numbers).squared, 0.0);
        });
    }

    #[test]
    fn the_error_is_that_of_the_codes() {
        let values: Vec<f32> = (0..70 * 8).map(|it| ((it * 37) % 101) as f32 - 50.0).collect();
        weight(&values, 8, |it| {
            let rows = it.rows().unwrap();
            let want = measure_codes(&rows, None, &rtn(&rows, &it.quant.spec)).plain();
            let got = error(&rows, it.numbers);
            assert!((got.snr_db() - want.snr_db()).abs() < 1e-3, "{got:?} {want:?}");
        });
    }
}
