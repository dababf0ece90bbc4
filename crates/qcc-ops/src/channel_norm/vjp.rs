//! Derivatives of the normalizations with a scale per channel.

use std::sync::Arc;

use qcc_ir::{Adjoints, Emitter, Io, Value};

use super::{BatchNorm, GroupNorm};
use crate::emit::{Emit, args, no_vjp};
use crate::grad::NormGrad;
use crate::norm::Kind;
use crate::unary::Unary;

/// `dx = g scale r`, `dscale = sum(g (x - mean) r)`, `dbias = sum(g)`, with `r` the inverse of the
/// deviation from training.
pub(super) fn batch_norm(
    op: &BatchNorm,
    b: &mut Emitter,
    io: &Io<'_>,
    dy: &[Option<Value>],
) -> Adjoints {
    if op.training || !op.spatial {
        return Err(no_vjp(op, "in training, or of single elements"));
    }
    if io.wants(3) || io.wants(4) {
        return Err(no_vjp(op, "by its statistics"));
    }
    let (g, _, [x, scale, bias, mean, variance]) = args(op, io, dy)?;
    let rank = b.ty(x).rank().filter(|&it| it > 1);
    let rank = rank.ok_or_else(|| no_vjp(op, "the rank is not known, or 1"))?;
    // Dimensions behind the channels.
    let inner: Vec<i64> = (1..rank as i64 - 1).collect();
    let [scale_c, mean_c, variance_c] = [scale, mean, variance].map(|it| b.unsqueeze(it, &inner));
    let square = b.shift(variance_c, op.epsilon.into());
    let root = b.apply(Unary::Sqrt, &[square]);
    let unit = b.div(g, root);
    let dx = io.wants(0).then(|| b.mul(unit, scale_c));
    let others: Vec<i64> = (0..rank as i64).filter(|&it| it != 1).collect();
    let dscale = io.wants(1).then(|| {
        let centered = b.sub(x, mean_c);
        let terms = b.mul(unit, centered);
        let sum = b.sum_over(terms, &others);
        b.reshape_to(sum, scale)
    });
    let dbias = io.wants(2).then(|| {
        let sum = b.sum_over(g, &others);
        b.reshape_to(sum, bias)
    });
    Ok(vec![dx, dscale, dbias])
}

/// As a layer norm of each group, whose result is scaled and shifted by channel.
pub(super) fn group_norm(
    op: &GroupNorm,
    b: &mut Emitter,
    io: &Io<'_>,
    dy: &[Option<Value>],
) -> Adjoints {
    let (g, _, [x, scale, bias]) = args(op, io, dy)?;
    // 0 in a shape is the dimension that is there: the channels.
    let groups = op.groups.unwrap_or(0);
    let own = b.ty(scale).known_dims().and_then(|it| it.first().copied());
    if own.is_none() && groups != 0 {
        return Err(no_vjp(op, "the number of scales is not known"));
    }
    let is_of_group = own.is_some() && own == usize::try_from(groups).ok();
    let scaled = [0, if is_of_group { groups } else { 0 }, -1];
    let by_scale = b.reshape(g, &scaled);
    let factor = b.unsqueeze(scale, &[1]);
    let terms = b.mul(by_scale, factor);
    let [rows, adjoint] = [x, terms].map(|it| b.reshape(it, &[0, groups, -1]));
    let grad = NormGrad { kind: Kind::Layer, axis: -1, epsilon: op.epsilon };
    let [dx, hat] = b.ops(Arc::new(grad), &[Some(rows), None, Some(adjoint)]);
    let dx = b.reshape_to(dx, x);
    let dscale = io.wants(1).then(|| {
        let hat = b.reshape_to(hat, by_scale);
        let terms = b.mul(by_scale, hat);
        let sum = b.sum_over(terms, &[0, 2]);
        b.reshape_to(sum, scale)
    });
    let dbias = io.wants(2).then(|| {
        let sum = b.sum_over(by_scale, &[0, 2]);
        b.reshape_to(sum, bias)
    });
    Ok(vec![Some(dx), dscale, dbias])
}

#[cfg(test)]
mod tests {
    use qcc_tensor::Tensor;

    use super::*;
    use crate::testing::{check_against, layer_norm, spread, values};

    fn f64s(x: &Tensor) -> Vec<f64> {
        x.as_slice::<f64>().unwrap().into_owned()
    }

    #[test]
    fn gradients_of_statistics_from_training() {
        let op = BatchNorm { epsilon: 1e-3, momentum: 0.9, training: false, spatial: true };
        for dims in [&[2, 3, 5][..], &[4, 3], &[2, 3, 1, 2]] {
            let len: usize = dims[2..].iter().product();
            let forward = |it: &[&Tensor]| {
                let [x, s, t, m, v] = [0, 1, 2, 3, 4].map(|at| f64s(it[at]));
                let at = |(i, x): (usize, &f64)| {
                    let c = i / len % 3;
                    (x - m[c]) / (v[c] + f64::from(1e-3f32)).sqrt() * s[c] + t[c]
                };
                let list: Vec<f64> = x.iter().enumerate().map(at).collect();
                vec![Tensor::from_vec(it[0].dims().to_vec(), list).unwrap()]
            };
            let [s, t] = [spread(&[3]), values(&[3])];
            let (m, v) = (values(&[3]).fixed(), spread(&[3]).fixed());
            check_against(&op, &[values(dims), s, t, m, v], &forward);
        }
    }

    #[test]
    fn gradients_of_groups() {
        for (groups, channels, scales) in [(None, 3, 3), (Some(2), 4, 4), (Some(2), 4, 2)] {
            let op = GroupNorm { groups, epsilon: 1e-2, stash_type: 1 };
            let count = groups.map_or(channels, |it| it as usize);
            let dims = [2, channels, 5];
            let forward = |it: &[&Tensor]| {
                let [x, s, t] = [0, 1, 2].map(|at| f64s(it[at]));
                let hat = layer_norm(&x, channels / count * 5, f64::from(1e-2f32), true);
                let at = |(i, h): (usize, &f64)| {
                    let c = i / 5 % channels / (channels / scales);
                    h * s[c] + t[c]
                };
                let list: Vec<f64> = hat.iter().enumerate().map(at).collect();
                vec![Tensor::from_vec(dims.to_vec(), list).unwrap()]
            };
            check_against(
                &op,
                &[values(&dims), spread(&[scales]).sized(), values(&[scales])],
                &forward,
            );
        }
    }
}
