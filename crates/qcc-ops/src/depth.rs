//! `DepthToSpace` (opset 1, modes since 11) and `SpaceToDepth` (opset 1, modes since 28): blocks of
//! pixels and channels change places.
//!
//! In mode `DCR` the place in the block is the slow part of the channel number, in mode `CRD` the
//! fast one. Source: onnx/defs/tensor/defs.cc.

use std::sync::Arc;

use qcc_ir::{Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_tensor::{Dim, Tensor, TensorError};

use crate::cells::moved;
use crate::operands;
use crate::strided::View;
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: "", name: "DepthToSpace", parse: DepthSpace::parse },
    OpDef { domain: "", name: "SpaceToDepth", parse: DepthSpace::parse },
];

/// Which way the elements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Channels become blocks of pixels.
    DepthToSpace,
    /// Blocks of pixels become channels.
    SpaceToDepth,
}

/// Which part of a channel number is the place in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthMode {
    /// The slow part.
    Dcr,
    /// The fast part.
    Crd,
}

/// `DepthToSpace(input)` or `SpaceToDepth(input)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepthSpace {
    /// Which of the two.
    pub direction: Direction,
    /// Edge of a block.
    pub block: usize,
    /// Which part of a channel number is the place in the block.
    pub mode: DepthMode,
}

impl DepthSpace {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let (direction, has_mode) = match reader.op() {
            "DepthToSpace" => (Direction::DepthToSpace, reader.opset() >= 11),
            _ => (Direction::SpaceToDepth, reader.opset() >= 28),
        };
        let block = usize::try_from(reader.need_int("blocksize")?).ok().filter(|&it| it > 0);
        let block = block.ok_or_else(|| reader.error("blocksize", "is not positive"))?;
        let mode = match if has_mode { reader.str("mode", "DCR")? } else { "DCR" } {
            "DCR" => DepthMode::Dcr,
            "CRD" => DepthMode::Crd,
            _ => return Err(reader.error("mode", "is neither DCR nor CRD")),
        };
        Ok(Arc::new(Self { direction, block, mode }))
    }

    fn dims(&self, dims: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        let [n, c, h, w] = dims else {
            let (op, want) = (self.name().into(), "4".into());
            return Err(TypeError::Rank { op, index: 0, want, got: dims.len() });
        };
        let area = self.block.checked_mul(self.block);
        let divided = |dim: &Dim, by: Option<usize>| match dim {
            Dim::Known(it) => match by {
                Some(by) if it.is_multiple_of(by) => Ok(Dim::Known(it / by)),
                _ => {
                    let what = format!("{it} does not go into blocks of {}", self.block);
                    Err(TypeError::other(self.name(), what))
                }
            },
            _ => Ok(Dim::Unknown),
        };
        let times = |dim: &Dim, by: Option<usize>| match (dim, by) {
            (Dim::Known(it), Some(by)) => it.checked_mul(by).map_or(Dim::Unknown, Dim::Known),
            _ => Dim::Unknown,
        };
        let block = Some(self.block);
        Ok(match self.direction {
            Direction::DepthToSpace => {
                vec![n.clone(), divided(c, area)?, times(h, block), times(w, block)]
            }
            Direction::SpaceToDepth => {
                vec![n.clone(), times(c, area), divided(h, block)?, divided(w, block)?]
            }
        })
    }
}

impl Op for DepthSpace {
    fn name(&self) -> &str {
        match self.direction {
            Direction::DepthToSpace => "DepthToSpace",
            Direction::SpaceToDepth => "SpaceToDepth",
        }
    }

    fn attrs(&self) -> Attrs {
        let mut attrs: Attrs = vec![("blocksize".into(), (self.block as i64).into())];
        if self.mode == DepthMode::Crd {
            attrs.push(("mode".into(), "CRD".into()));
        }
        attrs
    }

    /// `T[N, C * b * b, H, W]` and `T[N, C, H * b, W * b]`, one from the other.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let ty = operands::one(self.name(), inputs)?.ty;
        let dims = ty.shape().map(|it| self.dims(it)).transpose()?;
        Ok(vec![ty.with_shape(dims.or_else(|| Some(vec![Dim::Unknown; 4])))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let input = operands::one(self.name(), inputs)?;
        let from: Vec<Dim> = input.dims().iter().map(|&it| it.into()).collect();
        let out = self.dims(&from)?.iter().map(Dim::known).collect::<Option<Vec<_>>>();
        let overflow = || TensorError::Overflow(input.dims().to_vec());
        let out = out.ok_or_else(overflow)?;
        let (b, &[n, c, h, w]) = (self.block, input.dims()) else { return Ok(Vec::new()) };
        let (parts, order) = match (self.direction, self.mode) {
            (Direction::DepthToSpace, DepthMode::Dcr) => {
                ([n, b, b, out[1], h, w], [0, 3, 4, 1, 5, 2])
            }
            (Direction::DepthToSpace, DepthMode::Crd) => {
                ([n, out[1], b, b, h, w], [0, 1, 4, 2, 5, 3])
            }
            (Direction::SpaceToDepth, DepthMode::Dcr) => {
                ([n, c, out[2], b, out[3], b], [0, 3, 5, 1, 2, 4])
            }
            (Direction::SpaceToDepth, DepthMode::Crd) => {
                ([n, c, out[2], b, out[3], b], [0, 1, 3, 5, 2, 4])
            }
        };
        let view = View::of(&parts).permuted(&order);
        let out = moved(self.name(), cx, input, out, |from, width, to| view.copy(from, width, to))?;
        Ok(vec![out])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_undoes_the_other() {
        let x = Tensor::from_vec(vec![2, 3, 4, 6], (0..144).collect::<Vec<i32>>()).unwrap();
        for mode in [DepthMode::Dcr, DepthMode::Crd] {
            let run = |direction, x: &Tensor| {
                let op = DepthSpace { direction, block: 2, mode };
                op.eval(&EvalCx::default(), &[Some(x)], 1).unwrap().remove(0)
            };
            let deep = run(Direction::SpaceToDepth, &x);
            assert_eq!(deep.dims(), [2, 12, 2, 3]);
            assert_ne!(deep.bytes(), x.bytes());
            assert_eq!(run(Direction::DepthToSpace, &deep), x);
        }
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        let x = Tensor::from_vec(vec![1, 3, 2, 2], vec![0u8; 12]).unwrap();
        let op = DepthSpace { direction: Direction::DepthToSpace, block: 2, mode: DepthMode::Dcr };
        assert!(op.eval(&EvalCx::default(), &[Some(&x)], 1).is_err());
        let attrs = || vec![("blocksize".to_owned(), 0.into())];
        assert!(crate::parse("", "SpaceToDepth", 13, attrs()).is_err());
    }
}
