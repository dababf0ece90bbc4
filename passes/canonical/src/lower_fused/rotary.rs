//! Rotation of heads by their position.

use qcc_ir::Value;
use qcc_tensor::Dim;

use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] =
    &[Lowering { name: "RotaryEmbedding", since: 13, lower: rotary_embedding }];

/// Operands: input, positions, cosines, sines `[positions, half]`.
fn rotary_embedding(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    if site.int("is_packed_batching") != 0 {
        return Err("batches are packed".to_owned());
    }
    let x = site.need(0)?;
    let rank = site.rank(0)?;
    let half = site.dim(2, -1)?;
    let rotated = 2 * half;
    let heads = usize::try_from(site.int("num_heads")).unwrap_or(0);
    let size = match (rank, heads) {
        (4, _) => site.dim(0, -1)?,
        (3, 0) => rotated,
        (3, heads) => site.dim(0, -1)? / heads,
        _ => return Err(format!("its input has rank {rank}")),
    };
    let stated = usize::try_from(site.int("rotary_embedding_dim")).unwrap_or(0);
    if size == 0 || rotated > size || ![0, rotated].contains(&stated) {
        return Err("its caches do not fit".to_owned());
    }
    // Heads stand before positions in rank 4, behind them in rank 3.
    let (x, head_axis) = match rank {
        4 => (x, 1),
        _ => (site.reshape(x, &[0, 0, -1, size as i64])?, 2),
    };
    let len = site.size(x, 3 - head_axis)?;
    let [cos, sin] = angles(site, len, head_axis)?;
    let turn = Turn { cos, sin, half: half as i64, size: size as i64 };
    let y = turned_heads(site, &turn, x, site.int("interleaved") != 0)?;
    Ok(vec![Some(if rank == 4 { y } else { site.reshape(y, &[0, 0, -1])? })])
}

/// Cosines and sines for each position, with an axis for the heads.
fn angles(site: &mut Site<'_>, len: Value, head_axis: i64) -> Result<[Value; 2], String> {
    let ids = site.need(1)?;
    let shape = site.ty(ids).shape().ok_or("the rank of its positions is not known")?;
    let (positions, axis) = match shape.iter().map(Dim::known).collect::<Vec<_>>()[..] {
        // The first position of all rows.
        [Some(1)] => {
            let first = site.pick(ids, 0, 0)?;
            let (zero, one) = (site.int_scalar(0), site.int_scalar(1));
            let steps = site.plain("Range", [zero, len, one])?;
            (site.plain("Add", [steps, first])?, head_axis - 1)
        }
        [Some(1), Some(1)] => return Err("it may have one position or many".to_owned()),
        [_, _] => (ids, head_axis),
        _ => return Err("its positions have another form".to_owned()),
    };
    let mut tables = [site.need(2)?, site.need(3)?];
    for table in &mut tables {
        let rows = site.plain("Gather", [*table, positions])?;
        *table = site.unsqueeze(rows, axis)?;
    }
    Ok(tables)
}

/// Heads, of rank 4, with their features rotated: pairs of neighbors, or one of each half.
pub(super) fn turned_heads(
    site: &mut Site<'_>,
    turn: &Turn,
    x: Value,
    is_interleaved: bool,
) -> Result<Value, String> {
    if is_interleaved { turn.neighbors(site, x) } else { turn.halves(site, x) }
}

/// The rotation of each position.
pub(super) struct Turn {
    /// Cosines and sines, with dimensions that broadcast over heads.
    pub(super) cos: Value,
    pub(super) sin: Value,
    /// Half the features that are rotated.
    pub(super) half: i64,
    /// Features of a head.
    pub(super) size: i64,
}

impl Turn {
    /// `(x cos - y sin, x sin + y cos)`.
    fn turn(&self, site: &mut Site<'_>, x: Value, y: Value) -> Result<[Value; 2], String> {
        let mut product = |a: Value, b: Value| site.plain("Mul", [a, b]);
        let (xc, ys) = (product(x, self.cos)?, product(y, self.sin)?);
        let (xs, yc) = (product(x, self.sin)?, product(y, self.cos)?);
        Ok([site.plain("Sub", [xc, ys])?, site.plain("Add", [xs, yc])?])
    }

    /// Features behind those that are rotated.
    fn rest(&self, site: &mut Site<'_>, x: Value, parts: &mut Vec<Value>) -> Result<(), String> {
        if 2 * self.half < self.size {
            parts.push(site.slice(x, -1, 2 * self.half, self.size)?);
        }
        Ok(())
    }

    fn halves(&self, site: &mut Site<'_>, x: Value) -> Result<Value, String> {
        let a = site.slice(x, -1, 0, self.half)?;
        let b = site.slice(x, -1, self.half, 2 * self.half)?;
        let mut parts = Vec::from(self.turn(site, a, b)?);
        self.rest(site, x, &mut parts)?;
        site.concat(&parts, -1)
    }

    fn neighbors(&self, site: &mut Site<'_>, x: Value) -> Result<Value, String> {
        let turned = site.slice(x, -1, 0, 2 * self.half)?;
        let pairs = site.reshape(turned, &[0, 0, 0, self.half, 2])?;
        let (a, b) = (site.pick(pairs, 4, 0)?, site.pick(pairs, 4, 1)?);
        let [a, b] = self.turn(site, a, b)?;
        let (a, b) = (site.unsqueeze(a, -1)?, site.unsqueeze(b, -1)?);
        let pairs = site.concat(&[a, b], -1)?;
        let mut parts = vec![site.reshape(pairs, &[0, 0, 0, 2 * self.half])?];
        self.rest(site, x, &mut parts)?;
        site.concat(&parts, -1)
    }
}
