//! `Range` (opset 11, 16-bit floats since 27): `start, start + delta, ..` below `limit`.
//!
//! `n = max(0, ceil((limit - start) / delta))`, and element `i` is `start + i * delta`. Floats of
//! 16 bits are computed in f32. Source: onnx/defs/generator/defs.cc.

use std::sync::Arc;

use half::{bf16, f16};
use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{DType, Dim, Element, Tensor};

use crate::cells::Cells;
use crate::ints::{dtype, ints};
use crate::operands::{count, need};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Range", parse: Range::parse }];

/// `Range(start, limit, delta)`, all scalars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Type in which 16-bit floats are computed, as an ONNX code; only f32 is known.
    pub stash_type: i64,
}

impl Range {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let default = i64::from(DType::F32.onnx_code());
        Ok(Arc::new(Self { stash_type: reader.int("stash_type", default)? }))
    }
}

/// Number of elements of a range of integers.
fn int_len([start, limit, delta]: [i64; 3]) -> Option<usize> {
    let (span, delta) = (i128::from(limit) - i128::from(start), i128::from(delta));
    if delta == 0 {
        return None;
    }
    let count = span.div_euclid(delta) + i128::from(span.rem_euclid(delta) != 0);
    // Rounded up for a negative step too: the Euclidean quotient is the ceiling there.
    let count = if delta < 0 { span.div_euclid(delta) } else { count };
    usize::try_from(count.max(0)).ok()
}

/// Number of elements of a range of floats.
fn float_len([start, limit, delta]: [f64; 3]) -> Option<usize> {
    let count = ((limit - start) / delta).ceil();
    // Beyond 2^53 the count is no longer exact, and no memory would hold it.
    (count < 9e15).then_some(count.max(0.0) as usize)
}

fn bad() -> TypeError {
    TypeError::other("Range", "has no end")
}

fn len(bounds: [&Tensor; 3]) -> Result<usize, TypeError> {
    let [start, ..] = bounds;
    if bounds.iter().any(|it| it.len() != 1 || it.dtype() != start.dtype()) {
        return Err(TypeError::other("Range", "takes three scalars of one type"));
    }
    if start.dtype().is_int() {
        let all = bounds.map(|it| ints("Range", it).map(|it| it[0]));
        let [start, limit, delta] = all;
        return int_len([start?, limit?, delta?]).ok_or_else(bad);
    }
    let all = bounds.map(double);
    let [Some(start), Some(limit), Some(delta)] = all else {
        return Err(dtype("Range", start.dtype()));
    };
    float_len([start, limit, delta]).ok_or_else(bad)
}

fn double(tensor: &Tensor) -> Option<f64> {
    match tensor.as_slice::<f64>() {
        Ok(it) => it.first().copied(),
        Err(_) => tensor.to_f32().ok()?.first().copied().map(f64::from),
    }
}

fn filled<T: Element>(
    cx: &EvalCx,
    len: usize,
    value: impl Fn(usize) -> T,
) -> Result<Tensor, EvalError> {
    let cells = Cells::new(T::DTYPE);
    let mut room = cells.room(cx, &[len])?;
    for (index, cell) in room.bytes().chunks_exact_mut(size_of::<T>()).enumerate() {
        cell.copy_from_slice(bytemuck::bytes_of(&value(index)));
    }
    cells.tensor(cx, vec![len], room)
}

impl Op for Range {
    fn name(&self) -> &str {
        "Range"
    }

    fn attrs(&self) -> Attrs {
        if self.stash_type == i64::from(DType::F32.onnx_code()) {
            return Attrs::new();
        }
        vec![("stash_type".into(), self.stash_type.into())]
    }

    /// `start, limit, delta: T[]` give `T[n]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Range", inputs, 3, 3)?;
        let all = [0, 1, 2].map(|it| need("Range", inputs, it));
        let [start, limit, delta] = all;
        let (start, limit, delta) = (start?, limit?, delta?);
        let len = match (start.value, limit.value, delta.value) {
            (Some(start), Some(limit), Some(delta)) => len([start, limit, delta])?.into(),
            _ => Dim::Unknown,
        };
        let dtype = start.ty.dtype().or(limit.ty.dtype()).or(delta.ty.dtype());
        Ok(vec![Type::partial(dtype, Some(vec![len]))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Range", inputs, 3, 3)?;
        let (start, delta) = (need("Range", inputs, 0)?, need("Range", inputs, 2)?);
        let n = len([start, need("Range", inputs, 1)?, delta])?;
        let out = match start.dtype() {
            DType::F64 => {
                let (a, d) = (double(start).unwrap_or(0.0), double(delta).unwrap_or(0.0));
                filled(cx, n, |it| a + it as f64 * d)
            }
            DType::F32 | DType::F16 | DType::BF16 => {
                let first = |it: &Tensor| Ok::<f32, EvalError>(it.to_f32()?[0]);
                let (a, d) = (first(start)?, first(delta)?);
                let value = move |it: usize| a + it as f32 * d;
                match start.dtype() {
                    DType::F16 => filled(cx, n, |it| f16::from_f32(value(it))),
                    DType::BF16 => filled(cx, n, |it| bf16::from_f32(value(it))),
                    _ => filled(cx, n, value),
                }
            }
            other => {
                let (a, d) = (ints("Range", start)?[0], ints("Range", delta)?[0]);
                // Each element lies between the bounds, so that nothing wraps in the end.
                let value = move |it: usize| a.wrapping_add((it as i64).wrapping_mul(d));
                match other {
                    DType::I64 => filled(cx, n, value),
                    DType::I32 => filled(cx, n, |it| value(it) as i32),
                    DType::I16 => filled(cx, n, |it| value(it) as i16),
                    other => return Err(dtype("Range", other).into()),
                }
            }
        };
        Ok(vec![out?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Element>(bounds: [T; 3]) -> Option<Vec<T>> {
        let op = Range { stash_type: 1 };
        let all = bounds.map(Tensor::scalar);
        let inputs = all.each_ref().map(Some);
        let out = op.eval(&EvalCx::default(), &inputs, 1).ok()?.remove(0);
        let types = all.each_ref().map(Type::of);
        let typed: Vec<_> =
            types.iter().zip(&all).map(|(ty, it)| Some(Input { ty, value: Some(it) })).collect();
        assert_eq!(op.infer(&typed, 1).unwrap()[0], Type::of(&out));
        Some(out.as_slice::<T>().unwrap().to_vec())
    }

    #[test]
    fn known_values() {
        assert_eq!(run([1i64, 7, 3]), Some(vec![1, 4]));
        assert_eq!(run([1i64, 8, 3]), Some(vec![1, 4, 7]));
        assert_eq!(run([10i32, 4, -2]), Some(vec![10, 8, 6]));
        assert_eq!(run([10i32, 5, -2]), Some(vec![10, 8, 6]));
        assert_eq!(run([0i64, -5, 1]), Some(vec![]));
        assert_eq!(run([-5i64, 0, -1]), Some(vec![]));
        assert_eq!(run([1f32, 2.0, 0.5]), Some(vec![1.0, 1.5]));
        assert_eq!(run([1f64, 0.0, -0.75]), Some(vec![1.0, 0.25]));
    }

    #[test]
    fn endless_ones_are_refused() {
        assert_eq!(run([1i64, 7, 0]), None);
        assert_eq!(run([1f32, 7.0, 0.0]), None);
        assert_eq!(run([f32::NAN, 7.0, 1.0]), None);
        assert_eq!(run([i64::MIN, i64::MAX, 1]), None);
    }
}
