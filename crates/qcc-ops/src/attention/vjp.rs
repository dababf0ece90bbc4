//! Derivative of `Attention` without a cache: the probabilities are computed once more.
//!
//! With `P = softmax(S)`: `dV = P^T g`, `dS = P (g V^T - sum(P g V^T))`, `dQ = scale dS K` and
//! `dK = scale dS^T Q`, where heads of K and V that several queries share are added up.

use qcc_ir::{Adjoints, Emitter, Io, Value};
use qcc_tensor::DType;

use super::Attention;
use crate::compare::Compare;
use crate::emit::{Emit, args, no_vjp};
use crate::expand::Expand;
use crate::grad::SoftmaxGrad;
use crate::softmax::{Kind, Softmax};
use crate::transpose::Transpose;
use crate::trilu::Trilu;
use crate::unary::Unary;

/// A score that is not seen: e to this power is 0 beside any other score.
const HIDDEN: f64 = -1e30;

/// Positions before heads, or heads before positions.
fn swapped(b: &mut Emitter, x: Value) -> Value {
    b.apply(Transpose { perm: Some(vec![0, 2, 1, 3]) }, &[x])
}

/// An operand as `[b, heads, s, h]`.
fn split(b: &mut Emitter, x: Value, heads: usize) -> Value {
    if b.ty(x).rank() == Some(4) {
        return x;
    }
    let rows = b.reshape(x, &[0, 0, heads as i64, -1]);
    swapped(b, rows)
}

/// The adjoint of an operand from that of its heads.
fn merged(b: &mut Emitter, d: Value, x: Value) -> Value {
    let d = if b.ty(x).rank() == Some(4) { d } else { swapped(b, d) };
    b.reshape_to(d, x)
}

/// Where a causal query sees a key, as `[s, l]`.
fn visible(b: &mut Emitter, q: Value, k: Value) -> Value {
    let dims = [q, k].map(|it| b.dim_of(it, 2));
    let shape = b.joined(&dims);
    let one = b.scalar(q, 1.0);
    let ones = b.apply(Expand, &[one, shape]);
    let lower = b.apply(Trilu { upper: false }, &[ones]);
    let zero = b.scalar(q, 0.0);
    b.apply(Compare::Greater, &[lower, zero])
}

pub(super) fn attention(
    op: &Attention,
    b: &mut Emitter,
    io: &Io<'_>,
    dy: &[Option<Value>],
) -> Adjoints {
    let has_window = (op.left_window_size, op.right_window_size) != (-1, -1);
    if has_window || (4..7).any(|it| io.input(it).is_some()) {
        return Err(no_vjp(op, "with a cache or windows"));
    }
    if dy.iter().skip(1).any(Option::is_some) {
        return Err(no_vjp(op, "of caches or scores"));
    }
    let (g, _, [q_in, k_in, v_in]) = args(op, io, dy)?;
    let counts =
        [(q_in, op.q_num_heads), (k_in, op.kv_num_heads)].map(|(x, given)| match b.ty(x).shape() {
            Some([_, heads, _, _]) => heads.known(),
            Some([_, _, _]) => Some(given),
            _ => None,
        });
    let [Some(heads), Some(shared)] = counts else {
        return Err(no_vjp(op, "the number of heads is not known"));
    };
    let copies = heads.checked_div(shared).filter(|it| it * shared == heads && *it > 0);
    let copies = copies.ok_or_else(|| no_vjp(op, "the heads do not fit together"))?;
    let [q, g] = [q_in, g].map(|it| split(b, it, heads));
    let [k_own, v_own] = [k_in, v_in].map(|it| split(b, it, shared));
    let size = b.ty(q).shape().and_then(|it| it.get(3)?.known());
    let scale = match (op.scale, size) {
        (Some(it), _) => f64::from(it),
        (None, Some(size)) => (size as f64).sqrt().recip(),
        (None, None) => return Err(no_vjp(op, "the size of a head is not known")),
    };
    // Each head of K and V as often as queries share it.
    let [k, v] = [k_own, v_own].map(|x| {
        if copies == 1 {
            return Ok(x);
        }
        let width = b.ty(x).shape().and_then(|it| it.get(3)?.known());
        let width = width.ok_or_else(|| no_vjp(op, "the size of a head is not known"))?;
        let lifted = b.unsqueeze(x, &[2]);
        let times = b.ints(&[1, 1, copies as i64, 1, 1]);
        let repeated = b.apply(Expand, &[lifted, times]);
        Ok(b.reshape(repeated, &[0, heads as i64, -1, width as i64]))
    });
    let (k, v) = (k?, v?);

    let product = b.product((q, false), (k, true));
    let mut scores = b.scale(product, scale);
    let cap = f64::from(op.softcap);
    let tangent = (cap > 0.0).then(|| {
        let inner = b.scale(scores, 1.0 / cap);
        let tangent = b.apply(Unary::Tanh, &[inner]);
        scores = b.scale(tangent, cap);
        tangent
    });
    let mut masks = Vec::new();
    let mask = io.input(3);
    match mask.map(|it| (it, b.ty(it).dtype())) {
        Some((it, Some(DType::Bool))) => masks.push(it),
        Some((it, _)) => scores = b.add(scores, it),
        None => {}
    }
    if op.is_causal {
        masks.push(visible(b, q, k));
    }
    for &mask in &masks {
        let hidden = b.scalar(q, HIDDEN);
        scores = b.select(mask, scores, hidden);
    }
    let softmax = Softmax { kind: Kind::Soft, axis: -1, flatten: false };
    let mut p = b.apply(softmax, &[scores]);
    for &mask in &masks {
        // A query that sees nothing gives zeros.
        p = b.masked(mask, p);
    }

    let of_p = b.product((g, false), (v, true));
    let of_scores = b.apply(SoftmaxGrad { of: softmax }, &[p, of_p]);
    let mut of_product = of_scores;
    if let Some(tangent) = tangent {
        let square = b.mul(tangent, tangent);
        let slope = b.minus(1.0, square);
        of_product = b.mul(of_product, slope);
    }
    let of_product = b.scale(of_product, scale);
    let gathered = |b: &mut Emitter, d: Value, own: Value, x: Value| {
        let mut d = d;
        if copies > 1
            && let Some(width) = b.ty(own).shape().and_then(|it| it.get(3)?.known())
        {
            let groups = [0, shared as i64, copies as i64, -1, width as i64];
            let apart = b.reshape(d, &groups);
            let sum = b.sum_over(apart, &[2]);
            d = b.reshape_to(sum, own);
        }
        merged(b, d, x)
    };
    let mut adjoints = vec![None; io.inputs.len()];
    if io.wants(0) {
        let d = b.product((of_product, false), (k, false));
        adjoints[0] = Some(merged(b, d, q_in));
    }
    if io.wants(1) {
        let d = b.product((of_product, true), (q, false));
        adjoints[1] = Some(gathered(b, d, k_own, k_in));
    }
    if io.wants(2) {
        let d = b.product((p, true), (g, false));
        adjoints[2] = Some(gathered(b, d, v_own, v_in));
    }
    if let (Some(mask), true) = (mask, io.wants(3)) {
        adjoints[3] = Some(b.sum_to(of_scores, mask));
    }
    Ok(adjoints)
}

