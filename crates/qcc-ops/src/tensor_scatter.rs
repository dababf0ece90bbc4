//! `TensorScatter` (opset 24): new entries of a cache, written at a position for each sequence.
//!
//! `out[b, .., write_indices[b] + s, ..] = update[b, .., s, ..]`; in mode `circular` the position
//! is taken modulo the length of the cache. Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor};

use crate::cells::Cells;
use crate::ints::{ints, sizes};
use crate::operands::{self, count, need, optional};
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "TensorScatter";

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: NAME, parse: TensorScatter::parse }];

/// What happens at the end of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Entries beyond it are refused.
    Linear,
    /// Entries go on at its start.
    Circular,
}

/// `TensorScatter(past_cache, update, write_indices?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorScatter {
    /// The axis of the sequence, not that of the batch.
    pub axis: i64,
    /// What happens at the end of the cache.
    pub mode: CacheMode,
}

impl TensorScatter {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let mode = match reader.str("mode", "linear")? {
            "linear" => CacheMode::Linear,
            "circular" => CacheMode::Circular,
            _ => return Err(reader.error("mode", "is neither linear nor circular")),
        };
        Ok(Arc::new(Self { axis: reader.int("axis", -2)?, mode }))
    }

    fn axis(&self, rank: usize) -> Result<usize, TypeError> {
        match operands::axis(NAME, self.axis, rank)? {
            0 => Err(TypeError::other(NAME, "the axis is that of the batch")),
            axis => Ok(axis),
        }
    }
}

impl Op for TensorScatter {
    fn name(&self) -> &str {
        NAME
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("axis".into(), self.axis.into())];
        if self.mode == CacheMode::Circular {
            attrs.push(("mode".into(), "circular".into()));
        }
        attrs
    }

    /// `past_cache: T[B, .., M, ..]`, `update: T[B, .., S, ..]`, `write_indices: i64[B]` give
    /// `T[B, .., M, ..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(NAME, inputs, 2, 3)?;
        let past = need(NAME, inputs, 0)?.ty;
        past.rank().map(|it| self.axis(it)).transpose()?;
        Ok(vec![past.clone()])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count(NAME, inputs, 2, 3)?;
        let (past, update) = (need(NAME, inputs, 0)?, need(NAME, inputs, 1)?);
        let axis = self.axis(past.rank())?;
        let (dims, new) = (past.dims(), update.dims());
        let fits = new.len() == dims.len()
            && new
                .iter()
                .zip(dims)
                .enumerate()
                .all(|(at, (a, b))| if at == axis { a <= b } else { a == b });
        if !fits {
            let dims = |it: &[usize]| it.iter().map(|&it| it.into()).collect::<Vec<Dim>>();
            return Err(TypeError::shapes(NAME, &dims(past.dims()), &dims(new)).into());
        }
        let (len, steps) = (dims[axis], new[axis]);
        let starts = match optional(inputs, 2) {
            Some(it) => sizes(NAME, &ints(NAME, it)?)?,
            None => vec![0; dims[0]],
        };
        let end = |it: &usize| it.checked_add(steps).filter(|&it| it <= len);
        let is_inside =
            self.mode == CacheMode::Circular || starts.iter().all(|it| end(it).is_some());
        if starts.len() != dims[0] || !is_inside {
            let what = format!("wants {} positions inside of the cache", dims[0]);
            return Err(TypeError::other(NAME, what).into());
        }
        let mut cells = Cells::new(past.dtype());
        let (from, news) = (cells.read(NAME, past)?, cells.read(NAME, update)?);
        let mut room = cells.room(cx, dims)?;
        room.bytes().copy_from_slice(&from);
        let block = dims[axis + 1..].iter().product::<usize>() * cells.width();
        let lanes: usize = dims[1..axis].iter().product();
        if block > 0 {
            for (at, entry) in news.chunks_exact(block).enumerate() {
                let (lane, step) = (at / steps, at % steps);
                let place = lane * len + (starts[lane / lanes] % len + step) % len;
                room.bytes()[place * block..][..block].copy_from_slice(entry);
            }
        }
        Ok(vec![cells.tensor(cx, dims.to_vec(), room)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: CacheMode, starts: Vec<i64>) -> Option<Vec<u8>> {
        let past = Tensor::from_vec(vec![2, 3, 1], vec![0u8; 6]).unwrap();
        let update = Tensor::from_vec(vec![2, 2, 1], vec![1u8, 2, 3, 4]).unwrap();
        let starts = Tensor::vector(starts);
        let inputs = [Some(&past), Some(&update), Some(&starts)];
        let op = TensorScatter { axis: -2, mode };
        Some(op.eval(&EvalCx::default(), &inputs, 1).ok()?[0].bytes().to_vec())
    }

    #[test]
    fn entries_go_where_each_sequence_is() {
        assert_eq!(run(CacheMode::Linear, vec![1, 0]), Some(vec![0, 1, 2, 3, 4, 0]));
        assert_eq!(run(CacheMode::Linear, vec![2, 0]), None);
        assert_eq!(run(CacheMode::Linear, vec![-1, 0]), None);
        assert_eq!(run(CacheMode::Circular, vec![2, 0]), Some(vec![2, 0, 1, 3, 4, 0]));
        assert_eq!(run(CacheMode::Circular, vec![0]), None);
    }
}
