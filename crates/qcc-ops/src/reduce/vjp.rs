//! Derivatives of reductions, with `g` the adjoint of the result, in its place among the elements.

use qcc_ir::{Adjoints, Emitter, Io, Value};

use super::{Kind, Reduce};
use crate::arith::Arith;
use crate::cast::{Cast, Rounding};
use crate::emit::{Emit, args, no_vjp};
use crate::grad::ExtremeGrad;
use crate::shape::Size;
use crate::squeeze::Unsqueeze;
use crate::unary::Unary;

/// Sum `g`, Mean `g / n`, L1 `g sign(x)`, L2 `g x / y`, SumSquare `2 g x`, LogSum `g / e^y`,
/// LogSumExp `g e^(x - y)`; Max and Min `g` to the first element that is the result.
pub(super) fn reduce(op: &Reduce, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (g, y, [x]) = args(op, io, dy)?;
    if matches!(op.kind, Kind::Max | Kind::Min) {
        let of = Reduce { keep: true, ..op.clone() };
        let inputs: Vec<Option<Value>> = [Some(x), Some(g), io.input(1)].to_vec();
        return Ok(vec![Some(b.op_with(std::sync::Arc::new(ExtremeGrad { of }), &inputs))]);
    }
    let [g, y] = [g, y].map(|it| aligned(op, b, io, it));
    let spread = match op.kind {
        Kind::Sum => g,
        Kind::Mean => divided(b, g, [x, y]),
        Kind::L1 => {
            let sign = b.apply(Unary::Sign, &[x]);
            b.mul(g, sign)
        }
        Kind::L2 => {
            let slope = b.div(x, y);
            b.mul(g, slope)
        }
        Kind::SumSquare => {
            let twice = b.scale(x, 2.0);
            b.mul(g, twice)
        }
        Kind::LogSum => {
            let sum = b.apply(Unary::Exp, &[y]);
            b.div(g, sum)
        }
        Kind::LogSumExp => {
            let less = b.sub(x, y);
            let share = b.apply(Unary::Exp, &[less]);
            b.mul(g, share)
        }
        Kind::Prod | Kind::Max | Kind::Min => return Err(no_vjp(op, "")),
    };
    Ok(vec![Some(b.expand_to(spread, x))])
}

/// A result with the axes that went, of size 1, so that it repeats to the operand.
fn aligned(op: &Reduce, b: &mut Emitter, io: &Io<'_>, value: Value) -> Value {
    let axes = match (&op.axes, io.input(1)) {
        _ if op.keep => return value,
        (Some(axes), _) if !axes.is_empty() => b.ints(axes),
        (None, Some(axes)) => axes,
        // All went, or none: a scalar repeats to anything.
        _ => return value,
    };
    let is_empty = b.tensor(axes).is_some_and(qcc_tensor::Tensor::is_empty);
    if is_empty { value } else { b.apply(Unsqueeze { axes: None }, &[value, axes]) }
}

/// `g` divided by how many elements of `x` make one of `y`.
fn divided(b: &mut Emitter, g: Value, [x, y]: [Value; 2]) -> Value {
    let count = |value: Value| -> Option<f64> {
        Some(b.ty(value).known_dims()?.into_iter().map(|it| it as f64).product())
    };
    if let (Some(all), Some(kept)) = (count(x), count(y)) {
        return b.scale(g, kept / all);
    }
    let counts = [x, y].map(|it| b.apply(Size, &[it]));
    let terms = b.apply(Arith::Div, &counts);
    let to = b.ty(g).dtype().unwrap_or(qcc_tensor::DType::F32);
    let terms = b.apply(Cast { to, rounding: Rounding::default() }, &[terms]);
    b.div(g, terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, ints, spread, values};

    #[test]
    fn gradients_match_central_differences() {
        let kinds = [
            Kind::Sum,
            Kind::Mean,
            Kind::Max,
            Kind::Min,
            Kind::L1,
            Kind::L2,
            Kind::SumSquare,
            Kind::LogSum,
            Kind::LogSumExp,
        ];
        for kind in kinds {
            let x = if kind == Kind::LogSum { spread(&[2, 3, 5]) } else { values(&[2, 3, 5]) };
            for keep in [false, true] {
                let op = |axes: Option<&[i64]>| Reduce {
                    kind,
                    axes: axes.map(<[i64]>::to_vec),
                    keep,
                    none_is_none: false,
                };
                check_vjp(&op(Some(&[-1])), std::slice::from_ref(&x), 1);
                check_vjp(&op(Some(&[0, -1])), std::slice::from_ref(&x), 1);
                check_vjp(&op(None), std::slice::from_ref(&x), 1);
                check_vjp(&op(None), &[x.clone(), ints(&[1])], 1);
                check_vjp(&op(Some(&[1])), &[spread(&[3, 1])], 1);
            }
        }
    }
}