#[cfg(test)]
mod tests {
    use qcc_ir::{EvalCx, Op};
    use qcc_tensor::Tensor;

    use super::*;
    use crate::testing::{Arg, check_against, values};

    /// Heads before positions, by the definition.
    fn forward(op: &Attention, it: &[&Tensor]) -> Vec<Tensor> {
        let [q, k, v] = [0, 1, 2].map(|at| it[at].as_slice::<f64>().unwrap());
        let (&[batch, n, s, h], &[_, m, l, e]) = (it[0].dims(), it[2].dims()) else { panic!() };
        let mask = it.get(3).map(|it| it.as_slice::<f64>().unwrap());
        let mut out = Vec::new();
        for row in 0..batch * n {
            let shared = (row / n) * m + row % n / (n / m);
            for i in 0..s {
                let score = |j: usize| {
                    let (q, k) = (&q[(row * s + i) * h..], &k[(shared * l + j) * h..]);
                    let dot: f64 = (0..h).map(|at| q[at] * k[at]).sum();
                    let (scaled, cap) = (dot / (h as f64).sqrt(), f64::from(op.softcap));
                    let capped = if cap > 0.0 { cap * (scaled / cap).tanh() } else { scaled };
                    capped + mask.as_ref().map_or(0.0, |it| it[i * l + j])
                };
                let seen = if op.is_causal { l.min(i + 1) } else { l };
                let powers: Vec<f64> = (0..seen).map(|j| score(j).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let one = |at: usize| {
                    let terms = powers.iter().enumerate();
                    terms.map(|(j, p)| p / sum * v[(shared * l + j) * e + at]).sum::<f64>()
                };
                out.extend((0..e).map(one));
            }
        }
        vec![Tensor::from_vec(vec![batch, n, s, e], out).unwrap()]
    }

    #[test]
    fn gradients_match_central_differences() {
        for (heads, shared, softcap, is_causal) in
            [(2, 2, 0.0, false), (4, 2, 0.0, true), (2, 1, 2.5, true)]
        {
            let op = Attention {
                q_num_heads: 0,
                kv_num_heads: 0,
                scale: None,
                softcap,
                is_causal,
                left_window_size: -1,
                right_window_size: -1,
                qk_matmul_output_mode: 0,
                softmax_precision: None,
            };
            let mut args: Vec<Arg> = vec![
                values(&[2, heads, 3, 4]).sized(),
                values(&[2, shared, 5, 4]).sized(),
                values(&[2, shared, 5, 3]).sized(),
            ];
            check_against(&op, &args, &|it| forward(&op, it));
            args.push(values(&[3, 5]));
            check_against(&op, &args, &|it| forward(&op, it));
        }
    }

    #[test]
    fn heads_inside_of_positions() {
        let op = Attention {
            q_num_heads: 2,
            kv_num_heads: 2,
            scale: None,
            softcap: 0.0,
            is_causal: true,
            left_window_size: -1,
            right_window_size: -1,
            qk_matmul_output_mode: 0,
            softmax_precision: None,
        };
        let turned = |x: &Tensor| {
            let op = Transpose { perm: Some(vec![0, 2, 1, 3]) };
            op.eval(&EvalCx::default(), &[Some(x)], 1).unwrap().remove(0)
        };
        let forward = |it: &[&Tensor]| {
            let apart = |x: &Tensor| {
                let dims = vec![x.dims()[0], x.dims()[1], 2, x.dims()[2] / 2];
                turned(&x.reshape(dims).unwrap())
            };
            let list: Vec<Tensor> = it.iter().map(|it| apart(it)).collect();
            let y = turned(&forward(&op, &list.iter().collect::<Vec<_>>())[0]);
            vec![y.reshape(vec![2, 3, 6]).unwrap()]
        };
        let args = [values(&[2, 3, 8]).sized(), values(&[2, 5, 8]), values(&[2, 5, 6])];
        check_against(&op, &args, &forward);
    }
}
