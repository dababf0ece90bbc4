//! Derivatives of convolutions, over the columns that windows are: `dX = fold(W^T g)` with
//! [`Col2Im`], `dW = sum over n of g unfold(x)^T`.

use qcc_ir::{Adjoints, Emitter, Io, Value};
use qcc_tensor::{Dim, checked_len};

use super::Conv;
use crate::col2im::Col2Im;
use crate::emit::{Emit, args, no_vjp};
use crate::grad::Unfold;
use crate::reduce::{Kind, Reduce};
use crate::shape::Shape;
use crate::windows::ints;

pub(super) fn conv(op: &Conv, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (g, _, [x, w]) = args(op, io, dy)?;
    let Some(dims) = b.ty(w).known_dims().filter(|it| it.len() > 2) else {
        return Err(no_vjp(op, "the shape of its weight is not known"));
    };
    let Some(image) = b.ty(x).shape().and_then(|it| it.get(2..)).map(<[Dim]>::to_vec) else {
        return Err(no_vjp(op, "the rank of its operand is not known"));
    };
    // Padding that follows from an open size stays as it is said, and is known at each run.
    let given = op.sliding.given("Conv", &image, &dims[2..]);
    let sliding = given.unwrap_or_else(|| op.sliding.clone());
    let (kernel, group) = (ints(&dims[2..]), op.group as i64);
    let Some(depth) = checked_len(&dims[1..]) else {
        return Err(no_vjp(op, "its weight is too large"));
    };
    let rows = (dims[0] / op.group.max(1)) as i64;
    // A matrix for each sample and group: of rows and places, and of rows and taps of all channels.
    let g4 = b.reshape(g, &[0, group, rows, -1]);
    let w4 = b.reshape(w, &[1, group, rows, depth as i64]);
    let dx = io.wants(0).then(|| {
        let columns = b.product((w4, true), (g4, false));
        let columns = b.reshape(columns, &[0, group * depth as i64, -1]);
        let image = Shape { start: 2, end: None };
        let image = match image.value_of(b.ty(x)) {
            Some(it) => b.constant(it),
            None => b.apply(image, &[x]),
        };
        let block = b.ints(&kernel);
        b.apply(Col2Im { sliding: sliding.clone() }, &[columns, image, block])
    });
    let dw = io.wants(1).then(|| {
        let unfold = Unfold { kernel: dims[2..].to_vec(), sliding: sliding.clone() };
        let columns = b.apply(unfold, &[x]);
        let columns = b.reshape(columns, &[0, group, depth as i64, -1]);
        let each = b.product((g4, false), (columns, true));
        let sum = b.sum_to(each, w4);
        b.reshape_to(sum, w)
    });
    let db = io.input(2).filter(|_| io.wants(2)).map(|bias| {
        let axes = [0].into_iter().chain(2..dims.len() as i64).collect();
        let sum = Reduce { kind: Kind::Sum, axes: Some(axes), keep: false, none_is_none: false };
        let sum = b.apply(sum, &[g]);
        b.reshape_to(sum, bias)
    });
    Ok(vec![dx, dw, db])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};
    use crate::windows::{Padding, Sliding};

    fn check(x: &[usize], w: &[usize], group: usize, sliding: Sliding) {
        let op = Conv { group, kernel: None, sliding };
        for x in [values(x), values(x).sized()] {
            check_vjp(&op, &[x.clone(), values(w).sized(), values(&w[..1])], 1);
            check_vjp(&op, &[x, values(w).sized()], 1);
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        let sliding = |strides: &[usize], dilations: &[usize], pads: &[usize]| Sliding {
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            padding: Padding::Given(pads.to_vec()),
        };
        // Patches, then what overlaps, has holes, lies outside, or is never read.
        check(&[2, 3, 4, 6], &[5, 3, 2, 3], 1, sliding(&[2, 3], &[], &[]));
        check(&[2, 2, 7], &[3, 2, 3], 1, sliding(&[2], &[], &[1, 1]));
        check(&[1, 2, 5, 6], &[4, 1, 3, 2], 2, sliding(&[2, 1], &[1, 3], &[2, 0, 1, 1]));
        check(&[2, 3, 6], &[3, 1, 3], 3, sliding(&[], &[], &[1, 1]));
        check(&[1, 1, 3, 4, 3], &[2, 1, 2, 1, 2], 1, sliding(&[1, 2, 1], &[], &[]));
        let automatic = |padding| Sliding { strides: vec![2], dilations: vec![], padding };
        for padding in [Padding::SameUpper, Padding::SameLower, Padding::Valid] {
            check(&[1, 2, 6], &[2, 2, 3], 1, automatic(padding));
        }
    }
}
