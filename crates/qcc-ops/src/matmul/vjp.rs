//! Derivatives of matrix products: `dA = g B^T`, `dB = A^T g`.
//!
//! Where `B` is one matrix for all rows of `A`, as a weight is, `dB` is `qcc::MatMulGradW`.

use qcc_ir::{Adjoints, Emitter, Io, Value};

use super::{Gemm, MatMul};
use crate::emit::{Emit, args, no_vjp};
use crate::grad::MatMulGradW;

pub(super) fn matmul(op: MatMul, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (mut g, _, [x, w]) = args(&op, io, dy)?;
    let (Some(x_rank), Some(w_rank)) = (b.ty(x).rank(), b.ty(w).rank()) else {
        return Err(no_vjp(&op, "the rank of an operand is not known"));
    };
    // A vector is a row or a column, which the result lacks.
    let (mut rows, mut columns) = (x, w);
    if w_rank == 1 {
        columns = b.unsqueeze(w, &[1]);
        g = b.unsqueeze(g, &[-1]);
    }
    if x_rank == 1 {
        rows = b.unsqueeze(x, &[0]);
        g = b.unsqueeze(g, &[-2]);
    }
    let dx = io.wants(0).then(|| {
        let d = b.product((g, false), (columns, true));
        let d = b.sum_to(d, rows);
        b.reshape_to(d, x)
    });
    let dw = io.wants(1).then(|| {
        let d = if w_rank <= 2 {
            b.apply(MatMulGradW, &[rows, g])
        } else {
            let d = b.product((rows, true), (g, false));
            b.sum_to(d, columns)
        };
        b.reshape_to(d, w)
    });
    Ok(vec![dx, dw])
}

pub(super) fn gemm(op: Gemm, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (g, _, [x, w]) = args(&op, io, dy)?;
    let (tx, tw) = (op.trans_a, op.trans_b);
    let mut product = |a: (Value, bool), c: (Value, bool)| {
        let gemm = Gemm { alpha: op.alpha, beta: 0.0, trans_a: a.1, trans_b: c.1 };
        b.apply(gemm, &[a.0, c.0])
    };
    let dx = io.wants(0).then(|| match tx {
        false => product((g, false), (w, !tw)),
        true => product((w, tw), (g, true)),
    });
    let dw = io.wants(1).then(|| match tw {
        false => product((x, !tx), (g, false)),
        true => product((g, true), (x, tx)),
    });
    let dc = io.input(2).filter(|_| io.wants(2)).map(|c| {
        let scaled = b.scale(g, op.beta.into());
        b.sum_to(scaled, c)
    });
    Ok(vec![dx, dw, dc])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};

    #[test]
    fn gradients_match_central_differences() {
        for [x, w] in [
            [&[3, 5][..], &[5, 7][..]],
            [&[2, 3, 5], &[5, 7]],
            [&[2, 3, 5], &[2, 5, 1]],
            [&[2, 1, 3, 5], &[4, 5, 2]],
            [&[1, 3, 5], &[2, 5, 3]],
            [&[5], &[5, 3]],
            [&[2, 3, 5], &[5]],
            [&[5], &[5]],
            [&[5], &[2, 5, 3]],
        ] {
            check_vjp(&MatMul, &[values(x), values(w)], 1);
        }
    }

    #[test]
    fn transposed_operands() {
        for flags in 0..4 {
            let (trans_a, trans_b) = (flags & 1 == 1, flags & 2 == 2);
            let op = Gemm { alpha: 0.5, beta: 1.5, trans_a, trans_b };
            let x = values(if trans_a { &[5, 3] } else { &[3, 5] });
            let w = values(if trans_b { &[7, 5] } else { &[5, 7] });
            check_vjp(&op, &[x.clone(), w.clone(), values(&[7])], 1);
            check_vjp(&op, &[x.clone(), w.clone(), values(&[3, 1])], 1);
            check_vjp(&op, &[x, w], 1);
        }
    }
}
