//! Derivatives of arithmetic: `g` is the adjoint of the result, and what broadcasting repeated is
//! summed.

use qcc_ir::{Adjoints, Emitter, Io, Value};

use super::{Arith, Variadic};
use crate::cast::{Cast, Rounding};
use crate::compare::{Compare, Predicate};
use crate::emit::{Emit, args, no_vjp};

/// Add `g, g`; Sub `g, -g`; Mul `g b, g a`; Div `g / b, -g y / b`; Pow `g p a^(p - 1)`.
pub(super) fn arith(op: Arith, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (g, y, [x, z]) = args(&op, io, dy)?;
    let (of_x, of_z) = (io.wants(0), io.wants(1));
    let (dx, dz) = match op {
        Arith::Add => (Some(g), Some(g)),
        Arith::Sub => (Some(g), of_z.then(|| b.scale(g, -1.0))),
        Arith::Mul => (of_x.then(|| b.mul(g, z)), of_z.then(|| b.mul(g, x))),
        Arith::Div => {
            let quotient = b.div(g, z);
            let dz = of_z.then(|| {
                let product = b.mul(quotient, y);
                b.scale(product, -1.0)
            });
            (Some(quotient), dz)
        }
        Arith::Pow if of_z => return Err(no_vjp(&op, "by its exponent")),
        Arith::Pow => (Some(power(b, g, [x, z, y])), None),
        Arith::PRelu => {
            let zero = b.scalar(x, 0.0);
            let is_below = b.apply(Compare::Less, &[x, zero]);
            let dx = of_x.then(|| {
                let scaled = b.mul(g, z);
                b.select(is_below, scaled, g)
            });
            let dz = of_z.then(|| {
                let scaled = b.mul(g, x);
                b.masked(is_below, scaled)
            });
            (dx, dz)
        }
        _ => return Err(no_vjp(&op, "")),
    };
    Ok(vec![
        dx.filter(|_| of_x).map(|it| b.sum_to(it, x)),
        dz.filter(|_| of_z).map(|it| b.sum_to(it, z)),
    ])
}

/// `g p x^(p - 1)`, in simpler words where the exponent is a common number.
fn power(b: &mut Emitter, g: Value, [x, p, y]: [Value; 3]) -> Value {
    let number = b.tensor(p).and_then(|it| match &*it.to_f32().ok()? {
        [it] => Some(f64::from(*it)),
        _ => None,
    });
    let number = number.or_else(|| match *b.tensor(p)?.to_i64().ok()? {
        [it] => Some(it as f64),
        _ => None,
    });
    match number {
        Some(1.0) => g,
        Some(2.0) => {
            let twice = b.scale(x, 2.0);
            b.mul(g, twice)
        }
        Some(0.5) => {
            let twice = b.scale(y, 2.0);
            b.div(g, twice)
        }
        Some(number) => {
            let less = b.scalar(x, number - 1.0);
            let power = b.apply(Arith::Pow, &[x, less]);
            let slope = b.scale(power, number);
            b.mul(g, slope)
        }
        None => {
            let p = match (b.ty(x).dtype(), b.ty(p).dtype()) {
                (Some(to), from) if from != Some(to) => {
                    b.apply(Cast { to, rounding: Rounding::default() }, &[p])
                }
                _ => p,
            };
            let less = b.shift(p, -1.0);
            let power = b.apply(Arith::Pow, &[x, less]);
            let slope = b.mul(power, p);
            b.mul(g, slope)
        }
    }
}

/// Sum `g`, Mean `g / n`; Max and Min `g` to the first operand that is the result.
pub(super) fn variadic(
    op: Variadic,
    b: &mut Emitter,
    io: &Io<'_>,
    dy: &[Option<Value>],
) -> Adjoints {
    let (mut g, y, []) = args(&op, io, dy)?;
    if op == Variadic::Mean {
        g = b.scale(g, 1.0 / io.inputs.len() as f64);
    }
    let is_extreme = matches!(op, Variadic::Max | Variadic::Min);
    // Where one of the operands so far is the result.
    let mut is_taken: Option<Value> = None;
    let mut adjoints = Vec::new();
    for at in 0..io.inputs.len() {
        let Some(x) = io.input(at) else { return Err(no_vjp(&op, "an operand is absent")) };
        let mut dx = g;
        if is_extreme {
            let is_own = b.apply(Compare::Equal, &[x, y]);
            let is_first = match is_taken {
                None => is_own,
                Some(taken) => {
                    let is_free = b.apply(Predicate::Not, &[taken]);
                    b.apply(Compare::And, &[is_own, is_free])
                }
            };
            is_taken = Some(match is_taken {
                None => is_own,
                Some(taken) => b.apply(Compare::Or, &[is_own, taken]),
            });
            dx = b.masked(is_first, g);
        }
        adjoints.push(io.wants(at).then(|| b.sum_to(dx, x)));
    }
    Ok(adjoints)
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_vjp, spread, values};

    use super::*;

    #[test]
    fn gradients_match_central_differences() {
        for op in [Arith::Add, Arith::Sub, Arith::Mul, Arith::Div, Arith::PRelu] {
            for [x, z] in [
                [&[3, 5][..], &[3, 5][..]],
                [&[2, 3, 5], &[5]],
                [&[3, 1], &[2, 1, 5]],
                [&[1], &[3]],
                [&[2, 3], &[]],
            ] {
                check_vjp(&op, &[values(x), spread(z)], 1);
            }
        }
    }

    #[test]
    fn powers() {
        use qcc_tensor::Tensor;
        for p in [1.0, 2.0, 0.5, 3.0, -1.5] {
            check_vjp(&Arith::Pow, &[spread(&[3, 5]), Tensor::scalar(p).into()], 1);
        }
        check_vjp(&Arith::Pow, &[values(&[3, 5]), Tensor::scalar(3i64).into()], 1);
    }

    #[test]
    fn of_many_operands() {
        for op in [Variadic::Sum, Variadic::Mean, Variadic::Max, Variadic::Min] {
            check_vjp(&op, &[values(&[2, 3, 5]), spread(&[3, 1]), values(&[5])], 1);
            check_vjp(&op, &[values(&[4])], 1);
        }
    }
}
