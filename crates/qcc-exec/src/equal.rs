//! Whether two graphs compute the same: both run on the same seeded random inputs.

use std::collections::BTreeMap;

use half::{bf16, f16};
use qcc_ir::{Graph, Kind, Type, Value};
use qcc_tensor::{DType, Dim, Tensor, TensorError, checked_len};

use crate::run_once;

/// Runs both graphs on random inputs and compares the outputs by name.
///
/// Symbols of the inputs become small sizes, integers small numbers that do as ids. With
/// `tolerance` 0 all elements must be equal, where every NaN equals every NaN; else a float may
/// differ by `tolerance` times the largest magnitude of its output in `a`, or times 1 if that is
/// larger.
///
/// # Errors
/// The first difference, or why a graph could not be run, in words.
pub fn check_equal(a: &Graph, b: &Graph, seed: u64, tolerance: f32) -> Result<(), String> {
    let inputs = random_inputs(a, seed)?;
    let run = |graph: &Graph, which: &str| {
        run_once(graph, &inputs).map_err(|error| format!("the {which} graph: {error}"))
    };
    let (a, b) = (run(a, "first")?, run(b, "second")?);
    let names =
        |list: &[(String, Tensor)]| -> Vec<String> { list.iter().map(|it| it.0.clone()).collect() };
    if names(&a) != names(&b) {
        return Err(format!("outputs are {:?} and {:?}", names(&a), names(&b)));
    }
    a.iter().zip(&b).try_for_each(|((name, a), (_, b))| {
        difference(a, b, tolerance).map_or(Ok(()), |what| Err(format!("output '{name}': {what}")))
    })
}

/// Where two tensors differ by more than `tolerance`, as [`check_equal`] means it; `None` if they
/// do not.
pub fn difference(a: &Tensor, b: &Tensor, tolerance: f32) -> Option<String> {
    let (ta, tb) = (Type::of(a), Type::of(b));
    if ta != tb {
        return Some(format!("{ta} and {tb}"));
    }
    if !a.dtype().is_float() {
        return (a != b).then(|| "the elements differ".to_owned());
    }
    let (x, y) = match (wide(a), wide(b)) {
        (Ok(x), Ok(y)) => (x, y),
        (Err(error), _) | (_, Err(error)) => return Some(error.to_string()),
    };
    let finite = x.iter().map(|it| it.abs()).filter(|it| it.is_finite());
    let bound = f64::from(tolerance) * finite.fold(1.0, f64::max);
    let is_equal = |x: f64, y: f64| (x.is_nan() && y.is_nan()) || x == y || (x - y).abs() <= bound;
    let mut wrong = x.iter().zip(&y).enumerate().filter(|(_, (x, y))| !is_equal(**x, **y));
    let (at, (x, y)) = wrong.next()?;
    let more = wrong.count();
    Some(format!("element {at} is {x} and {y}, bound {bound:e}; {more} more differ"))
}

fn wide(x: &Tensor) -> Result<Vec<f64>, TensorError> {
    if x.dtype() == DType::F64 {
        return Ok(x.as_slice::<f64>()?.into_owned());
    }
    Ok(x.to_f32()?.iter().map(|&it| f64::from(it)).collect())
}

/// Random values for all inputs of a graph that have no default, by name.
///
/// # Errors
/// When the type of an input is not known, or of a kind that has no random values.
pub fn random_inputs(graph: &Graph, seed: u64) -> Result<BTreeMap<String, Tensor>, String> {
    let mut random = Random(seed);
    let mut inputs = BTreeMap::new();
    for &node in graph.inputs() {
        if !matches!(graph.node(node).map(|it| &it.kind), Some(Kind::Input(None))) {
            continue;
        }
        let value = Value { node, slot: 0 };
        let (name, ty) = (graph.value_name(value), graph.ty(value));
        let dtype = ty.dtype().ok_or_else(|| format!("input '{name}' has no element type"))?;
        let shape = ty.shape().ok_or_else(|| format!("the rank of input '{name}' is unknown"))?;
        let dims: Vec<usize> = shape.iter().map(size).collect();
        let len = checked_len(&dims).filter(|&it| it <= MOST);
        let len = len.ok_or_else(|| format!("input '{name}' is too large: {dims:?}"))?;
        let is_flag = name.contains("mask") || name.contains("type");
        let ids = if is_flag { 2 } else { 4 };
        let tensor = random.tensor(dtype, dims, len, ids);
        inputs.insert(name.to_owned(), tensor.map_err(|it| format!("input '{name}': {it}"))?);
    }
    Ok(inputs)
}

/// Most elements of a random input.
const MOST: usize = 1 << 26;

/// The size that a dimension gets. Exporters write sums such as `past + sequence`: nothing is past
/// here, so such a sum is what the sequence is.
fn size(dim: &Dim) -> usize {
    match dim {
        Dim::Known(it) => *it,
        Dim::Symbol(name) if name.contains("batch") => 2,
        Dim::Symbol(name) if name.contains("past") && !name.contains('+') => 0,
        Dim::Symbol(_) | Dim::Unknown => 3,
    }
}

/// SplitMix64, by Steele, Lea and Flood.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -2..2, a multiple of 2^-22.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    /// Floats of -2 to 2, integers below `ids`.
    fn tensor(
        &mut self,
        dtype: DType,
        dims: Vec<usize>,
        len: usize,
        ids: u64,
    ) -> Result<Tensor, TensorError> {
        macro_rules! ids {
            ($int:ty) => {
                (0..len).map(|_| (self.next() % ids) as $int).collect::<Vec<$int>>()
            };
        }
        match dtype {
            DType::F32 => Tensor::from_vec(dims, (0..len).map(|_| self.float()).collect()),
            DType::F64 => {
                Tensor::from_vec::<f64>(dims, (0..len).map(|_| self.float().into()).collect())
            }
            DType::F16 => {
                let values = (0..len).map(|_| f16::from_f32(self.float())).collect();
                Tensor::from_vec::<f16>(dims, values)
            }
            DType::BF16 => {
                let values = (0..len).map(|_| bf16::from_f32(self.float())).collect();
                Tensor::from_vec::<bf16>(dims, values)
            }
            DType::Bool => {
                let values: Vec<bool> = (0..len).map(|_| self.next() % 2 == 1).collect();
                Tensor::from_bools(dims, &values)
            }
            DType::I64 => Tensor::from_vec(dims, ids!(i64)),
            DType::I32 => Tensor::from_vec(dims, ids!(i32)),
            DType::I16 => Tensor::from_vec(dims, ids!(i16)),
            DType::I8 => Tensor::from_vec(dims, ids!(i8)),
            DType::U64 => Tensor::from_vec(dims, ids!(u64)),
            DType::U32 => Tensor::from_vec(dims, ids!(u32)),
            DType::U16 => Tensor::from_vec(dims, ids!(u16)),
            DType::U8 => Tensor::from_vec(dims, ids!(u8)),
            got => Err(TensorError::DType { want: DType::F32, got }),
        }
    }
}
