//! `qcc::GatherTurned(data, indices)`: columns of a matrix as rows,
//! `out[i.., k] = data[k, indices[i..]]`.
//!
//! It is a `Gather` of a table that a `Transpose` makes, as of embeddings that share their bytes
//! with a head: the few rows that are wanted are read where they lie, and the table is not made.
//! Positions count from the end when negative; those out of bounds are refused.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::Tensor;

use crate::cells::moved;
use crate::ints::positions;
use crate::operands;
use crate::{AttrError, AttrReader, OpDef};

const NAME: &str = "GatherTurned";

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "qcc", name: NAME, parse: GatherTurned::parse }];

/// Columns of a matrix as rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherTurned;

impl GatherTurned {
    fn parse(_: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self))
    }
}

impl Op for GatherTurned {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        "qcc"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// `data: T[K, N]`, `indices: i64[I..]` give `T[I.., K]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let (data, indices) = operands::two(NAME, inputs)?;
        let dims = match (data.ty.shape(), indices.ty.shape()) {
            (Some([k, _]), Some(of)) => Some([of, std::slice::from_ref(k)].concat()),
            (Some([_, _]) | None, _) => None,
            (Some(other), _) => {
                let (op, want) = (NAME.into(), "2".into());
                return Err(TypeError::Rank { op, index: 0, want, got: other.len() });
            }
        };
        Ok(vec![data.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (data, indices) = operands::two(NAME, inputs)?;
        let &[k, n] = data.dims() else {
            return Err(TypeError::other(NAME, "the table has two axes").into());
        };
        let list = positions(NAME, indices, n)?;
        let dims = [indices.dims(), &[k]].concat();
        let out = moved(NAME, cx, data, dims, |from, width, to| {
            if k * n * width == 0 {
                return;
            }
            for (at, line) in from.chunks_exact(n * width).enumerate() {
                for (to, &index) in to.chunks_exact_mut(k * width).zip(&list) {
                    to[at * width..][..width].copy_from_slice(&line[index * width..][..width]);
                }
            }
        })?;
        Ok(vec![out])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::Gather;
    use crate::transpose::Transpose;
    use qcc_tensor::DType;

    fn run(op: &dyn Op, inputs: &[&Tensor]) -> Result<Tensor, EvalError> {
        let inputs: Vec<_> = inputs.iter().map(|&it| Some(it)).collect();
        Ok(op.eval(&EvalCx::default(), &inputs, 1)?.remove(0))
    }

    #[test]
    fn equals_a_gather_of_the_transposed_table() {
        let ids = |dims: &[usize], list: Vec<i64>| Tensor::from_vec(dims.to_vec(), list).unwrap();
        let floats = Tensor::from_vec(vec![3, 5], (0..15).map(|it| it as f32).collect()).unwrap();
        let ints = Tensor::from_vec(vec![3, 5], (0..15i64).collect()).unwrap();
        let nibbles = Tensor::new(DType::U4, vec![3, 5], vec![0x5a; 8].into()).unwrap();
        let empty = Tensor::from_vec(vec![0, 5], Vec::<f32>::new()).unwrap();
        for table in [floats, ints, nibbles, empty] {
            for indices in
                [ids(&[2, 2], vec![4, 0, -5, -1]), ids(&[], vec![3]), ids(&[0], Vec::new())]
            {
                let turned = run(&Transpose { perm: None }, &[&table]).unwrap();
                let want = run(&Gather { axis: 0 }, &[&turned, &indices]).unwrap();
                assert_eq!(run(&GatherTurned, &[&table, &indices]).unwrap(), want);
            }
            for bad in [5, -6] {
                assert!(run(&GatherTurned, &[&table, &ids(&[1], vec![bad])]).is_err());
            }
        }
        let cube = Tensor::from_vec(vec![1, 1, 1], vec![0f32]).unwrap();
        assert!(run(&GatherTurned, &[&cube, &ids(&[1], vec![0])]).is_err());
    }
}
